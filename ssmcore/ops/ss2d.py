"""SS2D: four selective scans of a grid, along rows, along columns, and both backwards, summed. Derivation: ss2d.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from .. import backends
from .._conventions import CHECKPOINT_STEPS, DIRECTIONS, roll_up, unroll
from .._spec import Argument, ArgumentError, Call, OpSpec, Output, Sizes, Tolerance

Array = NDArray[Any]


class SS2DGradients(NamedTuple):
    """Gradients in the shapes of the arguments; None for an argument that was not given."""

    x: Array
    delta: Array
    A: Array
    B: Array
    C: Array
    D: Array | None
    delta_bias: Array | None


SPEC = OpSpec(
    name="ss2d",
    summary="four scans of a grid, summed",
    arguments=(
        Argument("x", ("batch height width dim",), "grid, channel-last"),
        Argument("delta", ("batch height width directions dim",), "step, before bias and softplus"),
        Argument("A", ("directions dim dstate",), "diagonal of the system matrix"),
        Argument("B", ("batch height width directions dstate",), "input matrix"),
        Argument("C", ("batch height width directions dstate",), "output matrix"),
        Argument("D", ("directions dim",), "skip", optional=True),
        Argument("delta_bias", ("directions dim",), "added to delta", optional=True),
    ),
    outputs=(
        Output("out", "batch height width dim"),
        Output("checkpoints", "directions batch chunks dstate dim", wide=True, kept=True, public=False),
    ),
    options={"discretization": ("mamba", "bilinear", "zoh")},
    forward=Tolerance(
        float32=8e-6, float64=2e-13, reason="that of selective_scan, and four results that may cancel are added"
    ),
    gradient=Tolerance(
        float32=4e-5, float64=2e-12, reason="that of selective_scan, and four gradients of x that may cancel are added"
    ),
    derived={"chunks": lambda sizes: -(-sizes["height"] * sizes["width"] // CHECKPOINT_STEPS)},
)  # fmt: skip

ARGUMENTS = tuple(argument.name for argument in SPEC.arguments)


def check(shapes: Mapping[str, tuple[int, ...] | None], *, discretization: str) -> Sizes:
    """Sizes of the axes. Raises ArgumentError."""
    SPEC.check_option("discretization", discretization)
    A = shapes["A"]
    if A is not None and len(A) == 3 and A[2] < 1:
        SPEC.fail("A", "a dstate of at least 1", f"shape {A}", "use a state of one entry and A = 0 for none")
    sizes = SPEC.check_shapes(shapes)
    if sizes["directions"] != len(DIRECTIONS):
        expected = f"{len(DIRECTIONS)} directions ({', '.join(DIRECTIONS)})"
        SPEC.fail("A", expected, sizes["directions"], "call selective_scan for another number of scans")
    return sizes


def _call(arrays: Mapping[str, Array | None], delta_softplus: bool, discretization: str) -> tuple[Call, Sizes]:
    """The checked call, and the sizes of its axes."""
    sizes = check(SPEC.shapes_of(arrays), discretization=discretization)
    return Call(SPEC, arrays, {"delta_softplus": bool(delta_softplus), "discretization": discretization}), sizes


# fmt: off
@overload
def ss2d(
    x: Array, delta: Array, A: Array, B: Array, C: Array, D: Array | None = None, delta_bias: Array | None = None,
    delta_softplus: bool = False, *, return_checkpoints: Literal[False] = False, discretization: str = "mamba",
    out: Array | None = None, num_threads: int | None = None, backend: str | None = None,
) -> Array: ...
@overload
def ss2d(
    x: Array, delta: Array, A: Array, B: Array, C: Array, D: Array | None = None, delta_bias: Array | None = None,
    delta_softplus: bool = False, *, return_checkpoints: Literal[True], discretization: str = "mamba",
    out: Array | None = None, num_threads: int | None = None, backend: str | None = None,
) -> tuple[Array, Array]: ...
# fmt: on
def ss2d(
    x: Array,
    delta: Array,
    A: Array,
    B: Array,
    C: Array,
    D: Array | None = None,
    delta_bias: Array | None = None,
    delta_softplus: bool = False,
    *,
    return_checkpoints: bool = False,
    discretization: str = "mamba",
    out: Array | None = None,
    num_threads: int | None = None,
    backend: str | None = None,
) -> Array | tuple[Array, Array]:
    """Four selective scans of a grid, summed at every position.

    Direction 0 walks the grid row by row, 1 column by column; 2 and 3 are the same, backwards. Each has its own delta, A, B, C, D and
    bias, in the grid's natural order. The cython backend walks the grid in place, without copies.

    Parameters
    ----------
    x : (batch, height, width, dim)
        float32, float64, or float16 computed in float32.
    delta : (batch, height, width, 4, dim)
        Any strides.
    A : (4, dim, dstate)
        Real diagonal.
    B, C : (batch, height, width, 4, dstate)
    D, delta_bias : (4, dim)
    return_checkpoints : bool
        Also return the states that `ss2d_vjp` starts from. With them it does not run the forward pass again.
    delta_softplus, discretization, out, num_threads, backend : as in `selective_scan`

    Returns
    -------
    out, or (out, checkpoints)
        out (batch, height, width, dim), in x's dtype, C-contiguous.

    Raises
    ------
    ArgumentError, BackendError
        As in `selective_scan`.

    Source: Mamba-AHNet, section III-D and eq. 7; Liu et al., VMamba, section 4.2.

    Examples
    --------
    All four scans meet a single position:

    >>> import numpy as np, ssmcore
    >>> one = np.ones((1, 1, 1, 4, 1))
    >>> ssmcore.ss2d(np.ones((1, 1, 1, 1)), one, np.zeros((4, 1, 1)), one, one).item()
    4.0
    """
    arrays = dict(zip(ARGUMENTS, (x, delta, A, B, C, D, delta_bias), strict=True))
    call, _ = _call(arrays, delta_softplus, discretization)
    SPEC.check_out(out, x, arrays)
    call.keep, call.into = return_checkpoints, (out,)
    out, checkpoints = backends.run(call, backend=backend, num_threads=num_threads)
    return (out, checkpoints) if return_checkpoints else out


def ss2d_vjp(
    dout: Array,
    x: Array,
    delta: Array,
    A: Array,
    B: Array,
    C: Array,
    D: Array | None = None,
    delta_bias: Array | None = None,
    delta_softplus: bool = False,
    *,
    checkpoints: Array | None = None,
    discretization: str = "mamba",
    num_threads: int | None = None,
    backend: str | None = None,
) -> SS2DGradients:
    """Vector-Jacobian product of `ss2d`: gradients of sum(dout out).

    Parameters
    ----------
    dout : as x
    checkpoints
        From the forward pass with these arguments. Without them that pass runs again; gradients are the same to the bit.
    Others as in `ss2d`, and errors too.

    Source: reverse-mode differentiation of eq. 2 along each direction, see ops/ss2d.md.
    """
    arrays = dict(zip(ARGUMENTS, (x, delta, A, B, C, D, delta_bias), strict=True))
    call, sizes = _call(arrays, delta_softplus, discretization)
    call.douts = SPEC.check_gradients(sizes, dout)
    kept = {} if checkpoints is None else {"checkpoints": checkpoints}
    call.kept = SPEC.check_kept(sizes, np.promote_types(x.dtype, np.float32), kept)
    return SS2DGradients(*backends.run(call, backend=backend, num_threads=num_threads))


def cross_scan(x: Array) -> Array:
    """The four unrolled sequences of a grid.

    Parameters
    ----------
    x : (batch, height, width, ...)

    Returns
    -------
    (batch, 4, height * width, ...)
        Direction k in the order in which `ss2d` visits the positions. A copy.

    Raises
    ------
    ArgumentError
        x has fewer than three axes.

    Source: Liu et al., VMamba, section 4.2.

    Examples
    --------
    >>> import numpy as np, ssmcore
    >>> ssmcore.cross_scan(np.arange(4).reshape(1, 2, 2))[0].tolist()
    [[0, 1, 2, 3], [0, 2, 1, 3], [3, 2, 1, 0], [3, 1, 2, 0]]
    """
    check_grid("cross_scan", x.shape)
    return np.stack([unroll(x, k) for k in range(len(DIRECTIONS))], axis=1)


def cross_merge(y: Array, height: int, width: int) -> Array:
    """Sums four unrolled sequences at every position of their grid: the adjoint of `cross_scan`.

    Parameters
    ----------
    y : (batch, 4, height * width, ...)

    Returns
    -------
    (batch, height, width, ...)

    Raises
    ------
    ArgumentError
        y has no four directions, or another number of positions.

    Source: Liu et al., VMamba, section 4.2.
    """
    check_sequences("cross_merge", y.shape, height, width)
    total: Array = sum(roll_up(y[:, k], k, height, width) for k in range(len(DIRECTIONS)))
    return total


def check_grid(name: str, shape: tuple[int, ...]) -> None:
    if len(shape) < 3:
        raise ArgumentError(
            f"{name}: x: expected shape (batch, height, width, ...), got {shape}; add the axes it lacks"
        )


def check_sequences(name: str, shape: tuple[int, ...], height: int, width: int) -> None:
    if len(shape) < 3 or shape[1:3] != (len(DIRECTIONS), height * width):
        raise ArgumentError(
            f"{name}: y: expected shape (batch, {len(DIRECTIONS)}, {height * width}, ...) for {height} x {width} positions,"
            f" got {shape}; pass what cross_scan gave"
        )
