"""Boxes of voxels: a slice with a start and a stop along each axis."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Box = tuple[slice, ...]


def bounding_box(mask: NDArray[np.bool_]) -> Box:
    """The smallest box that holds every foreground voxel; there must be one."""
    box = []
    for axis in range(mask.ndim):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        hits = np.flatnonzero(mask.any(axis=others))
        box.append(slice(int(hits[0]), int(hits[-1]) + 1))
    return tuple(box)


def common(first: Box, second: Box) -> Box:
    """The box that lies in both, of length 0 along an axis where they do not meet."""
    return tuple(
        slice(start := max(a.start, b.start), max(start, min(a.stop, b.stop)))
        for a, b in zip(first, second, strict=True)
    )


def widened(box: Box, by: Sequence[int], shape: Sequence[int]) -> Box:
    """A box with so many voxels more on either side along each axis, as far as an image of that shape goes."""
    return tuple(
        slice(max(part.start - more, 0), min(part.stop + more, length))
        for part, more, length in zip(box, by, shape, strict=True)
    )


def within(box: Box, outer: Box) -> Box:
    """A box as it is counted from the corner of another that holds it."""
    return tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(box, outer, strict=True))


def is_empty(box: Box) -> bool:
    return any(part.start >= part.stop for part in box)
