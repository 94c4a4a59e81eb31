"""From image files to mask files: one file or a folder, with a preview and the lesion's measurements beside each mask."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from .config import Config
from .data.nifti import Volume, read_image, write_like, write_mask
from .data.pairs import find_pairs
from .errors import InputError
from .inference import keep_clicked, segment
from .metrics import recist_axes_mm, volume_ml
from .report.overlay import overlay_png

Click = tuple[float, float, float] | Literal["centre"] | None
ClickSpace = Literal["voxel", "ras", "lps"]
Progress = Callable[[int, int], None]
SUFFIXES = (".nii.gz", ".nii")


@dataclass(frozen=True)
class Prediction:
    """What was written for one image, and the size of what was found."""

    image: str
    mask: str
    preview: str | None
    lesion_voxels: int
    volume_ml: float
    long_axis_mm: float
    short_axis_mm: float
    elapsed_s: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def case_of(path: Path) -> str:
    """File name without .nii or .nii.gz."""
    for suffix in SUFFIXES:
        if path.name.endswith(suffix):
            return path.name.removesuffix(suffix)
    return path.stem


def images_in(source: Path, cases: Sequence[str] | None = None) -> dict[str, Path]:
    """Images by case: of one file, of a folder of image and mask pairs, or of a folder of images.

    Parameters
    ----------
    source : a NIfTI file, or a folder; where its layout is one of pairs (`segnet.data.pairs`), masks are left alone
    cases : limit to these

    Raises
    ------
    InputError
        There is no image, or none of a case asked for.
    """
    if source.is_file():
        return {case_of(source): source}
    if not source.is_dir():
        raise InputError(f"input: expected a NIfTI file or a folder of them, got {source}; check the path")
    try:
        found = {pair.case: pair.image for pair in find_pairs(source)}
    except InputError:
        found = {case_of(p): p for p in source.iterdir() if p.name.endswith(SUFFIXES) and not p.name.startswith(".")}
    if not found:
        raise InputError(f"input {source}: expected at least one .nii or .nii.gz file, got none; check the folder")
    missing = sorted(set(cases or ()) - set(found))
    if missing:
        raise InputError(
            f"input {source}: expected an image of case {missing[0]}, got none; check the folder or the part"
        )
    return {case: found[case] for case in sorted(found if cases is None else cases)}


def click_index(click: Click, space: ClickSpace, volume: Volume) -> tuple[int, int, int] | None:
    """The click as (z, y, x) of the canonical array.

    Parameters
    ----------
    click : voxel indices of the file, counted from 0 along its own axes; or mm in RAS or LPS; or "centre"; or None
    space : what the numbers mean

    Raises
    ------
    InputError
        It lies outside the image.
    """
    if click is None:
        return None
    shape = volume.array.shape
    if click == "centre":
        x, y, z = (size // 2 for size in shape)
        return z, y, x
    point = np.append(np.asarray(click, dtype=np.float64), 1.0)
    if space == "voxel":
        point = volume.source_affine @ point
    elif space == "lps":
        point[:2] *= -1
    index = np.rint(np.linalg.solve(volume.affine, point))[:3].astype(int)
    if np.any(index < 0) or np.any(index >= shape):
        raise InputError(
            f"click: expected a point inside the image of {shape} voxels, got {click} ({space}), which is voxel"
            f" {tuple(int(i) for i in index)} in RAS order; check --click-space"
        )
    x, y, z = (int(i) for i in index)
    return z, y, x


def predict_file(
    image: Path,
    mask: Path,
    model: nn.Module,
    config: Config,
    *,
    click: Click = None,
    click_space: ClickSpace = "voxel",
    tta: bool = False,
    threshold: float = 0.5,
    preview: Path | None = None,
    probabilities: Path | None = None,
    progress: Progress | None = None,
) -> Prediction:
    """Segments one image and writes its mask in the image's own shape, orientation, affine and header.

    Parameters
    ----------
    click : a point in the lesion: the field of view is centred on it and the component at it is kept
    tta : mean over eight views (test-time augmentation)
    threshold : of the lesion probability
    preview, probabilities : also write an overlay PNG, a float32 NIfTI

    Raises
    ------
    InputError
        The image cannot be read or the click lies outside it; nothing is written then.
    """
    began = time.monotonic()
    volume = read_image(image)
    at = click_index(click, click_space, volume)
    probability = segment(
        model,
        volume.array_zyx,
        config.data,
        click_zyx=at,
        slices=config.model.in_channels,
        tta=tta,
        progress=progress,
    )
    found: NDArray[np.bool_] = probability > threshold
    if at is not None:
        found = keep_clicked(found, at, volume.spacing_zyx_mm)
    long_mm, short_mm = recist_axes_mm(found, volume.spacing_zyx_mm) if found.any() else (0.0, 0.0)
    if probabilities is not None:
        write_like(probabilities, probability.transpose(2, 1, 0), volume, np.float32)
    if preview is not None:
        overlay_png(
            preview,
            volume.array_zyx,
            found,
            window_hu=config.data.window_hu,
            spacing_zyx_mm=volume.spacing_zyx_mm,
            title=case_of(image),
        )
    write_mask(mask, found.transpose(2, 1, 0).astype(np.uint8), volume)
    return Prediction(
        str(image),
        str(mask),
        None if preview is None else str(preview),
        int(found.sum()),
        volume_ml(found, volume.spacing_zyx_mm),
        long_mm,
        short_mm,
        time.monotonic() - began,
    )
