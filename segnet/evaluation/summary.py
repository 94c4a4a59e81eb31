"""From rows to means, pooled scores and checks, each with its conventions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segnet.evaluation.conventions import METRICS, PAPER
from segnet.evaluation.rows import DISTANCE_STEP_MM, CaseResult, LesionRow
from segnet.metrics import bootstrap_ci, bootstrap_ratio_ci, check_consistency, iou_bounds
from segnet.metrics.calibration import Calibration
from segnet.metrics.roc import RocCounts


@dataclass(frozen=True, kw_only=True)
class Spread:
    """One score over lesions, its quartiles and its interval over patients.

    Unknown values are None: the mean without a finite value; the bounds with fewer than two patients, or if the pooled score allows
    none; quartiles of pooled scores. `n_left_out` counts the lesions without a finite value.
    """

    mean: float | None
    median: float | None = None
    q1: float | None = None
    q3: float | None = None
    ci95_lo: float | None = None
    ci95_hi: float | None = None
    n_lesions: int
    n_patients: int
    n_left_out: int


@dataclass(frozen=True, kw_only=True)
class Summary(Spread):
    """A `Spread` with its conventions.

    `source` is "probability", "mask" or "mixed": the data that the score was computed from.
    """

    level: str
    empty: str
    reduction: str
    classes: str
    units: str
    source: str = "mask"


def spread(values: Sequence[tuple[str, float | None]]) -> Spread:
    """Mean, quartiles and interval over patients of (patient, number); numbers that are not finite are left out and counted."""
    by_patient: dict[str, list[float]] = {}
    for patient, value in values:
        if value is not None and math.isfinite(value):
            by_patient.setdefault(patient, []).append(value)
    pool = [v for of_patient in by_patient.values() for v in of_patient]
    mean, lo, hi = bootstrap_ci(by_patient) if pool else (math.nan,) * 3
    q1, median, q3 = np.percentile(pool, (25, 50, 75)).tolist() if pool else (None,) * 3
    return Spread(
        mean=_finite(mean),
        median=median,
        q1=q1,
        q3=q3,
        ci95_lo=_finite(lo),
        ci95_hi=_finite(hi),
        n_lesions=len(pool),
        n_patients=len(by_patient),
        n_left_out=len(values) - len(pool),
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def summarise(rows: Sequence[LesionRow]) -> dict[str, Summary]:
    """The macro summary of every metric over some lesions."""
    source = source_of(row.auc_source for row in rows)
    return {
        name: Summary(
            **asdict(spread([(row.patient, getattr(row, name)) for row in rows])),
            **metric.macro().as_dict(),
            source=source if name.startswith("auc") else "mask",
        )
        for name, metric in METRICS.items()
    }


def source_of(sources: Iterable[str]) -> str:
    """The source of the AUC of some lesions, given that of each."""
    different = set(sources)
    return different.pop() if len(different) == 1 else "mixed" if different else "mask"


def grouped(rows: Sequence[LesionRow], key: str, order: Sequence[str] = ()) -> dict[str, dict[str, Summary]]:
    """`summarise` by a field of the rows, the groups in `order`, then by name."""
    names = {getattr(row, key) for row in rows}
    ordered = [name for name in order if name in names] + sorted(names - set(order))
    return {name: summarise([row for row in rows if getattr(row, key) == name]) for name in ordered}


@dataclass
class Totals:
    """Sums over lesions, from which pooled scores are computed. Their memory does not grow with the number of voxels.

    Attributes
    ----------
    parts : for each metric that is a ratio of sums, numerator and denominator by patient
    calibrated : for each region of `calibration`, lesions with a probability map that holds voxels there
    patients : of the lesions added; `distance_patients`, those with known distances
    """

    parts: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    distances: list[NDArray[np.int64]] = field(default_factory=lambda: [np.zeros(1, np.int64), np.zeros(1, np.int64)])
    roc: RocCounts | None = None
    roc_box: RocCounts | None = None
    calibration: dict[str, Calibration] = field(default_factory=dict)
    calibrated: dict[str, int] = field(default_factory=dict)
    paper: dict[str, tuple[float, int]] = field(default_factory=dict)
    n_distances: int = 0
    patients: set[str] = field(default_factory=set)
    distance_patients: set[str] = field(default_factory=set)
    n_lesions: int = 0

    def add(self, result: CaseResult) -> None:
        row = result.row
        both, pred, truth = result.voxels
        self.n_lesions += 1
        self.patients.add(row.patient)
        parts: dict[str, tuple[float, float]] = {
            "dice": (2 * both, pred + truth),
            "iou": (both, pred + truth - both),
            "ravd": (abs(pred - truth), truth),
        }
        for side in ("long", "short"):
            p, t = getattr(row, f"pred_{side}_mm"), getattr(row, f"truth_{side}_mm")
            parts[f"{side}_axis_error"] = abs(p - t), p + t
        if result.distances is not None:
            self.n_distances += 1
            self.distance_patients.add(row.patient)
            (there, back), (there_mm, back_mm) = result.distances, result.distance_sums_mm
            parts["asd_mm"] = there_mm, int(there.sum())
            parts["assd_mm"] = there_mm + back_mm, int(there.sum() + back.sum())
            self.distances = [_added(a, b) for a, b in zip(self.distances, result.distances, strict=True)]
        for name, (above, below) in parts.items():
            of_metric = self.parts.setdefault(name, {})
            before = of_metric.get(row.patient, (0.0, 0.0))
            of_metric[row.patient] = before[0] + above, before[1] + below
        self.roc = result.roc if self.roc is None else self.roc + result.roc
        if result.roc_box is not None:
            self.roc_box = result.roc_box if self.roc_box is None else self.roc_box + result.roc_box
        for region, counts in (result.calibration or {}).items():
            self.calibration[region] = self.calibration.get(region, Calibration.none()) + counts
            self.calibrated[region] = self.calibrated.get(region, 0) + (counts.voxels > 0)
        for name, (total, n) in result.paper.items():
            sum_before, n_before = self.paper.get(name, (0.0, 0))
            self.paper[name] = (sum_before + total, n_before + n)


def _added(a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
    longer, shorter = (a, b) if len(a) >= len(b) else (b, a)
    out = longer.copy()
    out[: len(shorter)] += shorter
    return out


def pooled(totals: Totals, rows: Sequence[LesionRow]) -> dict[str, Summary]:
    """Every metric over all lesions' voxels together; with an interval if it is a ratio of sums."""
    out = {}
    source = source_of(row.auc_source for row in rows)
    for name, metric in METRICS.items():
        lo = hi = None
        lesions, patients = totals.n_lesions, len(totals.patients)
        if metric.units == "mm":
            lesions, patients = totals.n_distances, len(totals.distance_patients)
        if name in ("hd_mm", "hd95_mm"):
            value: float | None = _distance(totals, 100.0 if name == "hd_mm" else 95.0)
        elif name.startswith("auc"):
            roc = totals.roc if name == "auc" else totals.roc_box
            value = None if roc is None else roc.auc()
        else:
            value, lo, hi = bootstrap_ratio_ci(totals.parts.get(name, {}))
        out[name] = Summary(
            mean=_finite(value),
            ci95_lo=_finite(lo),
            ci95_hi=_finite(hi),
            n_lesions=lesions,
            n_patients=patients,
            n_left_out=totals.n_lesions - lesions,
            **metric.pooled().as_dict(),
            source=source if name.startswith("auc") else "mask",
        )
    return out


def _distance(totals: Totals, percentile: float) -> float | None:
    """The larger directed percentile of all distances, each rounded to `DISTANCE_STEP_MM`, interpolated as by `np.percentile`."""
    of_direction = []
    for counts in totals.distances:
        if counts.sum() == 0:
            return None
        ends = np.cumsum(counts)
        rank = percentile / 100.0 * (int(ends[-1]) - 1)
        low, high = (int(np.searchsorted(ends, k + 1)) for k in (math.floor(rank), math.ceil(rank)))
        of_direction.append((low + (rank - math.floor(rank)) * (high - low)) * DISTANCE_STEP_MM)
    return max(of_direction)


def calibration(totals: Totals) -> dict[str, Any] | None:
    """By region the calibration errors of all lesions, and the number of lesions with probabilities; None without any."""
    return {
        region: counts.as_dict()
        | {"n_lesions": totals.calibrated[region], "n_left_out": totals.n_lesions - totals.calibrated[region]}
        for region, counts in totals.calibration.items()
    } or None


def consistency(groups: Mapping[str, Mapping[str, Summary]]) -> dict[str, Any]:
    """Whether the mean IoU of each group lies within the bounds that its mean Dice sets.

    Returns
    -------
    dict
        "dice_and_iou_agree" and "iou_bounds" of the first group, None without scores; "checks", one for each group; "flags", a
        sentence for each group outside its bounds.
    """
    checks, flags = [], []
    for where, summaries in groups.items():
        dice, iou = summaries["dice"].mean, summaries["iou"].mean
        lo = hi = agree = None
        if dice is not None and iou is not None:
            (lo, hi), agree = iou_bounds(dice), check_consistency(dice, iou)
            if not agree:
                flags.append(f"{where}: IoU {iou:.4f} is outside of [{lo:.4f}, {hi:.4f}], which Dice {dice:.4f} allows")
        checks.append({"where": where, "dice": dice, "iou": iou, "lo": lo, "hi": hi, "agree": agree})
    first = checks[0]
    bounds = None if first["lo"] is None else (first["lo"], first["hi"])
    return {"dice_and_iou_agree": first["agree"], "iou_bounds": bounds, "checks": checks, "flags": flags}


def paper_convention(totals: Totals, source: str) -> dict[str, Any]:
    """The paper's measures, by slice, each with its convention."""
    means: dict[str, float | None] = {name: total / n if n else None for name, (total, n) in totals.paper.items()}
    dice, iou = means["dice"], means["iou"]
    return {
        "level": "slice",
        "empty": "one",
        "reduction": "macro",
        "classes": "foreground",
        "units": "1, distances in px",
        "distances": "directed, prediction to truth, over mask points; slices where either is empty left out",
        "ravd_empty": "slices without lesion left out",
        **means,
        "auc": None if totals.roc is None else _finite(totals.roc.auc()),
        "auc_source": source,
        "auc_error_bound": None if totals.roc is None else _finite(totals.roc.error_bound()),
        "conventions": {name: convention.as_dict() for name, convention in PAPER.items()},
        "n_slices": totals.paper["dice"][1],
        "n_slices_ravd": totals.paper["ravd"][1],
        "n_slices_distances": totals.paper["asd_px"][1],
        "dice_and_iou_agree": None if dice is None or iou is None else check_consistency(dice, iou),
    }
