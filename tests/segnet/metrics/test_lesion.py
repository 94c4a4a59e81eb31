"""What is measured in one mask: axes that can be drawn, volume, HU, parts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from segnet import metrics
from segnet.errors import InputError

SPACING = (2.5, 0.8, 0.7)


def ball(shape: tuple[int, int, int], centre: tuple[float, float, float], radius_mm: float) -> np.ndarray:
    z, y, x = np.indices(shape)
    offsets = [(a - c) * s for a, c, s in zip((z, y, x), centre, SPACING, strict=True)]
    return sum(o**2 for o in offsets) <= radius_mm**2


def length_mm(ends: tuple[tuple[float, float], tuple[float, float]]) -> float:
    return math.hypot(*((np.array(ends[0]) - np.array(ends[1])) * SPACING[1:]))


@pytest.mark.parametrize("seed", range(20))
def test_axes_are_the_lines_they_say(seed: int) -> None:
    """On random blobs: the ends are as far apart as the lengths, at right angles in mm, in the slice, within its box."""
    noise = np.random.default_rng(seed).standard_normal((5, 30, 34))
    mask = ndimage.gaussian_filter(noise, (0.5, 3, 3)) > 0.03
    axes = metrics.recist(mask, SPACING)
    assert axes is not None
    assert (axes.long_mm, axes.short_mm) == metrics.recist_axes_mm(mask, SPACING)
    assert length_mm(axes.long_yx) == pytest.approx(axes.long_mm, rel=1e-12)
    assert length_mm(axes.short_yx) == pytest.approx(axes.short_mm, rel=1e-9)
    along, across = (np.subtract(*line) * SPACING[1:] for line in (axes.long_yx, axes.short_yx))
    assert abs(along @ across) <= 1e-9 * axes.long_mm * axes.short_mm
    ys, xs = np.nonzero(mask[axes.z])
    half = 0.5 + 1e-9  # of a pixel, and rounding through mm
    for y, x in (*axes.long_yx, *axes.short_yx):
        assert ys.min() - half <= y <= ys.max() + half
        assert xs.min() - half <= x <= xs.max() + half
    # no slice alone has a longer one, and this one has as long a one
    alone = [metrics.recist_axes_mm(mask[z : z + 1], SPACING)[0] for z in range(5)]
    assert max(alone) == alone[axes.z] == axes.long_mm


def test_axes_of_a_rectangle_by_hand() -> None:
    mask = np.zeros((3, 9, 12), bool)
    mask[1, 4, 2:10] = True  # 8 pixels of 0.7 mm, one of 0.8 mm high
    axes = metrics.recist(mask, SPACING)
    assert axes is not None
    assert axes.z == 1
    assert axes.long_mm == pytest.approx(8 * 0.7, rel=1e-12)
    assert sorted(axes.long_yx) == [(4.0, 1.5), (4.0, 9.5)]
    assert axes.short_mm == pytest.approx(0.8, rel=1e-12)
    assert sorted(y for y, _ in axes.short_yx) == [3.5, 4.5]
    assert metrics.recist(np.zeros((2, 3, 3), bool), SPACING) is None


def test_statistics_of_a_lesion() -> None:
    mask = ball((12, 30, 30), (6, 14, 15), 7.0)
    image = np.random.default_rng(0).normal(40, 12, mask.shape).astype(np.float32)
    found = metrics.lesion_statistics(image, mask, SPACING)
    inside = image[mask].astype(np.float64)
    assert found.voxels == inside.size
    assert found.volume_ml == pytest.approx(inside.size * math.prod(SPACING) / 1000, rel=1e-15)
    assert found.hu is not None
    assert found.hu.mean == pytest.approx(inside.mean(), rel=1e-12)
    assert found.hu.sd == pytest.approx(math.sqrt(((inside - inside.mean()) ** 2).mean()), rel=1e-12)
    assert [found.hu.min, found.hu.p5, found.hu.median, found.hu.p95, found.hu.max] == pytest.approx(
        np.percentile(inside, [0, 5, 50, 95, 100]).tolist(), rel=1e-12
    )
    # a diameter of 14 mm in the middle slice, half a pixel out on each side at most
    assert 14.0 - 2 * 0.8 <= found.long_axis_mm <= 14.0 + 0.8
    assert found.as_dict()["long_axis_mm"] == found.long_axis_mm
    assert metrics.lesion_statistics(None, mask, SPACING).hu is None
    empty = metrics.lesion_statistics(image, np.zeros_like(mask), SPACING)
    assert (empty.voxels, empty.axes, empty.hu, empty.long_axis_mm, empty.short_axis_mm) == (0, None, None, 0.0, 0.0)


def test_statistics_refuse_other_images() -> None:
    mask = ball((4, 9, 9), (2, 4, 4), 3.0)
    with pytest.raises(InputError, match=r"image_hu: expected shape \(4, 9, 9\) like the mask, got \(9, 9, 4\)"):
        metrics.lesion_statistics(np.zeros((9, 9, 4)), mask, SPACING)
    with pytest.raises(InputError, match=r"image_hu: expected shape"):
        metrics.component_statistics(np.zeros((9, 9, 4)), mask, SPACING)
    broken = np.where(mask, np.nan, 0.0)
    with pytest.raises(InputError, match=f"got {mask.sum()} voxels"):
        metrics.lesion_statistics(broken, mask, SPACING)
    assert metrics.lesion_statistics(np.where(mask, 0.0, np.nan), mask, SPACING).hu is not None


def test_parts_by_volume_and_where_they_lie() -> None:
    mask = np.zeros((6, 20, 20), bool)
    mask[1, 2, 2] = mask[2, 3, 3] = True  # touch by a corner: one part of two voxels
    mask[4, 10:14, 5:15] = True
    mask[0, 19, 19] = True
    labels = metrics.components(mask)
    assert [int((labels == k).sum()) for k in range(1, labels.max() + 1)] == [40, 2, 1]
    assert np.array_equal(labels > 0, mask)
    parts = metrics.component_statistics(np.arange(mask.size, dtype=float).reshape(mask.shape), mask, SPACING)
    assert [p.voxels for p in parts] == [40, 2, 1]
    whole = metrics.recist(labels == 1, SPACING)
    assert whole is not None
    assert parts[0].axes is not None
    assert parts[0].axes.z == whole.z == 4
    assert np.allclose(parts[0].axes.long_yx, whole.long_yx, rtol=0, atol=1e-12)
    assert np.allclose(parts[0].axes.short_yx, whole.short_yx, rtol=0, atol=1e-12)
    assert parts[2].hu is not None
    assert parts[2].hu.mean == 19 * 20 + 19
    assert metrics.component_statistics(None, np.zeros((2, 2, 2), bool), SPACING) == []
