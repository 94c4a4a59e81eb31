"""Numbers as the report prints them, the same in Python and in the page's script."""

from __future__ import annotations

import math
from dataclasses import dataclass

from segnet.table import rounded

MISSING = "–"


@dataclass(frozen=True)
class Metric:
    """How a number is called and printed; `better` is "up", "down" or nothing."""

    label: str
    digits: int
    better: str = ""
    meaning: str = ""


METRICS = {
    "dice": Metric("Dice", 3, "up", "Overlap 2·|P∩T| / (|P|+|T|) of prediction P and truth T, in three dimensions."),
    "ravd": Metric("RAVD", 3, "down", "Relative absolute volume difference |V(P) − V(T)| / V(T)."),
    "asd_mm": Metric("ASD", 2, "down", "Average surface distance, directed from prediction to truth."),
    "hd_mm": Metric("HD", 2, "down", "Hausdorff distance: the largest distance between the two surfaces."),
    "auc": Metric("AUC", 3, "up", "Area under the voxelwise receiver operating characteristic, over the whole volume."),
    "iou": Metric("IoU", 3, "up", "Overlap |P∩T| / |P∪T|."),
    "assd_mm": Metric("ASSD", 2, "down", "Average symmetric surface distance."),
    "hd95_mm": Metric("HD95", 2, "down", "95th percentile of the surface distances, the larger of both directions."),
    "long_axis_error": Metric("Long-axis error", 3, "down", "|p − t| / (p + t) of the RECIST long axes."),
    "short_axis_error": Metric("Short-axis error", 3, "down", "|p − t| / (p + t) of the RECIST short axes."),
    "auc_box": Metric("AUC (box)", 3, "up", "AUC within the box that reaches 10 mm beyond the truth."),
}
"""In the order of the columns: those of the paper's tables first, then what stands beside them."""


def metric(name: str) -> Metric:
    """How to print a metric; one that is not known keeps its name."""
    return METRICS.get(name, Metric(name, 3))


def order(names: set[str]) -> list[str]:
    """Metrics in the order of `METRICS`, others behind."""
    return [n for n in METRICS if n in names] + sorted(names - set(METRICS))


def fixed(value: object, digits: int) -> str:
    """A number as `segnet.table.rounded` has it, with a real minus; a dash for what is no finite number.

    Examples
    --------
    >>> fixed(0.0625, 3), fixed(None, 3), fixed(-0.5, 0)
    ('0.063', '–', '−1')
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return MISSING
    text = rounded(value, digits)
    return "−" + text[1:] if text.startswith("-") else text


def span(lo: object, hi: object, digits: int) -> str:
    """Two bounds, or a dash where either is missing."""
    low, high = fixed(lo, digits), fixed(hi, digits)
    return MISSING if MISSING in (low, high) else f"{low} to {high}"


def count(n: int, one: str, many: str | None = None) -> str:
    """A number and its noun: ``1 lesion``, ``2,400 lesions``."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"
