"""A sheet of pictures of augmentation: one column per transform, with magnitudes or seeds below one another."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from segnet.config import AUGMENT_PRESETS, AugmentConfig, Config
from segnet.dataset.augment import Augmenter, Geometry, Parameters
from segnet.dataset.batches import CANVAS, cut, normalise
from segnet.dataset.shapes import load_shapes
from segnet.dataset.store import Case, Cases, PreparedDataset, load_dataset
from segnet.dataset.transforms import control_points
from segnet.report.overlay import BACKGROUND, INK, QUIET, RGB, TRUTH_RGB, fit, font, panel, save_png

PANEL, GAP, MARGIN = 168, 8, 24
HEAD, LABEL, CAPTION = 76, 30, 22
ROWS, COLUMNS = 4, 9
"""Of a band. Further columns go into a band below."""
SIGNED, UNSIGNED = (-1.0, -0.5, 0.5, 1.0), (0.25, 0.5, 0.75, 1.0)
"""Magnitudes of the rows, as shares of the configuration's."""


@dataclass(frozen=True)
class Cell:
    """One picture: caption, parameters of a batch, and the number of the image shown."""

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


@dataclass(frozen=True)
class Sheet:
    """Title, and the label of each transform with its pictures and their captions."""

    title: str
    columns: list[tuple[str, list[tuple[str, Image.Image]]]]


def augmentation_png(
    path: str | Path, prepared: str | Path | PreparedDataset, config: Config, *, case: str | None = None, seed: int = 0
) -> str:
    """Write the sheet for a slice of a prepared dataset, and return the name of its case.

    Parameters
    ----------
    path : file to write, atomically
    prepared : dataset, or the folder that `prepare` wrote
    config : field of view, and the magnitudes of `augment`, shown even where their probability is 0
    case : its slice of largest lesion area is shown; by default the case of median lesion volume
    seed : of random choices

    Raises
    ------
    InputError
        The folder is not a prepared dataset, was prepared otherwise, or has no such case.
    """
    dataset = load_dataset(prepared)
    dataset.check(config.data)
    name = _middle_case(dataset) if case is None else case
    save_png(_page(augmentation_sheet(dataset, name, config, seed)), path)
    return name


def augmentation_sheet(dataset: PreparedDataset, case: str, config: Config, seed: int = 0) -> Sheet:
    """What `augmentation_png` shows of the slice of largest lesion area of a case."""
    scene, augmenter = _scene(dataset, case, config), _augmenter(config, config.augment)
    columns = _columns(config, augmenter, scene, seed)
    return Sheet(scene.title, [(n, [(c.caption, _panel(augmenter, scene, c)) for c in cells]) for n, cells in columns])


def _middle_case(dataset: PreparedDataset) -> str:
    """The case of median lesion volume."""
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
    masks[1] = 0  # where every slice holds lesion, one is shown as if it were free of it
    pixel_mm = np.multiply(
        [case.spacing_zyx_mm[1:], other.spacing_zyx_mm[1:]], config.data.patch_px / config.data.input_px
    )
    geometry = Geometry(torch.from_numpy(pixel_mm.astype(np.float32)), torch.zeros(2, 1))
    title = f"{name}, slice {z + 1} of {len(case.image)}"
    return Scene(torch.from_numpy(images), torch.from_numpy(masks), geometry, title)


def _without_lesion(dataset: PreparedDataset, case: Case) -> tuple[Case, int]:
    """A slice without lesion: of the case itself the one farthest from lesion, else of the first other case that has one."""
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


def _columns(config: Config, augmenter: Augmenter, scene: Scene, seed: int) -> list[tuple[str, list[Cell]]]:
    """Label and cells of each transform."""
    a, size, finer = config.augment, config.data.input_px, augmenter.enlarged
    rng = np.random.default_rng(seed)

    def only(caption: str, **changes: float) -> Cell:
        return Cell(caption, Parameters.identity(2, **{name: torch.full((2,), v) for name, v in changes.items()}))

    points = control_points(size, a.elastic_spacing_px * finer)
    share = torch.from_numpy(rng.uniform(-1, 1, (1, 2, points, points)).astype(np.float32)).expand(2, -1, -1, -1)
    noise = torch.from_numpy(rng.standard_normal((2, 1, size, size), dtype=np.float32))
    coarse = {m: 1 + m * (a.low_resolution_factor - 1) for m in UNSIGNED}
    scale, gamma = ({m: float(np.exp(m * reach)) for m in SIGNED} for reach in (a.scale_log, a.gamma_log))
    hu = {m: m * a.agent_hu for m in SIGNED}
    columns = {
        "as it is": [only("with lesion"), replace(only("without, to paste into"), shown=1)],
        "flip, quarter turn": [
            only(f"{'flipped' if f < 0 else 'not flipped'}, {90 * q}°", flip=f, angle_rad=q * np.pi / 2)
            for f, q in ((1.0, 0), (-1.0, 0), (1.0, 1), (-1.0, 1))
        ],
        "rotation": [only(f"{np.degrees(m * a.rotation_rad):+.0f}°", angle_rad=m * a.rotation_rad) for m in SIGNED],
        "scale": [only(f"field x {s:.2f}", scale=s) for s in scale.values()],
        "elastic": [
            Cell(
                f"up to {m * a.elastic_px:.1f} px", Parameters.identity(2, control_px=share * m * a.elastic_px * finer)
            )
            for m in UNSIGNED
        ],
        "fading": [only(f"{k:.0%} of contrast", kept=k) for k in np.linspace(0.8, a.fade_kept, ROWS).tolist()],
        "agent in tissue": [only(f"{v:+.0f} HU", tissue_hu=v) for v in hu.values()],
        "agent in lesion": [only(f"{v:+.0f} HU", lesion_hu=v) for v in hu.values()],
        "gamma": [only(f"{g:.2f}", gamma=g) for g in gamma.values()],
        "contrast": [only(f"x {1 + m * a.contrast:.2f}", contrast=1 + m * a.contrast) for m in SIGNED],
        "brightness": [only(f"{m * a.brightness:+.3f}", brightness=m * a.brightness) for m in SIGNED],
        "low resolution": [only(f"pixels x {f:.2f}", low_resolution=finer * f) for f in coarse.values()],
        "blur": [only(f"sd {m * a.blur_px:.2f} px", blur_px=m * a.blur_px * finer) for m in UNSIGNED],
        "noise": [
            Cell(
                f"sd {m * a.noise_sd:.3f}",
                Parameters.identity(2, noise=noise, noise_sd=torch.full((2,), m * a.noise_sd)),
            )
            for m in UNSIGNED
        ],
        "lesion pasted": [_pasted(augmenter, scene, rng, k, shapes=False) for k in range(ROWS)],
    }
    if augmenter.shapes is not None:
        columns["shape pasted"] = [_pasted(augmenter, scene, rng, k, shapes=True) for k in range(ROWS)]
    grey_only = config.data.route == "paper"  # its grey levels are not HU
    for preset in AUGMENT_PRESETS:
        whole = AugmentConfig(preset=preset)  # type: ignore[arg-type]
        drawer = _augmenter(config, whole.model_copy(update={"agent_probability": 0.0}) if grey_only else whole)
        seeds = [rng.integers(2**31) for _ in range(ROWS)]
        columns[f"all: {preset}"] = [
            Cell(f"draw {k}", drawer.draw(np.random.default_rng(s), 2, 1, scene.geometry))
            for k, s in enumerate(seeds, 1)
        ]
    return [(label, cells) for label, cells in columns.items() if not (grey_only and label.startswith("agent"))]


def _pasted(augmenter: Augmenter, scene: Scene, rng: np.random.Generator, number: int, *, shapes: bool) -> Cell:
    """The lesion of the slice with one, or a shape, in the slice without."""
    certain = augmenter.config.model_copy(update={"paste_probability": 1.0, "shape_fraction": float(shapes)})
    held = augmenter.shapes if shapes else None
    drawn = (
        Augmenter(certain, augmenter.data, canvas=augmenter.canvas, shapes=held).draw(rng, 2, 1, scene.geometry).paste
    )
    assert drawn is not None
    caption = f"draw {number + 1}, {float(drawn.level[1]):+.2f}"
    return Cell(caption, Parameters.identity(2, paste=drawn), shown=1)


def _page(sheet: Sheet) -> Image.Image:
    bands = -(-len(sheet.columns) // COLUMNS)
    across = -(-len(sheet.columns) // bands)
    band = LABEL + ROWS * (PANEL + CAPTION) + GAP
    width = 2 * MARGIN + across * (PANEL + GAP) - GAP
    page = Image.new("RGB", (width, HEAD + bands * band + MARGIN // 2), BACKGROUND)
    draw = ImageDraw.Draw(page)

    def write(left: int, base: int, text: str, size: int, colour: RGB, room: int = PANEL) -> None:
        draw.text((left, base), fit(text, font(size), room), font=font(size), fill=colour, anchor="ls")

    write(MARGIN, 32, sheet.title, 22, INK, width - 2 * MARGIN)
    draw.rectangle((MARGIN, 53, MARGIN + 22, 55), fill=TRUTH_RGB)
    write(MARGIN + 32, 59, "lesion, as the mask has it after the transform", 15, QUIET, width)
    for k, (label, pictures) in enumerate(sheet.columns):
        left, top = MARGIN + k % across * (PANEL + GAP), HEAD + k // across * band
        write(left, top + 20, label, 16, INK)
        for row, (caption, picture) in enumerate(pictures):
            at = top + LABEL + row * (PANEL + CAPTION)
            page.paste(picture, (left, at))
            write(left, at + PANEL + 15, caption, 13, QUIET)
    return page


def _panel(augmenter: Augmenter, scene: Scene, cell: Cell) -> Image.Image:
    """One picture. Untransformed, anterior is up and the patient's right on the left."""
    images, masks = augmenter.apply(scene.images, scene.masks, cell.parameters)
    image, mask = images[cell.shown, 0].numpy(), masks[cell.shown, 0].numpy() >= 0.5
    height, width = image.shape
    return panel(image, None, mask, (0.0, 0.0, height, width), (0.0, 1.0), PANEL)
