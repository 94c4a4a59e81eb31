"""Linear time-invariant systems step by step. Derivation: ssm_recurrence.md."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import backends
from .._lti import STRUCTURES, broadcast, check_floats, lead_of
from .._spec import Argument, Call, OpSpec, Output, Tolerance

Array = NDArray[Any]


SPEC = OpSpec(
    name="ssm_recurrence",
    summary="a time-invariant system, step by step",
    arguments=(
        Argument("A_bar", ("... dstate", "... dstate dstate"), "system matrix, its diagonal or dense"),
        Argument("B_bar", ("... dstate",), "input vector"),
        Argument("C", ("... dstate",), "output vector"),
        Argument("u", ("... seqlen",), "input"),
        Argument("D", ("...",), "skip", optional=True),
        Argument("initial_state", ("... dstate",), "state before the first step", optional=True),
    ),
    outputs=(Output("y", "... seqlen"), Output("last_state", "... dstate")),
    options={"structure": STRUCTURES},
    differentiable=False,
    traits=("complex", "dense"),
    forward=Tolerance(
        float32=4e-6,
        float64=1e-14,
        reason="a state sums over the steps it remembers, at a norm of 0.97 some thirty, with two roundings each, and y over the states",
    ),
    gradient=Tolerance(float32=0, float64=0, reason="arrays have none; for tensors it is torch's own"),
)  # fmt: skip


def ssm_recurrence(
    A_bar: Array,
    B_bar: Array,
    C: Array,
    u: Array,
    *,
    D: Array | None = None,
    initial_state: Array | None = None,
    structure: str = "diagonal",
    num_threads: int | None = None,
    backend: str | None = None,
) -> tuple[Array, Array]:
    """A time-invariant system, one step after another. It can continue from a state.

    ``x[k] = A_bar x[k-1] + B_bar u[k]``, ``y[k] = C x[k] + D u[k]``.

    Parameters
    ----------
    A_bar : (..., dstate) for structure "diagonal", (..., dstate, dstate) for "dense"
    B_bar, C : (..., dstate)
    u : (..., seqlen)
    D : (...), or None for no skip
    initial_state : (..., dstate) before the first step, or None for zeros
        Real or complex floats. All leading axes broadcast.
    num_threads, backend : as in `selective_scan`

    Returns
    -------
    y : (..., seqlen)
    last_state : (..., dstate)
        In the arguments' common dtype.

    Raises
    ------
    ArgumentError
        A shape, dtype or structure is wrong.
    BackendError
        The backend named cannot run, such as cython for a dense A_bar.

    Source: Mamba-AHNet, eq. 2, whose printed index is a misprint.

    Examples
    --------
    >>> import numpy as np, ssmcore
    >>> y, x = ssmcore.ssm_recurrence(np.array([0.5]), np.array([1.0]), np.array([2.0]), np.array([1.0, 0.0]))
    >>> y.tolist(), x.tolist()
    ([2.0, 1.0], [0.5])
    """
    lead = lead_of("ssm_recurrence", A_bar, B_bar, C, structure)
    check_floats("ssm_recurrence", "u", u)
    start = np.zeros(A_bar.shape[-1], A_bar.dtype) if initial_state is None else initial_state
    past = np.zeros((), A_bar.dtype) if D is None else D
    check_floats("ssm_recurrence", "initial_state", start)
    check_floats("ssm_recurrence", "D", past)
    if u.ndim < 1 or start.shape[-1:] != A_bar.shape[-1:]:
        expected, got = "(..., seqlen) and (..., dstate)", f"{u.shape} and {start.shape}"
        SPEC.fail("u, initial_state", expected, got, "make them agree with A_bar")
    lead = broadcast("ssm_recurrence", "u, initial_state, D", lead, u.shape[:-1], start.shape[:-1], past.shape)
    arrays = {"A_bar": A_bar, "B_bar": B_bar, "C": C, "u": u, "initial_state": start}
    dtype = np.result_type(*arrays.values(), past)
    traits = {"complex"} if dtype.kind == "c" else set()
    if structure == "dense":
        traits.add("dense")
    call = Call(SPEC, arrays, {"structure": structure, "lead": lead}, frozenset(traits))
    y, last_state = backends.run(call, backend=backend, num_threads=num_threads)
    if D is not None:
        y = y + D[..., None] * u
    return y.astype(dtype, copy=False), last_state.astype(dtype, copy=False)
