"""Windows, clicks and components."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import Threshold
from torch import nn

from segnet.config import DataConfig
from segnet.dataset.batches import cut, normalise, stack, window_starts
from segnet.errors import InputError
from segnet.prediction.windows import keep_clicked, segment

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


class Slope(nn.Module):
    """Probability rises with brightness and towards a corner, differently for each member: no symmetry anywhere."""

    def __init__(self, steepness: float) -> None:
        super().__init__()
        self.steepness = steepness

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        rows, columns = torch.linspace(0, 1, x.shape[2]), torch.linspace(0, 2, x.shape[3])
        logit = self.steepness * (x.mean(1, keepdim=True) - 0.5 + rows[:, None] - columns)
        return torch.cat([-logit, logit], 1), None


NOISE = np.random.default_rng(5).uniform(-1000, 400, (4, 48, 48)).astype(np.float32)
MEMBERS = (Slope(1.0), Slope(-0.5), Slope(3.0))


def seen_as(view: int, flipped: bool, image: np.ndarray) -> np.ndarray:
    turned = np.rot90(image, view, (1, 2))
    return turned[:, :, ::-1] if flipped else turned


def by_hand(member: nn.Module, tta: bool) -> list[np.ndarray]:
    """Each view's volume, by turning the whole volume, whose windows lie alike in all turns."""
    found = []
    for view in range(4 if tta else 1):
        for flipped in (False, True) if tta else (False,):
            p = segment(member, np.ascontiguousarray(seen_as(view, flipped, NOISE)), CONFIG)
            found.append(np.rot90(p[:, :, ::-1] if flipped else p, -view, (1, 2)))
    return found


@pytest.mark.parametrize("tta", [False, True])
@pytest.mark.parametrize("members", [MEMBERS[:1], MEMBERS])
def test_mean_and_deviation_over_members_and_views(members: tuple[nn.Module, ...], tta: bool) -> None:
    each = [p.astype(np.float64) for member in members for p in by_hand(member, tta)]
    assert len(each) == len(members) * (8 if tta else 1)
    deviation = np.full(NOISE.shape, np.nan, np.float32)
    seen: list[tuple[int, int]] = []
    mean = segment(members, NOISE, CONFIG, tta=tta, deviation=deviation, progress=lambda *a: seen.append(a))
    np.testing.assert_allclose(mean, np.mean(each, 0), atol=1e-6)
    np.testing.assert_allclose(deviation, np.std(each, 0), atol=1e-6)
    assert mean.dtype == deviation.dtype == np.float32
    assert seen[-1] == (len(each) * 4 * 4, len(each) * 4 * 4)
    assert (np.max(deviation) > 0.1) == (len(each) > 1)


def test_nothing_holds_an_image_when_it_is_done() -> None:
    """Not even until the collector of cycles comes by: a CT is hundreds of megabytes."""
    image = np.zeros((3, 40, 40), np.float32)
    gone = weakref.ref(image)
    gc.disable()
    try:
        segment(Threshold(), image, CONFIG)
        del image
        assert gone() is None
    finally:
        gc.enable()


def test_no_member_is_refused() -> None:
    with pytest.raises(InputError, match="model: expected at least one network, got none"):
        segment([], NOISE, CONFIG)


def test_members_that_agree_deviate_by_nothing() -> None:
    """Not even by a rounding: a difference of squares would."""
    deviation = np.ones(NOISE.shape, np.float32)
    segment([Slope(2.0)] * 5, NOISE, CONFIG, deviation=deviation)
    assert deviation.max() < 1e-7


@pytest.mark.parametrize("slices", [1, 3])
@pytest.mark.parametrize("click", [None, (1, 3, 40)])
def test_batches_and_chosen_slices_change_nothing(slices: int, click: tuple[int, int, int] | None) -> None:
    whole = segment(MEMBERS[2], NOISE, CONFIG, click_zyx=click, slices=slices)
    for batch_size in (1, 3, 64):
        found = segment(MEMBERS[2], NOISE, CONFIG, click_zyx=click, slices=slices, batch_size=batch_size)
        np.testing.assert_allclose(found, whole, atol=1e-6)
    some = segment(MEMBERS[2], NOISE, CONFIG, click_zyx=click, slices=slices, at=[0, 3])
    np.testing.assert_allclose(some[[0, 3]], whole[[0, 3]], atol=1e-6)
    assert not some[[1, 2]].any()


def test_patches_are_those_cut_out_one_by_one() -> None:
    """Against the function that training cuts with: neighbours, edges, window."""
    shown: list[torch.Tensor] = []

    class Recorder(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
            shown.append(x.clone())
            return torch.zeros(len(x), 2, *x.shape[2:]), None

    for click in (None, (2, 1, 47), (0, 20, 9)):
        shown.clear()
        segment(Recorder(), NOISE, CONFIG, click_zyx=click, slices=3, batch_size=5)
        starts = [(y, x) for y in (0, 16) for x in (0, 16)] if click is None else [(click[1] - 16, click[2] - 16)]
        wanted = [
            [normalise(cut(plane, (y + 16, x + 16), 32, -1000), CONFIG.window_hu) for plane in stack(NOISE, z, 3)]
            for z in range(4)
            for y, x in starts
        ]
        assert np.array_equal(torch.cat(shown).numpy(), np.array(wanted))
