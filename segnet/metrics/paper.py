"""The paper's measures (arXiv 2404.17235, V-C), slice by slice, to print beside the others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from segnet.io.boxes import bounding_box
from segnet.metrics._masks import pair
from segnet.metrics.overlap import dice, iou, ravd
from segnet.metrics.surface import distances_to


@dataclass(frozen=True)
class SliceScores:
    """Slice scores of the paper (arXiv 2404.17235, V-C), one entry per counted slice.

    `dice`, `iou`: every slice; two empty masks score 1. `ravd`: slices with lesion in the truth. `asd_px`, `mhd_px`: slices with
    lesion in both masks; mean and maximum distance in pixels from points of the prediction to the nearest point of the truth.
    Both are directed: a prediction inside the lesion scores 0.
    """

    dice: list[float]
    iou: list[float]
    ravd: list[float]
    asd_px: list[float]
    mhd_px: list[float]


def paper_slice_scores(pred_zyx: ArrayLike, truth_zyx: ArrayLike) -> SliceScores:
    """The paper's slice scores of one volume, for comparison, never as a goal.

    Parameters
    ----------
    pred_zyx, truth_zyx : masks of equal shape (Z, Y, X)

    Raises
    ------
    InputError
        If the shapes differ or a mask holds values other than 0 and 1.

    Source: Mamba-AHNet, arXiv 2404.17235, section V-C. `SliceScores` states our choice of unit and empty masks.
    """
    pred, truth = pair(pred_zyx, truth_zyx)
    out = SliceScores([], [], [], [], [])
    for p, t in zip(pred, truth, strict=True):
        out.dice.append(dice(p, t, empty="one"))
        out.iou.append(iou(p, t, empty="one"))
        if t.any():
            out.ravd.append(ravd(p, t))
        if t.any() and p.any():
            box = bounding_box(p | t)
            distances = distances_to(t[box], p[box], np.ones(t.ndim))
            out.asd_px.append(float(distances.mean()))
            out.mhd_px.append(float(distances.max()))
    return out
