"""Splits by patient: neighbouring slices or lesions of one patient never lie on both sides."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable

from segnet.errors import InputError

_PARTS = ("train", "val", "test")


def split_patients(
    patients: Iterable[str], *, fractions: tuple[float, float, float] = (0.7, 0.1, 0.2), seed: int
) -> dict[str, list[str]]:
    """Split patients into train, val and test.

    Patients are ordered by a hash of `seed` and their name, so that the split is the same on every machine
    and for every order of the input. Sizes follow `fractions` by largest remainder. With three patients or
    more no part with a fraction above 0 is empty; with two, val is.

    Parameters
    ----------
    patients : patient ids; repeated ones count once
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
    start = 0
    # Test first: the patients held out for it stay the same when only train and val change their shares.
    for part in ("test", "val", "train"):
        size = sizes[_PARTS.index(part)]
        out[part] = sorted(ordered[start : start + size])
        start += size
    return {part: out[part] for part in _PARTS}


def kfold_patients(patients: Iterable[str], k: int, seed: int) -> list[dict[str, list[str]]]:
    """Split patients into `k` folds; each patient is in the "val" of exactly one.

    Parameters
    ----------
    patients : patient ids; repeated ones count once
    k : number of folds, from 2 to the number of patients
    seed : another seed, other folds

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
