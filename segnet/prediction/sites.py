"""Warnings for images unlike those that the packaged weights were trained on: lungs, and limbs with air around them, in CT.

An image looks like CT in HU where 1 % of its voxels or more lie below -50 HU, as fat, lung and air do, and MR and unscaled CT do not.
A click is at a known site where lung (-950 to -500 HU) fills 10 % of the box of 88 x 88 x 20 mm around it, or where the body in its slice
is a limb: 350 cm2 or less, with air (below -500 HU) in 5 % of the box of 176 x 176 x 20 mm.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Voxel = tuple[int, int, int]
Spacing = tuple[float, float, float]

FAT_HU, FAT_SHARE = -50.0, 0.01
LUNG_HU, LUNG_HALF_MM, LUNG_SHARE = (-950.0, -500.0), 44.0, 0.10
AIR_HU, AIR_HALF_MM, AIR_SHARE = -500.0, 88.0, 0.05
LIMB_CM2 = 350.0
HALF_DEPTH_MM = 10.0
SAMPLE = 10**6
"""Voxels, or a few more, that decide whether an image looks like CT."""

NOT_CT = (
    "the image does not look like CT in HU, for hardly a voxel is as dark as fat, lung or air: the weights were trained on CT alone;"
    " check its modality and its scale"
)
UNSEEN = (
    "there is neither lung nor the air around a limb at the click: the weights were trained on {sites}, and on no other site;"
    " check the mask with care"
)


def site_warnings(image_zyx: NDArray[np.number], spacing_zyx_mm: Spacing, click: Voxel | None, sites: str) -> list[str]:
    """Warnings for an image that the packaged weights may not fit.

    Parameters
    ----------
    image_zyx : (Z, Y, X), in HU if it is CT
    click : voxel (z, y, x); without it the site is not looked at
    sites : the weights' training data, in words

    Examples
    --------
    >>> site_warnings(np.full((4, 9, 9), 40.0), (5, 1, 1), None, "lung nodules") == [NOT_CT]
    True
    """
    if not looks_like_ct(image_zyx):
        return [NOT_CT]
    if click is None or is_known_site(image_zyx, spacing_zyx_mm, click):
        return []
    return [UNSEEN.format(sites=sites)]


def looks_like_ct(image_zyx: NDArray[np.number]) -> bool:
    """Whether enough voxels are as dark as fat, lung or air are in HU."""
    step = max(1, int((image_zyx.size / SAMPLE) ** (1 / 3)))
    return bool((image_zyx[::step, ::step, ::step] < FAT_HU).mean() >= FAT_SHARE)


def is_known_site(image_zyx: NDArray[np.number], spacing_zyx_mm: Spacing, click: Voxel) -> bool:
    """Whether there is lung around a click, or air around the limb that it is in."""
    near = _around(image_zyx, spacing_zyx_mm, click, LUNG_HALF_MM)
    low, high = LUNG_HU
    if ((near >= low) & (near < high)).mean() >= LUNG_SHARE:
        return True
    far = _around(image_zyx, spacing_zyx_mm, click, AIR_HALF_MM)
    return bool((far < AIR_HU).mean() >= AIR_SHARE) and _body_cm2(image_zyx, spacing_zyx_mm, click) <= LIMB_CM2


def _around(image: NDArray[np.number], spacing: Spacing, click: Voxel, half_mm: float) -> NDArray[np.number]:
    reach = [int(mm / step) for mm, step in zip((HALF_DEPTH_MM, half_mm, half_mm), spacing, strict=True)]
    return image[tuple(slice(max(at - r, 0), at + r + 1) for at, r in zip(click, reach, strict=True))]


def _body_cm2(image: NDArray[np.number], spacing: Spacing, click: Voxel) -> float:
    """Area of what is connected to the click in its slice and no air; infinite for a click in air."""
    labels, _ = ndimage.label(image[click[0]] >= AIR_HU)
    here = labels[click[1:]]
    return float((labels == here).sum()) * spacing[1] * spacing[2] / 100 if here else float("inf")
