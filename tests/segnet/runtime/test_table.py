from __future__ import annotations

import math

import numpy as np

from segnet.runtime.table import format_table, format_value, markdown_table


def test_numbers_align_right_and_text_left() -> None:
    rows = [{"case": "a", "dice": 0.5, "n": 3}, {"case": "long name", "dice": None, "n": 12}]
    assert format_table(rows, {"case": "Case", "dice": "Dice", "n": "n"}).split("\n") == [
        "Case        Dice   n",
        "---------  -----  --",
        "a          0.500   3",
        "long name      -  12",
    ]


def test_lines_are_as_wide_as_the_rule_at_most() -> None:
    lines = format_table([{"x": "ü" * 7, "y": math.inf}], ["x", "y"]).split("\n")
    assert max(map(len, lines)) == len(lines[1]) == 7 + 2 + 3


def test_cells() -> None:
    assert format_value(np.float32(0.25)) == "0.250"
    assert format_value(np.int64(4)) == "4"
    assert format_value(True) == "True"
    assert format_value(math.nan) == "-"
    assert format_value(-math.inf) == "-inf"
    assert format_value(1.23456, digits=1) == "1.2"
    assert format_value("two\nlines\t") == "two lines"
    # halves away from zero, as the report has them; decimals of what is huge mean nothing
    assert (format_value(0.0625), format_value(-0.0625)) == ("0.063", "-0.063")
    assert (format_value(1e26), format_value(-9.9996e20)) == ("1.000e+26", "-1.000e+21")
    assert format_value(999999999999999.5, digits=1) == "999999999999999.5"


def test_no_rows_leave_the_heading() -> None:
    assert format_table([], ["case"]) == "case\n----"
    assert markdown_table([], ["case"]) == "| case |\n| --- |"


def test_markdown_escapes_pipes() -> None:
    text = markdown_table([{"case": "a|b", "dice": 1.0}], ["case", "dice"])
    assert text.split("\n") == ["| case | dice |", "| --- | ---: |", "| a\\|b | 1.000 |"]
