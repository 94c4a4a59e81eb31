"""A child finishes whatever its parent ran on threads before: torch, numba, ssmcore or all three."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest

BEFORE = ("torch", "numba", "ssmcore")
PROGRAM = """
import multiprocessing, os, signal, sys
import numpy as np
import ssmcore

sequence, matrix = np.ones((1, 512, 1024), np.float32), np.ones((1, 16, 1024), np.float32)
CASE = {"u": sequence, "delta": 0.01 * sequence, "A": -np.ones((512, 16), np.float32), "B": matrix, "C": matrix}


def scan(backend):
    signal.alarm(60)
    return ssmcore.selective_scan(**CASE, num_threads=2, backend=backend)


def main(method, backend, used):
    if "torch" in used:
        import torch
        import ssmcore.torch  # kernels run on torch's threads
        torch.set_num_threads(2)
        torch.ones(1 << 22).exp().sum()
    if "numba" in used:
        import numba
        @numba.njit(parallel=True)
        def double(x):
            for i in numba.prange(len(x)):
                x[i] *= 2
        numba.set_num_threads(2)
        double(np.ones(1 << 20))
    wanted = scan("cython") if "ssmcore" in used else None
    if method == "dataloader":
        import torch
        class Data(torch.utils.data.Dataset):
            def __len__(self):
                return 4
            def __getitem__(self, index):
                return torch.from_numpy(scan(backend))
        found = [batch.numpy() for batch in torch.utils.data.DataLoader(Data(), batch_size=None, num_workers=2)]
    else:
        with multiprocessing.get_context(method).Pool(2) as pool:
            found = pool.map_async(scan, [backend] * 4).get(timeout=100)
    assert len(found) == 4
    if wanted is not None and backend == "cython":
        assert all(np.array_equal(one, wanted) for one in found)
        assert np.array_equal(scan("cython"), wanted)  # the parent keeps its threads
    print("done")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
"""


def run(tmp_path: Path, *arguments: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    found = subprocess.run(
        [sys.executable, str(program), *arguments],
        capture_output=True,
        text=True,
        timeout=150,
        cwd=tmp_path,
        check=False,
    )
    assert found.stdout.split() == ["done"], found.stderr[-2000:]


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system does not fork")
@pytest.mark.parametrize("used", [pair for n in (1, 3) for pair in combinations(BEFORE, n)], ids="+".join)
@pytest.mark.parametrize("method", ["fork", "dataloader"])
def test_a_forked_child_finishes(method: str, used: tuple[str, ...], tmp_path: Path) -> None:
    run(tmp_path, method, "cython", *used)


def test_a_forked_child_finishes_on_numba(tmp_path: Path) -> None:
    run(tmp_path, "fork", "numba", *BEFORE)


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_started_child_finishes(method: str, tmp_path: Path) -> None:
    run(tmp_path, method, "cython", *BEFORE)
