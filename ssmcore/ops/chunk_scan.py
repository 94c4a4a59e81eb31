"""Chunk scan: the recurrence of Mamba-2, whose decay is one number a head, forward and vector-Jacobian product. Derivation: chunk_scan.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple, TypedDict, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from .. import backends
from .._conventions import CHECKPOINT_STEPS, sequence_starts, sigmoid, softplus
from .._spec import Argument, ArgumentTypeError, Call, OpSpec, Output, Sizes, Tolerance

Array = NDArray[Any]


class ChunkScanGradients(NamedTuple):
    """Gradients in the shapes of the arguments; None for an argument that was not given, unless it is initial_state."""

    x: Array
    dt: Array
    A: Array
    B: Array
    C: Array
    D: Array | None
    z: Array | None
    dt_bias: Array | None
    initial_state: Array


class ChunkScanCheckpoints(NamedTuple):
    """What `chunk_scan` keeps for its gradient: states before every chunk and, where z is given, the result before its gate."""

    states: Array
    y: Array | None


SPEC = OpSpec(
    name="chunk_scan",
    summary="the scan of Mamba-2 (SSD), by chunks",
    arguments=(
        Argument("x", ("batch seqlen nheads headdim",), "input"),
        Argument("dt", ("batch seqlen nheads",), "step, before bias, softplus and clamp"),
        Argument("A", ("nheads",), "rate of decay, at most 0"),
        Argument("B", ("batch seqlen ngroups dstate",), "input vectors"),
        Argument("C", ("batch seqlen ngroups dstate",), "output vectors"),
        Argument("D", ("nheads", "nheads headdim"), "skip", optional=True),
        Argument("z", ("batch seqlen nheads headdim",), "gate, through SiLU", optional=True),
        Argument("dt_bias", ("nheads",), "added to dt", optional=True),
        Argument("initial_state", ("batch nheads headdim dstate",), "states before the first step", optional=True),
    ),
    outputs=(
        Output("out", "batch seqlen nheads headdim"),
        Output("last_state", "batch nheads headdim dstate", wide=True),
        Output("checkpoints", "batch chunks nheads dstate headdim", wide=True, kept=True, public=False),
    ),
    options={},
    forward=Tolerance(
        float32=8e-6,
        float64=2e-14,
        reason="a sum over the states, and over the steps a state remembers, of terms of either sign; a decay's logarithm is a sum of up "
        "to 64 numbers kept to twice the precision, and its exponential is good to two roundings",
    ),
    gradient=Tolerance(
        float32=4e-5,
        float64=2e-13,
        reason="as forward, then sums over all steps of terms of either sign: two numbers, for dA of two heads, may be small beside their terms",
    ),
    derived={"chunks": lambda sizes: -(-sizes["seqlen"] // CHECKPOINT_STEPS)},
)  # fmt: skip

ARGUMENTS = tuple(argument.name for argument in SPEC.arguments)


def check(shapes: Mapping[str, tuple[int, ...] | None], *, dt_limit: tuple[float, float]) -> Sizes:
    """Sizes of the axes. Raises ArgumentError."""
    B = shapes["B"]
    if B is not None and len(B) == 4 and B[3] < 1:
        SPEC.fail("B", "a dstate of at least 1", f"shape {B}", "use a state of one entry and B = 0 for none")
    x = shapes["x"]
    if x is not None and len(x) == 4 and B is not None and len(B) == 4 and (B[2] < 1 or x[2] % B[2]):
        SPEC.fail(
            "B", f"a number of groups that divides nheads = {x[2]}", B[2], "head h reads group h // (nheads // ngroups)"
        )
    low, high = dt_limit
    if not 0 <= low <= high:
        SPEC.fail("dt_limit", "(low, high) with 0 <= low <= high", dt_limit, "pass (0.0, inf) for no limit")
    return SPEC.check_shapes(shapes)


def starts_of(seq_idx: Any, shape: tuple[int, ...]) -> Array:
    """(batch, seqlen) of uint8, 1 where a step belongs to another sequence than the one before. Raises ArgumentError."""
    expected, remedy = f"integers {shape}", "number the sequence that each step belongs to"
    if not isinstance(seq_idx, np.ndarray) or seq_idx.dtype.kind not in "iu":
        got = f"{seq_idx.dtype} {seq_idx.shape}" if isinstance(seq_idx, np.ndarray) else type(seq_idx).__name__
        SPEC.fail("seq_idx", expected, got, remedy, kind=ArgumentTypeError)
    if seq_idx.shape != shape:
        SPEC.fail("seq_idx", expected, f"{seq_idx.dtype} {seq_idx.shape}", remedy)
    return sequence_starts(seq_idx)


class _Prepared(NamedTuple):
    """The checked call, whose step is dt after bias, softplus and clamp; `raw` is dt before softplus, `soft` before the clamp."""

    call: Call
    sizes: Sizes
    raw: Array
    soft: Array


def _prepare(
    arrays: dict[str, Any], seq_idx: Array | None, dt_softplus: bool, dt_limit: tuple[float, float]
) -> _Prepared:
    sizes = check(SPEC.shapes_of(arrays), dt_limit=dt_limit)
    x, dt, A, B, C, D, _, dt_bias, initial_state = arrays.values()
    starts = None if seq_idx is None else starts_of(seq_idx, (sizes["batch"], sizes["seqlen"]))
    raw = dt.astype(np.promote_types(x.dtype, np.float32), copy=False)
    if dt_bias is not None:
        raw = raw + dt_bias.astype(raw.dtype, copy=False)
    soft = softplus(raw) if dt_softplus else raw
    step = soft
    if dt_limit != (0.0, np.inf):
        step = np.clip(soft, *dt_limit)
    elif not dt_softplus:
        step = np.maximum(soft, 0)
    if D is not None and D.ndim == 1:
        D = np.broadcast_to(D[:, None], x.shape[2:])
    ready = {"x": x, "dt": step, "A": A, "B": B, "C": C, "D": D, "initial_state": initial_state, "starts": starts}
    return _Prepared(Call(SPEC, ready), sizes, raw, soft)


class _Options(TypedDict, total=False):
    dt_softplus: bool
    dt_limit: tuple[float, float]
    out: Array | None
    num_threads: int | None
    backend: str | None


# fmt: off
@overload
def chunk_scan(
    x: Array, dt: Array, A: Array, B: Array, C: Array, D: Array | None = None, z: Array | None = None,
    dt_bias: Array | None = None, initial_state: Array | None = None, seq_idx: Array | None = None, *,
    return_last_state: Literal[False] = False, return_checkpoints: Literal[False] = False, **options: Unpack[_Options],
) -> Array: ...
@overload
def chunk_scan(
    x: Array, dt: Array, A: Array, B: Array, C: Array, D: Array | None = None, z: Array | None = None,
    dt_bias: Array | None = None, initial_state: Array | None = None, seq_idx: Array | None = None, *,
    return_last_state: Literal[True], return_checkpoints: Literal[False] = False, **options: Unpack[_Options],
) -> tuple[Array, Array]: ...
@overload
def chunk_scan(
    x: Array, dt: Array, A: Array, B: Array, C: Array, D: Array | None = None, z: Array | None = None,
    dt_bias: Array | None = None, initial_state: Array | None = None, seq_idx: Array | None = None, *,
    return_last_state: Literal[False] = False, return_checkpoints: Literal[True], **options: Unpack[_Options],
) -> tuple[Array, ChunkScanCheckpoints]: ...
@overload
def chunk_scan(
    x: Array, dt: Array, A: Array, B: Array, C: Array, D: Array | None = None, z: Array | None = None,
    dt_bias: Array | None = None, initial_state: Array | None = None, seq_idx: Array | None = None, *,
    return_last_state: Literal[True], return_checkpoints: Literal[True], **options: Unpack[_Options],
) -> tuple[Array, Array, ChunkScanCheckpoints]: ...
@overload
def chunk_scan(
    x: Array, dt: Array, A: Array, B: Array, C: Array, D: Array | None = None, z: Array | None = None,
    dt_bias: Array | None = None, initial_state: Array | None = None, seq_idx: Array | None = None, *,
    return_last_state: bool = ..., return_checkpoints: bool = ..., **options: Unpack[_Options],
) -> Any: ...
# fmt: on
def chunk_scan(
    x: Array,
    dt: Array,
    A: Array,
    B: Array,
    C: Array,
    D: Array | None = None,
    z: Array | None = None,
    dt_bias: Array | None = None,
    initial_state: Array | None = None,
    seq_idx: Array | None = None,
    *,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, np.inf),
    return_last_state: bool = False,
    return_checkpoints: bool = False,
    out: Array | None = None,
    num_threads: int | None = None,
    backend: str | None = None,
) -> Any:
    """Mamba-2's scan (SSD): one rate of decay for each head, by chunks that are products of matrices.

    ``h[t] = exp(dt[t] A) h[t-1] + dt[t] x[t] B[t]'``, ``y[t] = h[t] C[t] + D x[t]``, ``out = y silu(z)``. dt_bias is
    added to dt, softplus is applied if asked for (identity above 20), and the step is clamped to dt_limit.

    Parameters
    ----------
    x, z : (batch, seqlen, nheads, headdim)
        Any strides. float32, float64, or float16 computed in float32.
    dt : (batch, seqlen, nheads)
    A : (nheads,)
        At most 0.
    B, C : (batch, seqlen, ngroups, dstate)
        Head h reads group h // (nheads // ngroups).
    D : (nheads,) or (nheads, headdim)
    dt_bias : (nheads,)
    initial_state : (batch, nheads, headdim, dstate)
        Zero if not given.
    seq_idx : (batch, seqlen) integers
        Numbers the sequences packed into a row. Where the number changes, the state starts from zero.
    dt_limit : (low, high)
        A step outside has no gradient.
    return_last_state : bool
        Also return the state after the last step, (batch, nheads, headdim, dstate); float32 for float16 x.
    return_checkpoints : bool
        Also return the arrays that `chunk_scan_vjp` starts from. With them it does not run the forward pass again.
    out, num_threads, backend : as in `selective_scan`

    Returns
    -------
    out, or a tuple of out, last_state and checkpoints, as asked for
        out as x in shape and dtype, C-contiguous.

    Raises
    ------
    ArgumentError, BackendError
        As in `selective_scan`.

    Source: Dao and Gu, Transformers are SSMs (2024), section 6.

    Examples
    --------
    A decaying sum: one head, one entry, one state, a decay of 1/2.

    >>> import numpy as np, ssmcore
    >>> one = np.ones((1, 3, 1, 1))
    >>> ssmcore.chunk_scan(one, one[..., 0], np.array([-np.log(2)]), one, one).round(6).ravel()
    array([1.  , 1.5 , 1.75])
    """
    arrays = dict(zip(ARGUMENTS, (x, dt, A, B, C, D, z, dt_bias, initial_state), strict=True))
    call, _, _, _ = _prepare(arrays, seq_idx, dt_softplus, dt_limit)
    SPEC.check_out(out, x, arrays)
    call.keep, call.into = return_checkpoints, (out,)
    y, last_state, states = backends.run(call, backend=backend, num_threads=num_threads)
    checkpoints = ChunkScanCheckpoints(states, y.copy() if return_checkpoints and z is not None else None)
    if z is not None:
        y *= z * sigmoid(z)
    found = (y, *([last_state] if return_last_state else []), *([checkpoints] if return_checkpoints else []))
    return found if len(found) > 1 else y


def chunk_scan_vjp(
    dout: Array,
    x: Array,
    dt: Array,
    A: Array,
    B: Array,
    C: Array,
    D: Array | None = None,
    z: Array | None = None,
    dt_bias: Array | None = None,
    initial_state: Array | None = None,
    seq_idx: Array | None = None,
    *,
    dlast_state: Array | None = None,
    checkpoints: ChunkScanCheckpoints | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, np.inf),
    num_threads: int | None = None,
    backend: str | None = None,
) -> ChunkScanGradients:
    """Vector-Jacobian product of `chunk_scan`: gradients of sum(dout out) + sum(dlast_state last_state).

    Parameters
    ----------
    dout : as x
    dlast_state : (batch, nheads, headdim, dstate)
        Zero if not given.
    checkpoints
        From the forward pass with these arguments. Without them that pass runs again; gradients are the same to the bit.
    Others as in `chunk_scan`, and errors too.

    Source: reverse-mode differentiation by chunks, see ops/chunk_scan.md.
    """
    arrays = dict(zip(ARGUMENTS, (x, dt, A, B, C, D, z, dt_bias, initial_state), strict=True))
    call, sizes, raw, soft = _prepare(arrays, seq_idx, dt_softplus, dt_limit)
    SPEC.check_gradients(sizes, dout, dlast_state)
    dz, dy, y = None, dout, None
    if checkpoints is not None:
        states, y = _check_checkpoints(checkpoints, x, z, sizes)
        call.kept = (states,)
    elif z is not None:
        y, _, states = backends.run(replace(call, keep=True), backend=backend, num_threads=num_threads)
        call.kept = (states,)
    if z is not None:
        gate = sigmoid(z)
        dz = (dout * y * gate * (1 + z * (1 - gate))).astype(z.dtype, copy=False)
        dy = (dout * z * gate).astype(dout.dtype, copy=False)
    call.douts = (dy, dlast_state)
    dx, ddt, dA, dB, dC, dD, dinitial_state = backends.run(call, backend=backend, num_threads=num_threads)
    low, high = dt_limit
    ddt = ddt * ((soft >= low) & (soft <= high))
    if dt_softplus:
        ddt = ddt * np.where(raw > 20, 1, sigmoid(raw))
    ddt = ddt.astype(x.dtype, copy=False)
    ddt_bias = None if dt_bias is None else ddt.sum(axis=(0, 1))
    if D is not None and D.ndim == 1:
        dD = dD.sum(axis=1)
    return ChunkScanGradients(dx, ddt, dA, dB, dC, dD, dz, ddt_bias, dinitial_state)


def _check_checkpoints(given: object, x: Array, z: Array | None, sizes: Sizes) -> tuple[Array, Array | None]:
    if not isinstance(given, ChunkScanCheckpoints) or (given.y is None) != (z is None):
        expected = "those of chunk_scan with return_checkpoints, " + ("without z" if z is None else "with z")
        remedy = "pass them as the forward pass returned them"
        SPEC.fail("checkpoints", expected, type(given).__name__, remedy, kind=ArgumentTypeError)
    SPEC.check_kept(sizes, np.promote_types(x.dtype, np.float32), {"checkpoints": given.states})
    if given.y is not None and (given.y.shape, given.y.dtype) != (x.shape, x.dtype):
        got = f"{given.y.dtype}, {given.y.shape}"
        SPEC.fail("checkpoints", f"y of {x.dtype}, {x.shape}", got, "pass them as the forward pass returned them")
    return given
