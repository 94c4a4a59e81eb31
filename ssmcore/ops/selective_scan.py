"""Selective scan: the recurrence of Mamba, forward and vector-Jacobian product. Derivation: selective_scan.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple, TypedDict, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from .. import backends
from .._conventions import CHECKPOINT_STEPS, packed_rows
from .._spec import Argument, ArgumentTypeError, Call, OpSpec, Output, Sizes, Tolerance

Array = NDArray[Any]


class SelectiveScanGradients(NamedTuple):
    """Gradients in the shapes of the arguments; None for an argument that was not given, unless it is initial_state."""

    u: Array
    delta: Array
    A: Array
    B: Array
    C: Array
    D: Array | None
    z: Array | None
    delta_bias: Array | None
    initial_state: Array


SPEC = OpSpec(
    name="selective_scan",
    summary="the scan of Mamba",
    arguments=(
        Argument("u", ("batch seqlen dim",), "input"),
        Argument("delta", ("batch seqlen dim",), "step, before bias and softplus"),
        Argument("A", ("dim dstate",), "diagonal of the system matrix", complex_too=True),
        Argument("B", ("batch seqlen ngroups dstate", "batch seqlen dstate", "dim dstate"), "input matrix", complex_too=True),
        Argument("C", ("batch seqlen ngroups dstate", "batch seqlen dstate", "dim dstate"), "output matrix", complex_too=True),
        Argument("D", ("dim",), "skip", optional=True),
        Argument("z", ("batch seqlen dim",), "gate, through SiLU", optional=True),
        Argument("delta_bias", ("dim",), "added to delta", optional=True),
        Argument("initial_state", ("batch dim dstate",), "state before the first step", optional=True, complex_too=True),
    ),
    outputs=(
        Output("out", "batch seqlen dim"),
        Output("last_state", "batch dim dstate", wide=True),
        Output("checkpoints", "batch chunks dstate dim", wide=True, kept=True, public=False),
    ),
    options={"discretization": ("mamba", "bilinear", "zoh"), "layout": ("bdl", "bld")},
    traits=("complex",),
    forward=Tolerance(
        float32=4e-6,
        float64=1e-13,
        reason="a state sums over the steps it remembers; each adds about one rounding of A_bar and one of h, 2^-24 each, and "
        "the read-out adds dstate more; 64 roundings bound what the samples reach",
    ),
    gradient=Tolerance(
        float32=2e-5,
        float64=1e-12,
        reason="two recurrences in sequence, and sums over time, batch and channels of terms of either sign",
    ),
    derived={"chunks": lambda sizes: -(-sizes["seqlen"] // CHECKPOINT_STEPS)},
)  # fmt: skip


def canonical(name: str, x: Any, layout: str) -> Any:
    """A view of an argument as (batch, seqlen, dim), or (batch, seqlen, ngroups, dstate) for B and C."""
    if x is None:
        return None
    if name in ("B", "C"):
        if x.ndim == 3:
            x = x[:, None] if layout == "bdl" else x[:, :, None]
        if x.ndim == 4 and layout == "bdl":
            x = x.transpose(0, 3, 1, 2) if isinstance(x, np.ndarray) else x.permute(0, 3, 1, 2)
        return x
    return x.swapaxes(1, 2) if name in ("u", "delta", "z", "out") and x.ndim == 3 and layout == "bdl" else x


def uncanonical(name: str, x: Any, layout: str, ndim: int) -> Any:
    """Inverse of `canonical` for a result, contiguous; `ndim` is that of the argument it belongs to."""
    if x is None:
        return None
    if name in ("B", "C"):
        if x.ndim == 4 and layout == "bdl":
            x = x.transpose(0, 2, 3, 1) if isinstance(x, np.ndarray) else x.permute(0, 2, 3, 1)
        if ndim == 3:
            x = x[:, 0] if layout == "bdl" else x[:, :, 0]
    elif name in ("u", "delta", "z", "out") and layout == "bdl":
        x = x.swapaxes(1, 2)
    return np.ascontiguousarray(x) if isinstance(x, np.ndarray) else x.contiguous()


ARGUMENTS = tuple(argument.name for argument in SPEC.arguments)
MAY_BE_COMPLEX = tuple(argument.name for argument in SPEC.arguments if argument.complex_too)


def check(shapes: Mapping[str, tuple[int, ...] | None], *, discretization: str, layout: str) -> Sizes:
    """Sizes of the axes, from shapes in the caller's layout. Raises ArgumentError."""
    SPEC.check_option("discretization", discretization)
    SPEC.check_option("layout", layout)
    A = shapes["A"]
    if A is not None and len(A) == 2 and A[1] < 1:
        SPEC.fail("A", "a dstate of at least 1", f"shape {A}", "use a state of one entry and A = 0 for none")
    other = "bld" if layout == "bdl" else "bdl"
    sizes = _IN_LAYOUT[layout].check_shapes(shapes, hint=f'transpose it, or pass layout="{other}" for all of them')
    ngroups = sizes.setdefault("ngroups", 1)
    for name in ("B", "C"):
        rank = len(shapes[name] or ())
        if rank == 4 and (ngroups < 1 or sizes["dim"] % ngroups):
            expected = f"a number of groups that divides dim = {sizes['dim']}"
            SPEC.fail(name, expected, ngroups, "channel d reads group d // (dim // ngroups)")
        if rank == 3 and ngroups != 1:
            SPEC.fail(
                name, f"{ngroups} groups like the other of B and C", shapes[name], "repeat it along a groups axis"
            )
    return sizes


def check_complex(dtypes: Mapping[str, Any], is_complex: Callable[[Any], bool]) -> None:
    """Raises ArgumentTypeError if A is real and another argument complex."""
    if dtypes["A"] is None or is_complex(dtypes["A"]):  # the check of shapes refuses a missing A
        return
    for name, dtype in dtypes.items():
        if dtype is not None and is_complex(dtype):
            remedy = "make A complex too with A.astype(numpy.complex64); it holds one of each pair of conjugates"
            SPEC.fail(name, f"a real dtype like A ({dtypes['A']})", dtype, remedy, kind=ArgumentTypeError)


_IN_LAYOUT = {"bdl": SPEC.channel_first(), "bld": SPEC}


def _call(
    arrays: Mapping[str, Array | None], delta_softplus: bool, discretization: str, layout: str
) -> tuple[Call, Sizes]:
    """The checked call, and the sizes of its axes."""
    shapes = SPEC.shapes_of(arrays)
    check_complex({name: None if a is None else a.dtype for name, a in arrays.items()}, lambda dtype: dtype.kind == "c")
    sizes = check(shapes, discretization=discretization, layout=layout)
    views = {name: canonical(name, x, layout) for name, x in arrays.items()}
    options = {"delta_softplus": bool(delta_softplus), "discretization": discretization, "layout": layout}
    traits = frozenset({"complex"} if views["A"].dtype.kind == "c" else ())
    return Call(SPEC, views, options, traits), sizes


def _pieces(call: Call, seq_idx: Array, sizes: Sizes) -> Iterator[tuple[Call, slice, slice, bool, bool]]:
    """The call of each packed sequence, its rows and steps, and whether it is the first and the last of its rows."""
    for rows, sequences in packed_rows(seq_idx.tolist()):
        for steps in sequences:
            first, last = steps is sequences[0], steps is sequences[-1]
            arrays = {n: x[rows, steps] if x is not None and x.ndim > 2 else x for n, x in call.arrays.items()}
            state = call.initial_state
            arrays["initial_state"] = state[rows] if first and state is not None else None
            yield replace(call, arrays=arrays), rows, steps, first, last


class _Options(TypedDict, total=False):
    discretization: str
    initial_state: Array | None
    seq_idx: Array | None
    layout: str
    out: Array | None
    num_threads: int | None
    backend: str | None


# fmt: off
@overload
def selective_scan(
    u: Array, delta: Array, A: Array, B: Array, C: Array, D: Array | None = None, z: Array | None = None,
    delta_bias: Array | None = None, delta_softplus: bool = False, return_last_state: Literal[False] = False, *,
    return_checkpoints: Literal[False] = False, **options: Unpack[_Options],
) -> Array: ...
@overload
def selective_scan(
    u: Array, delta: Array, A: Array, B: Array, C: Array, D: Array | None = None, z: Array | None = None,
    delta_bias: Array | None = None, delta_softplus: bool = False, return_last_state: Literal[True] = ..., *,
    return_checkpoints: Literal[False] = False, **options: Unpack[_Options],
) -> tuple[Array, Array]: ...
@overload
def selective_scan(
    u: Array, delta: Array, A: Array, B: Array, C: Array, D: Array | None = None, z: Array | None = None,
    delta_bias: Array | None = None, delta_softplus: bool = False, return_last_state: Literal[False] = False, *,
    return_checkpoints: Literal[True], **options: Unpack[_Options],
) -> tuple[Array, Array]: ...
@overload
def selective_scan(
    u: Array, delta: Array, A: Array, B: Array, C: Array, D: Array | None = None, z: Array | None = None,
    delta_bias: Array | None = None, delta_softplus: bool = False, return_last_state: Literal[True] = ..., *,
    return_checkpoints: Literal[True], **options: Unpack[_Options],
) -> tuple[Array, Array, Array]: ...
@overload
def selective_scan(
    u: Array, delta: Array, A: Array, B: Array, C: Array, D: Array | None = None, z: Array | None = None,
    delta_bias: Array | None = None, delta_softplus: bool = False, return_last_state: bool = ..., *,
    return_checkpoints: bool = ..., **options: Unpack[_Options],
) -> Array | tuple[Array, ...]: ...
# fmt: on
def selective_scan(
    u: Array,
    delta: Array,
    A: Array,
    B: Array,
    C: Array,
    D: Array | None = None,
    z: Array | None = None,
    delta_bias: Array | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    *,
    return_checkpoints: bool = False,
    discretization: str = "mamba",
    initial_state: Array | None = None,
    seq_idx: Array | None = None,
    layout: str = "bdl",
    out: Array | None = None,
    num_threads: int | None = None,
    backend: str | None = None,
) -> Array | tuple[Array, ...]:
    """Selective scan, the recurrence of Mamba.

    ``h[t] = A_bar h[t-1] + B_bar u[t]``, ``y[t] = C[t] h[t] + D u[t]``, ``out = y silu(z)``. delta_bias is added to delta, and
    softplus is applied if asked for (identity above 20). The discretization is

    - ``mamba``: A_bar = exp(delta A), B_bar = delta B
    - ``bilinear``: A_bar = (1 + delta A/2)/(1 - delta A/2), B_bar = delta B/(1 - delta A/2)
    - ``zoh``: A_bar = exp(delta A), B_bar = (exp(delta A) - 1)/A B

    Parameters
    ----------
    u, delta, z : (batch, dim, seqlen), or (batch, seqlen, dim) for layout "bld"
        Any strides. float32, float64, or float16 computed in float32.
    A : (dim, dstate)
        Diagonal. A complex A holds one of each pair of conjugates: B, C and states may then be complex too, and y is twice the real part
        of C h. No compiled kernel runs a complex A.
    B, C : (dim, dstate) | (batch, dstate, seqlen) | (batch, ngroups, dstate, seqlen)
        For layout "bld": (dim, dstate) | (batch, seqlen, dstate) | (batch, seqlen, ngroups, dstate).
        Channel d reads group d // (dim // ngroups).
    D, delta_bias : (dim,)
    initial_state : (batch, dim, dstate)
        Zero if not given.
    return_last_state : bool
        Also return the state after the last step, (batch, dim, dstate); float32 for float16 u.
    return_checkpoints : bool
        Also return the states that `selective_scan_vjp` starts from. With them it does not run the forward pass again.
    seq_idx : (batch, seqlen) integers
        Several sequences in each row: a sequence begins where the number changes, from a state of zero. `initial_state`
        belongs to a row's first sequence, `last_state` to its last.
    out : as u
        Array for the result: C-contiguous, and apart from every argument.
    num_threads : int
        Results are the same to the bit for any number. Default: SSMCORE_NUM_THREADS, else torch's setting if torch is loaded, else the
        available processors.
    backend : str
        Name of a backend, which runs or raises. Default: the fastest that can run the call, see `ssmcore.explain`.

    Returns
    -------
    out, or a tuple of out, last_state and checkpoints, as asked for
        out as u in shape and dtype, C-contiguous.

    Raises
    ------
    ArgumentError
        A shape, dtype or option is wrong; the message names argument, expectation, value and remedy.
    BackendError
        The backend named cannot run.

    Source: Mamba-AHNet, eq. 2 (whose x_k = A x_k is a misprint for x_{k-1}); Gu and Dao, Mamba, algorithm 2.

    Examples
    --------
    A decaying sum: one channel, one state, A_bar = 1/2.

    >>> import numpy as np, ssmcore
    >>> one = np.ones((1, 1, 3))
    >>> ssmcore.selective_scan(one, one, np.full((1, 1), -np.log(2)), one, one).round(6)
    array([[[1.  , 1.5 , 1.75]]])
    """
    arrays = dict(zip(ARGUMENTS, (u, delta, A, B, C, D, z, delta_bias, initial_state), strict=True))
    call, sizes = _call(arrays, delta_softplus, discretization, layout)
    SPEC.check_out(out, u, arrays)
    if seq_idx is None or _nothing_packed(seq_idx, sizes):
        call.keep, call.into = return_checkpoints, () if out is None else (canonical("out", out, layout),)
        y, last_state, checkpoints = backends.run(call, backend=backend, num_threads=num_threads)
        out = uncanonical("out", y, layout, 3) if out is None else out
    else:
        if return_checkpoints:
            SPEC.fail("return_checkpoints", "False where seq_idx is given", True, "call the scan for each sequence")
        out, checkpoints = np.empty(u.shape, u.dtype) if out is None else out, None
        y = canonical("out", out, layout)
        last_state = np.empty([sizes[axis] for axis in ("batch", "dim", "dstate")], _state_dtype(call))
        for piece, rows, steps, _, last in _pieces(call, seq_idx, sizes):
            piece.into = (y[rows, steps], last_state[rows] if last else None)
            backends.run(piece, backend=backend, num_threads=num_threads)
    found = (out, *([last_state] if return_last_state else []), *([checkpoints] if return_checkpoints else []))
    return found if len(found) > 1 else out


def _nothing_packed(seq_idx: Array, sizes: Sizes) -> bool:
    SPEC.check_seq_idx(seq_idx, sizes)
    return sizes["batch"] == 0


def _state_dtype(call: Call) -> np.dtype[Any]:
    return np.result_type(call.u.dtype, np.float32, *([np.complex64] if "complex" in call.traits else []))


def selective_scan_vjp(
    dout: Array,
    u: Array,
    delta: Array,
    A: Array,
    B: Array,
    C: Array,
    D: Array | None = None,
    z: Array | None = None,
    delta_bias: Array | None = None,
    delta_softplus: bool = False,
    *,
    dlast_state: Array | None = None,
    checkpoints: Array | None = None,
    discretization: str = "mamba",
    initial_state: Array | None = None,
    seq_idx: Array | None = None,
    layout: str = "bdl",
    num_threads: int | None = None,
    backend: str | None = None,
) -> SelectiveScanGradients:
    """Vector-Jacobian product of `selective_scan`: gradients of sum(dout out) + sum(dlast_state last_state).

    Complex gradients are torch's: of a real function f, df/d(real part) + i df/d(imaginary part).

    Parameters
    ----------
    dout : as u
    dlast_state : (batch, dim, dstate)
        Zero if not given.
    checkpoints
        From the forward pass with these arguments. Without them that pass runs again; gradients are the same to the bit.
    Others as in `selective_scan`, and errors too.

    Source: reverse-mode differentiation of eq. 2, see ops/selective_scan.md.
    """
    arrays = dict(zip(ARGUMENTS, (u, delta, A, B, C, D, z, delta_bias, initial_state), strict=True))
    call, sizes = _call(arrays, delta_softplus, discretization, layout)
    complex_too = "complex" in call.traits
    _IN_LAYOUT[layout].check_gradients(sizes, dout, dlast_state, complex_too=complex_too)
    call.douts = (canonical("out", dout, layout), dlast_state)
    if seq_idx is None or _nothing_packed(seq_idx, sizes):
        kept = {} if checkpoints is None else {"checkpoints": checkpoints}
        call.kept = SPEC.check_kept(sizes, _state_dtype(call), kept)
        grads = backends.run(call, backend=backend, num_threads=num_threads)
    else:
        if checkpoints is not None:
            SPEC.fail("checkpoints", "None where seq_idx is given", "an array", "leave them out")
        grads = _packed_vjp(call, seq_idx, sizes, backend=backend, num_threads=num_threads)
    ndims = (3 if array is None else array.ndim for array in arrays.values())
    return SelectiveScanGradients(
        *(uncanonical(name, g, layout, ndim) for name, g, ndim in zip(ARGUMENTS, grads, ndims, strict=True))
    )


def _packed_vjp(call: Call, seq_idx: Array, sizes: Sizes, **run: Any) -> tuple[Array | None, ...]:
    """Gradients of every sequence by itself: those of sequences side by side, the others summed."""
    dout, dlast_state = call.douts
    total: dict[str, Any] = dict.fromkeys(ARGUMENTS)
    for piece, rows, steps, first, last in _pieces(call, seq_idx, sizes):
        piece.douts = (dout[rows, steps], dlast_state[rows] if last and dlast_state is not None else None)
        for name, g in zip(ARGUMENTS, backends.run(piece, **run), strict=True):
            whole = call.arrays[name]
            if g is None:
                continue
            if total[name] is None:
                shape = (sizes["batch"], *g.shape[1:]) if name == "initial_state" else whole.shape
                total[name] = np.zeros(shape, g.dtype)
            if name == "initial_state":
                if first:
                    total[name][rows] = g
            elif whole.ndim > 2:
                total[name][rows, steps] = g
            else:
                total[name] += g
    return tuple(total.values())
