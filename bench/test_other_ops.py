"""Discretisation and gate crop, beside plain NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from oracles import relative_error

import ssmcore
from ssmcore.ops import SPECS


@pytest.mark.parametrize("backend", ["cython", "numba", "numpy"])
def test_discretize(backend: str, measure: Any) -> None:
    spec = SPECS["discretize"]
    case = spec.benchmarks[0].make(np.random.default_rng(0), np.float32)
    wide = {k: v.astype(np.float64) if isinstance(v, np.ndarray) else v for k, v in case.items()}

    def run() -> Any:
        return ssmcore.discretize(**case, backend=backend)

    result = run()[1]
    error = relative_error(result, ssmcore.discretize(**wide)[1])
    measure(run, elements=result.size, error=error, tolerance=spec.forward.float32, rounds=5)


@pytest.mark.parametrize("backend", ["cython", "numba", "numpy"])
def test_gate_crop(backend: str, measure: Any) -> None:
    case = SPECS["gate_crop"].benchmarks[0].make(np.random.default_rng(0), np.float32)

    def run() -> Any:
        return ssmcore.gate_crop(**case, backend=backend)

    reference = np.ascontiguousarray(case["g"][..., 1:-1, 1:-1])
    measure(run, elements=reference.size, error=relative_error(run(), reference), tolerance=0.0)
