"""Splits by patient: neighbouring slices or lesions of one patient never lie on both sides. And the one that does not, to show what it hides."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from segnet.dataset.sampling import size_class
from segnet.errors import InputError

if TYPE_CHECKING:
    from segnet.dataset.prepared import PreparedCase

FILE = "split.json"
"""Of a run's folder: cases by part, or, by the paper's split, slices by part and case."""

_PARTS = ("train", "val", "test")


def strata(cases: Iterable[PreparedCase]) -> dict[str, str]:
    """The stratum of each patient: his set, and the size class of his largest lesion.

    Examples
    --------
    A patient of the set ULS23_Radboudumc_Bone with one lesion of 4 mm is of ``"ULS23_Radboudumc_Bone 0"``.
    """
    largest: dict[str, tuple[float, str]] = {}
    for case in cases:
        size = (case.lesion_ml, case.set)
        largest[case.patient] = max(size, largest.get(case.patient, size))
    return {patient: f"{name} {size_class(lesion_ml)}" for patient, (lesion_ml, name) in largest.items()}


def split_patients(
    patients: Iterable[str],
    *,
    stratum: Mapping[str, str] | None = None,
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
    seed: int,
) -> dict[str, list[str]]:
    """Split patients into train, val and test.

    Patients are ordered by a hash of `seed` and their name, so that the split is the same on every machine
    and for every order of the input. Sizes follow `fractions` by largest remainder. With three patients or
    more no part with a fraction above 0 is empty; with two, val is.

    Parameters
    ----------
    patients : patient ids; repeated ones count once
    stratum : of each patient, as `strata` gives it: each stratum is dealt out by itself, in turns that go on from one to the next
    fractions : of train, val and test; they add up to 1
    seed : another seed, another split

    Returns
    -------
    dict
        "train", "val", "test": disjoint sorted lists that hold every patient.

    Raises
    ------
    InputError
        If there are fewer than two patients, or the fractions are no fractions.

    Examples
    --------
    >>> {part: len(names) for part, names in split_patients(map(str, range(10)), seed=0).items()}
    {'train': 7, 'val': 1, 'test': 2}
    """
    ordered = _shuffled(patients, seed)
    adds_up = len(fractions) == 3 and abs(sum(fractions) - 1) < 1e-6
    if not (adds_up and fractions[0] > 0 and min(fractions) >= 0):
        raise InputError(
            f"fractions: expected train > 0, val >= 0, test >= 0 that add up to 1, got {fractions}; use (0.7, 0.1, 0.2)"
        )
    if len(ordered) < 2:
        raise InputError(f"patients: expected at least 2 to split, got {len(ordered)}; add cases of other patients")
    sizes = _sizes(len(ordered), fractions)
    out: dict[str, list[str]] = {}
    # Test first: the patients held out for it stay the same when only train and val change their shares.
    left = _dealt(ordered, stratum)
    for part in ("test", "val", "train"):
        size = sizes[_PARTS.index(part)]
        chosen = left[:size] if stratum is None else _spread(left, size)
        out[part] = sorted(chosen)
        left = [patient for patient in left if patient not in set(chosen)]
    return {part: out[part] for part in _PARTS}


def _dealt(shuffled: list[str], stratum: Mapping[str, str] | None) -> list[str]:
    """Patients by stratum, within one in the order they come."""
    return shuffled if stratum is None else sorted(shuffled, key=lambda patient: stratum[patient])


def _spread(ordered: list[str], count: int) -> list[str]:
    """So many, evenly spaced."""
    return [ordered[int((i + 0.5) * len(ordered) / count)] for i in range(count)]


def split_slices(depths: Mapping[str, int], seed: int) -> dict[str, dict[str, list[int]]]:
    """Split single slices, as the sample counts of the paper betray: a tenth for test, a fifth of the others for validation.

    Neighbours of a test slice, which look like it, are trained on: scores on such a test part say nothing about new patients.

    Parameters
    ----------
    depths : number of slices by case
    seed : another seed, another split

    Returns
    -------
    dict
        "train", "val", "test": slices by case; together every slice once.

    Source: arXiv 2404.17235, V, whose counts (24580, 6145, 3414) are these shares, rounded up, of slices.
    """
    every = [(case, z) for case, depth in sorted(depths.items()) for z in range(depth)]
    order = np.random.default_rng(seed).permutation(len(every))
    test = math.ceil(len(every) / 10)
    val = test + math.ceil((len(every) - test) / 5)
    out: dict[str, dict[str, list[int]]] = {}
    for part, chosen in (("train", order[val:]), ("val", order[test:val]), ("test", order[:test])):
        of: dict[str, list[int]] = {}
        for case, z in sorted(every[i] for i in chosen):
            of.setdefault(case, []).append(z)
        out[part] = of
    return out


def kfold_patients(
    patients: Iterable[str], k: int, seed: int, stratum: Mapping[str, str] | None = None
) -> list[dict[str, list[str]]]:
    """Split patients into `k` folds; each patient is in the "val" of exactly one.

    Parameters
    ----------
    patients : patient ids; repeated ones count once
    k : number of folds, from 2 to the number of patients
    seed : another seed, other folds
    stratum : as in `split_patients`

    Returns
    -------
    list of dict
        For each fold "train" and "val": disjoint sorted lists that hold every patient. The sizes of two folds
        differ by one patient at most.

    Raises
    ------
    InputError
        If `k` is below 2 or above the number of patients.
    """
    ordered = _shuffled(patients, seed)
    if not 2 <= k <= len(ordered):
        raise InputError(
            f"k: expected 2 to {len(ordered)} folds for {len(ordered)} patients, got {k}; "
            "take fewer folds or add patients"
        )
    ordered = _dealt(ordered, stratum)
    held_out = [set(ordered[fold::k]) for fold in range(k)]
    return [{"train": sorted(set(ordered) - val), "val": sorted(val)} for val in held_out]


def _shuffled(patients: Iterable[str], seed: int) -> list[str]:
    return sorted(set(patients), key=lambda p: (hashlib.sha256(f"{seed}:{p}".encode()).digest(), p))


def _sizes(n: int, fractions: tuple[float, float, float]) -> list[int]:
    exact = [n * f / sum(fractions) for f in fractions]
    sizes = [math.floor(e + 1e-9) for e in exact]
    by_remainder = sorted(range(3), key=lambda i: (sizes[i] - exact[i], i))
    for i in by_remainder[: n - sum(sizes)]:
        sizes[i] += 1
    for i in (0, 2, 1):  # train, then test, then val: the order in which they may not be empty
        if sizes[i] == 0 and fractions[i] > 0:
            donor = max((1, 0, 2), key=lambda j: sizes[j])  # among equals val gives first
            if sizes[donor] > 1 or (donor == 1 and i != 1):
                sizes[donor] -= 1
                sizes[i] += 1
    return sizes
