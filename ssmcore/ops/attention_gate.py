"""The attention gate after its 1x1 convolutions: crop, batch norms, ReLU, psi, sigmoid, product. See attention_gate.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from numpy.typing import NDArray

from .. import backends
from .._spec import Argument, Call, OpSpec, Output, Sizes, Tolerance

Array = NDArray[Any]


class AttentionGateGradients(NamedTuple):
    """Gradients in the shapes of the arguments."""

    x: Array
    theta: Array
    phi: Array
    theta_weight: Array
    phi_weight: Array
    shift: Array
    psi: Array
    psi_weight: Array
    psi_shift: Array


SPEC = OpSpec(
    name="attention_gate",
    summary="norms, ReLU, ψ, sigmoid and product of a gate",
    arguments=(
        Argument("x", ("batch height width channels",), "features to gate"),
        Argument("theta", ("batch height width dim",), "theta x, before its batch norm"),
        Argument("phi", ("batch g_height g_width dim",), "phi g, before its batch norm"),
        Argument("theta_weight", ("dim",), "scale of theta's norm"),
        Argument("phi_weight", ("dim",), "scale of phi's norm"),
        Argument("shift", ("dim",), "shift of both norms"),
        Argument("psi", ("dim",), "1x1 convolution to one channel"),
        Argument("psi_weight", ("one",), "scale of psi's norm"),
        Argument("psi_shift", ("one",), "shift of psi's norm"),
        Argument("statistics", ("norms two",), "means and variances to use", optional=True, differentiable=False),
    ),
    outputs=(
        Output("out", "batch height width channels"),
        Output("q", "batch height width", wide=True, kept=True, public=False),
        Output("statistics", "norms two", wide=True, kept=True),
    ),
    options={},
    forward=Tolerance(
        float32=1e-5, float64=1e-13, reason="three norms in a row, the last over sums of few channels in the samples"
    ),
    gradient=Tolerance(
        float32=1e-4, float64=1e-12, reason="gradients of a norm are differences of near equals, and shift's is a sum of terms that cancel"
    ),
    derived={"norms": lambda sizes: 2 * sizes["dim"] + 1, "two": lambda sizes: 2},
)  # fmt: skip

ARGUMENTS = tuple(argument.name for argument in SPEC.arguments)


def check(shapes: Mapping[str, tuple[int, ...] | None]) -> Sizes:
    """Sizes of the axes. Raises ArgumentError."""
    sizes = SPEC.check_shapes(shapes, hint="the channels are the last axis")
    grid, g_grid = (sizes["height"], sizes["width"]), (sizes["g_height"], sizes["g_width"])
    if any(g < x for g, x in zip(g_grid, grid, strict=True)):
        SPEC.fail("phi", f"a grid of at least {grid}", g_grid, "phi is cropped to x; pass the larger features as g")
    if sizes["one"] != 1:
        SPEC.fail("psi_weight", "one element", sizes["one"], "psi has a single channel")
    norms = (2 * sizes["dim"] + 1, 2)
    if shapes.get("statistics") not in (None, norms):
        SPEC.fail(
            "statistics", f"shape {norms}", shapes["statistics"], "mean and variance of each of theta, phi and psi"
        )
    if shapes.get("statistics") is None and 0 in (sizes["batch"], *grid):
        SPEC.fail("x", "at least one position", shapes["x"], "pass statistics, which nothing can be taken of here")
    return sizes


def _call(arrays: Mapping[str, Array | None], eps: float) -> tuple[Call, Sizes]:
    """The checked call, and the sizes of its axes."""
    sizes = check(SPEC.shapes_of(arrays))
    return Call(SPEC, arrays, {"eps": eps}), sizes


def attention_gate(
    x: Array,
    theta: Array,
    phi: Array,
    theta_weight: Array,
    phi_weight: Array,
    shift: Array,
    psi: Array,
    psi_weight: Array,
    psi_shift: Array,
    statistics: Array | None = None,
    *,
    eps: float = 1e-5,
    num_threads: int | None = None,
    backend: str | None = None,
) -> tuple[Array, Array]:
    """Gates x: ``out = x sigmoid(BN(sum_c psi relu(BN(theta) + BN(phi))))``, phi cropped at its centre to the grid of x.

    A batch norm is ``weight (value - mean) / sqrt(variance + eps) + shift``. Mean and variance (of the population) are those of batch
    and grid, unless they are given. A bias of the convolution psi only moves psi's mean: subtract it from a given mean.

    Parameters
    ----------
    x : (batch, height, width, channels)
        float32, float64, or float16 computed in float32. It is copied unless channels are adjacent.
    theta : (batch, height, width, dim)
    phi : (batch, g_height, g_width, dim)
        Its grid is at least as large as that of x.
    theta_weight, phi_weight : (dim,)
    shift : (dim,)
        The sum of both norms' shifts.
    psi : (dim,)
    psi_weight, psi_shift : (1,)
    statistics : (2 dim + 1, 2)
        Means and variances of theta, phi and psi, as returned; for inference.
    num_threads, backend : as in `selective_scan`

    Returns
    -------
    out : as x, C-contiguous
    statistics : (2 dim + 1, 2)
        The ones used; float32 for float16 x.

    Raises
    ------
    ArgumentError, BackendError
        As in `selective_scan`.

    Source: Mamba-AHNet, algorithm 3.

    Examples
    --------
    Where theta is below its mean and phi is neutral, x is suppressed:

    >>> import numpy as np, ssmcore
    >>> one, theta = np.ones(1), np.array([-1.0, 1.0]).reshape(1, 1, 2, 1)
    >>> out, _ = ssmcore.attention_gate(np.ones((1, 1, 2, 1)), theta, 0 * theta, one, one, 0 * one, one, 4 * one, 0 * one)
    >>> out.ravel().round(2)
    array([0.02, 0.98])
    """
    given = (x, theta, phi, theta_weight, phi_weight, shift, psi, psi_weight, psi_shift, statistics)
    call, _ = _call(dict(zip(ARGUMENTS, given, strict=True)), eps)
    out, _, used = backends.run(call, backend=backend, num_threads=num_threads)
    return out, used


def attention_gate_vjp(
    dout: Array,
    x: Array,
    theta: Array,
    phi: Array,
    theta_weight: Array,
    phi_weight: Array,
    shift: Array,
    psi: Array,
    psi_weight: Array,
    psi_shift: Array,
    statistics: Array | None = None,
    *,
    eps: float = 1e-5,
    num_threads: int | None = None,
    backend: str | None = None,
) -> AttentionGateGradients:
    """Vector-Jacobian product of `attention_gate`: gradients of sum(dout out), through statistics that are not given.

    Parameters
    ----------
    dout : as x
    Others as in `attention_gate`, and errors too.

    Source: see ops/attention_gate.md.
    """
    given = (x, theta, phi, theta_weight, phi_weight, shift, psi, psi_weight, psi_shift, statistics)
    call, sizes = _call(dict(zip(ARGUMENTS, given, strict=True)), eps)
    call.douts = SPEC.check_gradients(sizes, dout)
    return AttentionGateGradients(*backends.run(call, backend=backend, num_threads=num_threads))
