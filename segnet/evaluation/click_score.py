"""The ULS23 challenge's score, with simulated clicks in every lesion."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segnet.errors import InputError
from segnet.evaluation.conventions import LESION, Convention
from segnet.evaluation.sources import Grid, Truth
from segnet.io.boxes import Box, within
from segnet.io.volume import from_array
from segnet.metrics import axis_error, bootstrap_ci, dice, recist_axes_mm, uls23_score
from segnet.prediction.clicks import click_positions
from segnet.prediction.options import ULS23_VOI_ZYX as VOI_ZYX
from segnet.prediction.options import Progress, around

if TYPE_CHECKING:
    from segnet.prediction.model import Model

EMPTY_HU = -1000.0
"""Air, which fills a volume beyond the edge of the image."""

Voxel = tuple[int, int, int]
Segment = Callable[[NDArray[np.float32], tuple[float, float, float], Voxel], NDArray[np.bool_]]
"""From a volume in HU (Z, Y, X), its spacing in mm and the click to the mask of the lesion at the click."""

CONVENTIONS = Convention(
    LESION, "an empty mask scores Dice 0, axis errors 1, consistency 0", "macro", "foreground", "1"
).as_dict() | {
    "clicks": "the first is the middle of a volume of the challenge's shape where that is lesion, else the lesion voxel nearest to the centre of"
    " mass; the others are drawn from the lesion's voxels; Dice and axis errors are the first's",
    "consistency": "mean Dice of all pairs of masks, put back on the image's grid",
    "differences": "to the challenge's container: clicks are drawn here, the challenge has its own; Dice and axes are of the whole"
    " image rather than of the volume around the click; axes are RECIST's in mm from edge to edge, the challenge measures between"
    " centres of voxels, in voxels, on the largest part of each slice; beyond the edge of the image stands air",
}


@dataclass(frozen=True)
class ClickedLesion:
    """The scores of one lesion; `score` is the challenge's, of this lesion alone."""

    case: str
    patient: str
    dice: float
    long_axis_error: float
    short_axis_error: float
    consistency: float
    score: float
    clicks_zyx: tuple[Voxel, ...]


def cut_voi(image_zyx: NDArray[Any], click: Voxel, shape: Voxel = VOI_ZYX) -> NDArray[np.float32]:
    """The volume of `shape` with the click at index ``shape // 2``, `EMPTY_HU` beyond the edge of the image."""
    out = np.full(shape, EMPTY_HU, np.float32)
    of_image, of_voi = _shared(image_zyx.shape, click, shape)
    out[of_voi] = image_zyx[of_image]
    return out


def put_back(mask_voi: NDArray[np.bool_], click: Voxel, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The mask of a volume from `cut_voi`, on the image's grid of `shape`."""
    out = np.zeros(shape, np.bool_)
    z, y, x = mask_voi.shape
    of_image, of_voi = _shared(shape, click, (z, y, x))
    out[of_image] = mask_voi[of_voi]
    return out


def _shared(image: tuple[int, ...], click: Voxel, voi: Voxel) -> tuple[Box, Box]:
    """The voxels that image and volume share, as a box of each."""
    of_image = around(click, voi, image)
    corner = tuple(slice(at - side // 2, None) for at, side in zip(click, voi, strict=True))
    return of_image, within(of_image, corner)


def _consistency(found: Sequence[NDArray[np.intp]]) -> float:
    """Mean Dice of all pairs of masks on one grid, given as sorted voxel indices; two empty masks score 0."""
    scores = []
    for a, b in combinations(found, 2):
        total = a.size + b.size
        scores.append(2 * np.intersect1d(a, b, assume_unique=True).size / total if total else 0.0)
    return float(np.mean(scores))


def click_lesion(
    truth: Truth, grid: Grid, image: NDArray[np.float32], segment: Segment, *, n: int, seed: int, voi: Voxel = VOI_ZYX
) -> ClickedLesion:
    """Scores one lesion by `n` clicks; Parameters as in `challenge_score`."""
    clicks = click_positions(grid.mask, grid.spacing_zyx_mm, n, case=truth.case, seed=seed)
    middle = (voi[0] // 2, voi[1] // 2, voi[2] // 2)

    def mask_at(click: Voxel) -> NDArray[np.bool_]:
        return put_back(segment(cut_voi(image, click, voi), grid.spacing_zyx_mm, middle), click, grid.mask.shape)

    first = mask_at(clicks[0])
    axes = zip(recist_axes_mm(first, grid.spacing_zyx_mm), recist_axes_mm(grid.mask, grid.spacing_zyx_mm), strict=True)
    long_error, short_error = (axis_error(pred_mm, truth_mm) for pred_mm, truth_mm in axes)
    consistency = _consistency([np.flatnonzero(first), *(np.flatnonzero(mask_at(click)) for click in clicks[1:])])
    scores = (dice(first, grid.mask), long_error, short_error, consistency)
    return ClickedLesion(truth.case, truth.patient, *scores, uls23_score(*scores), tuple(clicks))


def challenge_score(
    truths: Sequence[Truth],
    segment: Segment,
    *,
    clicks: int,
    seed: int = 0,
    voi: Voxel = VOI_ZYX,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The challenge's score over lesions, one of them in memory at a time.

    Parameters
    ----------
    truths : with images, from `segnet.evaluation.evaluate.truths_of`
    segment : see `Segment`, for instance `network`
    clicks : in each lesion, two or more
    seed : of the clicks
    voi : shape of the volume cut around a click, (z, y, x)
    progress : called as progress(done, total) after each lesion

    Returns
    -------
    dict
        The block "uls23" of evaluation.json: score with its 95 % interval (bootstrap by patient), means of its parts, a row for
        each lesion. A lesion without a usable image scores as if nothing was found, and is listed. Truths without lesion are left out.

    Raises
    ------
    InputError
        There are fewer than two clicks, no truth has both a lesion and an image, or a truth is unreadable.
    """
    if clicks < 2:
        raise InputError(f"clicks: expected at least 2 in each lesion, got {clicks}; consistency compares their masks")
    rows: list[ClickedLesion] = []
    unreadable = []
    for done, truth in enumerate(truths, start=1):
        grid = truth.load()
        if grid.mask.any():
            try:
                image = truth.load_image(grid)
                if image is None:
                    raise InputError(f"images: expected an image of {truth.case}, got none; name their folder")
                rows.append(click_lesion(truth, grid, image, segment, n=clicks, seed=seed, voi=voi))
            except InputError as error:
                unreadable.append({"case": truth.case, "reason": str(error)})
                rows.append(ClickedLesion(truth.case, truth.patient, 0.0, 1.0, 1.0, 0.0, 0.0, ()))
        if progress is not None:
            progress(done, len(truths))
    if len(rows) == len(unreadable):
        raise InputError(
            unreadable[0]["reason"]
            if unreadable
            else "truths: expected at least one lesion to click on, got empty masks"
        )
    by_patient: dict[str, list[float]] = {}
    for row in rows:
        by_patient.setdefault(row.patient, []).append(row.score)
    score, lo, hi = bootstrap_ci(by_patient)
    parts = ("dice", "long_axis_error", "short_axis_error", "consistency")
    return {
        "score": score,
        "ci95_lo": None if math.isnan(lo) else lo,
        "ci95_hi": None if math.isnan(hi) else hi,
        **{name: float(np.mean([getattr(row, name) for row in rows])) for name in parts},
        "clicks": clicks,
        "seed": seed,
        "voi_zyx": list(voi),
        "n_lesions": len(rows),
        "n_patients": len(by_patient),
        "n_left_out": len(truths) - len(rows),
        "conventions": CONVENTIONS,
        "unreadable": unreadable,
        "lesions": [asdict(row) for row in rows],
    }


def network(model: Model, *, tta: bool = False) -> Segment:
    """A `Segment` of trained networks. It runs them as the challenge's container does (`segnet.prediction.uls23`)."""
    from segnet.prediction.uls23 import segment_voi

    model.read()

    def segment(
        voi_hu: NDArray[np.float32], spacing_zyx_mm: tuple[float, float, float], click: Voxel
    ) -> NDArray[np.bool_]:
        return segment_voi(from_array(voi_hu, spacing_zyx_mm), model, tta=tta).mask

    return segment
