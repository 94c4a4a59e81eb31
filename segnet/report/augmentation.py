"""A picture sheet of what augmentation does: one column a transform, several magnitudes or seeds below one another."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage
from torch import Tensor

from segnet.config import AUGMENT_PRESETS, AugmentConfig, Config
from segnet.dataset.augment import Augmenter, Geometry, Parameters
from segnet.dataset.batches import CANVAS, cut, normalise
from segnet.dataset.shapes import load_shapes
from segnet.dataset.store import Case, Cases, PreparedDataset, load_dataset
from segnet.dataset.transforms import control_points
from segnet.report.overlay import BACKGROUND, INK, QUIET, TRUTH_RGB, _stroke, fit, font, save_png

PANEL, GAP, MARGIN = 168, 8, 24
HEAD, LABEL, CAPTION = 76, 30, 22
ROWS, COLUMNS = 4, 9
"""Of a band; further columns go into a band below."""
LINE, HALO = 2.0, 4.0
SIGNED, UNSIGNED = (-1.0, -0.5, 0.5, 1.0), (0.25, 0.5, 0.75, 1.0)
"""Magnitudes of the rows, as shares of the configuration's."""


@dataclass(frozen=True)
class Cell:
    """One picture: what to write below, the parameters of a batch, and which image of it is shown."""

    caption: str
    parameters: Parameters
    shown: int = 0


@dataclass(frozen=True)
class Scene:
    """A slice with lesion and one without, as a batch of two: (2, 1, side, side), `CANVAS` fields of view wide."""

    images: Tensor
    masks: Tensor
    geometry: Geometry
    title: str


def augmentation_png(
    path: str | Path, prepared: str | Path | PreparedDataset, config: Config, *, case: str | None = None, seed: int = 0
) -> str:
    """Writes the sheet for a slice of a prepared dataset.

    Parameters
    ----------
    path : file to write, atomically
    prepared : folder that `prepare` wrote
    config : field of view, and the magnitudes of `augment`, which are shown also where their probability is 0
    case : whose largest slice of lesion is shown; None: the one of the middle volume
    seed : of what is drawn

    Returns
    -------
    The name of the case.

    Raises
    ------
    InputError
        The folder is not a prepared dataset, was prepared otherwise, or has no such case.
    """
    dataset = load_dataset(prepared)
    dataset.check(config.data)
    name = _middle_case(dataset) if case is None else case
    scene = _scene(dataset, name, config)
    augmenter = _augmenter(config, config.augment)
    save_png(_page(_columns(config, augmenter, scene, seed), augmenter, scene), path)
    return name


def _middle_case(dataset: PreparedDataset) -> str:
    """The one of the middle volume of lesion."""
    by_volume = sorted(dataset.cases, key=lambda c: (c.lesion_voxels * float(np.prod(c.spacing_zyx_mm)), c.case))
    return by_volume[len(by_volume) // 2].case


def _scene(dataset: PreparedDataset, name: str, config: Config) -> Scene:
    case = Cases(dataset, [name])[0]
    z = int(case.mask.sum((1, 2)).argmax())
    y, x = np.argwhere(case.mask[z]).mean(0).tolist()
    other, other_z = _without_lesion(dataset, case)
    side, low = int(config.data.patch_px * CANVAS), config.data.window[0]
    images = np.zeros((2, 1, side, side), np.float32)
    masks = np.zeros_like(images)
    middle = tuple(length / 2 for length in other.image.shape[1:])
    for k, (of, at, centre) in enumerate(((case, z, (y, x)), (other, other_z, (middle[0], middle[1])))):
        images[k, 0] = normalise(cut(of.image[at], centre, side, low), config.data.window)
        masks[k, 0] = cut(of.mask[at], centre, side, 0)
    masks[1] = 0  # where no slice is free of lesion, one with is shown as if it were
    pixel_mm = np.multiply(
        [case.spacing_zyx_mm[1:], other.spacing_zyx_mm[1:]], config.data.patch_px / config.data.input_px
    )
    geometry = Geometry(torch.from_numpy(pixel_mm.astype(np.float32)), torch.zeros(2, 1))
    title = f"{name}, slice {z + 1} of {len(case.image)}"
    return Scene(torch.from_numpy(images), torch.from_numpy(masks), geometry, title)


def _without_lesion(dataset: PreparedDataset, case: Case) -> tuple[Case, int]:
    """A slice without lesion, that farthest from one in the case itself, else the first of the other cases."""
    names = [case.name, *(entry.case for entry in dataset.cases if entry.case != case.name)]
    for name in names:
        found = case if name == case.name else Cases(dataset, [name])[0]
        held = np.flatnonzero(found.mask.any((1, 2)))
        distance = np.abs(np.arange(len(found.image))[:, None] - held).min(1)
        if distance.any():
            return found, int(distance.argmax())
    return case, 0


def _augmenter(config: Config, augment: AugmentConfig) -> Augmenter:
    shapes = load_shapes(augment.shapes) if augment.shapes is not None else None
    return Augmenter(augment, config.data, canvas=CANVAS, shapes=shapes)


def _signed(value: float, digits: int, unit: str = "") -> str:
    return f"{value:+.{digits}f}{unit}"


def _columns(config: Config, augmenter: Augmenter, scene: Scene, seed: int) -> list[tuple[str, list[Cell]]]:
    """Label and cells of each transform."""
    a, size = config.augment, config.data.input_px
    rng = np.random.default_rng(seed)

    def only(caption: str, **changes: float) -> Cell:
        return Cell(caption, Parameters.identity(2, **{name: torch.full((2,), v) for name, v in changes.items()}))

    def seeds(augment: AugmentConfig) -> list[Cell]:
        drawer = _augmenter(config, augment)
        rows = [rng.integers(2**31) for _ in range(ROWS)]
        drawn = [drawer.draw(np.random.default_rng(row), 2, 1, scene.geometry) for row in rows]
        return [Cell(f"draw {k + 1}", parameters) for k, parameters in enumerate(drawn)]

    turns = [(1.0, 0), (-1.0, 0), (1.0, 1), (-1.0, 1)]
    finer = augmenter.enlarged
    points = control_points(size, a.elastic_spacing_px * finer)
    share = torch.from_numpy(rng.uniform(-1, 1, (1, 2, points, points)).astype(np.float32)).expand(2, -1, -1, -1)
    noise = torch.from_numpy(rng.standard_normal((2, 1, size, size), dtype=np.float32))
    bent = [
        Cell(f"up to {m * a.elastic_px:.1f} px", Parameters.identity(2, control_px=share * m * a.elastic_px * finer))
        for m in UNSIGNED
    ]
    noisy = [
        Cell(
            f"sd {m * a.noise_sd:.3f}",
            Parameters.identity(2, noise=noise, noise_sd=torch.full((2,), m * a.noise_sd)),
        )
        for m in UNSIGNED
    ]
    columns = [
        ("as it is", [only("with lesion"), replace(only("without, to paste into"), shown=1)]),
        (
            "flip, quarter turn",
            [
                only(f"{'flipped' if f < 0 else 'not flipped'}, {90 * q}°", flip=f, angle_rad=q * np.pi / 2)
                for f, q in turns
            ],
        ),
        (
            "rotation",
            [only(_signed(np.degrees(m * a.rotation_rad), 0, "°"), angle_rad=m * a.rotation_rad) for m in SIGNED],
        ),
        (
            "scale",
            [only(f"field x {np.exp(m * a.scale_log):.2f}", scale=float(np.exp(m * a.scale_log))) for m in SIGNED],
        ),
        ("elastic", bent),
        ("fading", [only(f"{k:.0%} of contrast", kept=k) for k in np.linspace(0.8, a.fade_kept, ROWS).tolist()]),
        ("agent in tissue", [only(_signed(m * a.agent_hu, 0, " HU"), tissue_hu=m * a.agent_hu) for m in SIGNED]),
        ("agent in lesion", [only(_signed(m * a.agent_hu, 0, " HU"), lesion_hu=m * a.agent_hu) for m in SIGNED]),
        ("gamma", [only(f"{np.exp(m * a.gamma_log):.2f}", gamma=float(np.exp(m * a.gamma_log))) for m in SIGNED]),
        ("contrast", [only(f"x {1 + m * a.contrast:.2f}", contrast=1 + m * a.contrast) for m in SIGNED]),
        ("brightness", [only(_signed(m * a.brightness, 3), brightness=m * a.brightness) for m in SIGNED]),
        (
            "low resolution",
            [
                only(
                    f"pixels x {1 + m * (a.low_resolution_factor - 1):.2f}",
                    low_resolution=finer * (1 + m * (a.low_resolution_factor - 1)),
                )
                for m in UNSIGNED
            ],
        ),
        ("blur", [only(f"sd {m * a.blur_px:.2f} px", blur_px=m * a.blur_px * finer) for m in UNSIGNED]),
        ("noise", noisy),
        ("lesion pasted", [_pasted(augmenter, scene, rng, k, shapes=False) for k in range(ROWS)]),
    ]
    if augmenter.shapes is not None:
        columns.append(("shape pasted", [_pasted(augmenter, scene, rng, k, shapes=True) for k in range(ROWS)]))
    if config.data.route == "paper":  # whose grey is no HU
        columns = [(label, cells) for label, cells in columns if not label.startswith("agent")]
    for preset in AUGMENT_PRESETS:
        whole = AugmentConfig(preset=preset)  # type: ignore[arg-type]
        of_grey = whole.model_copy(update={"agent_probability": 0.0})
        columns.append((f"all: {preset}", seeds(of_grey if config.data.route == "paper" else whole)))
    return columns


def _pasted(augmenter: Augmenter, scene: Scene, rng: np.random.Generator, number: int, *, shapes: bool) -> Cell:
    """The lesion of the slice with one, or a shape, in the slice without."""
    certain = augmenter.config.model_copy(update={"paste_probability": 1.0, "shape_fraction": float(shapes)})
    drawer = Augmenter(
        certain,
        augmenter.data,
        canvas=augmenter.canvas,
        shapes=augmenter.shapes if shapes else None,
    )
    drawn = drawer.draw(rng, 2, 1, scene.geometry).paste
    assert drawn is not None
    return Cell(f"draw {number + 1}, {_signed(float(drawn.level[1]), 2)}", Parameters.identity(2, paste=drawn), shown=1)


def _page(columns: list[tuple[str, list[Cell]]], augmenter: Augmenter, scene: Scene) -> Image.Image:
    bands = -(-len(columns) // COLUMNS)
    across = -(-len(columns) // bands)
    band_height = LABEL + ROWS * (PANEL + CAPTION)
    page = Image.new(
        "RGB", (2 * MARGIN + across * (PANEL + GAP) - GAP, HEAD + bands * (band_height + GAP) + MARGIN // 2)
    )
    page.paste(BACKGROUND, (0, 0, *page.size))
    draw = ImageDraw.Draw(page)
    room = page.width - 2 * MARGIN
    draw.text((MARGIN, 32), fit(scene.title, font(22), room), font=font(22), fill=INK, anchor="ls")
    draw.rectangle((MARGIN, 53, MARGIN + 22, 55), fill=TRUTH_RGB)
    draw.text(
        (MARGIN + 32, 59), "lesion, as the mask has it after the transform", font=font(15), fill=QUIET, anchor="ls"
    )
    for k, (label, cells) in enumerate(columns):
        left, top = MARGIN + k % across * (PANEL + GAP), HEAD + k // across * (band_height + GAP)
        draw.text((left, top + 20), fit(label, font(16), PANEL), font=font(16), fill=INK, anchor="ls")
        for row, cell in enumerate(cells):
            at = top + LABEL + row * (PANEL + CAPTION)
            page.paste(_panel(augmenter, scene, cell), (left, at))
            draw.text(
                (left, at + PANEL + 15), fit(cell.caption, font(13), PANEL), font=font(13), fill=QUIET, anchor="ls"
            )
    return page


def _panel(augmenter: Augmenter, scene: Scene, cell: Cell) -> Image.Image:
    """One picture. Untransformed, anterior is up and the patient's right on the left."""
    images, masks = augmenter.apply(scene.images, scene.masks, cell.parameters)
    image, mask = images[cell.shown, 0].numpy()[::-1, ::-1], masks[cell.shown, 0].numpy()[::-1, ::-1]
    grey = np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize((PANEL, PANEL), Image.Resampling.BICUBIC))
    colour = np.repeat(np.clip(grey, 0, 1)[:, :, None] * np.float32(255), 3, axis=2)
    distance = _distance(mask)
    _stroke(colour, distance, (0, 0, 0), HALO, 0.45)
    _stroke(colour, distance, TRUTH_RGB, LINE, 1.0)
    return Image.fromarray(np.rint(colour).astype(np.uint8))


def _distance(mask: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of each point of the panel to the mask's outline, in device pixels."""
    enlarged = Image.fromarray(np.ascontiguousarray(mask)).resize((PANEL, PANEL), Image.Resampling.BILINEAR)
    inside = np.asarray(enlarged) >= 0.5
    if inside.all() or not inside.any():
        return np.full(inside.shape, np.inf)
    distance: NDArray[np.float64] = (
        np.where(inside, ndimage.distance_transform_edt(inside), ndimage.distance_transform_edt(~inside)) - 0.5
    )
    return distance
