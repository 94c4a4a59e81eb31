"""Under which conventions each score is made. They travel with every number."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

LESION = "lesion volume"
_DISTANCE = "either: left out"


@dataclass(frozen=True)
class Convention:
    """What a number means.

    Attributes
    ----------
    level : what one sample is
    empty : what happens where a mask is empty
    reduction : "macro", the mean over samples, or "pooled", one number of all samples' voxels
    classes : "foreground", or "both" where the background counts as well
    units : "1" or "mm"
    """

    level: str
    empty: str
    reduction: str
    classes: str
    units: str

    def as_dict(self) -> dict[str, str]:
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
    empty : what happens where a mask is empty
    units : "1" or "mm"
    better : which of two is better
    pooled_empty : what happens in the pooled form
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
"""The paper's measures as it seems to have made them."""

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
