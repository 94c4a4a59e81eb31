"""Boxes of voxels: a slice with a start and a stop along each axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segnet.errors import InputError

Box = tuple[slice, ...]


def bounding_box(mask: NDArray[np.bool_]) -> Box:
    """The smallest box around all foreground voxels; there must be one."""
    box = []
    for axis in range(mask.ndim):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        hits = np.flatnonzero(mask.any(axis=others))
        box.append(slice(int(hits[0]), int(hits[-1]) + 1))
    return tuple(box)


def common(first: Box, second: Box) -> Box:
    """The intersection of two boxes, of length 0 along an axis where they do not meet."""
    return tuple(
        slice(start := max(a.start, b.start), max(start, min(a.stop, b.stop)))
        for a, b in zip(first, second, strict=True)
    )


def widened(box: Box, by: Sequence[int], shape: Sequence[int]) -> Box:
    """A box with `by` more voxels on either side of each axis, within an image of `shape`."""
    return tuple(
        slice(max(part.start - more, 0), min(part.stop + more, length))
        for part, more, length in zip(box, by, shape, strict=True)
    )


def within(box: Box, outer: Box) -> Box:
    """A box counted from the corner of another that holds it."""
    return tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(box, outer, strict=True))


def is_empty(box: Box) -> bool:
    return any(part.start >= part.stop for part in box)


def constant_border(image: NDArray[Any]) -> Box:
    """The box inside the border that fills up a volume cut beyond a scan's edge.

    From each face, planes of one single value are removed while it is the face's value. Any value counts: fillings differ between sets, and
    a scan may hold the same value inside.

    Parameters
    ----------
    image : three axes in any order, finite

    Returns
    -------
    One slice an axis, all from 0 to 0 if the whole image is one constant.

    Raises
    ------
    InputError
        The image has not three axes, or one of length 0.

    Examples
    --------
    >>> image = np.full((6, 5, 4), -1024)
    >>> image[2:5, :3, 1:] = np.arange(27).reshape(3, 3, 3)
    >>> constant_border(image)
    (slice(2, 5, None), slice(0, 3, None), slice(1, 4, None))
    """
    if image.ndim != 3 or 0 in image.shape:
        raise InputError(f"image: expected three axes with voxels, got shape {image.shape}; pass one volume")
    box = tuple(_content(image, axis) for axis in range(3))
    return (slice(0, 0),) * 3 if is_empty(box) else box


def _content(image: NDArray[Any], axis: int) -> slice:
    """The planes along `axis` between the constant ones at its ends; plane by plane, without a copy."""
    planes = np.moveaxis(image, axis, 0)
    count = len(planes)

    def run(order: range) -> int:
        value = planes[order[0]].flat[0]
        return next((n for n, k in enumerate(order) if not (planes[k] == value).all()), count)

    first = run(range(count))
    return slice(0, 0) if first == count else slice(first, count - run(range(count - 1, -1, -1)))
