"""Steps on kept states, which change in place: one for each token of a language model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import backends
from ._spec import Argument, Call, OpSpec, Sizes, check_option, fail
from .ops import causal_conv1d as _conv
from .ops import selective_scan as _scan
from .ops.causal_conv1d import causal_conv1d
from .ops.selective_scan import selective_scan

Array = NDArray[Any]
_DISCRETIZATIONS = _scan.SPEC.options["discretization"]
_ACTIVATIONS = _conv.SPEC.options["activation"]
_WIDE = (np.dtype(np.float32), np.dtype(np.float64))


def _step(of: OpSpec, name: str, optional: str, **shapes: str) -> OpSpec:
    """The record of a step, from that of its operation: the admitted shapes of each argument, apart by commas."""
    arguments = (Argument(n, tuple(axes.split(", ")), "", n in optional.split()) for n, axes in shapes.items())
    return replace(of, name=name, arguments=tuple(arguments))


def _scan_step(channels: str) -> OpSpec:
    x, matrix = f"batch {channels}", "batch dstate, batch ngroups dstate"
    given = {"state": "states dim dstate, states nheads headdim dstate", "x": x, "dt": x, "A": f"{channels} dstate"}
    given |= {"B": matrix, "C": matrix, "D": channels, "z": x, "dt_bias": channels}
    return _step(_scan.SPEC, "selective_state_update", "D z dt_bias", **given)


SCAN, SCAN_OF_HEADS = _scan_step("dim"), _scan_step("nheads headdim")
_WITH_TAPS = {"conv_state": "states dim past", "x": "batch dim, batch dim seqlen", "weight": "dim taps", "bias": "dim"}
CONVOLUTION = _step(_conv.SPEC, "causal_conv1d_update", "bias", **_WITH_TAPS)


def check_scan(shapes: Mapping[str, tuple[int, ...] | None]) -> Sizes:
    """Sizes of the axes of a scan's step. Raises ArgumentError."""
    spec = SCAN_OF_HEADS if len(shapes["state"] or ()) == 4 else SCAN
    sizes = spec.check_shapes(shapes)
    groups, channels = sizes.get("ngroups", 1), sizes["nheads" if "nheads" in sizes else "dim"]
    if groups < 1 or channels % groups:
        name = next(name for name in "BC" if len(shapes[name] or ()) == 3)
        spec.fail(name, f"a number of groups that divides {channels}", groups, "make channels and groups agree")
    return sizes


def check_convolution(shapes: Mapping[str, tuple[int, ...] | None]) -> Sizes:
    """Sizes of the axes of a convolution's step. Raises ArgumentError."""
    sizes = CONVOLUTION.check_shapes(shapes)
    if sizes["past"] < sizes["taps"] - 1:
        expected = f"at least {sizes['taps'] - 1} steps, one fewer than taps"
        CONVOLUTION.fail("conv_state", expected, sizes["past"], "keep that many")
    return sizes


def check_seen(seen: Array, batch: int) -> None:
    """Raises ArgumentError unless these can be the steps that each entry of the batch has seen."""
    if seen.dtype.kind not in "iu" or seen.shape != (batch,) or (seen < 0).any():
        expected, got = f"integers ({batch},) of at least 0", f"{seen.dtype} {seen.shape} from {seen.min(initial=0)}"
        CONVOLUTION.fail("cache_seqlens", expected, got, "pass the steps seen by each entry")


def _check_writeable(spec: OpSpec, name: str, state: Array) -> None:
    if not state.flags.writeable:
        spec.fail(name, "a writeable array", "one that is read only", "pass a copy, since it is changed in place")


def _fits(array: object, dtype: Any, shape: tuple[int, ...]) -> bool:
    return type(array) is np.ndarray and array.dtype == dtype and array.shape == shape and array.flags.aligned


def _packed(array: Any, dtype: Any, shape: tuple[int, ...]) -> bool:
    return _fits(array, dtype, shape) and bool(array.flags.c_contiguous)


def _usual_scan(
    state: Any, x: Any, dt: Any, A: Any, B: Any, C: Any, D: Any, z: Any, dt_bias: Any, *, ngroups: int | None
) -> bool:
    """Whether all arrays are sound, of one wide dtype, and lie as the kernels read them."""
    dtype, shape = x.dtype, x.shape
    if dtype not in _WIDE or not x.flags.aligned or len(shape) != 2 or not shape[0] or not shape[1]:
        return False
    batch, dim = shape
    dstate = state.shape[-1]
    matrix = (batch, dstate) if ngroups is None else (batch, ngroups, dstate)
    return (
        dstate > 0
        and (ngroups is None or (ngroups > 0 and dim % ngroups == 0))
        and _packed(state, dtype, (batch, dim, dstate))
        and bool(state.flags.writeable)
        and _fits(dt, dtype, shape)
        and _packed(A, dtype, (dim, dstate))
        and _fits(B, dtype, matrix)
        and _fits(C, dtype, matrix)
        and (D is None or _packed(D, dtype, (dim,)))
        and (z is None or _fits(z, dtype, shape))
        and (dt_bias is None or _packed(dt_bias, dtype, (dim,)))
    )


def _usual_convolution(x: Array, conv_state: Array, weight: Any, bias: Any) -> bool:
    """Whether all arrays are sound, of one wide dtype, and lie as the kernels read them."""
    dtype = x.dtype
    if (
        dtype not in _WIDE
        or not x.flags.aligned
        or not x.size
        or conv_state.ndim != 3
        or type(weight) is not np.ndarray
        or weight.ndim != 2
    ):
        return False
    (batch, dim), (_, _, past) = x.shape, conv_state.shape
    taps = weight.shape[1]
    return (
        1 <= taps <= past + 1
        and past > 0
        and _packed(conv_state, dtype, (batch, dim, past))
        and bool(conv_state.flags.writeable)
        and _packed(weight, dtype, (dim, taps))
        and (bias is None or _packed(bias, dtype, (dim,)))
    )


def _wide(x: Array, arrays: dict[str, Any]) -> dict[str, Any]:
    """The arrays in float64 for float64 x, else in float32, so that no state or weight is rounded to a float16 x."""
    dtype = _WIDE[int(x.dtype == np.float64)]
    return {name: None if array is None else array.astype(dtype, copy=False) for name, array in arrays.items()}


def rows_of(operation: str, name: str, indices: Array | None, batch: int, states: int) -> tuple[Any, Any]:
    """Indices of the entries of the batch that have a state, and of their states."""
    if indices is None:
        if states != batch:
            fail(operation, "x", f"a batch of {states}, as the states are", batch, f"pass {name} for a cache of states")
        return slice(None), slice(None)
    rows = np.asarray(indices)
    if rows.dtype.kind not in "iu" or rows.shape != (batch,):
        fail(operation, name, f"integers ({batch},)", f"{rows.dtype} {rows.shape}", "pass one state for each entry")
    if (rows >= states).any():
        fail(operation, name, f"less than {states}, the number of states", rows.max(), "enlarge the cache")
    used = np.flatnonzero(rows >= 0)
    if len(np.unique(rows[used])) < len(used):
        fail(operation, name, "each state at most once", rows.tolist(), "give each entry a state of its own")
    return used, rows[used]


def scan_arguments(
    used: Any, rows: Any, state: Any, x: Any, dt: Any, A: Any, B: Any, C: Any, D: Any, z: Any, dt_bias: Any
) -> dict[str, Any]:
    """Arguments of a scan of one step, from arrays or tensors and the indices of `rows_of`."""
    n, dim, dstate = len(x[used]), prod(x.shape[1:]), state.shape[-1]

    def a_step(array: Any) -> Any:
        return None if array is None else array[used].reshape(n, 1, dim)

    def matrix(array: Any) -> Any:
        return array[used].reshape(n, 1, array.shape[1] if array.ndim == 3 else 1, dstate)

    D, dt_bias = (None if array is None else array.reshape(dim) for array in (D, dt_bias))
    system = (A.reshape(dim, dstate), matrix(B), matrix(C), D)
    given = (a_step(x), a_step(dt), *system, a_step(z), dt_bias, state[rows].reshape(n, dim, dstate))
    return dict(zip(_scan.ARGUMENTS, given, strict=True))


def selective_state_update(
    state: Array,
    x: Array,
    dt: Array,
    A: Array,
    B: Array,
    C: Array,
    D: Array | None = None,
    z: Array | None = None,
    dt_bias: Array | None = None,
    dt_softplus: bool = False,
    state_batch_indices: Array | None = None,
    *,
    discretization: str = "mamba",
    num_threads: int | None = None,
    backend: str | None = None,
) -> Array:
    """Advances `state`, in place, by one step: state = A_bar state + B_bar x, out = C state + D x, gated by z.

    Parameters
    ----------
    state : (batch, dim, dstate) or (batch, nheads, headdim, dstate), changed in place
        With `state_batch_indices`, its first axis is a cache's, not the batch.
    x, dt, z : (batch, dim) or (batch, nheads, headdim)
    A : (dim, dstate) or (nheads, headdim, dstate)
    B, C : (batch, dstate) or (batch, ngroups, dstate); consecutive channels share a group
    D, dt_bias : (dim,) or (nheads, headdim)
    dt_softplus : softplus after the bias
    state_batch_indices : (batch,) integers, or None
        The state of each entry. Below 0, the entry's output is 0 and no state changes.
    discretization, num_threads, backend : as in `selective_scan`

    Returns
    -------
    out : as x

    Raises
    ------
    ArgumentError
        A shape, dtype or index is wrong, or two entries of the batch name one state. Nothing has changed then.

    Source: Gu and Dao, Mamba (2023), section 3; Mamba-AHNet, eq. 2.

    Examples
    --------
    >>> import numpy as np, ssmcore
    >>> state, one = np.ones((1, 1, 1)), np.ones((1, 1))
    >>> out = ssmcore.selective_state_update(state, one, one, A=-one * np.log(2), B=one, C=one)
    >>> out.round(6).item(), state.round(6).item()
    (1.5, 1.5)
    """
    name = "selective_state_update"
    if state_batch_indices is None and type(x) is type(state) is type(B) is np.ndarray and state.ndim == 3:
        ngroups = B.shape[1] if B.ndim == 3 else None
        if _usual_scan(state, x, dt, A, B, C, D, z, dt_bias, ngroups=ngroups):
            check_option("selective_scan", "discretization", discretization, _DISCRETIZATIONS)
            sequences = (x, dt, *((B, C) if ngroups else (B[:, None], C[:, None])))
            u, delta, B, C = (array[:, None] for array in sequences)
            given = (u, delta, A, B, C, D, None if z is None else z[:, None], dt_bias, state)
            arrays = dict(zip(_scan.ARGUMENTS, given, strict=True))
            options = {"delta_softplus": bool(dt_softplus), "discretization": discretization, "layout": "bld"}
            out = np.empty(x.shape, x.dtype)
            call = Call(_scan.SPEC, arrays, options, into=(out[:, None], state))
            backends.run(call, backend=backend, num_threads=num_threads)
            return out
    arrays = {"state": state, "x": x, "dt": dt, "A": A, "B": B, "C": C, "D": D, "z": z, "dt_bias": dt_bias}
    sizes = check_scan(SCAN.shapes_of(arrays))
    _check_writeable(SCAN, "state", state)
    used, rows = rows_of(name, "state_batch_indices", state_batch_indices, sizes["batch"], len(state))
    wide = _wide(x, scan_arguments(used, rows, *arrays.values()))
    wide |= {"delta_softplus": dt_softplus, "discretization": discretization, "layout": "bld"}
    y, last = selective_scan(**wide, return_last_state=True, num_threads=num_threads, backend=backend)
    state[rows] = last.reshape(state[rows].shape)
    out = np.zeros(x.shape, x.dtype)
    out[used] = y.reshape(x[used].shape)
    return out


def causal_conv1d_update(
    x: Array,
    conv_state: Array,
    weight: Array,
    bias: Array | None = None,
    activation: str | None = None,
    cache_seqlens: Array | None = None,
    conv_state_indices: Array | None = None,
    *,
    num_threads: int | None = None,
    backend: str | None = None,
) -> Array:
    """The causal convolution of new steps after `conv_state`, which changes in place.

    Parameters
    ----------
    x : (batch, dim) or (batch, dim, seqlen)
    conv_state : (batch, dim, past) with past >= taps - 1, changed in place
        The last `past` inputs. With `conv_state_indices`, its first axis is a cache's, not the batch.
    weight : (dim, taps)
    bias : (dim,)
    activation : None, "silu" or "swish"
    cache_seqlens : (batch,) integers, or None
        The number of steps that each entry has seen. `conv_state` is then a ring: step t lies at t modulo past.
    conv_state_indices : (batch,) integers, or None
        The state of each entry. Below 0, the entry's output is 0 and no state changes.
    num_threads, backend : as in `causal_conv1d`

    Returns
    -------
    out : as x

    Raises
    ------
    ArgumentError
        A shape, dtype, option or index is wrong, or two entries of the batch name one state. Nothing has changed then.

    Source: Gu and Dao, Mamba (2023), section 3.4.

    Examples
    --------
    >>> import numpy as np, ssmcore
    >>> state = np.array([[[1.0, 2.0]]])
    >>> ssmcore.causal_conv1d_update(np.array([[3.0]]), state, np.array([[1.0, 10.0, 100.0]])), state
    (array([[321.]]), array([[[2., 3.]]]))
    """
    name = "causal_conv1d_update"
    alone = cache_seqlens is None and conv_state_indices is None and type(x) is type(conv_state) is np.ndarray
    if alone and x.ndim == 2 and _usual_convolution(x, conv_state, weight, bias):
        check_option("causal_conv1d", "activation", activation, _ACTIVATIONS)
        out = np.empty(x.shape, x.dtype)
        arrays = {"x": x[:, None], "weight": weight, "bias": bias, "initial_state": conv_state}
        call = Call(_conv.SPEC, arrays, {"activation": activation, "layout": "bld"}, into=(out[:, None],))
        if backends.run_entry(name, call, backend=backend, num_threads=num_threads):
            return out
        past = weight.shape[1] - 1
        arrays["initial_state"] = np.ascontiguousarray(conv_state[:, :, conv_state.shape[2] - past :])
        backends.run(call, backend=backend, num_threads=num_threads)
        flat = conv_state.reshape(-1)
        flat[:-1] = flat[1:]  # values that cross from one row into another are overwritten next
        conv_state[:, :, -1] = x
        return out
    arrays = {"conv_state": conv_state, "x": x, "weight": weight, "bias": bias}
    sizes = check_convolution(CONVOLUTION.shapes_of(arrays))
    _check_writeable(CONVOLUTION, "conv_state", conv_state)
    batch, past, taps = sizes["batch"], sizes["past"], sizes["taps"]
    steps = x if x.ndim == 3 else x[:, :, None]
    used, rows = rows_of(name, "conv_state_indices", conv_state_indices, batch, len(conv_state))
    new, seqlen = steps[used], steps.shape[2]
    if cache_seqlens is None:
        known = conv_state[rows]
    else:
        seen = np.asarray(cache_seqlens)
        check_seen(seen, batch)
        oldest_first = (seen[used][:, None, None] + np.arange(past)) % max(past, 1)
        known = np.take_along_axis(conv_state[rows], oldest_first, axis=2)
    given = (new, weight, bias, known[:, :, past - (taps - 1) :])
    wide = _wide(x, dict(zip(_conv.ARGUMENTS, given, strict=True)))
    found = causal_conv1d(**wide, activation=activation, num_threads=num_threads, backend=backend)
    out = np.zeros(x.shape, x.dtype)
    out[used] = found if x.ndim == 3 else found[:, :, 0]
    kept = np.concatenate([known, new.astype(conv_state.dtype, copy=False)], axis=2)[:, :, seqlen:]
    if cache_seqlens is None:
        conv_state[rows] = kept
    else:
        ring = np.empty_like(kept)
        np.put_along_axis(ring, (oldest_first + seqlen) % max(past, 1), kept, axis=2)
        conv_state[rows] = ring
    return out
