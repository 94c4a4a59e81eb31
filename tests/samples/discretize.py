"""Samples of `discretize`."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from ssmcore import ArgumentError

from .record import Case, ErrorSample, Sample, Samples


def _diagonal(
    rng: np.random.Generator, dtype: Any, *, shape: tuple[int, ...] = (5,), dstate: int = 4, **options: Any
) -> Case:
    return {
        "A": (-np.exp(rng.uniform(-2, 2, (*shape[-1:], dstate)))).astype(dtype),
        "B": rng.standard_normal((*shape[-1:], dstate)).astype(dtype),
        "delta": np.exp(rng.uniform(-6, 0, shape)).astype(dtype),
        "structure": "diagonal",
        **options,
    }


def _dense(
    rng: np.random.Generator,
    dtype: Any,
    *,
    shape: tuple[int, ...] = (3,),
    dstate: int = 4,
    inputs: int = 2,
    **options: Any,
) -> Case:
    skew = rng.standard_normal((dstate, dstate))
    return {
        "A": (skew - skew.T - np.eye(dstate)).astype(dtype),
        "B": rng.standard_normal((dstate, inputs)).astype(dtype),
        "delta": np.exp(rng.uniform(-3, 0, shape)).astype(dtype),
        "structure": "dense",
        **options,
    }


def _complex(rng: np.random.Generator, dtype: Any, *, structure: str, **options: Any) -> Case:
    """A and B turned into the complex plane, delta real."""
    case = (_diagonal if structure == "diagonal" else _dense)(rng, dtype, **options)
    wide = np.result_type(dtype, np.complex64)
    return case | {
        name: (case[name] + 1j * rng.standard_normal(case[name].shape).astype(dtype)).astype(wide) for name in "AB"
    }


def _near_zero(rng: np.random.Generator, dtype: Any) -> Case:
    case = _diagonal(rng, dtype, method="zoh")
    case["A"] = np.array([0.0, -1e-12, 1e-7, -1e-4], dtype) * np.ones((5, 1), dtype)
    return case


def _broken(name: str, says: tuple[str, ...], error: type[Exception] = ArgumentError, **changes: Any) -> ErrorSample:
    return ErrorSample(name, lambda rng: _diagonal(rng, np.float32) | changes, error, says)


_METHODS = ("zoh", "mamba", "bilinear")

SAMPLES = Samples(
    samples=(
        *(Sample(f"diagonal {m}", partial(_diagonal, method=m)) for m in _METHODS),
        *(Sample(f"dense {m}", partial(_dense, method=m)) for m in _METHODS),
        *(Sample(f"complex {s} {m}", partial(_complex, structure=s, method=m)) for s in ("diagonal", "dense") for m in _METHODS),
        Sample("diagonal over a batch", lambda rng, dtype: _diagonal(rng, dtype, shape=(2, 7, 5), method="zoh")),
        Sample("A near 0", _near_zero),
        Sample("no step", lambda rng, dtype: _diagonal(rng, dtype, shape=(0, 5))),
    ),
    errors=(
        _broken("unknown method", ("discretize: method: expected one of 'zoh', 'mamba', 'bilinear', got 'euler'",), method="euler"),
        _broken("unknown structure", ("discretize: structure: expected one of 'diagonal', 'dense', got 'sparse'",), structure="sparse"),
        _broken("dense A not square", ("discretize: A: expected square matrices (..., dstate, dstate), got (5, 4)",), structure="dense"),
        _broken("B of another dstate", ("discretize: B: expected", "dstate = 4", "got (5, 3)"), B=np.ones((5, 3), np.float32)),
        _broken("delta of another shape", ("discretize: delta: expected", "broadcasts", "got (3,)"), delta=np.ones(3, np.float32)),
        _broken("integer A", ("discretize: A: expected dtype", "got int64"), TypeError, A=np.ones((5, 4), np.int64)),
        _broken("complex delta", ("discretize: delta: expected dtype", "got complex64"), TypeError, delta=np.ones(5, np.complex64)),
    ),
    benchmarks=(Sample("D512 L4096 N16 zoh", lambda rng, dtype: _diagonal(rng, dtype, shape=(4096, 512), dstate=16, method="zoh")),),
)  # fmt: skip
