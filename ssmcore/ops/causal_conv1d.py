"""Causal depthwise convolution with SiLU, states and gradients. Derivation: causal_conv1d.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from .. import backends
from .._conventions import spread_sequences
from .._spec import Argument, Call, OpSpec, Output, Sizes, Tolerance

Array = NDArray[Any]


class CausalConv1dGradients(NamedTuple):
    """Gradients in the shapes of the arguments; None for an argument that was not given."""

    x: Array
    weight: Array
    bias: Array | None
    initial_state: Array | None


SPEC = OpSpec(
    name="causal_conv1d",
    summary="convolution over time, SiLU, states",
    arguments=(
        Argument("x", ("batch seqlen dim",), "input"),
        Argument("weight", ("dim taps",), "taps, the earliest input's first"),
        Argument("bias", ("dim",), "added to the sum", optional=True),
        Argument("initial_state", ("batch dim past",), "the taps - 1 inputs before the first", optional=True),
    ),
    outputs=(Output("out", "batch seqlen dim"),),
    options={"activation": (None, "silu", "swish"), "layout": ("bdl", "bld")},
    forward=Tolerance(
        float32=2e-6, float64=2e-15, reason="a sum of at most 16 terms in the samples, and a sigmoid of a few roundings"
    ),
    gradient=Tolerance(
        float32=8e-6, float64=1e-14, reason="dweight sums over time and batch terms of either sign, a few hundred in the samples"
    ),
)  # fmt: skip

ARGUMENTS = tuple(argument.name for argument in SPEC.arguments)
_IN_LAYOUT = {"bdl": SPEC.channel_first(), "bld": SPEC}


def check(shapes: Mapping[str, tuple[int, ...] | None], *, activation: str | None, layout: str) -> Sizes:
    """Sizes of the axes, from shapes in the caller's layout. Raises ArgumentError."""
    SPEC.check_option("activation", activation)
    SPEC.check_option("layout", layout)
    weight = shapes["weight"]
    if weight is not None and len(weight) == 2 and weight[1] < 1:
        SPEC.fail("weight", "at least one tap", f"shape {weight}", "give the present input a weight")
    sizes = _IN_LAYOUT[layout].check_shapes(shapes)
    if sizes.get("past", sizes["taps"] - 1) != sizes["taps"] - 1:
        expected = f"{sizes['taps'] - 1} steps, one fewer than taps"
        SPEC.fail("initial_state", expected, sizes["past"], "keep the last_state of the piece before")
    return sizes


def _call(
    arrays: Mapping[str, Array | None], activation: str | None, layout: str, seq_idx: Array | None
) -> tuple[Call, Sizes, _Packing | None]:
    """The checked call, the sizes of its axes, and how its packed sequences lie apart."""
    sizes, packing = check(SPEC.shapes_of(arrays), activation=activation, layout=layout), None
    sequence = _bld(arrays["x"], layout)
    if seq_idx is not None:
        SPEC.check_seq_idx(seq_idx, sizes)
        packing = _Packing(seq_idx, sizes["taps"] - 1)
        sequence = packing.spread(sequence)
    return Call(SPEC, {**arrays, "x": sequence}, {"activation": activation, "layout": layout}), sizes, packing


# fmt: off
@overload
def causal_conv1d(
    x: Array, weight: Array, bias: Array | None = None, initial_state: Array | None = None, return_last_state: Literal[False] = False,
    activation: str | None = None, *, seq_idx: Array | None = None, layout: str = "bdl", out: Array | None = None,
    num_threads: int | None = None, backend: str | None = None,
) -> Array: ...
@overload
def causal_conv1d(
    x: Array, weight: Array, bias: Array | None = None, initial_state: Array | None = None, return_last_state: Literal[True] = ...,
    activation: str | None = None, *, seq_idx: Array | None = None, layout: str = "bdl", out: Array | None = None,
    num_threads: int | None = None, backend: str | None = None,
) -> tuple[Array, Array]: ...
@overload
def causal_conv1d(
    x: Array, weight: Array, bias: Array | None = None, initial_state: Array | None = None, return_last_state: bool = ...,
    activation: str | None = None, *, seq_idx: Array | None = None, layout: str = "bdl", out: Array | None = None,
    num_threads: int | None = None, backend: str | None = None,
) -> Array | tuple[Array, Array]: ...
# fmt: on
def causal_conv1d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    initial_state: Array | None = None,
    return_last_state: bool = False,
    activation: str | None = None,
    *,
    seq_idx: Array | None = None,
    layout: str = "bdl",
    out: Array | None = None,
    num_threads: int | None = None,
    backend: str | None = None,
) -> Array | tuple[Array, Array]:
    """Causal depthwise convolution: ``out[t] = act(bias + sum_k weight[k] x[t - (taps - 1) + k])``.

    Parameters
    ----------
    x : (batch, dim, seqlen), or (batch, seqlen, dim) for layout "bld"
        Any strides. float32, float64, or float16 computed in float32.
    weight : (dim, taps)
        Any number of taps.
    bias : (dim,)
    initial_state : (batch, dim, taps - 1)
        The inputs before the first; zeros if not given.
    return_last_state : bool
        Also return the last taps - 1 inputs, (batch, dim, taps - 1).
    activation : None, "silu" or "swish", which is the same
    seq_idx : (batch, seqlen) integers
        Numbers the sequences packed into each row. Taps do not reach from one sequence into the one before. The initial state
        belongs to a row's first sequence, the last state to its last. Where the number is below 0, the output is 0.
    out, num_threads, backend : as in `selective_scan`

    Returns
    -------
    out, or (out, last_state)
        out as x in shape and dtype, C-contiguous.

    Raises
    ------
    ArgumentError, BackendError
        As in `selective_scan`.

    Source: Gu and Dao, Mamba, figure 3; the interface follows Dao-AILab's causal-conv1d.

    Examples
    --------
    A running sum of two:

    >>> import numpy as np, ssmcore
    >>> ssmcore.causal_conv1d(np.arange(4.0).reshape(1, 1, 4), np.ones((1, 2)))
    array([[[0., 1., 3., 5.]]])
    """
    arrays = dict(zip(ARGUMENTS, (x, weight, bias, initial_state), strict=True))
    call, sizes, packing = _call(arrays, activation, layout, seq_idx)
    if out is not None:
        SPEC.check_out(out, x, arrays)
        call.into = () if packing else (_bld(out, layout),)
    (found,) = backends.run(call, backend=backend, num_threads=num_threads)
    if packing is not None:
        found = packing.gather(found)
    if out is None:
        out = np.ascontiguousarray(_bld(found, layout))
    elif packing is not None:
        out[...] = _bld(found, layout)
    if not return_last_state:
        return out
    if packing is not None:
        return out, packing.last(call.x, initial_state)
    return out, _last_state(call.x, initial_state, sizes["taps"] - 1)


def causal_conv1d_vjp(
    dout: Array,
    x: Array,
    weight: Array,
    bias: Array | None = None,
    initial_state: Array | None = None,
    activation: str | None = None,
    *,
    dlast_state: Array | None = None,
    seq_idx: Array | None = None,
    layout: str = "bdl",
    num_threads: int | None = None,
    backend: str | None = None,
) -> CausalConv1dGradients:
    """Vector-Jacobian product of `causal_conv1d`: gradients of sum(dout out) + sum(dlast_state last_state).

    Parameters
    ----------
    dout : as x
    dlast_state : (batch, dim, taps - 1)
        Zero if not given.
    Others as in `causal_conv1d`, and errors too.

    Source: see ops/causal_conv1d.md.
    """
    arrays = dict(zip(ARGUMENTS, (x, weight, bias, initial_state), strict=True))
    call, sizes, packing = _call(arrays, activation, layout, seq_idx)
    _IN_LAYOUT[layout].check_gradients(sizes, dout)
    past = sizes["past"] = sizes["taps"] - 1
    if dlast_state is not None:
        SPEC.check_gradient(Output("last_state", "batch dim past"), dlast_state, sizes)
    dsequence = _bld(dout, layout)
    call.douts = (dsequence if packing is None else packing.spread(packing.counted(dsequence)),)
    dx, dweight, dbias, dinitial = backends.run(call, backend=backend, num_threads=num_threads)
    if packing is not None:
        if dlast_state is not None:
            packing.add_last(dlast_state, dx, dinitial)
        dx = packing.gather(dx, counted=False)
    elif dlast_state is not None and past:
        taken = min(past, sizes["seqlen"])  # entries of the last state from x; the others are from the initial state
        dx[:, sizes["seqlen"] - taken :] += dlast_state[:, :, past - taken :].swapaxes(1, 2)
        dinitial[:, :, taken:] += dlast_state[:, :, : past - taken]
    dx = np.ascontiguousarray(_bld(dx, layout))
    return CausalConv1dGradients(dx, dweight, dbias, None if initial_state is None else dinitial)


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

    def last(self, apart: Array, initial_state: Array | None) -> Array:
        before = np.zeros((len(apart), apart.shape[2], self.past), apart.dtype)
        if initial_state is not None:
            before[:] = initial_state
        whole = np.concatenate([before.swapaxes(1, 2), apart], axis=1)
        states: Array = np.ascontiguousarray(whole[self.rows, self._ends()].swapaxes(1, 2))
        return states

    def add_last(self, dlast: Array, dapart: Array, dinitial: Array) -> None:
        dwhole = np.zeros((len(dapart), self.past + self.length, dapart.shape[2]), dapart.dtype)
        dwhole[self.rows, self._ends()] = dlast.swapaxes(1, 2)
        dapart += dwhole[:, self.past :]
        dinitial += dwhole[:, : self.past].swapaxes(1, 2)


def _last_state(x: Any, initial_state: Any, past: int) -> Any:
    """The last `past` entries of (initial_state, x), x being (batch, seqlen, dim); (batch, dim, past), an array."""
    batch, seqlen, dim = x.shape
    states = np.zeros((batch, dim, past), x.dtype)
    taken = min(past, seqlen)
    states[:, :, past - taken :] = x[:, seqlen - taken :].swapaxes(1, 2)
    if initial_state is not None:
        states[:, :, : past - taken] = initial_state[:, :, taken:]
    return states


def _bld(x: Any, layout: str) -> Any:
    return x.swapaxes(1, 2) if layout == "bdl" else x
