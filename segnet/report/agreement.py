"""Agreement of two measurements of the same thing, after Bland and Altman."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Agreement:
    """Mean difference and its 95 % limits, in the units measured.

    `sd`, `lower` and `upper` are None for fewer than two pairs, `bias` for none.
    """

    n: int
    bias: float | None
    sd: float | None
    lower: float | None
    upper: float | None


def bland_altman(measured: Sequence[float], truth: Sequence[float]) -> Agreement:
    """Bias and limits of agreement: mean of measured − truth, and that ± 1.96 sample standard deviations.

    Parameters
    ----------
    measured, truth : finite numbers of the same units, pair by pair

    Examples
    --------
    >>> bland_altman([11.0, 9.0], [10.0, 10.0]).bias
    0.0

    Source: Bland and Altman, Lancet 1986; 327: 307–310.
    """
    differences = [m - t for m, t in zip(measured, truth, strict=True)]
    if not differences:
        return Agreement(0, None, None, None, None)
    bias = math.fsum(differences) / len(differences)
    if len(differences) < 2:
        return Agreement(1, bias, None, None, None)
    sd = statistics.stdev(differences)
    return Agreement(len(differences), bias, sd, bias - 1.96 * sd, bias + 1.96 * sd)
