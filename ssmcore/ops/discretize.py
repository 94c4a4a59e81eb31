"""From continuous to discrete time: A_bar, B_bar of x' = A x + B u at step delta. Derivation: discretize.md."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import backends
from .._spec import Argument, ArgumentError, Case, ErrorSample, OpSpec, Output, Sample, Tolerance
from ..backends._threads import resolve

Array = NDArray[Any]
ENTRIES = ("discretize", "discretize_vjp")


class DiscretizeGradients(NamedTuple):
    """Gradients in the shapes of the arguments."""

    A: Array
    B: Array
    delta: Array


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
SPEC = OpSpec(
    name="discretize",
    summary="A_bar and B_bar of x' = A x + B u at step delta, for diagonal and dense A",
    formula="zoh: e^(delta A), A^-1 (e^(delta A) - I) B; mamba: e^(delta A), delta B; bilinear: (I - delta/2 A)^-1 (I + delta/2 A), "
    "(I - delta/2 A)^-1 delta B",
    source="Mamba-AHNet III-B eq. 2",
    entries=ENTRIES,
    arguments=(
        Argument("A", ("... dstate", "... dstate dstate"), "system matrix, its diagonal or dense"),
        Argument("B", ("... dstate", "... dstate inputs"), "input matrix"),
        Argument("delta", ("...",), "step"),
    ),
    outputs=(Output("A_bar", "... dstate"), Output("B_bar", "... dstate")),
    options={"method": _METHODS, "structure": ("diagonal", "dense")},
    forward=Tolerance(float32=2e-6, float64=1e-13, reason="element-wise functions in double precision, rounded; dense: scaling and "
                      "squaring doubles the rounding at each of at most ten squarings"),
    gradient=Tolerance(float32=1e-5, float64=1e-12, reason="sums over the broadcast axes and the state"),
    samples=(
        *(Sample(f"diagonal {m}", partial(_diagonal, method=m)) for m in _METHODS),
        *(Sample(f"dense {m}", partial(_dense, method=m)) for m in _METHODS),
        *(Sample(f"complex {s} {m}", partial(_complex, structure=s, method=m)) for s in ("diagonal", "dense") for m in _METHODS),
        Sample("diagonal over a batch", lambda rng, dtype: _diagonal(rng, dtype, shape=(2, 7, 5), method="zoh")),
        Sample("A near 0", _near_zero),
        Sample("no step", lambda rng, dtype: _diagonal(rng, dtype, shape=(0, 5))),
    ),
    error_samples=(
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


def _check(A: Array, B: Array, delta: Array, method: str, structure: str) -> None:
    SPEC.check_option("method", method)
    SPEC.check_option("structure", structure)
    for name, array in (("A", A), ("B", B), ("delta", delta)):
        SPEC.check_dtype(name, array, complex_too=name != "delta")
    core = 1 if structure == "diagonal" else 2
    if A.ndim < core or (core == 2 and A.shape[-1] != A.shape[-2]):
        axes = "(..., dstate)" if core == 1 else "square matrices (..., dstate, dstate)"
        SPEC.fail("A", axes, A.shape, 'pass structure="diagonal" for the diagonal alone')
    dstate = A.shape[-1]
    if B.ndim < core or B.shape[-core] != dstate:
        axes = "(..., dstate)" if core == 1 else "(..., dstate, inputs)"
        SPEC.fail("B", f"shape {axes} with dstate = {dstate} like A", B.shape, "check the order of its axes")
    try:
        np.broadcast_shapes(A.shape[:-core], B.shape[:-core], delta.shape)
    except ValueError:
        lead = A.shape[:-core]
        SPEC.fail(
            "delta",
            f"a shape that broadcasts with {lead}, the leading axes of A",
            delta.shape,
            "delta has no state axis",
        )


def discretize(
    A: Array,
    B: Array,
    delta: Array,
    *,
    method: str = "zoh",
    structure: str = "diagonal",
    num_threads: int | None = None,
    backend: str | None = None,
) -> tuple[Array, Array]:
    """Discretises x' = A x + B u at step delta.

    - ``zoh``: A_bar = exp(delta A), B_bar = A^-1 (exp(delta A) - I) B, exact for inputs held over a step; free of cancellation
      near A = 0, where B_bar = delta B
    - ``bilinear``: A_bar = (I - delta/2 A)^-1 (I + delta/2 A), B_bar = (I - delta/2 A)^-1 delta B (the paper's)
    - ``mamba``: A_bar = exp(delta A), B_bar = delta B (what public Mamba code computes; it is not zoh)

    Parameters
    ----------
    A : (..., dstate) for structure "diagonal", (..., dstate, dstate) for "dense"
    B : (..., dstate), or (..., dstate, inputs) for "dense"
    delta : (...), the leading axes
        They broadcast. float32 or float64, or float16 computed in float32. A and B may be complex.

    Returns
    -------
    A_bar, B_bar
        Of the broadcast leading axes.

    Raises
    ------
    ArgumentError
        A shape, dtype or option is wrong.
    BackendError
        The backend named cannot run, such as cython for a dense or complex A.

    Source: Mamba-AHNet, eq. 2; zoh and mamba from Gu and Dao, Mamba, eq. 4.

    Examples
    --------
    >>> import numpy as np, ssmcore
    >>> A_bar, B_bar = ssmcore.discretize(np.array([-1.0]), np.array([1.0]), np.array(0.5), method="bilinear")
    >>> A_bar, B_bar
    (array([0.6]), array([0.4]))
    """
    _check(A, B, delta, method, structure)
    choice = backends.choose("discretize", ENTRIES, backend, structure=structure, complex_too=_has_complex(A, B))
    A_bar, B_bar = backends.entry(choice, "discretize")(
        *_wide(A, B, delta), method=method, structure=structure, num_threads=resolve(num_threads)
    )
    core = 1 if structure == "diagonal" else 2
    lead = np.broadcast_shapes(A.shape[:-core], B.shape[:-core], delta.shape)
    return (
        _full(A_bar.astype(np.result_type(A, delta), copy=False), (*lead, *A.shape[-core:])),
        _full(B_bar.astype(np.result_type(A, B, delta), copy=False), (*lead, *B.shape[-core:])),
    )


def _full(array: Array, shape: tuple[int, ...]) -> Array:
    """Of that shape, a copy where it has to be broadcast."""
    return array if array.shape == shape else np.broadcast_to(array, shape).copy()


def discretize_vjp(
    dA_bar: Array,
    dB_bar: Array,
    A: Array,
    B: Array,
    delta: Array,
    *,
    method: str = "zoh",
    structure: str = "diagonal",
    num_threads: int | None = None,
    backend: str | None = None,
) -> DiscretizeGradients:
    """Vector-Jacobian product of `discretize`: gradients of sum(dA_bar A_bar) + sum(dB_bar B_bar).

    Complex gradients are torch's: of a real function f, df/d(real part) + i df/d(imaginary part).

    Parameters
    ----------
    dA_bar, dB_bar : as A_bar and B_bar, or broadcasting to them
    Others as in `discretize`.

    Returns
    -------
    DiscretizeGradients
        In the shapes of A, B and delta.

    Raises
    ------
    ArgumentError, BackendError
        As in `discretize`.

    Source: discretize.md; for dense zoh and mamba the adjoint of the matrix exponential's Fréchet derivative.
    """
    _check(A, B, delta, method, structure)
    choice = backends.choose("discretize", ENTRIES, backend, structure=structure, complex_too=_has_complex(A, B))
    core = 1 if structure == "diagonal" else 2
    lead = np.broadcast_shapes(A.shape[:-core], B.shape[:-core], delta.shape)
    for name, array, like in (("dA_bar", dA_bar, A), ("dB_bar", dB_bar, B)):
        SPEC.check_dtype(name, array, complex_too=_has_complex(A, B))
        full = (*lead, *like.shape[-core:])
        try:
            fits = np.broadcast_shapes(array.shape, full) == full
        except ValueError:
            fits = False
        if not fits:
            SPEC.fail(
                name,
                f"a shape that broadcasts to {full}",
                array.shape,
                "pass the gradient of the output as it came out",
            )
    wide_A, wide_B, wide_delta, wide_dA_bar, wide_dB_bar = _wide(A, B, delta, dA_bar, dB_bar)
    grads = backends.entry(choice, "discretize_vjp")(
        np.broadcast_to(wide_dA_bar, (*lead, *A.shape[-core:])),
        np.broadcast_to(wide_dB_bar, (*lead, *B.shape[-core:])),
        wide_A,
        wide_B,
        wide_delta,
        method=method,
        structure=structure,
        num_threads=resolve(num_threads),
    )
    return DiscretizeGradients(
        *(
            _sum_to(g if x.dtype.kind == "c" else g.real, x.shape).astype(x.dtype, copy=False)
            for g, x in zip(grads, (A, B, delta), strict=True)
        )
    )


def _has_complex(*arrays: Array) -> bool:
    return any(a.dtype.kind == "c" for a in arrays)


def _wide(*arrays: Array) -> list[Array]:
    double = any(a.dtype in (np.float64, np.complex128) for a in arrays)
    real, both = (np.float64, np.complex128) if double else (np.float32, np.complex64)
    return [a.astype(both if a.dtype.kind == "c" else real, copy=False) for a in arrays]


def _sum_to(gradient: Array, shape: tuple[int, ...]) -> Array:
    """Adjoint of broadcasting."""
    extra = gradient.ndim - len(shape)
    gradient = gradient.sum(axis=tuple(range(extra)))
    axes = tuple(i for i, size in enumerate(shape) if size == 1 and gradient.shape[i] != 1)
    total: Array = gradient.sum(axis=axes, keepdims=True)
    return total
