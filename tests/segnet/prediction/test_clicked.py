"""The lesion at a click: any size, any grid, the fast way like the slow one. The network is a threshold of the middle slice."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from segnet.config import DataConfig, FieldsConfig
from segnet.metrics import dice
from segnet.prediction.clicked import HALF, Found, segment_clicked, segment_everywhere

FIELDS = FieldsConfig(sides_mm=(44.0, 88.0, 176.0, 352.0))
CONFIG = DataConfig(fields=FIELDS, input_px=64)
MIDDLE = len(FIELDS.offsets_mm) // 2
Spacing = tuple[float, float, float]


def bright(inputs: Tensor) -> Tensor:
    """A network that marks what is bright in the middle slice."""
    return torch.sigmoid((inputs[None, :, MIDDLE] - 0.5) * 40)


def ball(
    shape: tuple[int, int, int], spacing: Spacing, centre_mm: tuple[float, float, float], radius_mm: float
) -> NDArray[np.float32]:
    """HU of a soft-edged ball in lung."""
    axes = [np.arange(n) * s - c for n, s, c in zip(shape, spacing, centre_mm, strict=True)]
    distance = np.sqrt(sum(np.square(a).reshape([-1 if k == i else 1 for k in range(3)]) for i, a in enumerate(axes)))
    return (-900 + 1000 / (1 + np.exp((distance - radius_mm) / 0.3))).astype(np.float32)


def found_in(
    image: NDArray[np.float32], spacing: Spacing, click: tuple[int, int, int], **how: bool
) -> tuple[Found, NDArray[np.bool_]]:
    found = segment_clicked(bright, image, spacing, CONFIG, click, **how)
    mask = np.zeros(image.shape, np.bool_)
    mask[found.box] = found.mask
    return found, mask


@pytest.mark.parametrize(("diameter", "side"), [(5, 44), (20, 44), (45, 88), (80, 176), (150, 352)])
def test_any_size(diameter: float, side: float) -> None:
    spacing = (3.0, 0.9, 0.9)
    shape = (max(24, int(diameter / 3) + 12), 200, 200)
    centre = tuple(n * s / 2 for n, s in zip(shape, spacing, strict=True))
    image = ball(shape, spacing, centre, diameter / 2)
    found, mask = found_in(image, spacing, tuple(n // 2 for n in shape))
    # a pixel of the field of view is a fifteenth of the diameter or less, of 5 mm a seventh
    assert dice(mask, image > -400) > (0.9 if diameter == 5 else 0.96)
    assert (found.side_mm, found.cut) == (side, False)


@pytest.mark.parametrize("place", [(0, 0, 0), (5, 0, 0), (0, 7, 4), (-5, -5, 5)])
def test_anywhere_in_the_lesion(place: tuple[int, int, int]) -> None:
    spacing = (1.0, 1.0, 1.0)
    image = ball((60, 120, 120), spacing, (30, 60, 60), 12)
    click = (30 + place[0], 60 + place[1], 60 + place[2])
    _, mask = found_in(image, spacing, click)
    assert dice(mask, image > -400) > 0.96


def test_a_click_beside_it_finds_the_lesion_within_reach_alone() -> None:
    image = ball((40, 120, 120), (1, 1, 1), (20, 60, 60), 6)
    assert found_in(image, (1, 1, 1), (20, 60, 68))[1].any()
    assert not found_in(image, (1, 1, 1), (20, 60, 75))[1].any()


def test_the_field_of_view_is_centred_on_the_lesion_and_not_on_the_click() -> None:
    found, _ = found_in(ball((40, 120, 120), (1, 1, 1), (20, 60, 57), 8), (1, 1, 1), (20, 60, 63))
    assert found.centre_yx == pytest.approx((60, 57), abs=1)


def test_other_lesions_are_left_out() -> None:
    image = np.maximum(
        ball((40, 120, 120), (1, 1, 1), (20, 60, 50), 6), ball((40, 120, 120), (1, 1, 1), (20, 60, 72), 6)
    )
    mask = found_in(image, (1, 1, 1), (20, 60, 50))[1]
    assert mask[20, 60, 50]
    assert not mask[20, 60, 72]


@pytest.mark.parametrize("length", [6, 40, 100])
def test_the_fast_way_equals_the_whole_volume(length: int) -> None:
    """A bent tube along z: slices are added while it goes on, and no bit differs."""
    rng = np.random.default_rng(length)
    image = rng.normal(-800, 20, (120, 80, 80)).astype(np.float32)
    for k in range(length):
        y, x = 40 + 8 * math.sin(k / 15), 40 + 5 * math.cos(k / 9)
        yy, xx = np.mgrid[:80, :80]
        image[10 + k][(yy - y) ** 2 + (xx - x) ** 2 < 25] = 100
    click = (10 + length // 2, *(int(i) for i in np.argwhere(image[10 + length // 2] > 0)[20]))
    (fast, mask), (slow, whole) = (found_in(image, (1, 1, 1), click, whole=way) for way in (False, True))
    assert mask.any()
    assert np.array_equal(mask, whole)
    assert np.array_equal(fast.probability, slow.probability[fast.box[0]])
    assert len(fast.probability) <= min(length + 4 * HALF, 120)


def test_the_largest_field_of_view_says_where_it_cuts() -> None:
    image = np.full((8, 500, 500), 100, np.float32)
    found, _ = found_in(image, (5, 1, 1), (4, 250, 250))
    assert found.cut
    assert found.side_mm == 352
    # a lesion that ends with the image is not cut
    small, _ = found_in(image[:, :60, :60], (5, 1, 1), (4, 30, 30))
    assert not small.cut


GRIDS: list[Spacing] = [(1, 1, 1), (2.5, 0.7, 0.7), (0.7, 1.5, 1.0), (2, 0.6, 1.5)]


@pytest.mark.parametrize("radius", [10.0, 20.0])
def test_masks_agree_on_every_grid(radius: float) -> None:
    """One lesion, resampled to spacings, orders of slices and orientations: masks agree with one another in space.

    Perfect masks on such grids agree to 0.95 to 0.99, for slices are thick: that bounds what can be asked.
    """
    extent = 4 * radius + 20
    masks = []
    for spacing in GRIDS:
        shape = tuple(int(extent / s) for s in spacing)
        centre = (extent * 0.47, extent * 0.52, extent * 0.5)
        image = ball(shape, spacing, centre, radius)
        click = tuple(round(c / s) for c, s in zip(centre, spacing, strict=True))
        for turned in (False, True):
            if turned:
                image, click = image[::-1, :, ::-1], (shape[0] - 1 - click[0], click[1], shape[2] - 1 - click[2])
            _, mask = found_in(image, spacing, click)
            mask = mask[::-1, :, ::-1] if turned else mask
            truth = image > -400
            masks.append((spacing, mask, truth[::-1, :, ::-1] if turned else truth))
    # each mask on one grid, by linear interpolation
    points = np.stack(np.meshgrid(*[np.arange(2, extent - 2, 1.0)] * 3, indexing="ij"))
    on_points = []
    for spacing, *both in masks:
        at = points / np.array(spacing)[:, None, None, None]
        on_points.append(
            [ndimage.map_coordinates(m.astype(np.float32), at, order=1, mode="nearest") >= 0.5 for m in both]
        )
    for one, true in on_points:
        for other, also_true in on_points:
            assert dice(one, other) >= min(0.97, dice(true, also_true) - 0.015)


def test_flipped_and_reversed_images_give_the_same_bits_apart_from_rounding() -> None:
    image = ball((40, 90, 90), (1, 1, 1), (20, 45, 45), 8)
    _, mask = found_in(image, (1, 1, 1), (20, 45, 45))
    for axis in range(3):
        click = [20, 45, 45]
        click[axis] = image.shape[axis] - 1 - click[axis]
        _, turned = found_in(np.flip(image, axis), (1, 1, 1), tuple(click))
        assert dice(np.flip(turned, axis), mask) > 0.999


def test_without_a_click_whole_slices_are_segmented() -> None:
    spacing = (2.0, 1.0, 1.0)
    image = np.maximum(ball((20, 150, 200), spacing, (20, 40, 60), 9), ball((20, 150, 200), spacing, (16, 110, 150), 5))
    probability, deviation, _ = segment_everywhere(bright, image, spacing, CONFIG)
    assert probability.shape == image.shape
    assert dice(probability > 0.5, image > -400) > 0.93
    assert deviation.max() == 0  # one network, one view


@pytest.mark.parametrize(("share", "kept"), [(0.99, True), (0.4, False)])
def test_bfloat16_without_a_click_costs_one_batch_where_it_is_refused(share: float, kept: bool) -> None:
    image = ball((40, 90, 90), (1, 1, 1), (20, 45, 45), 8)
    exact, _, none = segment_everywhere(bright, image, (1, 1, 1), CONFIG)
    assert none is None
    runs = 0

    def half(x: torch.Tensor) -> torch.Tensor:
        nonlocal runs
        runs += 1
        return bright(x) * share

    found, _, difference = segment_everywhere(bright, image, (1, 1, 1), CONFIG, in_bfloat16=half)
    assert difference is not None
    assert difference.tolerable == kept
    assert runs == (1 + 40 // 8 if kept else 1)
    assert np.allclose(found, exact * (share if kept else 1), atol=1e-6)


def test_bfloat16_is_kept_where_it_agrees() -> None:
    image = ball((40, 90, 90), (1, 1, 1), (20, 45, 45), 8)
    near = segment_clicked(bright, image, (1, 1, 1), CONFIG, (20, 45, 45), in_bfloat16=lambda x: bright(x) * 0.99)
    assert near.bfloat16_difference is not None
    assert near.bfloat16_difference.tolerable
    assert near.bfloat16_difference.probability == pytest.approx(0.01, abs=1e-3)
    far = segment_clicked(bright, image, (1, 1, 1), CONFIG, (20, 45, 45), in_bfloat16=lambda x: bright(x) * 0.4)
    exact = segment_clicked(bright, image, (1, 1, 1), CONFIG, (20, 45, 45))
    assert far.bfloat16_difference is not None
    assert not far.bfloat16_difference.tolerable
    assert np.array_equal(far.mask, exact.mask)


def test_a_lesion_that_widens_beyond_its_clicked_slice_is_shown_larger() -> None:
    """The clicked slice holds the tip of a cone: the field of view that it needs cuts the slices below."""
    radius = np.linspace(4, 40, 37)
    y, x = np.mgrid[:160, :160] - 80
    distance = np.hypot(y, x)[None] - radius[:, None, None]
    image = np.full((45, 160, 160), -900, np.float32)
    image[4:41] += 1000 / (1 + np.exp(distance / 0.3))
    found, mask = found_in(image, (1, 1, 1), (5, 80, 80))
    assert (found.side_mm, found.cut) == (88, False)
    assert dice(mask, image > -400) > 0.97
