"""Choice of training slices, from the index of the dataset alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from segnet.config import DataConfig
from segnet.errors import InputError

SIZE_EDGES_MM = (6.0, 10.0, 20.0, 30.0)
"""Diameters between size classes of lesions: 6 mm (smaller lung nodules need no follow-up), 10 mm (RECIST measures a lesion from here on),
20 mm, and 30 mm (from here on a mass, not a nodule)."""
BESIDE_MM = 5.0
"""Largest distance of a slice "beside" a lesion from the nearest slice with lesion. A direct neighbour is always beside it."""

Slice = tuple[int, int]
"""Number of a volume in the list, and its slice z."""


class Slices(Sequence[Slice]):
    """Slices of many volumes, eight bytes each: a cohort has millions."""

    def __init__(self, by_volume: Iterable[Sequence[int]]) -> None:
        parts = [np.array([(k, z) for z in slices], np.int32).reshape(-1, 2) for k, slices in enumerate(by_volume)]
        self._at = np.concatenate(parts) if parts else np.zeros((0, 2), np.int32)

    def __len__(self) -> int:
        return len(self._at)

    @overload
    def __getitem__(self, index: int) -> Slice: ...
    @overload
    def __getitem__(self, index: slice) -> list[Slice]: ...
    def __getitem__(self, index: int | slice) -> Slice | list[Slice]:
        if isinstance(index, slice):
            return [(int(k), int(z)) for k, z in self._at[index]]
        volume, z = self._at[index]
        return int(volume), int(z)


@dataclass(frozen=True)
class Contents:
    """Content of a volume.

    Attributes
    ----------
    slices : slices that may be drawn
    lesion_slices : slices with lesion, drawn or not
    lesion_ml : volume of the lesion
    slice_mm : distance between slices
    """

    case: str
    patient: str
    slices: Sequence[int]
    lesion_slices: Sequence[int]
    lesion_ml: float
    slice_mm: float = 1.0

    @property
    def drawn_lesion_slices(self) -> list[int]:
        """Slices with lesion that may be drawn."""
        held = set(self.lesion_slices)
        return [z for z in self.slices if z in held]

    @property
    def drawn_background_slices(self) -> list[int]:
        """Slices without lesion that may be drawn."""
        held = set(self.lesion_slices)
        return [z for z in self.slices if z not in held]


def diameter_mm(volume_ml: float) -> float:
    """Diameter of a ball of that volume."""
    return float(10 * (6 * volume_ml / math.pi) ** (1 / 3))


def size_class(volume_ml: float) -> int:
    """0 for the smallest lesions to 4 for the largest, by `SIZE_EDGES_MM`; a diameter at an edge belongs above it."""
    return int(np.searchsorted(SIZE_EDGES_MM, diameter_mm(volume_ml), side="right"))


def slice_weights(contents: Sequence[Contents], balance: float) -> NDArray[np.float64]:
    """Probability of each slice with lesion, volume after volume.

    A size class is drawn in proportion to n^(1 - balance), with n its number of slices; so is a patient within the class, and a volume
    of the patient. Slices of a volume are equally likely. With balance 0 all slices are equally likely. With balance 1 all classes
    are, and within each its patients, and of each patient the volumes.

    Parameters
    ----------
    balance : 0 to 1
    """
    weights: list[NDArray[np.float64]] = []
    keys = [(size_class(c.lesion_ml), c.patient, k) for k, c in enumerate(contents)]
    counts: dict[tuple[object, ...], int] = {}
    own = [len(c.drawn_lesion_slices) for c in contents]
    for key, n in zip(keys, own, strict=True):
        for level in range(4):
            counts[key[:level]] = counts.get(key[:level], 0) + n
    # the denominators: sums over the parts of each level
    sums: dict[tuple[object, ...], float] = {}
    for part, n in counts.items():
        if part and n > 0:
            sums[part[:-1]] = sums.get(part[:-1], 0.0) + n ** (1 - balance)
    for key, n in zip(keys, own, strict=True):
        share = math.prod(counts[key[: k + 1]] ** (1 - balance) / sums[key[:k]] for k in range(3)) if n else 0.0
        weights.append(np.full(n, share / max(n, 1)))
    return np.concatenate(weights) if weights else np.zeros(0)


@dataclass(frozen=True)
class SliceSampler:
    """Draws slices; the same generator gives the same slices.

    Attributes
    ----------
    lesion, background, beside : slices with lesion; slices without; slices without that lie beside a lesion
    lesion_fraction : share of draws from `lesion`
    beside_fraction : share of draws without lesion that are from `beside`
    cumulative_weights : (len(lesion),) rising to 1; a slice with lesion is drawn by its step. None: all are equally likely
    """

    lesion: Sequence[Slice]
    background: Sequence[Slice]
    beside: Sequence[Slice]
    lesion_fraction: float
    beside_fraction: float = 0.0
    cumulative_weights: NDArray[np.float64] | None = None

    @classmethod
    def of(cls, contents: Sequence[Contents], config: DataConfig) -> SliceSampler:
        """A sampler of volumes by `lesion_fraction`, `balance` and `beside_fraction` of the configuration.

        Raises
        ------
        InputError
            No slice with lesion may be drawn, or a lesion's volume is not positive.
        """
        for c in contents:
            if len(c.lesion_slices) and not (math.isfinite(c.lesion_ml) and c.lesion_ml > 0):
                raise InputError(
                    f"contents: expected a volume of the lesion of {c.case} in ml above 0, got {c.lesion_ml}; measure its mask"
                )
        lesion = Slices(c.drawn_lesion_slices for c in contents)
        if not lesion:
            raise InputError(
                f"contents: expected at least one training case with a slice of lesion, got none in {len(contents)}; prepare more patients"
            )
        background = Slices(c.drawn_background_slices for c in contents)
        near = contents if config.beside_fraction > 0 else ()
        beside = Slices([z for z in c.drawn_background_slices if _lies_beside(c, z)] for c in near)
        cumulative = slice_weights(contents, config.balance).cumsum() if config.balance > 0 else None
        if cumulative is not None:
            cumulative /= cumulative[-1]
        return cls(lesion, background, beside, config.lesion_fraction, config.beside_fraction, cumulative)

    def draw(self, rng: np.random.Generator) -> Slice:
        """One slice."""
        if not self.background or rng.random() < self.lesion_fraction:
            if self.cumulative_weights is None:
                return self.lesion[int(rng.integers(len(self.lesion)))]
            return self.lesion[int(np.searchsorted(self.cumulative_weights, rng.random(), side="right"))]
        near = self.beside_fraction > 0 and self.beside and rng.random() < self.beside_fraction
        pool = self.beside if near else self.background
        return pool[int(rng.integers(len(pool)))]


def _lies_beside(contents: Contents, z: int) -> bool:
    if not len(contents.lesion_slices):
        return False
    steps = int(np.abs(np.asarray(contents.lesion_slices) - z).min())
    return steps == 1 or steps * contents.slice_mm <= BESIDE_MM
