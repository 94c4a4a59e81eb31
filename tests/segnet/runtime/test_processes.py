"""Work over processes: every item once, one that fails or kills its process alone, few ahead, on Dask too."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
from squares import square

from segnet.errors import InputError
from segnet.runtime.processes import AHEAD, each


@pytest.mark.parametrize("workers", [1, 2])
def test_each_item_is_done_once_and_a_bad_one_harms_no_other(workers: int) -> None:
    items = [i for i in range(12) if workers > 1 or i != 5]
    found = dict(each(square, items, workers=workers))
    assert sorted(found) == items
    for item, outcome in found.items():
        if item in (3, 5):
            assert isinstance(outcome, InputError)
            assert ("three" if item == 3 else "killed") in str(outcome)
        else:
            assert outcome == item * item


def test_no_item_is_lost_where_a_process_dies_while_results_are_looked_at() -> None:
    """Between two results the pool is found broken only when the next item is handed to it."""
    found = []
    for item, _ in each(square, range(12), workers=2):
        time.sleep(0.3)
        found.append(item)
    assert sorted(found) == list(range(12))


def test_items_are_taken_as_they_are_needed() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for item in range(100, 140):
            taken += 1
            yield item

    for done, _ in enumerate(each(square, items(), workers=2), 1):
        assert taken <= done + 2 * AHEAD


def test_dask_does_the_same() -> None:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    ) as cluster:
        found: dict[int, Any] = dict(each(square, [1, 2, 3], scheduler=cluster.scheduler_address))
    assert (found[1], found[2]) == (1, 4)
    assert isinstance(found[3], InputError)


def test_a_scheduler_that_is_not_there_is_named() -> None:
    pytest.importorskip("distributed")
    with pytest.raises(InputError, match="scheduler: expected the address"):
        list(each(square, [1], scheduler="nonsense://nowhere"))


def test_workers_bound_the_spin_of_openmp(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before they import torch, and unless the user has chosen."""
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    assert dict(each(os.getenv, ["GOMP_SPINCOUNT"], workers=2)) == {"GOMP_SPINCOUNT": "3000"}
    monkeypatch.setenv("GOMP_SPINCOUNT", "77")
    assert dict(each(os.getenv, ["GOMP_SPINCOUNT"], workers=2)) == {"GOMP_SPINCOUNT": "77"}
