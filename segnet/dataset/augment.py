"""Augmentation: draws random parameters, which `transforms` applies."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segnet.config import AugmentConfig, DataConfig
from segnet.dataset import transforms
from segnet.dataset.shapes import ShapeLibrary, render
from segnet.dataset.transforms import Paste, each

TEXTURE_PX = 0.7
"""Grain inside a pasted shape: standard deviation of the blur of its noise, in pixels of the image."""
TRIES = 4
"""Largest number of shapes drawn for one lesion, until one fits the picture."""


@dataclass(frozen=True)
class Parameters:
    """Changes of each image of a batch; of shape (count,) unless stated.

    Attributes
    ----------
    angle_rad, scale, flip : rotation; side shown, in fields of view; -1 for a mirrored image, else 1
    control_px : (count, 2, points, points) displacements along x and y, in pixels of the input; None: no elastic deformation
    paste : None: no lesion is pasted
    kept : share of the lesion's contrast; 1 changes nothing
    tissue_hu, lesion_hu : shift by a simulated contrast agent
    gamma, contrast, brightness : grey levels become contrast x^gamma + brightness
    low_resolution : factor by which pixels become larger; 1 changes nothing
    blur_px : standard deviation of the blur
    noise : (count, slices, size, size) of mean 0 and standard deviation 1; None: no noise
    noise_sd : factor of the noise
    """

    angle_rad: Tensor
    scale: Tensor
    flip: Tensor
    control_px: Tensor | None
    paste: Paste | None
    kept: Tensor
    tissue_hu: Tensor
    lesion_hu: Tensor
    gamma: Tensor
    contrast: Tensor
    brightness: Tensor
    low_resolution: Tensor
    blur_px: Tensor
    noise: Tensor | None
    noise_sd: Tensor

    @classmethod
    def identity(cls, count: int, **changes: Tensor | Paste | None) -> Parameters:
        """Parameters that change nothing, except for `changes`."""
        one, zero = torch.ones(count), torch.zeros(count)
        nothing = cls(zero, one, one, None, None, one, zero, zero, one, one, zero, one, zero, None, zero)
        return replace(nothing, **changes)  # type: ignore[arg-type]

    @classmethod
    def joined(cls, parts: Sequence[Parameters]) -> Parameters:
        """Parameters of several batches, joined along the first axis."""
        return cls(**{f.name: _joined([getattr(part, f.name) for part in parts]) for f in fields(cls)})


def _joined(parts: Sequence[Any]) -> Any:
    if parts[0] is None:
        return None
    if isinstance(parts[0], Tensor):
        return torch.cat(list(parts))
    return Paste(**{f.name: _joined([getattr(part, f.name) for part in parts]) for f in fields(Paste)})


@dataclass(frozen=True)
class Geometry:
    """Position of the pixels of a batch.

    Attributes
    ----------
    pixel_mm : (count, 2) height and width of a pixel of the input at scale 1
    offset_mm : (count, slices) distance of each slice from the middle slice
    """

    pixel_mm: Tensor
    offset_mm: Tensor


class Augmenter:
    """Draws parameters and applies them.

    Parameters
    ----------
    config : probabilities and magnitudes
    data : side of the field of view and of the network's input, and the window
    canvas : side of the given images, in fields of view
    shapes : lesions to paste; None: only lesions of the batch

    Attributes
    ----------
    enlarged : pixels of the network's input for each pixel of the image; `Parameters` are in the former, `config` in the latter
    """

    def __init__(
        self, config: AugmentConfig, data: DataConfig, *, canvas: float = 1.0, shapes: ShapeLibrary | None = None
    ) -> None:
        self.config, self.data, self.canvas, self.shapes = config, data, canvas, shapes
        self.enlarged = data.input_px / data.patch_px

    def __call__(
        self, images: Tensor, masks: Tensor, rng: np.random.Generator, geometry: Geometry | None = None
    ) -> tuple[Tensor, Tensor]:
        """A randomly changed batch; see `draw` and `apply`."""
        return self.apply(images, masks, self.draw(rng, images.shape[0], images.shape[1], geometry))

    def apply(
        self,
        images: Tensor,
        masks: Tensor,
        parameters: Parameters,
        gather: Callable[[Tensor], Tensor] = lambda part: part,
    ) -> tuple[Tensor, Tensor]:
        """`apply_guided` without guides: (images, masks)."""
        changed, marked, _ = self.apply_guided(images, masks, images[:, :0], parameters, gather)
        return changed, marked

    def apply_guided(
        self,
        images: Tensor,
        masks: Tensor,
        guides: Tensor,
        parameters: Parameters,
        gather: Callable[[Tensor], Tensor] = lambda part: part,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The deterministic twin: geometry in one resampling, then lesions, grey levels, sharpness and noise.

        Parameters
        ----------
        images, masks : (count, slices, side, side) in [0, 1], and 0 or 1; `canvas` fields of view wide
        guides : (count, any, side, side), channels that follow the geometry alone, such as click maps
        gather : makes the whole batch, from which lesions are pasted, of the parts of all processes

        Returns
        -------
        images, masks, guides : (count, slices or any, size, size)
        """
        p, size = parameters, self.data.input_px
        displacement = None
        if p.control_px is not None:
            spacing_px = self.config.elastic_spacing_px * self.enlarged
            displacement = transforms.elastic_displacement(p.control_px, size, spacing_px)
        grid = transforms.sampling_grid(p.angle_rad, p.scale / self.canvas, p.flip, size, displacement)
        slices = images.shape[1]
        both, masks = transforms.resample(torch.cat([images, guides], 1), masks, grid)
        images, guides = both[:, :slices], both[:, slices:]
        if p.paste is not None:
            images, masks = transforms.paste_lesions(images, masks, p.paste, (gather(images), gather(masks)))
        some = p.kept < 1
        images[some] = transforms.fade(images[some], masks[some], p.kept[some])
        some = (p.tissue_hu != 0) | (p.lesion_hu != 0)
        if some.any():
            images[some] = transforms.contrast_agent(
                images[some],
                masks[some],
                p.tissue_hu[some],
                p.lesion_hu[some],
                window_hu=self.data.window_hu,
                band_hu=self.config.agent_band_hu,
            )
        images = transforms.grey(images, p.gamma, p.contrast, p.brightness)
        if (p.low_resolution > 1).any():
            images = transforms.lower_resolution(images, p.low_resolution)
        some = p.blur_px > 0
        if some.any():
            images[some] = transforms.smooth(images[some], p.blur_px[some])
        if p.noise is not None:
            images = images + p.noise * each(p.noise_sd)
        return images.clamp(0, 1), masks, guides

    def draw(self, rng: np.random.Generator, count: int, slices: int, geometry: Geometry | None = None) -> Parameters:
        """Parameters for a batch. A transform of probability 0 draws nothing, except fading.

        Parameters
        ----------
        rng : the only source of random numbers
        count, slices : number of images, and of slices of each
        geometry : scale of pasted shapes; without it none is pasted
        """
        config, size = self.config, self.data.input_px

        def uniform(low: float, high: float) -> Tensor:
            return torch.from_numpy(rng.uniform(low, high, count).astype(np.float32))

        def normal(*shape: int) -> Tensor:
            return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))

        def sometimes(probability: float, low: float, high: float, otherwise: float = 0.0) -> Tensor:
            """uniform(low, high) for a share of the images."""
            if probability == 0:
                return torch.full((count,), otherwise)
            chosen = uniform(0, 1) < probability
            return torch.where(chosen, uniform(low, high), otherwise)

        angle = torch.zeros(count)
        if config.quarter_turns:
            angle = torch.from_numpy(rng.integers(0, 4, count).astype(np.float32)) * (np.pi / 2)
        angle = angle + uniform(-config.rotation_rad, config.rotation_rad)
        scale = torch.exp(uniform(-config.scale_log, config.scale_log))
        flip = torch.where(uniform(0, 1) < config.flip_probability, -1.0, 1.0)
        control = None
        if config.elastic_probability > 0:
            points = transforms.control_points(size, config.elastic_spacing_px * self.enlarged)
            reach = sometimes(config.elastic_probability, 0, config.elastic_px) * self.enlarged
            share = rng.uniform(-1, 1, (count, 2, points, points)).astype(np.float32)
            control = torch.from_numpy(share) * each(reach)
        paste = None
        if config.paste_probability > 0:
            paste = self._draw_paste(rng, slices, scale, geometry)
        kept = torch.where(uniform(0, 1) < config.fade_probability, uniform(config.fade_kept, 1), 1.0)
        tissue, lesion = torch.zeros(count), torch.zeros(count)
        if config.agent_probability > 0:
            given = uniform(0, 1) < config.agent_probability
            tissue = torch.where(given, uniform(-config.agent_hu, config.agent_hu), 0.0)
            lesion = torch.where(given, uniform(-config.agent_hu, config.agent_hu), 0.0)
        gamma = torch.exp(uniform(-config.gamma_log, config.gamma_log))
        contrast = uniform(1 - config.contrast, 1 + config.contrast)
        brightness = uniform(-config.brightness, config.brightness)
        coarse = sometimes(config.low_resolution_probability, 1, config.low_resolution_factor, 0.0)
        low_resolution = (coarse * self.enlarged).clamp(min=1)
        blur = sometimes(config.blur_probability, 0, config.blur_px) * self.enlarged
        noise = normal(count, slices, size, size)
        noise_sd = uniform(0, config.noise_sd)
        return Parameters(
            angle,
            scale,
            flip,
            control,
            paste,
            kept,
            tissue,
            lesion,
            gamma,
            contrast,
            brightness,
            low_resolution,
            blur,
            noise,
            noise_sd,
        )

    def _draw_paste(self, rng: np.random.Generator, slices: int, scale: Tensor, geometry: Geometry | None) -> Paste:
        """Images that get a lesion, its donor, place and shape."""
        config, size, count = self.config, self.data.input_px, len(scale)
        wanted = torch.from_numpy(rng.random(count) < config.paste_probability)
        donor = torch.from_numpy(rng.random(count))
        place = torch.from_numpy(rng.random(count))
        level = torch.from_numpy(rng.uniform(-config.paste_level, config.paste_level, count).astype(np.float32))
        soft_px = torch.from_numpy(rng.uniform(0, config.paste_soft_px, count).astype(np.float32)) * self.enlarged
        if self.shapes is None or geometry is None:
            return Paste(wanted, donor, place, level, soft_px)
        shape, texture = torch.zeros(count, slices, size, size), torch.zeros(count, slices, size, size)
        for k in torch.nonzero(wanted).flatten().tolist():
            if rng.random() < config.shape_fraction:
                shape[k] = self._draw_shape(rng, geometry.pixel_mm[k] * scale[k], geometry.offset_mm[k])
                noise = torch.from_numpy(rng.standard_normal((slices, size, size), dtype=np.float32))
                texture[k] = grain(noise, TEXTURE_PX * self.enlarged)
        return Paste(wanted, donor, place, level, soft_px, shape, texture)

    def _draw_shape(self, rng: np.random.Generator, pixel_mm: Tensor, offset_mm: Tensor) -> Tensor:
        """Slices through a rotated shape of the library; empty if no shape drawn fits."""
        assert self.shapes is not None
        for _ in range(TRIES):
            found = render(
                self.shapes[int(rng.integers(len(self.shapes)))],
                size_px=self.data.input_px,
                pixel_mm=pixel_mm,
                offset_mm=offset_mm,
                at=float(rng.random()),
                angle_rad=float(rng.uniform(0, 2 * math.pi)),
            )
            if found[len(found) // 2].any():
                return found
        return torch.zeros_like(found)


def grain(noise: Tensor, sd_px: float) -> Tensor:
    """White noise (slices, height, width), blurred and scaled to a standard deviation of 1."""
    grained = transforms.smooth(noise[None], torch.tensor([sd_px]))[0]
    return grained / grained.std(correction=0).clamp(min=1e-6)
