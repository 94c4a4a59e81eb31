"""Tables of paired differences: the first model against each other one, lesion by lesion."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from segnet.evaluation.paired import CONVENTIONS, p_text
from segnet.metrics import paired_difference
from segnet.report.documents import Document, Lesion
from segnet.report.numbers import MISSING, count, metric, order, span
from segnet.report.tables import Cell, Column, Table, cell, sentence, whole

_METRICS = ("dice", "hd95_mm", "long_axis_error")
_COLUMNS = (
    Column("Metric", numeric=False),
    Column("First"),
    Column("Second"),
    Column("First less second"),
    Column("p, sign flips"),
    Column("p, Wilcoxon"),
    Column("Cohen's d_z"),
    Column("Rank-biserial"),
    Column("Better / worse / equal"),
    Column("Lesions"),
)
_SUBJECTS = {
    "p_sign_flip": "p, sign flips",
    "p_wilcoxon": "p, Wilcoxon",
    "cohens_dz": "Cohen's d_z",
    "rank_biserial": "rank-biserial",
    "auc": "AUC",
}
"""Names in the table of the subjects of conventions."""
_DIRECTION = {"up": "higher is better", "down": "lower is better"}
_BELOW = "Below each difference: its interval. Below each metric: the better direction; where lower is better, a difference below 0 favours the first."


def paired_tables(documents: Mapping[str, Document], file: Mapping[str, Any] | None) -> tuple[list[Table], list[str]]:
    """The first model against each other one, and warnings.

    Parameters
    ----------
    documents : evaluations of the same cases
    file : result of `read_comparison`; used for the two models whose masks it is of, if its lesions are the ones shown.
        The other models are paired from the rows of their evaluations
    """
    (first_name, first), *others = documents.items()
    tables, warnings = {}, []
    if file is not None:
        rows = file.get("lesions")
        cases = {str(row.get("case")) for row in (rows if isinstance(rows, list) else ()) if isinstance(row, Mapping)}
        if cases == {row.case for row in first.lesions}:
            names = _models(file, documents)
            conventions = file.get("conventions")
            found = {m: values for m, values in file["metrics"].items() if isinstance(values, Mapping)}
            tables[names] = _table(*names, found, conventions if isinstance(conventions, Mapping) else {})
        else:
            warnings.append(
                f"The comparison's file is of {count(len(cases), 'lesion')}, not of the {count(len(first.lesions), 'lesion')} shown here,"
                " so it is left out."
            )
    for name, other in others:
        if (first_name, name) not in tables and (found := _from_rows(first, other)):
            conventions = {k: v for k, v in CONVENTIONS.items() if k != "auc"}
            tables[first_name, name] = _table(first_name, name, found, conventions)
    return list(tables.values()), warnings


def _from_rows(first: Document, other: Document) -> dict[str, Mapping[str, Any]]:
    theirs = {row.case: row for row in other.lesions}
    return {
        m: asdict(
            paired_difference(
                [_value(row, m) for row in first.lesions],
                [_value(theirs[row.case], m) for row in first.lesions],
                [row.patient for row in first.lesions],
                larger_is_better=metric(m).better == "up",
            )
        )
        for m in _METRICS
        if m in first.summary and m in other.summary
    }


def _models(file: Mapping[str, Any], documents: Mapping[str, Document]) -> tuple[str, str]:
    """Names of the two models of a file: the name of the evaluation of the same masks, else that of their folder."""
    models = {str(d.provenance.get("predictions")): name for name, d in documents.items()}
    provenance = file.get("provenance")

    def name(side: str) -> str:
        told = provenance.get(side) if isinstance(provenance, Mapping) else None
        path = told.get("predictions") if isinstance(told, Mapping) else None
        return models.get(str(path), Path(str(path)).name) if path else side

    return name("first"), name("second")


def _table(first: str, second: str, found: Mapping[str, Mapping[str, Any]], conventions: Mapping[str, Any]) -> Table:
    rows = []
    for m in order(set(found)):
        values, digits = found[m], metric(m).digits
        counts = (whole(values.get(key)).text for key in ("better", "worse", "equal"))
        left_out = values.get("n_left_out")
        rows.append(
            (
                Cell(
                    metric(m).label + (" (mm)" if m.endswith("_mm") else ""), below=_DIRECTION.get(metric(m).better, "")
                ),
                cell(values.get("mean_first"), digits),
                cell(values.get("mean_second"), digits),
                cell(values.get("difference"), digits, span(values.get("ci95_lo"), values.get("ci95_hi"), digits)),
                *(Cell(p_text(values.get(k), missing=MISSING), values.get(k)) for k in ("p_sign_flip", "p_wilcoxon")),
                *(cell(values.get(k), 2) for k in ("cohens_dz", "rank_biserial")),
                Cell(" / ".join(counts)),
                whole(values.get("n_lesions"), f"{left_out:,} left out" if left_out else ""),
            )
        )
    lines = [sentence(f"{_SUBJECTS.get(key, key)}: {text}") for key, text in conventions.items()]
    return Table(f"{first} (first) and {second} (second)", _COLUMNS, tuple(rows), (*lines, _BELOW))


def _value(row: Lesion, name: str) -> float:
    """A score of a row. A missing distance is infinite where one mask alone is empty, else NaN."""
    value = row.number(name)
    if value is not None:
        return value
    volumes = (row.number("pred_volume_ml"), row.number("truth_volume_ml"))
    one_empty = None not in volumes and (volumes[0] == 0) != (volumes[1] == 0)
    return math.inf if name.endswith("_mm") and one_empty else math.nan
