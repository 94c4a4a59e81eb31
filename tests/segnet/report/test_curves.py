from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segnet.errors import InputError
from segnet.report import curves
from segnet.report.curves import curves_png, nice_ticks

WIDTH = curves.WIDTH


def has_colour(path: Path, rgb: tuple[int, int, int], half: int) -> bool:
    """Whether pixels of exactly this colour are in the left (0) or right (1) chart."""
    pixels = np.asarray(Image.open(path))[:, half * WIDTH : (half + 1) * WIDTH]
    return bool((pixels == rgb).all(axis=2).any())


def test_both_curves_are_drawn(tmp_path: Path) -> None:
    history = [
        {"epoch": i, "elapsed_s": 20.0 * (i + 1), "loss": 1 / (i + 1), "val_dice": i / 12 if i % 2 else None}
        for i in range(10)
    ]
    curves_png(tmp_path / "c.png", history)
    assert has_colour(tmp_path / "c.png", curves.LOSS_RGB, 0)
    assert has_colour(tmp_path / "c.png", curves.DICE_RGB, 1)
    assert not has_colour(tmp_path / "c.png", curves.DICE_RGB, 0)
    assert [p.name for p in tmp_path.iterdir()] == ["c.png"]


def test_higher_loss_is_drawn_higher(tmp_path: Path) -> None:
    rows = []
    for name, losses in (("falling", [1.0, 0.5, 0.1]), ("rising", [0.1, 0.5, 1.0])):
        path = tmp_path / f"{name}.png"
        curves_png(path, [{"epoch": i, "elapsed_s": i + 1.0, "loss": v} for i, v in enumerate(losses)])
        left = np.asarray(Image.open(path))[:, :WIDTH]
        line = np.argwhere((left == curves.LOSS_RGB).all(axis=2))
        line = line[line[:, 1] < WIDTH - curves.RIGHT]  # without the label of the end
        rows.append(line[line[:, 1].argmin(), 0] - line[line[:, 1].argmax(), 0])
    assert rows[0] < 0 < rows[1]


@pytest.mark.parametrize(
    "history",
    [
        [{"epoch": 0, "elapsed_s": 3.0, "loss": 0.0004}],
        [{"epoch": 0, "loss": 2.0}, {"epoch": 1, "loss": math.nan}, {"epoch": 2, "loss": 1.0}],
        [{"loss": 0.0}, {"loss": 0.0}],
        [{"epoch": 0, "elapsed_s": 0.0, "loss": -1.0}, {"epoch": 1, "elapsed_s": 1e6, "loss": 1e6}],
        [{"epoch": 0, "elapsed_s": 1.0, "loss": None, "val_dice": 0.5}],
    ],
)
def test_short_and_odd_histories(tmp_path: Path, history: list[dict[str, float | None]]) -> None:
    curves_png(tmp_path / "c.png", history)
    assert Image.open(tmp_path / "c.png").size == (2 * WIDTH, curves.HEIGHT)


@pytest.mark.parametrize("history", [[], [{"epoch": 0, "elapsed_s": 1.0, "loss": math.nan, "val_dice": None}]])
def test_nothing_to_draw_is_an_error(tmp_path: Path, history: list[dict[str, float | None]]) -> None:
    with pytest.raises(InputError, match="history: expected rows with a finite loss or val_dice"):
        curves_png(tmp_path / "c.png", history)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("lo", "hi"), [(0, 1), (0, 0.00037), (-3, 12), (0, 0), (5, 5), (0, 86399), (0.1, 0.11)])
def test_ticks_cover_the_range_in_even_steps(lo: float, hi: float) -> None:
    ticks = nice_ticks(lo, hi)
    steps = np.diff(ticks)
    assert 3 <= len(ticks) <= 9
    assert ticks[0] <= lo
    assert ticks[-1] >= hi
    np.testing.assert_allclose(steps, steps[0], rtol=1e-6)


def test_time_has_a_unit_that_suits(tmp_path: Path) -> None:
    assert curves._times([{"elapsed_s": 90.0}]) == ([90.0], "time (s)")
    assert curves._times([{"elapsed_s": 600.0}]) == ([10.0], "time (min)")
    assert curves._times([{"elapsed_s": 36000.0}]) == ([10.0], "time (h)")
    assert curves._times([{"elapsed_s": None, "epoch": 4}]) == ([4.0], "epoch")
