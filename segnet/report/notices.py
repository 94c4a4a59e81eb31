"""What a reader must know before the numbers: flags, missing predictions, leaks, and the checks that found nothing."""

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
"""So many names are told of a finding."""
ALL = "all lesions"
"""What a flag of the evaluation begins with where it is of all lesions, see `segnet.evaluation.summary.consistency`."""


@dataclass(frozen=True)
class Notice:
    """One line; `kind` is "warning" or "passed"."""

    kind: str
    text: str


def notices(
    documents: Mapping[str, Document],
    originals: Mapping[str, Document],
    runs: Mapping[str, Run],
) -> list[Notice]:
    """Warnings first, then what was checked and found in order.

    Parameters
    ----------
    documents : what the report shows, on the common cases
    originals : the evaluations as they were read
    runs : training runs of models, where given
    """
    warnings, passed = _case_sets(documents, originals)
    for name, document in documents.items():
        said, fine = _of_model(name, document, originals[name])
        warnings += said
        passed += fine
        if name in runs:
            said, fine = _leaks(name, document, runs[name])
            warnings += said
            passed += fine
        else:
            warnings.append(
                f"{name}: no training run was given, so whether evaluated lesions were trained on was not checked."
            )
    return [Notice("warning", w) for w in warnings] + [Notice("passed", p) for p in passed]


def unlike(drawn: Mapping[str, LesionPictures]) -> list[Notice]:
    """Warnings of masks that are not those that were scored, and so are not drawn; `drawn` by case."""
    cases: dict[str, list[str]] = {}
    for case, pictures in drawn.items():
        for name in pictures.unlike:
            cases.setdefault(name, []).append(case)
    return [
        Notice(
            "warning",
            f"{name}: masks of {count(len(found), 'lesion')} have another Dice than those that were scored, so they are not drawn:"
            f" {few(found, FEW)}. Name the folder of the scored masks and that of their truths.",
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
        f"The models were evaluated on different lesions. Everything here is on the {count(len(shown), 'lesion')} they share, computed"
        f" anew from the rows of each evaluation; {told}. Numbers that rows do not hold (pooled, the paper's convention, the baseline,"
        " calibration, the challenge's score) are left out where an evaluation had other lesions too."
    ], []


def _of_model(name: str, document: Document, original: Document) -> tuple[list[str], list[str]]:
    warnings, passed = [], []
    c = document.consistency
    if any(flag.startswith(f"{ALL}:") for flag in c.flags):
        pass  # said among the flags
    elif c.dice_and_iou_agree is False:
        bounds = "" if c.iou_bounds is None else f" [{fixed(c.iou_bounds[0], 4)}, {fixed(c.iou_bounds[1], 4)}]"
        warnings.append(f"{name}: the mean IoU lies outside of what the mean Dice allows{bounds}.")
    elif c.dice_and_iou_agree:
        passed.append(f"{name}: mean Dice and mean IoU can hold together.")
    else:
        warnings.append(f"{name}: whether Dice and IoU can hold together could not be checked; a mean is missing.")
    warnings += [f"{name}: {flag}." for flag in c.flags]
    missing = document.missing_predictions
    if missing:
        warnings.append(f"{name}: {count(len(missing), 'prediction')} missing, counted as empty: {few(missing, FEW)}.")
    else:
        passed.append(f"{name}: every lesion has a prediction.")
    warnings += [
        f"{name}: a file of {e.get('case')} could not be used: {e.get('reason')}." for e in document.unreadable[:FEW]
    ]
    if len(document.unreadable) > FEW:
        warnings.append(f"{name}: {count(len(document.unreadable) - FEW, 'more file')} could not be used.")
    warnings += [f"{name}, the challenge's score: {told}." for told in _of_clicks(document.uls23 or {})]
    unmatched = original.unmatched_predictions
    if unmatched:
        warnings.append(
            f"{name}: {count(len(unmatched), 'prediction')} without a truth, not scored: {few(unmatched, FEW)}."
        )
    dice = document.summary.get("dice")
    if dice is None or dice.mean is None:
        warnings.append(f"{name}: no lesion has a Dice.")
    elif dice.n_left_out:
        warnings.append(f"{name}: {count(dice.n_left_out, 'lesion')} without a Dice, both masks empty, left out.")
    if dice is not None and dice.mean is not None and dice.ci95_lo is None:
        warnings.append(f"{name}: too few patients for an interval.")
    return warnings, passed


def _of_clicks(uls23: Mapping[str, Any]) -> list[str]:
    """What of the lesions could not be clicked on."""
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


def _leaks(name: str, document: Document, run: Run) -> tuple[list[str], list[str]]:
    if "train" not in run.split:
        return [f"{name}: its run has no split, so whether evaluated lesions were trained on was not checked."], []
    warnings = []
    told = document.provenance.get("patient_regex")
    regex = told if isinstance(told, str) else None
    patients = {row.patient for row in document.lesions if row.patient}
    for part, verb in (("train", "trained on"), ("val", "chosen by")):
        cases = set(run.split.get(part, []))
        seen = [row.case for row in document.lesions if row.case in cases]
        if seen:
            what = "slices of " if run.by_slice else ""
            why = " Its run was split by slice, so its scores say nothing about new patients." if run.by_slice else ""
            warnings.append(f"{name}: {what}{count(len(seen), 'evaluated lesion')} were {verb}: {few(seen, FEW)}.{why}")
            continue
        shared = sorted(patients & {_patient(case, regex) for case in cases})
        if shared:
            warnings.append(
                f"{name}: of {count(len(shared), 'patient')} other lesions were {verb}: {few(shared, FEW)}."
            )
    if not warnings and (why := _patients_unknown(document, run, regex)):
        warnings.append(
            f"{name}: none of these lesions is in its training or validation part, but whether other lesions of their patients are"
            f" could not be checked: {why}."
        )
    if warnings:
        return warnings, []
    return [], [f"{name}: none of these lesions or their patients is in its training or validation part."]


def _patients_unknown(document: Document, run: Run, regex: str | None) -> str:
    """Why a run's patients cannot be told by the rule that told the evaluation's, empty where they can."""
    rows = document.lesions
    elsewhere = [row.case for row in rows if row.patient != _patient(row.case, regex)]
    if elsewhere:
        return f"the evaluation's patients are not those that the names of cases tell ({few(elsewhere, FEW)})"
    if regex is None:
        untold = [row.case for row in rows if row.patient == row.case]
        return (
            f"the names of cases tell no patient ({few(untold, FEW)}); evaluate with a patient regex" if untold else ""
        )
    untold = [case for part in ("train", "val") for case in run.split.get(part, []) if not _patient(case, regex)]
    return f"{regex!r}, which told the evaluation's patients, tells none of {few(untold, FEW)}" if untold else ""


def _patient(case: str, regex: str | None) -> str:
    """The patient by the rule of the evaluation, empty where it tells none."""
    try:
        return patient_id(case, regex)
    except InputError:
        return ""
