"""A volume to draw into: tissue by signed distance, noise, tubes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segnet.dataset.phantom.body import Point

F32 = np.float32
Array = NDArray[np.float32]
Box = tuple[slice, slice, slice]


class Canvas:
    """A volume in HU as (Z, Y, X), its coordinates in the torso, and a coarse grid for all that is smooth."""

    STEP_MM = 3.2

    def __init__(self, middle: Point, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> None:
        self.shape_zyx = shape[::-1]
        self.spacing_zyx_mm = spacing_mm[::-1]
        self.axes = [
            (np.arange(n) - n // 2).astype(F32) * F32(s) + F32(c)
            for n, s, c in zip(self.shape_zyx, self.spacing_zyx_mm, middle[::-1], strict=True)
        ]
        self._grid = [(float(axis[0]), s, len(axis)) for axis, s in zip(self.axes, self.spacing_zyx_mm, strict=True)]
        self._weights = [_interpolation(axis, self.STEP_MM) for axis in self.axes]
        coarse = [_knots(axis, self.STEP_MM) for axis in self.axes]
        self.coarse = coarse[2][None, None, :], coarse[1][None, :, None], coarse[0][:, None, None]  # x, y, z
        self.coarse_shape = tuple(len(axis) for axis in coarse)
        self.hu = np.full(self.shape_zyx, -1000, F32)

    def xyz(self, box: Box) -> tuple[Array, Array, Array]:
        """Coordinates x, y, z in mm of the voxels in `box`, each broadcasting to (Z, Y, X)."""
        z, y, x = (axis[cut] for axis, cut in zip(self.axes, box, strict=True))
        return x[None, None, :], y[None, :, None], z[:, None, None]

    def whole(self) -> Box:
        z, y, x = self.shape_zyx
        return slice(0, z), slice(0, y), slice(0, x)

    def box(self, low: Point, high: Point) -> Box | None:
        """The voxels between two corners (x, y, z) in mm; None if there are none."""
        cuts = []
        for (first, step, n), a, b in zip(self._grid, low[::-1], high[::-1], strict=True):
            start, stop = max(0, math.ceil((a - first) / step)), min(n, math.floor((b - first) / step) + 1)
            if start >= stop:
                return None
            cuts.append(slice(start, stop))
        return cuts[0], cuts[1], cuts[2]

    def fine(self, field: Any, box: Box) -> Array:
        """A field on the coarse grid, linearly interpolated to the voxels of `box`."""
        out = np.broadcast_to(np.asarray(field, F32), self.coarse_shape)
        wz, wy, wx = (w[cut] for w, cut in zip(self._weights, box, strict=True))
        used = np.flatnonzero(wz.any(axis=0))
        knots = slice(int(used[0]), int(used[-1]) + 1)
        out = wy @ (out[knots] @ wx.T)  # (z, Y, X)
        n_y, n_x = out.shape[1:]
        return (wz[:, knots] @ out.reshape(len(out), n_y * n_x)).reshape(len(wz), n_y, n_x)

    def noise(self, rng: np.random.Generator, length_mm: float) -> Array:
        """A smooth random field on the coarse grid of unit variance, correlated over about this length."""
        return value_noise(rng, self.coarse_shape, (self.STEP_MM,) * 3, length_mm)

    def bounds(self, distance: Any, margin: float = 2.0) -> Box | None:
        """The voxels near the inside of a coarse signed distance."""
        inside = np.broadcast_to(distance, self.coarse_shape) < margin
        if not inside.any():
            return None
        low, high = [], []
        for i, axis in ((2, 0), (1, 1), (0, 2)):
            along = np.flatnonzero(inside.any(axis=tuple(j for j in range(3) if j != i)))
            knots = self.coarse[axis].ravel()
            low.append(float(knots[along[0]]) - self.STEP_MM)
            high.append(float(knots[along[-1]]) + self.STEP_MM)
        return self.box((low[0], low[1], low[2]), (high[0], high[1], high[2]))

    def paint(self, box: Box, alpha: Array, hu: Any) -> None:
        """Blend `hu` over what is there."""
        view = self.hu[box]
        change = hu - view
        change *= alpha
        view += change

    def slabs(self, box: Box) -> Iterator[Box]:
        """`box` in pieces of eight slices, small enough for the processor's cache."""
        for start in range(box[0].start, box[0].stop, 8):
            yield slice(start, min(start + 8, box[0].stop)), box[1], box[2]

    def fill(self, distance: Any, hu: Any, width_mm: float = 1.0, share: Array | None = None) -> bool:
        """Paint the inside of a coarse signed distance with a value or a coarse field of values.

        Writes what it covers of each voxel into `share` if given. False where all of it lies outside.
        """
        box = self.bounds(distance)
        if box is None:
            return False
        for slab in self.slabs(box):
            alpha = cover(self.fine(distance, slab), width_mm)
            self.paint(slab, alpha, self.fine(hu, slab) if np.ndim(hu) else F32(hu))
            if share is not None:
                share[slab] = alpha
        return True

    def tube(
        self, start: Point, end: Point, radii: tuple[float, float], hu: float, within: Array | None = None
    ) -> None:
        """Paint a tube that tapers from one radius to the other, inside `within` if given."""
        reach = max(radii) + 1.5
        low = tuple(min(a, b) - reach for a, b in zip(start, end, strict=True))
        high = tuple(max(a, b) + reach for a, b in zip(start, end, strict=True))
        box = self.box((low[0], low[1], low[2]), (high[0], high[1], high[2]))
        if box is None:
            return
        offsets = [a - F32(c) for a, c in zip(self.xyz(box), start, strict=True)]
        d = [F32(b - a) for a, b in zip(start, end, strict=True)]
        length2 = max(float(sum(c * c for c in d)), 1e-6)
        t = np.clip((offsets[0] * d[0] + offsets[1] * d[1] + offsets[2] * d[2]) / F32(length2), 0, 1)
        away2 = sum((o - t * c) ** 2 for o, c in zip(offsets, d, strict=True))
        alpha = cover(np.sqrt(away2) - (F32(radii[0]) + t * F32(radii[1] - radii[0])), 1.0)
        if within is not None:
            alpha = alpha * within[box]
        self.paint(box, alpha, F32(hu))


def cover(distance: Any, width_mm: float) -> Array:
    """Share of a voxel inside a surface at this signed distance, rising over `width_mm`."""
    out = np.asarray(distance, F32) * F32(-1 / width_mm)
    out += F32(0.5)
    return np.clip(out, 0, 1, out=out)


def value_noise(
    rng: np.random.Generator, shape: tuple[int, ...], spacing_mm: tuple[float, ...], length_mm: float
) -> Array:
    """A random field of unit variance: cubic B-spline through noise on a lattice of about `length_mm`."""
    knots = [math.ceil(n * s / length_mm) + 4 for n, s in zip(shape, spacing_mm, strict=True)]
    out = rng.standard_normal(knots, F32)
    for axis, (n, s, m) in enumerate(zip(shape, spacing_mm, knots, strict=True)):
        at = np.arange(n, dtype=F32) * F32(s / length_mm) + F32(1 + rng.random())
        u = np.abs(at[:, None] - np.arange(m, dtype=F32))
        weights = np.where(u < 1, 2 / 3 - u**2 + u**3 / 2, np.clip(2 - u, 0, None) ** 3 / 6).astype(F32)
        out = np.moveaxis(np.tensordot(weights, out, (1, axis)), 0, axis)
    # The variance of the spline, averaged over the place between knots, is 0.479 in each axis.
    return np.ascontiguousarray(out) * F32(0.479**-1.5)


def _knots(axis: Array, step_mm: float) -> Array:
    n = max(2, math.ceil(float(axis[-1] - axis[0]) / step_mm) + 1)
    return np.linspace(axis[0], axis[-1], n, dtype=F32)


def _interpolation(axis: Array, step_mm: float) -> Array:
    """(voxels, knots) weights of linear interpolation from the coarse grid."""
    knots = _knots(axis, step_mm)
    at = (axis - knots[0]) / (knots[1] - knots[0])
    weights: Array = np.clip(1 - np.abs(at[:, None] - np.arange(len(knots), dtype=F32)), 0, 1).astype(F32)
    return weights
