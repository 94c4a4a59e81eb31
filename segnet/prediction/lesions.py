"""Measurements of each lesion of a predicted mask: size, density, mean probability and place."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segnet.io.boxes import Box
from segnet.io.volumes import Volume
from segnet.metrics import LesionStatistics, component_statistics, components, lesion_statistics


@dataclass(frozen=True)
class Lesion(LesionStatistics):
    """One lesion.

    Its `axes` are in voxels of the canonical (Z, Y, X) array and in mm.

    Attributes
    ----------
    lesion : the number of its click, or from 1 by falling volume
    mean_probability : over its voxels, None without voxels
    centre_ras_mm : mean position of its voxels, None without voxels
    """

    lesion: int
    mean_probability: float | None
    centre_ras_mm: tuple[float, float, float] | None


def lesions_of(
    volume: Volume,
    mask_zyx: NDArray[np.bool_],
    probability_zyx: NDArray[np.float32],
    box: Box,
    *,
    number: int | None = None,
) -> list[Lesion]:
    """The lesions of a mask.

    Parameters
    ----------
    mask_zyx, probability_zyx : (Z, Y, X) like the volume
    box : holds all of the mask; nothing else is looked at
    number : of the clicked lesion; the mask is then one lesion, even an empty one. Without it each 3-D component (26 neighbours)
        is one
    """
    image, mask, probability = volume.array_zyx[box], mask_zyx[box], probability_zyx[box]
    spacing = volume.spacing_zyx_mm
    if number is None:
        labels: NDArray[Any] = components(mask)
        found = component_statistics(image, mask, spacing)
    else:
        labels, found = mask.astype(np.int32), [lesion_statistics(image, mask, spacing)]
    sums = np.bincount(labels.ravel(), probability.ravel(), minlength=len(found) + 1)
    centres = _centres(labels, len(found))
    corner = [part.start for part in box]
    out = []
    for index, statistics in enumerate(found, 1):
        voxels = statistics.voxels
        place = None
        if voxels:
            z, y, x = (centres[index] + corner).tolist()
            right, anterior, superior = (volume.affine @ [x, y, z, 1.0])[:3].tolist()
            place = right, anterior, superior
        axes = None if statistics.axes is None else statistics.axes.moved(corner)
        out.append(
            Lesion(
                **vars(replace(statistics, axes=axes)),
                lesion=index if number is None else number,
                mean_probability=float(sums[index]) / voxels if voxels else None,
                centre_ras_mm=place,
            )
        )
    return out


def _centres(labels: NDArray[Any], count: int) -> NDArray[np.float64]:
    """Mean (z, y, x) of the voxels of each label, from one pass over the foreground."""
    voxels = np.argwhere(labels)
    of = labels[tuple(voxels.T)]
    number = np.maximum(np.bincount(of, minlength=count + 1), 1)
    return np.stack([np.bincount(of, voxels[:, axis], minlength=count + 1) / number for axis in range(3)], axis=1)
