"""Shared fixtures: the backends that run here, poisoned memory, and the folder of real images."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from pathlib import Path

# workers side by side get a thread each of torch and BLAS, which read these when they are loaded
if "PYTEST_XDIST_WORKER" in os.environ:
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

PERTURB = -6
"""M_PERTURB of glibc's malloc.h."""

# the tests' sizes are small, and several threads are to run on them where several are asked for
os.environ["SSMCORE_WORK_PER_THREAD"] = "1"

# torch's OpenMP threads sleep soon at a barrier, as those of the command line do: tests run side by side
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")

settings.register_profile("default", deadline=None, max_examples=30, derandomize=bool(os.environ.get("CI")))
settings.register_profile("thorough", deadline=None, max_examples=400, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

FAST = ("cython", "numba", "torch")
"""Backends held to the reference. Each must run here, or its tests fail: none is passed over in silence."""


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("SSMCORE_BACKEND"):
        raise pytest.UsageError("SSMCORE_BACKEND is set: the tests choose backends themselves; unset it")


@pytest.fixture(params=FAST)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=("numpy", *FAST))
def any_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Memory that numpy.empty returns holds NaN, and that of malloc large numbers, so that what a kernel leaves unset shows."""
    empty = np.empty

    def filled(*args: object, **kwargs: object) -> np.ndarray:
        array = empty(*args, **kwargs)  # type: ignore[call-overload]
        if array.dtype.kind == "f":
            array.fill(np.nan)
        elif array.dtype == np.uint8:
            array.fill(0xFF)  # raw memory, whose bytes make NaN of any float
        return array

    from ssmcore.backends import _results

    poisoned_numpy = type(np)("numpy")
    poisoned_numpy.__dict__.update(np.__dict__)
    poisoned_numpy.empty = filled  # type: ignore[attr-defined]
    monkeypatch.setattr(_results, "np", poisoned_numpy)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        yield
        return
    mallopt(
        PERTURB, 0x80
    )  # memory of the compiled kernels: glibc fills it with the complement, 0x7f, which is 3e38 as float32
    yield
    mallopt(PERTURB, 0)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240426)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """A folder of this name that all workers of the run share: the first to ask for it fills it, the others wait."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent

    def shared(name: str, fill: Callable[[Path], object]) -> Path:
        folder, filled = base / f"shared-{name}", base / f"shared-{name}.filled"
        with FileLock(base / f"shared-{name}.lock"):
            if not filled.exists():
                folder.mkdir()
                fill(folder)
                filled.touch()
        return folder

    return shared


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real images: the folder SEGNET_DATA names, or ../shared/data beside the repository."""
    root = Path(os.environ.get("SEGNET_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not (root / "lidc").is_dir():
        pytest.skip(f"no real images in {root}; set SEGNET_DATA")
    return root
