"""What a report reads, and how it refuses the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segnet.errors import InputError
from segnet.report.documents import common_cases, read_bench, read_comparison, read_evaluation, read_run, restrict
from segnet.report.numbers import fixed, span


def write(folder: Path, document: Any) -> Path:
    (folder / "evaluation.json").write_text(json.dumps(document))
    return folder


def test_an_evaluation_is_read_whole(material: Any, document: Any) -> None:
    found = read_evaluation(material.evaluations["first"])
    assert len(found.lesions) == 10
    assert found.summary["dice"].mean == document["summary"]["dice"]["mean"]
    assert found.lesions[3].number("hd95_mm") is None  # infinite, predicted empty
    assert found.lesions[3].number("dice") == 0.0
    assert read_evaluation(material.evaluations["first"] / "evaluation.json") == found


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"format": "segnet-evaluate/1"},
            r"expected format segnet-evaluate/2, got 'segnet-evaluate/1'.*evaluate. again",
        ),
        ({"lesions": []}, "at least one lesion, got none"),
        ({"lesions": [{"dice": 1.0}]}, r"got Field required at lesions.0.case"),
        ({"lesions": [{"case": "a"}, {"case": "a"}]}, "each case once, got 'a' twice"),
        ({"summary": {"dice": {"mean": "high"}}}, r"at summary.dice.mean"),
    ],
)
def test_other_documents_are_refused(tmp_path: Path, document: Any, change: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        read_evaluation(write(tmp_path, {**document, **change}))


def test_missing_files_and_no_json(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"evaluation: expected a readable file, got FileNotFoundError"):
        read_evaluation(tmp_path / "nowhere")
    (tmp_path / "evaluation.json").write_text("{")
    with pytest.raises(InputError, match="expected JSON"):
        read_evaluation(tmp_path)
    with pytest.raises(InputError, match=r"a run's folder with log.jsonl"):
        read_run(tmp_path)
    for read in (read_bench, read_comparison):
        (tmp_path / "other.json").write_text("[]")
        with pytest.raises(InputError, match="write it with"):
            read(tmp_path / "other.json")


def test_a_run_is_split_into_steps_and_validations(tmp_path: Path) -> None:
    rows = [{"step": 1, "loss": 2.0, "elapsed_s": 1.0}, {"step": 1, "val_dice": 0.5, "elapsed_s": 2.0}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows) + '{"step": 2, "lo')
    (tmp_path / "split.json").write_text(json.dumps({"train": ["a"], "test": ["b"]}))
    run = read_run(tmp_path)
    assert (run.steps, run.validations) == ([rows[0]], [rows[1]])
    assert run.split == {"train": ["a"], "test": ["b"]}
    assert not run.by_slice


def test_a_split_of_slices_keeps_its_cases(tmp_path: Path) -> None:
    (tmp_path / "split.json").write_text(json.dumps({"train": {"a": [0, 2], "b": [1]}, "test": {"a": [1]}}))
    run = read_run(tmp_path)
    assert (run.split, run.by_slice) == ({"train": ["a", "b"], "test": ["a"]}, True)
    (tmp_path / "split.json").write_text(json.dumps({"train": 3}))
    with pytest.raises(InputError, match="expected cases in train, got int"):
        read_run(tmp_path)


def test_restricted_to_all_is_the_same_and_to_some_is_computed_anew(material: Any) -> None:
    found = read_evaluation(material.evaluations["first"])
    cases = [row.case for row in found.lesions]
    assert restrict(found, cases) is found
    some = restrict(found, cases[:4])
    values = [row.number("dice") for row in found.lesions[:4]]
    assert some.summary["dice"].mean == pytest.approx(np.mean(values), rel=1e-15)
    assert some.summary["dice"].median == pytest.approx(np.median(values), rel=1e-15)
    assert (some.summary["dice"].n_lesions, some.summary["hd95_mm"].n_left_out) == (4, 1)
    assert (some.paper_convention, some.uls23, some.pooled, some.all_background_baseline) == (None, None, {}, None)
    assert sum(s["dice"].n_lesions or 0 for s in some.by_size.values()) == 4
    # restricting reproduces what the evaluation itself computes from the same rows
    whole = restrict(
        found.model_copy(update={"lesions": [*found.lesions, found.lesions[0].model_copy(update={"case": "x"})]}), cases
    )
    for name, score in found.summary.items():
        for key, value in score.model_dump().items():
            expected = pytest.approx(value, rel=1e-12) if isinstance(value, float) else value
            assert whole.summary[name].model_dump()[key] == expected, (name, key)


def test_what_the_auc_is_of_is_told_of_the_rows_that_are_left(material: Any) -> None:
    found = read_evaluation(material.evaluations["first"])
    rows = [
        r.model_copy(update={"auc_source": s})
        for r, s in zip(found.lesions, ["mask", *["probability"] * 9], strict=True)
    ]
    mixed = {
        k: v.model_copy(update={"source": "mixed"}) if k.startswith("auc") else v for k, v in found.summary.items()
    }
    document = found.model_copy(update={"lesions": rows, "summary": mixed})
    assert restrict(document, [rows[0].case]).summary["auc"].source == "mask"
    assert restrict(document, [r.case for r in rows[1:4]]).summary["auc_box"].source == "probability"
    assert restrict(document, [r.case for r in rows[:4]]).summary["auc"].source == "mixed"
    assert restrict(document, [rows[1].case]).summary["dice"].source == "mask"


def test_common_cases(material: Any) -> None:
    found = read_evaluation(material.evaluations["first"])
    other = found.model_copy(update={"lesions": found.lesions[2:5][::-1]})
    assert common_cases({"a": found, "b": other}) == [row.case for row in found.lesions[2:5]]
    apart = found.model_copy(update={"lesions": [found.lesions[0].model_copy(update={"case": "elsewhere"})]})
    with pytest.raises(InputError, match="cases that a, b share, got none"):
        common_cases({"a": found, "b": apart})


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.0625, 3, "0.063"),
        (2.5, 0, "3"),
        (-0.5, 0, "−1"),
        (-0.0001, 2, "0.00"),
        (1e6, 1, "1000000.0"),
        (3, 1, "3.0"),
        (-1e26, 3, "−1.000e+26"),
    ],
)
def test_numbers_round_half_away(value: float, digits: int, text: str) -> None:
    assert fixed(value, digits) == text


def test_what_is_no_number_is_a_dash() -> None:
    for value in (None, float("nan"), float("inf"), "0.5", True):
        assert fixed(value, 2) == "–"
    assert span(0.1, None, 2) == "–"
    assert span(0.1, 0.25, 1) == "0.1 to 0.3"
