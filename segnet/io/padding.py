"""Where the image ends and the constant begins that a volume cut beyond a scan's edge was filled up with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segnet.errors import InputError
from segnet.io.boxes import Box, is_empty


def constant_border(image: NDArray[Any]) -> Box:
    """The box inside a border of one constant.

    From each of the six faces, planes are taken away that hold a single value, as long as it is the value of the face. Which
    value that is does not matter: fillings differ from set to set, and a scan may hold the same value inside.

    Parameters
    ----------
    image : three axes in any order, finite

    Returns
    -------
    One slice an axis, all of them from 0 to 0 where the whole image is one constant.

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
    """Planes along `axis` between the two runs of constant ones at its ends; plane by plane, so that no copy is made."""
    planes = np.moveaxis(image, axis, 0)
    count = len(planes)

    def run(order: range) -> int:
        value = planes[order[0]].flat[0]
        return next((n for n, k in enumerate(order) if not (planes[k] == value).all()), count)

    first = run(range(count))
    return slice(0, 0) if first == count else slice(first, count - run(range(count - 1, -1, -1)))
