"""Training batches for a network that is told where the click is: fields of view in mm, with click maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segnet.config import AugmentConfig, DataConfig
from segnet.dataset.augment import Augmenter, Parameters
from segnet.dataset.batches import ALL, CANVAS, contents_of, normalise
from segnet.dataset.fields import Field, Point, deviations_mm, mixed, side_for, soft_range
from segnet.dataset.lesion_voxels import LesionVoxels
from segnet.dataset.sampling import Contents, SliceSampler
from segnet.dataset.store import Cases

OTHER_SIDES = (0.2, 0.2)
"""Shares of samples in the next smaller and in the next larger field of view than the lesion needs."""
CENTRAL = 0.5
"""Share of clicks near the lesion's middle; the others fall on any of its voxels."""
ROOM_MM = 8.0
"""Least distance from the lesion to each end of a volume along z at which the volume counts as one with surroundings."""
BEYOND_MM = 10.0
"""Mean distance beyond the lesion's ends of the slices without it."""
OFFSET = 0.125
"""Largest distance of a field of view's centre from click or lesion along an axis, as a share of the side."""
INSIDE = 0.45
"""Largest distance of a click from the centre of its field of view along an axis, as a share of the side."""
STRETCH_LOG = 0.25
"""Natural logarithm of the factor of distances between the slices shown, to either side."""
SLAB_SHARE, SLAB_MM = 0.25, 5.0
"""Share of samples whose slices are means over a slab, as thick slices are, and its largest thickness."""


@dataclass(frozen=True)
class _Sample:
    """A field of view to be drawn: of case `index`, in slice `z`; `lesion` and `click_zyx` are None without a click."""

    index: int
    z: int
    field: Field
    lesion: int | None
    click_zyx: Point | None


class ClickedSource:
    """Draws augmented training batches in fields of view in mm.

    A slice of a lesion is drawn by the sampler, and a click in this lesion. A share of the samples shows a slice beyond the lesion's
    ends instead, with the same click: the network learns where the lesion ends. Volumes that end with their lesion cannot teach this,
    so these samples, and `data.beside_fraction` of the others, come from volumes with surroundings. A share has no click, and all
    lesions are marked.

    Parameters
    ----------
    cases : training volumes
    config : its `fields`, input size, window; `click_fraction` of samples have a click, `lesion_fraction` of these show their lesion
    augment : default: `AugmentConfig()`; lesions are not pasted

    Raises
    ------
    InputError
        There is no slice with lesion.
    """

    def __init__(self, cases: Cases, config: DataConfig, seed: int, *, augment: AugmentConfig | None = None) -> None:
        assert config.fields is not None
        self.cases, self.config, self.fields = cases, config, config.fields
        self.rng = np.random.default_rng(seed)
        every = [contents_of(entry) for entry in cases.entries]
        self.sampler = replace(SliceSampler.of(every, config), lesion_fraction=1.0)
        roomy = [c if _has_room(c) else replace(c, slices=()) for c in every]
        self._roomy = None
        if any(len(c.slices) for c in roomy):
            self._roomy = replace(SliceSampler.of(roomy, config), lesion_fraction=1.0)
        square = config.model_copy(update={"patch_px": config.input_px})
        augment = (augment or AugmentConfig()).model_copy(update={"paste_probability": 0.0})
        self.augmenter = Augmenter(augment, square, canvas=CANVAS)
        self._size = int(config.input_px * CANVAS)
        self._lesions: dict[int, LesionVoxels] = {}

    def draw(
        self, count: int, own: slice = ALL, gather: Callable[[Tensor], Tensor] = lambda part: part
    ) -> tuple[Tensor, Tensor]:
        """The next batch, or a process's own part of it.

        Parameters
        ----------
        count, own, gather : as in `segnet.dataset.batches.BatchSource.draw`

        Returns
        -------
        inputs : (own, slices + 3, side, side) in [0, 1]: slices, the middle one in the soft-tissue window, and two click maps,
            0 without a click
        masks : (own, side, side) of 0 and 1, of the middle slices
        """
        generators = [np.random.default_rng(seed) for seed in self.rng.integers(2**63, size=count)[own]]
        slices, size = len(self.fields.offsets_mm), self._size
        images = np.zeros((len(generators), slices, size, size), np.float32)
        masks, guides = np.zeros_like(images), np.zeros((len(generators), 2, size, size), np.float32)
        drawn: list[Parameters] = []
        for k, rng in enumerate(generators):
            sample = self._sample(rng)
            images[k], masks[k] = self._canvas(sample, rng)
            if sample.click_zyx is not None:
                deviations = deviations_mm(self.fields, sample.field.side_mm / CANVAS)
                guides[k] = sample.field.click_maps(sample.click_zyx, sample.z, deviations)
            drawn.append(self.augmenter.draw(rng, 1, slices))
        changed, marked, guided = self.augmenter.apply_guided(
            torch.from_numpy(images),
            torch.from_numpy(masks),
            torch.from_numpy(guides),
            Parameters.joined(drawn),
            gather,
        )
        low, high = soft_range(self.fields, self.config.window)
        middle = slice(slices // 2, slices // 2 + 1)
        soft = ((changed[:, middle] - low) / (high - low)).clamp(0, 1)
        return torch.cat([changed, soft, guided], 1), marked[:, slices // 2]

    def lesions(self, index: int) -> LesionVoxels:
        """The lesions of a case."""
        if index not in self._lesions:
            self._lesions[index] = LesionVoxels(self.cases.lesion(index))
        return self._lesions[index]

    def _sample(self, rng: np.random.Generator) -> _Sample:
        beyond = rng.random() >= self.config.lesion_fraction
        wanted_room = beyond or rng.random() < self.config.beside_fraction
        sampler = self._roomy if wanted_room and self._roomy is not None else self.sampler
        index, z = sampler.draw(rng)
        entry, lesions, fields = self.cases.entries[index], self.lesions(index), self.fields
        in_slice = lesions.in_slice(z)
        lesion = int(lesions.of[rng.integers(in_slice.start, in_slice.stop)])
        first, last = lesions.boxes[lesion]
        spacing = np.asarray(entry.spacing_zyx_mm)
        extent_mm = float(((last - first + 1) * spacing)[1:].max())
        down, up = OTHER_SIDES
        step = int(rng.choice([-1, 0, 1], p=[down, 1 - down - up, up]))
        side = fields.sides_mm[min(max(side_for(extent_mm, fields) + step, 0), len(fields.sides_mm) - 1)]
        middle_yx = (first + last)[1:] / 2
        jitter_yx = rng.uniform(-1, 1, 2) * OFFSET * side / spacing[1:]
        if rng.random() >= self.config.click_fraction:
            # a window may hold a lesion anywhere
            field = self._field(side, middle_yx + jitter_yx * (INSIDE - 0.1) / OFFSET, entry.spacing_zyx_mm)
            return _Sample(index, z, field, None, None)
        click = _click_in(rng, lesions.by_lesion[lesion], lesions.middles[lesion])
        if beyond:
            z = _beyond(rng, int(first[0]), int(last[0]), entry.shape_zyx[0], entry.spacing_zyx_mm[0], z)
        wanted = (middle_yx if rng.random() < 0.5 else click[1:]) + jitter_yx
        reach = INSIDE * side / spacing[1:]
        field = self._field(side, np.clip(wanted, click[1:] - reach, click[1:] + reach), entry.spacing_zyx_mm)
        return _Sample(index, z, field, lesion, (float(click[0]), float(click[1]), float(click[2])))

    def _field(self, side_mm: float, centre_yx: NDArray[np.float64], spacing: tuple[float, float, float]) -> Field:
        """A field of view, and the canvas around it that rotations need."""
        centre = float(centre_yx[0]), float(centre_yx[1])
        return Field(side_mm * self._size / self.config.input_px, centre, self._size, spacing)

    def _canvas(self, sample: _Sample, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Slices around the middle one, and their masks, on the canvas."""
        entry, field, window = self.cases.entries[sample.index], sample.field, self.config.window
        depth, height, width = entry.shape_zyx
        (ys, down), (xs, across) = field.weights(0, height), field.weights(1, width)
        lesions = self.lesions(sample.index)
        kept: dict[int, NDArray[np.float32]] = {}

        def planes(z: int) -> NDArray[np.float32]:
            if z not in kept:
                image = normalise(self.cases.plane(sample.index, z)[0][ys, xs], window)
                mask = lesions.plane(z, (height, width), sample.lesion)[ys, xs]
                kept[z] = np.stack([down @ plane @ across.T for plane in (image, mask)])
            return kept[z]

        offsets = np.asarray(self.fields.offsets_mm) * np.exp(rng.uniform(-STRETCH_LOG, STRETCH_LOG))
        if rng.random() < 0.5:
            offsets = -offsets
        positions = sample.z + offsets / entry.spacing_zyx_mm[0]
        half = rng.uniform(0, SLAB_MM) / 2 / entry.spacing_zyx_mm[0] if rng.random() < SLAB_SHARE else 0.0
        within = (-half, 0.0, half) if half > 0.5 else (0.0,)
        seen = np.stack([mixed(planes, p + d, depth) for d in within for p in positions])
        both = seen.reshape(len(within), len(positions), *seen.shape[1:]).mean(axis=0)
        both[len(positions) // 2, 1] = planes(sample.z)[1]  # the mask of the slice itself, however thick it looks
        return both[:, 0], (both[:, 1] >= 0.5).astype(np.float32)


def _has_room(contents: Contents) -> bool:
    """Whether a volume goes on beyond its lesion on both sides."""
    first, last = contents.lesion_slices[0], contents.lesion_slices[-1]
    beyond = min(first, len(contents.slices) - 1 - last) * contents.slice_mm
    return beyond >= ROOM_MM


def _beyond(rng: np.random.Generator, first: int, last: int, depth: int, slice_mm: float, otherwise: int) -> int:
    """A slice above or below a lesion from `first` to `last`; `otherwise` where the volume has none."""
    steps = 1 + int(rng.exponential(BEYOND_MM) / slice_mm)
    below, above = max(first - steps, 0), min(last + steps, depth - 1)
    choices = [z for z in (below, above) if not first <= z <= last]
    return choices[int(rng.integers(len(choices)))] if choices else otherwise


def _click_in(
    rng: np.random.Generator, voxels: NDArray[np.int32], middle_zyx: NDArray[np.float64]
) -> NDArray[np.float64]:
    """A point in a lesion: any of its voxels, or the most central of a few."""
    few = voxels[rng.integers(len(voxels), size=8)]
    chosen = few[int(np.square(few - middle_zyx).sum(axis=1).argmin())] if rng.random() < CENTRAL else few[0]
    out: NDArray[np.float64] = chosen + rng.uniform(-0.5, 0.5, 3)
    return out
