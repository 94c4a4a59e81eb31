"""Checks of masks and spacings, shared by all measures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from segnet.errors import InputError

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]


def as_mask(mask: ArrayLike, name: str = "mask") -> BoolArray:
    """`mask` as a boolean array of the same shape.

    Raises
    ------
    InputError
        If `mask` is not boolean and holds anything but 0 and 1.
    """
    array = np.asarray(mask)
    if array.dtype == np.bool_:
        return array
    out = array.astype(np.bool_)
    if not np.array_equal(out, array):
        raise InputError(
            f"{name}: expected booleans or only 0 and 1, got {array.dtype} from {array.min()} to "
            f"{array.max()}; compare with a threshold first"
        )
    return out


def pair(pred: ArrayLike, truth: ArrayLike) -> tuple[BoolArray, BoolArray]:
    """Both as boolean arrays of one shape; InputError otherwise."""
    p, t = as_mask(pred, "pred"), as_mask(truth, "truth")
    if p.shape != t.shape:
        raise InputError(
            f"pred: expected shape {t.shape} like truth, got {p.shape}; "
            "resample or transpose the prediction onto the truth's grid"
        )
    return p, t


def checked_spacing(spacing_mm: Sequence[float], ndim: int) -> FloatArray:
    """`spacing_mm` as float64 (ndim,); InputError unless it holds `ndim` positive lengths."""
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    if spacing.shape != (ndim,) or not np.all(np.isfinite(spacing)) or not np.all(spacing > 0):
        raise InputError(
            f"spacing_mm: expected {ndim} positive lengths in mm, one per axis of the mask, "
            f"got {tuple(np.ravel(spacing).tolist())}; give them in array order"
        )
    return spacing
