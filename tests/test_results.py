"""docs/results.md is what benchmarks/preset_results.py makes of the matrices that it keeps."""

import importlib.util
from pathlib import Path


def test_the_page_of_results_is_made_from_the_kept_matrices(root: Path) -> None:
    spec = importlib.util.spec_from_file_location("preset_results", root / "benchmarks/preset_results.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text("utf-8") == module.page()
