"""Tables that users write. A mistake is named with its line."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from segnet.errors import InputError
from segnet.io.names import nfc

Row = tuple[int, dict[str, str]]
"""Line number in the file, and cells by column."""


def read_csv(
    path: Path, argument: str, required: Sequence[str], optional: Sequence[str] = ()
) -> tuple[tuple[str, ...], list[Row]]:
    """Columns and rows of a CSV file; cells without surrounding spaces, in Unicode NFC. Empty lines do not count.

    Parameters
    ----------
    path : UTF-8, with or without a byte order mark
    argument : name of the table in messages
    required, optional : columns, in any order, each at most once

    Raises
    ------
    InputError
        The file cannot be read, it has other columns, or a line has another number of values.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, strict=True, skipinitialspace=True)
            columns = tuple(nfc(name.strip()) for name in next(reader, []))
            lines = [(reader.line_num, [nfc(cell.strip()) for cell in cells]) for cells in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{argument}: expected a CSV file in UTF-8, got {path} ({error}); check the path and quotes"
        ) from error
    perhaps = f" and perhaps {', '.join(optional)}" if optional else ""
    if len(set(columns)) != len(columns) or not set(required) <= set(columns) <= {*required, *optional}:
        raise InputError(
            f"{argument} {path}, line 1: expected the columns {', '.join(required)}{perhaps},"
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
