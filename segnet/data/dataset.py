"""Training batches: slices of a prepared dataset, cut to the field of view, augmented, resampled to the network's input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ..config import DataConfig
from ..errors import InputError
from .cases import Cases

CANVAS = 1.5
"""Side of the piece cut out of a slice, in fields of view: what a rotation by 45 degrees can reach, and a little more."""


def normalise(image_hu: NDArray[np.generic], window_hu: tuple[float, float]) -> NDArray[np.float32]:
    """HU clipped to the window and brought to [0, 1]."""
    low, high = window_hu
    return ((np.clip(image_hu, low, high) - low) / (high - low)).astype(np.float32)


def cut(plane: NDArray[np.generic], centre_yx: tuple[float, float], side: int, fill: float) -> NDArray[np.generic]:
    """A square of `side` pixels around a point of (height, width), `fill` beyond the edge."""
    out = np.full((side, side), fill, dtype=plane.dtype)
    top, left = (round(c) - side // 2 for c in centre_yx)
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = min(top + side, plane.shape[0]), min(left + side, plane.shape[1])
    if y1 > y0 and x1 > x0:
        out[y0 - top : y1 - top, x0 - left : x1 - left] = plane[y0:y1, x0:x1]
    return out


def stack(volume: NDArray[np.generic], z: int, slices: int) -> NDArray[np.generic]:
    """`slices` neighbours around slice z of (Z, Y, X), the first and last repeated beyond the ends."""
    around: NDArray[np.generic] = volume[np.clip(np.arange(slices) + z - slices // 2, 0, len(volume) - 1)]
    return around


def window_starts(length: int, side: int) -> list[int]:
    """Starts of windows of `side` that cover `length` with at least half a window of overlap; one, centred, where one is enough."""
    if length <= side:
        return [(length - side) // 2]
    count = -(-(length - side) // (side // 2)) + 1
    return [round(k * (length - side) / (count - 1)) for k in range(count)]


def fade(images: Tensor, masks: Tensor, kept: Tensor) -> Tensor:
    """Lesions faded towards what surrounds them, as if they were faint ones: what is `kept` of the difference, by image.

    Parameters
    ----------
    images, masks : (count, slices, height, width); each slice by itself
    kept : (count,) in [0, 1]; 1 leaves an image alone
    """
    rows = F.max_pool2d(masks, (9, 1), stride=1, padding=(4, 0))
    ring = F.max_pool2d(rows, (1, 9), stride=1, padding=(0, 4)) - masks
    around = (images * ring).sum((2, 3), keepdim=True) / ring.sum((2, 3), keepdim=True).clamp(min=1)
    inside = F.avg_pool2d(masks, 3, stride=1, padding=1)
    return images - (1 - kept[:, None, None, None]) * inside * (images - around)


class BatchSource:
    """Draws augmented training batches. All randomness comes from one generator, so a seed fixes the sequence.

    Parameters
    ----------
    cases : training volumes
    config : field of view, input size, window, share of lesion slices
    seed : of the generator
    slices : shown at once
    only : slices by case, where not all of a case's slices are for training

    Raises
    ------
    InputError
        There is no case, or no slice with lesion.
    """

    def __init__(
        self,
        cases: Cases,
        config: DataConfig,
        seed: int,
        *,
        slices: int = 1,
        only: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        self.cases, self.config, self.slices = cases, config, slices
        self.rng = np.random.default_rng(seed)
        self.lesion_slices: list[tuple[int, int]] = []
        self.other_slices: list[tuple[int, int]] = []
        for i, entry in enumerate(cases.entries):
            held = set(entry.lesion_z)
            for z in range(entry.shape_zyx[0]) if only is None else only.get(entry.case, ()):
                (self.lesion_slices if z in held else self.other_slices).append((i, z))
        if not self.lesion_slices:
            raise InputError("cases: expected at least one training case, got none; prepare more patients")

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """(images (count, slices, side, side) in [0, 1], masks (count, side, side) of 0 and 1, those of the middle slices)."""
        side = int(self.config.patch_px * CANVAS)
        images = np.empty((count, self.slices, side, side), np.float32)
        masks = np.empty((count, self.slices, side, side), np.float32)
        window = self.config.window
        for k in range(count):
            lesion = not self.other_slices or self.rng.random() < self.config.lesion_fraction
            pool = self.lesion_slices if lesion else self.other_slices
            i, z = pool[self.rng.integers(len(pool))]
            centre_yx = self._field_of_view(i)
            for s, at in enumerate(self._neighbours(z, self.cases.entries[i].shape_zyx[0])):
                image, mask = self.cases.plane(i, int(at))
                images[k, s] = normalise(cut(image, centre_yx, side, window[0]), window)
                masks[k, s] = cut(mask, centre_yx, side, 0)
        return self._augment(torch.from_numpy(images), torch.from_numpy(masks))

    def _neighbours(self, z: int, depth: int) -> NDArray[np.int64]:
        """Which slices are shown for slice z."""
        around = np.asarray(stack(np.arange(depth), z, self.slices), np.int64)
        if self.slices > 1:
            around[self.rng.random(self.slices) < self.config.lone_fraction] = z
        return around

    def _field_of_view(self, index: int) -> tuple[float, float]:
        """Its centre, where inference could put it: around a click in the lesion, or at one of the windows over the lesion."""
        entry = self.cases.entries[index]
        _, y, x = self.cases.lesion_voxel(index, int(self.rng.integers(entry.lesion_voxels)))
        side = self.config.patch_px
        if self.rng.random() < self.config.click_fraction:
            dy, dx = self.rng.uniform(-1, 1, 2) * side / 8
            return float(y + dy), float(x + dx)

        def window(at: int, length: int) -> int:
            starts = [start for start in window_starts(length, side) if start <= at < start + side]
            return starts[self.rng.integers(len(starts))]

        _, height, width = entry.shape_zyx
        return window(y, height) + side // 2, window(x, width) + side // 2

    def _uniform(self, low: float, high: float, count: int) -> Tensor:
        return torch.from_numpy(self.rng.uniform(low, high, count).astype(np.float32))

    def _augment(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Flip, quarter and small turns, scale, fading, then contrast, brightness, gamma and noise."""
        count, size = len(images), self.config.input_px
        quarter = torch.from_numpy(self.rng.integers(0, 4, count).astype(np.float32)) * (np.pi / 2)
        angle = quarter + self._uniform(-0.25, 0.25, count)
        scale = torch.exp(self._uniform(-0.2, 0.2, count)) / CANVAS
        flip = torch.where(self._uniform(0, 1, count) < 0.5, -1.0, 1.0)
        cos, sin, zero = torch.cos(angle) * scale, torch.sin(angle) * scale, torch.zeros(count)
        theta = torch.stack([torch.stack([cos * flip, -sin, zero], -1), torch.stack([sin * flip, cos, zero], -1)], 1)
        grid = F.affine_grid(theta, [count, 1, size, size], align_corners=False)
        images = F.grid_sample(images, grid, mode="bilinear", align_corners=False)
        masks = F.grid_sample(masks, grid, mode="nearest", align_corners=False)

        def each(values: Tensor) -> Tensor:
            return values[:, None, None, None]

        faded = self._uniform(0, 1, count) < self.config.fade_fraction
        images[faded] = fade(images[faded], masks[faded], self._uniform(0.2, 1, count)[faded])
        images = images.clamp(0, 1) ** each(torch.exp(self._uniform(-0.2, 0.2, count)))
        images = images * each(self._uniform(0.85, 1.15, count)) + each(self._uniform(-0.05, 0.05, count))
        noise = torch.from_numpy(self.rng.standard_normal(tuple(images.shape), dtype=np.float32))
        images = images + noise * each(self._uniform(0, 0.02, count))
        return images.clamp(0, 1), masks[:, self.slices // 2]
