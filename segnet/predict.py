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
from .data.nifti import write_like, write_mask
from .data.pairs import find_pairs
from .data.volumes import Volume, read_image
from .errors import InputError
from .inference import keep_clicked, segment
from .metrics import recist_axes_mm, volume_ml
from .precision import BFloat16Difference, segment_in_bfloat16
from .report.overlay import overlay_png

Click = tuple[float, float, float] | Literal["centre"] | None
ClickSpace = Literal["voxel", "ras", "lps"]
Networks = nn.Module | Sequence[nn.Module]
Precision = Literal["float32", "bfloat16"]
Progress = Callable[[int, int], None]
SUFFIXES = (".nii.gz", ".nii")


@dataclass(frozen=True)
class Prediction:
    """What was written for one image, the size of what was found, and the precision it was found in.

    Attributes
    ----------
    bfloat16_difference : where bfloat16 was asked for: how far it lay from float32; `precision` says which of them the mask is of
    """

    image: str
    mask: str
    preview: str | None
    lesion_voxels: int
    volume_ml: float
    long_axis_mm: float
    short_axis_mm: float
    elapsed_s: float
    precision: Precision
    bfloat16_difference: BFloat16Difference | None

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


@dataclass(frozen=True, eq=False)
class Segmentation:
    """What was found in one volume, in memory.

    Attributes
    ----------
    mask_zyx : bool
    probability_zyx : of lesion, float32
    uncertainty_zyx : standard deviation of the probability over members and views, float32, where it was asked for
    precision, bfloat16_difference : as in `Prediction`
    """

    mask_zyx: NDArray[np.bool_]
    probability_zyx: NDArray[np.float32]
    uncertainty_zyx: NDArray[np.float32] | None
    precision: Precision
    bfloat16_difference: BFloat16Difference | None


def require_several(model: Networks, tta: bool) -> None:
    """Raises InputError where there is one network and one view of a slice, which deviate from nothing."""
    if not tta and (isinstance(model, nn.Module) or len(model) < 2):
        raise InputError(
            "uncertainty: expected several members or views to deviate from their mean, got one network and one view;"
            " name more models or add --tta"
        )


def predict_array(
    image_zyx: NDArray[Any],
    model: Networks,
    config: Config,
    *,
    spacing_zyx_mm: tuple[float, float, float],
    click_zyx: tuple[int, int, int] | None = None,
    half: Networks = (),
    tta: bool = False,
    threshold: float = 0.5,
    uncertainty: bool = False,
    progress: Progress | None = None,
) -> Segmentation:
    """Segments a volume in memory.

    Parameters
    ----------
    image_zyx : (Z, Y, X) in HU
    model : one network, or the members of an ensemble, as `segnet.ensemble.load` gives them with their `config`
    spacing_zyx_mm : lengths of a voxel; the component nearest to a click is chosen in mm
    click_zyx : voxel in the lesion: the field of view is centred on it and the component at it is kept
    half : the same networks in bfloat16, used where a check on this volume finds a difference that is tolerable
        (`segnet.precision`)
    tta : mean over eight views (test-time augmentation)
    threshold : of the lesion probability
    uncertainty : also the standard deviation of the probability over members and views

    Raises
    ------
    InputError
        Uncertainty was asked of one network and one view.
    """
    if uncertainty:
        require_several(model, tta)
    deviation = np.zeros(image_zyx.shape, np.float32) if uncertainty else None
    options: dict[str, Any] = {
        "click_zyx": click_zyx,
        "slices": config.model.in_channels,
        "tta": tta,
        "deviation": deviation,
        "progress": progress,
    }
    difference = None
    if isinstance(half, nn.Module) or half:
        probability, difference = segment_in_bfloat16(
            model, half, image_zyx, config.data, threshold=threshold, **options
        )
    else:
        probability = segment(model, image_zyx, config.data, **options)
    mask: NDArray[np.bool_] = probability > threshold
    if click_zyx is not None:
        mask = keep_clicked(mask, click_zyx, spacing_zyx_mm)
    precision: Precision = "bfloat16" if difference is not None and difference.tolerable else "float32"
    return Segmentation(mask, probability, deviation, precision, difference)


def predict_file(
    image: Path,
    mask: Path,
    model: Networks,
    config: Config,
    *,
    click: Click = None,
    click_space: ClickSpace = "voxel",
    half: Networks = (),
    tta: bool = False,
    threshold: float = 0.5,
    preview: Path | None = None,
    probabilities: Path | None = None,
    uncertainty: Path | None = None,
    progress: Progress | None = None,
) -> Prediction:
    """Segments one image and writes its mask in the image's own shape, orientation, affine and header.

    Parameters
    ----------
    click : a point in the lesion: the field of view is centred on it and the component at it is kept
    model, config, half, tta, threshold : as in `predict_array`
    preview, probabilities, uncertainty : also write an overlay PNG, float32 NIfTI of the probability and of its standard deviation

    Raises
    ------
    InputError
        The image cannot be read, the click lies outside it, or uncertainty is asked of one network and one view; nothing is
        written then.
    """
    began = time.monotonic()
    volume = read_image(image)
    found = predict_array(
        volume.array_zyx,
        model,
        config,
        spacing_zyx_mm=volume.spacing_zyx_mm,
        click_zyx=click_index(click, click_space, volume),
        half=half,
        tta=tta,
        threshold=threshold,
        uncertainty=uncertainty is not None,
        progress=progress,
    )
    lesion = found.mask_zyx
    long_mm, short_mm = recist_axes_mm(lesion, volume.spacing_zyx_mm) if lesion.any() else (0.0, 0.0)
    if probabilities is not None:
        write_like(probabilities, found.probability_zyx.transpose(2, 1, 0), volume, np.float32)
    if uncertainty is not None and found.uncertainty_zyx is not None:
        write_like(uncertainty, found.uncertainty_zyx.transpose(2, 1, 0), volume, np.float32)
    if preview is not None:
        overlay_png(
            preview,
            volume.array_zyx,
            lesion,
            window_hu=config.data.window_hu,
            spacing_zyx_mm=volume.spacing_zyx_mm,
            title=case_of(image),
        )
    write_mask(mask, lesion.transpose(2, 1, 0).astype(np.uint8), volume)
    return Prediction(
        str(image),
        str(mask),
        None if preview is None else str(preview),
        int(lesion.sum()),
        volume_ml(lesion, volume.spacing_zyx_mm),
        long_mm,
        short_mm,
        time.monotonic() - began,
        found.precision,
        found.bfloat16_difference,
    )
