"""Depthwise 3x3 convolution of channel-last grids, with SiLU and gradients. Derivation: depthwise_conv2d.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import backends
from .._spec import Argument, Case, Cases, OpSpec, Output, Sizes, Tolerance
from ..backends._threads import resolve

Array = NDArray[Any]
ENTRIES = ("depthwise_conv2d_fwd", "depthwise_conv2d_bwd")


class DepthwiseConv2dGradients(NamedTuple):
    """Gradients in the shapes of the arguments; None for an argument that was not given."""

    x: Array
    weight: Array
    bias: Array | None


def make_case(
    rng: np.random.Generator,
    dtype: Any,
    *,
    batch: int = 2,
    height: int = 5,
    width: int = 4,
    dim: int = 6,
    extras: bool = True,
    **options: Any,
) -> Case:
    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(dtype)

    case: Case = {"x": normal(batch, height, width, dim), "weight": (normal(dim, 3, 3) / 3).astype(dtype)}
    if extras:
        case["bias"] = normal(dim)
    return case | options


_cases = Cases(make_case, batch=2, height=3, width=4, dim=6, extras=False)
_sample, _broken = _cases.sample, _cases.broken

SPEC = OpSpec(
    name="depthwise_conv2d",
    summary="each channel of a grid convolved with its own 3x3 weights, zeros around; SiLU where asked",
    formula="y[i, j] = bias + sum_ab weight[a, b] x[i + a - 1, j + b - 1]; out = y or silu(y)",
    source="Mamba-AHNet, eq. 7 (DWConv and SiLU)",
    entries=ENTRIES,
    arguments=(
        Argument("x", ("batch height width dim",), "input"),
        Argument("weight", ("dim rows columns",), "3x3 weights of each channel"),
        Argument("bias", ("dim",), "added to the sum", optional=True),
    ),
    outputs=(Output("out", "batch height width dim"),),
    options={"activation": (None, "silu", "swish")},
    forward=Tolerance(float32=2e-6, float64=2e-15, reason="a sum of ten terms, and a sigmoid of a few roundings"),
    gradient=Tolerance(
        float32=1e-5, float64=1e-14, reason="dweight sums over positions and batch terms of either sign, some hundreds in the samples"
    ),
    samples=(
        _sample("plain", extras=False),
        _sample("everything", activation="silu"),
        _sample("swish without bias", activation="swish", extras=False),
        _sample("one position", height=1, width=1, activation="silu"),
        _sample("two by two", height=2, width=2, dim=48, activation="silu"),
        _sample("one row", height=1, width=9),
        _sample("one column", height=9, width=1, dim=17),
        _sample("off the lanes", height=7, width=6, dim=37, activation="silu"),
        # more rows than a strip of the kernels holds, of float64 in lanes of 64 bytes: 2^17 / (66 * 64) = 31
        _sample("several strips", batch=1, height=70, width=64, dim=3, activation="silu"),
        _sample("wider than a strip", batch=1, height=4, width=3000, dim=1, activation="silu"),
        _sample("no row", height=0),
        _sample("no channel", dim=0),
        _sample("empty batch", batch=0),
    ),
    error_samples=(
        _broken("weight of another dim", ("depthwise_conv2d: weight: expected shape (6, rows, columns) like x, got (5, 3, 3)",),
                weight=lambda rng: np.ones((5, 3, 3), np.float32)),
        _broken("weight of torch's four axes", ("depthwise_conv2d: weight: expected shape (6, rows, columns)", "got (6, 1, 3, 3)"),
                weight=lambda rng: np.ones((6, 1, 3, 3), np.float32)),
        _broken("five by five", ("depthwise_conv2d: weight: expected 3x3 weights, got 5x5",),
                weight=lambda rng: np.ones((6, 5, 5), np.float32)),
        _broken("channel-first x", ("depthwise_conv2d: weight: expected shape (4, rows, columns) like x, got (6, 3, 3)",),
                x=lambda rng: np.ones((2, 6, 3, 4), np.float32)),
        _broken("integer x", ("depthwise_conv2d: x: expected dtype", "got int64", "astype"), TypeError,
                x=lambda rng: np.ones((2, 3, 4, 6), np.int64)),
        _broken("unknown activation", ("depthwise_conv2d: activation: expected one of None, 'silu', 'swish', got 'relu'",),
                activation="relu"),
    ),
    benchmarks=(
        _sample("B8 64x64 D96 silu", batch=8, height=64, width=64, dim=96, activation="silu"),
        _sample("B16 16x16 D96 silu", batch=16, height=16, width=16, dim=96, activation="silu"),
        _sample("B16 2x2 D768 silu", batch=16, height=2, width=2, dim=768, activation="silu"),
    ),
)  # fmt: skip

ARGUMENTS = tuple(argument.name for argument in SPEC.arguments)


def check(shapes: Mapping[str, tuple[int, ...] | None], *, activation: str | None) -> Sizes:
    """Sizes of the axes. Raises ArgumentError."""
    SPEC.check_option("activation", activation)
    sizes = SPEC.check_shapes(shapes, hint="the channels are the last axis")
    if (sizes["rows"], sizes["columns"]) != (3, 3):
        SPEC.fail("weight", "3x3 weights", f"{sizes['rows']}x{sizes['columns']}", "other sizes are not offered")
    return sizes


def depthwise_conv2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    activation: str | None = None,
    *,
    num_threads: int | None = None,
    backend: str | None = None,
) -> Array:
    """Depthwise 3x3 convolution, zeros around: ``out = act(bias + sum_ab weight[a, b] x[i + a - 1, j + b - 1])``.

    Parameters
    ----------
    x : (batch, height, width, dim)
        Any strides. float32, float64, or float16 computed in float32.
    weight : (dim, 3, 3)
    bias : (dim,)
    activation : None, "silu" or "swish", which is the same
    num_threads, backend
        As in `selective_scan`.

    Returns
    -------
    (batch, height, width, dim), in x's dtype, C-contiguous

    Raises
    ------
    ArgumentError
        A shape, dtype or option is wrong; the message names argument, expectation, value and remedy.
    BackendError
        The backend named cannot run.

    Source: Mamba-AHNet, eq. 7.

    Examples
    --------
    How many neighbours each position of a row has, itself included:

    >>> import numpy as np, ssmcore
    >>> ssmcore.depthwise_conv2d(np.ones((1, 1, 4, 1)), np.ones((1, 3, 3)))[0, 0, :, 0]
    array([2., 3., 3., 2.])
    """
    choice = backends.choose("depthwise_conv2d", ENTRIES, backend)
    check(SPEC.shapes_of({"x": x, "weight": weight, "bias": bias}), activation=activation)
    out: Array = backends.entry(choice, "depthwise_conv2d_fwd")(
        x, weight, bias, silu=activation is not None, num_threads=resolve(num_threads)
    )
    return out


def depthwise_conv2d_vjp(
    dout: Array,
    x: Array,
    weight: Array,
    bias: Array | None = None,
    activation: str | None = None,
    *,
    num_threads: int | None = None,
    backend: str | None = None,
) -> DepthwiseConv2dGradients:
    """Vector-Jacobian product of `depthwise_conv2d`: gradients of sum(dout out).

    Parameters
    ----------
    dout : as x
    Others as in `depthwise_conv2d`.

    Returns
    -------
    DepthwiseConv2dGradients
        In the shapes of the arguments.

    Raises
    ------
    ArgumentError, BackendError
        As in `depthwise_conv2d`.

    Source: see ops/depthwise_conv2d.md.
    """
    choice = backends.choose("depthwise_conv2d", ENTRIES, backend)
    check(SPEC.shapes_of({"x": x, "weight": weight, "bias": bias}), activation=activation)
    SPEC.check_dtype("dout", dout)
    if dout.shape != x.shape:
        SPEC.fail("dout", f"shape {x.shape} like x", dout.shape, "pass the gradient of the output as it came out")
    grads = backends.entry(choice, "depthwise_conv2d_bwd")(
        dout, x, weight, bias, silu=activation is not None, num_threads=resolve(num_threads)
    )
    return DepthwiseConv2dGradients(*grads)
