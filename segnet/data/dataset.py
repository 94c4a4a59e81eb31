"""Training batches: slices of a prepared dataset, cut to the field of view, augmented, resampled to the network's input."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ..config import DataConfig
from ..errors import InputError
from .prepare import load_dataset

CANVAS = 1.5
"""Side of the piece cut out of a slice, in fields of view: what a rotation by 45 degrees can reach, and a little more."""


@dataclass(frozen=True)
class Case:
    """One prepared volume. image is HU clipped to the window; lesion holds the (z, y, x) of every lesion voxel."""

    name: str
    patient: str
    image: NDArray[np.int16]
    mask: NDArray[np.uint8]
    spacing_zyx_mm: tuple[float, float, float]
    affine: NDArray[np.float64]
    lesion: NDArray[np.int32]


def normalise(image_hu: NDArray[np.generic], window_hu: tuple[float, float]) -> NDArray[np.float32]:
    """HU clipped to the window and brought to [0, 1]."""
    low, high = window_hu
    return ((np.clip(image_hu, low, high) - low) / (high - low)).astype(np.float32)


def load_cases(root: Path, names: list[str] | None = None) -> list[Case]:
    """Reads the cases of a prepared dataset into memory, all or those named.

    Raises
    ------
    InputError
        The folder is not a prepared dataset, or a named case is not in it.
    """
    dataset = load_dataset(root)
    entries = {entry.case: entry for entry in dataset.cases}
    unknown = sorted(set(names or ()) - set(entries))
    if unknown:
        raise InputError(
            f"cases: expected cases of {root}, got {unknown[0]!r}; prepare the data again or use its own split"
        )
    cases = []
    for name in names if names is not None else sorted(entries):
        entry = entries[name]
        with h5py.File(Path(root) / entry.file, "r") as file:
            group = file[name]
            mask = group["mask"][:]
            cases.append(
                Case(
                    name,
                    entry.patient,
                    group["image"][:],
                    mask,
                    entry.spacing_zyx_mm,
                    np.asarray(group.attrs["affine"], dtype=np.float64),
                    np.argwhere(mask).astype(np.int32),
                )
            )
    return cases


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
    """

    def __init__(self, cases: list[Case], config: DataConfig, seed: int, *, slices: int = 1) -> None:
        if not cases:
            raise InputError("cases: expected at least one training case, got none; prepare more patients")
        self.cases, self.config, self.slices = cases, config, slices
        self.rng = np.random.default_rng(seed)
        self.lesion_slices = [(i, int(z)) for i, case in enumerate(cases) for z in np.unique(case.lesion[:, 0])]
        with_lesion = set(self.lesion_slices)
        self.other_slices = [
            (i, z) for i, case in enumerate(cases) for z in range(len(case.image)) if (i, z) not in with_lesion
        ]

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """(images (count, slices, side, side) in [0, 1], masks (count, side, side) of 0 and 1, those of the middle slices)."""
        side = int(self.config.patch_px * CANVAS)
        images = np.empty((count, self.slices, side, side), np.float32)
        masks = np.empty((count, self.slices, side, side), np.float32)
        low = self.config.window_hu[0]
        for k in range(count):
            lesion = not self.other_slices or self.rng.random() < self.config.lesion_fraction
            pool = self.lesion_slices if lesion else self.other_slices
            i, z = pool[self.rng.integers(len(pool))]
            case = self.cases[i]
            centre_yx = self._field_of_view(case)
            for s, at in enumerate(self._neighbours(z, len(case.image))):
                images[k, s] = normalise(cut(case.image[at], centre_yx, side, low), self.config.window_hu)
                masks[k, s] = cut(case.mask[at], centre_yx, side, 0)
        return self._augment(torch.from_numpy(images), torch.from_numpy(masks))

    def _neighbours(self, z: int, depth: int) -> NDArray[np.int64]:
        """Which slices are shown for slice z."""
        around = np.asarray(stack(np.arange(depth), z, self.slices), np.int64)
        if self.slices > 1:
            around[self.rng.random(self.slices) < self.config.lone_fraction] = z
        return around

    def _field_of_view(self, case: Case) -> tuple[float, float]:
        """Its centre, where inference could put it: around a click in the lesion, or at one of the windows over the lesion."""
        y, x = case.lesion[self.rng.integers(len(case.lesion)), 1:]
        side = self.config.patch_px
        if self.rng.random() < self.config.click_fraction:
            dy, dx = self.rng.uniform(-1, 1, 2) * side / 8
            return float(y + dy), float(x + dx)

        def window(at: int, length: int) -> int:
            starts = [start for start in window_starts(length, side) if start <= at < start + side]
            return starts[self.rng.integers(len(starts))]

        height, width = case.image.shape[1:]
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
