"""The table of all lesions: what the page's script sorts and filters, and its first rows for readers without script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segnet.report.documents import Document, Lesion
from segnet.report.numbers import fixed

FIRST = 100
"""Rows that stand in the page itself, and that each press of the button adds."""
WIDE = 2
"""Up to so many models have volume and long axis columns of their own."""
_OF_TRUTH = (("truth_volume_ml", "Volume, ml", 3), ("truth_long_mm", "Long axis, mm", 1))
_OF_MODEL = (
    ("dice", "Dice", 3),
    ("hd95_mm", "HD95, mm", 2),
    ("pred_volume_ml", "Volume, ml", 3),
    ("pred_long_mm", "Long axis, mm", 1),
)


@dataclass(frozen=True)
class LesionColumn:
    """A column; `digits` is None for text, `group` the model or the truth it is of."""

    label: str
    group: str = ""
    digits: int | None = None
    series: int | None = None


@dataclass(frozen=True)
class LesionList:
    """Columns, the raw values of all rows, and the texts of the first ones; `numbers` are the lesions' own sections, from 1, or 0."""

    columns: list[LesionColumn]
    rows: list[list[Any]]
    numbers: list[int]
    first: list[list[str]]

    @property
    def sorted_by(self) -> int:
        """Number of the column that the rows come sorted by: the Dice of the first model."""
        return next(k for k, column in enumerate(self.columns) if column.label == "Dice")

    def data(self) -> dict[str, Any]:
        """What the page's script reads."""
        return {
            "first": FIRST,
            "digits": [c.digits for c in self.columns],
            "rows": self.rows,
            "sections": self.numbers,
        }

    def groups(self) -> list[tuple[str, int, int | None]]:
        """Name, number of columns and series of each run of columns of one group."""
        out: list[tuple[str, int, int | None]] = []
        for column in self.columns:
            if out and out[-1][0] == column.group:
                out[-1] = (column.group, out[-1][1] + 1, column.series)
            else:
                out.append((column.group, 1, column.series))
        return out


def worst_first(document: Document) -> list[Lesion]:
    """Lesions by Dice from the lowest; those without one last."""

    def rank(row: Lesion) -> tuple[bool, float]:
        dice = row.number("dice")
        return (True, 0.0) if dice is None else (False, dice)

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
    texts = [("case", "Case"), ("patient", "Patient")]
    texts += [
        (k, label)
        for k, label in (("set", "Set"), ("size_class", "Size"))
        if len({getattr(r, k) for r in leading.values()}) > 1
    ]
    columns = [LesionColumn(label) for _, label in texts]
    columns += [LesionColumn(label, "Truth", digits) for _, label, digits in _OF_TRUTH]
    columns += [LesionColumn(label, name, digits, series[name]) for name in documents for _, label, digits in of_model]
    values: list[list[Any]] = []
    for case in ordered:
        row = leading[case]
        line: list[Any] = [getattr(row, k) for k, _ in texts]
        line += [row.number(k) for k, _, _ in _OF_TRUTH]
        line += [rows[name][case].number(k) for name in documents for k, _, _ in of_model]
        values.append(line)
    first = [
        [str(v) if c.digits is None else fixed(v, c.digits) for v, c in zip(line, columns, strict=True)]
        for line in values[:FIRST]
    ]
    return LesionList(columns, values, [sections.get(case, 0) for case in ordered], first)
