"""bfloat16 is used where it makes no difference that matters, and float32 where it does, whichever voxels show it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from networks import shaken
from torch import nn

from segnet.config import DataConfig
from segnet.prediction.engine import optimise
from segnet.prediction.precision import (
    LARGEST_DIFFERENCE,
    LEAST_DICE,
    SLICES_CHECKED,
    BFloat16Difference,
    segment_in_bfloat16,
    slices_to_check,
)
from segnet.prediction.windows import segment

CONFIG = DataConfig(patch_px=32, input_px=32)
DEPTH = 40


class Sure(nn.Module):
    """Lesion above a brightness, with so much probability; counts the slices it is shown."""

    def __init__(self, above: float = 0.5, probability: float = 0.99) -> None:
        super().__init__()
        self.above, self.logit = above, float(np.log(probability / (1 - probability)))
        self.seen = 0

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        self.seen += len(x)
        lesion = torch.where(x > self.above, self.logit, -30.0)
        return torch.cat([torch.zeros_like(x), lesion], 1), None


def scan(**lesions: int) -> np.ndarray:
    """Air, with a lesion of 10 x 10 voxels in slice z of so many HU for each z=HU."""
    image = np.full((DEPTH, 32, 32), -1000.0, np.float32)
    for z, hu in lesions.items():
        image[int(z[1:]), 10:20, 10:20] = hu
    return image


def test_where_both_agree_bfloat16_is_used_and_float32_runs_on_few_slices() -> None:
    model, half, seen = Sure(), Sure(probability=0.97), []
    image = scan(z17=300)
    found, difference = segment_in_bfloat16(model, half, image, CONFIG, progress=lambda *a: seen.append(a))
    assert difference.tolerable
    assert difference.probability == pytest.approx(0.02, abs=1e-6)
    assert difference.dice == 1
    assert np.array_equal(found, segment(half, image, CONFIG))
    assert model.seen == difference.slices <= SLICES_CHECKED
    assert half.seen == 2 * DEPTH
    assert seen == sorted(seen)
    assert [done for done, total in seen if done == total] == [DEPTH + SLICES_CHECKED]


def test_the_deviation_is_of_the_members_that_were_used() -> None:
    image, deviation, wanted = scan(z17=300), *(np.full((DEPTH, 32, 32), np.nan, np.float32) for _ in range(2))
    models, halves = [Sure(), Sure()], [Sure(probability=0.97), Sure()]
    assert segment_in_bfloat16(models, halves, image, CONFIG, deviation=deviation)[1].tolerable
    segment(halves, image, CONFIG, deviation=wanted)
    assert np.array_equal(deviation, wanted)
    assert wanted.max() > 0


@pytest.mark.parametrize(
    ("half", "lesions", "why"),
    [
        (Sure(probability=0.8), {"z17": 300}, "another probability, the same mask"),
        (Sure(above=0.85), {"z17": 300, "z9": -100}, "a lesion half found; the other slice is not in doubt"),
        (Sure(above=0.3), {"z17": -400}, "a lesion that is none"),
        (Sure(above=0.95), {"z39": 300}, "a lesion missed, in one of the slices that are spread"),
    ],
)
def test_where_they_differ_float32_is_used(half: Sure, lesions: dict[str, int], why: str) -> None:
    image = scan(**lesions)
    if "half found" in why:
        image[17, 10:14, 10:20] = 100
    deviation, wanted = (np.full(image.shape, np.nan, np.float32) for _ in range(2))
    seen: list[tuple[int, int]] = []
    models = [Sure(), Sure(probability=0.9)]
    found, difference = segment_in_bfloat16(
        models, [half, half], image, CONFIG, deviation=deviation, progress=lambda *a: seen.append(a)
    )
    assert not difference.tolerable
    assert np.array_equal(found, segment(models, image, CONFIG, deviation=wanted))
    assert np.array_equal(deviation, wanted)
    assert seen == sorted(seen)
    assert [done for done, total in seen if done == total] == [2 * DEPTH + SLICES_CHECKED]


def test_the_masks_are_compared_at_the_threshold_asked_for() -> None:
    model, half, image = Sure(probability=0.52), Sure(probability=0.48), scan(z17=300)
    assert segment_in_bfloat16(model, half, image, CONFIG, threshold=0.4)[1].dice == 1
    assert segment_in_bfloat16(model, half, image, CONFIG, threshold=0.5)[1].dice == 0


def test_both_tolerances_count() -> None:
    assert BFloat16Difference(8, LARGEST_DIFFERENCE, LEAST_DICE).tolerable
    assert not BFloat16Difference(8, LARGEST_DIFFERENCE + 1e-3, 1.0).tolerable
    assert not BFloat16Difference(8, 0.0, LEAST_DICE - 1e-3).tolerable
    assert not BFloat16Difference(8, float("nan"), 1.0).tolerable


def test_slices_in_doubt_come_first_and_others_lie_evenly() -> None:
    probability = np.zeros((DEPTH, 8, 8), np.float32)
    probability[2:8] = 0.99  # much lesion, no doubt
    probability[11, :2] = 0.6
    probability[23, 0, :3] = 0.4
    assert slices_to_check(probability, 0.5) == [0, 2, 3, 11, 13, 23, 26, 39]
    assert 31 in slices_to_check(np.where(np.arange(DEPTH)[:, None, None] == 31, 0.01, probability * 0), 0.5)
    assert slices_to_check(probability[:3], 0.5) == [0, 1, 2]
    assert slices_to_check(probability[:1], 0.5) == [0]


@pytest.mark.parametrize("options", [{}, {"tta": True}, {"click_zyx": (2, 20, 20)}])
def test_a_network_in_both_precisions(options: dict[str, Any]) -> None:
    """Measured in all slices of a small volume: what is said is what a comparison of the volumes finds."""
    model = shaken("mamba-ahnet").eval()
    image = np.random.default_rng(0).uniform(-1000, 400, (3, 40, 40)).astype(np.float32)
    engine, half = optimise(model), optimise(model, bfloat16=True)
    config = DataConfig(patch_px=32, input_px=32)
    found, difference = segment_in_bfloat16(engine, half, image, config, **options)
    a, b = segment(engine, image, config, **options), segment(half, image, config, **options)
    assert difference.probability == pytest.approx(np.abs(a - b).max(), abs=1e-6)
    assert 0 < difference.probability < 0.02
    assert difference.slices == 3
    assert np.array_equal(found, b if difference.tolerable else a)
