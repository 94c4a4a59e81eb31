"""Which slice of which volume is drawn for training, by what is known of each volume without its image."""

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
"""Diameters that part lesions into classes of size: 6 mm, below which a lung nodule needs no follow-up; 10 mm, from which RECIST measures
a lesion; 20 mm; and 30 mm, from which it is a mass and no nodule."""
BESIDE_MM = 5.0
"""How far from the nearest slice with lesion one without still lies beside it; its direct neighbour always does."""

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
    """What a volume holds.

    Attributes
    ----------
    case, patient : names
    slices : those that may be drawn
    lesion_slices : those of the volume that hold lesion
    lesion_ml : volume of the lesion
    slice_mm : from slice to slice
    """

    case: str
    patient: str
    slices: Sequence[int]
    lesion_slices: Sequence[int]
    lesion_ml: float
    slice_mm: float = 1.0

    @property
    def drawn_lesion_slices(self) -> list[int]:
        """Those with lesion that may be drawn."""
        held = set(self.lesion_slices)
        return [z for z in self.slices if z in held]

    @property
    def drawn_background_slices(self) -> list[int]:
        """Those without lesion that may be drawn."""
        held = set(self.lesion_slices)
        return [z for z in self.slices if z not in held]


def diameter_mm(volume_ml: float) -> float:
    """Of the ball of that volume."""
    return float(10 * (6 * volume_ml / math.pi) ** (1 / 3))


def size_class(volume_ml: float) -> int:
    """0 for the smallest lesions to 4 for the largest, by `SIZE_EDGES_MM`; a diameter at an edge belongs above it."""
    return int(np.searchsorted(SIZE_EDGES_MM, diameter_mm(volume_ml), side="right"))


def slice_weights(contents: Sequence[Contents], balance: float) -> NDArray[np.float64]:
    """Probability of each slice with lesion, volumes one behind the other.

    A size class is drawn in proportion to n^(1 - balance), n its slices; so is, within it, a patient, and within the patient a volume;
    of a volume each slice is as likely as another. With balance 0 that is each slice of all as likely as another; with 1 each class, and in it
    each patient, and of the patient each volume.

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
    # of what a level is parted into, the sum that its shares are shares of
    sums: dict[tuple[object, ...], float] = {}
    for part, n in counts.items():
        if part and n > 0:
            sums[part[:-1]] = sums.get(part[:-1], 0.0) + n ** (1 - balance)
    for key, n in zip(keys, own, strict=True):
        share = math.prod(counts[key[: k + 1]] ** (1 - balance) / sums[key[:k]] for k in range(3)) if n else 0.0
        weights.append(np.full(n, share / max(n, 1)))
    return np.concatenate(weights) if weights else np.zeros(0)


@dataclass(frozen=True)
class AliasTable:
    """Draws a number k with probability p[k] in two draws, however many there are (Walker's method, as Vose builds it).

    Attributes
    ----------
    keep : (n,) the share of column k that is k itself
    other : (n,) what the rest of it is
    """

    keep: NDArray[np.float64]
    other: NDArray[np.int64]

    @classmethod
    def of(cls, probabilities: NDArray[np.float64]) -> AliasTable:
        """Of probabilities (n,), in proportion."""
        n = len(probabilities)
        keep = probabilities * (n / probabilities.sum())
        other = np.arange(n)
        low = [k for k in range(n) if keep[k] < 1]
        high = [k for k in range(n) if keep[k] >= 1]
        while low and high:
            small, large = low.pop(), high[-1]
            other[small] = large
            keep[large] -= 1 - keep[small]
            if keep[large] < 1:
                low.append(high.pop())
        for k in low + high:  # what rounding left over
            keep[k] = 1
        return cls(keep, other)

    def draw(self, rng: np.random.Generator) -> int:
        column = int(rng.integers(len(self.keep)))
        return column if rng.random() < self.keep[column] else int(self.other[column])


@dataclass(frozen=True)
class SliceSampler:
    """Draws slices; the same generator gives the same slices.

    Attributes
    ----------
    lesion, background, beside : slices with lesion, without, and, where asked for, of these the ones close beside one with
    lesion_fraction : share of the draws from those with lesion
    beside_fraction : share of the draws without lesion that are from those beside one
    table : which of those with lesion; None: each as likely as another
    """

    lesion: Sequence[Slice]
    background: Sequence[Slice]
    beside: Sequence[Slice]
    lesion_fraction: float
    beside_fraction: float = 0.0
    table: AliasTable | None = None

    @classmethod
    def of(cls, contents: Sequence[Contents], config: DataConfig) -> SliceSampler:
        """Of volumes, by `lesion_fraction`, `balance` and `beside_fraction`.

        Raises
        ------
        InputError
            No slice with lesion may be drawn; or a volume of lesion is none.
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
        table = AliasTable.of(slice_weights(contents, config.balance)) if config.balance > 0 else None
        return cls(lesion, background, beside, config.lesion_fraction, config.beside_fraction, table)

    def draw(self, rng: np.random.Generator) -> Slice:
        """One slice. With `balance` and `beside_fraction` 0 two numbers are drawn, one where all slices hold lesion."""
        if not self.background or rng.random() < self.lesion_fraction:
            return self.lesion[int(rng.integers(len(self.lesion))) if self.table is None else self.table.draw(rng)]
        near = self.beside_fraction > 0 and self.beside and rng.random() < self.beside_fraction
        pool = self.beside if near else self.background
        return pool[int(rng.integers(len(pool)))]


def _lies_beside(contents: Contents, z: int) -> bool:
    if not len(contents.lesion_slices):
        return False
    steps = int(np.abs(np.asarray(contents.lesion_slices) - z).min())
    return steps == 1 or steps * contents.slice_mm <= BESIDE_MM
