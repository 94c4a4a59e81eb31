"""Linear time-invariant systems step by step. Derivation: ssm_recurrence.md."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import backends
from .._lti import STRUCTURES, broadcast, check_floats, lead_of
from .._spec import Argument, Case, Cases, OpSpec, Output, Tolerance
from ..backends._threads import resolve

Array = NDArray[Any]
ENTRIES = ("ssm_recurrence",)


def make_case(
    rng: np.random.Generator,
    dtype: Any,
    *,
    systems: tuple[int, ...] = (3,),
    inputs: tuple[int, ...] | None = None,
    seqlen: int = 37,
    dstate: int = 5,
    kind: str = "real",
    real_u: bool = False,
    extras: bool = True,
    structure: str = "diagonal",
) -> Case:
    """A stable system. `inputs`: leading axes of u, those of the systems unless given."""

    def normal(*shape: int, real: bool = kind == "real") -> Array:
        x = rng.standard_normal(shape)
        wide = dtype if real else np.result_type(dtype, np.complex64)
        return (x if real else x + 1j * rng.standard_normal(shape)).astype(wide)

    if structure == "diagonal":
        A_bar = normal(*systems, dstate)
        A_bar *= 0.97 / np.abs(A_bar).max(initial=1e-9)
    else:
        A_bar = normal(*systems, dstate, dstate)
        A_bar *= 0.97 / np.linalg.norm(A_bar, 2, axis=(-2, -1), keepdims=True)
    inputs = systems if inputs is None else inputs
    case: Case = {"A_bar": A_bar, "B_bar": normal(*systems, dstate), "C": normal(*systems, dstate)}
    case["u"] = normal(*inputs, seqlen, real=real_u or kind == "real")
    if extras:
        case |= {"D": normal(*systems), "initial_state": normal(*inputs, dstate)}
    return case | {"structure": structure}


_cases = Cases(make_case, seqlen=5, extras=False)
_sample, _broken = _cases.sample, _cases.broken

SPEC = OpSpec(
    name="ssm_recurrence",
    summary="x[k] = A_bar x[k-1] + B_bar u[k], y[k] = C x[k] + D u[k] for a system that does not change",
    formula="x[k] = A_bar x[k-1] + B_bar u[k] → y[k] = C x[k] + D u[k]",
    source="Mamba-AHNet III-A eq. 2",
    entries=ENTRIES,
    arguments=(
        Argument("A_bar", ("... dstate", "... dstate dstate"), "system matrix, its diagonal or dense"),
        Argument("B_bar", ("... dstate",), "input vector"),
        Argument("C", ("... dstate",), "output vector"),
        Argument("u", ("... seqlen",), "input"),
        Argument("D", ("...",), "way past the states", optional=True),
        Argument("initial_state", ("... dstate",), "state before the first step", optional=True),
    ),
    outputs=(Output("y", "... seqlen"), Output("last_state", "... dstate")),
    options={"structure": STRUCTURES},
    forward=Tolerance(
        float32=4e-6,
        float64=1e-14,
        reason="a state sums over the steps it remembers, at a norm of 0.97 some thirty, with two roundings each, and y over the states",
    ),
    gradient=Tolerance(float32=0, float64=0, reason="arrays have none; for tensors it is torch's own"),
    samples=(
        _sample("real"),
        _sample("complex", kind="complex"),
        _sample("complex, real input", kind="complex", real_u=True),
        _sample("one system, many inputs", systems=(1,), inputs=(2, 3)),
        _sample("many systems, one input", systems=(2, 3), inputs=(), kind="complex"),
        _sample("16 states", dstate=16, seqlen=64),
        _sample("past a vector", dstate=17, seqlen=65, kind="complex"),
        _sample("64 states", dstate=64, seqlen=33, systems=(2, 2)),
        _sample("one state, one step", dstate=1, seqlen=1, extras=False),
        _sample("no step", seqlen=0),
        _sample("no system", systems=(0,)),
        _sample("dense", structure="dense"),
        _sample("dense, complex", structure="dense", kind="complex"),
    ),
    error_samples=(
        _broken("B_bar of another dstate", ("ssm_recurrence: B_bar: expected", "dstate 5", "got (3, 4)"), B_bar=np.ones((3, 4))),
        _broken("integer C", ("ssm_recurrence: C: expected", "got int64", "convert"), TypeError, C=np.ones((3, 5), np.int64)),
        _broken("u of other systems", ("ssm_recurrence: u, initial_state, D: expected leading axes that broadcast", "(3,)", "(4,)"),
                u=np.ones((4, 5))),
        _broken("dense without being told", ("ssm_recurrence: structure: expected one of", "got 'full'"), structure="full"),
    ),
    benchmarks=(
        _sample("64 channels, L 4096, 16 real states", systems=(64,), seqlen=4096, dstate=16, extras=False),
        _sample("64 channels, L 4096, 32 complex states", systems=(64,), seqlen=4096, dstate=32, kind="complex", real_u=True,
                extras=False),
    ),
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
    """The recurrence itself, a step after the other: the form that goes on from a state.

    ``x[k] = A_bar x[k-1] + B_bar u[k]``, ``y[k] = C x[k] + D u[k]``.

    Parameters
    ----------
    A_bar : (..., dstate) for structure "diagonal", (..., dstate, dstate) for "dense"
    B_bar, C : (..., dstate)
    u : (..., seqlen)
    D : (...), or None for no way past the states
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
    choice = backends.choose("ssm_recurrence", ENTRIES, backend, structure=structure)
    dtype = np.result_type(A_bar, B_bar, C, u, start, past)
    y, last_state = backends.entry(choice, "ssm_recurrence")(
        A_bar, B_bar, C, u, start, lead, structure=structure, num_threads=resolve(num_threads)
    )
    if D is not None:
        y = y + D[..., None] * u
    return y.astype(dtype, copy=False), last_state.astype(dtype, copy=False)
