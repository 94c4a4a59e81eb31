"""All scores of one lesion, and measurements of its mask alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from segnet.errors import InputError
from segnet.io.boxes import bounding_box
from segnet.metrics._masks import as_mask, pair
from segnet.metrics.axes import RecistAxes, recist
from segnet.metrics.overlap import dice, iou, ravd, volume_ml
from segnet.metrics.surface import larger_percentile, mean_directed, mean_of_both, surface_distances_mm


@dataclass(frozen=True)
class LesionScores:
    """Scores of one lesion volume. Empty masks score as in each function; `dice` and `iou` use "skip"."""

    dice: float
    iou: float
    ravd: float
    asd_mm: float
    assd_mm: float
    hd_mm: float
    hd95_mm: float
    pred_volume_ml: float
    truth_volume_ml: float


def score_lesion(pred: ArrayLike, truth: ArrayLike, spacing_mm: Sequence[float]) -> LesionScores:
    """All scores of one 3-D lesion, `spacing_mm` in array order.

    Raises
    ------
    InputError
        If the shapes differ or are not 3-D, a mask holds values other than 0 and 1, or `spacing_mm` does not fit.
    """
    p, t = pair(pred, truth)
    return scores_of(p, t, spacing_mm, *surface_distances_mm(p, t, spacing_mm))


def scores_of(
    pred: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    spacing_mm: Sequence[float],
    there: NDArray[np.float64],
    back: NDArray[np.float64],
) -> LesionScores:
    """`score_lesion` with known distances of `surface_distances_mm`."""
    return LesionScores(
        dice=dice(pred, truth),
        iou=iou(pred, truth),
        ravd=ravd(pred, truth),
        asd_mm=mean_directed(there, back),
        assd_mm=mean_of_both(there, back),
        hd_mm=larger_percentile(there, back, 100.0),
        hd95_mm=larger_percentile(there, back, 95.0),
        pred_volume_ml=volume_ml(pred, spacing_mm),
        truth_volume_ml=volume_ml(truth, spacing_mm),
    )


@dataclass(frozen=True)
class HuStatistics:
    """Statistics of the HU inside a mask: `sd` divides by n, percentiles are interpolated linearly."""

    mean: float
    sd: float
    min: float
    p5: float
    median: float
    p95: float
    max: float


@dataclass(frozen=True)
class LesionStatistics:
    """Size and density of the foreground.

    Attributes
    ----------
    axes : None for an empty mask
    hu : None for an empty mask or without an image
    """

    voxels: int
    volume_ml: float
    axes: RecistAxes | None
    hu: HuStatistics | None

    @property
    def long_axis_mm(self) -> float:
        return 0.0 if self.axes is None else self.axes.long_mm

    @property
    def short_axis_mm(self) -> float:
        return 0.0 if self.axes is None else self.axes.short_mm

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "long_axis_mm": self.long_axis_mm, "short_axis_mm": self.short_axis_mm}


def lesion_statistics(
    image_hu: ArrayLike | None, mask_zyx: ArrayLike, spacing_zyx_mm: Sequence[float]
) -> LesionStatistics:
    """Volume, RECIST axes and HU of the foreground, taken as one lesion.

    Parameters
    ----------
    image_hu : (Z, Y, X) in HU, or None for sizes alone
    mask_zyx : mask of the same shape
    spacing_zyx_mm : mm, in that order

    Raises
    ------
    InputError
        If the mask is not 3-D or holds values other than 0 and 1, the spacing does not fit, or the image has another shape or
        non-finite voxels inside the mask.
    """
    mask = as_mask(mask_zyx, "mask_zyx")
    size_ml = volume_ml(mask, spacing_zyx_mm)
    return LesionStatistics(
        int(np.count_nonzero(mask)), size_ml, recist(mask, spacing_zyx_mm), hu_statistics(image_hu, mask)
    )


def hu_statistics(image_hu: ArrayLike | None, mask: NDArray[np.bool_]) -> HuStatistics | None:
    """HU inside a mask; None for an empty mask or without an image. Raises as in `lesion_statistics`."""
    if image_hu is None:
        return None
    image = np.asarray(image_hu)
    if image.shape != mask.shape:
        raise InputError(
            f"image_hu: expected shape {mask.shape} like the mask, got {image.shape}; give the image the mask was drawn on"
        )
    if not mask.any():
        return None
    box = bounding_box(mask)
    inside = image[box][mask[box]].astype(np.float64)
    if not np.isfinite(inside).all():
        raise InputError(
            f"image_hu: expected finite HU inside the mask, got {int((~np.isfinite(inside)).sum())} voxels that are not;"
            " mend the image"
        )
    p5, median, p95 = np.percentile(inside, (5, 50, 95)).tolist()
    low, high = float(inside.min()), float(inside.max())
    return HuStatistics(float(inside.mean()), float(inside.std()), low, p5, median, p95, high)


def components(mask: ArrayLike) -> NDArray[np.int32]:
    """Connected parts of a mask (26 neighbours in 3-D, 8 in a slice), numbered from 1 by falling volume.

    Parts of equal volume keep the order of their first voxels. ``components(mask) == 1`` is the largest part.

    Returns
    -------
    int32 array like `mask`, 0 in the background.

    Raises
    ------
    InputError
        If `mask` holds values other than 0 and 1.

    Examples
    --------
    >>> components([1, 0, 1, 1]).tolist()
    [2, 0, 1, 1]
    """
    found = as_mask(mask)
    labels, n = ndimage.label(found, structure=np.ones((3,) * found.ndim, dtype=int))
    sizes = np.bincount(labels.ravel(), minlength=n + 1)[1:]
    number = np.zeros(n + 1, dtype=np.int32)
    number[1 + np.argsort(-sizes, kind="stable")] = np.arange(1, n + 1)
    return number[labels]


def component_statistics(
    image_hu: ArrayLike | None, mask_zyx: ArrayLike, spacing_zyx_mm: Sequence[float]
) -> list[LesionStatistics]:
    """`lesion_statistics` of every part from `components`, largest first; an empty list for an empty mask.

    Parameters and Raises as in `lesion_statistics`.
    """
    mask = as_mask(mask_zyx, "mask_zyx")
    volume_ml(mask, spacing_zyx_mm)
    image = None if image_hu is None else np.asarray(image_hu)
    if image is not None and image.shape != mask.shape:
        hu_statistics(image, mask)
    labels = components(mask)
    out = []
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        part = lesion_statistics(None if image is None else image[box], labels[box] == number, spacing_zyx_mm)
        corner = [side.start for side in box]
        out.append(replace(part, axes=None if part.axes is None else part.axes.moved(corner)))
    return out
