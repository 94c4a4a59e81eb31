"""Slices of a lesion as JPEG inside the page: image, truth and predictions."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from segnet.errors import InputError
from segnet.io.pairs import Pair
from segnet.io.volumes import Volume, read_image, read_mask
from segnet.metrics import RecistAxes, dice, recist
from segnet.report import overlay
from segnet.report.numbers import MISSING, fixed

SIDE_PX, QUALITY = 272, 70
SLICES = 4
SMOOTH = 4  # axes are drawn this much larger and reduced, which smooths them


@dataclass(frozen=True)
class Picture:
    """One slice with its outlines: a data URI, a description, and the place of the slice in the volume.

    `nothing` says that the model marks nothing in this slice.
    """

    source: str
    text: str
    where: str
    nothing: bool = False


@dataclass(frozen=True)
class LesionPictures:
    """Pictures of one lesion.

    Attributes
    ----------
    image, truth : slice of the largest area, plain and with the outline of the truth
    main : by model: that slice with prediction and truth
    slices : by model: several slices with prediction and truth
    absent : by model: the reason why there is no picture
    unlike : models whose mask is not the scored one
    where : place of the slice of the largest area
    field_mm : side of the field of view
    """

    image: Picture
    truth: Picture
    main: dict[str, Picture]
    slices: dict[str, list[Picture]]
    absent: dict[str, str]
    unlike: tuple[str, ...]
    where: str
    field_mm: float


def lesion_pictures(
    pair: Pair,
    predictions: Mapping[str, Path | None],
    *,
    window_hu: tuple[float, float],
    scored: Mapping[str, float | None] | None = None,
    slices: int = SLICES,
) -> LesionPictures:
    """Draw up to `slices` axial slices, among them the slices of the truth's largest area and of its long axis.

    Long and short axes are drawn in the slices they are measured in, in the colours of their masks.
    The field of view is that of `overlay_png` around the truth, or around all predictions where the truth is empty.

    Parameters
    ----------
    pair : image and true mask
    predictions : file of each model's mask, or None
    window_hu : grey levels from black to white
    scored : Dice of each model's scored mask, None of two empty masks; a mask with another Dice is not drawn
    slices : pictures of each model

    Raises
    ------
    InputError
        The image or the true mask cannot be read.
    """
    image = read_image(pair.image)
    hu, spacing = image.array_zyx, np.asarray(image.spacing_zyx_mm)
    truth = _mask(pair.mask, image)
    masks: dict[str, NDArray[np.bool_]] = {}
    absent: dict[str, str] = {}
    unlike: list[str] = []
    for name, file in predictions.items():
        if file is None:
            absent[name] = "no predicted mask was found"
            continue
        try:
            mask = _mask(file, image)
        except InputError as error:
            absent[name] = str(error)
            continue
        if scored is not None and name in scored and (why := _unlike(dice(mask, truth), scored[name])):
            absent[name] = why
            unlike.append(name)
        else:
            masks[name] = mask
    shown = truth if truth.any() else np.any([*masks.values(), truth], axis=0)
    axes = {name: recist(mask, image.spacing_zyx_mm) for name, mask in masks.items()}
    true_axes = recist(truth, image.spacing_zyx_mm)
    box = overlay.field_of_view(shown, spacing[1:])
    field_mm = overlay.side_mm(box, spacing[1:])
    largest = int(shown.sum(axis=(1, 2)).argmax()) if shown.any() else len(shown) // 2

    def draw(z: int, what: str, name: str | None = None, *, with_truth: bool = True) -> Picture:
        pred, true = None if name is None else masks[name][z], truth[z] if with_truth else None
        panel = overlay.panel(hu[z], pred, true, box, window_hu, SIDE_PX)
        if with_truth:
            draw_axes(panel, true_axes, z, box, overlay.TRUTH_RGB)
        if name is not None:
            draw_axes(panel, axes[name], z, box, overlay.PRED_RGB)
        pen = ImageDraw.Draw(panel)
        overlay.orientation(pen, 0, 0, SIDE_PX)
        overlay.scale_bar(pen, 0, 0, field_mm, SIDE_PX)
        offset = f"{(z - largest) * spacing[0]:+.1f} mm".replace("-", "−")
        where = f"slice {z + 1} of {len(hu)}, {'largest area' if z == largest else offset}"
        nothing = pred is not None and not pred.any()
        return Picture(data_uri(panel), f"{pair.case}, {where}: {what}", where, nothing)

    chosen = _chosen(shown, slices, largest, true_axes)
    both = {name: f"outlines of {name} and of the truth" for name in masks}
    plain = draw(largest, "image", with_truth=False)
    return LesionPictures(
        image=plain,
        truth=draw(largest, "outline of the truth"),
        main={name: draw(largest, text, name) for name, text in both.items()},
        slices={name: [draw(z, text, name) for z in chosen] for name, text in both.items()},
        absent=absent,
        unlike=tuple(unlike),
        where=plain.where,
        field_mm=field_mm,
    )


def _chosen(shown: NDArray[np.bool_], n: int, largest: int, axes: RecistAxes | None) -> list[int]:
    """Slices spread over the lesion. The slice of the long axis replaces its nearest neighbour other than the largest."""
    chosen = overlay.choose_slices(shown, shown, n)
    if axes is not None and axes.z not in chosen:
        others = [z for z in chosen if z != largest]
        if others:
            chosen.remove(min(others, key=lambda z: abs(z - axes.z)))
            chosen.append(axes.z)
    return sorted(chosen)


def draw_axes(panel: Image.Image, axes: RecistAxes | None, z: int, box: overlay.Box, rgb: tuple[int, int, int]) -> None:
    """Draw both axes if they lie in slice `z`."""
    if axes is None or axes.z != z:
        return
    layer = Image.new("L", (panel.width * SMOOTH, panel.height * SMOOTH))
    pen = ImageDraw.Draw(layer)
    for ends in (axes.long_yx, axes.short_yx):
        pen.line([at_pixel(y, x, box, layer.width) for y, x in ends], fill=255, width=round(1.2 * SMOOTH))
    panel.paste(rgb, (0, 0), layer.resize(panel.size, Image.Resampling.BOX))


def at_pixel(y: float, x: float, box: overlay.Box, side: int) -> tuple[float, float]:
    """Position in a panel, (right, down), of a voxel's position in a slice: anterior up, patient's right on the left.

    Examples
    --------
    >>> at_pixel(0.0, 0.0, (0.0, 0.0, 2.0, 2.0), 100)
    (75.0, 75.0)
    """
    top, left, bottom, right = box
    return (side * (1 - (x + 0.5 - left) / (right - left)), side * (1 - (y + 0.5 - top) / (bottom - top)))


def data_uri(image: Image.Image) -> str:
    """A picture as ``data:image/jpeg``. Colours keep full resolution: halved, as in WebP, they turn thin outlines grey."""
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=QUALITY, subsampling=0, optimize=True, progressive=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _unlike(here: float, scored: float | None) -> str:
    """The reason why a mask is not the scored one, empty where it may be."""
    if math.isnan(here) if scored is None else abs(here - scored) < 1e-9:
        return ""
    here_text, scored_text = (
        "no Dice" if fixed(v, 4) == MISSING else f"a Dice of {fixed(v, 4)}" for v in (here, scored)
    )
    return f"these masks have {here_text}, the ones that were scored {scored_text}"


def _mask(path: Path, image: Volume) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = read_mask(path, image).array_zyx > 0
    return found
