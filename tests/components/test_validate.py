"""Every rule is broken once, on data of 2x2 pixels."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components import batches as batching
from components import quarantine, validate
from components.errors import DataError, ParamsError
from components.hashing import sha256_tree
from components.params import Expectation, ImageClassification, ImageColumns, Validate

KEYED = ImageColumns(image="p*", label="label", key="id")
PLAIN = ImageColumns(image="p*", label="label", key=None)


def task(columns: ImageColumns = PLAIN, classes: list[str] | None = None) -> ImageClassification:
    return ImageClassification(
        kind="image_classification", columns=columns, shape=[2, 2], range=[0.0, 255.0], classes=classes or ["a", "b"]
    )


def rules(*expectations: Expectation, min_rows: int = 5, quarantined: float = 0.2, duplicate: float = 0.2) -> Validate:
    return Validate(
        min_rows=min_rows,
        max_quarantined_share=quarantined,
        max_duplicate_share=duplicate,
        expectations=list(expectations),
    )


def good(rows: int = 20) -> dict[str, list]:
    return {
        "p0": [float(i) for i in range(rows)],
        "p1": [1.0] * rows,
        "p2": [2.0] * rows,
        "p3": [3.0] * rows,
        "label": ["a", "b"] * (rows // 2),
    }


def run(tmp_path: Path, columns: object, task_=None, rules_=None) -> tuple[dict, Path]:
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir(exist_ok=True), out.mkdir(exist_ok=True)
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), raw / "data.parquet")
    return validate.run(task_ or task(), rules_ or rules(), raw, out), out


def refused(tmp_path: Path, columns: object, task_=None, rules_=None) -> str:
    with pytest.raises(DataError) as caught:
        run(tmp_path, columns, task_, rules_)
    out = tmp_path / "out"
    assert not (out / "data.parquet").exists(), "refused data must not look valid"
    assert json.loads((out / "report.json").read_text())["refused"]
    assert f"{out}/docs/index.html" in str(caught.value)
    assert (out / "docs/index.html").exists() and (out / "quarantine.parquet").exists()
    return str(caught.value)


def aside(out: Path) -> dict[int, str]:
    table = pq.read_table(out / "quarantine.parquet")
    return dict(zip(table["row"].to_pylist(), table["reason"].to_pylist(), strict=True))


def test_good_data_pass_whole(tmp_path: Path) -> None:
    metrics, out = run(tmp_path, good())
    assert metrics["kept"] == metrics["rows"] == 20 and metrics["broken_rules"] == 0
    assert pq.read_table(out / "data.parquet").to_pydict() == good()
    assert aside(out) == {}


def test_two_runs_leave_the_same_bytes(tmp_path: Path) -> None:
    data = good()
    data["p1"][3] = float("inf")
    trees = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        trees.append(sha256_tree(run(tmp_path / name, data)[1]))
    assert trees[0] == trees[1]


@pytest.mark.hardening("E25", "a value missing, NaN, infinite, out of range, a label unknown or missing")
@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("p1", None, "pixels are missing"),
        ("p1", float("nan"), "pixels are NaN or infinite"),
        ("p1", float("inf"), "pixels are NaN or infinite"),
        ("p1", -1.0, "outside task.range (image_min is -1.0)"),
        ("p1", 256.0, "outside task.range (image_max is 256.0)"),
        ("label", None, "the label is missing"),
        ("label", "c", "not one of task.classes (label is 'c')"),
    ],
)
def test_a_bad_row_is_set_aside_with_its_reason(tmp_path: Path, column: str, value: object, reason: str) -> None:
    data = good()
    data[column][7] = value
    metrics, out = run(tmp_path, data)
    assert list(aside(out)) == [7] and reason in aside(out)[7]
    assert metrics["quarantined"] == 1
    assert pq.read_table(out / "data.parquet")["p0"].to_pylist() == [float(i) for i in range(20) if i != 7]


def test_a_row_has_every_reason(tmp_path: Path) -> None:
    data = good()
    data["p1"][7], data["p2"][7], data["label"][7] = None, 300.0, "x"
    _, out = run(tmp_path, data)
    assert aside(out)[7].count("; ") == 2
    assert pq.read_table(out / "quarantine.parquet")["rule"][0].as_py().count("expect_") == 3


@pytest.mark.hardening("E25", "mixed types in a column")
def test_one_word_among_numbers_costs_one_row_and_a_column_of_words_the_run(tmp_path: Path) -> None:
    data = good()
    data["p1"] = ["1.0"] * 19 + ["one"]
    assert aside(run(tmp_path, data)[1]) == {19: "pixels are not numbers (image_text is 1)"}
    data["p1"] = ["one"] * 20
    assert "expect_column_values_to_be_in_set(image_kind)" in (said := refused(tmp_path, data)) and "column p1" in said


def test_copies_after_the_first_and_all_that_disagree_are_set_aside(tmp_path: Path) -> None:
    data = good()
    data["p0"][10] = data["p0"][2]  # row 10 repeats row 2, both are "a"
    data["p0"][11] = data["p0"][4]  # row 11 is "b", row 4 is "a"
    metrics, out = run(tmp_path, data)
    assert set(aside(out)) == {10, 4, 11} and metrics["duplicate_share"] * 20 == 3
    assert "same label" in aside(out)[10] and "different label" in aside(out)[4]
    assert "max_duplicate_share" in refused(tmp_path, data, rules_=rules(duplicate=0.1))


@pytest.mark.hardening("E25", "ids that stand twice")
def test_equal_keys_are_set_aside_unless_the_rows_are_equal(tmp_path: Path) -> None:
    data = {**good(), "id": list(range(20))}
    data["id"][6] = 5
    data["id"][9] = None
    _, out = run(tmp_path, data, task(KEYED))
    assert set(aside(out)) == {5, 6, 9}


@pytest.mark.hardening("E25", "columns missing, extra, renamed, all null, of another type; one class; few rows")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.pop("p2"), "found 4"),
        (lambda d: d.update(p4=d["p0"]), "found 6"),
        (lambda d: d.update(note=["x"] * 20), "column 'note'"),
        (lambda d: d.update(Label=d.pop("label")), "a column is missing or renamed"),
        (lambda d: d.update(p0=[b"x"] * 20), "pixels must be numbers"),
        (lambda d: d.update(label=[[1]] * 20), "labels, keys and splits must be text or whole numbers"),
        (lambda d: d.update(p0=[None] * 20), "the column has no value at all; 1 found: column p0: 1.0"),
        (lambda d: d.update(p0=[float("nan")] * 20), "the column has no value at all"),
        (lambda d: d.update(label=[None] * 20), "the column has no value at all"),
        (lambda d: d.update(label=["a"] * 20), "at least two classes"),
        (lambda d: [d.update({name: column[:4]}) for name, column in d.items()], "validate.min_rows); found 4"),
        (lambda d: [d.update({name: column[:0]}) for name, column in d.items()], "validate.min_rows); found 0"),
    ],
)
def test_severe_breaches_stop_the_run(tmp_path: Path, change, said: str) -> None:
    data = good()
    change(data)
    assert said in refused(tmp_path, data)


def test_all_severe_breaches_are_told_at_once(tmp_path: Path) -> None:
    data = {name: column[:4] for name, column in good().items()}
    data["note"] = ["x"] * 4
    data["label"] = ["z"] * 4
    said = refused(tmp_path, data)
    for part in ("'note'", "min_rows", "at least two classes", "max_quarantined_share", "row 0: 'z', row 1: 'z'"):
        assert part in said


def test_more_than_the_share_stops_with_count_and_examples(tmp_path: Path) -> None:
    data = good()
    data["p1"][:8] = [300.0] * 8
    said = refused(tmp_path, data)
    assert "8 of 20 rows (40.0%) break rules, 20.0% may" in said
    assert "row 4: 300.0" in said and "row 5: 300.0" not in said, "five examples"


@pytest.mark.parametrize("labels", [[3, 4], [3.0, 4.0], ["3", "4"]])
def test_labels_may_be_text_or_numbers(tmp_path: Path, labels: list) -> None:
    metrics, _ = run(tmp_path, {**good(), "label": labels * 10}, task(classes=["3", "4"]))
    assert metrics["kept"] == 20


def test_images_may_be_lists_and_one_of_a_wrong_size_is_set_aside(tmp_path: Path) -> None:
    columns = ImageColumns(image="image", label="label", key=None)
    flat = pa.table({"image": [[float(i), 1.0, 2.0, 3.0] for i in range(20)], "label": ["a", "b"] * 10})
    assert run(tmp_path, flat, task(columns))[0]["kept"] == 20
    nested = [[[float(i), 1.0], [2.0, 3.0]] for i in range(18)] + [[[1.0], [2.0, 3.0]], None]
    _, out = run(tmp_path, pa.table({"image": nested, "label": ["a", "b"] * 10}), task(columns))
    assert set(aside(out)) == {18, 19} and "must have 4 values" in aside(out)[18]


def test_the_users_rules_run_on_the_features(tmp_path: Path) -> None:
    bright = Expectation(
        expect="expect_column_values_to_be_between",
        severity="quarantine",
        arguments={"column": "image_max", "max_value": 18},
    )
    mean = Expectation(
        expect="expect_column_mean_to_be_between", severity="stop", arguments={"column": "image_mean", "max_value": 0.5}
    )
    _, out = run(tmp_path, good(), rules_=rules(bright))
    assert set(aside(out)) == {19}
    assert "expect_column_mean_to_be_between(image_mean)" in refused(tmp_path, good(), rules_=rules(bright, mean))


def test_mistakes_in_the_users_rules_are_told_at_once_before_the_data_are_read(tmp_path: Path) -> None:
    wrong = [
        Expectation(expect="expect_column_values_to_be_betwen", severity="stop", arguments={}),
        Expectation(
            expect="expect_column_values_to_be_between", severity="stop", arguments={"column": "label", "min_valu": 1}
        ),
        Expectation(expect="expect_column_values_to_be_between", severity="stop", arguments={"max_value": 1}),
        Expectation(
            expect="expect_column_mean_to_be_between",
            severity="quarantine",
            arguments={"column": "image_mean", "max_value": 1},
        ),
        Expectation(
            expect="expect_column_values_to_not_be_null",
            severity="stop",
            arguments={"column": "label", "row_condition": "@__import__('os')", "condition_parser": "pandas"},
        ),
    ]
    with pytest.raises(ParamsError) as caught:
        validate.run(task(), rules(*wrong), tmp_path / "absent", tmp_path)
    said = "\n".join(caught.value.errors)
    for part in (
        "expectations.0.expect",
        "did you mean expect_column_values_to_be_between",
        "expectations.1.arguments.min_valu",
        "did you mean min_value",
        "expectations.2.arguments.column",
        "expectations.3.severity",
        "expectations.4.arguments.row_condition",
    ):
        assert part in said


def test_a_rule_on_a_column_that_is_not_there(tmp_path: Path) -> None:
    rule = Expectation(expect="expect_column_values_to_not_be_null", severity="stop", arguments={"column": "image_men"})
    with pytest.raises(ParamsError, match="did you mean image_mean or"):
        run(tmp_path, good(), rules_=rules(rule))


def test_a_rule_that_cannot_be_computed_stops_the_run(tmp_path: Path) -> None:
    rule = Expectation(
        expect="expect_column_values_to_match_regex",
        severity="quarantine",
        arguments={"column": "label", "regex": "("},
    )
    assert "could not be computed: Invalid regular expression" in refused(tmp_path, good(), rules_=rules(rule))


@pytest.mark.hardening("E29", "script and handlers as labels: Data Docs")
def test_markup_in_the_data_stays_text_and_no_page_loads_anything(tmp_path: Path) -> None:
    data = good()
    data["label"][3] = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    data["label"][4] = "$x ${y} https://example.org 00000000-0000-0000-0000-000000000000"
    _, out = run(tmp_path, data)
    pages = {path.name: path.read_text() for path in (out / "docs").iterdir()}
    assert set(pages) == {"index.html", "columns.html", "rows.html"}
    for page in pages.values():
        assert "<script" not in page and "<img" not in page and "<link" not in page
        assert 'src="http' not in page and 'href="http' not in page and "default-src 'none'" in page
    assert "&lt;script&gt;alert(1)" in pages["rows.html"]
    assert "&#36;{y} https://example.org 00000000-0000-0000-0000-000000000000" in pages["rows.html"]
    assert "Traceback" not in "".join(pages.values())


SPLIT = ImageColumns(image="p*", label="label", key=None, split="part")


@pytest.mark.hardening("E26", "the same row in two declared splits")
def test_of_rows_in_two_splits_the_one_held_out_stands(tmp_path: Path) -> None:
    data = {**good(), "part": ["train"] * 10 + ["test"] * 10}
    data["p0"][12] = data["p0"][2]  # the same label: only the training row goes
    data["p0"][13] = data["p0"][4]  # another label: likewise
    data["p0"][15] = data["p0"][13 + 4]  # within the test split, later copies go as ever
    metrics, out = run(tmp_path, data, task(SPLIT))
    assert set(aside(out)) == {2, 4, 17} and metrics["duplicate_share"] * 20 == 3
    assert "held out from this one" in aside(out)[2] and "held out from this one" in aside(out)[4]
    assert "same label" in aside(out)[17]


def test_a_split_that_is_missing_or_unknown_is_set_aside(tmp_path: Path) -> None:
    data = {**good(), "part": ["train"] * 18 + [None, "dev"]}
    told = aside(run(tmp_path, data, task(SPLIT))[1])
    assert "the split is missing" in told[18] and "the split is not one of" in told[19] and len(told) == 2
    data.pop("part")
    assert "split 'part'" in refused(tmp_path, data, task(SPLIT))


def test_of_very_many_bad_rows_the_first_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validate, "STOPPED_ROWS", 6)
    monkeypatch.setattr(quarantine, "STOPPED_ROWS", 6)
    data = good()
    data["p1"] = [1.0] * 3 + [300.0] * 17
    said = refused(tmp_path, data)
    assert "17 of 20 rows (85.0%)" in said and "the rows, the first 6 of 17:" in said
    assert list(aside(tmp_path / "out")) == [3, 4, 5, 6, 7, 8]


def test_what_is_found_does_not_depend_on_the_size_of_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 1200
    data = {**good(rows), "id": [str(i) for i in range(rows)]}
    data["p0"], data["p1"] = [float(i % 250) for i in range(rows)], [float(i // 250) for i in range(rows)]
    for i in range(0, rows, 7):
        data["p1"][i] = 300.0 + i
    data["label"][300], data["label"][301] = None, "x"
    for name in ("p0", "p1", "label"):
        data[name][900] = data[name][20]
    data["id"][901] = "11"
    several = Expectation(
        expect="expect_multicolumn_sum_to_equal",
        severity="quarantine",
        arguments={"column_list": ["earlier_copies", "image_nulls"], "sum_total": 0},
    )
    unique = Expectation(expect="expect_column_values_to_be_unique", severity="quarantine", arguments={"column": "key"})
    trees = []
    for bytes_ in (1, 4 << 20):  # 256 rows at least
        monkeypatch.setattr(batching, "BATCH_BYTES", bytes_)
        (tmp_path / str(bytes_)).mkdir()
        out = run(tmp_path / str(bytes_), data, task(KEYED), rules(several, unique, quarantined=1.0, duplicate=1.0))[1]
        trees.append((aside(out), (out / "report.json").read_text(), pq.read_table(out / "data.parquet")))
    assert trees[0] == trees[1] and 170 < len(trees[0][0]) < 200
    assert {0, 300, 301, 11, 900, 901} <= set(trees[0][0])
    assert "earlier_copies, image_nulls is [1, 0]" in trees[0][0][900]
