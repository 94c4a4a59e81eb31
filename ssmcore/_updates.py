"""Steps on kept states, which change in place: one for each token of a language model."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import backends
from ._spec import ArgumentTypeError, Call, check_option, fail
from .ops import causal_conv1d as _conv
from .ops import selective_scan as _scan
from .ops.causal_conv1d import causal_conv1d
from .ops.selective_scan import selective_scan

Array = NDArray[Any]
_DISCRETIZATIONS = _scan.SPEC.options["discretization"]
_ACTIVATIONS = _conv.SPEC.options["activation"]
_WIDE = (np.dtype(np.float32), np.dtype(np.float64))
_FLOATS = (np.dtype(np.float16), *_WIDE)


def _check(operation: str, name: str, array: object, *shapes: tuple[int, ...]) -> None:
    if not isinstance(array, np.ndarray) or array.dtype not in _FLOATS:
        got = getattr(array, "dtype", type(array).__name__)
        fail(operation, name, "a NumPy array of float16, float32 or float64", got, "convert it", ArgumentTypeError)
    if array.shape not in shapes:
        fail(operation, name, " or ".join(str(shape) for shape in shapes), array.shape, "make the arguments agree")


def _check_state(operation: str, name: str, state: object, axes: dict[int, str]) -> None:
    if not isinstance(state, np.ndarray) or state.ndim not in axes or not state.flags.writeable:
        got = (
            f"{state.shape}, writeable: {state.flags.writeable}"
            if isinstance(state, np.ndarray)
            else type(state).__name__
        )
        expected = f"a writeable array {' or '.join(axes.values())}"
        fail(operation, name, expected, got, "pass one, since it is changed in place")
    _check(operation, name, state, state.shape)


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


def _compute_dtype(x: Array) -> np.dtype[Any]:
    """float64 for float64, else float32, so that no state or weight is rounded to a float16 x."""
    return _WIDE[int(x.dtype == np.float64)]


def _rows(operation: str, name: str, indices: Array | None, batch: int, states: int) -> tuple[Array, Array]:
    """The entries of the batch that have a state, and their states."""
    if indices is None:
        if states != batch:
            fail(operation, "x", f"a batch of {states}, as the states are", batch, f"pass {name} for a cache of states")
        return np.arange(batch), np.arange(batch)
    rows = np.asarray(indices)
    if rows.dtype.kind not in "iu" or rows.shape != (batch,):
        fail(operation, name, f"integers ({batch},)", f"{rows.dtype} {rows.shape}", "pass one state for each entry")
    if (rows >= states).any():
        fail(operation, name, f"less than {states}, the number of states", rows.max(), "enlarge the cache")
    used = np.flatnonzero(rows >= 0)
    if len(np.unique(rows[used])) < len(used):
        fail(operation, name, "each state at most once", rows.tolist(), "give each entry a state of its own")
    return used, rows[used]


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
            call = Call(_scan.SPEC, arrays, options, into=(out[:, None], state), ready=True)
            backends.run(call, backend=backend, num_threads=num_threads)
            return out
    axes = {3: "(batch, dim, dstate)", 4: "(batch, nheads, headdim, dstate)"}
    _check_state(name, "state", state, axes)
    channels, dstate = state.shape[1:-1], state.shape[-1]
    batch = x.shape[0] if isinstance(x, np.ndarray) and x.ndim else 0
    for argument, array in (("x", x), ("dt", dt), ("z", z)):
        if array is not None:
            _check(name, argument, array, (batch, *channels))
    _check(name, "A", A, (*channels, dstate))
    for argument, array in (("B", B), ("C", C)):
        groups = array.shape[1] if isinstance(array, np.ndarray) and array.ndim == 3 else 1
        if groups < 1 or channels[0] % groups:
            fail(
                name,
                argument,
                f"a number of groups that divides {channels[0]}",
                groups,
                "make channels and groups agree",
            )
        _check(name, argument, array, (batch, dstate), (batch, groups, dstate))
    for argument, array in (("D", D), ("dt_bias", dt_bias)):
        if array is not None:
            _check(name, argument, array, channels)
    used, rows = _rows(name, "state_batch_indices", state_batch_indices, batch, len(state))
    dim, dtype = int(np.prod(channels)), _compute_dtype(x)

    def wide(array: Array, *shape: int) -> Array:
        return array.reshape(shape).astype(dtype, copy=False)

    def a_step(array: Array) -> Array:
        return wide(array, batch, 1, dim)[used]

    def matrix(array: Array) -> Array:
        return wide(array[used], len(used), 1, array.shape[1] if array.ndim == 3 else 1, dstate)

    y, last = selective_scan(
        a_step(x),
        a_step(dt),
        wide(A, dim, dstate),
        matrix(B),
        matrix(C),
        None if D is None else wide(D, dim),
        None if z is None else a_step(z),
        None if dt_bias is None else wide(dt_bias, dim),
        dt_softplus,
        True,
        discretization=discretization,
        initial_state=wide(state[rows], len(used), dim, dstate),
        layout="bld",
        num_threads=num_threads,
        backend=backend,
    )
    state[rows] = last.reshape(len(used), *channels, dstate)
    out = np.zeros(x.shape, x.dtype)
    out[used] = y.reshape(len(used), *channels)
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
        initial = np.ascontiguousarray(conv_state[:, :, conv_state.shape[2] - (weight.shape[1] - 1) :])
        arrays = dict(zip(_conv.ARGUMENTS, (x[:, None], weight, bias, initial), strict=True))
        out = np.empty(x.shape, x.dtype)
        call = Call(_conv.SPEC, arrays, {"activation": activation, "layout": "bld"}, into=(out[:, None],), ready=True)
        backends.run(call, backend=backend, num_threads=num_threads)
        flat = conv_state.reshape(-1)
        flat[:-1] = flat[1:]  # values that cross from one row into another are overwritten next
        conv_state[:, :, -1] = x
        return out
    _check_state(name, "conv_state", conv_state, {3: "(batch, dim, past)"})
    states, dim, past = conv_state.shape
    if not isinstance(x, np.ndarray) or x.ndim not in (2, 3):
        got = getattr(x, "shape", type(x).__name__)
        fail(name, "x", "(batch, dim) or (batch, dim, seqlen)", got, "pass the new steps")
    batch = x.shape[0]
    _check(name, "x", x, (batch, dim, *x.shape[2:]))
    steps = x if x.ndim == 3 else x[:, :, None]
    taps = weight.shape[1] if isinstance(weight, np.ndarray) and weight.ndim == 2 else 1
    _check(name, "weight", weight, (dim, max(taps, 1)))
    if past < taps - 1:
        fail(name, "conv_state", f"at least {taps - 1} steps, one fewer than taps", past, "keep that many")
    if bias is not None:
        _check(name, "bias", bias, (dim,))
    used, rows = _rows(name, "conv_state_indices", conv_state_indices, batch, states)
    new, seqlen = steps[used], steps.shape[2]
    if cache_seqlens is None:
        known = conv_state[rows]
    else:
        seen = np.asarray(cache_seqlens)
        if seen.dtype.kind not in "iu" or seen.shape != (batch,) or (seen < 0).any():
            got = f"{seen.dtype} {seen.shape} from {seen.min() if seen.size else 0}"
            fail(name, "cache_seqlens", f"integers ({batch},) of at least 0", got, "pass the steps seen by each entry")
        oldest_first = (seen[used][:, None, None] + np.arange(past)) % max(past, 1)
        known = np.take_along_axis(conv_state[rows], oldest_first, axis=2)
    out, dtype = np.zeros(x.shape, x.dtype), _compute_dtype(x)
    found = causal_conv1d(
        new.astype(dtype, copy=False),
        weight.astype(dtype, copy=False),
        None if bias is None else bias.astype(dtype, copy=False),
        known[:, :, past - (taps - 1) :].astype(dtype, copy=False),
        activation=activation,
        num_threads=num_threads,
        backend=backend,
    )
    out[used] = found.reshape(len(used), *x.shape[1:])
    kept = np.concatenate([known, new.astype(conv_state.dtype, copy=False)], axis=2)[:, :, seqlen:]
    if cache_seqlens is None:
        conv_state[rows] = kept
    else:
        ring = np.empty_like(kept)
        np.put_along_axis(ring, (oldest_first + seqlen) % max(past, 1), kept, axis=2)
        conv_state[rows] = ring
    return out
