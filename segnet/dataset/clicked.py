"""Training batches for a network that is told where the click is: fields of view in mm, with click maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from segnet.config import AugmentConfig, DataConfig
from segnet.dataset.augment import Augmenter, Parameters
from segnet.dataset.batches import ALL, CANVAS, contents_of, normalise
from segnet.dataset.fields import INSIDE, Field, Point, deviations_mm, mixed, side_for, soft_range
from segnet.dataset.lesion_voxels import LesionVoxels
from segnet.dataset.sampling import Contents, SliceSampler

if TYPE_CHECKING:
    from segnet.dataset.store import Cases

OTHER_SIDES = (0.2, 0.2)
"""Shares of samples in the next smaller and in the next larger field of view than the lesion needs."""
CENTRAL = 0.3
"""Share of clicks near the lesion's middle; the others fall on any of its voxels."""
ROOM_MM = 8.0
"""Least distance from the lesion to each end of a volume along z at which the volume counts as one with surroundings."""
BEYOND_MM = 10.0
"""Mean distance beyond the lesion's ends of the slices without it."""
OFFSET = 0.125
"""Largest distance of a field of view's centre from click or lesion along an axis, as a share of the side."""
STRETCH_LOG = 0.25
"""Natural logarithm of the factor of distances between the slices shown, to either side."""
SLAB_SHARE, SLAB_MM = 0.25, 5.0
"""Share of samples whose slices are means over a slab, as thick slices are, and its largest thickness."""
PASTED_MM = 40.0
"""Largest extent of a lesion that is pasted: the crops of larger ones show hardly anything around them."""
GROUND_HU = 80.0
"""Largest difference of mean HU between the surroundings of a pasted lesion and the place it is put in."""
CONTRAST_HU = 150.0
"""Least difference of mean HU between a pasted lesion and its surroundings: an invisible lesion teaches nothing."""
GROUND_MM = 8.0
"""Side of the square whose mean is compared."""
EDGE_MM = 1.5
"""Standard deviation of the soft edge of a pasted lesion."""
PLACES = 24
"""Places tried for a pasted lesion."""


@dataclass(frozen=True)
class _Donor:
    """A lesion of another case that is pasted: middle of the lesion, at the place (z, y, x) in the host."""

    index: int
    lesion: int
    field: Field
    middle_z: float
    place_z: float


@dataclass(frozen=True)
class _Sample:
    """A field of view to be drawn: of case `index`, in slice `z`; `lesion` and `click_zyx` are None without a click."""

    index: int
    z: int
    field: Field
    lesion: int | None
    click_zyx: Point | None
    donor: _Donor | None = None


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
    augment : default: `AugmentConfig()`. Its `paste_probability` is the share of samples whose lesion is pasted into a volume with
        surroundings: an image with lesion and soft edge, at a place as bright as the lesion's own surroundings

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
        augment = augment or AugmentConfig()
        self._paste_probability = augment.paste_probability
        self.augmenter = Augmenter(augment.model_copy(update={"paste_probability": 0.0}), square, canvas=CANVAS)
        self._hosts = [k for k, c in enumerate(roomy) if len(c.slices)]
        self._size = int(config.input_px * CANVAS)
        self._lesions: dict[int, LesionVoxels] = {}
        self._grounds: dict[tuple[int, int], float | None] = {}

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
            pasted = rng.random() < self._paste_probability
            sample = (self._pasted(rng) if pasted else None) or self._sample(rng)
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
        lesion = _drawn_lesion(rng, lesions, z)
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
        entry = self.cases.entries[sample.index]
        host = _Seen(self, sample.index, sample.field, sample.lesion if sample.donor is None else 0)
        shown = host.at
        if sample.donor is not None:
            donor = sample.donor
            shown = partial(_with_donor, host, _Seen(self, donor.index, donor.field, donor.lesion), donor)
        offsets = np.asarray(self.fields.offsets_mm) * np.exp(rng.uniform(-STRETCH_LOG, STRETCH_LOG))
        if rng.random() < 0.5:
            offsets = -offsets
        positions = sample.z + offsets / entry.spacing_zyx_mm[0]
        half = rng.uniform(0, SLAB_MM) / 2 / entry.spacing_zyx_mm[0] if rng.random() < SLAB_SHARE else 0.0
        within = (-half, 0.0, half) if half > 0.5 else (0.0,)
        seen = np.stack([shown(float(p + d)) for d in within for p in positions])
        both = seen.reshape(len(within), len(positions), *seen.shape[1:]).mean(axis=0)
        if len(within) > 1:
            both[len(positions) // 2, 1] = shown(sample.z)[1]  # the mask of the slice itself, however thick it looks
        return both[:, 0], (both[:, 1] >= 0.5).astype(np.float32)

    def _pasted(self, rng: np.random.Generator) -> _Sample | None:
        """A lesion of one case at a place in another; None where no place is found."""
        index, z = self.sampler.draw(rng)
        if not self._hosts:
            return None
        host_index = self._hosts[int(rng.integers(len(self._hosts)))]
        entry, host = self.cases.entries[index], self.cases.entries[host_index]
        lesions, fields = self.lesions(index), self.fields
        lesion = _drawn_lesion(rng, lesions, z)
        (first, last), middle = lesions.boxes[lesion], lesions.middles[lesion]
        own, theirs = np.asarray(entry.spacing_zyx_mm), np.asarray(host.spacing_zyx_mm)
        extent_mm = float(((last - first + 1) * own)[1:].max())
        ground = self._ground_of(index, lesion)
        place = None if extent_mm > PASTED_MM or ground is None else self._place(rng, host_index, ground, extent_mm)
        if place is None:
            return None
        click = _click_in(rng, lesions.by_lesion[lesion], middle)
        click_mm = (click - middle) * own
        step = int(rng.choice([0, 1]))
        side = fields.sides_mm[min(side_for(extent_mm, fields) + step, len(fields.sides_mm) - 1)]
        centre_mm = click_mm[1:] * rng.random() + rng.uniform(-1, 1, 2) * OFFSET * side
        if rng.random() < self.config.lesion_fraction:
            z_mm = (z - middle[0]) * own[0]
        else:
            ends_mm = (np.array([first[0], last[0]]) - middle[0]) * own[0]
            away = own[0] + rng.exponential(BEYOND_MM)
            z_mm = ends_mm[0] - away if rng.random() < 0.5 else ends_mm[1] + away
        host_z = round(place[0] + z_mm / theirs[0])
        if not 0 <= host_z < host.shape_zyx[0]:
            return None
        field = self._field(side, np.asarray(place[1:]) + centre_mm / theirs[1:], host.spacing_zyx_mm)
        of_donor = self._field(side, middle[1:] + centre_mm / own[1:], entry.spacing_zyx_mm)
        at = np.asarray(place) + click_mm / theirs
        donor = _Donor(index, lesion, of_donor, float(middle[0]), float(place[0]))
        return _Sample(host_index, host_z, field, lesion, (float(at[0]), float(at[1]), float(at[2])), donor)

    def _ground_of(self, index: int, lesion: int) -> float | None:
        """Mean HU around a lesion in its middle slice; None where nothing is seen around it, or no contrast."""
        if (index, lesion) not in self._grounds:
            lesions, entry = self.lesions(index), self.cases.entries[index]
            z = round(float(lesions.middles[lesion][0]))
            _, height, width = entry.shape_zyx
            plane = lesions.plane(z, lesion, slice(0, height), slice(0, width))
            mask = np.zeros((height, width), np.bool_) if plane is None else plane > 0
            ring = ndimage.binary_dilation(mask, iterations=4) & ~ndimage.binary_dilation(mask, iterations=2)
            image = self.cases.image(index)[z]
            around = float(image[ring].mean()) if mask.any() and ring.sum() > 8 else None
            visible = around is not None and abs(float(image[mask].mean()) - around) >= CONTRAST_HU
            self._grounds[index, lesion] = around if visible else None
        return self._grounds[index, lesion]

    def _place(self, rng: np.random.Generator, host: int, ground_hu: float, extent_mm: float) -> Point | None:
        """A voxel of a host whose neighbourhood is as bright as `ground_hu`, away from the host's own lesions."""
        entry, lesions = self.cases.entries[host], self.lesions(host)
        depth, height, width = entry.shape_zyx
        z = int(rng.integers(depth))
        image = self.cases.image(host)[z]
        half = [max(1, round(GROUND_MM / 2 / s)) for s in entry.spacing_zyx_mm[1:]]
        for _ in range(PLACES):
            y, x = int(rng.integers(height)), int(rng.integers(width))
            around = image[max(y - half[0], 0) : y + half[0] + 1, max(x - half[1], 0) : x + half[1] + 1]
            if abs(float(around.mean()) - ground_hu) > GROUND_HU:
                continue
            if not lesions.near((z, y, x), extent_mm / np.asarray(entry.spacing_zyx_mm)):
                return float(z), float(y), float(x)
        return None


class _Seen:
    """A case in a field of view: image and mask, (2, size, size), at any position along z; beyond the ends the last slice repeats."""

    def __init__(self, source: ClickedSource, index: int, field: Field, lesion: int | None) -> None:
        self.field, self._source, self._index, self._lesion = field, source, index, lesion
        self.depth, height, width = source.cases.entries[index].shape_zyx
        (self._ys, self._down), (self._xs, self._across) = field.weights(0, height), field.weights(1, width)
        self._kept: dict[int, NDArray[np.float32]] = {}

    def at(self, position: float) -> NDArray[np.float32]:
        return mixed(self._plane, position, self.depth)

    def _plane(self, z: int) -> NDArray[np.float32]:
        if z not in self._kept:
            source = self._source
            image = normalise(source.cases.image(self._index)[z, self._ys, self._xs], source.config.window)
            mask = source.lesions(self._index).plane(z, self._lesion, self._ys, self._xs)
            out = np.zeros((2, self.field.size_px, self.field.size_px), np.float32)
            out[0] = self._down @ image @ self._across.T
            if mask is not None:
                out[1] = self._down @ mask @ self._across.T
            self._kept[z] = out
        return self._kept[z]


def _with_donor(host: _Seen, source: _Seen, donor: _Donor, position: float) -> NDArray[np.float32]:
    """Image and mask of a host at a position along z, with the lesion of a donor in it."""
    mm = (position - donor.place_z) * host.field.spacing_zyx_mm[0]
    at = donor.middle_z + mm / donor.field.spacing_zyx_mm[0]
    image = host.at(position)[0]
    if not -0.5 <= at <= source.depth - 0.5:
        return np.stack([image, np.zeros_like(image)])
    lesion, mask = source.at(at)
    soft = np.minimum(2 * ndimage.gaussian_filter(mask, EDGE_MM / host.field.pixel_mm), 1)
    return np.stack([image + soft * (lesion - image), mask])


def _has_room(contents: Contents) -> bool:
    """Whether a volume goes on beyond its lesion on both sides."""
    first, last = contents.lesion_slices[0], contents.lesion_slices[-1]
    beyond = min(first, len(contents.slices) - 1 - last) * contents.slice_mm
    return beyond >= ROOM_MM


def _drawn_lesion(rng: np.random.Generator, lesions: LesionVoxels, z: int) -> int:
    """The lesion of one of the voxels of slice z."""
    in_slice = lesions.in_slice(z)
    return int(lesions.of[rng.integers(in_slice.start, in_slice.stop)])


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
