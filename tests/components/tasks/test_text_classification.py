import numpy as np

from components.params import Parity
from components.tasks import text_classification as task

PARITY = Parity(
    batch_sizes=[1, 3],
    rows=6,
    max_export_difference=1e-3,
    min_export_agreement=1.0,
    min_build_agreement=0.9,
    max_build_kl=0.1,
)


def rows() -> dict[str, np.ndarray]:
    lengths = np.array([3, 8, 5])
    mask = (np.arange(8) < lengths[:, None]).astype(np.int64)
    return {"input_ids": np.where(mask, np.arange(1, 25).reshape(3, 8), 0), "attention_mask": mask}


def test_the_grid_has_every_padding_that_shows_a_lost_mask() -> None:
    cases = {case.where: case.inputs for case in task.grid(rows(), PARITY)}
    left = cases["batch 3, length 8, left padding"]
    assert left["attention_mask"].tolist() == [[0] * 5 + [1] * 3, [1] * 8, [0] * 3 + [1] * 5]
    assert [row[row > 0].tolist() for row in left["input_ids"]] == [
        row[row > 0].tolist() for row in rows()["input_ids"]
    ]
    holes = cases["batch 3, length 8, holes in the mask"]
    inside = [np.flatnonzero(row) for row in holes["attention_mask"]]
    assert any(np.diff(found).max(initial=1) > 1 for found in inside), "a row whose mask is no run of ones"
    assert (holes["attention_mask"][:, 0] == 1).all() and (holes["input_ids"] == rows()["input_ids"]).all()
    assert {where.split(",")[0] for where in cases} == {"batch 1", "batch 3"}
    assert cases["batch 3, length 2"]["input_ids"].shape == (3, 2)


def test_suspects_are_the_two_ways_to_lose_a_mask(text_spec) -> None:
    ignored, lengths = task.suspects(text_spec)
    mask = np.array([[1, 0, 1, 0]])
    assert ignored.change({"attention_mask": mask}, ())["attention_mask"].tolist() == [[1, 1, 1, 1]]
    assert lengths.change({"attention_mask": mask}, ())["attention_mask"].tolist() == [[1, 1, 0, 0]]
