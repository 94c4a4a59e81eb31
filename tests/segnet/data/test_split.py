"""Laws of the splits by patient."""

from __future__ import annotations

import random
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segnet.data.split import kfold_patients, split_patients
from segnet.errors import InputError

names = st.sets(st.text("abc012_", min_size=1, max_size=6), min_size=2, max_size=40)
fractions = st.sampled_from([(0.7, 0.1, 0.2), (0.34, 0.33, 0.33), (0.1, 0.8, 0.1), (0.98, 0.01, 0.01)])


@given(names, fractions, st.integers(0, 9), st.randoms())
def test_parts_are_disjoint_whole_and_not_empty(
    patients: set[str], shares: tuple[float, float, float], seed: int, rnd: random.Random
) -> None:
    split = split_patients(patients, fractions=shares, seed=seed)
    assert list(split) == ["train", "val", "test"]
    assert sorted(chain(*split.values())) == sorted(patients)
    assert all(part == sorted(part) for part in split.values())
    assert split["train"]
    assert split["test"]
    assert bool(split["val"]) == (len(patients) > 2)
    for part, share in zip(split.values(), shares, strict=True):
        # Largest remainder is within one of the exact share; filling the two other parts may take two more.
        assert abs(len(part) - share * len(patients)) < 3

    shuffled = [*patients, *patients]
    rnd.shuffle(shuffled)
    assert split_patients(shuffled, fractions=shares, seed=seed) == split


def test_sizes_follow_the_fractions() -> None:
    for n, sizes in ((100, (70, 10, 20)), (10, (7, 1, 2)), (3, (1, 1, 1)), (2, (1, 0, 1))):
        assert tuple(map(len, split_patients(map(str, range(n)), seed=3).values())) == sizes


def test_a_part_with_fraction_zero_is_empty() -> None:
    split = split_patients(map(str, range(10)), fractions=(0.8, 0.2, 0.0), seed=0)
    assert tuple(map(len, split.values())) == (8, 2, 0)


def test_splits_are_pinned_and_differ_by_seed() -> None:
    patients = [f"p{i}" for i in range(10)]
    # The hash is the same on every machine and for every version of NumPy: another value moves test patients.
    assert split_patients(patients, seed=0)["test"] == ["p2", "p7"]
    assert len({tuple(split_patients(patients, seed=seed)["test"]) for seed in range(10)}) > 5


@given(names, st.integers(2, 10), st.integers(0, 9))
def test_each_patient_is_held_out_once(patients: set[str], k: int, seed: int) -> None:
    if k > len(patients):
        with pytest.raises(InputError, match="folds"):
            kfold_patients(patients, k, seed)
        return
    folds = kfold_patients(patients, k, seed)
    assert len(folds) == k
    assert sorted(chain(*(fold["val"] for fold in folds))) == sorted(patients)
    for fold in folds:
        assert sorted(fold["train"] + fold["val"]) == sorted(patients)
        assert len(patients) // k <= len(fold["val"]) <= -(-len(patients) // k)
    assert kfold_patients(sorted(patients, reverse=True), k, seed) == folds


def test_bad_arguments_are_refused() -> None:
    for patients in ([], ["a"], ["a", "a"]):
        with pytest.raises(InputError, match="at least 2"):
            split_patients(patients, seed=0)
    for shares in ((0.7, 0.1, 0.1), (0.0, 0.5, 0.5), (1.2, -0.4, 0.2), (0.7, 0.3), (float("nan"), 0.5, 0.5)):
        with pytest.raises(InputError, match="fractions"):
            split_patients("ab", fractions=shares, seed=0)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="folds"):
        kfold_patients("ab", 1, 0)
