"""Pictures of axial slices with outlines, drawn by Pillow at device pixels: previews, examples, the report's lesions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from segnet.errors import InputError
from segnet.metrics import as_mask, dice, volume_ml
from segnet.runtime.files import replacing
from segnet.runtime.table import rounded

SCALE = 2  # device pixels per point: the page is drawn at twice its nominal size
PANEL, GAP, MARGIN = 300 * SCALE, 8 * SCALE, 20 * SCALE
BACKGROUND, INK, QUIET = (17, 19, 23), (240, 242, 245), (154, 160, 170)
# Sky blue and orange of the Okabe-Ito palette: distinct on grey under every common colour vision.
PRED_RGB, TRUTH_RGB = (240, 160, 30), (86, 190, 245)
LINE, HALO, DASH = 1.5 * SCALE, 3.0 * SCALE, 7 * SCALE

Box = tuple[float, float, float, float]
RGB = tuple[int, int, int]


COMPRESSION = 3
"""Of zlib. Noise of a CT hardly shrinks further, and level 6 takes half as long again."""


@lru_cache(maxsize=32)
def font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own typeface at `size` device pixels: pictures look alike on every machine.

    Raises
    ------
    InputError
        Pillow was built without FreeType.
    """
    face = ImageFont.load_default(size)
    if not isinstance(face, ImageFont.FreeTypeFont):
        raise InputError("Pillow: expected a build with FreeType, got one without; reinstall Pillow from its wheel")
    return face


def save_png(image: Image.Image, path: str | Path) -> None:
    """Write `image` to `path` as PNG, atomically.

    Raises
    ------
    InputError
        The folder of `path` does not exist.
    """
    with replacing(path) as temporary:
        image.save(temporary, format="PNG", compress_level=COMPRESSION)


def overlay_png(
    path: str | Path,
    image_zyx: ArrayLike,
    pred_zyx: ArrayLike,
    truth_zyx: ArrayLike | None = None,
    *,
    window_hu: tuple[float, float],
    spacing_zyx_mm: Sequence[float],
    n_slices: int = 4,
    title: str | None = None,
) -> None:
    """Write a PNG of `n_slices` axial slices around the lesion with its outlines.

    Slices are spread over the lesion's extent and include the one of largest area (of the truth, else of the
    prediction). Display is radiological: the patient's right is on the left, anterior is up. Outlines run along
    the half level of the masks. Where both coincide, the line alternates between the two colours.

    Parameters
    ----------
    path : file to write, atomically
    image_zyx : HU, shape (Z, Y, X), axes of canonical RAS reversed
    pred_zyx, truth_zyx : masks of the same shape; either may be empty
    window_hu : grey levels from black to white
    spacing_zyx_mm : panels keep the true proportions in plane
    n_slices : panels in a row, fewer where the volume has fewer slices
    title : heading, such as the case

    Raises
    ------
    InputError
        Shapes differ, a mask is not 0/1, the window or spacing is unusable, or `n_slices` is below 1.
    """
    image = np.asarray(image_zyx)
    if image.ndim != 3 or 0 in image.shape:
        raise InputError(f"image_zyx: expected shape (Z, Y, X) without empty axes, got {image.shape}; pass one volume")
    pred = as_mask(pred_zyx, "pred_zyx")
    truth = None if truth_zyx is None else as_mask(truth_zyx, "truth_zyx")
    for name, mask in (("pred_zyx", pred), ("truth_zyx", truth)):
        if mask is not None and mask.shape != image.shape:
            raise InputError(
                f"{name}: expected shape {image.shape} like image_zyx, got {mask.shape}; resample the mask onto the image's grid"
            )
    require_window(window_hu)
    spacing = np.asarray(spacing_zyx_mm, dtype=np.float64)
    if spacing.shape != (3,) or not np.all(np.isfinite(spacing)) or not np.all(spacing > 0):
        raise InputError(
            f"spacing_zyx_mm: expected three positive lengths in mm, got {tuple(spacing_zyx_mm)}; give them in the order Z, Y, X"
        )
    if n_slices < 1:
        raise InputError(f"n_slices: expected at least 1, got {n_slices}; 4 is usual")
    either = pred if truth is None else pred | truth
    main = truth if truth is not None and truth.any() else pred
    slices = choose_slices(either, main, n_slices)
    largest = int(main.sum(axis=(1, 2)).argmax()) if main.any() else slices[len(slices) // 2]
    box = field_of_view(either, spacing[1:])
    top, foot = (74 if title else 48) * SCALE, 34 * SCALE
    width = 2 * MARGIN + max(len(slices) * (PANEL + GAP) - GAP, 400 * SCALE)  # 400: the legend
    page = Image.new("RGB", (width, top + PANEL + foot), BACKGROUND)
    draw, small = ImageDraw.Draw(page), font(12 * SCALE)
    for i, z in enumerate(slices):
        left, base = MARGIN + i * (PANEL + GAP), top + PANEL + 20 * SCALE
        page.paste(panel(image[z], pred[z], None if truth is None else truth[z], box, window_hu), (left, top))
        name = f"slice {z + 1} of {len(image)}"
        where = f"{(z - largest) * spacing[0]:+.1f} mm"
        if z == largest:
            where = "largest area" if main.any() else "centre"
        draw.text((left, base), name, font=small, fill=INK, anchor="ls")
        draw.text((left + small.getlength(name) + 10 * SCALE, base), where, font=small, fill=QUIET, anchor="ls")
    orientation(draw, MARGIN, top)
    scale_bar(draw, MARGIN, top, side_mm(box, spacing[1:]))
    if title:
        face = font(17 * SCALE)
        draw.text((MARGIN, 30 * SCALE), fit(title, face, width - 2 * MARGIN), font=face, fill=INK, anchor="ls")
    entries: list[tuple[str, RGB | None]] = [(f"prediction {_volume(pred, spacing)}", PRED_RGB)]
    if truth is not None:
        entries.append((f"truth {_volume(truth, spacing)}", TRUTH_RGB))
        score = dice(pred, truth)
        if not np.isnan(score):
            entries.append((f"Dice {rounded(score, 3)}", None))
    x, base, face = float(MARGIN), (56 if title else 30) * SCALE, font(13 * SCALE)
    for text, rgb in entries:
        if rgb is not None:
            y = base - 4.5 * SCALE
            draw.rectangle((x, y - LINE / 2, x + 18 * SCALE, y + LINE / 2), fill=rgb)
            x += 25 * SCALE
        draw.text((x, base), text, font=face, fill=INK if rgb is None else QUIET, anchor="ls")
        x += face.getlength(text) + 24 * SCALE
    save_png(page, path)


def _volume(mask: NDArray[np.bool_], spacing: NDArray[np.float64]) -> str:
    return f"{rounded(volume_ml(mask, spacing.tolist()), 2)} ml" if mask.any() else "empty"


def require_window(window_hu: tuple[float, float]) -> None:
    """Raise InputError unless the window is two finite levels, low before high."""
    lo, hi = window_hu
    if not (np.isfinite(lo) and np.isfinite(hi) and lo < hi):
        raise InputError(
            f"window_hu: expected two finite levels, low before high, got {tuple(window_hu)}; "
            "(-1000, 400) suits lung, (-160, 240) soft tissue"
        )


def choose_slices(either: NDArray[np.bool_], main: NDArray[np.bool_], n: int) -> list[int]:
    """Up to `n` ascending slice numbers spread over the lesion, among them the slice of largest area."""
    depth = len(either)
    n = min(n, depth)
    held = np.flatnonzero(either.any(axis=(1, 2)))
    largest = int(main.sum(axis=(1, 2)).argmax()) if held.size else depth // 2
    first, last = (int(held[0]), int(held[-1])) if held.size else (largest, largest)
    extent = last - first + 1
    if extent <= n:
        start = min(max(first - (n - extent) // 2, 0), depth - n)
        return list(range(start, start + n))
    chosen = [first + int((i + 0.5) * extent / n) for i in range(n)]
    nearest = min(range(n), key=lambda i: abs(chosen[i] - largest))
    chosen[nearest] = largest
    return sorted(chosen)


def field_of_view(either: NDArray[np.bool_], spacing_yx: NDArray[np.float64]) -> Box:
    """Square field around the lesion, (top, left, bottom, right) in pixel edges; it may exceed the image."""
    shape = np.array(either.shape[1:], dtype=np.float64)
    if either.any():
        rows, columns = np.flatnonzero(either.any(axis=(0, 2))), np.flatnonzero(either.any(axis=(0, 1)))
        low = np.array([rows[0], columns[0]], dtype=np.float64)
        high = np.array([rows[-1], columns[-1]], dtype=np.float64) + 1.0
    else:
        low, high = shape / 4.0, shape * 3.0 / 4.0
    wanted_mm = max(2.0 * float(((high - low) * spacing_yx).max()), 48.0)
    side = min(wanted_mm, float((shape * spacing_yx).max())) / spacing_yx
    start = (low + high) / 2.0 - side / 2.0
    # Shift into the image where it is large enough, centre the image where it is not.
    start = np.where(side <= shape, np.clip(start, 0.0, np.maximum(shape - side, 0.0)), (shape - side) / 2.0)
    return float(start[0]), float(start[1]), float(start[0] + side[0]), float(start[1] + side[1])


def side_mm(box: Box, spacing_yx: NDArray[np.float64]) -> float:
    """Side of a field of view in mm."""
    return (box[2] - box[0]) * float(spacing_yx[0])


def _resample(
    plane: NDArray[np.float32], box: Box, method: Image.Resampling, outside: Literal["edge", "constant"], side: int
) -> NDArray[np.float32]:
    """Sample plane (Y, X) over `box` onto (side, side): anterior up, patient's right on the left."""
    top, left, bottom, right = box
    y0, x0 = max(int(np.floor(top)), 0), max(int(np.floor(left)), 0)
    plane = plane[y0 : int(np.ceil(bottom)) + 1, x0 : int(np.ceil(right)) + 1]
    pad = [
        (max(int(np.ceil(y0 - top)), 0), max(int(np.ceil(bottom)) - y0 - plane.shape[0], 0)),
        (max(int(np.ceil(x0 - left)), 0), max(int(np.ceil(right)) - x0 - plane.shape[1], 0)),
    ]
    source = Image.fromarray(np.pad(plane, pad, mode=outside))
    dy, dx = pad[0][0] - y0, pad[1][0] - x0
    inner = (left + dx, top + dy, min(right + dx, source.width), min(bottom + dy, source.height))
    return np.asarray(source.resize((side, side), method, box=inner), dtype=np.float32)[::-1, ::-1]


def panel(
    image: NDArray[np.generic],
    pred: NDArray[np.bool_] | None,
    truth: NDArray[np.bool_] | None,
    box: Box,
    window_hu: tuple[float, float],
    side: int = PANEL,
) -> Image.Image:
    """One slice over `box` as a square of `side` device pixels, with the outlines of the masks given.

    Parameters
    ----------
    image, pred, truth : (Y, X); grey levels and masks
    box : top, left, bottom, right in pixel edges
    window_hu : grey levels from black to white
    side : lines shrink with it, down to 2 device pixels
    """
    lo, hi = window_hu
    line, halo = max(LINE * side / PANEL, 2.0), max(HALO * side / PANEL, 4.0)
    # Clipped first: cubic interpolation would ring at metal and at the border of padding.
    grey = (np.clip(np.nan_to_num(image.astype(np.float32)), lo, hi) - lo) / (hi - lo)
    level = np.clip(_resample(grey, box, Image.Resampling.BICUBIC, "edge", side), 0.0, 1.0)[:, :, None]
    held = _resample(np.ones_like(grey), box, Image.Resampling.NEAREST, "constant", side)[:, :, None] > 0.5
    colour = np.where(held, level * np.float32(255.0), np.array(BACKGROUND, dtype=np.float32))
    lines = [
        (_distance(mask, box, side, halo), rgb)
        for mask, rgb in ((truth, TRUTH_RGB), (pred, PRED_RGB))
        if mask is not None and mask.any()
    ]
    for distance, _ in lines:  # all halos lie below all lines
        _stroke(colour, distance, (0, 0, 0), halo, 0.45)
    # Squares of one dash length cut a line into dashes, whatever its direction.
    index = np.arange(side) * PANEL // (DASH * side)
    checker = np.add.outer(index, index) % 2 == 0
    for k, (distance, rgb) in enumerate(lines):
        shared = k == 1 and (lines[0][0] < line) & checker
        _stroke(colour, np.where(shared, np.inf, distance), rgb, line, 1.0)
    return Image.fromarray(np.rint(colour).astype(np.uint8))


def _distance(mask: NDArray[np.bool_], box: Box, side: int, reach: float) -> NDArray[np.float64]:
    """Distance in device pixels of each point of the panel to the half-level contour of `mask`; infinite where it exceeds `reach`."""
    # Only a change inside the panel is a contour: a lesion cut by the panel's border has no line along it.
    inside = _resample(mask.astype(np.float32), box, Image.Resampling.BILINEAR, "constant", side) >= 0.5
    distance = np.full(inside.shape, np.inf)
    if inside.all() or not inside.any():
        return distance
    margin = math.ceil(reach) + 1  # around the lesion's box: points farther away are beyond reach
    near = tuple(
        slice(max(int(held[0]) - margin, 0), int(held[-1]) + 1 + margin)
        for held in (np.flatnonzero(inside.any(axis=1 - axis)) for axis in range(2))
    )
    part = inside[near]
    found = np.where(part, ndimage.distance_transform_edt(part), ndimage.distance_transform_edt(~part)) - 0.5
    distance[near] = np.where(found <= reach, found, np.inf)
    return distance


def _stroke(
    colour: NDArray[np.float32], distance: NDArray[np.float64], rgb: RGB, width: float, strength: float
) -> None:
    """Blend an antialiased line of `width` device pixels into `colour` (side, side, 3), in place."""
    alpha = (strength * np.clip(width / 2 + 0.5 - distance, 0.0, 1.0)).astype(np.float32)[:, :, None]
    colour *= 1.0 - alpha
    colour += alpha * np.array(rgb, dtype=np.float32)


def _shadowed(draw: ImageDraw.ImageDraw, xy: tuple[float, float], text: str, size: int, anchor: str) -> None:
    draw.text(xy, text, font=font(size), fill=INK, anchor=anchor, stroke_width=SCALE, stroke_fill=(0, 0, 0))


def orientation(draw: ImageDraw.ImageDraw, left: int, top: int, side: int = PANEL) -> None:
    """The letters R, L and A at the borders of a panel."""
    inset, size = 9 * SCALE * side // PANEL, max(12 * SCALE * side // PANEL, 17)
    _shadowed(draw, (left + inset, top + side / 2), "R", size, "lm")
    _shadowed(draw, (left + side - inset, top + side / 2), "L", size, "rm")
    _shadowed(draw, (left + side / 2, top + inset), "A", size, "mt")


def scale_bar(draw: ImageDraw.ImageDraw, left: int, top: int, field_mm: float, side: int = PANEL) -> None:
    """A bar of 10 mm in the lower left of a panel that is `field_mm` wide."""
    unit = SCALE * side / PANEL
    length = round(side * 10.0 / field_mm)
    x, y, thick = left + round(12 * unit), top + side - round(14 * unit), max(round(2 * unit), 1)
    edge = max(round(unit), 1)
    draw.rectangle((x - edge, y - edge, x + length - 1 + edge, y + thick - 1 + edge), fill=(0, 0, 0))
    draw.rectangle((x, y, x + length - 1, y + thick - 1), fill=INK)
    _shadowed(draw, (x, y - 6 * unit), "10 mm", max(round(11 * unit), 16), "ls")


def fit(text: str, face: ImageFont.FreeTypeFont, room: float) -> str:
    """`text`, shortened at its end to `room` device pixels."""
    text = " ".join(text.split())
    if face.getlength(text) <= room:
        return text
    while text and face.getlength(text + "…") > room:
        text = text[:-1]
    return text + "…"
