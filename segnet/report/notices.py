"""Remarks that stand before the numbers: flags, missing predictions, leaks, and checks that found nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segnet.errors import InputError
from segnet.evaluation.sources import few
from segnet.io.pairs import patient_id
from segnet.report.documents import Document, Run
from segnet.report.numbers import count, fixed

if TYPE_CHECKING:
    from segnet.report.pictures import LesionPictures

FEW = 8
"""The most names given in a remark."""
ALL = "all lesions"
"""Prefix of an evaluation's flag on all lesions, see `segnet.evaluation.summary.consistency`."""


@dataclass(frozen=True)
class Notice:
    """One line. `kind` is "warning" or "passed"."""

    kind: str
    text: str


def notices(
    documents: Mapping[str, Document], originals: Mapping[str, Document], runs: Mapping[str, Run]
) -> list[Notice]:
    """Warnings first, then the checks that passed.

    Parameters
    ----------
    documents : evaluations on the common cases, as shown
    originals : evaluations as read
    runs : training runs of models, where given
    """
    warnings, passed = _case_sets(documents, originals)
    for name, document in documents.items():
        warned, fine = _of_model(document, originals[name])
        if name in runs:
            leaks = _leaks(document, runs[name])
            warned += leaks
            if not leaks:
                fine.append("none of these lesions or their patients is in its training or validation part")
        else:
            warned.append("no training run was given, so whether evaluated lesions were trained on was not checked")
        warnings += [f"{name}: {text}." for text in warned]
        passed += [f"{name}: {text}." for text in fine]
    return [Notice("warning", w) for w in warnings] + [Notice("passed", p) for p in passed]


def unlike(drawn: Mapping[str, LesionPictures]) -> list[Notice]:
    """Warnings on masks that are not drawn because they are not the scored ones; `drawn` by case."""
    cases: dict[str, list[str]] = {}
    for case, pictures in drawn.items():
        for name in pictures.unlike:
            cases.setdefault(name, []).append(case)
    return [
        Notice(
            "warning",
            f"{name}: masks of {count(len(found), 'lesion')} have another Dice than the scored ones, so they are not drawn:"
            f" {few(found, FEW)}. Name the folder of the scored masks and the folder of their truths.",
        )
        for name, found in cases.items()
    ]


def _case_sets(documents: Mapping[str, Document], originals: Mapping[str, Document]) -> tuple[list[str], list[str]]:
    shown = {row.case for row in next(iter(documents.values())).lesions}
    left_out = {n: [r.case for r in d.lesions if r.case not in shown] for n, d in originals.items()}
    if not any(left_out.values()):
        several = len(documents) > 1
        return [], [f"{len(documents)} models, evaluated on the same {count(len(shown), 'lesion')}."] if several else []
    told = "; ".join(f"{n} also has {count(len(c), 'other')}: {few(c, FEW)}" for n, c in left_out.items() if c)
    return [
        f"The models were evaluated on different lesions. All numbers here are of the {count(len(shown), 'lesion')} they share, recomputed"
        f" from the rows of each evaluation; {told}. Numbers that rows do not hold (pooled, the paper's convention, the baseline,"
        " calibration, the challenge's score) are left out where an evaluation had other lesions too."
    ], []


def _of_model(document: Document, original: Document) -> tuple[list[str], list[str]]:
    """Warnings and passed checks of one model, without its name and full stop."""
    warnings: list[str] = []
    passed: list[str] = []
    c = document.consistency
    if not any(flag.startswith(f"{ALL}:") for flag in c.flags):
        if c.dice_and_iou_agree is None:
            warnings.append("whether Dice and IoU can hold together could not be checked; a mean is missing")
        elif c.dice_and_iou_agree:
            passed.append("mean Dice and mean IoU can hold together")
        else:
            bounds = "" if c.iou_bounds is None else f" [{fixed(c.iou_bounds[0], 4)}, {fixed(c.iou_bounds[1], 4)}]"
            warnings.append(f"the mean IoU lies outside the bounds that the mean Dice allows{bounds}")
    warnings += c.flags
    missing = document.missing_predictions
    if missing:
        warnings.append(f"{count(len(missing), 'prediction')} missing, counted as empty: {few(missing, FEW)}")
    else:
        passed.append("every lesion has a prediction")
    bad = document.unreadable
    warnings += [f"a file of {e.get('case')} could not be used: {e.get('reason')}" for e in bad[:FEW]]
    if len(bad) > FEW:
        warnings.append(f"{count(len(bad) - FEW, 'more file')} could not be used")
    warnings += [f"the challenge's score: {told}" for told in _of_clicks(document.uls23 or {})]
    unmatched = original.unmatched_predictions
    if unmatched:
        warnings.append(f"{count(len(unmatched), 'prediction')} without a truth, not scored: {few(unmatched, FEW)}")
    dice = document.summary.get("dice")
    if dice is None or dice.mean is None:
        warnings.append("no lesion has a Dice")
        return warnings, passed
    if dice.n_left_out:
        warnings.append(f"{count(dice.n_left_out, 'lesion')} without a Dice, both masks empty, left out")
    if dice.ci95_lo is None:
        warnings.append("too few patients for an interval")
    return warnings, passed


def _of_clicks(uls23: Mapping[str, Any]) -> list[str]:
    """Lesions that could not be clicked on."""
    told = []
    left_out, unreadable = uls23.get("n_left_out"), uls23.get("unreadable")
    if isinstance(left_out, int) and left_out:
        told.append(f"{count(left_out, 'truth')} without lesion left out")
    if isinstance(unreadable, list) and unreadable:
        cases = [str(entry.get("case")) for entry in unreadable if isinstance(entry, Mapping)]
        told.append(
            f"{count(len(unreadable), 'image')} could not be used and counted as nothing found: {few(cases, FEW)}"
        )
    return told


def _leaks(document: Document, run: Run) -> list[str]:
    """Warnings on evaluated lesions and patients in training, or on checks that could not be made."""
    if "train" not in run.split:
        return ["its run has no split, so whether evaluated lesions were trained on was not checked"]
    warnings = []
    told = document.provenance.get("patient_regex")
    regex = told if isinstance(told, str) else None
    patients = {row.patient for row in document.lesions if row.patient}
    of_slices, why = "", ""
    if run.by_slice:
        of_slices = "slices of "
        why = ". Its run was split by slice, so its scores carry no information on new patients"
    for part, verb in (("train", "trained on"), ("val", "chosen by")):
        cases = set(run.split.get(part, []))
        seen = [row.case for row in document.lesions if row.case in cases]
        shared = sorted(patients & {_patient(case, regex) for case in cases})
        if seen:
            warnings.append(f"{of_slices}{count(len(seen), 'evaluated lesion')} were {verb}: {few(seen, FEW)}{why}")
        elif shared:
            warnings.append(f"other lesions of {count(len(shared), 'patient')} were {verb}: {few(shared, FEW)}")
    if not warnings and (unknown := _patients_unknown(document, run, regex)):
        warnings.append(
            "none of these lesions is in its training or validation part, but whether other lesions of their patients are"
            f" could not be checked: {unknown}"
        )
    return warnings


def _patients_unknown(document: Document, run: Run, regex: str | None) -> str:
    """The reason why a run's patients cannot be found by the evaluation's rule, empty where they can."""
    rows = document.lesions
    elsewhere = [row.case for row in rows if row.patient != _patient(row.case, regex)]
    if elsewhere:
        return f"the evaluation's patients are not the ones in the names of cases ({few(elsewhere, FEW)})"
    if regex is None:
        untold = [row.case for row in rows if row.patient == row.case]
        return (
            f"the names of cases hold no patient ({few(untold, FEW)}); evaluate with --patient-regex" if untold else ""
        )
    untold = [case for part in ("train", "val") for case in run.split.get(part, []) if not _patient(case, regex)]
    return f"{regex!r}, the rule of the evaluation, finds no patient in {few(untold, FEW)}" if untold else ""


def _patient(case: str, regex: str | None) -> str:
    """The patient by the rule of the evaluation, empty where it finds none."""
    try:
        return patient_id(case, regex)
    except InputError:
        return ""
