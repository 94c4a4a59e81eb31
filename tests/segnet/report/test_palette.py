"""Every text and every mark can be told from its ground in both themes, by WCAG 2's formula."""

from __future__ import annotations

import pytest

from segnet.report import palette
from segnet.report.palette import DARK, LIGHT, MARKS_ON, TEXT_ON, contrast


def test_contrast_of_known_colours() -> None:
    assert contrast("#000000", "#ffffff") == 21.0
    assert contrast("#777777", "#777777") == 1.0
    # 0x77 is just below AA on white, 0x76 just above: the pair that WCAG's own examples turn on
    assert contrast("#777777", "#ffffff") == pytest.approx(4.478, abs=5e-4)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.542, abs=5e-4)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_text_reaches_aa(theme: dict[str, str]) -> None:
    low = {(t, g): contrast(theme[t], theme[g]) for t, grounds in TEXT_ON.items() for g in grounds}
    assert all(ratio >= 4.5 for ratio in low.values()), {k: v for k, v in low.items() if v < 4.5}


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_marks_reach_three_to_one(theme: dict[str, str]) -> None:
    low = {(t, g): contrast(theme[t], theme[g]) for t, grounds in MARKS_ON.items() for g in grounds}
    assert all(ratio >= 3.0 for ratio in low.values()), {k: v for k, v in low.items() if v < 3.0}


def test_themes_name_the_same_colours_and_paper_is_light() -> None:
    assert LIGHT.keys() == DARK.keys()
    printed = palette.themes().split("@media print")[1]
    assert all(f"--{name}:{value};" in printed for name, value in LIGHT.items())
