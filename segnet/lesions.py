"""What is told of each lesion of a mask: size, density, how sure the network is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .metrics import recist_axes_mm, volume_ml


@dataclass(frozen=True)
class Lesion:
    """Measurements of one lesion. Those that an empty mask has none of are None.

    Attributes
    ----------
    lesion : its number; where one was clicked the click's, else from 1 by falling volume
    hu_sd : standard deviation of its voxels' HU, dividing by their number
    mean_probability : of its voxels
    centre_ras_mm : its centre of mass, all voxels alike
    """

    lesion: int
    voxels: int
    volume_ml: float
    long_axis_mm: float
    short_axis_mm: float
    hu_mean: float | None
    hu_sd: float | None
    hu_min: float | None
    hu_p5: float | None
    hu_median: float | None
    hu_p95: float | None
    hu_max: float | None
    mean_probability: float | None
    centre_ras_mm: tuple[float, float, float] | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def lesions_of(
    image_zyx: NDArray[Any],
    mask_zyx: NDArray[np.bool_],
    probability_zyx: NDArray[np.float32],
    *,
    spacing_zyx_mm: tuple[float, float, float],
    affine: NDArray[np.float64],
    number: int | None = None,
) -> list[Lesion]:
    """The lesions of a mask.

    Parameters
    ----------
    image_zyx, mask_zyx, probability_zyx : (Z, Y, X) in HU, bool, in [0, 1]
    affine : (4, 4), (x, y, z) of a voxel to mm in RAS
    number : where the mask is of one clicked lesion: its number, and there is one row, whether or not anything was found.
        Otherwise each 3-D component (26 neighbours) is a lesion
    """
    if number is None:
        labels, _ = ndimage.label(mask_zyx, np.ones((3, 3, 3)))
    else:
        labels = mask_zyx.astype(np.uint8)
    sizes = np.bincount(labels.ravel())[1:]
    boxes = ndimage.find_objects(labels)
    found = []
    for rank, index in enumerate(np.argsort(-sizes, kind="stable").tolist(), 1):
        box = boxes[index]
        found.append(
            _measured(
                number or rank,
                image_zyx[box],
                labels[box] == index + 1,
                probability_zyx[box],
                spacing_zyx_mm,
                affine,
                [part.start for part in box],
            )
        )
    if number is not None and not found:
        found = [Lesion(number, 0, 0.0, 0.0, 0.0, *[None] * 9)]
    return found


def _measured(
    number: int,
    image: NDArray[Any],
    mask: NDArray[np.bool_],
    probability: NDArray[np.float32],
    spacing_zyx_mm: tuple[float, float, float],
    affine: NDArray[np.float64],
    corner_zyx: list[int],
) -> Lesion:
    hu = image[mask].astype(np.float64)
    long_mm, short_mm = recist_axes_mm(mask, spacing_zyx_mm)
    p5, median, p95 = (float(value) for value in np.percentile(hu, (5, 50, 95)))
    centre_zyx = np.argwhere(mask).mean(axis=0) + corner_zyx
    x, y, z = (float(value) for value in (affine @ [*centre_zyx[::-1], 1.0])[:3])
    return Lesion(
        number,
        len(hu),
        volume_ml(mask, spacing_zyx_mm),
        long_mm,
        short_mm,
        float(hu.mean()),
        float(hu.std()),
        float(hu.min()),
        p5,
        median,
        p95,
        float(hu.max()),
        float(probability[mask].mean(dtype=np.float64)),
        (x, y, z),
    )
