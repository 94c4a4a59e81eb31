"""SS2D: four selective scans of a grid, along rows, along columns, and both backwards, summed. Derivation: ss2d.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import backends
from .._conventions import CHECKPOINT_STEPS, DIRECTIONS, roll_up, unroll
from .._spec import Argument, ArgumentError, Case, Cases, OpSpec, Output, Sizes, Tolerance
from ..backends._threads import resolve

Array = NDArray[Any]
ENTRIES = ("ss2d_fwd", "ss2d_bwd")


class SS2DGradients(NamedTuple):
    """Gradients in the shapes of the arguments; None for an argument that was not given."""

    x: Array
    delta: Array
    A: Array
    B: Array
    C: Array
    D: Array | None
    delta_bias: Array | None


def make_case(
    rng: np.random.Generator,
    dtype: Any,
    *,
    batch: int = 2,
    height: int = 3,
    width: int = 5,
    dim: int = 6,
    dstate: int = 4,
    extras: bool = True,
    **options: Any,
) -> Case:
    """Arguments of realistic size: A negative, steps near those of a trained model."""

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(dtype)

    k, grid = len(DIRECTIONS), (batch, height, width)
    softplus = options.get("delta_softplus", False)
    delta = normal(*grid, k, dim) - 2 if softplus else np.exp(normal(*grid, k, dim) - 3)
    case: Case = {
        "x": normal(*grid, dim),
        "delta": delta.astype(dtype),
        "A": -np.exp(rng.uniform(-1, 2, (k, dim, dstate))).astype(dtype),
        "B": normal(*grid, k, dstate),
        "C": normal(*grid, k, dstate),
    }
    if extras:
        bias = 0.1 * normal(k, dim)
        case |= {"D": normal(k, dim), "delta_bias": bias if softplus else abs(bias)}
    return case | options


_cases = Cases(make_case, batch=2, height=3, width=5, dim=6, dstate=4, extras=False)
_sample, _broken = _cases.sample, _cases.broken

SPEC = OpSpec(
    name="ss2d",
    summary="four selective scans of a grid, along rows, along columns and both backwards, summed at every position",
    formula="y[p] = sum_k scan_k(x along direction k, delta_k, A_k, B_k, C_k, D_k)[p]",
    source="Mamba-AHNet III-D, eq. 7; Liu et al., VMamba, section 4.2",
    entries=ENTRIES,
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
    samples=(
        _sample("plain", extras=False),
        _sample("everything", delta_softplus=True),
        _sample("bilinear", discretization="bilinear", delta_softplus=True),
        _sample("zoh", discretization="zoh"),
        _sample("one row", height=1, width=9),
        _sample("one column", height=9, width=1),
        _sample("one position", height=1, width=1),
        _sample("past one chunk", height=9, width=15, dim=3, dstate=2),
        _sample("past a lane", dim=17, dstate=3),
        _sample("past a block", height=2, width=2, dim=131, dstate=1),
        _sample("past a wide block", batch=9, height=3, width=11, dim=400, dstate=2),
        _sample("16 states", height=8, width=8, dim=32, dstate=16, discretization="bilinear", delta_softplus=True),
        _sample("wide state", dim=5, dstate=37),
        _sample("no row", height=0),
        _sample("no channel", dim=0),
        _sample("empty batch", batch=0),
    ),
    error_samples=(
        _broken("two directions", ("ss2d: A: expected 4 directions", "got 2"),
                A=lambda rng: -np.ones((2, 6, 4), np.float32), delta=lambda rng: np.ones((2, 3, 5, 2, 6), np.float32),
                B=lambda rng: np.ones((2, 3, 5, 2, 4), np.float32), C=lambda rng: np.ones((2, 3, 5, 2, 4), np.float32)),
        _broken("directions first", ("ss2d: delta: expected shape (2, 3, 5, directions, 6) like x, got (4, 2, 3, 5, 6)",),
                delta=lambda rng: np.ones((4, 2, 3, 5, 6), np.float32)),
        _broken("channel-first x", ("ss2d: delta: expected shape (2, 6, 3, directions, 5) like x",),
                x=lambda rng: np.ones((2, 6, 3, 5), np.float32)),
        _broken("C of another dstate", ("ss2d: C: expected shape (2, 3, 5, 4, 4)", "got (2, 3, 5, 4, 3)"),
                C=lambda rng: np.ones((2, 3, 5, 4, 3), np.float32)),
        _broken("integer x", ("ss2d: x: expected dtype", "got int64", "astype"), TypeError,
                x=lambda rng: np.ones((2, 3, 5, 6), np.int64)),
        _broken("unknown discretization", ("ss2d: discretization: expected one of 'mamba', 'bilinear', 'zoh', got 'euler'",),
                discretization="euler"),
        _broken("no state", ("ss2d: A: expected a dstate of at least 1, got shape (4, 6, 0)",),
                A=lambda rng: np.ones((4, 6, 0), np.float32)),
    ),
    benchmarks=(
        _sample("B1 64x64 D192 N16", batch=1, height=64, width=64, dim=192, dstate=16, delta_softplus=True),
        _sample("B1 64x64 D192 N16 bilinear", batch=1, height=64, width=64, dim=192, dstate=16, delta_softplus=True,
                discretization="bilinear"),
        *(
            _sample(f"VMamba-T stage {k + 1}: B1 {side}x{side} D{192 << k} N16", batch=1, height=side, width=side, dim=192 << k,
                    dstate=16, delta_softplus=True)
            for k, side in enumerate((56, 28, 14, 7))
        ),
        *(
            _sample(f"segnet 256 px stage {k + 1}: B8 {side}x{side} D{96 << k} N16 bilinear", batch=8, height=side, width=side,
                    dim=96 << k, dstate=16, delta_softplus=True, discretization="bilinear")
            for k, side in enumerate((64, 32, 16, 8))
        ),
        _sample("segnet 64 px stage 4: B16 2x2 D768 N16 bilinear", batch=16, height=2, width=2, dim=768, dstate=16,
                delta_softplus=True, discretization="bilinear"),
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
    discretization: str = "mamba",
    num_threads: int | None = None,
    backend: str | None = None,
) -> Array:
    """Four selective scans of a grid, summed at every position.

    Direction 0 walks the grid row by row, 1 column by column, 2 and 3 the same from the last position to the first. Each has
    its own delta, A, B, C, D and bias, given in the grid's natural order: nothing is flipped or transposed, and the cython
    backend walks the grid as it lies.

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
    delta_softplus, discretization, num_threads, backend
        As in `selective_scan`.

    Returns
    -------
    out : (batch, height, width, dim)
        In x's dtype, C-contiguous.

    Raises
    ------
    ArgumentError
        A shape, dtype or option is wrong; the message names argument, expectation, value and remedy.
    BackendError
        The backend named cannot run.

    Source: Mamba-AHNet, section III-D and eq. 7; Liu et al., VMamba, section 4.2.

    Examples
    --------
    A single position is met by all four scans:

    >>> import numpy as np, ssmcore
    >>> one = np.ones((1, 1, 1, 4, 1))
    >>> ssmcore.ss2d(np.ones((1, 1, 1, 1)), one, np.zeros((4, 1, 1)), one, one).item()
    4.0
    """
    choice = backends.choose("ss2d", ENTRIES, backend)
    arrays = dict(zip(ARGUMENTS, (x, delta, A, B, C, D, delta_bias), strict=True))
    check(SPEC.shapes_of(arrays), discretization=discretization)
    out: Array = backends.entry(choice, "ss2d_fwd")(
        *arrays.values(),
        delta_softplus=bool(delta_softplus),
        discretization=discretization,
        keep_checkpoints=False,
        num_threads=resolve(num_threads),
    )[0]
    return out


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
    discretization: str = "mamba",
    num_threads: int | None = None,
    backend: str | None = None,
) -> SS2DGradients:
    """Vector-Jacobian product of `ss2d`: gradients of sum(dout out).

    Parameters
    ----------
    dout : as x
    Others as in `ss2d`.

    Returns
    -------
    SS2DGradients
        In the shapes of the arguments.

    Raises
    ------
    ArgumentError, BackendError
        As in `ss2d`.

    Source: reverse-mode differentiation of eq. 2 along each direction, see ops/ss2d.md.
    """
    choice = backends.choose("ss2d", ENTRIES, backend)
    arrays = dict(zip(ARGUMENTS, (x, delta, A, B, C, D, delta_bias), strict=True))
    check(SPEC.shapes_of(arrays), discretization=discretization)
    SPEC.check_dtype("dout", dout)
    if dout.shape != x.shape:
        SPEC.fail("dout", f"shape {x.shape} like x", dout.shape, "pass the gradient of the output as it came out")
    return SS2DGradients(
        *backends.entry(choice, "ss2d_bwd")(
            dout,
            *arrays.values(),
            None,
            delta_softplus=bool(delta_softplus),
            discretization=discretization,
            num_threads=resolve(num_threads),
        )
    )


def cross_scan(x: Array) -> Array:
    """The four unrolled sequences of a grid, for those who want to scan them by themselves.

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
