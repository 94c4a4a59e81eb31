"""Training batches: slices of a prepared dataset, cut to the field of view, augmented, resampled to the network's input size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segnet.config import AugmentConfig, DataConfig
from segnet.dataset.augment import Augmenter, Geometry, Parameters
from segnet.dataset.sampling import Contents, SliceSampler
from segnet.dataset.shapes import load_shapes

if TYPE_CHECKING:
    from segnet.dataset.store import Cases, PreparedCase

CANVAS = 1.5
"""Side of the square cut out of a slice, in fields of view: the reach of a rotation by 45 degrees, and a little more."""
ALL = slice(None)


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
    """`slices` neighbours around slice z of (Z, Y, X). Beyond the ends the first or last slice repeats."""
    around: NDArray[np.generic] = volume[np.clip(np.arange(slices) + z - slices // 2, 0, len(volume) - 1)]
    return around


def window_starts(length: int, side: int) -> list[int]:
    """Starts of windows of `side` that cover `length` and overlap by half a window or more. A single window is centred."""
    if length <= side:
        return [(length - side) // 2]
    count = -(-(length - side) // (side // 2)) + 1
    return [round(k * (length - side) / (count - 1)) for k in range(count)]


def contents_of(entry: PreparedCase, only: Sequence[int] | None = None) -> Contents:
    """A volume's content for the sampler; `only` these slices may be drawn."""
    slices = range(entry.shape_zyx[0]) if only is None else only
    return Contents(entry.case, entry.patient, slices, entry.lesion_z, entry.lesion_ml, entry.spacing_zyx_mm[0])


class BatchSource:
    """Draws augmented training batches.

    One generator draws a seed for each sample of a batch, and the sample's own generator draws everything else of it. A process that
    needs a part of the batch loads and augments that part alone.

    Parameters
    ----------
    cases : training volumes
    config : field of view, input size, window, share of slices with lesion
    slices : slices shown at once
    only : slices of each case that are for training; default: all
    augment : default: `AugmentConfig()`

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

    def draw(
        self, count: int, own: slice = ALL, gather: Callable[[Tensor], Tensor] = lambda part: part
    ) -> tuple[Tensor, Tensor]:
        """The next batch, or a process's own part of it.

        Parameters
        ----------
        count : samples of the whole batch
        own : samples that are loaded and returned
        gather : makes the whole batch of the parts of all processes; a pasted lesion may be of any part

        Returns
        -------
        images : (own, slices, side, side) in [0, 1]
        masks : (own, side, side) of 0 and 1, of the middle slices
        """
        generators = [np.random.default_rng(seed) for seed in self.rng.integers(2**63, size=count)[own]]
        side, window = self._side, self.config.window
        images = np.empty((len(generators), self.slices, side, side), np.float32)
        masks = np.empty_like(images)
        drawn: list[Parameters] = []
        for k, rng in enumerate(generators):
            i, z = self.sampler.draw(rng)
            entry = self.cases.entries[i]
            centre_yx = self._field_of_view(i, rng)
            neighbours = self._neighbours(z, entry.shape_zyx[0], rng)
            for s, at in enumerate(neighbours.tolist()):
                image, mask = self.cases.plane(i, at)
                images[k, s] = normalise(cut(image, centre_yx, side, window[0]), window)
                masks[k, s] = cut(mask, centre_yx, side, 0)
            pixel_mm = np.multiply(entry.spacing_zyx_mm[1:], self.config.patch_px / self.config.input_px)
            offset_mm = (neighbours - z) * entry.spacing_zyx_mm[0]
            geometry = Geometry(*(torch.from_numpy(x.astype(np.float32))[None] for x in (pixel_mm, offset_mm)))
            drawn.append(self.augmenter.draw(rng, 1, self.slices, geometry))
        changed, marked = self.augmenter.apply(
            torch.from_numpy(images), torch.from_numpy(masks), Parameters.joined(drawn), gather
        )
        return changed, marked[:, self.slices // 2]

    def _neighbours(self, z: int, depth: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Slices shown for slice z."""
        around = np.asarray(stack(np.arange(depth), z, self.slices), np.int64)
        if self.slices > 1:
            around[rng.random(self.slices) < self.config.lone_fraction] = z
        return around

    def _field_of_view(self, index: int, rng: np.random.Generator) -> tuple[float, float]:
        """Its centre, at a place that inference could use: around a click in the lesion, or a window over the lesion."""
        entry = self.cases.entries[index]
        _, y, x = self.cases.lesion_voxel(index, int(rng.integers(entry.lesion_voxels)))
        side = self.config.patch_px
        if rng.random() < self.config.click_fraction:
            dy, dx = rng.uniform(-1, 1, 2) * side / 8
            return float(y + dy), float(x + dx)

        def window(at: int, length: int) -> int:
            starts = [start for start in window_starts(length, side) if start <= at < start + side]
            return starts[rng.integers(len(starts))]

        _, height, width = entry.shape_zyx
        return window(y, height) + side // 2, window(x, width) + side // 2
