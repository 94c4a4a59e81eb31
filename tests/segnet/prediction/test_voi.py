"""Volumes of interest: their corners at the edges of an image, sizes in mm, and that nothing outside is computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from networks import Threshold
from torch import nn

from segnet.config import Config
from segnet.errors import InputError
from segnet.prediction.model import Model
from segnet.prediction.options import VoiSize, around

SPACING = (2.5, 0.8, 0.8)


def test_sizes_in_mm_are_rounded_up_to_whole_voxels() -> None:
    assert VoiSize(size_zyx_mm=(10, 10, 0.1)).voxels_zyx(SPACING) == (4, 13, 1)
    assert VoiSize((3, 4, 5)).voxels_zyx(SPACING) == (3, 4, 5)
    for sizes in ({"shape_zyx": (0, 4, 4)}, {"size_zyx_mm": (1, -1, 1)}, {"size_zyx_mm": (1, float("nan"), 1)}):
        with pytest.raises(InputError, match="voi: expected three lengths above 0"):
            VoiSize(**sizes)  # type: ignore[arg-type]


def test_the_click_lies_at_half_the_size_as_in_the_challenge() -> None:
    assert around((64, 128, 128), (128, 256, 256), (128, 256, 256)) == (slice(0, 128), slice(0, 256), slice(0, 256))
    assert around((0, 1, 9), (4, 4, 4), (10, 10, 10)) == (slice(0, 2), slice(0, 3), slice(7, 10))


class Seen(nn.Module):
    """Threshold that keeps how many patches it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = 0
        self.inner = Threshold()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        self.patches += len(x)
        return self.inner(x[:, x.shape[1] // 2][:, None])


class Blurred(nn.Module):
    """Probability that depends on every neighbour shown, in the slice and across slices."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        logit = nn.functional.avg_pool2d(x.mean(1, keepdim=True), 9, 1, 4) * 6 - 3
        return torch.cat([-logit, logit], 1), None


@pytest.mark.parametrize("slices", [1, 3])
@pytest.mark.parametrize("click", [(20, 30, 30), (1, 2, 61), (39, 40, 20)])
def test_inside_a_volume_of_interest_all_is_as_in_the_whole_volume_and_outside_nothing(slices: int, click: Any) -> None:
    config = Config.model_validate({"model": {"in_channels": slices}, "data": {"patch_px": 32, "input_px": 32}})
    image = np.random.default_rng(1).normal(-300, 300, (40, 50, 64)).astype(np.float32)
    options: Any = {"spacing_mm": SPACING, "click": click}
    whole = Model.of([Blurred(), Blurred()], config).predict(
        image, voi=VoiSize((100, 200, 200)), uncertainty=True, **options
    )
    for size in (VoiSize((7, 20, 50)), VoiSize(size_zyx_mm=(20, 16, 40))):
        found = Model.of([Blurred(), Blurred()], config).predict(image, voi=size, uncertainty=True, **options)
        box = around(click, size.voxels_zyx(SPACING), image.shape)
        assert found.voi_zyx == box
        outside = np.ones(image.shape, bool)
        outside[box] = False
        assert np.array_equal(found.probability[box], whole.probability[box])
        assert not found.probability[outside].any()
        assert not found.mask[outside].any()
        assert found.mask.shape == image.shape


def test_far_slices_are_not_computed() -> None:
    config = Config.model_validate({"data": {"patch_px": 32, "input_px": 32}})
    image = np.full((600, 40, 40), -900, np.float32)
    image[300:303, 18:22, 18:22] = image[10:12, 18:22, 18:22] = 300
    network = Seen()
    found = Model.of(network, config).predict(image, spacing_mm=SPACING, click=(301, 20, 20))
    assert network.patches == 128
    assert found.voi_zyx[0] == slice(301 - 64, 301 + 64)
    assert found.mask.sum() == 3 * 4 * 4
    network = Seen()
    Model.of(network, config).predict(image, spacing_mm=SPACING, click=(301, 20, 20), voi=VoiSize((9, 32, 32)))
    assert network.patches == 9


def test_bfloat16_is_checked_within_the_volume_of_interest() -> None:
    config = Config.model_validate({"model": {"in_channels": 3}, "data": {"patch_px": 32, "input_px": 32}})
    image = np.random.default_rng(1).normal(-300, 300, (40, 32, 32)).astype(np.float32)
    options: Any = {"spacing_mm": SPACING, "click": (20, 16, 16), "voi": VoiSize((6, 32, 32))}
    network, half = Seen(), Seen()
    found = Model.of(network, config, halves=half).predict(image, **options)
    assert found.precision == "bfloat16"
    assert found.bfloat16_difference is not None
    assert (half.patches, network.patches) == (6, found.bfloat16_difference.slices)
    assert np.array_equal(found.mask, Model.of(Seen(), config).predict(image, **options).mask)


def test_nothing_found_is_an_empty_mask_and_a_warning_and_a_missed_click_the_nearest_component() -> None:
    config = Config.model_validate({"data": {"patch_px": 32, "input_px": 32}})
    image = np.random.default_rng(1).normal(-900, 10, (12, 32, 32)).astype(np.float32)
    options: Any = {"spacing_mm": SPACING, "click": (6, 16, 16)}
    empty = Model.of(Threshold(), config).predict(image, **options)
    assert not empty.mask.any()
    assert empty.warnings == ("no voxel is above the threshold: the mask is empty",)
    # 3 voxels off in plane are 2.4 mm, 1 slice is 2.5 mm
    image[6, 16, 19] = image[7, 16, 16] = 300
    missed = Model.of(Threshold(), config).predict(image, **options)
    assert np.argwhere(missed.mask).tolist() == [[6, 16, 19]]
    assert "nothing at the click" in missed.warnings[0]
    image[6, 16, 16] = 300
    hit = Model.of(Threshold(), config).predict(image, **options)
    assert np.argwhere(hit.mask).tolist() == [[6, 16, 16], [7, 16, 16]]
    assert hit.warnings == ()


def test_padding_is_not_shown_to_the_network_where_it_is_left_out() -> None:
    config = Config.model_validate({"data": {"patch_px": 32, "input_px": 32}})
    image = np.random.default_rng(1).normal(-900, 10, (12, 32, 32)).astype(np.float32)
    image[:, :8], image[9:] = 300, 300
    for click in (None, (6, 16, 16), (6, 2, 16)):
        options: Any = {"spacing_mm": SPACING, "click": click}
        network = Seen()
        found = Model.of(network, config).predict(image, skip_padding=True, **options)
        assert found.voi_zyx == (slice(0, 9), slice(8, 32), slice(0, 32))
        assert network.patches == 9
        assert not found.probability.round(3).any()
        assert Model.of(Threshold(), config).predict(image, **options).mask.any()
    image[:] = 300
    nothing = Model.of(Threshold(), config).predict(image, skip_padding=True, **options)
    assert not nothing.mask.any()
    assert "single value" in nothing.warnings[0]
