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


@dataclass(frozen=True)
class Spread:
    """One score over lesions, its quartiles and its interval over patients.

    What is not known is None: the mean where no lesion has a finite value, the bounds where fewer than two patients have one
    or the pooled score allows none, quartiles of pooled scores. `n_left_out` counts the lesions without a finite value.
    """

    mean: float | None
    median: float | None
    q1: float | None
    q3: float | None
    ci95_lo: float | None
    ci95_hi: float | None
    n_lesions: int
    n_patients: int
    n_left_out: int


@dataclass(frozen=True)
class Summary(Spread):
    """A `Spread` with every convention it was made under.

    `source` is "probability", "mask" or "mixed": what the score was computed from.
    """

    level: str
    empty: str
    reduction: str
    classes: str
    units: str
    source: str = "mask"


def spread(values: Sequence[tuple[str, float | None]]) -> Spread:
    """Mean, quartiles, and interval over patients of numbers given as (patient, number); those that are not finite are left out, counted."""
    by_patient: dict[str, list[float]] = {}
    for patient, value in values:
        if value is not None and math.isfinite(value):
            by_patient.setdefault(patient, []).append(value)
    pool = [v for of_patient in by_patient.values() for v in of_patient]
    mean, lo, hi = bootstrap_ci(by_patient) if pool else (math.nan,) * 3
    q1, median, q3 = np.percentile(pool, (25, 50, 75)).tolist() if pool else (None,) * 3
    return Spread(
        mean=finite_or_none(mean),
        median=median,
        q1=q1,
        q3=q3,
        ci95_lo=finite_or_none(lo),
        ci95_hi=finite_or_none(hi),
        n_lesions=len(pool),
        n_patients=len(by_patient),
        n_left_out=len(values) - len(pool),
    )


def finite_or_none(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def summarise(rows: Sequence[LesionRow]) -> dict[str, Summary]:
    """Every metric's macro summary over some lesions."""
    return {name: _macro(rows, name) for name in METRICS}


def _macro(rows: Sequence[LesionRow], name: str) -> Summary:
    values = asdict(spread([(row.patient, getattr(row, name)) for row in rows]))
    return Summary(
        **{**values, **METRICS[name].macro().as_dict()},
        source=source_of([row.auc_source for row in rows]) if name.startswith("auc") else "mask",
    )


def source_of(sources: Iterable[str]) -> str:
    """What the AUC of some lesions was computed from, given that of each."""
    found = set(sources)
    return found.pop() if len(found) == 1 else "mixed" if found else "mask"


def grouped(rows: Sequence[LesionRow], key: str, order: Sequence[str] = ()) -> dict[str, dict[str, Summary]]:
    """`summarise` by a field of the rows, the groups in `order`, then by name."""
    names = {getattr(row, key) for row in rows}
    ordered = [name for name in order if name in names] + sorted(names - set(order))
    return {name: summarise([row for row in rows if getattr(row, key) == name]) for name in ordered}


Parts = dict[str, tuple[float, float]]


@dataclass
class Totals:
    """Sums over lesions, which pooled scores are made of. They take the same memory for any number of voxels.

    Attributes
    ----------
    parts : for each metric that is a ratio of sums, numerator and denominator by patient
    calibrated : for each region of `calibration`, lesions with a map of probabilities that holds voxels there
    patients : of the lesions added; `distance_patients`, of those whose distances are known
    """

    parts: dict[str, Parts] = field(default_factory=dict)
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
        self._part("dice", row.patient, 2 * both, pred + truth)
        self._part("iou", row.patient, both, pred + truth - both)
        self._part("ravd", row.patient, abs(pred - truth), truth)
        for side in ("long", "short"):
            p, t = getattr(row, f"pred_{side}_mm"), getattr(row, f"truth_{side}_mm")
            self._part(f"{side}_axis_error", row.patient, abs(p - t), p + t)
        if result.distances is not None:
            self.n_distances += 1
            self.distance_patients.add(row.patient)
            (there, back), (there_mm, back_mm) = result.distances, result.distance_sums_mm
            self._part("asd_mm", row.patient, there_mm, int(there.sum()))
            self._part("assd_mm", row.patient, there_mm + back_mm, int(there.sum() + back.sum()))
            self.distances = [_added(a, b) for a, b in zip(self.distances, result.distances, strict=True)]
        self.roc = result.roc if self.roc is None else self.roc + result.roc
        if result.roc_box is not None:
            self.roc_box = result.roc_box if self.roc_box is None else self.roc_box + result.roc_box
        for region, counts in (result.calibration or {}).items():
            self.calibration[region] = self.calibration.get(region, Calibration.none()) + counts
            self.calibrated[region] = self.calibrated.get(region, 0) + (counts.voxels > 0)
        for name, (total, n) in result.paper.items():
            before = self.paper.get(name, (0.0, 0))
            self.paper[name] = (before[0] + total, before[1] + n)

    def _part(self, name: str, patient: str, above: float, below: float) -> None:
        parts = self.parts.setdefault(name, {})
        old = parts.get(patient, (0.0, 0.0))
        parts[patient] = (old[0] + above, old[1] + below)


def _added(a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
    longer, shorter = (a, b) if len(a) >= len(b) else (b, a)
    out = longer.copy()
    out[: len(shorter)] += shorter
    return out


def pooled(totals: Totals, rows: Sequence[LesionRow]) -> dict[str, Summary]:
    """Every metric over all lesions' voxels together; with intervals where it is a ratio of sums."""
    out = {}
    source = source_of(row.auc_source for row in rows)
    for name, metric in METRICS.items():
        lo = hi = None
        lesions, patients = totals.n_lesions, len(totals.patients)
        if metric.units == "mm":
            lesions, patients = totals.n_distances, len(totals.distance_patients)
        if name in ("hd_mm", "hd95_mm"):
            value: float | None = _distance(totals, 100.0 if name == "hd_mm" else 95.0)
        elif name == "auc":
            value = totals.roc.auc() if totals.roc is not None else None
        elif name == "auc_box":
            value = totals.roc_box.auc() if totals.roc_box is not None else None
        else:
            value, lo, hi = bootstrap_ratio_ci(totals.parts.get(name, {}))
        out[name] = Summary(
            mean=finite_or_none(value),
            median=None,
            q1=None,
            q3=None,
            ci95_lo=finite_or_none(lo),
            ci95_hi=finite_or_none(hi),
            n_lesions=lesions,
            n_patients=patients,
            n_left_out=totals.n_lesions - lesions,
            **metric.pooled().as_dict(),
            source=source if name.startswith("auc") else "mask",
        )
    return out


def _distance(totals: Totals, percentile: float) -> float | None:
    """Larger directed percentile of all lesions' distances, each to the nearest `DISTANCE_STEP_MM`, interpolated as `np.percentile` does."""
    found = []
    for counts in totals.distances:
        if counts.sum() == 0:
            return None
        ends = np.cumsum(counts)
        rank = percentile / 100.0 * (int(ends[-1]) - 1)
        low, high = (int(np.searchsorted(ends, k + 1)) for k in (math.floor(rank), math.ceil(rank)))
        found.append((low + (rank - math.floor(rank)) * (high - low)) * DISTANCE_STEP_MM)
    return max(found)


def calibration(totals: Totals) -> dict[str, Any] | None:
    """By region the errors of all lesions' probabilities, and how many lesions had them; None where none had."""
    return {
        region: counts.as_dict()
        | {"n_lesions": totals.calibrated[region], "n_left_out": totals.n_lesions - totals.calibrated[region]}
        for region, counts in totals.calibration.items()
    } or None


def consistency(groups: Mapping[str, Mapping[str, Summary]]) -> dict[str, Any]:
    """Whether the mean IoU of each group lies within what its mean Dice allows.

    Returns
    -------
    dict
        "dice_and_iou_agree" and "iou_bounds" of the first group, None where it has no scores; "checks", one a group; "flags",
        a sentence for each group that is outside.
    """
    checks, flags = [], []
    for where, summaries in groups.items():
        dice, iou = summaries["dice"].mean, summaries["iou"].mean
        if dice is None or iou is None:
            checks.append({"where": where, "dice": dice, "iou": iou, "lo": None, "hi": None, "agree": None})
            continue
        lo, hi = iou_bounds(dice)
        agree = check_consistency(dice, iou)
        checks.append({"where": where, "dice": dice, "iou": iou, "lo": lo, "hi": hi, "agree": agree})
        if not agree:
            flags.append(f"{where}: IoU {iou:.4f} is outside of [{lo:.4f}, {hi:.4f}], which Dice {dice:.4f} allows")
    first = checks[0]
    bounds = None if first["lo"] is None else (first["lo"], first["hi"])
    return {"dice_and_iou_agree": first["agree"], "iou_bounds": bounds, "checks": checks, "flags": flags}


def paper_convention(totals: Totals, source: str) -> dict[str, Any]:
    """The paper's measures, by slice, each with its convention."""
    means: dict[str, float | None] = {name: total / n if n else None for name, (total, n) in totals.paper.items()}
    agree = None
    if means["dice"] is not None and means["iou"] is not None:
        agree = check_consistency(means["dice"], means["iou"])
    return {
        "level": "slice",
        "empty": "one",
        "reduction": "macro",
        "classes": "foreground",
        "units": "1, distances in px",
        "distances": "directed, prediction to truth, over mask points; slices where either is empty left out",
        "ravd_empty": "slices without lesion left out",
        **means,
        "auc": None if totals.roc is None else finite_or_none(totals.roc.auc()),
        "auc_source": source,
        "auc_error_bound": None if totals.roc is None else finite_or_none(totals.roc.error_bound()),
        "conventions": {name: convention.as_dict() for name, convention in PAPER.items()},
        "n_slices": totals.paper["dice"][1],
        "n_slices_ravd": totals.paper["ravd"][1],
        "n_slices_distances": totals.paper["asd_px"][1],
        "dice_and_iou_agree": agree,
    }
