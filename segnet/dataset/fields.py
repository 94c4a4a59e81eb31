"""Fields of view in mm around a click: the network's input, cut in the same way for training and for inference."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segnet.config import FieldsConfig

Point = tuple[float, float, float]
Planes = Callable[[int], NDArray[np.float32]]
"""From the index of a slice to its values, (height, width)."""

FILLED = 0.6
"""Largest extent of a lesion in the field of view that it is segmented in, as a share of the side: the rest shows what surrounds it."""
INSIDE = 0.45
"""Largest distance of a click from the centre of its field of view along an axis, as a share of the side."""


@dataclass(frozen=True)
class Field:
    """A square field of view in a slice.

    Attributes
    ----------
    side_mm : side of the square
    centre_yx : its middle, in voxels; whole numbers are centres of voxels
    size_px : pixels of the network's input along a side
    spacing_zyx_mm : of the volume
    """

    side_mm: float
    centre_yx: tuple[float, float]
    size_px: int
    spacing_zyx_mm: tuple[float, float, float]

    @property
    def pixel_mm(self) -> float:
        """Side of a pixel of the input."""
        return self.side_mm / self.size_px

    def weights(self, axis: int, length: int) -> tuple[slice, NDArray[np.float32]]:
        """Pixels of an image axis that the field of view sees, and their weights (size, seen) for each pixel of the input.

        Linear interpolation, or a triangle as wide as a pixel of the input where that is the larger one, so that small structures keep
        their share. Weights of pixels beyond the edge are lost: black lies there.

        Parameters
        ----------
        axis : 0 along y, 1 along x
        length : of the image
        """
        spacing = self.spacing_zyx_mm[1 + axis]
        at = (np.arange(self.size_px) + 0.5 - self.size_px / 2) * (self.pixel_mm / spacing) + self.centre_yx[axis]
        reach = max(1.0, self.pixel_mm / spacing)
        first, last = math.floor(at[0] - reach), math.ceil(at[-1] + reach)
        triangle = np.clip(1 - np.abs(np.arange(first, last + 1) - at[:, None]) / reach, 0, None)
        triangle /= triangle.sum(axis=1, keepdims=True)
        start, stop = (min(max(end, 0), length) for end in (first, last + 1))
        return slice(start, stop), triangle[:, start - first : stop - first].astype(np.float32)

    def inverse(self, axis: int, length: int) -> tuple[slice, NDArray[np.float32]]:
        """Pixels of an image axis whose centres lie in the field of view, and weights (pixels, size) of the input's pixels for each."""
        spacing = self.spacing_zyx_mm[1 + axis]
        half = self.side_mm / 2 / spacing
        start = min(max(math.ceil(self.centre_yx[axis] - half), 0), length)
        stop = min(max(math.floor(self.centre_yx[axis] + half) + 1, start), length)
        away_mm = (np.arange(start, stop) - self.centre_yx[axis]) * spacing
        at = away_mm / self.pixel_mm + self.size_px / 2 - 0.5
        reach = max(1.0, spacing / self.pixel_mm)
        triangle = np.clip(1 - np.abs(np.arange(self.size_px) - at[:, None]) / reach, 0, None)
        triangle /= np.maximum(triangle.sum(axis=1, keepdims=True), 1e-9)
        return slice(start, stop), triangle.astype(np.float32)

    def click_maps(self, click_zyx: Point, z: float, deviations_mm: Sequence[float]) -> NDArray[np.float32]:
        """``exp(-d^2 / (2 s^2))`` of the distance d in mm, in three dimensions, from the click to each pixel of slice z.

        Returns
        -------
        (deviations, size, size)
        """
        steps = (np.arange(self.size_px) + 0.5 - self.size_px / 2) * self.pixel_mm
        away = [steps + (self.centre_yx[k] - click_zyx[1 + k]) * self.spacing_zyx_mm[1 + k] for k in range(2)]
        depth = (z - click_zyx[0]) * self.spacing_zyx_mm[0]

        def gauss(distance: NDArray[Any] | float, s: float) -> NDArray[Any]:
            return np.exp(-np.square(distance) / (2 * s * s))

        maps = [gauss(depth, s) * np.outer(gauss(away[0], s), gauss(away[1], s)) for s in deviations_mm]
        return np.stack(maps).astype(np.float32)


def deviations_mm(fields: FieldsConfig, side_mm: float) -> tuple[float, float]:
    """Standard deviations of the two click maps of a field of view."""
    return fields.near_mm, fields.wide_share * side_mm


def soft_range(fields: FieldsConfig, window_hu: tuple[float, float]) -> tuple[float, float]:
    """The ends of the soft-tissue window, in the values of images whose window is [0, 1]."""
    low, high = window_hu
    return (fields.soft_hu[0] - low) / (high - low), (fields.soft_hu[1] - low) / (high - low)


def side_for(extent_mm: float, fields: FieldsConfig) -> int:
    """Index of the smallest field of view that a lesion of this extent fills to `FILLED` at most, or of the largest field."""
    fitting = (k for k, side in enumerate(fields.sides_mm) if extent_mm <= FILLED * side)
    return next(fitting, len(fields.sides_mm) - 1)


def between(position: float, depth: int) -> list[tuple[int, float]]:
    """The slices that make up a position along z, with their weights; beyond the ends lies the first or last slice.

    Examples
    --------
    >>> between(1.25, 8), between(-3.0, 8)
    ([(1, 0.75), (2, 0.25)], [(0, 1.0)])
    """
    position = min(max(position, 0.0), depth - 1.0)
    below = math.floor(position)
    share = position - below
    return [(z, w) for z, w in ((below, 1 - share), (below + 1, share)) if w > 0]


def mixed(planes: Planes, position: float, depth: int) -> NDArray[np.float32]:
    """The plane at a position along z, by linear interpolation."""
    parts = [(planes(z), np.float32(weight)) for z, weight in between(position, depth)]
    if len(parts) == 1:
        return parts[0][0]
    (below, a), (above, b) = parts
    return below * a + above * b
