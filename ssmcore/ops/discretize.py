"""From continuous to discrete time: A_bar, B_bar of x' = A x + B u at step delta. Derivation: discretize.md."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import backends
from .._spec import Argument, Call, OpSpec, Output, Tolerance

Array = NDArray[Any]


class DiscretizeGradients(NamedTuple):
    """Gradients in the shapes of the arguments."""

    A: Array
    B: Array
    delta: Array


_METHODS = ("zoh", "mamba", "bilinear")
SPEC = OpSpec(
    name="discretize",
    summary="discrete time: zoh, bilinear, mamba",
    arguments=(
        Argument("A", ("... dstate", "... dstate dstate"), "system matrix, its diagonal or dense", complex_too=True),
        Argument("B", ("... dstate", "... dstate inputs"), "input matrix", complex_too=True),
        Argument("delta", ("...",), "step"),
    ),
    outputs=(Output("A_bar", "... dstate"), Output("B_bar", "... dstate")),
    options={"method": _METHODS, "structure": ("diagonal", "dense")},
    traits=("complex", "dense"),
    forward=Tolerance(float32=2e-6, float64=1e-13, reason="element-wise functions in double precision, rounded; dense: scaling and "
                      "squaring doubles the rounding at each of at most ten squarings"),
    gradient=Tolerance(float32=1e-5, float64=1e-12, reason="sums over the broadcast axes and the state"),
)  # fmt: skip


def _call(A: Array, B: Array, delta: Array, method: str, structure: str) -> tuple[Call, tuple[int, ...]]:
    """The checked call, and the broadcast leading axes."""
    SPEC.check_option("method", method)
    SPEC.check_option("structure", structure)
    SPEC.shapes_of({"A": A, "B": B, "delta": delta})
    core = 1 if structure == "diagonal" else 2
    if A.ndim < core or (core == 2 and A.shape[-1] != A.shape[-2]):
        axes = "(..., dstate)" if core == 1 else "square matrices (..., dstate, dstate)"
        SPEC.fail("A", axes, A.shape, 'pass structure="diagonal" for the diagonal alone')
    dstate = A.shape[-1]
    if B.ndim < core or B.shape[-core] != dstate:
        axes = "(..., dstate)" if core == 1 else "(..., dstate, inputs)"
        SPEC.fail("B", f"shape {axes} with dstate = {dstate} like A", B.shape, "check the order of its axes")
    try:
        shape = np.broadcast_shapes(A.shape[:-core], B.shape[:-core], delta.shape)
    except ValueError:
        lead = A.shape[:-core]
        SPEC.fail(
            "delta",
            f"a shape that broadcasts with {lead}, the leading axes of A",
            delta.shape,
            "delta has no state axis",
        )
    traits = {"complex"} if "c" in (A.dtype.kind, B.dtype.kind) else set()
    if structure == "dense":
        traits.add("dense")
    arrays = dict(zip(("A", "B", "delta"), _wide(A, B, delta), strict=True))
    return Call(SPEC, arrays, {"method": method, "structure": structure}, frozenset(traits)), shape


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

    - ``zoh``: A_bar = exp(delta A), B_bar = A^-1 (exp(delta A) - I) B, exact for inputs held over a step, and free of cancellation
      near A = 0
    - ``bilinear``: A_bar = (I - delta/2 A)^-1 (I + delta/2 A), B_bar = (I - delta/2 A)^-1 delta B (the paper's)
    - ``mamba``: A_bar = exp(delta A), B_bar = delta B (as in public Mamba code; it is not zoh)

    Parameters
    ----------
    A : (..., dstate) for structure "diagonal", (..., dstate, dstate) for "dense"
    B : (..., dstate), or (..., dstate, inputs) for "dense"
    delta : (...), the leading axes
        They broadcast. float32 or float64, or float16 computed in float32. A and B may be complex.

    Returns
    -------
    A_bar, B_bar
        With the broadcast leading axes.

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
    call, lead = _call(A, B, delta, method, structure)
    A_bar, B_bar = backends.run(call, backend=backend, num_threads=num_threads)
    core = 1 if structure == "diagonal" else 2
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
    Others as in `discretize`, and errors too.

    Source: discretize.md; for dense zoh and mamba the adjoint of the matrix exponential's Fréchet derivative.
    """
    call, lead = _call(A, B, delta, method, structure)
    core, douts = 1 if structure == "diagonal" else 2, []
    for name, array, like in (("dA_bar", dA_bar, A), ("dB_bar", dB_bar, B)):
        SPEC.check_dtype(name, array, complex_too="complex" in call.traits)
        full = (*lead, *like.shape[-core:])
        try:
            douts.append(np.broadcast_to(array, full))
        except ValueError:
            expected, remedy = f"a shape that broadcasts to {full}", "pass the gradient of the output as it came out"
            SPEC.fail(name, expected, array.shape, remedy)
    *wide, dA_wide, dB_wide = _wide(A, B, delta, *douts)
    call.arrays, call.douts = dict(zip(("A", "B", "delta"), wide, strict=True)), (dA_wide, dB_wide)
    grads = backends.run(call, backend=backend, num_threads=num_threads)
    return DiscretizeGradients(
        *(
            _sum_to(g if x.dtype.kind == "c" else g.real, x.shape).astype(x.dtype, copy=False)
            for g, x in zip(grads, (A, B, delta), strict=True)
        )
    )


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
