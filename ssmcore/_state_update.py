"""One step of a selective scan on states that are kept: what a language model does for each token it writes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._spec import ArgumentTypeError, fail
from .ops.selective_scan import selective_scan

Array = NDArray[Any]
NAME = "selective_state_update"


def _check(name: str, array: object, *shapes: tuple[int, ...]) -> None:
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        got = getattr(array, "dtype", type(array).__name__)
        fail(NAME, name, "a NumPy array of floats", got, "convert it", ArgumentTypeError)
    if array.shape not in shapes:
        fail(NAME, name, " or ".join(str(shape) for shape in shapes), array.shape, "make it fit state, x and B")


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
        With `state_batch_indices`, its first axis is a cache's and not the batch.
    x, dt, z : (batch, dim) or (batch, nheads, headdim)
    A : (dim, dstate) or (nheads, headdim, dstate)
    B, C : (batch, dstate) or (batch, ngroups, dstate); consecutive channels share a group
    D, dt_bias : (dim) or (nheads, headdim)
    dt_softplus : softplus after the bias
    state_batch_indices : (batch,) integers, or None
        Which state each entry goes on from. Below 0: the entry's output is 0 and no state changes.
    discretization, num_threads, backend : as in `selective_scan`

    Returns
    -------
    out : as x

    Raises
    ------
    ArgumentError
        A shape, dtype or index is wrong, or two entries of the batch name one state; nothing has changed then.

    Source: Gu and Dao, Mamba (2023), section 3; Mamba-AHNet, eq. 2.

    Examples
    --------
    >>> import numpy as np, ssmcore
    >>> state, one = np.ones((1, 1, 1)), np.ones((1, 1))
    >>> out = ssmcore.selective_state_update(state, one, one, A=-one * np.log(2), B=one, C=one)
    >>> out.round(6).item(), state.round(6).item()
    (1.5, 1.5)
    """
    if not isinstance(state, np.ndarray) or state.ndim not in (3, 4) or not state.flags.writeable:
        got = (
            f"{state.shape}, writeable: {state.flags.writeable}"
            if isinstance(state, np.ndarray)
            else type(state).__name__
        )
        expected = "a writeable array (batch, dim, dstate) or (batch, nheads, headdim, dstate)"
        fail(NAME, "state", expected, got, "pass one, since it is changed in place")
    channels, dstate = state.shape[1:-1], state.shape[-1]
    _check("state", state, state.shape)
    batch = x.shape[0] if isinstance(x, np.ndarray) and x.ndim else 0
    for name, array in (("x", x), ("dt", dt), ("z", z)):
        if array is not None:
            _check(name, array, (batch, *channels))
    _check("A", A, (*channels, dstate))
    for name, array in (("B", B), ("C", C)):
        groups = array.shape[1] if isinstance(array, np.ndarray) and array.ndim == 3 else 1
        if groups < 1 or channels[0] % groups:
            fail(NAME, name, f"a number of groups that divides {channels[0]}", groups, "make channels and groups agree")
        _check(name, array, (batch, dstate), (batch, groups, dstate))
    for name, array in (("D", D), ("dt_bias", dt_bias)):
        if array is not None:
            _check(name, array, channels)
    if state_batch_indices is None:
        if state.shape[0] != batch:
            fail(NAME, "x", f"a batch of {state.shape[0]}, as state has", batch, "pass state_batch_indices for a cache")
        rows, used = np.arange(batch), np.arange(batch)
    else:
        rows = _rows(state_batch_indices, batch, len(state))
        used = np.flatnonzero(rows >= 0)
        rows = rows[used]
    dim = int(np.prod(channels))

    def a_step(array: Array | None) -> Array | None:
        return None if array is None else array.reshape(batch, 1, dim)[used]

    def matrix(array: Array) -> Array:
        return array[used].reshape(len(used), 1, -1, dstate)

    def flat(array: Array | None, *shape: int) -> Array | None:
        return None if array is None else array.reshape(dim, *shape).astype(x.dtype, copy=False)

    y, last = selective_scan(
        a_step(x),  # type: ignore[arg-type]
        a_step(dt.astype(x.dtype, copy=False)),  # type: ignore[arg-type]
        flat(A, dstate),  # type: ignore[arg-type]
        matrix(B.astype(x.dtype, copy=False)),
        matrix(C.astype(x.dtype, copy=False)),
        flat(D),
        None if z is None else a_step(z.astype(x.dtype, copy=False)),
        flat(dt_bias),
        dt_softplus,
        True,
        discretization=discretization,
        initial_state=state[rows].reshape(len(used), dim, dstate).astype(x.dtype, copy=False),
        layout="bld",
        num_threads=num_threads,
        backend=backend,
    )
    state[rows] = last.reshape(len(used), *channels, dstate)
    out = np.zeros(x.shape, x.dtype)
    out[used] = y.reshape(len(used), *channels)
    return out


def _rows(indices: Array, batch: int, states: int) -> Array:
    rows = np.asarray(indices)
    if rows.dtype.kind not in "iu" or rows.shape != (batch,):
        got = f"{rows.dtype} {rows.shape}"
        fail(NAME, "state_batch_indices", f"integers ({batch},)", got, "pass one state for each entry")
    if (rows >= states).any():
        fail(NAME, "state_batch_indices", f"less than {states}, the number of states", rows.max(), "enlarge the cache")
    kept = rows[rows >= 0]
    if len(np.unique(kept)) < len(kept):
        fail(
            NAME, "state_batch_indices", "each state at most once", rows.tolist(), "give each entry a state of its own"
        )
    return rows
