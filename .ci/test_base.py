"""The base package alone. Run by .ci/base, in an environment that holds NumPy, pytest and this package."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ssmcore

EXPECTED_BACKEND = os.environ["EXPECTED_BACKEND"]
OPTIONAL = ("torch", "scipy", "numba", "monai", "cython", "typer")
OPERATIONS = [name.removesuffix("_vjp") for name in ssmcore.__all__ if name.endswith("_vjp")] + ["ssm_recurrence"]

pytestmark = pytest.mark.filterwarnings("ignore:.*slow reference:UserWarning")


def values(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


SCAN = {
    "u": values(1, 3, 5),
    "delta": values(1, 3, 5),
    "A": -np.exp(values(3, 2)),
    "B": values(1, 2, 5),
    "C": values(1, 2, 5),
    "delta_softplus": True,
}
GRID = {
    "x": values(1, 3, 4, 2),
    "delta": values(1, 3, 4, 4, 2),
    "A": -np.exp(values(4, 2, 3)),
    "B": values(1, 3, 4, 4, 3),
    "C": values(1, 3, 4, 4, 3),
    "delta_softplus": True,
}
CHUNKS = {
    "x": values(1, 5, 2, 3),
    "dt": np.exp(values(1, 5, 2)),
    "A": -np.exp(values(2)),
    "B": values(1, 5, 1, 4),
    "C": values(1, 5, 1, 4),
}
CONVOLUTION = {"x": values(1, 3, 5), "weight": values(3, 4), "bias": values(3), "activation": "silu"}
GRID_CONVOLUTION = {"x": values(1, 4, 5, 3), "weight": values(3, 3, 3), "bias": values(3), "activation": "silu"}
GATE = {
    "x": values(1, 3, 4, 2),
    "theta": values(1, 3, 4, 3),
    "phi": values(1, 5, 4, 3),
    "theta_weight": values(3),
    "phi_weight": values(3),
    "shift": values(3),
    "psi": values(3),
    "psi_weight": values(1),
    "psi_shift": values(1),
}
SYSTEM = {"A_bar": np.full(2, 0.5), "B_bar": values(2), "C": values(2)}
STEP = {
    "x": values(1, 3),
    "dt": values(1, 3),
    "A": SCAN["A"],
    "B": values(1, 2),
    "C": values(1, 2),
    "dt_softplus": True,
}


def library() -> None:
    """Where the C library lies, or, where it was not built, an error that says so."""
    if EXPECTED_BACKEND == "cython":
        assert Path(ssmcore.get_library()).is_file()
        return
    with pytest.raises(FileNotFoundError, match="it was not built"):
        ssmcore.get_library()


CALLS: dict[str, Callable[[], Any]] = {
    "discretize": lambda: ssmcore.discretize(SCAN["A"], values(3, 2), np.full(3, 0.1)),
    "discretize_vjp": lambda: ssmcore.discretize_vjp(
        np.ones((3, 2)), np.ones((3, 2)), SCAN["A"], values(3, 2), np.full(3, 0.1)
    ),
    "selective_scan": lambda: ssmcore.selective_scan(**SCAN),
    "selective_scan_vjp": lambda: ssmcore.selective_scan_vjp(np.ones((1, 3, 5)), **SCAN),
    "ss2d": lambda: ssmcore.ss2d(**GRID),
    "ss2d_vjp": lambda: ssmcore.ss2d_vjp(np.ones((1, 3, 4, 2)), **GRID),
    "cross_scan": lambda: ssmcore.cross_scan(values(1, 3, 4, 2)),
    "cross_merge": lambda: ssmcore.cross_merge(values(1, 4, 12, 2), 3, 4),
    "chunk_scan": lambda: ssmcore.chunk_scan(**CHUNKS),
    "chunk_scan_vjp": lambda: ssmcore.chunk_scan_vjp(np.ones((1, 5, 2, 3)), **CHUNKS),
    "causal_conv1d": lambda: ssmcore.causal_conv1d(**CONVOLUTION),
    "causal_conv1d_vjp": lambda: ssmcore.causal_conv1d_vjp(np.ones((1, 3, 5)), **CONVOLUTION),
    "depthwise_conv2d": lambda: ssmcore.depthwise_conv2d(**GRID_CONVOLUTION),
    "depthwise_conv2d_vjp": lambda: ssmcore.depthwise_conv2d_vjp(np.ones((1, 4, 5, 3)), **GRID_CONVOLUTION),
    "attention_gate": lambda: ssmcore.attention_gate(**GATE),
    "attention_gate_vjp": lambda: ssmcore.attention_gate_vjp(np.ones((1, 3, 4, 2)), **GATE),
    "gate_crop": lambda: ssmcore.gate_crop(values(2, 5, 5), (3, 3)),
    "gate_crop_vjp": lambda: ssmcore.gate_crop_vjp(values(2, 3, 3), (5, 5)),
    "ssm_recurrence": lambda: ssmcore.ssm_recurrence(**SYSTEM, u=values(1, 6)),
    "ssm_kernel": lambda: ssmcore.ssm_kernel(**SYSTEM, length=6),
    "ssm_convolve": lambda: ssmcore.ssm_convolve(values(1, 6), ssmcore.ssm_kernel(**SYSTEM, length=6)),
    "selective_state_update": lambda: ssmcore.selective_state_update(np.zeros((1, 3, 2)), **STEP),
    "causal_conv1d_update": lambda: ssmcore.causal_conv1d_update(values(1, 3), np.zeros((1, 3, 3)), values(3, 4)),
    "hippo": lambda: ssmcore.hippo("legs", 4),
    "s4d_diagonal": lambda: ssmcore.s4d_diagonal("lin", 4),
    "explain": lambda: ssmcore.explain("selective_scan"),
    "cpu_features": lambda: ssmcore.cpu_features(),
    "available_processors": lambda: ssmcore.available_processors(),
    "backend_names": lambda: ssmcore.backend_names(),
    "use_backend": lambda: ssmcore.use_backend("numpy"),
    "get_include": lambda: (Path(ssmcore.get_include()) / "ssmcore.h").read_text(),
    "get_library": library,
}
WITHOUT_ARRAYS = (
    "available_processors",
    "backend_names",
    "cpu_features",
    "explain",
    "get_include",
    "get_library",
    "use_backend",
)


def arrays_of(result: Any) -> list[np.ndarray]:
    if isinstance(result, np.ndarray):
        return [result]
    return [array for part in result for array in arrays_of(part)] if isinstance(result, tuple) else []


def test_numpy_is_all_that_is_installed_with_it() -> None:
    needed = [line for line in requires("ssmcore") or () if "extra ==" not in line]
    assert [re.match(r"[\w-]+", line).group() for line in needed] == ["numpy"]  # type: ignore[union-attr]
    assert not [name for name in OPTIONAL if importlib.util.find_spec(name)]


def test_every_public_function_is_called_here() -> None:
    functions = {name for name in ssmcore.__all__ if not isinstance(getattr(ssmcore, name), type)}
    assert functions == set(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_every_public_function_runs_and_gives_the_reference(name: str) -> None:
    found = arrays_of(CALLS[name]())
    with ssmcore.use_backend("numpy"):
        reference = arrays_of(CALLS[name]())
    assert found or name in WITHOUT_ARRAYS
    for got, wanted in zip(found, reference, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_explain_names_the_backend_and_what_was_passed_over(operation: str) -> None:
    choice = ssmcore.explain(operation)
    assert choice.backend == EXPECTED_BACKEND
    passed_over = {"cython": [], "numpy": ["cython", "numba"]}[EXPECTED_BACKEND]
    assert [name for name, _ in choice.skipped] == passed_over
    assert all(re.search("No module named|cannot import name", reason) for _, reason in choice.skipped)


def test_the_first_call_on_the_slow_reference_says_so_once() -> None:
    program = (
        "import numpy as np, ssmcore, warnings\n"
        "warnings.simplefilter('always')\n"
        "for _ in range(2): ssmcore.gate_crop(np.ones((3, 3)), (1, 1))\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stderr.count("slow reference") == (EXPECTED_BACKEND == "numpy")
    assert ("ssmcore[numba]" in run.stderr) == (EXPECTED_BACKEND == "numpy")


def test_the_readmes_kernels_run(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for example in re.findall(r"```python\n(.*?)```", Path(os.environ["README"]).read_text(), re.DOTALL):
        exec(example.replace("4096", "16"), names)
    assert f"selective_scan: {EXPECTED_BACKEND}" in capsys.readouterr().out


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_a_backend_that_is_not_installed_is_refused_with_the_reason(backend: str) -> None:
    with pytest.raises(ssmcore.BackendError, match=f"{backend!r}, named by argument, cannot run: .*No module named"):
        ssmcore.gate_crop(values(3, 3), (1, 1), backend=backend)


def test_a_wrong_argument_is_named_with_expectation_value_and_remedy() -> None:
    with pytest.raises(ssmcore.ArgumentError, match=r"delta: expected shape \(1, 3, 5\).*got \(1, 5, 3\); .+"):
        ssmcore.selective_scan(**{**SCAN, "delta": values(1, 5, 3)})


def test_importing_and_running_warns_of_nothing_but_speed() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*slow reference")
        for call in CALLS.values():
            call()


def test_threads_are_an_option() -> None:
    one, two = (ssmcore.selective_scan(**SCAN, num_threads=n) for n in (1, 2))
    assert np.array_equal(one, two)
