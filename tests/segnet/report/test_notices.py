"""Warnings come first, and say what is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from segnet.report.documents import Consistency, Document, Run, read_evaluation, restrict
from segnet.report.notices import notices


def warnings(
    documents: dict[str, Document], runs: dict[str, Run], originals: dict[str, Document] | None = None
) -> list[str]:
    return [n.text for n in notices(documents, originals or documents, runs) if n.kind == "warning"]


@pytest.fixture
def first(material: Any) -> Document:
    return read_evaluation(material.evaluations["first"])


def clean(document: Document) -> Run:
    return Run(split={"train": ["bone_99999_lesion_01"], "val": [], "test": [row.case for row in document.lesions]})


def test_nothing_wrong_is_said_as_checked(first: Document) -> None:
    told = notices({"a": first}, {"a": first}, {"a": clean(first)})
    assert {n.kind for n in told} == {"passed"}
    assert any("training or validation part" in n.text for n in told)
    assert any("Dice and mean IoU can hold together" in n.text for n in told)


def test_without_a_run_leaks_are_not_silently_passed(first: Document) -> None:
    assert any("was not checked" in w for w in warnings({"a": first}, {}))


def test_lesions_that_were_trained_on_are_told(first: Document) -> None:
    run = Run(split={"train": [first.lesions[0].case], "val": [first.lesions[1].case]})
    told = warnings({"a": first}, {"a": run})
    assert any("1 evaluated lesion" in w and "trained on" in w and first.lesions[0].case in w for w in told)
    assert any("chosen by" in w and first.lesions[1].case in w for w in told)


def test_another_lesion_of_the_same_patient_is_a_leak_too(first: Document) -> None:
    patient = first.lesions[0].patient
    told = warnings({"a": first}, {"a": Run(split={"train": [f"{patient}_lesion_02"]})})
    assert any(patient in w and "patient" in w for w in told)


def named_by(first: Document, cases: dict[str, str], regex: str | None) -> Document:
    """An evaluation of some cases with their patients."""
    rows = [
        row.model_copy(update={"case": case, "patient": patient})
        for row, (case, patient) in zip(first.lesions, cases.items(), strict=False)
    ]
    return first.model_copy(update={"lesions": rows, "provenance": {"patient_regex": regex}})


def test_a_runs_patients_are_told_by_the_rule_of_the_evaluation(first: Document) -> None:
    found = named_by(first, {"p1-a": "p1", "p2-a": "p2"}, r"(.+)-")
    told = warnings({"a": found}, {"a": Run(split={"train": ["p1-c", "p2-b"], "val": []})})
    assert any("other lesions of 2 patients were trained on: p1, p2" in w for w in told)
    apart = notices({"a": found}, {"a": found}, {"a": Run(split={"train": ["p3-c"], "val": []})})
    assert any(n.kind == "passed" and "training or validation part" in n.text for n in apart)


@pytest.mark.parametrize(
    ("cases", "regex", "train", "why"),
    [
        ({"p1-a": "p1"}, None, ["p1-c"], "not the ones in the names of cases (p1-a)"),
        ({"p1-a": "p1-a"}, None, ["p1-c"], "hold no patient (p1-a)"),
        ({"p1-a": "p1"}, r"(.+)-", ["q"], "finds no patient in q"),
    ],
)
def test_patients_that_no_rule_tells_are_never_passed(
    first: Document, cases: dict[str, str], regex: str | None, train: list[str], why: str
) -> None:
    found = named_by(first, cases, regex)
    told = notices({"a": found}, {"a": found}, {"a": Run(split={"train": train, "val": []})})
    assert [n.kind for n in told if "training or validation part" in n.text] == ["warning"]
    assert any(why in n.text for n in told)


def test_a_run_split_by_slice_trained_on_these_lesions(first: Document) -> None:
    cases = [row.case for row in first.lesions]
    told = warnings({"a": first}, {"a": Run(split={"train": cases, "val": cases, "test": cases}, by_slice=True)})
    assert any("slices of 10 evaluated lesions were trained on" in w and "split by slice" in w for w in told)
    assert any("has no split" in w for w in warnings({"a": first}, {"a": Run(split={"test": cases})}))


def test_flags_missing_and_unreadable(first: Document) -> None:
    bad = first.model_copy(
        update={
            "consistency": Consistency(
                dice_and_iou_agree=False, iou_bounds=(0.5, 0.6), flags=["pooled: IoU is outside"]
            ),
            "missing_predictions": ["x"],
            "unreadable": [{"case": "y", "reason": "damaged"}],
            "unmatched_predictions": ["z.nii.gz"],
        }
    )
    told = " ".join(warnings({"a": bad}, {"a": clean(first)}))
    for part in (
        "[0.5000, 0.6000]",
        "pooled: IoU is outside",
        "1 prediction missing",
        "y could not be used: damaged",
        "z.nii.gz",
    ):
        assert part in told


def test_one_finding_is_said_once(first: Document) -> None:
    flag = "all lesions: IoU 0.1000 is outside of [0.5000, 0.6000], which Dice 0.6000 allows"
    found = Consistency(dice_and_iou_agree=False, iou_bounds=(0.5, 0.6), flags=[flag])
    told = warnings({"a": first.model_copy(update={"consistency": found})}, {"a": clean(first)})
    assert told == [f"a: {flag}."]


def test_what_the_challenges_score_lacks_is_told(first: Document) -> None:
    uls23 = {"score": 0.5, "n_left_out": 2, "unreadable": [{"case": "bone_00001_lesion_01", "reason": "damaged"}]}
    told = warnings({"a": first.model_copy(update={"uls23": uls23})}, {"a": clean(first)})
    assert any("2 truths without lesion left out" in w for w in told)
    assert any("1 image could not be used and counted as nothing found: bone_00001" in w for w in told)


def test_different_cases_are_named(first: Document) -> None:
    some = restrict(first, [row.case for row in first.lesions[:7]])
    told = warnings({"a": some, "b": some}, {"a": clean(first), "b": clean(first)}, {"a": first, "b": some})
    assert any("7 lesions they share" in w and "a also has 3 others" in w and first.lesions[8].case in w for w in told)
    assert not any("b also has" in w for w in told)
