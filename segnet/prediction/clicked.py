"""Segmentation of the lesion at a click, by a network that is told where the click is.

The image decides the field of view: the clicked slice is looked at in all of them. Slices are then segmented from the click outwards, for
as long as the lesion goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

from segnet.config import INPUT_MULTIPLE, DataConfig, FieldsConfig
from segnet.dataset.batches import normalise
from segnet.dataset.fields import FILLED, INSIDE, Field, Planes, deviations_mm, mixed, soft_range
from segnet.io.boxes import Box
from segnet.prediction.options import THRESHOLD, Progress
from segnet.prediction.precision import BFloat16Difference, difference_of
from segnet.prediction.windows import lesion_probability

HALF = 8
"""A batch is a ring: so many slices above the click or above the last ring, and as many below. A slice's bits depend on nothing else."""
BATCH = 8
"""Slices of a batch where there is no click."""
NEAR_MM = 3.0
"""Largest distance of a component in the clicked slice from the click that counts as at it."""
GROWN = 1.3
"""Factor of the extent from one field of view to the next from which the smaller one is taken to see a part of the lesion."""
IN_PLANE = ndimage.generate_binary_structure(2, 2)
IN_SPACE = ndimage.generate_binary_structure(3, 3)

Voxel = tuple[int, int, int]
Run = Callable[[Tensor], Tensor]
"""From inputs (batch, channels, size, size) to probabilities (samples, batch, size, size) of networks and views."""
Views = Sequence[tuple[int, bool]]


@dataclass(frozen=True)
class Found:
    """The lesion probability around a click.

    Attributes
    ----------
    box : the part of the image that was segmented
    probability : of lesion, float32 in this box
    deviation : standard deviation over networks and views, in this box
    side_mm, centre_yx : of the field of view
    mask : bool in this box, the component at the click
    cut : whether the mask reaches the edge of the largest field of view
    bfloat16_difference : from float32 in the first batch of slices, where bfloat16 was asked for
    """

    box: Box
    probability: NDArray[np.float32]
    deviation: NDArray[np.float32] | None
    side_mm: float
    centre_yx: tuple[float, float]
    mask: NDArray[np.bool_]
    cut: bool
    bfloat16_difference: BFloat16Difference | None = None


class _Look:
    """An image in one field of view around a click. Slices are segmented when first asked for.

    Parameters
    ----------
    run : see `Run`
    """

    def __init__(
        self,
        image_zyx: NDArray[np.number],
        spacing_zyx_mm: tuple[float, float, float],
        config: DataConfig,
        run: Run,
        side_mm: float,
        centre_yx: tuple[float, float],
        click_zyx: Voxel,
    ) -> None:
        assert config.fields is not None
        self.image, self.config, self.fields, self.run, self.click = image_zyx, config, config.fields, run, click_zyx
        self.field = Field(side_mm, centre_yx, config.input_px, spacing_zyx_mm)
        height, width = image_zyx.shape[1:]
        (self._ys, self._down), (self._xs, self._across) = self.field.weights(0, height), self.field.weights(1, width)
        (self.ys, self._back_down), (self.xs, self._back_across) = (
            self.field.inverse(0, height),
            self.field.inverse(1, width),
        )
        self._planes: dict[int, NDArray[np.float32]] = {}
        self._found: dict[int, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}

    def _plane(self, z: int) -> NDArray[np.float32]:
        if z not in self._planes:
            seen = normalise(self.image[z, self._ys, self._xs], self.config.window)
            self._planes[z] = _resampled(self._down, seen, self._across)
        return self._planes[z]

    def input_of(self, z: int) -> NDArray[np.float32]:
        """(slices + 3, size, size) of slice z."""
        out = input_of(self._plane, z, self.image.shape[0], self.field.spacing_zyx_mm[0], self.config)
        out[-2:] = self.field.click_maps(self.click, z, deviations_mm(self.fields, self.field.side_mm))
        return out

    def ring(self, number: int) -> tuple[int, ...]:
        """The slices of a batch. Some lie outside the image, where its first or last slice stands in."""
        below, above = self.click[0] - HALF * number, self.click[0] + HALF * number
        return (*range(below - HALF, below), *range(above, above + HALF))

    def ring_of(self, z: int) -> int:
        """Number of the ring that holds slice z."""
        away = z - self.click[0]
        return (away if away >= 0 else -1 - away) // HALF

    def planes(self, z: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and standard deviation of the probability in slice z, (height, width) on the image's pixels `ys`, `xs`."""
        if z not in self._found:
            depth = len(self.image)
            ring = self.ring(self.ring_of(z))
            inputs = np.stack([self.input_of(min(max(k, 0), depth - 1)) for k in ring])
            samples = self.run(torch.from_numpy(inputs)).numpy()
            mean, deviation = samples.mean(axis=0), samples.std(axis=0)
            for index, k in enumerate(ring):
                if 0 <= k < depth:
                    self._found[k] = self.on_image(mean[index]), self.on_image(deviation[index])
        return self._found[z]

    def on_image(self, plane: NDArray[np.float32]) -> NDArray[np.float32]:
        """A plane of the input on the image's pixels."""
        return _resampled(self._back_down, plane, self._back_across)

    def volume(self, first: int, last: int) -> NDArray[np.float32]:
        return np.stack([self.planes(z)[0] for z in range(first, last + 1)])

    @cached_property
    def inner_edges(self) -> list[tuple[int, bool]]:
        """Edges of the field of view, (axis of the plane, at its end), beyond which the image goes on."""
        shape = self.image.shape[1:]
        return [
            (axis, end)
            for axis, part in enumerate((self.ys, self.xs))
            for end in (False, True)
            if (part.stop < shape[axis] if end else part.start > 0)
        ]

    def reaches_edge(self, mask: NDArray[np.bool_]) -> bool:
        """Whether a mask of planes, (..., height, width), touches the edge of the field of view inside the image."""
        return any(mask.take(-1 if end else 0, axis=mask.ndim - 2 + axis).any() for axis, end in self.inner_edges)


class Looks:
    """Fields of view around one click in one image, kept from one call of `segment_clicked` to the next.

    Slices that were segmented in them, at whatever threshold, are not segmented again.

    Attributes
    ----------
    clicked : probabilities of the clicked slice in all fields of view (fields, size, size); None before they are known
    """

    def __init__(self) -> None:
        self.clicked: NDArray[np.float32] | None = None
        self._kept: dict[tuple[float, tuple[float, float]], _Look] = {}

    @cached_property
    def in_bfloat16(self) -> Looks:
        """The same for networks in bfloat16."""
        return Looks()

    def at(self, side_mm: float, centre_yx: tuple[float, float], make: Callable[[], _Look]) -> _Look:
        """The field of view, made if it is the first of this side and centre."""
        key = side_mm, centre_yx
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]


def _resampled(down: NDArray[Any], plane: NDArray[Any], across: NDArray[Any]) -> NDArray[np.float32]:
    out: NDArray[np.float32] = down @ plane @ across.T
    return out


def _at_click(
    mask: NDArray[np.bool_], click: tuple[int, ...], spacing: tuple[float, ...], reach_mm: float
) -> NDArray[np.bool_]:
    """The component at the click, or the nearest one within `reach_mm`; else nothing."""
    labels, _ = ndimage.label(mask, IN_PLANE if mask.ndim == 2 else IN_SPACE)
    here = int(labels[click])
    if not here and mask.any():
        voxels = np.argwhere(mask)
        away = (np.square((voxels - np.asarray(click)) * np.asarray(spacing))).sum(axis=1)
        nearest = int(away.argmin())
        here = int(labels[tuple(voxels[nearest])]) if away[nearest] <= reach_mm**2 else 0
    found: NDArray[np.bool_] = labels == here if here else np.zeros_like(mask)
    return found


def _extent_mm(mask: NDArray[np.bool_], spacing: tuple[float, ...]) -> float:
    """Largest side of the box around a mask of a plane."""
    sides = [np.flatnonzero(mask.any(axis=1 - axis)) for axis in range(2)]
    return (
        max(float(side[-1] - side[0] + 1) * step for side, step in zip(sides, spacing, strict=True))
        if mask.any()
        else 0.0
    )


def runner(networks: Sequence[nn.Module], views: Views) -> Run:
    """From inputs to the lesion probabilities of each network and view."""

    @torch.inference_mode()
    def run(inputs: Tensor) -> Tensor:
        return torch.stack([lesion_probability(n, inputs, view)[:, 0] for n in networks for view in views])

    return run


def segment_clicked(
    run: Run,
    image_zyx: NDArray[np.number],
    spacing_zyx_mm: tuple[float, float, float],
    config: DataConfig,
    click_zyx: Voxel,
    *,
    threshold: float = THRESHOLD,
    whole: bool = False,
    in_bfloat16: Run | None = None,
    looks: Looks | None = None,
) -> Found:
    """Lesion probability around a click.

    Parameters
    ----------
    run : of `runner`
    image_zyx : (Z, Y, X) in HU
    config : its `fields` are set
    click_zyx : voxel in the lesion
    threshold : of the lesion probability
    whole : segment all slices, and not only those around the click; the mask is the same bit for bit
    in_bfloat16 : the same in bfloat16, used where its first batch of slices differs tolerably from that of `run`
    looks : of earlier calls with the same networks, views, image and click; the result is the same bit for bit
    """
    fields = config.fields
    assert fields is not None
    looks = Looks() if looks is None else looks

    def look(side_mm: float, centre_yx: tuple[float, float]) -> _Look:
        return looks.at(
            side_mm, centre_yx, lambda: _Look(image_zyx, spacing_zyx_mm, config, run, side_mm, centre_yx, click_zyx)
        )

    if in_bfloat16 is not None:

        def found_by(chosen: Run, kept: Looks) -> Found:
            return segment_clicked(
                chosen, image_zyx, spacing_zyx_mm, config, click_zyx, threshold=threshold, whole=whole, looks=kept
            )

        found = found_by(in_bfloat16, looks.in_bfloat16)
        difference = _difference(look(found.side_mm, found.centre_yx), found, click_zyx[0], threshold)
        return replace(found if difference.tolerable else found_by(run, looks), bfloat16_difference=difference)

    index, centre_yx = _choose(look, looks, fields, spacing_zyx_mm, click_zyx, run, threshold)
    while True:
        view = look(fields.sides_mm[index], centre_yx)
        first, last, mask = _grown(view, click_zyx, spacing_zyx_mm, threshold, whole=whole)
        cut = view.reaches_edge(mask)
        if not cut or index == len(fields.sides_mm) - 1:
            break
        flat: NDArray[np.bool_] = np.asarray(mask.any(axis=0))
        index, centre_yx = index + 1, _centre(view, click_zyx, flat, fields.sides_mm[index + 1])
    box = (slice(first, last + 1), view.ys, view.xs)
    deviation = np.stack([view.planes(z)[1] for z in range(first, last + 1)])
    probability = view.volume(first, last)
    return Found(box, probability, deviation, view.field.side_mm, view.field.centre_yx, mask, cut)


def _difference(view: _Look, found: Found, click_z: int, threshold: float) -> BFloat16Difference:
    """Difference of what was found from the same field of view in float32, in the first batch of slices."""
    first = found.box[0].start
    checked = [z for z in view.ring(view.ring_of(click_z)) if 0 <= z < len(view.image)]
    wanted = view.volume(checked[0], checked[-1])
    return difference_of(found.probability[checked[0] - first : checked[-1] + 1 - first], wanted, threshold)


def input_of(planes: Planes, z: int, depth: int, spacing_z_mm: float, config: DataConfig) -> NDArray[np.float32]:
    """The network's input for slice z where there is no click.

    Parameters
    ----------
    planes : by slice, (height, width), of values whose window is [0, 1]
    depth : number of slices

    Returns
    -------
    (slices + 3, height, width)
        Slices around z, its soft-tissue window, and two empty click maps.
    """
    fields = config.fields
    assert fields is not None
    around = np.stack([mixed(planes, z + offset / spacing_z_mm, depth) for offset in fields.offsets_mm])
    low, high = soft_range(fields, config.window)
    soft = np.clip((around[len(around) // 2] - low) / (high - low), 0, 1)
    out: NDArray[np.float32] = np.concatenate([around, soft[None], np.zeros((2, *soft.shape), np.float32)])
    return out


def segment_everywhere(
    run: Run,
    image_zyx: NDArray[np.number],
    spacing_zyx_mm: tuple[float, float, float],
    config: DataConfig,
    *,
    threshold: float = THRESHOLD,
    in_bfloat16: Run | None = None,
    progress: Progress | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32], BFloat16Difference | None]:
    """Lesion probability of every voxel without a click, its standard deviation over networks and views, and the check of bfloat16.

    Whole slices are shown, at the pixels of the second field of view: lesions much larger than it need a click.

    Parameters
    ----------
    run, image_zyx, config : as in `segment_clicked`
    in_bfloat16 : the same in bfloat16, used where it differs tolerably from `run` in a first batch of slices spread over the volume
    threshold : of the masks compared
    progress : called with slices done and all of them
    """
    fields = config.fields
    assert fields is not None
    depth, height, width = image_zyx.shape
    pixel_mm = fields.sides_mm[min(1, len(fields.sides_mm) - 1)] / config.input_px
    across, down = (
        _axis(length, step, pixel_mm, config, spacing_zyx_mm)
        for length, step in ((width, spacing_zyx_mm[2]), (height, spacing_zyx_mm[1]))
    )
    (ys, to_rows), (xs, to_columns) = down.weights(0, height), across.weights(1, width)
    (rows, from_rows), (columns, from_columns) = down.inverse(0, height), across.inverse(1, width)
    reach = math.ceil(max(map(abs, fields.offsets_mm)) / spacing_zyx_mm[0]) + 1

    @lru_cache(maxsize=BATCH + 2 * reach)
    def plane(z: int) -> NDArray[np.float32]:
        return _resampled(to_rows, normalise(image_zyx[z, ys, xs], config.window), to_columns)

    def samples(chosen: Run, slices: Sequence[int]) -> NDArray[np.float32]:
        inputs = np.stack([input_of(plane, z, depth, spacing_zyx_mm[0], config) for z in slices])
        found: NDArray[np.float32] = chosen(torch.from_numpy(inputs)).numpy()
        return found

    difference = None
    if in_bfloat16 is not None:
        spread_out = np.unique(np.linspace(0, depth - 1, BATCH).round().astype(int)).tolist()
        got, wanted = (samples(chosen, spread_out).mean(axis=0) for chosen in (in_bfloat16, run))
        difference = difference_of(got, wanted, threshold)
        run = in_bfloat16 if difference.tolerable else run
    mean, deviation = np.zeros(image_zyx.shape, np.float32), np.zeros(image_zyx.shape, np.float32)
    for first in range(0, depth, BATCH):
        some = range(first, min(first + BATCH, depth))
        found = samples(run, some)
        for total, planes in ((mean, found.mean(axis=0)), (deviation, found.std(axis=0))):
            for z, values in zip(some, planes, strict=True):
                total[z, rows, columns] = _resampled(from_rows, values, from_columns)
        if progress is not None:
            progress(some.stop, depth)
    return mean, deviation, difference


def _axis(
    length: int, step_mm: float, pixel_mm: float, config: DataConfig, spacing: tuple[float, float, float]
) -> Field:
    """A field of view of pixels of one size that holds an axis of a slice: as large as in training, or larger."""
    pixels = max(config.input_px, math.ceil(length * step_mm / pixel_mm / INPUT_MULTIPLE) * INPUT_MULTIPLE)
    middle = (length - 1) / 2
    return Field(pixels * pixel_mm, (middle, middle), pixels, spacing)


def _choose(
    look: Callable[[float, tuple[float, float]], _Look],
    looks: Looks,
    fields: FieldsConfig,
    spacing: tuple[float, float, float],
    click: Voxel,
    run: Run,
    threshold: float,
) -> tuple[int, tuple[float, float]]:
    """The field of view that the lesion in the clicked slice needs, and its centre."""
    centre = (float(click[1]), float(click[2]))
    views = [look(side, centre) for side in fields.sides_mm]
    if looks.clicked is None:
        inputs = np.stack([view.input_of(click[0]) for view in views])
        looks.clicked = run(torch.from_numpy(inputs)).numpy().mean(axis=0)
    lesions, extents = [], []
    for view, plane in zip(views, looks.clicked, strict=True):
        here = click[1] - view.ys.start, click[2] - view.xs.start
        lesions.append(_at_click(view.on_image(plane) > threshold, here, spacing[1:], NEAR_MM))
        extents.append(_extent_mm(lesions[-1], spacing[1:]))
    last = len(views) - 1
    for k, (view, lesion, side) in enumerate(zip(views, lesions, fields.sides_mm, strict=True)):
        sees_part = k < last and extents[k + 1] > max(GROWN * extents[k], FILLED * side)
        if extents[k] and not view.reaches_edge(lesion) and extents[k] <= FILLED * side and not sees_part:
            return k, _centre(view, click, lesion, side)
    held = [k for k in range(last + 1) if extents[k]]
    if not held:
        return 0, centre
    return held[-1], _centre(views[held[-1]], click, lesions[held[-1]], fields.sides_mm[held[-1]])


def _centre(view: _Look, click: Voxel, lesion_yx: NDArray[np.bool_], side_mm: float) -> tuple[float, float]:
    """The middle of a lesion, as far as the click stays well inside a field of view of that side."""
    out = []
    for axis, part in enumerate((view.ys, view.xs)):
        held = np.flatnonzero(lesion_yx.any(axis=1 - axis)) + part.start
        at, reach = float(click[1 + axis]), INSIDE * side_mm / view.field.spacing_zyx_mm[1 + axis]
        middle = (held[0] + held[-1]) / 2 if held.size else at
        out.append(float(np.clip(middle, at - reach, at + reach)))
    return out[0], out[1]


def _grown(
    view: _Look, click: Voxel, spacing: tuple[float, float, float], threshold: float, *, whole: bool
) -> tuple[int, int, NDArray[np.bool_]]:
    """First and last slice segmented, and the lesion in them: more slices are taken while it touches the end of them.

    A path out of the slices crosses their end, so the component is that of the whole volume.
    """
    depth, ring = len(view.image), 0
    while True:
        first, last = max(click[0] - HALF * (ring + 1), 0), min(click[0] + HALF * (ring + 1), depth) - 1
        if whole:
            first, last = 0, depth - 1
        here = (click[0] - first, click[1] - view.ys.start, click[2] - view.xs.start)
        mask = _at_click(view.volume(first, last) > threshold, here, spacing, NEAR_MM)
        if not ((mask[-1].any() and last < depth - 1) or (mask[0].any() and first > 0)):
            return first, last, mask
        ring += 1
