"""Series with lesions whose place is known in mm of the patient."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from dicom_series import make_series, save
from numpy.typing import NDArray

from segnet.io.boxes import bounding_box
from segnet.io.dicom import read_series
from segnet.io.dicom_frames import Series
from segnet.io.volumes import Volume, read_image
from segnet.metrics import lesion_statistics
from segnet.serve.dicom_objects import Algorithm, Finding, hashed_uid

SPACING = (0.5, 0.75, 2.5)
ORIENTATIONS: dict[str, tuple[float, ...]] = {
    "axial": (1, 0, 0, 0, 1, 0),
    "prone": (-1, 0, 0, 0, -1, 0),
    "feet first": (1, 0, 0, 0, -1, 0),
    "rows and columns exchanged": (0, 1, 0, 1, 0, 0),
    "coronal": (1, 0, 0, 0, 0, -1),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "oblique axial": tuple(np.round([np.cos(0.2), np.sin(0.2), 0, -np.sin(0.2), np.cos(0.2), 0], 12)),
    "oblique coronal": tuple(np.round([np.cos(0.3), np.sin(0.3), 0, 0, 0, -1], 12)),
}
MADE = {"algorithm": Algorithm("mamba-ahnet", "0.1.0"), "made_at": datetime(2026, 3, 4, 5, 6, 7)}
SHAPE = (12, 20, 16)  # slices, rows, columns


@dataclass(frozen=True, eq=False)
class Case:
    folder: Path
    volume: Volume
    series: Series
    findings: tuple[Finding, ...]
    masks: tuple[NDArray[np.bool_], ...]
    """Of the whole volume, (Z, Y, X)."""


def lesion(volume: Volume, mask: NDArray[np.bool_], name: str, **more: Any) -> Finding:
    """The mask of a whole volume, (Z, Y, X), measured as the service measures it."""
    box = bounding_box(mask)
    statistics = lesion_statistics(volume.array_zyx, mask, volume.spacing_zyx_mm)
    assert statistics.hu is not None
    return Finding(
        mask=mask[box],
        box=box,
        name=name,
        tracking_uid=hashed_uid("lesion", name),
        axes=statistics.axes,
        volume_ml=statistics.volume_ml,
        mean_hu=statistics.hu.mean,
        **more,
    )


def blob(shape: tuple[int, ...], seed: int) -> NDArray[np.bool_]:
    """A lopsided lesion that no flip and no exchange of axes maps onto itself, away from the middle."""
    rng = np.random.default_rng(seed)
    at = np.stack(np.meshgrid(*(np.arange(n) / n for n in shape), indexing="ij"), axis=-1)
    centre = rng.uniform(0.3, 0.6, 3)
    mask = (((at - centre) / (0.2, 0.28, 0.17)) ** 2).sum(axis=-1) < 1
    mask &= (at - centre) @ rng.uniform(0.5, 1, 3) < 0.12
    return mask


def make_case(
    folder: Path,
    orientation: str = "axial",
    *,
    overlapping: bool = False,
    spacing: tuple[float, float, float] = SPACING,
    series: str = "1.2.3.4",
    headers: dict[str, Any] | None = None,
) -> Case:
    """A series in a folder, two lesions on it, in an order of files that is none of slices."""
    rng = np.random.default_rng(7)
    slices = make_series(
        rng.integers(-100, 200, SHAPE),
        spacing_xyz_mm=spacing,
        origin_mm=(-120.5, 33, 4),
        orientation=ORIENTATIONS[orientation],
        series=series,
    )
    for one in slices:
        for keyword, value in (headers or {}).items():
            setattr(one, keyword, value)
    save(folder, [slices[i] for i in rng.permutation(len(slices))])
    volume = read_image(folder)
    shape = volume.array_zyx.shape
    masks = [blob(shape, 1)]
    second = blob(shape, 2)
    masks.append(second if overlapping else second & ~masks[0])
    assert bool((masks[0] & masks[1]).any()) == overlapping
    findings = (
        lesion(volume, masks[0], "Lesion 1", site="liver", role="target"),
        lesion(volume, masks[1], "Läsion 2", site="bone", role="node"),
    )
    return Case(folder, volume, read_series(folder), findings, tuple(masks))


def patient_mm(affine_ras: NDArray[np.float64], points_zyx: Iterable[Any]) -> NDArray[np.float64]:
    """(n, 3) points of the canonical array in mm LPS."""
    xyz = np.array(list(points_zyx), np.float64)[:, ::-1]
    return (xyz @ affine_ras[:3, :3].T + affine_ras[:3, 3]) * (-1, -1, 1)
