"""The random driver: the recipe of old to the bit, its deterministic twin, and what must hold however strong it is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from segnet.config import AugmentConfig, DataConfig
from segnet.dataset.augment import Augmenter, Geometry, Parameters, grain
from segnet.dataset.shapes import ShapeLibrary

DATA = DataConfig(patch_px=32, input_px=64)
CANVAS = 1.5
STRONG = AugmentConfig.model_validate({"preset": "strong"})
EVERYTHING = STRONG.model_copy(
    update={name: 1.0 for name in AugmentConfig.model_fields if name.endswith("_probability")}
)


def batch(count: int = 8, slices: int = 1, side: int = 48) -> tuple[Tensor, Tensor]:
    """Every other image holds a lesion."""
    generator = torch.Generator().manual_seed(4)
    masks = torch.zeros(count, slices, side, side)
    masks[::2, :, 18:27, 20:26] = 1
    return (0.5 * torch.rand(masks.shape, generator=generator) + 0.4 * masks), masks


def library() -> ShapeLibrary:
    mask = np.zeros((6, 6, 4), bool)
    mask[1:5, 1:6, 1:3] = True
    return ShapeLibrary([np.packbits(mask)], np.array([[6, 6, 4]]), np.array([[1.0, 1.0, 2.0]]))


def geometry(count: int, slices: int) -> Geometry:
    return Geometry(torch.full((count, 2), 0.5), torch.arange(slices).sub(slices // 2).mul(2.0).expand(count, slices))


def recipe_of_old(
    images: Tensor, masks: Tensor, rng: np.random.Generator, fade_fraction: float
) -> tuple[Tensor, Tensor]:
    """What `BatchSource` did before there was a configuration for it."""
    count, size = len(images), DATA.input_px

    def uniform(low: float, high: float) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, count).astype(np.float32))

    def each(values: Tensor) -> Tensor:
        return values[:, None, None, None]

    quarter = torch.from_numpy(rng.integers(0, 4, count).astype(np.float32)) * (np.pi / 2)
    angle = quarter + uniform(-0.25, 0.25)
    scale = torch.exp(uniform(-0.2, 0.2)) / CANVAS
    flip = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    cos, sin, zero = torch.cos(angle) * scale, torch.sin(angle) * scale, torch.zeros(count)
    theta = torch.stack([torch.stack([cos * flip, -sin, zero], -1), torch.stack([sin * flip, cos, zero], -1)], 1)
    grid = F.affine_grid(theta, [count, 1, size, size], align_corners=False)
    images = F.grid_sample(images, grid, mode="bilinear", align_corners=False)
    masks = F.grid_sample(masks, grid, mode="nearest", align_corners=False)
    faded = uniform(0, 1) < fade_fraction
    kept = uniform(0.2, 1)[faded]
    rows = F.max_pool2d(masks[faded], (9, 1), stride=1, padding=(4, 0))
    ring = F.max_pool2d(rows, (1, 9), stride=1, padding=(0, 4)) - masks[faded]
    around = (images[faded] * ring).sum((2, 3), keepdim=True) / ring.sum((2, 3), keepdim=True).clamp(min=1)
    inside = F.avg_pool2d(masks[faded], 3, stride=1, padding=1)
    images[faded] = images[faded] - (1 - each(kept)) * inside * (images[faded] - around)
    images = images.clamp(0, 1) ** each(torch.exp(uniform(-0.2, 0.2)))
    images = images * each(uniform(0.85, 1.15)) + each(uniform(-0.05, 0.05))
    noise = torch.from_numpy(rng.standard_normal(tuple(images.shape), dtype=np.float32))
    images = images + noise * each(uniform(0, 0.02))
    return images.clamp(0, 1), masks


@pytest.mark.parametrize("slices", [1, 3])
def test_the_default_is_the_recipe_of_old_to_the_bit(slices: int) -> None:
    images, masks = batch(16, slices)
    ours, theirs = np.random.default_rng(7), np.random.default_rng(7)
    augmenter = Augmenter(AugmentConfig(), DATA, canvas=CANVAS)
    for _ in range(3):
        a, b = augmenter(images, masks, ours), recipe_of_old(images, masks, theirs, 0.4)
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[1], b[1])
    assert ours.bit_generator.state == theirs.bit_generator.state


@pytest.mark.parametrize("slices", [1, 3])
def test_what_is_drawn_and_applied_is_what_the_driver_gives(slices: int) -> None:
    images, masks = batch(8, slices)
    augmenter = Augmenter(EVERYTHING, DATA, canvas=CANVAS, shapes=library())
    whole = augmenter(images, masks, np.random.default_rng(3), geometry(8, slices))
    parameters = augmenter.draw(np.random.default_rng(3), 8, slices, geometry(8, slices))
    for _ in range(2):
        again = augmenter.apply(images, masks, parameters)
        assert torch.equal(whole[0], again[0])
        assert torch.equal(whole[1], again[1])
    other = augmenter(images, masks, np.random.default_rng(4), geometry(8, slices))
    assert not torch.equal(whole[0], other[0])


def test_identity_parameters_are_the_identity() -> None:
    images, masks = batch(side=64)
    same = Augmenter(STRONG, DATA).apply(images, masks, Parameters.identity(len(images)))
    torch.testing.assert_close(same[0], images, rtol=0, atol=4 * 64 * torch.finfo(torch.float32).eps)
    assert torch.equal(same[1], masks)


@pytest.mark.parametrize("empty", [False, True])
def test_masks_stay_masks_and_images_numbers_in_range(empty: bool) -> None:
    images, masks = batch(12, 3)
    masks = masks * (not empty)
    augmenter = Augmenter(EVERYTHING, DATA, canvas=CANVAS, shapes=library())
    rng = np.random.default_rng(0)
    for _ in range(5):
        changed, marked = augmenter(images, masks, rng, geometry(12, 3))
        assert changed.shape == marked.shape == (12, 3, 64, 64)
        assert changed.isfinite().all()
        assert changed.min() >= 0
        assert changed.max() <= 1
        assert set(marked.unique().tolist()) <= {0.0, 1.0}
        assert bool(marked.any()) is not empty


def test_slices_shown_together_move_together() -> None:
    """The same picture in three slices is the same picture after all that moves it."""
    one, mask = batch(6)
    images, masks = one.expand(-1, 3, -1, -1).contiguous(), mask.expand(-1, 3, -1, -1).contiguous()
    augmenter = Augmenter(EVERYTHING, DATA, canvas=CANVAS)
    drawn = augmenter.draw(np.random.default_rng(1), 6, 3)
    still = Parameters.identity(
        6, angle_rad=drawn.angle_rad, scale=drawn.scale, flip=drawn.flip, control_px=drawn.control_px
    )
    changed, marked = augmenter.apply(images, masks, still)
    assert torch.equal(changed, changed[:, :1].expand_as(changed))
    assert torch.equal(marked, marked[:, :1].expand_as(marked))
    assert not torch.equal(changed, augmenter.apply(images, masks, Parameters.identity(6))[0])


def test_noise_has_the_variance_asked_for() -> None:
    images = torch.full((4, 1, 64, 64), 0.5)
    augmenter = Augmenter(AugmentConfig(), DATA)
    drawn = augmenter.draw(np.random.default_rng(0), 4, 1)
    sd = torch.tensor([0.0, 0.01, 0.02, 0.05])
    noisy = augmenter.apply(images, images * 0, Parameters.identity(4, noise=drawn.noise, noise_sd=sd))[0]
    # four standard errors of a standard deviation of 64^2 numbers
    torch.testing.assert_close((noisy - 0.5).flatten(1).std(1), sd, rtol=4 / math.sqrt(2 * 64**2), atol=1e-6)


def test_each_transform_comes_as_often_and_as_strongly_as_asked() -> None:
    count = 4000
    drawn = Augmenter(STRONG, DataConfig(patch_px=32, input_px=32)).draw(np.random.default_rng(2), count, 1)
    assert drawn.control_px is not None
    assert drawn.paste is not None
    for chosen, probability in (
        (drawn.flip < 0, STRONG.flip_probability),
        (drawn.control_px.flatten(1).any(1), STRONG.elastic_probability),
        (drawn.paste.wanted, STRONG.paste_probability),
        (drawn.kept < 1, STRONG.fade_probability),
        (drawn.tissue_hu != 0, STRONG.agent_probability),
        (drawn.low_resolution > 1, STRONG.low_resolution_probability),
        (drawn.blur_px > 0, STRONG.blur_probability),
    ):
        error = math.sqrt(probability * (1 - probability) / count)
        assert float(chosen.float().mean()) == pytest.approx(probability, abs=4 * error)
    for values, most in (
        (drawn.control_px, STRONG.elastic_px),
        (drawn.tissue_hu, STRONG.agent_hu),
        (drawn.lesion_hu, STRONG.agent_hu),
        (drawn.gamma.log(), STRONG.gamma_log),
        (drawn.contrast - 1, STRONG.contrast),
        (drawn.brightness, STRONG.brightness),
        (drawn.low_resolution, STRONG.low_resolution_factor),
        (drawn.blur_px, STRONG.blur_px),
        (drawn.noise_sd, STRONG.noise_sd),
        (drawn.paste.soft_px, STRONG.paste_soft_px),
        (drawn.paste.level, STRONG.paste_level),
    ):
        assert 0.97 * most < float(values.abs().max()) <= most * (1 + 1e-5)


def test_magnitudes_in_pixels_are_of_the_image() -> None:
    """An input twice as fine: the same parameters, twice as many of its pixels."""
    coarse, fine = (
        Augmenter(EVERYTHING, DataConfig(patch_px=32, input_px=n)).draw(np.random.default_rng(2), 5, 1)
        for n in (32, 64)
    )
    assert coarse.control_px is not None
    assert fine.control_px is not None
    torch.testing.assert_close(fine.control_px, 2 * coarse.control_px)
    assert fine.blur_px.max() > EVERYTHING.blur_px
    assert (fine.low_resolution >= 2).all()


def test_shapes_are_pasted_at_the_scale_of_the_picture() -> None:
    """4 x 5 mm, at pixels of 0.5 mm: 80 of them, turned as it may be."""
    config = EVERYTHING.model_copy(update={"shape_fraction": 1.0, "scale_log": 0.0})
    augmenter = Augmenter(config, DATA, canvas=CANVAS, shapes=library())
    for seed in range(5):
        paste = augmenter.draw(np.random.default_rng(seed), 2, 3, geometry(2, 3)).paste
        assert paste is not None
        assert paste.shape is not None
        assert paste.shape[1, 1].sum().item() == pytest.approx(80, abs=12)
        # two of the four slices hold lesion, 2 mm apart like the slices shown
        assert paste.shape[1].flatten(1).any(1).sum() == 2
    none = augmenter.draw(np.random.default_rng(0), 2, 3).paste
    assert none is not None
    assert none.shape is None


def test_grain_is_as_rough_as_asked() -> None:
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 64, 64), dtype=np.float32))
    grained = grain(noise, 1.0)
    assert float(grained.std(correction=0)) == pytest.approx(1, abs=1e-5)
    neighbours = float((grained[..., 1:] * grained[..., :-1]).mean())
    # of a Gaussian blur: exp(-1 / (4 sd^2)); its standard error over some 64^2 / (4 pi) independent spots
    assert neighbours == pytest.approx(math.exp(-0.25), abs=4 / math.sqrt(64**2 / (4 * math.pi)))


def test_all_that_moves_pixels_is_one_resampling(monkeypatch: pytest.MonkeyPatch) -> None:
    images, masks = batch(4)
    modes: list[str] = []
    sample = F.grid_sample

    def counted(x: Tensor, grid: Tensor, *, mode: str, align_corners: bool) -> Tensor:
        modes.append(mode)
        return sample(x, grid, mode=mode, align_corners=align_corners)

    monkeypatch.setattr(F, "grid_sample", counted)
    Augmenter(EVERYTHING, DATA, canvas=CANVAS)(images, masks, np.random.default_rng(0))
    assert modes == ["bilinear", "nearest"]
