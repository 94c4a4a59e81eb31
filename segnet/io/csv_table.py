"""Tables that users write, read strictly: a mistake is named with its line."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from segnet.errors import InputError

Row = tuple[int, dict[str, str]]
"""The number of a row's line in its file, and its cells by column."""


def read_csv(
    path: Path, argument: str, required: Sequence[str], optional: Sequence[str] = ()
) -> tuple[tuple[str, ...], list[Row]]:
    """Columns and rows of a CSV file, cells without the spaces around them. Empty lines do not count.

    Parameters
    ----------
    path : UTF-8, with or without a byte order mark
    argument : what the table is, for messages
    required, optional : columns, in any order, each at most once

    Raises
    ------
    InputError
        The file cannot be read, its columns are others, or a line has more or fewer values than they are.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, strict=True, skipinitialspace=True)
            columns = tuple(name.strip() for name in next(reader, []))
            lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{argument}: expected a CSV file in UTF-8, got {path} ({error}); check the path and quotes"
        ) from error
    if len(set(columns)) != len(columns) or not set(required) <= set(columns) <= {*required, *optional}:
        raise InputError(
            f"{argument} {path}, line 1: expected the columns {', '.join(required)}{' and perhaps ' if optional else ''}{', '.join(optional)},"
            f" got {', '.join(columns) or 'none'}; write them with commas between"
        )
    rows = []
    for line, cells in lines:
        if not any(cells):
            continue
        if len(cells) != len(columns):
            raise InputError(
                f"{argument} {path}, line {line}: expected {len(columns)} values, got {len(cells)}; count the commas"
            )
        rows.append((line, dict(zip(columns, cells, strict=True))))
    return columns, rows
