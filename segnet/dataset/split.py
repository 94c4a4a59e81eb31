"""Splits into training, validation and test, by patient; and the paper's split by slice, which leaks."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping

import numpy as np

from segnet.config import Config
from segnet.dataset.sampling import size_class
from segnet.dataset.store import PreparedCase, PreparedDataset
from segnet.errors import InputError

FILE = "split.json"
"""In a run's folder: cases by part; of the paper's split, slices by part and case."""

_PARTS = ("train", "val", "test")


def make_split(dataset: PreparedDataset, config: Config) -> dict[str, list[str]]:
    """Cases of the training, validation and test patients. With folds, the fold holds the test patients.

    Raises
    ------
    InputError
        `data.folds` is given without `data.fold`, or there are too few patients.
    """
    data, seed = config.data, config.train.seed
    stratum = strata(dataset.cases) if data.split == "stratified" else None
    if data.folds is None:
        parts = split_patients(dataset.patients, stratum=stratum, fractions=data.split_fractions, seed=seed)
    else:
        if data.fold is None:
            raise InputError(
                f"data.fold: expected one of {data.folds} folds, got none; split one configuration of `Config.each_fold`"
            )
        fold = kfold_patients(dataset.patients, data.folds, seed, stratum)[data.fold]
        train, val, _ = data.split_fractions
        fractions = (train / (train + val), val / (train + val), 0.0)
        parts = split_patients(fold["train"], stratum=stratum, fractions=fractions, seed=seed)
        parts["test"] = fold["val"]
    part_of = {patient: part for part, members in parts.items() for patient in members}
    split: dict[str, list[str]] = {part: [] for part in parts}
    for entry in dataset.cases:
        split[part_of[entry.patient]].append(entry.case)
    return {part: sorted(cases) for part, cases in split.items()}


def make_slice_split(dataset: PreparedDataset, config: Config) -> dict[str, dict[str, list[int]]]:
    """Slices of the paper's split, by part and case."""
    return split_slices({entry.case: entry.shape_zyx[0] for entry in dataset.cases}, config.train.seed)


def strata(cases: Iterable[PreparedCase]) -> dict[str, str]:
    """The stratum of each patient: all sets with a case of the patient, and size class of the largest lesion.

    Examples
    --------
    A patient of the set ULS23_Radboudumc_Bone with one lesion of 4 mm is of ``"ULS23_Radboudumc_Bone 0"``.
    """
    sets: dict[str, set[str]] = {}
    largest: dict[str, float] = {}
    for case in cases:
        sets.setdefault(case.patient, set()).add(case.set)
        largest[case.patient] = max(case.lesion_ml, largest.get(case.patient, 0.0))
    return {patient: f"{'+'.join(sorted(held))} {size_class(largest[patient])}" for patient, held in sets.items()}


def split_patients(
    patients: Iterable[str],
    *,
    stratum: Mapping[str, str] | None = None,
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
    seed: int,
) -> dict[str, list[str]]:
    """Splits patients into train, val and test.

    Patients are ordered by a hash of `seed` and their name, so the split is the same on every machine and for every order of the
    input. Sizes follow `fractions` by largest remainder. With three or more patients no part with a fraction above 0 is empty; with
    two, val is empty.

    Parameters
    ----------
    patients : patient ids; repeated ones count once
    stratum : of each patient, from `strata`; every stratum is spread evenly over the parts
    fractions : of train, val and test; they add up to 1

    Returns
    -------
    dict
        "train", "val", "test": disjoint sorted lists that hold every patient.

    Raises
    ------
    InputError
        There are fewer than two patients, or `fractions` are not fractions.

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
        taken = set(chosen)
        left = [patient for patient in left if patient not in taken]
    return {part: out[part] for part in _PARTS}


def _dealt(shuffled: list[str], stratum: Mapping[str, str] | None) -> list[str]:
    """Patients by stratum, in the given order within each."""
    return shuffled if stratum is None else sorted(shuffled, key=lambda patient: stratum[patient])


def _spread(ordered: list[str], count: int) -> list[str]:
    """`count` of them, evenly spaced."""
    return [ordered[int((i + 0.5) * len(ordered) / count)] for i in range(count)]


def split_slices(depths: Mapping[str, int], seed: int) -> dict[str, dict[str, list[int]]]:
    """Splits single slices: a tenth for test, a fifth of the others for validation.

    Neighbours of a test slice look like it and are trained on. Scores on such a test part say nothing about new patients.

    Parameters
    ----------
    depths : number of slices by case

    Returns
    -------
    dict
        "train", "val", "test": slices by case; together every slice once.

    Source: arXiv 2404.17235, section V; its counts (24580, 6145, 3414) are these shares of slices, rounded up.
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
    """Splits patients into `k` folds; each patient is in the "val" of exactly one.

    Parameters
    ----------
    patients, stratum : as in `split_patients`
    k : number of folds, from 2 to the number of patients

    Returns
    -------
    list of dict
        "train" and "val" of each fold: disjoint sorted lists that hold every patient. Folds differ by one patient at most.

    Raises
    ------
    InputError
        `k` is below 2 or above the number of patients.
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
