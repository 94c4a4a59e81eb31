"""One lesion's prediction against its truth."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from segnet.errors import InputError
from segnet.evaluation.conventions import size_class
from segnet.evaluation.sources import Grid, Truth, map_beside, read_grid, read_map, require_same_grid
from segnet.io.boxes import Box, bounding_box, widened
from segnet.metrics import HuStatistics, RocCounts, auc, axis_error, paper_slice_scores, recist_axes_mm
from segnet.metrics.calibration import Calibration
from segnet.metrics.lesion import hu_statistics, scores_of
from segnet.metrics.surface import surface_distances_mm

MARGIN_MM = 10.0
"""Margin of the box around the truth."""
DISTANCE_STEP_MM = 0.01
"""Distances of many lesions are counted in steps of this size."""

Status = Literal["scored", "missing", "unreadable"]
Source = Literal["probability", "mask"]


@dataclass(frozen=True)
class LesionRow:
    """Scores of one lesion.

    Overlap and distances as in `segnet.metrics.score_lesion`, axes as in `segnet.metrics.recist_axes_mm`. With two empty masks all
    scores are NaN.

    Attributes
    ----------
    status : "scored"; or "missing" or "unreadable", scored as an empty prediction
    set : the collection of the case, empty if its name tells none
    size_class : by the long axis of the truth (`segnet.evaluation.conventions`)
    auc, auc_box : over the whole volume, and over the box that reaches 10 mm beyond the truth; NaN for an empty truth, `auc_box` also
        if the truth fills the box
    auc_source : "probability" if a map lay beside the mask, else "mask"
    pred_hu, truth_hu : HU inside each mask, None for an empty mask or without an image
    """

    case: str
    patient: str
    status: Status
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
    auc: float
    auc_box: float
    auc_source: Source
    set: str
    size_class: str
    pred_hu: HuStatistics | None
    truth_hu: HuStatistics | None


@dataclass(frozen=True, eq=False)
class CaseResult:
    """A row, and the counts for pooled scores.

    Attributes
    ----------
    voxels : of the intersection, the prediction, the truth
    distances : for each direction, surface voxels by distance in steps of `DISTANCE_STEP_MM`; None if a mask is empty
    distance_sums_mm : exact sums of distances, for each direction
    holds : (Z,) whether a slice of the truth holds lesion
    paper : sum and number of the paper's slice scores, by name
    roc, roc_box : voxel counts of the whole volume and of the box, None without a box
    calibration : by region; None without probabilities
    reasons : why a file was not usable
    """

    row: LesionRow
    voxels: tuple[int, int, int]
    distances: tuple[NDArray[np.int64], NDArray[np.int64]] | None
    distance_sums_mm: tuple[float, float]
    holds: NDArray[np.bool_]
    paper: dict[str, tuple[float, int]]
    roc: RocCounts
    roc_box: RocCounts | None
    calibration: dict[str, Calibration] | None
    reasons: tuple[str, ...]


def score_case(truth: Truth, prediction: Path | None) -> CaseResult:
    """Scores one lesion. A prediction that is not usable counts as an empty one, with the reason beside it.

    Raises
    ------
    InputError
        The truth cannot be read.
    """
    grid = truth.load()
    reasons: list[str] = []
    pred, probability, image = np.zeros_like(grid.mask), None, None
    status: Status = "missing"
    if prediction is not None:
        status = "unreadable"
        with _noted(reasons):
            found = read_grid(prediction)
            require_same_grid(found.mask.shape, found.affine, grid, prediction, truth.case)
            pred, status = found.mask, "scored"
    if status == "scored" and prediction is not None:
        with _noted(reasons):
            probability = _probability(prediction, grid, truth.case)
    if truth.prepared is None:  # a prepared image is clipped to a window, so statistics of it would not be of HU
        with _noted(reasons):
            image = truth.load_image(grid)
    return _scored(truth, grid, pred, status, probability, image, tuple(reasons))


@contextmanager
def _noted(reasons: list[str]) -> Iterator[None]:
    """Ends at an InputError, which goes into a list."""
    try:
        yield
    except InputError as error:
        reasons.append(str(error))


def _probability(prediction: Path, grid: Grid, case: str) -> NDArray[np.float32] | None:
    """The map beside a mask, None without one."""
    path = map_beside(prediction)
    if path is None:
        return None
    found = read_map(path, grid, case)
    if not (found.min() >= 0.0 and found.max() <= 1.0):
        raise InputError(
            f"{path}: expected probabilities in [0, 1], got {found.min()} to {found.max()}; write them again"
        )
    return found


def _scored(
    truth: Truth,
    grid: Grid,
    pred: NDArray[np.bool_],
    status: Status,
    probability: NDArray[np.float32] | None,
    image: NDArray[np.float32] | None,
    reasons: tuple[str, ...],
) -> CaseResult:
    mask, spacing = grid.mask, grid.spacing_zyx_mm
    there, back = surface_distances_mm(pred, mask, spacing)
    pred_long, pred_short = recist_axes_mm(pred, spacing)
    true_long, true_short = recist_axes_mm(mask, spacing)
    # of the truth alone: distant false positives would add easy background, and each model would have its own box
    box = box_around(mask if mask.any() else pred, spacing)
    score = pred if probability is None else probability
    scores = asdict(scores_of(pred, mask, spacing, there, back))
    errors = {
        "long_axis_error": axis_error(pred_long, true_long),
        "short_axis_error": axis_error(pred_short, true_short),
    }
    if not (pred.any() or mask.any()):
        scores |= dict.fromkeys(("ravd", "asd_mm", "assd_mm", "hd_mm", "hd95_mm"), math.nan)
        errors = dict.fromkeys(errors, math.nan)
    row = LesionRow(
        case=truth.case,
        patient=truth.patient,
        status=status,
        **scores,
        **errors,
        pred_long_mm=pred_long,
        pred_short_mm=pred_short,
        truth_long_mm=true_long,
        truth_short_mm=true_short,
        auc=auc(score, mask),
        auc_box=math.nan if box is None else auc(score[box], mask[box]),
        auc_source="mask" if probability is None else "probability",
        set=truth.collection,
        size_class=size_class(true_long),
        pred_hu=hu_statistics(image, pred),
        truth_hu=hu_statistics(image, mask),
    )
    paper = paper_slice_scores(pred, mask)
    known = pred.any() and mask.any()
    return CaseResult(
        row=row,
        voxels=(int(np.count_nonzero(pred & mask)), int(np.count_nonzero(pred)), int(np.count_nonzero(mask))),
        distances=(_steps(there), _steps(back)) if known else None,
        distance_sums_mm=(float(there.sum()), float(back.sum())) if known else (0.0, 0.0),
        holds=np.atleast_1d(mask.any(axis=(1, 2))),
        paper={name: (float(sum(values)), len(values)) for name, values in vars(paper).items()},
        roc=_roc(pred, mask, probability),
        roc_box=None if box is None else _roc(pred[box], mask[box], None if probability is None else probability[box]),
        calibration=None if probability is None else _calibration(probability, mask, box),
        reasons=reasons,
    )


def box_around(marked: NDArray[np.bool_], spacing_zyx_mm: tuple[float, ...]) -> Box | None:
    """The box of all voxels with centres within `MARGIN_MM` of the foreground's box along each axis; None without foreground."""
    if not marked.any():
        return None
    reach = [
        math.floor(MARGIN_MM / step_mm + 1e-9) for step_mm in spacing_zyx_mm
    ]  # for spacings that divide the margin
    return widened(bounding_box(marked), reach, marked.shape)


def _steps(distances_mm: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.bincount(np.rint(distances_mm / DISTANCE_STEP_MM).astype(np.int64)).astype(np.int64)


def _roc(pred: NDArray[np.bool_], mask: NDArray[np.bool_], probability: NDArray[np.float32] | None) -> RocCounts:
    return RocCounts.of_masks(pred, mask) if probability is None else RocCounts.of(probability, mask)


def _calibration(probability: NDArray[np.float32], mask: NDArray[np.bool_], box: Box | None) -> dict[str, Calibration]:
    near = Calibration.none() if box is None else Calibration.of(probability[box], mask[box])
    return {"box_10mm": near, "volume": Calibration.of(probability, mask)}
