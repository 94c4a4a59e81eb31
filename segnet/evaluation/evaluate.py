"""Predicted masks against true masks: pairing by case, scores per lesion, summary with conventions.

One truth file is one lesion. Scores are three-dimensional, of the foreground, averaged over lesions (macro); intervals draw patients.
A lesion with two empty masks has no score. A lesion with one empty mask has infinite distances, which are left out of the mean and
counted. `segnet.evaluation.conventions` lists all conventions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from segnet import __version__
from segnet.dataset.store import PreparedDataset
from segnet.errors import InputError
from segnet.evaluation.conventions import CONVENTIONS, SIZE_CLASSES
from segnet.evaluation.result import Evaluation
from segnet.evaluation.rows import CaseResult, LesionRow, score_case
from segnet.evaluation.sources import Truth, few, find_truths, images_of, match, require_text
from segnet.evaluation.summary import (
    Summary,
    Totals,
    calibration,
    consistency,
    grouped,
    paper_convention,
    pooled,
    summarise,
)
from segnet.io.names import nfc
from segnet.io.pairs import Pair
from segnet.metrics import all_background_baseline

__all__ = ["Evaluation", "LesionRow", "Summary", "evaluate", "truths_of"]

Truths = Path | str | PreparedDataset | Sequence[Pair]


def truths_of(
    truths: Truths,
    *,
    patient_regex: str | None = None,
    cases: Collection[str] | None = None,
    images: Path | str | None = None,
) -> list[Truth]:
    """The true masks that `evaluate` scores against, in order of case; Parameters and Raises as there."""
    return _limited(find_truths(truths, patient_regex), cases, images)


def _limited(source: list[Truth], cases: Collection[str] | None, images: Path | str | None) -> list[Truth]:
    """The truths of some cases, with images from a folder."""
    if cases is not None:
        cases = {nfc(case) for case in cases}
        unknown = sorted(cases - {t.case for t in source})
        if unknown:
            raise InputError(
                f"cases: expected names among the truths, got {few(unknown)}; "
                f"the truths hold {few([t.case for t in source])}"
            )
        source = [t for t in source if t.case in cases]
    if images is not None:
        found = images_of(Path(images), [t.case for t in source])
        source = [replace(t, image=found.get(t.case, t.image)) for t in source]
    return source


def evaluate(
    predictions: Path | str,
    truths: Truths,
    *,
    patient_regex: str | None = None,
    missing: Literal["zero", "error"] = "zero",
    cases: Collection[str] | None = None,
    images: Path | str | None = None,
    model: str | None = None,
    part: str | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Scores predicted masks against true masks. Each worker holds one case in memory.

    Parameters
    ----------
    predictions : a folder of `<case>.nii.gz`, also with `_mask`, `_seg`, `_pred` and the like after the case, or one file.
        `<case>_probability.nii.gz` beside a mask is used for AUC and calibration
    truths : a folder of masks named likewise; a folder of image and mask pairs; a folder written by `segnet prepare`, or its
        `PreparedDataset`; pairs from `find_pairs`; or one file, for one prediction file
    patient_regex : its first group, found in the case's name, is the patient; default: the built-in rules
    missing : a truth without prediction counts as an empty prediction (Dice 0), or is an error
    cases : limit to these cases, such as the test part of a split
    images : folder of images named after the cases, for HU inside the masks, if `truths` has none
    model, part : noted in the provenance
    workers : processes
    progress : called as progress(done, total) after each lesion

    Returns
    -------
    Evaluation, rows in order of case. A prediction that is unreadable or lies on another grid counts as an empty one; `unreadable`
    lists it with the reason.

    Raises
    ------
    InputError
        Nothing can be paired, two files claim one case, a file's name is not UTF-8, no prediction is usable, a truth is unreadable, a
        name in `cases` is not among the truths, `workers` is below 1, or a prediction is missing under ``missing="error"``.
    """
    if missing not in ("zero", "error"):
        raise InputError(f"missing: expected zero or error, got {missing!r}; zero counts a missing prediction as empty")
    if workers < 1:
        raise InputError(f"workers: expected at least 1, got {workers}; 1 scores in this process")
    require_text("model", [model or ""])
    root = truths.root if isinstance(truths, PreparedDataset) else truths
    source = find_truths(truths, patient_regex)
    matched, unmatched = match(Path(predictions), source, single=isinstance(root, str | Path) and Path(root).is_file())
    source = _limited(source, cases, images)
    matched = {t.case: matched[t.case] for t in source if t.case in matched}
    absent = [t.case for t in source if t.case not in matched]
    if not matched:
        raise InputError(
            f"predictions: expected files named after the cases {few([t.case for t in source])}, "
            f"got {few(unmatched)} in {predictions}; name each prediction <case>.nii.gz"
        )
    if absent and missing == "error":
        raise InputError(
            f"predictions: expected one for each of {len(source)} truths, got none for {few(absent)}; "
            'predict them, or count them as empty with missing="zero"'
        )
    rows: list[LesionRow] = []
    held: list[NDArray[Any]] = []
    unreadable: list[tuple[str, str]] = []
    totals = Totals()
    for done, result in enumerate(_scored(source, matched, workers), start=1):
        rows.append(result.row)
        held.append(result.holds.reshape(-1, 1, 1))
        unreadable += [(result.row.case, reason) for reason in result.reasons]
        totals.add(result)
        if progress is not None:
            progress(done, len(source))
    if all(row.status != "scored" for row in rows):
        bad = {row.case for row in rows if row.status == "unreadable"}
        raise InputError(next(reason for case, reason in unreadable if case in bad))
    summary, together = summarise(rows), pooled(totals, rows)
    by_set, by_size = grouped(rows, "set"), grouped(rows, "size_class", SIZE_CLASSES)
    groups = {"all lesions": summary, "pooled": together}
    groups |= {f"set {name or '(none)'}": group for name, group in by_set.items()}
    groups |= {f"size {name}": group for name, group in by_size.items()}
    return Evaluation(
        rows=tuple(rows),
        summary=summary,
        pooled=together,
        by_set=by_set,
        by_size=by_size,
        baseline=all_background_baseline(held),
        consistency=consistency(groups),
        paper_convention=paper_convention(totals, summary["auc"].source),
        missing=tuple(row.case for row in rows if row.status != "scored"),
        unreadable=tuple(unreadable),
        unmatched_predictions=tuple(unmatched),
        calibration=calibration(totals),
        provenance={
            "segnet": __version__,
            "predictions": str(Path(predictions).resolve()),
            "truths": str(Path(root).resolve()) if isinstance(root, str | Path) else f"{len(root)} pairs",
            "patient_regex": patient_regex,
            "model": model,
            "part": part,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        },
        conventions=CONVENTIONS,
    )


def _scored(source: Sequence[Truth], matched: dict[str, Path], workers: int) -> Iterator[CaseResult]:
    files = [matched.get(truth.case) for truth in source]
    if workers == 1:
        yield from map(score_case, source, files)
        return
    with ProcessPoolExecutor(min(workers, len(source)), mp_context=get_context("spawn")) as pool:
        yield from pool.map(score_case, source, files)
