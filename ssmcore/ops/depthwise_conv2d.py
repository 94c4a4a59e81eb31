"""Depthwise 3x3 convolution of channel-last grids, with SiLU and gradients. Derivation: depthwise_conv2d.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from numpy.typing import NDArray

from .. import backends
from .._spec import Argument, Call, OpSpec, Output, Sizes, Tolerance

Array = NDArray[Any]


class DepthwiseConv2dGradients(NamedTuple):
    """Gradients in the shapes of the arguments; None for an argument that was not given."""

    x: Array
    weight: Array
    bias: Array | None


SPEC = OpSpec(
    name="depthwise_conv2d",
    summary="3×3 convolution of a grid, SiLU",
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
)  # fmt: skip

ARGUMENTS = tuple(argument.name for argument in SPEC.arguments)


def check(shapes: Mapping[str, tuple[int, ...] | None], *, activation: str | None) -> Sizes:
    """Sizes of the axes. Raises ArgumentError."""
    SPEC.check_option("activation", activation)
    sizes = SPEC.check_shapes(shapes, hint="the channels are the last axis")
    if (sizes["rows"], sizes["columns"]) != (3, 3):
        SPEC.fail("weight", "3x3 weights", f"{sizes['rows']}x{sizes['columns']}", "other sizes are not offered")
    return sizes


def _call(arrays: Mapping[str, Array | None], activation: str | None) -> tuple[Call, Sizes]:
    """The checked call, and the sizes of its axes."""
    sizes = check(SPEC.shapes_of(arrays), activation=activation)
    return Call(SPEC, arrays, {"activation": activation}), sizes


def depthwise_conv2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    activation: str | None = None,
    *,
    out: Array | None = None,
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
    out, num_threads, backend : as in `selective_scan`

    Returns
    -------
    (batch, height, width, dim), in x's dtype, C-contiguous

    Raises
    ------
    ArgumentError, BackendError
        As in `selective_scan`.

    Source: Mamba-AHNet, eq. 7.

    Examples
    --------
    The number of neighbours of each position in a row, itself included:

    >>> import numpy as np, ssmcore
    >>> ssmcore.depthwise_conv2d(np.ones((1, 1, 4, 1)), np.ones((1, 3, 3)))[0, 0, :, 0]
    array([2., 3., 3., 2.])
    """
    call, _ = _call({"x": x, "weight": weight, "bias": bias}, activation)
    SPEC.check_out(out, x, call.arrays)
    call.into = (out,)
    found: Array = backends.run(call, backend=backend, num_threads=num_threads)[0]
    return found


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
    Others as in `depthwise_conv2d`, and errors too.

    Source: see ops/depthwise_conv2d.md.
    """
    call, sizes = _call({"x": x, "weight": weight, "bias": bias}, activation)
    call.douts = SPEC.check_gradients(sizes, dout)
    return DepthwiseConv2dGradients(*backends.run(call, backend=backend, num_threads=num_threads))
