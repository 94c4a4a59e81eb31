"""Laws of the splits by patient."""

from __future__ import annotations

import random
from collections import Counter
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segnet.config import Config, PrepareConfig
from segnet.dataset.split import kfold_patients, make_split, split_patients, split_slices
from segnet.dataset.store import PreparedCase, PreparedDataset
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


def test_folds_and_slices_follow_the_seed() -> None:
    patients = [f"p{i}" for i in range(12)]
    for split in (lambda seed: kfold_patients(patients, 3, seed), lambda seed: split_slices({"a": 30, "b": 40}, seed)):
        assert split(0) == split(0)
        assert len({repr(split(seed)) for seed in range(5)}) == 5


def test_bad_arguments_are_refused() -> None:
    for patients in ([], ["a"], ["a", "a"]):
        with pytest.raises(InputError, match="at least 2"):
            split_patients(patients, seed=0)
    for shares in ((0.7, 0.1, 0.1), (0.0, 0.5, 0.5), (1.2, -0.4, 0.2), (0.7, 0.3), (float("nan"), 0.5, 0.5)):
        with pytest.raises(InputError, match="fractions"):
            split_patients("ab", fractions=shares, seed=0)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="folds"):
        kfold_patients("ab", 1, 0)


def test_strata_are_spread_over_parts_and_folds() -> None:
    """With 30, 12 and 6 patients in three strata, each fold of three has 10, 4 and 2, and a fifth of each stratum is for test, within one."""
    stratum = {f"{name}{i}": name for name, n in (("a", 30), ("b", 12), ("c", 6)) for i in range(n)}
    for seed in range(5):
        for fold in kfold_patients(stratum, 3, seed, stratum):
            assert Counter(stratum[p] for p in fold["val"]) == {"a": 10, "b": 4, "c": 2}
        split = split_patients(stratum, stratum=stratum, seed=seed)
        assert sorted(chain(*split.values())) == sorted(stratum)
        of = Counter(stratum[p] for p in split["test"])
        for name, n in (("a", 30), ("b", 12), ("c", 6)):
            assert abs(of[name] - 0.2 * n) < 1
    assert len({tuple(split_patients(stratum, stratum=stratum, seed=seed)["test"]) for seed in range(5)}) == 5


def test_test_patients_stay_when_the_others_change_their_shares() -> None:
    stratum = {f"p{i}": str(i % 3) for i in range(40)}
    first, second = (
        split_patients(stratum, stratum=stratum, fractions=(0.8 - val, val, 0.2), seed=1) for val in (0.1, 0.3)
    )
    assert first["test"] == second["test"]
    assert first["val"] != second["val"]


@given(st.dictionaries(st.text("ab", min_size=1), st.integers(1, 40), min_size=1), st.integers(0, 3))
def test_slices_are_dealt_once_in_the_shares_of_the_paper(depths: dict[str, int], seed: int) -> None:
    parts = split_slices(depths, seed)
    every = [(case, z) for part in parts.values() for case, zs in part.items() for z in zs]
    assert sorted(every) == sorted((case, z) for case, depth in depths.items() for z in range(depth))
    n = len(every)
    n_test, n_val = (sum(map(len, parts[part].values())) for part in ("test", "val"))
    assert n_test == -(-n // 10)
    assert n_val == -(-(n - n_test) // 5)


def test_the_counts_of_the_paper_are_those_of_slices() -> None:
    for counts in ((24580, 6145, 3414), (62339, 15585, 8659), (9760, 2440, 1356)):
        parts = split_slices({"all": sum(counts)}, 0)
        assert tuple(len(parts[part]["all"]) for part in ("train", "val", "test")) == counts


class Counted(str):
    """A name that counts how often it is hashed."""

    hashed = 0

    def __hash__(self) -> int:
        Counted.hashed += 1
        return super().__hash__()


def dataset_of(patients: int, lesions: int) -> PreparedDataset:
    """Cases without files, the patients' sizes spread over the classes."""
    cases = [
        PreparedCase.model_construct(
            case=f"p{p}_{k}", patient=Counted(f"p{p}"), set="a", lesion_ml=0.01 * 2 ** (p % 12), shape_zyx=(4, 4, 4)
        )
        for p in range(patients)
        for k in range(lesions)
    ]
    return PreparedDataset(Path(), PrepareConfig(), tuple(cases))


@pytest.mark.parametrize("data", [{}, {"split": "patient"}, {"folds": 3, "fold": 1}])
def test_the_work_of_a_split_grows_with_the_number_of_cases(data: dict[str, object]) -> None:
    config = Config.model_validate({"data": data})
    hashes = []
    for patients in (200, 400):
        dataset = dataset_of(patients, 3)
        Counted.hashed = 0
        split = make_split(dataset, config)
        hashes.append(Counted.hashed)
        assert sorted(chain(*split.values())) == sorted(entry.case for entry in dataset.cases)
    assert hashes[1] < 2.5 * hashes[0]


def test_a_large_dataset_is_split_by_patient() -> None:
    dataset = dataset_of(13_000, 3)
    split = make_split(dataset, Config())
    assert [len(cases) for cases in split.values()] == [27_300, 3_900, 7_800]
    patients = [{case.partition("_")[0] for case in cases} for cases in split.values()]
    assert len(set.union(*patients)) == sum(map(len, patients)) == 13_000
