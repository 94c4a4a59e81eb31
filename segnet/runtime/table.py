"""Rows as an aligned plain-text table or a Markdown table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import ROUND_HALF_UP, Decimal
from numbers import Integral, Real

Columns = Sequence[str] | Mapping[str, str]
"""Keys of the rows in the order shown, or keys mapped to the headings to print."""


HUGE = 1e15
"""From here on numbers are printed with an exponent: their decimals mean nothing."""


def rounded(value: float, digits: int) -> str:
    """A finite number with `digits` decimals, halves away from zero as JavaScript's toFixed; from `HUGE` on with an exponent.

    Examples
    --------
    >>> rounded(0.0625, 3), rounded(-0.5, 0), rounded(-0.0001, 2), rounded(-1e26, 3)
    ('0.063', '-1', '0.00', '-1.000e+26')
    """
    exact = Decimal(value)
    step = Decimal(1).scaleb(-digits)
    if abs(exact) < Decimal(HUGE):
        text = str(exact.quantize(step, ROUND_HALF_UP))
        return text.removeprefix("-") if not any(c in "123456789" for c in text) else text
    power = exact.adjusted()
    head = exact.scaleb(-power).quantize(step, ROUND_HALF_UP)
    if abs(head) == 10:
        head, power = head.scaleb(-1).quantize(step), power + 1
    return f"{head}e+{power}"


def format_value(value: object, *, digits: int = 3) -> str:
    """One cell: floats with `digits` decimals, None and NaN as ``-``, anything else as text on one line."""
    if value is None:
        return "-"
    if isinstance(value, Real) and not isinstance(value, Integral):
        number = float(value)
        if math.isfinite(number):
            return rounded(number, digits)
        return "-" if math.isnan(number) else str(number)
    return " ".join(str(value).split())


def format_table(rows: Sequence[Mapping[str, object]], columns: Columns, *, digits: int = 3) -> str:
    """Plain-text table: a heading, a rule, one line per row; columns with numbers only are aligned right.

    Parameters
    ----------
    rows : one mapping per line; a key that is missing prints as ``-``
    columns : keys in order, or a mapping of key to heading
    digits : decimals of floats

    Examples
    --------
    >>> print(format_table([{"case": "a", "dice": 0.5}, {"case": "bc", "dice": None}], ["case", "dice"]))
    case   dice
    ----  -----
    a     0.500
    bc        -
    """
    headings, cells, right = _cells(rows, columns, digits)
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    lines = [headings, ["-" * w for w in widths], *cells]
    return "\n".join(
        "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)).rstrip()
        for line in lines
    )


def markdown_table(rows: Sequence[Mapping[str, object]], columns: Columns, *, digits: int = 3) -> str:
    """The same table in Markdown, pipes in cells escaped.

    Examples
    --------
    >>> print(markdown_table([{"case": "a", "dice": 0.5}], {"case": "Case", "dice": "Dice"}))
    | Case | Dice |
    | --- | ---: |
    | a | 0.500 |
    """
    headings, cells, right = _cells(rows, columns, digits)
    rule = ["---:" if r else "---" for r in right]
    escaped = [[c.replace("|", "\\|") for c in line] for line in [headings, *cells]]
    return "\n".join("| " + " | ".join(line) + " |" for line in [escaped[0], rule, *escaped[1:]])


def _cells(
    rows: Sequence[Mapping[str, object]], columns: Columns, digits: int
) -> tuple[list[str], list[list[str]], list[bool]]:
    keys = list(columns)
    headings = [str(columns[k]) for k in keys] if isinstance(columns, Mapping) else keys
    cells = [[format_value(row.get(k), digits=digits) for k in keys] for row in rows]
    right = []
    for key in keys:
        values = [row.get(key) for row in rows if row.get(key) is not None]
        right.append(bool(values) and all(isinstance(v, Real) and not isinstance(v, bool) for v in values))
    return headings, cells, right
