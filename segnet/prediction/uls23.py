"""The ULS23 challenge's container: stacked volumes of interest in, stacked masks out, each around the lesion at its centre."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segnet.errors import InputError
from segnet.io.metaimage import MetaImage, read_metaimage, write_metaimage
from segnet.io.volume import Volume, as_image
from segnet.prediction.clicks import click_index
from segnet.prediction.model import Model
from segnet.prediction.options import THRESHOLD, ULS23_VOI_ZYX, Options, Progress, VoiSize
from segnet.prediction.predict import Prediction, predict_volume

IMAGES = "images/stacked-3d-ct-lesion-volumes"
SPACINGS = "stacked-3d-volumetric-spacings.json"
MAX_STACK_VOXELS = 2**33
"""1024 volumes of the challenge's size; memory may hold fewer."""
MASKS = "images/ct-binary-uls"
Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class Processed:
    """One stack.

    Attributes
    ----------
    image, mask : paths
    lesion_voxels : of each of its volumes
    warnings : of each of its volumes
    """

    image: str
    mask: str
    lesion_voxels: tuple[int, ...]
    warnings: tuple[tuple[str, ...], ...]
    elapsed_s: float


@dataclass(frozen=True)
class Failure:
    """A stack without a mask, and why."""

    image: str
    reason: str


def segment_voi(volume: Volume, model: Model, *, tta: bool = False, threshold: float = THRESHOLD) -> Prediction:
    """Segments a whole volume of interest as the challenge's container does: the lesion at its centre, without a constant border."""
    side = 2 * max(volume.array.shape)
    options = Options(VoiSize((side, side, side)), skip_padding=True, tta=tta, threshold=threshold)
    return predict_volume(volume, model, options, click_zyx=click_index("centre", "voxel", volume))


def read_spacings(path: Path) -> list[Spacing]:
    """Spacings of volumes, (x, y, z) in mm, from a JSON list with [x, y, z] for each volume; InputError for any other file."""
    remedy = "write [[0.7, 0.7, 1.5], ...]"
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"spacings: expected a JSON file, got {path} ({error}); {remedy}") from error
    if not isinstance(listed, list) or not listed:
        raise InputError(f"spacings {path}: expected a list of [x, y, z], got {str(listed)[:60]}; {remedy}")
    found = []
    for number, entry in enumerate(listed, 1):
        if not (isinstance(entry, list) and len(entry) == 3 and all(_is_length(value) for value in entry)):
            raise InputError(
                f"spacings {path}: expected three lengths above 0 mm for volume {number}, got {str(entry)[:60]}; {remedy}"
            )
        x, y, z = (float(value) for value in entry)
        found.append((x, y, z))
    return found


def _is_length(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and 0 < value < 1e3


def volumes_in(stack: MetaImage, voi_slices: int) -> int:
    """Number of volumes in a stack; InputError if its slices are not of whole volumes."""
    count, rest = divmod(len(stack.array_zyx), voi_slices)
    if rest:
        raise InputError(
            f"stack {stack.path}: expected volumes of {voi_slices} slices, got {len(stack.array_zyx)} slices; stack whole volumes along z"
        )
    return count


def segment_stack(
    stack: MetaImage,
    spacings_xyz_mm: list[Spacing],
    model: Model,
    *,
    voi_slices: int = ULS23_VOI_ZYX[0],
    tta: bool = False,
    threshold: float = THRESHOLD,
    progress: Progress | None = None,
) -> tuple[NDArray[np.uint8], list[tuple[str, ...]]]:
    """Masks of stacked volumes, one after the other.

    Each is turned by the file's direction to the axes of training. Its lesion is at voxel size // 2 of the file's axes.

    Parameters
    ----------
    stack : n · `voi_slices` slices
    spacings_xyz_mm : of each of the n volumes
    progress : called with volumes done and n

    Returns
    -------
    Masks, uint8 of the stack's shape, and the warnings of each volume.

    Raises
    ------
    InputError
        The slices or the spacings are not of n volumes, or a voxel is NaN or infinite.
    """
    count = volumes_in(stack, voi_slices)
    if len(spacings_xyz_mm) != count:
        raise InputError(
            f"spacings: expected one for each of the {count} volumes of {stack.path}, got {len(spacings_xyz_mm)}; list [x, y, z] of each"
        )
    stored = stack.stored()
    masks = np.zeros(stack.array_zyx.shape, np.uint8)
    warnings = []
    for k, spacing in enumerate(spacings_xyz_mm):
        part = slice(k * voi_slices, (k + 1) * voi_slices)
        array = stack.array_zyx[part].transpose(2, 1, 0)
        if not np.isfinite(array).all():
            raise InputError(
                f"stack {stack.path}: expected finite voxels, got NaN or infinity in volume {k + 1} of {count}; repair the file"
            )
        volume = as_image(replace(stored, array=array, shape=array.shape))
        own = np.empty(3)
        own[volume.orientation[:, 0].astype(int)] = spacing
        x, y, z = own.tolist()
        found = segment_voi(replace(volume, spacing_mm=(x, y, z)), model, tta=tta, threshold=threshold)
        masks[part] = volume.to_source(found.mask.transpose(2, 1, 0)).transpose(2, 1, 0)
        warnings.append(found.warnings)
        if progress is not None:
            progress(k + 1, count)
    return masks, warnings


def process(
    source: Path,
    out: Path,
    model: Model,
    *,
    voi_slices: int = ULS23_VOI_ZYX[0],
    tta: bool = False,
    threshold: float = THRESHOLD,
    on_failed: Callable[[Failure], None] | None = None,
    progress: Callable[[str], Progress | None] | None = None,
) -> tuple[list[Processed], list[Failure]]:
    """Segments every stack in the challenge's input folder.

    Reads `images/stacked-3d-ct-lesion-volumes/*.mha` and `stacked-3d-volumetric-spacings.json`, one [x, y, z] for each volume of all
    stacks in order of file name; writes `images/ct-binary-uls/<same name>.mha`, uint8, in the stack's geometry. Masks of the
    same name are replaced.

    Parameters
    ----------
    source, out : the challenge's /input and /output
    voi_slices : of each volume
    on_failed : called with each stack that fails; the others are segmented
    progress : gives for a file's name a callback, called with volumes done and their number

    Returns
    -------
    Stacks with their masks, and those that failed.

    Raises
    ------
    InputError
        There is no stack, the spacings are no such list or of another number of volumes, a checkpoint is damaged, or the only stack
        fails.
    """
    files = sorted(file for file in (source / IMAGES).glob("*.mha") if not file.name.startswith("."))
    if not files:
        raise InputError(f"input: expected .mha files in {source / IMAGES}, got none; check the folder")
    spacings = read_spacings(source / SPACINGS)
    parts = _parts(files, spacings, voi_slices)
    model.read()
    done: list[Processed] = []
    failed: list[Failure] = []
    try:
        (out / MASKS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"output: expected a writable folder, got {out} ({error.strerror}); check its rights"
        ) from error
    for file, part in zip(files, parts, strict=True):
        began = time.monotonic()
        try:
            stack = read_metaimage(file, max_voxels=MAX_STACK_VOXELS)
            if part is None:
                raise InputError(
                    f"stack {file}: expected readable stacks before it, for their volumes' spacings come first in the list, got one that is not;"
                    " repair that one"
                )
            masks, warnings = segment_stack(
                stack,
                spacings[part],
                model,
                voi_slices=voi_slices,
                tta=tta,
                threshold=threshold,
                progress=None if progress is None else progress(file.name),
            )
            mask = out / MASKS / file.name
            write_metaimage(
                mask, masks, spacing_xyz_mm=stack.spacing_xyz_mm, origin_mm=stack.origin_mm, direction=stack.direction
            )
            voxels = masks.reshape(-1, voi_slices, *masks.shape[1:]).sum(axis=(1, 2, 3), dtype=np.int64)
            done.append(
                Processed(str(file), str(mask), tuple(voxels.tolist()), tuple(warnings), time.monotonic() - began)
            )
        except InputError as error:
            if len(files) == 1:
                raise
            failed.append(Failure(str(file), str(error)))
            if on_failed is not None:
                on_failed(failed[-1])
    return done, failed


def _parts(files: list[Path], spacings: list[Spacing], voi_slices: int) -> list[slice | None]:
    """The spacings of each stack; None behind a stack with an unknown number of volumes. InputError if the numbers differ."""
    if len(files) == 1:
        return [slice(0, len(spacings))]
    parts: list[slice | None] = []
    first: int | None = 0
    for file in files:
        count: int | None = None
        with suppress(InputError):  # reported in its turn
            count = volumes_in(read_metaimage(file, max_voxels=MAX_STACK_VOXELS), voi_slices)
        parts.append(None if first is None else slice(first, first + (count or 0)))
        first = None if first is None or count is None else first + count
    if first is not None and first != len(spacings):
        raise InputError(
            f"spacings: expected one for each of the {first} volumes of {len(files)} stacks, got {len(spacings)}; list [x, y, z] of each"
        )
    return parts
