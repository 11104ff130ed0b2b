"""Cells of the matrix: what became of each, and doing one after the other so that one fault costs one cell."""

from __future__ import annotations

import json
import logging
import shutil
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from components import ending
from components.disk import disk_fault
from components.errors import NotMeasured, Refused
from components.redaction import without_secrets

log = logging.getLogger(__name__)

Status = Literal["ok", "refused", "not measured", "failed"]


@dataclass(frozen=True)
class Record:
    """What one stage has to say of one cell; record.json in the cell's folder."""

    status: Status
    reason: str = ""  # why it is not ok: one line for the matrix
    figures: dict[str, Any] = field(default_factory=dict)
    detail: str = ""  # the traceback of a failure
    inputs: str = ""  # fingerprint of what the cell was made from

    def write(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "record.json").write_text(json.dumps(asdict(self), indent=2, sort_keys=True) + "\n", "utf-8")

    @classmethod
    def read(cls, directory: Path) -> Record:
        return cls(**json.loads((directory / "record.json").read_text("utf-8")))


# Faults of the machine, not of a cell: they end the stage uncached, so that the next run tries again.
MACHINE_FAULTS = (MemoryError, OSError, KeyboardInterrupt, SystemExit)


def each(
    targets: Iterable[str],
    work: Callable[[str, Path], dict[str, Any]],
    inputs: Callable[[str], str],
    out: Path,
    previous: Path | None,
) -> dict[str, Record]:
    """Run `work(target, folder) -> figures` for every target; `folder` is out/<target>, made empty.

    Refused and NotMeasured become records with their reason, any other exception the record `failed`
    with its cause. A cell of `previous` that did not fail and has the same `inputs(target)`
    (hashing.fingerprint_cell) is taken over, so that a retry does only what failed.
    """
    records = {}
    for target in targets:
        folder, made_from = out / target, inputs(target)
        if previous and (previous / target / "record.json").exists():
            record = Record.read(previous / target)
            if record.status != "failed" and record.inputs == made_from:
                log.info("%s: kept from the run before", target)
                shutil.copytree(previous / target, folder, dirs_exist_ok=True)
                records[target] = record
                continue
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            record = Record("ok", figures=work(target, folder), inputs=made_from)
        except Refused as error:
            record = Record("refused", str(error), figures=error.figures, inputs=made_from)
        except NotMeasured as error:
            record = Record("not measured", str(error), inputs=made_from)
        except MACHINE_FAULTS:
            raise
        except Exception as error:
            ending.check()
            if full := disk_fault(error, folder):  # of a library that raises no OSError
                raise full from error
            reason = f"{type(error).__name__}: {' '.join(without_secrets(str(error)).split())[:300]}"
            record = Record("failed", reason, detail=without_secrets(traceback.format_exc()), inputs=made_from)
        if record.status != "ok":
            log.warning("%s: %s: %s", target, record.status, record.reason)
            shutil.rmtree(folder)  # what is half made or refused must not be taken for a result
        record.write(folder)
        records[target] = record
    return records


def spread(record: Record, targets: Iterable[str], out: Path) -> dict[str, Record]:
    """Give every target the same record: what they would all be made from is not ok."""
    for target in targets:
        shutil.rmtree(out / target, ignore_errors=True)
        record.write(out / target)
    return dict.fromkeys(targets, record)


def numbers(records: Mapping[str, Record]) -> dict[str, Any]:
    """The numbers among the figures of all cells that are ok, nested as they are: a stage's metrics."""

    def only(figures: Mapping[str, Any]) -> dict[str, Any]:
        nested = {name: only(value) if isinstance(value, Mapping) else value for name, value in figures.items()}
        return {name: value for name, value in nested.items() if isinstance(value, int | float | dict)}

    return {target: only(record.figures) for target, record in records.items() if record.status == "ok"}
