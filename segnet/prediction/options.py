"""How an image is segmented, and how large the volume of interest around a click is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from segnet.config import DataConfig
from segnet.errors import InputError
from segnet.io.boxes import Box

Progress = Callable[[int, int], None]
"""Called with the work done and all work."""
MASK_ENDINGS = (".nii.gz", ".nii")
THRESHOLD = 0.5
"""Of the lesion probability."""
ULS23_VOI_ZYX = (128, 256, 256)
"""Voxels of the challenge's volumes. The lesion voxel is at index (64, 128, 128)."""


@dataclass(frozen=True)
class VoiSize:
    """The size of a volume of interest.

    Attributes
    ----------
    shape_zyx : in voxels
    size_zyx_mm : in mm instead, rounded up to whole voxels
    """

    shape_zyx: tuple[int, int, int] = ULS23_VOI_ZYX
    size_zyx_mm: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        given = self.shape_zyx if self.size_zyx_mm is None else self.size_zyx_mm
        unit = "voxels" if self.size_zyx_mm is None else "mm"
        if len(given) != 3 or not all(0 < size < 1e6 for size in given):
            raise InputError(
                f"voi: expected three lengths above 0 {unit} along z, y and x, got {tuple(given)}; the default is"
                f" {ULS23_VOI_ZYX} voxels"
            )

    def voxels_zyx(self, spacing_zyx_mm: tuple[float, ...]) -> tuple[int, int, int]:
        """The shape on a grid of that spacing."""
        if self.size_zyx_mm is None:
            return self.shape_zyx
        z, y, x = (
            max(1, -int(-size // spacing)) for size, spacing in zip(self.size_zyx_mm, spacing_zyx_mm, strict=True)
        )
        return z, y, x


ULS23_VOI = VoiSize()


@dataclass(frozen=True)
class Options:
    """How an image is segmented.

    Attributes
    ----------
    voi : with a click, only this volume around it is segmented; the rest costs neither time nor memory. Default: the whole image for
        a network that is told the click, else `ULS23_VOI`
    skip_padding : hide a constant border (`segnet.io.boxes.constant_border`) from the network, as if the image ended there
    tta : mean over eight views of each slice (test-time augmentation)
    threshold : of the lesion probability
    uncertainty : also the standard deviation of the probability over networks and views
    """

    voi: VoiSize | None = None
    skip_padding: bool = False
    tta: bool = False
    threshold: float = THRESHOLD
    uncertainty: bool = False

    def voi_of(self, data: DataConfig) -> VoiSize | None:
        """The volume of interest for networks trained so, None for the whole image."""
        return ULS23_VOI if self.voi is None and data.fields is None else self.voi


def around(click_zyx: tuple[int, int, int], voxels_zyx: tuple[int, int, int], shape_zyx: tuple[int, ...]) -> Box:
    """The part of a volume of interest that lies in an image. The click is at index size // 2, as in ULS23.

    Examples
    --------
    >>> around((5, 40, 99), (4, 10, 10), (60, 80, 100))
    (slice(3, 7, None), slice(35, 45, None), slice(94, 100, None))
    """
    return tuple(
        slice(max(at - size // 2, 0), min(at - size // 2 + size, length))
        for at, size, length in zip(click_zyx, voxels_zyx, shape_zyx, strict=True)
    )
