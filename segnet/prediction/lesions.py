"""What is told of each lesion of a predicted mask: size, density, how sure the network is, and where it lies."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segnet.io.boxes import Box
from segnet.io.volumes import Volume
from segnet.metrics import LesionStatistics, RecistAxes, component_statistics, components, lesion_statistics


@dataclass(frozen=True)
class Lesion:
    """One lesion.

    Attributes
    ----------
    lesion : its number; where one was clicked the click's, else from 1 by falling volume
    statistics : voxels, volume in ml, RECIST axes in voxels of the canonical (Z, Y, X) array and in mm, and HU
    mean_probability : of its voxels, None where there is none
    centre_ras_mm : mean position of its voxels, None where there is none
    """

    lesion: int
    statistics: LesionStatistics
    mean_probability: float | None
    centre_ras_mm: tuple[float, float, float] | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "lesion": self.lesion,
            **self.statistics.as_dict(),
            "mean_probability": self.mean_probability,
            "centre_ras_mm": self.centre_ras_mm,
        }


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
    box : all of the mask lies in it, and nothing else is looked at
    number : where the mask is of one clicked lesion: its number, and there is one lesion, whether or not anything was found.
        Otherwise each 3-D component (26 neighbours) is one
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
        axes = None if statistics.axes is None else _moved(statistics.axes, corner)
        out.append(
            Lesion(
                index if number is None else number,
                replace(statistics, axes=axes),
                float(sums[index]) / voxels if voxels else None,
                place,
            )
        )
    return out


def _centres(labels: NDArray[Any], count: int) -> NDArray[np.float64]:
    """Mean (z, y, x) of the voxels of each label, from one pass over the foreground."""
    voxels = np.argwhere(labels)
    of = labels[tuple(voxels.T)]
    number = np.maximum(np.bincount(of, minlength=count + 1), 1)
    return np.stack([np.bincount(of, voxels[:, axis], minlength=count + 1) / number for axis in range(3)], axis=1)


def _moved(axes: RecistAxes, corner_zyx: list[int]) -> RecistAxes:
    z, y, x = corner_zyx
    long_yx, short_yx = (((a[0] + y, a[1] + x), (b[0] + y, b[1] + x)) for a, b in (axes.long_yx, axes.short_yx))
    return replace(axes, z=axes.z + z, long_yx=long_yx, short_yx=short_yx)
