"""Predicted masks against truth masks: pairing by case, scores per lesion, summary with its conventions.

The conventions: one truth file is one lesion; scores are three-dimensional, of the foreground, averaged over
lesions (macro), with intervals that draw patients. A lesion whose two masks are empty has no Dice and is left
out. Distances are infinite where one mask alone is empty: such lesions are left out of the mean distance, and
their number is printed beside it.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segnet.data.pairs import Pair, find_pairs, patient_id
from segnet.data.volumes import Volume, read_mask
from segnet.errors import InputError
from segnet.metrics import (
    Baseline,
    SliceScores,
    all_background_baseline,
    axis_error,
    bootstrap_ci,
    check_consistency,
    iou_bounds,
    paper_slice_scores,
    recist_axes_mm,
    score_lesion,
)
from segnet.report.table import format_table

GRID_TOLERANCE_MM = 1e-3
_IMAGE_SUFFIXES = ("_ct", "_image", "_img", "_0000")
_MASK_SUFFIXES = ("_mask", "_label", "_labels", "_seg", "_pred", "_prediction")
_PREPARED_FORMAT = "segnet-prepare/1"


@dataclass(frozen=True)
class LesionRow:
    """Scores of one lesion.

    `status` is "scored", or "missing" where no prediction was found and an empty one stood in. Overlap and
    distances as in `segnet.metrics.score_lesion`, axes as in `segnet.metrics.recist_axes_mm`.
    """

    case: str
    patient: str
    status: str
    dice: float
    iou: float
    ravd: float
    asd_mm: float
    assd_mm: float
    hd_mm: float
    hd95_mm: float
    pred_volume_ml: float
    truth_volume_ml: float
    pred_long_mm: float
    pred_short_mm: float
    truth_long_mm: float
    truth_short_mm: float
    long_axis_error: float
    short_axis_error: float


@dataclass(frozen=True)
class Summary:
    """Mean of one score over lesions, its interval over patients, and every convention it was made under.

    `mean` is None where no lesion has a finite value, the bounds where fewer than two patients have one.
    `n_left_out` counts the lesions without a finite value.
    """

    mean: float | None
    ci95_lo: float | None
    ci95_hi: float | None
    n_lesions: int
    n_patients: int
    n_left_out: int
    level: str
    empty: str
    reduction: str
    classes: str
    units: str


@dataclass(frozen=True)
class Evaluation:
    """All rows, their summary, and what stands beside it so that the numbers cannot flatter."""

    rows: tuple[LesionRow, ...]
    summary: dict[str, Summary]
    baseline: Baseline
    consistent: bool | None
    iou_bounds: tuple[float, float] | None
    paper_convention: dict[str, Any]
    missing: tuple[str, ...] = ()
    unmatched_predictions: tuple[str, ...] = ()
    conventions: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """Strict JSON: what is not finite (a distance to an empty mask, a skipped Dice) is null."""
        baseline = {
            "lesion": {
                "dice": self.baseline.lesion_dice,
                "level": "lesion volume",
                "empty": "skip",
                "reduction": "macro",
                "classes": "foreground",
                "units": "1",
                "n": self.baseline.n_lesions,
            },
            "slice": {
                "dice": self.baseline.slice_dice,
                "level": "slice",
                "empty": "one",
                "reduction": "macro",
                "classes": "foreground",
                "units": "1",
                "n": self.baseline.n_slices,
            },
        }
        document = {
            "format": "segnet-evaluate/1",
            "conventions": self.conventions,
            "summary": {name: asdict(s) for name, s in self.summary.items()},
            "consistency": {"dice_and_iou_agree": self.consistent, "iou_bounds": self.iou_bounds},
            "all_background_baseline": baseline,
            "paper_convention": self.paper_convention,
            "missing_predictions": self.missing,
            "unmatched_predictions": self.unmatched_predictions,
            "lesions": [asdict(r) for r in self.rows],
        }
        return json.dumps(_finite(document), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def to_csv(self) -> str:
        """One line per lesion under a heading; a skipped Dice is empty, an infinite distance ``inf``."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        names = [f.name for f in fields(LesionRow)]
        writer.writerow(names)
        for row in self.rows:
            values = [getattr(row, n) for n in names]
            writer.writerow(["" if isinstance(v, float) and math.isnan(v) else v for v in values])
        return text.getvalue()

    def to_table(self) -> str:
        """Plain text for a terminal: lesions, summary, baseline, warnings."""
        lesions = format_table(
            [asdict(r) for r in self.rows],
            {
                "case": "case",
                "patient": "patient",
                "dice": "Dice",
                "iou": "IoU",
                "assd_mm": "ASSD mm",
                "hd95_mm": "HD95 mm",
                "pred_volume_ml": "ml",
                "truth_volume_ml": "true ml",
                "pred_long_mm": "long mm",
                "truth_long_mm": "true",
                "pred_short_mm": "short mm",
                "truth_short_mm": "true",
                "status": "status",
            },
        )
        summary = format_table(
            [{"score": name, "ci": _interval(s), **asdict(s)} for name, s in self.summary.items()],
            {
                "score": "score",
                "mean": "mean",
                "ci": "95 % interval",
                "n_lesions": "lesions",
                "n_patients": "patients",
                "n_left_out": "left out",
                "level": "level",
                "empty": "empty",
                "reduction": "reduction",
                "classes": "classes",
                "units": "units",
            },
        )
        return "\n".join([lesions, "", summary, "", *self._remarks()]) + "\n"

    def _remarks(self) -> list[str]:
        paper = self.paper_convention
        lines = [
            f"all background instead: Dice {_text(self.baseline.lesion_dice)} (level lesion volume, "
            f"empty skip), {_text(self.baseline.slice_dice)} (level slice, empty one)",
            f"paper's convention: Dice {_text(paper['dice'])}, IoU {_text(paper['iou'])} (level slice, "
            f"empty one, {paper['n_slices']} slices), ASD {_text(paper['asd_px'])} px, "
            f"MHD {_text(paper['mhd_px'])} px (directed, prediction to truth)",
        ]
        if self.consistent is False and self.iou_bounds is not None:
            lo, hi = self.iou_bounds
            lines.append(f"WARNING: mean IoU is outside of [{lo:.4f}, {hi:.4f}], which the mean Dice allows")
        if self.missing:
            lines.append(f"missing predictions, counted as empty: {_few(self.missing, 20)}")
        if self.unmatched_predictions:
            lines.append(f"predictions without a truth, not scored: {_few(self.unmatched_predictions, 20)}")
        return lines


@dataclass(frozen=True)
class _Grid:
    """A mask on its grid: bool (Z, Y, X), affine of the canonical (X, Y, Z) volume, mm of (Z, Y, X)."""

    mask: NDArray[np.bool_]
    affine: NDArray[np.float64]
    spacing_zyx_mm: tuple[float, float, float]


@dataclass(frozen=True)
class _Truth:
    case: str
    patient: str
    load: Callable[[], _Grid]


def evaluate(
    predictions: Path | str,
    truths: Path | str | Sequence[Pair],
    *,
    patient_regex: str | None = None,
    missing: Literal["zero", "error"] = "zero",
    cases: Collection[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Score predicted masks against truth masks.

    Parameters
    ----------
    predictions : a folder of `<case>.nii.gz` (also with `_mask`, `_seg`, `_pred` … after the case), or one
        file
    truths : a folder of masks named likewise; a folder of image and mask pairs; a folder written by `segnet
        prepare`; pairs as `find_pairs` returns them; or one file, for one prediction file
    patient_regex : its first group, found in the case's name, is the patient; else the built-in rules
    missing : whether a truth without prediction counts as an empty prediction (Dice 0) or is an error
    cases : limit to these cases, such as the test part of a split
    progress : called as progress(done, total) after each lesion

    Returns
    -------
    Evaluation, rows in order of case.

    Raises
    ------
    InputError
        If nothing can be paired, two files claim one case, grids differ, a file is unreadable, a name in
        `cases` is not among the truths, or a prediction is missing under ``missing="error"``.
    """
    if missing not in ("zero", "error"):
        raise InputError(f"missing: expected zero or error, got {missing!r}; zero counts a missing prediction as empty")
    source = _find_truths(truths, patient_regex)
    matched, unmatched = _match(Path(predictions), source, single=_is_file(truths))
    if cases is not None:
        unknown = sorted(set(cases) - {t.case for t in source})
        if unknown:
            raise InputError(
                f"cases: expected names among the truths, got {_few(unknown)}; "
                f"the truths hold {_few([t.case for t in source])}"
            )
        source = [t for t in source if t.case in set(cases)]
        matched = {case: path for case, path in matched.items() if case in set(cases)}
    absent = tuple(t.case for t in source if t.case not in matched)
    if not matched:
        raise InputError(
            f"predictions: expected files named after the cases {_few([t.case for t in source])}, "
            f"got {_few(unmatched)} in {predictions}; name each prediction <case>.nii.gz"
        )
    if absent and missing == "error":
        raise InputError(
            f"predictions: expected one for each of {len(source)} truths, got none for {_few(absent)}; "
            'predict them, or count them as empty with missing="zero"'
        )
    rows, slices, held = [], [], []
    for done, truth in enumerate(source, start=1):
        row, paper, holds = _score(truth, matched.get(truth.case))
        rows.append(row)
        slices.append(paper)
        held.append(holds)
        if progress is not None:
            progress(done, len(source))
    return _evaluation(rows, slices, all_background_baseline(held), absent, unmatched)


def _score(truth: _Truth, prediction: Path | None) -> tuple[LesionRow, SliceScores, NDArray[np.bool_]]:
    """Row, the paper's slice scores, and (Z, 1, 1) of whether each slice of the truth holds lesion."""
    grid = truth.load()
    if prediction is None:
        pred = np.zeros_like(grid.mask)
    else:
        found = _grid(read_mask(prediction))
        _same_grid(found, grid, prediction, truth.case)
        pred = found.mask
    spacing = grid.spacing_zyx_mm
    pred_long, pred_short = recist_axes_mm(pred, spacing)
    true_long, true_short = recist_axes_mm(grid.mask, spacing)
    row = LesionRow(
        case=truth.case,
        patient=truth.patient,
        status="missing" if prediction is None else "scored",
        **asdict(score_lesion(pred, grid.mask, spacing)),
        pred_long_mm=pred_long,
        pred_short_mm=pred_short,
        truth_long_mm=true_long,
        truth_short_mm=true_short,
        long_axis_error=axis_error(pred_long, true_long),
        short_axis_error=axis_error(pred_short, true_short),
    )
    return row, paper_slice_scores(pred, grid.mask), grid.mask.any(axis=(1, 2)).reshape(-1, 1, 1)


def _evaluation(
    rows: list[LesionRow],
    slices: list[SliceScores],
    baseline: Baseline,
    absent: tuple[str, ...],
    unmatched: list[str],
) -> Evaluation:
    empty = {
        "dice": "skip",
        "iou": "skip",
        "ravd": "both 0, truth only: left out",
        "long_axis_error": "both 0",
        "short_axis_error": "both 0",
    }
    units = {"assd_mm": "mm", "hd95_mm": "mm"}
    summary = {
        name: _summarise(rows, name, empty=empty.get(name, "both 0, one only: left out"), units=units.get(name, "1"))
        for name in ("dice", "iou", "ravd", "assd_mm", "hd95_mm", "long_axis_error", "short_axis_error")
    }
    mean_dice, mean_iou = summary["dice"].mean, summary["iou"].mean
    known = mean_dice is not None and mean_iou is not None
    return Evaluation(
        rows=tuple(rows),
        summary=summary,
        baseline=baseline,
        consistent=check_consistency(mean_dice, mean_iou) if mean_dice is not None and mean_iou is not None else None,
        iou_bounds=iou_bounds(mean_dice) if known and mean_dice is not None else None,
        paper_convention=_paper_convention(slices),
        missing=absent,
        unmatched_predictions=tuple(unmatched),
        conventions={
            "level": "lesion volume: one truth file is one lesion, scored in three dimensions",
            "empty": "skip: a lesion whose two masks are empty has no Dice or IoU; one empty mask scores 0",
            "reduction": "macro: mean over lesions; intervals draw patients with replacement",
            "classes": "foreground",
            "units": "1 for ratios, mm for distances and axes, ml for volumes",
            "distances": "symmetric, of surface voxels; infinite where one mask is empty: left out, counted",
            "missing": "a missing prediction counts as an empty one",
        },
    )


def _summarise(rows: list[LesionRow], name: str, *, empty: str, units: str) -> Summary:
    values: dict[str, list[float]] = {}
    for row in rows:
        value = getattr(row, name)
        if math.isfinite(value):
            values.setdefault(row.patient, []).append(value)
    n = sum(map(len, values.values()))
    mean, lo, hi = bootstrap_ci(values) if n else (math.nan, math.nan, math.nan)
    return Summary(
        mean=_none(mean),
        ci95_lo=_none(lo),
        ci95_hi=_none(hi),
        n_lesions=n,
        n_patients=len(values),
        n_left_out=len(rows) - n,
        level="lesion volume",
        empty=empty,
        reduction="macro",
        classes="foreground",
        units=units,
    )


def _paper_convention(slices: list[SliceScores]) -> dict[str, Any]:
    pooled = {f.name: [v for s in slices for v in getattr(s, f.name)] for f in fields(SliceScores)}
    means = {name: float(np.mean(v)) if v else None for name, v in pooled.items()}
    consistent = None
    if means["dice"] is not None and means["iou"] is not None:
        consistent = check_consistency(means["dice"], means["iou"])
    return {
        "level": "slice",
        "empty": "one",
        "reduction": "macro",
        "classes": "foreground",
        "units": "1, distances in px",
        "distances": "directed, prediction to truth, over mask points; slices where either is empty left out",
        "ravd_empty": "slices without lesion left out",
        **means,
        "auc": None,
        "n_slices": len(pooled["dice"]),
        "n_slices_ravd": len(pooled["ravd"]),
        "n_slices_distances": len(pooled["asd_px"]),
        "dice_and_iou_agree": consistent,
    }


def _find_truths(truths: Path | str | Sequence[Pair], patient_regex: str | None) -> list[_Truth]:
    """The truths in order of case, each case once."""
    found = _truths_at(Path(truths), patient_regex) if isinstance(truths, (str, Path)) else _from_pairs(truths)
    found.sort(key=lambda t: t.case)
    twice = sorted(case for case, n in Counter(t.case for t in found).items() if n > 1)
    if twice:
        raise InputError(f"truths: expected each case once, got {_few(twice)} more than once; rename the files")
    if not found:
        raise InputError(f"truths: expected at least one truth mask, got none in {truths}; see `evaluate` for layouts")
    return found


def _from_pairs(pairs: Sequence[Pair]) -> list[_Truth]:
    return [_Truth(p.case, p.patient, _mask_loader(Path(p.mask))) for p in pairs]


def _truths_at(root: Path, patient_regex: str | None) -> list[_Truth]:
    if not root.exists():
        raise InputError(f"truths: expected a file or folder, got {root}, which does not exist; check the path")
    if (root / "dataset.json").is_file():
        return _from_prepared(root, patient_regex)
    masks = [root] if root.is_file() else _nifti_files(root)
    with_images = any(_stem(p).lower().endswith(_IMAGE_SUFFIXES) for p in masks) and not root.is_file()
    if with_images or not masks:
        return _from_pairs(find_pairs(root, patient_regex=patient_regex).pairs)
    names = [(_strip(_stem(p), _MASK_SUFFIXES), p) for p in masks]
    return [_Truth(case, patient_id(case, patient_regex), _mask_loader(p)) for case, p in names]


def _from_prepared(root: Path, patient_regex: str | None) -> list[_Truth]:
    try:
        dataset = json.loads((root / "dataset.json").read_text(encoding="utf-8"))
        if dataset["format"] != _PREPARED_FORMAT:
            raise InputError(
                f"truths: expected format {_PREPARED_FORMAT} in {root / 'dataset.json'}, "
                f"got {dataset['format']!r}; prepare the data again"
            )
        return [
            _Truth(
                c["case"],
                c["patient"] if patient_regex is None else patient_id(c["case"], patient_regex),
                _prepared_loader(root / c["file"], c["case"]),
            )
            for c in dataset["cases"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"truths: expected the dataset.json that `segnet prepare` writes, got {root / 'dataset.json'}, "
            f"which cannot be used ({error!r}); prepare the data again"
        ) from error


def _prepared_loader(path: Path, case: str) -> Callable[[], _Grid]:
    def load() -> _Grid:
        import h5py

        try:
            with h5py.File(path, "r") as file:
                group = file[case]
                z, y, x = (float(s) for s in group.attrs["spacing_zyx_mm"])
                return _Grid(
                    np.asarray(group["mask"]).astype(bool),
                    np.asarray(group.attrs["affine"], np.float64),
                    (z, y, x),
                )
        except (OSError, KeyError, ValueError) as error:
            raise InputError(f"truths: expected case {case} in {path}, got {error}; prepare the data again") from error

    return load


def _mask_loader(path: Path) -> Callable[[], _Grid]:
    return lambda: _grid(read_mask(path))


def _grid(volume: Volume) -> _Grid:
    x, y, z = (float(s) for s in volume.spacing_mm)
    mask = np.ascontiguousarray(np.asarray(volume.array).transpose(2, 1, 0)).astype(bool)
    return _Grid(mask, np.asarray(volume.affine, dtype=np.float64), (z, y, x))


def _same_grid(pred: _Grid, truth: _Grid, path: Path, case: str) -> None:
    if pred.mask.shape != truth.mask.shape:
        raise InputError(
            f"{path}: expected shape {truth.mask.shape[::-1]} like the truth of {case}, "
            f"got {pred.mask.shape[::-1]}; resample the prediction onto the truth's grid"
        )
    corners = np.array([[x, y, z, 1.0] for z in (0, 1) for y in (0, 1) for x in (0, 1)])
    corners[:, :3] *= np.array(truth.mask.shape[::-1]) - 1
    offset_mm = float(np.abs(corners @ (pred.affine - truth.affine).T).max())
    if not offset_mm <= GRID_TOLERANCE_MM:
        raise InputError(
            f"{path}: expected the grid of the truth of {case} within {GRID_TOLERANCE_MM} mm, "
            f"got corners {offset_mm:.4g} mm away; resample the prediction onto the truth's grid"
        )


def _match(predictions: Path, truths: Sequence[_Truth], *, single: bool) -> tuple[dict[str, Path], list[str]]:
    """Prediction file of each case, and the names of the files that belong to none."""
    if not predictions.exists():
        raise InputError(
            f"predictions: expected a file or folder, got {predictions}, which does not exist; check the path"
        )
    if predictions.is_file() and single and len(truths) == 1:
        return {truths[0].case: predictions}, []
    files = [predictions] if predictions.is_file() else _nifti_files(predictions)
    known = {t.case for t in truths}
    claims: dict[str, dict[int, list[Path]]] = {}
    unmatched = []
    for path in files:
        # The exact name is a better claim than one with the suffix of a mask, and that than one of an image.
        readings = [_strip(_stem(path), s) for s in ((), _MASK_SUFFIXES, _MASK_SUFFIXES + _IMAGE_SUFFIXES)]
        rank = next((k for k, case in enumerate(readings) if case in known), None)
        if rank is None:
            unmatched.append(path.name)
        else:
            claims.setdefault(readings[rank], {}).setdefault(rank, []).append(path)
    matched = {}
    for case, by_rank in claims.items():
        best, *others = (by_rank[rank] for rank in sorted(by_rank))
        if len(best) > 1:
            raise InputError(
                f"predictions: expected one file for case {case}, got {_few([p.name for p in best])}; keep one of them"
            )
        matched[case] = best[0]
        unmatched += [p.name for group in others for p in group]
    return matched, sorted(unmatched)


def _is_file(truths: Path | str | Sequence[Pair]) -> bool:
    return isinstance(truths, (str, Path)) and Path(truths).is_file()


def _nifti_files(folder: Path) -> list[Path]:
    return sorted(
        p
        for p in folder.iterdir()
        if p.name.endswith((".nii", ".nii.gz")) and not p.name.startswith(".") and p.is_file()
    )


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")


def _strip(stem: str, suffixes: tuple[str, ...]) -> str:
    """`stem` without any of `suffixes` at its end, as often as they stand there: X_ct_pred becomes X."""
    while True:
        for suffix in suffixes:
            if stem.lower().endswith(suffix) and len(stem) > len(suffix):
                stem = stem[: -len(suffix)]
                break
        else:
            return stem


def _few(names: Sequence[str], n: int = 4) -> str:
    shown = ", ".join(names[:n]) if names else "none"
    return f"{shown} and {len(names) - n} more" if len(names) > n else shown


def _none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval(summary: Summary) -> str:
    if summary.ci95_lo is None or summary.ci95_hi is None:
        return "-"
    return f"{summary.ci95_lo:.3f} to {summary.ci95_hi:.3f}"


def _finite(value: Any) -> Any:
    """`value` with None for every float that JSON cannot hold."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return _none(value) if isinstance(value, float) else value
