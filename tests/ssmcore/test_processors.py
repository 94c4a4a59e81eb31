"""The processor count follows affinity and cgroups, and no bit of a result depends on it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from tempfile import gettempdir

import numpy as np
import pytest

import ssmcore
from ssmcore import _processors

GRADIENTS = """
import hashlib, os
os.cpu_count = os.process_cpu_count = lambda: {count}
os.sched_getaffinity = lambda pid: set(range({count}))
import numpy as np, ssmcore
rng = np.random.default_rng(0)
batch, dim, length, dstate = 4, 384, 65, 3
u, delta, dout = (rng.standard_normal((batch, dim, length), np.float32) for _ in range(3))
A = -rng.random((dim, dstate), np.float32)
B, C = (rng.standard_normal((batch, dstate, length), np.float32) for _ in range(2))
grads = ssmcore.selective_scan_vjp(dout, u, delta, A, B, C, delta_softplus=True, backend="{backend}")
print(hashlib.sha256(b"".join(g.tobytes() for g in grads if g is not None)).hexdigest())
"""


@pytest.mark.parametrize("backend", ["cython", "numba"])
def test_gradients_do_not_depend_on_the_number_of_processors(backend: str) -> None:
    environment = {k: v for k, v in os.environ.items() if "NUM_THREADS" not in k}
    programs = [GRADIENTS.format(count=count, backend=backend) for count in (2, 64)]
    few, many = (
        subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
            cwd=gettempdir(),
        ).stdout
        for program in programs
    )
    assert few == many


@pytest.mark.parametrize("backend", ["cython", "numba"])
def test_a_scan_does_not_depend_on_the_number_of_threads(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSMCORE_WORK_PER_THREAD", "1")
    rng = np.random.default_rng(0)
    u, delta = (rng.standard_normal((2, 200, 70)).astype(np.float32) for _ in range(2))
    A = -rng.random((200, 3)).astype(np.float32)
    B, C = (rng.standard_normal((2, 3, 70)).astype(np.float32) for _ in range(2))
    results = [
        ssmcore.selective_scan(u, delta, A, B, C, delta_softplus=True, backend=backend, num_threads=n)
        for n in (1, 2, 64)
    ]
    assert all(np.array_equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/cpu.max": "max 1\n",
                "sys/fs/cgroup/a/cpu.max": "3 1\n",
            },
            3,
        ),
        (
            {"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "4 1\n", "sys/fs/cgroup/a/cpu.max": "9 1\n"},
            4,
        ),
        # a container whose own group lies at the top
        ({"proc/self/cgroup": "0::/docker/1f\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        (
            {
                "proc/self/cgroup": "4:memory:/a\n2:cpu,cpuacct:/a\n0::/\n",
                "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "250000\n",
                "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "nonsense\n"}, None),
    ],
)
def test_quotas_of_cgroups(files: dict[str, str], wanted: int | None, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert _processors.cgroup_processors(tmp_path) == wanted


def test_a_system_without_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sched_getaffinity", "process_cpu_count"):
        monkeypatch.delattr(os, name, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    monkeypatch.setattr(_processors, "_quota", lambda: 99)
    assert ssmcore.available_processors() == 3
    monkeypatch.setattr(_processors, "_quota", lambda: 2)
    assert ssmcore.available_processors() == 2


@pytest.mark.parametrize("flush", [False, True])
def test_denormals_do_not_depend_on_the_number_of_threads(flush: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program may let its thread round denormals to zero, as `torch.set_flush_denormal` does."""
    torch = pytest.importorskip("torch")
    monkeypatch.setenv("SSMCORE_WORK_PER_THREAD", "1")
    u = np.full((1, 512, 2000), 1e-30, np.float32)
    small, A = np.full((1, 4, 2000), 1e-5, np.float32), -np.ones((512, 4), np.float32)
    assert torch.set_flush_denormal(flush)
    try:
        one, *several = (
            ssmcore.selective_scan(u, u + 0.1, A, small, small, backend="cython", num_threads=n) for n in (1, 2, 8)
        )
    finally:
        torch.set_flush_denormal(False)
    assert all(np.array_equal(one, other) for other in several)
    assert (one == 0).all() if flush else (one != 0).all(), one
