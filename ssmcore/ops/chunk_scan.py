"""Chunk scan: the recurrence of Mamba-2, whose decay is one number a head, forward and vector-Jacobian product. Derivation: chunk_scan.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import backends
from .._conventions import CHECKPOINT_STEPS, sequence_starts, sigmoid, softplus
from .._spec import Argument, ArgumentTypeError, Case, Cases, OpSpec, Output, Sizes, Tolerance
from ..backends._threads import resolve

Array = NDArray[Any]
ENTRIES = ("chunk_scan_fwd", "chunk_scan_bwd")


class ChunkScanGradients(NamedTuple):
    """Gradients in the shapes of the arguments; None for an argument that was not given."""

    x: Array
    dt: Array
    A: Array
    B: Array
    C: Array
    D: Array | None
    z: Array | None
    dt_bias: Array | None
    initial_states: Array


def make_case(
    rng: np.random.Generator,
    dtype: Any,
    *,
    batch: int = 2,
    seqlen: int = 17,
    nheads: int = 6,
    headdim: int = 4,
    dstate: int = 5,
    ngroups: int = 2,
    extras: bool = True,
    wide_D: bool = False,
    lengths: tuple[int, ...] = (),
    **options: Any,
) -> Case:
    """Arguments of realistic size: A negative, steps near those of a trained model. `lengths`: of the sequences in each row."""

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(dtype)

    dt = normal(batch, seqlen, nheads) - 2
    case: Case = {
        "x": normal(batch, seqlen, nheads, headdim),
        "dt": dt.astype(dtype) if options.get("dt_softplus") else np.exp(dt).astype(dtype),
        "A": -np.exp(rng.uniform(-1, 2, nheads)).astype(dtype),
        "B": normal(batch, seqlen, ngroups, dstate),
        "C": normal(batch, seqlen, ngroups, dstate),
    }
    if extras:
        case |= {"D": normal(nheads, headdim) if wide_D else normal(nheads), "z": normal(*case["x"].shape)}
        case |= {"dt_bias": abs(0.1 * normal(nheads)), "initial_states": normal(batch, nheads, headdim, dstate)}
    if lengths:
        case["seq_idx"] = np.tile(np.repeat(np.arange(len(lengths), dtype=np.int32), lengths), (batch, 1))
    return case | options


_cases = Cases(make_case, batch=2, seqlen=5, nheads=6, headdim=4, dstate=5, extras=False)
_sample, _broken = _cases.sample, _cases.broken

SPEC = OpSpec(
    name="chunk_scan",
    summary="h[t] = exp(dt A) h[t-1] + dt x[t] B[t]', y[t] = h[t] C[t] + D x[t], a matrix a head; gated by silu(z)",
    formula="dt + bias → softplus → clamp → h[t] = exp(dt A) h[t-1] + dt x[t] B[t]' → y = h C → + D x → · silu(z)",
    source="Dao and Gu, Transformers are SSMs, section 6",
    entries=ENTRIES,
    arguments=(
        Argument("x", ("batch seqlen nheads headdim",), "input"),
        Argument("dt", ("batch seqlen nheads",), "step, before bias, softplus and clamp"),
        Argument("A", ("nheads",), "rate of decay, at most 0"),
        Argument("B", ("batch seqlen ngroups dstate",), "input vectors"),
        Argument("C", ("batch seqlen ngroups dstate",), "output vectors"),
        Argument("D", ("nheads", "nheads headdim"), "skip", optional=True),
        Argument("z", ("batch seqlen nheads headdim",), "gate, through SiLU", optional=True),
        Argument("dt_bias", ("nheads",), "added to dt", optional=True),
        Argument("initial_states", ("batch nheads headdim dstate",), "states before the first step", optional=True),
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
    samples=(
        _sample("plain", extras=False),
        _sample("everything", dt_softplus=True),
        _sample("D of every entry", wide_D=True),
        _sample("clamped", dt_softplus=True, dt_limit=(0.1, 0.2)),
        _sample("no group shared", ngroups=6),
        _sample("one group", ngroups=1, nheads=5),
        _sample("no step", seqlen=0),
        _sample("one step", seqlen=1),
        _sample("past one chunk", seqlen=65, nheads=2, dstate=3),
        _sample("two chunks", seqlen=128, nheads=2, headdim=3),
        _sample("blocks of heads", batch=3, nheads=18, ngroups=2, seqlen=9),
        _sample("whole vectors", seqlen=100, nheads=2, headdim=16, dstate=32),
        _sample("past a vector", seqlen=70, nheads=2, headdim=33, dstate=17),
        _sample("64 by 64", batch=1, seqlen=130, nheads=2, headdim=64, dstate=64, ngroups=1, dt_softplus=True),
        _sample("one entry, one state", headdim=1, dstate=1, seqlen=70),
        _sample("packed", seqlen=70, lengths=(3, 1, 61, 5)),
        _sample("packed at chunks", seqlen=192, lengths=(64, 63, 1, 64), nheads=2),
        _sample("packed, plain", seqlen=40, lengths=(20, 20), extras=False),
        _sample("no entry", headdim=0),
        _sample("empty batch", batch=0),
    ),
    error_samples=(
        _broken("dt of another nheads", ("chunk_scan: dt: expected shape (2, 5, 6) like x, got (2, 5, 4)",),
                dt=lambda rng: np.ones((2, 5, 4), np.float32)),
        _broken("A of two axes", ("chunk_scan: A: expected shape (6) like x, got (6, 5)",),
                A=lambda rng: -np.ones((6, 5), np.float32)),
        _broken("groups that do not divide", ("chunk_scan: B: expected", "divides nheads = 6", "got 4"),
                B=lambda rng: np.ones((2, 5, 4, 5), np.float32)),
        _broken("C of another group", ("chunk_scan: C: expected shape (2, 5, 2, 5)", "got (2, 5, 3, 5)"),
                C=lambda rng: np.ones((2, 5, 3, 5), np.float32)),
        _broken("states transposed", ("chunk_scan: initial_states: expected shape (2, 6, 4, 5)", "got (2, 6, 5, 4)"),
                initial_states=lambda rng: np.ones((2, 6, 5, 4), np.float32)),
        _broken("no state", ("chunk_scan: B: expected a dstate of at least 1",),
                B=lambda rng: np.ones((2, 5, 2, 0), np.float32)),
        _broken("integer x", ("chunk_scan: x: expected dtype", "got int64", "astype"), TypeError,
                x=lambda rng: np.ones((2, 5, 6, 4), np.int64)),
        _broken("limits that cross", ("chunk_scan: dt_limit: expected", "0 <= low <= high", "got (2.0, 1.0)"),
                dt_limit=(2.0, 1.0)),
        _broken("seq_idx of floats", ("chunk_scan: seq_idx: expected integers (2, 5)", "got float32 (2, 5)"), TypeError,
                seq_idx=lambda rng: np.ones((2, 5), np.float32)),
        _broken("seq_idx of another length", ("chunk_scan: seq_idx: expected integers (2, 5)", "got int64 (2, 4)"),
                seq_idx=lambda rng: np.ones((2, 4), np.int64)),
    ),
    benchmarks=(
        _sample("B2 L4096 H8 P64 N64", batch=2, seqlen=4096, nheads=8, headdim=64, dstate=64, ngroups=1, extras=False),
        _sample("Mamba-2 130m: B1 L2048 H24 P64 N128", batch=1, seqlen=2048, nheads=24, headdim=64, dstate=128, ngroups=1,
                extras=False),
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
            "B",
            f"a number of groups that divides nheads = {x[2]}",
            B[2],
            "head h reads group h // (nheads // ngroups)",
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
    """Arguments as the backends want them; `raw` is dt before softplus and clamp, `soft` before the clamp."""

    arrays: tuple[Any, ...]
    raw: Array
    soft: Array


def _prepare(
    arrays: Mapping[str, Array | None], seq_idx: Array | None, dt_softplus: bool, dt_limit: tuple[float, float]
) -> _Prepared:
    sizes = check(SPEC.shapes_of(arrays), dt_limit=dt_limit)
    x, dt, A, B, C, D, _, dt_bias, initial_states = (arrays[name] for name in ARGUMENTS)
    assert x is not None
    assert dt is not None
    starts = None if seq_idx is None else starts_of(seq_idx, (sizes["batch"], sizes["seqlen"]))
    raw = dt.astype(np.promote_types(x.dtype, np.float32), copy=False)
    if dt_bias is not None:
        raw = raw + dt_bias.astype(raw.dtype, copy=False)
    soft = softplus(raw) if dt_softplus else raw
    step = soft if dt_limit == (0.0, np.inf) and dt_softplus else np.clip(soft, *dt_limit)
    if D is not None and D.ndim == 1:
        D = np.broadcast_to(D[:, None], x.shape[2:])
    return _Prepared((x, step, A, B, C, D, initial_states, starts), raw, soft)


def chunk_scan(
    x: Array,
    dt: Array,
    A: Array,
    B: Array,
    C: Array,
    D: Array | None = None,
    z: Array | None = None,
    dt_bias: Array | None = None,
    initial_states: Array | None = None,
    seq_idx: Array | None = None,
    *,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, np.inf),
    return_final_states: bool = False,
    num_threads: int | None = None,
    backend: str | None = None,
) -> Any:
    """Selective scan with one rate of decay a head, by chunks whose work is products of matrices: Mamba-2's SSD.

    ``h[t] = exp(dt[t] A) h[t-1] + dt[t] x[t] B[t]'``, ``y[t] = h[t] C[t] + D x[t]``, ``out = y silu(z)``, with dt + dt_bias,
    through softplus where asked (identity above 20), then clamped to dt_limit.

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
    initial_states : (batch, nheads, headdim, dstate)
        Zero where not given.
    seq_idx : (batch, seqlen) integers
        Numbers the sequences packed into a row: where it changes, the state starts from zero.
    dt_limit : (low, high)
        A step outside has no gradient.
    return_final_states : bool
        Also return the state after the last step, (batch, nheads, headdim, dstate); float32 where x is float16.
    num_threads, backend : as in `selective_scan`

    Returns
    -------
    out, or (out, final_states)
        out as x in shape and dtype, C-contiguous.

    Raises
    ------
    ArgumentError
        A shape, dtype or option is wrong; the message names argument, expectation, value and remedy.
    BackendError
        The backend named cannot run.

    Source: Dao and Gu, Transformers are SSMs (2024), section 6.

    Examples
    --------
    A decaying sum: one head, one entry, one state, a decay of 1/2.

    >>> import numpy as np, ssmcore
    >>> one = np.ones((1, 3, 1, 1))
    >>> ssmcore.chunk_scan(one, one[..., 0], np.array([-np.log(2)]), one, one).round(6).ravel()
    array([1.  , 1.5 , 1.75])
    """
    choice = backends.choose("chunk_scan", ENTRIES, backend)
    arrays = dict(zip(ARGUMENTS, (x, dt, A, B, C, D, z, dt_bias, initial_states), strict=True))
    prepared = _prepare(arrays, seq_idx, dt_softplus, dt_limit)
    y, final_states, _ = backends.entry(choice, "chunk_scan_fwd")(
        *prepared.arrays, keep_states=False, num_threads=resolve(num_threads)
    )
    if z is not None:
        y *= z * sigmoid(z)
    return (y, final_states) if return_final_states else y


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
    initial_states: Array | None = None,
    seq_idx: Array | None = None,
    *,
    dfinal_states: Array | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, np.inf),
    num_threads: int | None = None,
    backend: str | None = None,
) -> ChunkScanGradients:
    """Vector-Jacobian product of `chunk_scan`: gradients of sum(dout out) + sum(dfinal_states final_states).

    Parameters
    ----------
    dout : as x
    dfinal_states : (batch, nheads, headdim, dstate)
        Zero where not given.
    Others as in `chunk_scan`.

    Returns
    -------
    ChunkScanGradients
        In the shapes of the arguments; that of initial_states also where none were given.

    Raises
    ------
    ArgumentError, BackendError
        As in `chunk_scan`.

    Source: reverse-mode differentiation by chunks, see ops/chunk_scan.md.
    """
    choice = backends.choose("chunk_scan", ENTRIES, backend)
    arrays = dict(zip(ARGUMENTS, (x, dt, A, B, C, D, z, dt_bias, initial_states), strict=True))
    prepared = _prepare(arrays, seq_idx, dt_softplus, dt_limit)
    SPEC.check_dtype("dout", dout)
    if dout.shape != x.shape:
        SPEC.fail("dout", f"shape {x.shape} like x", dout.shape, "pass the gradient of the output as it came out")
    state_shape = (x.shape[0], *x.shape[2:], B.shape[3])
    if dfinal_states is not None and dfinal_states.shape != state_shape:
        SPEC.fail("dfinal_states", f"shape {state_shape}", dfinal_states.shape, "pass them as final_states came out")
    threads = resolve(num_threads)
    dz = states = None
    dy = dout
    if z is not None:
        y, _, states = backends.entry(choice, "chunk_scan_fwd")(*prepared.arrays, keep_states=True, num_threads=threads)
        gate = sigmoid(z)
        dz = (dout * y * gate * (1 + z * (1 - gate))).astype(z.dtype, copy=False)
        dy = (dout * z * gate).astype(dout.dtype, copy=False)
    dx, ddt, dA, dB, dC, dD, dinitial_states = backends.entry(choice, "chunk_scan_bwd")(
        dy, dfinal_states, *prepared.arrays, states, num_threads=threads
    )
    low, high = dt_limit
    ddt = ddt * ((prepared.soft >= low) & (prepared.soft <= high))
    if dt_softplus:
        ddt = ddt * np.where(prepared.raw > 20, 1, sigmoid(prepared.raw))
    ddt = ddt.astype(x.dtype, copy=False)
    ddt_bias = None if dt_bias is None else ddt.sum(axis=(0, 1))
    if D is not None and D.ndim == 1:
        dD = dD.sum(axis=1)
    return ChunkScanGradients(dx, ddt, dA, dB, dC, dD, dz, ddt_bias, dinitial_states)
