"""Windows, clicks and components."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import Threshold
from torch import nn

from segnet.config import DataConfig
from segnet.data.dataset import window_starts
from segnet.inference import keep_clicked, segment

CONFIG = DataConfig(patch_px=32, input_px=32)


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 70, 45), (2, 20, 25), (1, 33, 31), (4, 16, 100)])
@pytest.mark.parametrize("tta", [False, True])
def test_windows_cover_the_volume_without_seams(shape: tuple[int, int, int], tta: bool) -> None:
    image = np.random.default_rng(0).uniform(-1000, 400, shape).astype(np.float32)
    probability = segment(Threshold(), image, CONFIG, tta=tta, batch_size=3)
    assert probability.shape == shape
    assert np.array_equal(probability > 0.5, image > -300)
    assert np.abs(probability - (image > -300)).max() < 1e-6


@pytest.mark.parametrize("side", [32, 40, 45, 48, 63, 64])
@pytest.mark.parametrize("axis", [1, 2])
def test_resampling_moves_no_edge(side: int, axis: int) -> None:
    """To the network's finer input and back: every position of an edge comes out where it went in."""
    config = DataConfig(patch_px=side, input_px=64)
    at = np.arange(side).reshape((1, side, 1) if axis == 1 else (1, 1, side))
    for edge in range(4, side - 3):
        image = np.where(at < edge, -1000.0, 400.0) * np.ones((1, side, side))
        assert np.array_equal(segment(Threshold(), image, config) > 0.5, image > -300), edge


def test_every_view_of_a_slice_is_seen_once_and_turned_back() -> None:
    """A network that marks the upper left corner of whatever it sees marks all corners alike in the mean."""

    class Corner(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
            lesion = torch.full_like(x, -50.0)
            lesion[:, :, :8, :8] = 50.0
            lesion[:, :, :4, 8:16] = 50.0  # and is not symmetric about the diagonal
            return torch.cat([torch.zeros_like(x), lesion], 1), None

    once = segment(Corner(), np.zeros((1, 32, 32)), CONFIG)[0]
    mean = segment(Corner(), np.zeros((1, 32, 32)), CONFIG, tta=True)[0]
    views = [np.rot90(o, k) for k in range(4) for o in (once, once.T)]
    np.testing.assert_allclose(mean, np.mean(views, 0), atol=1e-6)
    assert len(np.unique(mean.round(3))) > 2


def test_a_click_limits_the_view_to_its_surroundings() -> None:
    image = np.full((2, 80, 90), 400.0)
    probability = segment(Threshold(), image, CONFIG, click_zyx=(1, 20, 70))
    found = probability > 0.5
    assert found[:, 4:36, 54:86].all()
    assert found.sum() == 2 * 32 * 32


def test_a_click_at_the_border_looks_beyond_it() -> None:
    probability = segment(Threshold(), np.full((1, 40, 40), 400.0), CONFIG, click_zyx=(0, 2, 39))
    assert (probability > 0.5).sum() == 18 * 17


@given(length=st.integers(1, 500), side=st.sampled_from([32, 48, 64]))
def test_starts_cover_every_pixel(length: int, side: int) -> None:
    starts = window_starts(length, side)
    covered = np.zeros(length, bool)
    for start in starts:
        covered[max(start, 0) : max(start + side, 0)] = True
    assert covered.all()
    if length > side:
        assert starts[0] == 0
        assert starts[-1] == length - side
        assert max(np.diff(starts)) <= side // 2 + 1


def test_progress_ends_at_the_total() -> None:
    seen: list[tuple[int, int]] = []
    segment(Threshold(), np.zeros((3, 40, 32)), CONFIG, batch_size=4, progress=lambda *a: seen.append(a))
    assert seen[-1] == (6, 6)


def mask_with(*points: tuple[int, int, int]) -> Any:
    mask = np.zeros((5, 9, 9), bool)
    for point in points:
        mask[point] = True
    return mask


def test_the_component_at_the_click_is_kept() -> None:
    mask = mask_with((1, 1, 1), (2, 2, 2), (4, 7, 7))
    assert np.array_equal(keep_clicked(mask, (2, 2, 2), (1, 1, 1)), mask_with((1, 1, 1), (2, 2, 2)))


def test_a_click_beside_all_keeps_the_nearest_in_millimetres() -> None:
    mask = mask_with((2, 4, 7), (4, 4, 4))
    assert np.array_equal(keep_clicked(mask, (2, 4, 4), (1, 1, 1)), mask_with((4, 4, 4)))
    assert np.array_equal(keep_clicked(mask, (2, 4, 4), (5, 1, 1)), mask_with((2, 4, 7)))


def test_an_empty_mask_stays_empty() -> None:
    assert not keep_clicked(mask_with(), (0, 0, 0), (1, 1, 1)).any()


def test_the_middle_one_of_several_slices_is_segmented() -> None:
    class Middle(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
            assert x.shape[1] == 3
            return Threshold()(x[:, 1:2])

    image = np.random.default_rng(4).uniform(-1000, 400, (5, 32, 32))
    assert np.array_equal(segment(Middle(), image, CONFIG, slices=3) > 0.5, image > -300)
