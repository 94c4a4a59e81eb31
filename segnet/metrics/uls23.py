"""The score of the ULS23 challenge."""

from __future__ import annotations

from typing import Any

from segnet.errors import InputError


def uls23_score(dice: float, long_axis_error: float, short_axis_error: float, consistency: float) -> float:
    """The ULS23 challenge's score, ``0.8 D + 0.05 (1 − LAE) + 0.05 (1 − SAE) + 0.1 consistency``, in [0, 1].

    Parameters
    ----------
    dice : mean 3-D Dice over lesions
    long_axis_error, short_axis_error : means of `axis_error`
    consistency : mean pairwise Dice of the masks from several click positions, aligned on one grid

    Raises
    ------
    InputError
        If a value is outside [0, 1].
    """
    named: dict[str, Any] = {
        "dice": dice,
        "long_axis_error": long_axis_error,
        "short_axis_error": short_axis_error,
        "consistency": consistency,
    }
    for name, value in named.items():
        if not 0.0 <= value <= 1.0:
            raise InputError(f"{name}: expected a value in [0, 1], got {value}; give the mean over lesions")
    return 0.8 * dice + 0.05 * (1.0 - long_axis_error) + 0.05 * (1.0 - short_axis_error) + 0.1 * consistency
