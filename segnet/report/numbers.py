"""Numbers as the report prints them, in Python and in the page's script alike."""

from __future__ import annotations

import math
from dataclasses import dataclass

from segnet.evaluation.conventions import METRICS as SCORES
from segnet.runtime.table import rounded

MISSING = "–"


@dataclass(frozen=True)
class Metric:
    """Name and decimals of a metric. `better` is "up", "down" or empty."""

    label: str
    digits: int
    better: str = ""
    meaning: str = ""


_PRINTED = {
    "dice": ("Dice", 3, "Overlap 2·|P∩T| / (|P|+|T|) of prediction P and truth T, in three dimensions."),
    "ravd": ("RAVD", 3, "Relative absolute volume difference |V(P) − V(T)| / V(T)."),
    "asd_mm": ("ASD", 2, "Average surface distance, directed from prediction to truth."),
    "hd_mm": ("HD", 2, "Hausdorff distance: the largest distance between the two surfaces."),
    "auc": ("AUC", 3, "Area under the voxelwise receiver operating characteristic, over the whole volume."),
    "iou": ("IoU", 3, "Overlap |P∩T| / |P∪T|."),
    "assd_mm": ("ASSD", 2, "Average symmetric surface distance."),
    "hd95_mm": ("HD95", 2, "95th percentile of the surface distances, the larger of both directions."),
    "long_axis_error": ("Long-axis error", 3, "|p − t| / (p + t) of the RECIST long axes."),
    "short_axis_error": ("Short-axis error", 3, "|p − t| / (p + t) of the RECIST short axes."),
    "auc_box": ("AUC (box)", 3, "AUC within the box that reaches 10 mm beyond the truth."),
}
METRICS = {
    name: Metric(label, digits, "up" if SCORES[name].better == "larger" else "down", meaning)
    for name, (label, digits, meaning) in _PRINTED.items()
}
"""In the order of the columns: metrics of the paper's tables first, then the others."""


def metric(name: str) -> Metric:
    """How to print a metric. An unknown one keeps its name."""
    return METRICS.get(name, Metric(name, 3))


def order(names: set[str]) -> list[str]:
    """Metrics in the order of `METRICS`, unknown ones last."""
    return [n for n in METRICS if n in names] + sorted(names - set(METRICS))


def number(value: object) -> float | None:
    """A finite number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def fixed(value: object, digits: int) -> str:
    """A number rounded by `segnet.runtime.table.rounded`, with a minus sign; a dash if it is no finite number.

    Examples
    --------
    >>> fixed(0.0625, 3), fixed(None, 3), fixed(-0.5, 0)
    ('0.063', '–', '−1')
    """
    known = number(value)
    return MISSING if known is None else rounded(known, digits).replace("-", "−", 1)


def span(lo: object, hi: object, digits: int) -> str:
    """Two bounds, or a dash where either is missing."""
    low, high = fixed(lo, digits), fixed(hi, digits)
    return MISSING if MISSING in (low, high) else f"{low} to {high}"


def count(n: int, one: str) -> str:
    """A number and its noun: ``1 lesion``, ``2,400 lesions``."""
    return f"{n:,} {one if n == 1 else one + 's'}"
