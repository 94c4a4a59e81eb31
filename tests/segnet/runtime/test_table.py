from __future__ import annotations

import math

import numpy as np

from segnet.runtime.table import format_table, format_value


def test_numbers_align_right_and_text_left() -> None:
    rows = [{"case": "a", "dice": 0.5, "n": 3}, {"case": "long name", "dice": None, "n": 12}]
    heading, rule, *lines = format_table(rows, {"case": "Case", "dice": "Dice", "n": "n"}).split("\n")
    assert [line.split() for line in (heading, *lines)] == [
        ["Case", "Dice", "n"],
        ["a", "0.500", "3"],
        ["long", "name", "-", "12"],
    ]
    assert {len(line) for line in (heading, rule, *lines)} == {len(rule)}
    assert all(line[0] != " " for line in (heading, *lines))


def test_infinite_and_other_letters() -> None:
    rule, line = format_table([{"x": "ü" * 7, "y": math.inf}], ["x", "y"]).split("\n")[1:]
    assert line.split() == ["ü" * 7, "inf"]
    assert len(line) == len(rule)


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
    assert format_table([], ["case"]).split() == ["case", "------"]
    assert format_table([], ["case"], markdown=True).split("\n")[0].split() == ["|", "case", "|"]


def test_markdown_escapes_pipes() -> None:
    heading, rule, line = format_table([{"case": "a|b", "dice": 1.0}], ["case", "dice"], markdown=True).split("\n")
    assert heading.split() == ["|", "case", "|", "dice", "|"]
    assert [cell.strip("-") for cell in rule.split("|")] == ["", ":", ":", ""]
    assert line.split() == ["|", "a\\|b", "|", "1.000", "|"]
