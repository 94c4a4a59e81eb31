"""Measures of masks against masks. Imports `dataset` and the floors below.

Every measure takes boolean arrays, or arrays of 0 and 1, of equal shape and any dimension, prediction first. Each function states
its result for empty masks. Only these give NaN: `dice` and `iou` with ``empty="skip"``; `auc` if a class is absent;
the interval of `bootstrap_ci` for fewer than two patients.
"""

from __future__ import annotations

from segnet.metrics._masks import as_mask
from segnet.metrics.axes import RecistAxes, axis_error, recist, recist_axes_mm
from segnet.metrics.baseline import Baseline, all_background_baseline
from segnet.metrics.bootstrap import bootstrap_ci, bootstrap_ratio_ci
from segnet.metrics.calibration import Calibration, ReliabilityBin
from segnet.metrics.consistency import check_consistency, iou_bounds
from segnet.metrics.lesion import (
    HuStatistics,
    LesionScores,
    LesionStatistics,
    component_statistics,
    components,
    lesion_statistics,
    score_lesion,
)
from segnet.metrics.overlap import Empty, dice, iou, ravd, volume_ml
from segnet.metrics.paired import PairedDifference, paired_difference
from segnet.metrics.paper import SliceScores, paper_slice_scores
from segnet.metrics.roc import RocCounts, auc
from segnet.metrics.surface import asd_mm, assd_mm, hd95_mm, hd_mm, surface_distances_mm
from segnet.metrics.uls23 import uls23_score

__all__ = [
    "Baseline",
    "Calibration",
    "Empty",
    "HuStatistics",
    "LesionScores",
    "LesionStatistics",
    "PairedDifference",
    "RecistAxes",
    "ReliabilityBin",
    "RocCounts",
    "SliceScores",
    "all_background_baseline",
    "as_mask",
    "asd_mm",
    "assd_mm",
    "auc",
    "axis_error",
    "bootstrap_ci",
    "bootstrap_ratio_ci",
    "check_consistency",
    "component_statistics",
    "components",
    "dice",
    "hd95_mm",
    "hd_mm",
    "iou",
    "iou_bounds",
    "lesion_statistics",
    "paired_difference",
    "paper_slice_scores",
    "ravd",
    "recist",
    "recist_axes_mm",
    "score_lesion",
    "surface_distances_mm",
    "uls23_score",
    "volume_ml",
]
