"""Bounds of a mean IoU, given the mean Dice."""

from __future__ import annotations

from segnet.errors import InputError


def iou_bounds(mean_dice: float) -> tuple[float, float]:
    """Smallest and largest mean IoU for a mean Dice over the same samples: ``(D / (2 − D), D)``.

    For one sample IoU = D / (2 − D), which is convex in D. By Jensen's inequality the mean IoU is at least this function of the mean
    Dice. It is at most the mean Dice itself.

    Raises
    ------
    InputError
        If `mean_dice` is outside [0, 1].

    Examples
    --------
    >>> iou_bounds(0.8)
    (0.6666666666666667, 0.8)
    """
    if not 0.0 <= mean_dice <= 1.0:
        raise InputError(f"mean_dice: expected a value in [0, 1], got {mean_dice}; give the mean, not per cent")
    return mean_dice / (2.0 - mean_dice), mean_dice


def check_consistency(mean_dice: float, mean_iou: float, *, tolerance: float = 1e-9) -> bool:
    """Whether a mean Dice and a mean IoU can come from the same samples (see `iou_bounds`).

    `tolerance` covers summation in double precision. For printed numbers pass half of the last digit.

    Raises
    ------
    InputError
        If `mean_dice` is outside [0, 1].

    Examples
    --------
    >>> check_consistency(0.9896, 0.8265, tolerance=5e-5)
    False
    """
    lo, hi = iou_bounds(mean_dice)
    return lo - tolerance <= mean_iou <= hi + tolerance
