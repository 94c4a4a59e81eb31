"""The table of all lesions: data for the page's script, and the first rows as text for readers without script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from segnet.report.documents import Document, Lesion
from segnet.report.numbers import fixed

FIRST = 100
"""Rows in the page itself, and rows added by each press of the button."""
WIDE = 2
"""Up to this number of models, each has columns for volume and long axis."""
_OF_TRUTH = (("truth_volume_ml", "Volume, ml", 3), ("truth_long_mm", "Long axis, mm", 1))
_OF_MODEL = (
    ("dice", "Dice", 3),
    ("hd95_mm", "HD95, mm", 2),
    ("pred_volume_ml", "Volume, ml", 3),
    ("pred_long_mm", "Long axis, mm", 1),
)


@dataclass(frozen=True)
class LesionColumn:
    """A column. `digits` is None for text; `group` is "Truth" or the model's name."""

    label: str
    group: str = ""
    digits: int | None = None
    series: int | None = None


@dataclass(frozen=True)
class LesionList:
    """Columns, raw values of all rows, and texts of the first. `numbers` are the lesions' own sections, from 1, or 0."""

    columns: list[LesionColumn]
    rows: list[list[Any]]
    numbers: list[int]
    first: list[list[str]]

    @property
    def sorted_by(self) -> int:
        """Number of the column that rows are sorted by: Dice of the first model."""
        return next(k for k, column in enumerate(self.columns) if column.label == "Dice")

    def data(self) -> dict[str, Any]:
        """Input of the page's script."""
        digits = [c.digits for c in self.columns]
        return {"first": FIRST, "digits": digits, "rows": self.rows, "sections": self.numbers}

    def groups(self) -> list[tuple[str, int, int | None]]:
        """Name, number of columns and series of each group of columns."""
        runs = groupby(self.columns, key=lambda column: (column.group, column.series))
        return [(name, len(list(columns)), series) for (name, series), columns in runs]


def worst_first(document: Document) -> list[Lesion]:
    """Lesions by ascending Dice, lesions without one last."""

    def rank(row: Lesion) -> tuple[bool, float]:
        dice = row.number("dice")
        return dice is None, dice or 0.0

    return sorted(document.lesions, key=rank)


def lesion_list(
    documents: Mapping[str, Document], ordered: Sequence[str], series: Mapping[str, int], sections: Mapping[str, int]
) -> LesionList:
    """All lesions in the order given.

    Parameters
    ----------
    documents : evaluations of the same cases
    ordered : cases
    series : number of each model
    sections : number of a case's own section, where it has one
    """
    rows = {name: {row.case: row for row in d.lesions} for name, d in documents.items()}
    leading = next(iter(rows.values()))
    of_model = _OF_MODEL if len(documents) <= WIDE else _OF_MODEL[:2]
    texts = {"case": "Case", "patient": "Patient"}
    for key, label in (("set", "Set"), ("size_class", "Size")):
        if len({getattr(r, key) for r in leading.values()}) > 1:
            texts[key] = label
    columns = [LesionColumn(label) for label in texts.values()]
    columns += [LesionColumn(label, "Truth", digits) for _, label, digits in _OF_TRUTH]
    columns += [LesionColumn(label, name, digits, series[name]) for name in documents for _, label, digits in of_model]
    values = [
        [getattr(leading[case], key) for key in texts]
        + [leading[case].number(key) for key, _, _ in _OF_TRUTH]
        + [rows[name][case].number(key) for name in documents for key, _, _ in of_model]
        for case in ordered
    ]
    first = [
        [str(v) if c.digits is None else fixed(v, c.digits) for v, c in zip(line, columns, strict=True)]
        for line in values[:FIRST]
    ]
    return LesionList(columns, values, [sections.get(case, 0) for case in ordered], first)
