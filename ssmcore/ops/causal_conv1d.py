"""Causal depthwise convolution with SiLU, states and gradients. Derivation: causal_conv1d.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import backends
from .._conventions import spread_sequences
from .._spec import Argument, ArgumentTypeError, Case, Cases, OpSpec, Output, Sizes, Tolerance
from ..backends._threads import resolve

Array = NDArray[Any]
ENTRIES = ("causal_conv1d_fwd", "causal_conv1d_bwd")


class CausalConv1dGradients(NamedTuple):
    """Gradients in the shapes of the arguments; None for an argument that was not given."""

    x: Array
    weight: Array
    bias: Array | None
    initial_states: Array | None


def make_case(
    rng: np.random.Generator,
    dtype: Any,
    *,
    batch: int = 2,
    dim: int = 6,
    seqlen: int = 17,
    taps: int = 4,
    extras: bool = True,
    layout: str = "bdl",
    **options: Any,
) -> Case:
    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(dtype)

    case: Case = {
        "x": normal(batch, dim, seqlen) if layout == "bdl" else normal(batch, seqlen, dim),
        "weight": normal(dim, taps) / taps**0.5,
    }
    case["weight"] = case["weight"].astype(dtype)
    if extras:
        case |= {"bias": normal(dim), "initial_states": normal(batch, dim, taps - 1)}
    return case | {"layout": layout} | options


_cases = Cases(make_case, batch=2, dim=6, seqlen=5, taps=4, extras=False)
_sample, _broken = _cases.sample, _cases.broken

SPEC = OpSpec(
    name="causal_conv1d",
    summary="each channel convolved with its own taps, the last of which meets the present; SiLU where asked",
    formula="y[t] = bias + sum_k weight[k] x[t - (taps - 1) + k]; out = y or silu(y)",
    source="Gu and Dao, Mamba, figure 3; Dao-AILab causal-conv1d",
    entries=ENTRIES,
    arguments=(
        Argument("x", ("batch seqlen dim",), "input"),
        Argument("weight", ("dim taps",), "taps, the earliest input's first"),
        Argument("bias", ("dim",), "added to the sum", optional=True),
        Argument("initial_states", ("batch dim past",), "the taps - 1 inputs before the first", optional=True),
    ),
    outputs=(Output("out", "batch seqlen dim"),),
    options={"activation": (None, "silu", "swish"), "layout": ("bdl", "bld")},
    forward=Tolerance(
        float32=2e-6, float64=2e-15, reason="a sum of at most 16 terms in the samples, and a sigmoid of a few roundings"
    ),
    gradient=Tolerance(
        float32=8e-6, float64=1e-14, reason="dweight sums over time and batch terms of either sign, a few hundred in the samples"
    ),
    samples=(
        _sample("plain", extras=False),
        _sample("everything", activation="silu"),
        _sample("channel-last", layout="bld", activation="silu"),
        _sample("swish without states", activation="swish", extras=False),
        _sample("two taps", taps=2),
        _sample("three taps", taps=3, layout="bld"),
        _sample("one tap", taps=1),
        _sample("wide", taps=16, seqlen=70, activation="silu"),
        _sample("wider than the sequence", taps=7, seqlen=3),
        _sample("wider than a chunk", taps=70, seqlen=100, dim=2),
        _sample("no step", seqlen=0),
        _sample("one step", seqlen=1),
        _sample("past one chunk", seqlen=65, dim=3),
        _sample("two chunks and a step", seqlen=129, dim=17, layout="bld", activation="silu"),
        _sample("past a unit", dim=131, seqlen=5, layout="bld"),
        _sample("no channel", dim=0),
        _sample("empty batch", batch=0),
    ),
    error_samples=(
        _broken("weight of another dim", ("causal_conv1d: weight: expected shape (6, taps) like x, got (5, 4)",),
                weight=lambda rng: np.ones((5, 4), np.float32)),
        _broken("weight of three axes", ("causal_conv1d: weight: expected shape (6, taps)", "got (6, 1, 4)"),
                weight=lambda rng: np.ones((6, 1, 4), np.float32)),
        _broken("states of too many steps", ("causal_conv1d: initial_states: expected 3 steps", "got 4"),
                initial_states=lambda rng: np.ones((2, 6, 4), np.float32)),
        _broken("no tap", ("causal_conv1d: weight: expected at least one tap, got shape (6, 0)",),
                weight=lambda rng: np.ones((6, 0), np.float32)),
        _broken("integer x", ("causal_conv1d: x: expected dtype", "got int64", "astype"), TypeError,
                x=lambda rng: np.ones((2, 6, 5), np.int64)),
        _broken("unknown activation", ("causal_conv1d: activation: expected one of None, 'silu', 'swish', got 'relu'",),
                activation="relu"),
        _broken("unknown layout", ("causal_conv1d: layout: expected one of 'bdl', 'bld', got 'ldb'",), layout="ldb"),
    ),
    benchmarks=(
        _sample("B1 D1536 L2048 W4 silu", batch=1, dim=1536, seqlen=2048, layout="bld", activation="silu"),
        _sample("B1 D1536 L2048 W4 silu channel-first", batch=1, dim=1536, seqlen=2048, activation="silu"),
    ),
)  # fmt: skip

ARGUMENTS = tuple(argument.name for argument in SPEC.arguments)


def check(shapes: Mapping[str, tuple[int, ...] | None], *, activation: str | None, layout: str) -> Sizes:
    """Sizes of the axes, from shapes in the caller's layout. Raises ArgumentError."""
    SPEC.check_option("activation", activation)
    SPEC.check_option("layout", layout)
    weight = shapes["weight"]
    if weight is not None and len(weight) == 2 and weight[1] < 1:
        SPEC.fail("weight", "at least one tap", f"shape {weight}", "give the present input a weight")
    x = shapes["x"]
    if x is not None and len(x) == 3 and layout == "bdl":
        shapes = {**shapes, "x": (x[0], x[2], x[1])}
    sizes = SPEC.check_shapes(shapes)
    if sizes.get("past", sizes["taps"] - 1) != sizes["taps"] - 1:
        expected = f"{sizes['taps'] - 1} steps, one fewer than taps"
        SPEC.fail("initial_states", expected, sizes["past"], "keep the final_states of the piece before")
    return sizes


def causal_conv1d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    initial_states: Array | None = None,
    return_final_states: bool = False,
    activation: str | None = None,
    *,
    seq_idx: Array | None = None,
    layout: str = "bdl",
    num_threads: int | None = None,
    backend: str | None = None,
) -> Any:
    """Causal depthwise convolution: ``out[t] = act(bias + sum_k weight[k] x[t - (taps - 1) + k])``.

    Parameters
    ----------
    x : (batch, dim, seqlen), or (batch, seqlen, dim) for layout "bld"
        Any strides. float32, float64, or float16 computed in float32.
    weight : (dim, taps)
        Any number of taps.
    bias : (dim,)
    initial_states : (batch, dim, taps - 1)
        The inputs before the first, zeros where not given.
    return_final_states : bool
        Also return the last taps - 1 inputs, (batch, dim, taps - 1).
    activation : None, "silu" or "swish", which is the same
    seq_idx : (batch, seqlen) integers
        Several sequences packed into each row: one begins wherever it changes, and taps do not reach back over that. Initial states
        are those of a row's first sequence, final states those of its last. Where it is below 0 the output is 0.
    num_threads, backend
        As in `selective_scan`.

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

    Source: Gu and Dao, Mamba, figure 3; the interface follows Dao-AILab's causal-conv1d.

    Examples
    --------
    A running sum of two:

    >>> import numpy as np, ssmcore
    >>> ssmcore.causal_conv1d(np.arange(4.0).reshape(1, 1, 4), np.ones((1, 2)))
    array([[[0., 1., 3., 5.]]])
    """
    choice = backends.choose("causal_conv1d", ENTRIES, backend)
    arrays = dict(zip(ARGUMENTS, (x, weight, bias, initial_states), strict=True))
    sizes = check(SPEC.shapes_of(arrays), activation=activation, layout=layout)
    sequence, packing = _bld(x, layout), None
    if seq_idx is not None:
        check_seq_idx(seq_idx, sizes)
        packing = _Packing(seq_idx, sizes["taps"] - 1)
        sequence = packing.spread(sequence)
    out = backends.entry(choice, "causal_conv1d_fwd")(
        sequence,
        weight,
        bias,
        initial_states,
        silu=activation is not None,
        channel_first=layout == "bdl",
        num_threads=resolve(num_threads),
    )
    if packing is not None:
        out = packing.gather(out)
    out = np.ascontiguousarray(_bld(out, layout))
    if not return_final_states:
        return out
    past = weight.shape[1] - 1
    last = final_states(sequence, initial_states, past) if packing is None else packing.last(sequence, initial_states)
    return out, last


def causal_conv1d_vjp(
    dout: Array,
    x: Array,
    weight: Array,
    bias: Array | None = None,
    initial_states: Array | None = None,
    activation: str | None = None,
    *,
    dfinal_states: Array | None = None,
    seq_idx: Array | None = None,
    layout: str = "bdl",
    num_threads: int | None = None,
    backend: str | None = None,
) -> CausalConv1dGradients:
    """Vector-Jacobian product of `causal_conv1d`: gradients of sum(dout out) + sum(dfinal_states final_states).

    Parameters
    ----------
    dout : as x
    dfinal_states : (batch, dim, taps - 1)
        Zero where not given.
    Others as in `causal_conv1d`.

    Returns
    -------
    CausalConv1dGradients
        In the shapes of the arguments.

    Raises
    ------
    ArgumentError, BackendError
        As in `causal_conv1d`.

    Source: see ops/causal_conv1d.md.
    """
    choice = backends.choose("causal_conv1d", ENTRIES, backend)
    arrays = dict(zip(ARGUMENTS, (x, weight, bias, initial_states), strict=True))
    sizes = check(SPEC.shapes_of(arrays), activation=activation, layout=layout)
    SPEC.check_dtype("dout", dout)
    if dout.shape != x.shape:
        SPEC.fail("dout", f"shape {x.shape} like x", dout.shape, "pass the gradient of the output as it came out")
    past = sizes["taps"] - 1
    state_shape = (sizes["batch"], sizes["dim"], past)
    if dfinal_states is not None and dfinal_states.shape != state_shape:
        SPEC.fail("dfinal_states", f"shape {state_shape}", dfinal_states.shape, "its axes are (batch, dim, taps - 1)")
    dsequence, sequence, packing = _bld(dout, layout), _bld(x, layout), None
    if seq_idx is not None:
        check_seq_idx(seq_idx, sizes)
        packing = _Packing(seq_idx, past)
        dsequence, sequence = packing.spread(packing.counted(dsequence)), packing.spread(sequence)
    dx, dweight, dbias, dinitial = backends.entry(choice, "causal_conv1d_bwd")(
        dsequence,
        sequence,
        weight,
        bias,
        initial_states,
        silu=activation is not None,
        channel_first=layout == "bdl",
        num_threads=resolve(num_threads),
    )
    if packing is not None:
        if dfinal_states is not None:
            packing.add_last(dfinal_states, dx, dinitial)
        dx = packing.gather(dx, counted=False)
    elif dfinal_states is not None and past:
        taken = min(past, sizes["seqlen"])  # of the final states, from x; the rest were initial ones
        dx[:, sizes["seqlen"] - taken :] += dfinal_states[:, :, past - taken :].swapaxes(1, 2)
        dinitial[:, :, taken:] += dfinal_states[:, :, : past - taken]
    dx = np.ascontiguousarray(_bld(dx, layout))
    return CausalConv1dGradients(dx, dweight, dbias, None if initial_states is None else dinitial)


def check_seq_idx(seq_idx: Any, sizes: Sizes) -> None:
    """Raises ArgumentError unless `seq_idx` is an array or tensor of integers (batch, seqlen)."""
    expected = (sizes["batch"], sizes["seqlen"])
    if not hasattr(seq_idx, "dtype") or "int" not in str(seq_idx.dtype):
        got = getattr(seq_idx, "dtype", type(seq_idx).__name__)
        remedy = "number the sequence of every step"
        SPEC.fail("seq_idx", "integers (batch, seqlen)", got, remedy, kind=ArgumentTypeError)
    if tuple(seq_idx.shape) != expected:
        SPEC.fail("seq_idx", f"shape {expected}", tuple(seq_idx.shape), "number the sequence of every step")


class _Packing:
    """Packed sequences apart from each other and back; sequences are (batch, seqlen, dim)."""

    def __init__(self, seq_idx: Array, past: int) -> None:
        self.past = past
        self.positions, self.length = spread_sequences(seq_idx, past)
        self.rows = np.arange(len(seq_idx))[:, None]
        self.padding = seq_idx < 0

    def spread(self, x: Array) -> Array:
        apart = np.zeros((x.shape[0], self.length, x.shape[2]), x.dtype)
        apart[self.rows, self.positions] = x
        return apart

    def counted(self, x: Array) -> Array:
        return np.where(self.padding[:, :, None], np.zeros((), x.dtype), x) if self.padding.any() else x

    def gather(self, apart: Array, *, counted: bool = True) -> Array:
        x: Array = apart[self.rows, self.positions]
        return self.counted(x) if counted else x

    def _ends(self) -> Array:
        """Where the last inputs lie in (initial states, apart)."""
        if not self.positions.shape[1]:
            return np.broadcast_to(np.arange(self.past), (len(self.positions), self.past))
        return self.positions[:, -1:] + 1 + np.arange(self.past)

    def last(self, apart: Array, initial_states: Array | None) -> Array:
        before = np.zeros((len(apart), apart.shape[2], self.past), apart.dtype)
        if initial_states is not None:
            before[:] = initial_states
        whole = np.concatenate([before.swapaxes(1, 2), apart], axis=1)
        states: Array = np.ascontiguousarray(whole[self.rows, self._ends()].swapaxes(1, 2))
        return states

    def add_last(self, dlast: Array, dapart: Array, dinitial: Array) -> None:
        dwhole = np.zeros((len(dapart), self.past + self.length, dapart.shape[2]), dapart.dtype)
        dwhole[self.rows, self._ends()] = dlast.swapaxes(1, 2)
        dapart += dwhole[:, self.past :]
        dinitial += dwhole[:, : self.past].swapaxes(1, 2)


def final_states(x: Any, initial_states: Any, past: int) -> Any:
    """The last `past` entries of (initial_states, x), x being (batch, seqlen, dim); (batch, dim, past), an array."""
    batch, seqlen, dim = x.shape
    states = np.zeros((batch, dim, past), x.dtype)
    taken = min(past, seqlen)
    states[:, :, past - taken :] = x[:, seqlen - taken :].swapaxes(1, 2)
    if initial_states is not None:
        states[:, :, : past - taken] = initial_states[:, :, taken:]
    return states


def _bld(x: Array, layout: str) -> Array:
    return x.swapaxes(1, 2) if layout == "bdl" else x
