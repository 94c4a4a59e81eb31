"""Two evaluations over the same truths, paired by lesion."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from segnet.errors import InputError
from segnet.evaluation.conventions import CONVENTION_KEYS, METRICS
from segnet.evaluation.result import Evaluation, finite, interval_text
from segnet.evaluation.rows import LesionRow
from segnet.evaluation.sources import few
from segnet.metrics import PairedDifference, paired_difference
from segnet.runtime.files import write_text
from segnet.runtime.table import format_table, rounded

FORMAT = "segnet-compare-predictions/1"
PRIMARY = "dice"

CONVENTIONS = {
    "difference": "first less second, over lesions where both are finite; others are left out, counted",
    "interval": "95 %, percentile bootstrap of whole patients",
    "p_sign_flip": "two-sided, of the mean difference; signs of whole patients flipped",
    "p_wilcoxon": "two-sided signed-rank test of the patients' mean differences",
    "cohens_dz": "mean over patients of their mean difference, by its standard deviation",
    "rank_biserial": "of the patients' mean differences, matched pairs; 1 where all favour larger values of the first",
    "better": "lesions where the first is better, an infinite distance being the worst",
    "primary": "Dice; p-values are not corrected for the number of scores",
    "auc": "only lesions where both were computed from the same: probabilities or masks",
}


@dataclass(frozen=True)
class PairedEvaluation:
    """A first set of predictions minus a second, by score."""

    metrics: dict[str, PairedDifference]
    lesions: tuple[dict[str, Any], ...]
    provenance: dict[str, Any]

    def to_json(self) -> str:
        """Strict JSON, with null for missing numbers."""
        document = {
            "format": FORMAT,
            "provenance": self.provenance,
            "conventions": CONVENTIONS,
            "primary": PRIMARY,
            "metrics": {
                name: {**asdict(found), "better_is": METRICS[name].better, **METRICS[name].macro().as_dict()}
                for name, found in self.metrics.items()
            },
            "lesions": self.lesions,
        }
        return json.dumps(finite(document), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def to_table(self) -> str:
        """Plain text for a terminal."""
        rows = [
            {
                "score": METRICS[name].heading,
                "ci": interval_text(found.ci95_lo, found.ci95_hi),
                **asdict(found),
                **METRICS[name].macro().as_dict(),
                "p_sign_flip": p_text(found.p_sign_flip),
                "p_wilcoxon": p_text(found.p_wilcoxon),
            }
            for name, found in self.metrics.items()
        ]
        columns = {
            "score": "score",
            "mean_first": "first",
            "mean_second": "second",
            "difference": "difference",
            "ci": "95 % interval",
            "p_sign_flip": "p sign flip",
            "p_wilcoxon": "p Wilcoxon",
            "cohens_dz": "d_z",
            "rank_biserial": "r_rb",
            "better": "better",
            "worse": "worse",
            "equal": "equal",
            "n_lesions": "lesions",
            "n_patients": "patients",
            "n_left_out": "left out",
            **{key: key for key in CONVENTION_KEYS},
        }
        head = f"first {self.provenance['first']['predictions']} less second {self.provenance['second']['predictions']}"
        return "\n".join([head, format_table(rows, columns), "", *(f"{k}: {v}" for k, v in CONVENTIONS.items())]) + "\n"

    def write(self, folder: Path) -> None:
        """Writes comparison.json and comparison.txt into a folder, which is made if needed."""
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "comparison.json", self.to_json())
        write_text(folder / "comparison.txt", self.to_table())


def pair(first: Evaluation, second: Evaluation) -> PairedEvaluation:
    """Pair two evaluations by lesion.

    Raises
    ------
    InputError
        They are of different cases.
    """
    ours, theirs = ({row.case: row for row in e.rows} for e in (first, second))
    if ours.keys() != theirs.keys():
        raise InputError(
            f"second: expected the {len(ours)} cases of the first, got others: {few(sorted(ours.keys() ^ theirs.keys()))};"
            " evaluate both on the same truths"
        )
    pairs = [(ours[case], theirs[case]) for case in sorted(ours)]
    metrics = {}
    for name, metric in METRICS.items():
        values = [_values(a, b, name) for a, b in pairs]
        metrics[name] = paired_difference(
            [a for a, _ in values],
            [b for _, b in values],
            [a.patient for a, _ in pairs],
            larger_is_better=metric.better == "larger",
        )
    lesions = tuple(
        {
            "case": a.case,
            "patient": a.patient,
            "set": a.set,
            "size_class": a.size_class,
            "dice_first": a.dice,
            "dice_second": b.dice,
            "difference": a.dice - b.dice,
        }
        for a, b in pairs
    )
    return PairedEvaluation(metrics, lesions, {"first": first.provenance, "second": second.provenance})


def _values(first: LesionRow, second: LesionRow, name: str) -> tuple[float, float]:
    if name.startswith("auc") and first.auc_source != second.auc_source:
        return math.nan, math.nan
    return getattr(first, name), getattr(second, name)


def p_text(p: float | None, *, missing: str = "-") -> str:
    """Never 0.000, because no p-value is 0."""
    return missing if p is None else "<0.001" if p < 0.001 else rounded(p, 3)
