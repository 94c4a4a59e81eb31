"""Fields of view in mm: interpolation, click maps, slices at a distance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segnet.config import Config, FieldsConfig
from segnet.dataset.fields import Field, between, mixed, side_for, soft_range

SPACING = (2.5, 0.7, 0.9)


def _cut(field: Field, plane: np.ndarray) -> np.ndarray:
    (ys, down), (xs, across) = field.weights(0, plane.shape[0]), field.weights(1, plane.shape[1])
    return down @ plane[ys, xs] @ across.T


@given(st.floats(10, 300), st.floats(20, 60), st.floats(20, 60))
def test_a_ramp_stays_a_ramp(side: float, y: float, x: float) -> None:
    """Linear interpolation is exact on a ramp; a triangle as well, wherever it lies inside the image."""
    field = Field(side, (y, x), 32, SPACING)
    plane = np.add.outer(np.arange(80.0), 2 * np.arange(90.0))
    steps = (np.arange(32) + 0.5 - 16) * side / 32
    ys, xs = y + steps / SPACING[1], x + steps / SPACING[2]
    reach = max(1, side / 32 / SPACING[1])
    inside = np.ix_((ys > reach) & (ys < 79 - reach), (xs > reach) & (xs < 89 - reach))
    # triangles of weights that lie unevenly on the pixels move their centre by less than a quarter of a pixel
    np.testing.assert_allclose(_cut(field, plane)[inside], np.add.outer(ys, 2 * xs)[inside], atol=0.25 * 3)


def test_interpolation_between_pixels_is_linear() -> None:
    field = Field(8 * 0.7, (10.5, 10.5), 8, (1, 0.7, 0.7))
    plane = np.random.default_rng(0).random((20, 20))
    wanted = (plane[:-1, :-1] + plane[1:, :-1] + plane[:-1, 1:] + plane[1:, 1:]) / 4
    # pixels of the input lie on half indices and whole ones in turn: centre 10.5, steps of one pixel
    np.testing.assert_allclose(_cut(field, plane), plane[7:15, 7:15], atol=1e-6)
    moved = Field(8 * 0.7, (11.0, 11.0), 8, (1, 0.7, 0.7))
    np.testing.assert_allclose(_cut(moved, plane), wanted[7:15, 7:15], atol=1e-6)


def test_beyond_the_edge_lies_black() -> None:
    field = Field(64.0, (0.0, 0.0), 32, (1, 1, 1))
    seen = _cut(field, np.ones((40, 40)))
    assert seen[:15].max() == 0
    assert seen[17:, 17:].min() == pytest.approx(1)


@pytest.mark.parametrize("side", [44.0, 88.0])
def test_a_smooth_plane_returns(side: float) -> None:
    """To the field of view and back: a smooth plane loses what linear interpolation loses."""
    y, x = np.mgrid[:80, :90] * np.array([0.7, 0.9])[:, None, None]
    plane = np.sin(y / 9) * np.cos(x / 8)
    field = Field(side, (40.0, 45.0), 64, SPACING)
    (ys, down), (xs, across) = field.inverse(0, 80), field.inverse(1, 90)
    back = down @ _cut(field, plane) @ across.T
    # h^2 / 8 |f''| for each of two interpolations along each of two axes, h = pixel of the input or of the image
    bound = 2 * 2 * max(side / 64, 0.9) ** 2 / 8 / 8**2
    assert np.abs(back - plane[ys, xs])[2:-2, 2:-2].max() < bound * 1.5


def test_click_maps_follow_the_distance_in_mm() -> None:
    field, click, z = Field(44.0, (40.0, 45.0), 16, SPACING), (10.2, 41.0, 50.0), 13
    steps = (np.arange(16) + 0.5 - 8) * 44 / 16
    y = steps + 40.0 * 0.7 - 41.0 * 0.7
    x = steps + 45.0 * 0.9 - 50.0 * 0.9
    squared = ((z - 10.2) * 2.5) ** 2 + np.add.outer(y**2, x**2)
    for got, s in zip(field.click_maps(click, z, (4.0, 9.0)), (4.0, 9.0), strict=True):
        np.testing.assert_allclose(got, np.exp(-squared / (2 * s * s)), rtol=1e-5, atol=1e-7)


@given(st.floats(-5, 15))
def test_positions_between_slices(position: float) -> None:
    planes = [np.full((2, 2), z, np.float32) for z in range(8)]
    parts = between(position, 8)
    assert sum(w for _, w in parts) == pytest.approx(1)
    wanted = min(max(position, 0), 7)
    assert mixed(planes.__getitem__, position, 8).max() == pytest.approx(wanted, abs=1e-5)


def test_sides_by_extent() -> None:
    fields = FieldsConfig(sides_mm=(40, 80, 160))
    assert [side_for(mm, fields) for mm in (1, 24, 24.1, 48, 49, 500)] == [0, 0, 1, 1, 2, 2]


def test_the_soft_tissue_window_in_the_wide_one() -> None:
    low, high = soft_range(FieldsConfig(soft_hu=(-160, 240)), (-1000, 400))
    assert (low, high) == (pytest.approx(0.6), pytest.approx(1240 / 1400))


def test_fields_decide_the_channels() -> None:
    config = Config.model_validate({"data": {"fields": {"offsets_mm": (-3, 0, 3)}}})
    assert (config.model.in_channels, config.model.guide_channels, config.model.inputs) == (3, 3, 6)
    for wrong in (
        {"data": {"fields": {}}, "model": {"in_channels": 1}},
        {"model": {"guide_channels": 3}},
        {"data": {"fields": {}, "split": "slice-paper"}},
        {"data": {"fields": {"sides_mm": (80, 40)}}},
        {"data": {"fields": {"offsets_mm": (-3, 3)}}},
    ):
        with pytest.raises(ValueError, match="expected"):
            Config.model_validate(wrong)
