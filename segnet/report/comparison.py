"""Models against the first one, lesion by lesion: as a comparison's file has it, or from the rows of the evaluations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from segnet.metrics import compare_paired
from segnet.report.documents import Document, Lesion
from segnet.report.numbers import MISSING, fixed, metric, order, span
from segnet.report.tables import Cell, Column, Table

_COMPARED = ("dice", "hd95_mm", "long_axis_error")
_COLUMNS = (
    Column("Metric", numeric=False),
    Column("First"),
    Column("Second"),
    Column("First less second"),
    Column("p, sign flips"),
    Column("p, Wilcoxon"),
    Column("Cohen's d"),
    Column("Rank-biserial"),
    Column("Better / worse / equal"),
    Column("Lesions"),
)
_LINES = (
    "Paired by lesion; intervals and tests draw or flip whole patients. p is two-sided and of one metric each, not corrected for several.",
    "Better, worse, equal: lesions where the first model is. Below the difference: its 95 % interval.",
)


def paired_tables(documents: Mapping[str, Document]) -> list[Table]:
    """The first model against each other one, from the rows of both evaluations, which have the same cases."""
    (first_name, first), *others = documents.items()
    tables = []
    for name, other in others:
        theirs = {row.case: row for row in other.lesions}
        found = {}
        for m in _COMPARED:
            if m not in first.summary or m not in other.summary:
                continue
            found[m] = asdict(
                compare_paired(
                    [_value(row, m) for row in first.lesions],
                    [_value(theirs[row.case], m) for row in first.lesions],
                    [row.patient for row in first.lesions],
                    larger_is_better=metric(m).better == "up",
                )
            )
        if found:
            tables.append(_table(first_name, name, found))
    return tables


def comparison_tables(comparison: Mapping[str, Any], documents: Mapping[str, Document]) -> list[Table]:
    """The table of a comparison's file, of all scores it has; models are called as the evaluation of the same masks is."""
    models = {str(d.provenance.get("predictions")): name for name, d in documents.items()}
    provenance = comparison.get("provenance")
    names = []
    for side in ("first", "second"):
        told = provenance.get(side) if isinstance(provenance, Mapping) else None
        path = told.get("predictions") if isinstance(told, Mapping) else None
        names.append(models.get(str(path), Path(str(path)).name) if path else side)
    found = {m: values for m, values in comparison["metrics"].items() if isinstance(values, Mapping)}
    return [_table(names[0], names[1], found)] if found else []


def _table(first: str, second: str, found: Mapping[str, Mapping[str, Any]]) -> Table:
    rows = []
    for m in order(set(found)):
        values, digits = found[m], metric(m).digits
        units = " (mm)" if m.endswith("_mm") else ""
        interval = span(values.get("ci95_lo"), values.get("ci95_hi"), digits)
        counts = [values.get(k) for k in ("better", "worse", "equal")]
        n, left = values.get("n_lesions"), values.get("n_left_out")
        rows.append(
            (
                Cell(metric(m).label + units),
                *(Cell(fixed(values.get(k), digits), values.get(k)) for k in ("mean_first", "mean_second")),
                Cell(
                    fixed(values.get("difference"), digits),
                    values.get("difference"),
                    "" if interval == MISSING else interval,
                ),
                *(Cell(_p(values.get(k)), values.get(k)) for k in ("p_sign_flip", "p_wilcoxon")),
                *(Cell(fixed(values.get(k), 2), values.get(k)) for k in ("cohens_dz", "rank_biserial")),
                Cell(" / ".join(MISSING if c is None else f"{c:,}" for c in counts)),
                Cell(MISSING if n is None else f"{n:,}", n, f"{left:,} left out" if left else ""),
            )
        )
    return Table(f"{first} (first) and {second} (second)", _COLUMNS, tuple(rows), _LINES)


def _value(row: Lesion, name: str) -> float:
    """A score of a row; a distance is infinite where one mask alone is empty, which its file says by null."""
    value = row.number(name)
    if value is not None:
        return value
    volumes = (row.number("pred_volume_ml"), row.number("truth_volume_ml"))
    return (
        math.inf
        if name.endswith("_mm") and None not in volumes and (volumes[0] == 0) != (volumes[1] == 0)
        else math.nan
    )


def _p(value: float | None) -> str:
    return "< 0.001" if value is not None and value < 0.001 else fixed(value, 3)
