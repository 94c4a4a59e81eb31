"""Rows as a plain-text or Markdown table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import ROUND_HALF_UP, Decimal, localcontext
from numbers import Integral, Real

HUGE = 1e15
"""Numbers from here on are printed with an exponent: their decimals carry no information."""


def rounded(value: float, digits: int) -> str:
    """A finite number with `digits` decimals. Halves round away from zero, as in JavaScript's toFixed.

    Examples
    --------
    >>> rounded(0.0625, 3), rounded(-0.5, 0), rounded(-0.0001, 2), rounded(-1e26, 3)
    ('0.063', '-1', '0.00', '-1.000e+26')
    """
    with localcontext(rounding=ROUND_HALF_UP):
        return f"{Decimal(value):z.{digits}{'f' if abs(value) < HUGE else 'e'}}"


def format_value(value: object, *, digits: int = 3) -> str:
    """One cell: floats with `digits` decimals, None and NaN as ``-``, anything else as text on one line."""
    if value is None:
        return "-"
    if isinstance(value, Real) and not isinstance(value, Integral):
        number = float(value)
        return rounded(number, digits) if math.isfinite(number) else "-" if math.isnan(number) else str(number)
    return " ".join(str(value).split())


def format_table(
    rows: Sequence[Mapping[str, object]],
    columns: Sequence[str] | Mapping[str, str],
    *,
    digits: int = 3,
    markdown: bool = False,
) -> str:
    """A table with one line per row. Columns of numbers are aligned right.

    Parameters
    ----------
    rows : a missing key prints as ``-``
    columns : keys in the order shown, or a mapping of key to heading
    digits : decimals of floats
    markdown : a pipe table instead of plain text; pipes in cells are escaped

    Examples
    --------
    >>> print(format_table([{"case": "a", "dice": 0.5}, {"case": "bc", "dice": None}], ["case", "dice"]))
    case      dice
    ------  ------
    a        0.500
    bc           -
    """
    from tabulate import tabulate

    headings = list(columns.values()) if isinstance(columns, Mapping) else list(columns)
    cells = [[format_value(row.get(key), digits=digits) for key in columns] for row in rows]
    if markdown:
        headings, *cells = ([cell.replace("|", "\\|") for cell in line] for line in [headings, *cells])
    align = ["right" if _numeric([row.get(key) for row in rows]) else "left" for key in columns]
    style = "pipe" if markdown else "simple"
    return tabulate(cells, headings, tablefmt=style, disable_numparse=True, colalign=align)


def _numeric(values: Sequence[object]) -> bool:
    known = [v for v in values if v is not None]
    return bool(known) and all(isinstance(v, Real) and not isinstance(v, bool) for v in known)
