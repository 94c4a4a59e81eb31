"""Models against the first one, lesion by lesion: as a comparison's file has it, or from the rows of the evaluations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from segnet.evaluation.comparison import CONVENTIONS, p_text
from segnet.metrics import compare_paired
from segnet.report.documents import Document, Lesion
from segnet.report.numbers import MISSING, count, fixed, metric, order, span
from segnet.report.tables import Cell, Column, Table, sentence

_COMPARED = ("dice", "hd95_mm", "long_axis_error")
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
_CALLED = {
    "p_sign_flip": "p, sign flips",
    "p_wilcoxon": "p, Wilcoxon",
    "cohens_dz": "Cohen's d_z",
    "rank_biserial": "rank-biserial",
    "auc": "AUC",
}
"""What the table calls the subjects of a comparison's conventions."""
_DIRECTION = {"up": "higher is better", "down": "lower is better"}
_BELOW = "Below the difference: its interval. Below a metric: which direction is better; where lower is, a difference below 0 favours the first."


def comparison_tables(
    documents: Mapping[str, Document], file: Mapping[str, Any] | None
) -> tuple[list[Table], list[str]]:
    """The first model against each other one, and what is to be said of it.

    Parameters
    ----------
    documents : evaluations of the same cases
    file : what `read_comparison` gave; it stands for the models whose masks it compared, where its lesions are those shown. All others
        are compared from the rows of their evaluations
    """
    (first_name, first), *others = documents.items()
    said, used = [], None
    if file is not None:
        names, cases = _compared(file, documents), _cases(file)
        if cases == {row.case for row in first.lesions}:
            used = names
        else:
            said.append(
                f"The comparison's file is of {count(len(cases), 'lesion')}, not of the {count(len(first.lesions), 'lesion')} shown here,"
                " so it is left out."
            )
    tables = []
    if file is not None and used is not None and (used[0] != first_name or used[1] not in documents):
        tables.append(_from_file(file, used))
    for name, other in others:
        if file is not None and used == (first_name, name):
            tables.append(_from_file(file, used))
        elif found := _from_rows(first, other):
            lines = {k: v for k, v in CONVENTIONS.items() if k != "auc"}
            tables.append(_table(first_name, name, found, lines))
    return tables, said


def _from_rows(first: Document, other: Document) -> dict[str, dict[str, Any]]:
    theirs = {row.case: row for row in other.lesions}
    return {
        m: asdict(
            compare_paired(
                [_value(row, m) for row in first.lesions],
                [_value(theirs[row.case], m) for row in first.lesions],
                [row.patient for row in first.lesions],
                larger_is_better=metric(m).better == "up",
            )
        )
        for m in _COMPARED
        if m in first.summary and m in other.summary
    }


def _from_file(file: Mapping[str, Any], names: tuple[str, str]) -> Table:
    told = file.get("conventions")
    found = {m: values for m, values in file["metrics"].items() if isinstance(values, Mapping)}
    return _table(*names, found, told if isinstance(told, Mapping) else {})


def _compared(file: Mapping[str, Any], documents: Mapping[str, Document]) -> tuple[str, str]:
    """The models of a comparison's file, called as the evaluation of the same masks is, else as their folder."""
    models = {str(d.provenance.get("predictions")): name for name, d in documents.items()}
    provenance = file.get("provenance")
    names = []
    for side in ("first", "second"):
        told = provenance.get(side) if isinstance(provenance, Mapping) else None
        path = told.get("predictions") if isinstance(told, Mapping) else None
        names.append(models.get(str(path), Path(str(path)).name) if path else side)
    return names[0], names[1]


def _cases(file: Mapping[str, Any]) -> set[str]:
    rows = file.get("lesions")
    return {str(row.get("case")) for row in rows if isinstance(row, Mapping)} if isinstance(rows, list) else set()


def _table(first: str, second: str, found: Mapping[str, Mapping[str, Any]], conventions: Mapping[str, Any]) -> Table:
    rows = []
    for m in order(set(found)):
        values, digits = found[m], metric(m).digits
        units = " (mm)" if m.endswith("_mm") else ""
        interval = span(values.get("ci95_lo"), values.get("ci95_hi"), digits)
        counts = [values.get(k) for k in ("better", "worse", "equal")]
        n, left = values.get("n_lesions"), values.get("n_left_out")
        rows.append(
            (
                Cell(metric(m).label + units, below=_DIRECTION.get(metric(m).better, "")),
                *(Cell(fixed(values.get(k), digits), values.get(k)) for k in ("mean_first", "mean_second")),
                Cell(
                    fixed(values.get("difference"), digits),
                    values.get("difference"),
                    "" if interval == MISSING else interval,
                ),
                *(Cell(p_text(values.get(k), missing=MISSING), values.get(k)) for k in ("p_sign_flip", "p_wilcoxon")),
                *(Cell(fixed(values.get(k), 2), values.get(k)) for k in ("cohens_dz", "rank_biserial")),
                Cell(" / ".join(MISSING if c is None else f"{c:,}" for c in counts)),
                Cell(MISSING if n is None else f"{n:,}", n, f"{left:,} left out" if left else ""),
            )
        )
    lines = [sentence(f"{_CALLED.get(key, key)}: {text}") for key, text in conventions.items()]
    return Table(f"{first} (first) and {second} (second)", _COLUMNS, tuple(rows), (*lines, _BELOW))


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
