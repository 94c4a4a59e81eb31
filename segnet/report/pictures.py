"""Slices of a lesion as WebP inside the page: the image, the truth, and what each model predicted."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from segnet.data.pairs import Pair
from segnet.data.volumes import Volume, read_image, read_mask
from segnet.errors import InputError
from segnet.report import overlay

SIDE_PX, QUALITY = 320, 82
SLICES = 3
_SUFFIXES = ("", "_mask", "_label", "_labels", "_seg", "_pred", "_prediction")
_ENDINGS = (".nii.gz", ".nii", ".mha", ".nrrd")


@dataclass(frozen=True)
class Picture:
    """One slice with its outlines; `source` is a data URI, `text` what it shows, `where` its place in the volume."""

    source: str
    text: str
    where: str


@dataclass(frozen=True)
class LesionPictures:
    """Pictures of one lesion.

    Attributes
    ----------
    image, truth : the slice of the largest area, plain and with the truth's outline
    main : that slice with prediction and truth, by model
    slices : several slices with prediction and truth, by model
    absent : why there is no picture, by model
    field_mm : side of the field of view
    """

    image: Picture
    truth: Picture
    main: dict[str, Picture]
    slices: dict[str, list[Picture]]
    absent: dict[str, str]
    field_mm: float


def mask_in(folder: Path, case: str) -> Path | None:
    """The file in a folder that is named after a case, as `segnet evaluate` finds it."""
    for suffix in _SUFFIXES:
        for ending in _ENDINGS:
            file = folder / f"{case}{suffix}{ending}"
            if file.is_file():
                return file
    return None


def lesion_pictures(
    pair: Pair,
    predictions: Mapping[str, Path | None],
    *,
    window_hu: tuple[float, float],
    slices: int = SLICES,
) -> LesionPictures:
    """Draw one lesion: up to `slices` axial slices, among them the one of the truth's largest area.

    The field of view is that of `overlay_png` around the truth, or around all predictions where the truth is empty.

    Parameters
    ----------
    pair : image and true mask
    predictions : file of each model's mask; None where there is none
    window_hu : grey levels from black to white
    slices : of each model

    Raises
    ------
    InputError
        If the image or the true mask cannot be read.
    """
    image = read_image(pair.image)
    truth = _mask(pair.mask, image)
    masks: dict[str, NDArray[np.bool_]] = {}
    absent: dict[str, str] = {}
    for name, file in predictions.items():
        if file is None:
            absent[name] = "no predicted mask was found"
            continue
        try:
            masks[name] = _mask(file, image)
        except InputError as error:
            absent[name] = str(error)
    shown = truth if truth.any() else np.any([*masks.values(), truth], axis=0)
    chosen = overlay.choose_slices(shown, shown, slices)
    spacing = np.asarray(image.spacing_zyx_mm)
    box = overlay.field_of_view(shown, spacing[1:])
    field_mm = overlay.side_mm(box, spacing[1:])
    areas = shown.sum(axis=(1, 2))
    largest = int(areas.argmax()) if areas.any() else chosen[len(chosen) // 2]
    hu = image.array_zyx

    def draw(z: int, pred: NDArray[np.bool_] | None, true: NDArray[np.bool_] | None, what: str) -> Picture:
        panel = overlay.panel(
            hu[z], None if pred is None else pred[z], None if true is None else true[z], box, window_hu, SIDE_PX
        )
        pen = ImageDraw.Draw(panel)
        overlay.orientation(pen, 0, 0, SIDE_PX)
        overlay.scale_bar(pen, 0, 0, field_mm, SIDE_PX)
        offset_mm = (z - largest) * float(spacing[0])
        place = "largest area" if z == largest else f"{offset_mm:+.1f} mm".replace("-", "−")
        where = f"slice {z + 1} of {len(hu)}, {place}"
        return Picture(data_uri(panel), f"{pair.case}, {where}: {what}", where)

    return LesionPictures(
        image=draw(largest, None, None, "image"),
        truth=draw(largest, None, truth, "outline of the truth"),
        main={n: draw(largest, m, truth, f"outlines of {n} and of the truth") for n, m in masks.items()},
        slices={n: [draw(z, m, truth, f"outlines of {n} and of the truth") for z in chosen] for n, m in masks.items()},
        absent=absent,
        field_mm=field_mm,
    )


def data_uri(image: Image.Image) -> str:
    """A picture as ``data:image/webp``."""
    file = io.BytesIO()
    image.save(file, format="WEBP", quality=QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _mask(path: Path, image: Volume) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = read_mask(path, image).array_zyx > 0
    return found
