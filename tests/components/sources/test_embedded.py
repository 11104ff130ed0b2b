import subprocess
import sys

from components.params import Embedded
from components.sources import embedded

DIGITS = Embedded(kind="embedded", dataset="digits")


def test_digits_are_1797_images_with_named_classes() -> None:
    table = embedded.read(DIGITS).read_all()
    assert table.column_names == [*(f"pixel_{i}" for i in range(64)), "target"]
    assert len(table) == 1797 and set(table["target"].to_pylist()) == set("0123456789")
    assert table["pixel_2"][0].as_py() == 5.0 and table["target"][0].as_py() == "0"


def test_observing_is_light_and_names_library_and_bytes() -> None:
    code = (
        "import sys; from components.sources import SOURCES; from components.params import Embedded;"
        "print(sorted(SOURCES['embedded'].observe(Embedded(kind='embedded', dataset='digits'), None)[0]));"
        "assert not {'pyarrow', 'sklearn', 'numpy', 'pandas'} & set(sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert told.stdout.strip() == "['dataset', 'kind', 'library', 'sha256', 'version']", told.stderr
