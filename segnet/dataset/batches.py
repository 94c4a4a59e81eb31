"""Training batches: slices of a prepared dataset, cut to the field of view, augmented, resampled to the network's input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segnet.config import AugmentConfig, DataConfig
from segnet.dataset.augment import Augmenter, Geometry
from segnet.dataset.cases import Cases
from segnet.dataset.prepared import PreparedCase
from segnet.dataset.sampling import Contents, SliceSampler
from segnet.dataset.shapes import load_shapes

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


def contents_of(entry: PreparedCase, only: Sequence[int] | None = None) -> Contents:
    """What a volume holds, as the choice of a slice goes by it; `only` these of its slices may be drawn."""
    slices = range(entry.shape_zyx[0]) if only is None else only
    return Contents(entry.case, entry.patient, slices, entry.lesion_z, entry.lesion_ml, entry.spacing_zyx_mm[0])


class BatchSource:
    """Draws augmented training batches. All randomness comes from one generator, so a seed fixes the sequence.

    Parameters
    ----------
    cases : training volumes
    config : field of view, input size, window, share of lesion slices
    seed : of the generator
    slices : shown at once
    only : slices by case, where not all of a case's slices are for training
    augment : how they are changed; None is the default

    Raises
    ------
    InputError
        No slice with lesion may be drawn.
    """

    def __init__(
        self,
        cases: Cases,
        config: DataConfig,
        seed: int,
        *,
        slices: int = 1,
        only: Mapping[str, Sequence[int]] | None = None,
        augment: AugmentConfig | None = None,
    ) -> None:
        self.cases, self.config, self.slices = cases, config, slices
        self._side = int(config.patch_px * CANVAS)
        self.rng = np.random.default_rng(seed)
        contents = [contents_of(e, None if only is None else only.get(e.case, ())) for e in cases.entries]
        self.sampler = SliceSampler.of(contents, config)
        augment = augment or AugmentConfig()
        shapes = load_shapes(augment.shapes) if augment.shapes is not None else None
        self.augmenter = Augmenter(augment, config, canvas=self._side / config.patch_px, shapes=shapes)

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """(images (count, slices, side, side) in [0, 1], masks (count, side, side) of 0 and 1, those of the middle slices)."""
        side = self._side
        images = np.empty((count, self.slices, side, side), np.float32)
        masks = np.empty((count, self.slices, side, side), np.float32)
        pixel_mm, offset_mm = np.empty((count, 2), np.float32), np.empty((count, self.slices), np.float32)
        window = self.config.window
        for k in range(count):
            i, z = self.sampler.draw(self.rng)
            entry = self.cases.entries[i]
            centre_yx = self._field_of_view(i)
            neighbours = self._neighbours(z, entry.shape_zyx[0])
            pixel_mm[k] = np.multiply(entry.spacing_zyx_mm[1:], self.config.patch_px / self.config.input_px)
            offset_mm[k] = (neighbours - z) * entry.spacing_zyx_mm[0]
            for s, at in enumerate(neighbours):
                image, mask = self.cases.plane(i, int(at))
                images[k, s] = normalise(cut(image, centre_yx, side, window[0]), window)
                masks[k, s] = cut(mask, centre_yx, side, 0)
        geometry = Geometry(torch.from_numpy(pixel_mm), torch.from_numpy(offset_mm))
        changed, marked = self.augmenter(torch.from_numpy(images), torch.from_numpy(masks), self.rng, geometry)
        return changed, marked[:, self.slices // 2]

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
