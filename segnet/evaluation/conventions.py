"""The conventions of each score, which accompany every number, and the classes of lesion size."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

LESION = "lesion volume"
CONVENTION_KEYS = ("level", "empty", "reduction", "classes", "units")
SIZE_BOUNDS_MM = (10.0, 20.0, 50.0)
"""Bounds of the classes of size. Each belongs to the class above it."""
SIZE_CLASSES = ("<10 mm", "10-20 mm", "20-50 mm", ">=50 mm")
NO_LESION = "no lesion"
_DISTANCE = "either: left out"


@dataclass(frozen=True)
class Convention:
    """The meaning of a number.

    Attributes
    ----------
    level : one sample
    empty : the treatment of empty masks
    reduction : "macro", the mean over samples, or "pooled", one number for all samples' voxels
    classes : "foreground", or "both" if the background counts as well
    units : "1" or "mm"
    """

    level: str
    empty: str
    reduction: str
    classes: str
    units: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def text(self) -> str:
        """In brackets after a number."""
        return f"level {self.level}; empty {self.empty}; reduction {self.reduction}; classes {self.classes}; units {self.units}"


@dataclass(frozen=True)
class Metric:
    """A score by lesion.

    Attributes
    ----------
    heading : in tables
    empty : the treatment of empty masks
    units : "1" or "mm"
    better : the better one of two
    pooled_empty : as `empty`, for the pooled form
    classes : as in `Convention`
    """

    heading: str
    empty: str
    units: str
    better: Literal["larger", "smaller"]
    pooled_empty: str
    classes: str = "foreground"

    def macro(self) -> Convention:
        return Convention(LESION, self.empty, "macro", self.classes, self.units)

    def pooled(self) -> Convention:
        return Convention("all lesions together", self.pooled_empty, "pooled", self.classes, self.units)


_ADDED = "its voxels are counted"
METRICS: dict[str, Metric] = {
    "dice": Metric("Dice", "skip", "1", "larger", _ADDED),
    "iou": Metric("IoU", "skip", "1", "larger", _ADDED),
    "ravd": Metric("RAVD", "truth: left out", "1", "smaller", _ADDED),
    "asd_mm": Metric("ASD mm (prediction to truth)", _DISTANCE, "mm", "smaller", "left out"),
    "assd_mm": Metric("ASSD mm", _DISTANCE, "mm", "smaller", "left out"),
    "hd_mm": Metric("HD mm", _DISTANCE, "mm", "smaller", "left out"),
    "hd95_mm": Metric("HD95 mm", _DISTANCE, "mm", "smaller", "left out"),
    "long_axis_error": Metric("long axis error", "both: left out", "1", "smaller", "its axes are 0"),
    "short_axis_error": Metric("short axis error", "both: left out", "1", "smaller", "its axes are 0"),
    "auc": Metric("AUC, whole volume", "truth: left out", "1", "larger", _ADDED, "both"),
    "auc_box": Metric("AUC, 10 mm box", "truth: left out", "1", "larger", _ADDED, "both"),
}
"""The scores by lesion, in the order of tables."""

PAPER = {
    name: Convention("slice", empty, "macro", "foreground", units)
    for name, empty, units in (
        ("dice", "one", "1"),
        ("iou", "one", "1"),
        ("ravd", "truth: left out", "1"),
        ("asd_px", "either: left out", "px"),
        ("mhd_px", "either: left out", "px"),
    )
} | {"auc": Convention("voxel of all slices", "its voxels are counted", "pooled", "both", "1")}
"""The paper's measures, as it seems to have computed them."""

CONVENTIONS = {
    "level": "lesion volume: one truth file is one lesion, scored in three dimensions",
    "empty": "a lesion whose two masks are empty has no score at all: left out of every mean, counted; Dice and IoU with one empty"
    " mask are 0",
    "reduction": "macro: mean over lesions; pooled: one score of all lesions' voxels; intervals draw patients with replacement",
    "classes": "foreground; AUC is of both classes",
    "units": "1 for ratios, mm for distances and axes, ml for volumes",
    "distances": "of surface voxels; asd_mm is directed from prediction to truth, the others are symmetric; infinite where one"
    " mask is empty: left out, counted",
    "missing": "a missing or unreadable prediction counts as an empty one",
    "auc": "of probabilities where <mask>_probability lies beside the mask, else of the mask itself: see source",
    "size_class": "by the long axis of the truth in mm; a bound belongs to the class above it",
    "quartiles": "median, q1 and q3 over the lesions the mean is of, interpolated linearly",
}


def size_class(long_axis_mm: float) -> str:
    """Class of size by the long axis of the true lesion in mm; `NO_LESION` for 0.

    Examples
    --------
    >>> size_class(9.99), size_class(10.0), size_class(50.0), size_class(0.0)
    ('<10 mm', '10-20 mm', '>=50 mm', 'no lesion')
    """
    if long_axis_mm <= 0:
        return NO_LESION
    return SIZE_CLASSES[sum(long_axis_mm >= bound for bound in SIZE_BOUNDS_MM)]
