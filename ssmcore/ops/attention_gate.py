"""The attention gate after its 1x1 convolutions: crop, batch norms, ReLU, psi, sigmoid, product. See attention_gate.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import backends
from .._spec import Argument, Case, Cases, OpSpec, Output, Sizes, Tolerance
from ..backends._threads import resolve

Array = NDArray[Any]
ENTRIES = ("attention_gate_fwd", "attention_gate_bwd")


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


def make_case(
    rng: np.random.Generator,
    dtype: Any,
    *,
    batch: int = 2,
    height: int = 5,
    width: int = 4,
    channels: int = 6,
    dim: int = 3,
    margin: tuple[int, int] = (0, 0),
    inference: bool = False,
    **options: Any,
) -> Case:
    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(dtype)

    case: Case = {
        "x": normal(batch, height, width, channels),
        "theta": normal(batch, height, width, dim) * 2 + 1,
        "phi": normal(batch, height + margin[0], width + margin[1], dim) - 1,
        "theta_weight": normal(dim),
        "phi_weight": normal(dim),
        "shift": normal(dim),
        "psi": normal(dim),
        "psi_weight": normal(1),
        "psi_shift": normal(1),
    }
    if inference:
        case["statistics"] = np.stack([normal(2 * dim + 1), rng.uniform(0.5, 2, 2 * dim + 1).astype(dtype)], axis=1)
    return case | options


_cases = Cases(make_case, batch=2, height=3, width=4, channels=6, dim=5)
_sample, _broken = _cases.sample, _cases.broken

SPEC = OpSpec(
    name="attention_gate",
    summary="features times a rate between 0 and 1 that two other features agree on",
    formula="out = x sigmoid(BN(sum_c psi relu(BN(theta) + BN(phi)))), phi cropped at its centre",
    source="Mamba-AHNet IV, algorithm 3",
    entries=ENTRIES,
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
    samples=(
        _sample("training"),
        _sample("inference", inference=True),
        _sample("cropped", margin=(2, 3)),
        _sample("cropped inference", margin=(1, 2), inference=True),
        _sample("off the lanes", height=7, width=19, channels=37, dim=21),
        _sample("whole lanes", height=6, width=24, channels=32, dim=16),
        _sample("several strips", batch=1, height=71, width=33, channels=4, dim=8),
        _sample("wider than a strip", batch=1, height=2, width=1300, channels=2, dim=2),
        _sample("one position", batch=3, height=1, width=1),
        _sample("no channel", channels=0),
    ),
    error_samples=(
        _broken("theta of another grid", ("attention_gate: theta: expected shape (2, 3, 4, dim) like x, got (2, 4, 3, 5)",),
                theta=lambda rng: np.ones((2, 4, 3, 5), np.float32)),
        _broken("phi smaller", ("attention_gate: phi: expected a grid of at least (3, 4), got (2, 4)",),
                phi=lambda rng: np.ones((2, 2, 4, 5), np.float32)),
        _broken("psi of two", ("attention_gate: psi_weight: expected one element, got 2",),
                psi_weight=lambda rng: np.ones(2, np.float32), psi_shift=lambda rng: np.ones(2, np.float32)),
        _broken("statistics of theta alone", ("attention_gate: statistics: expected shape (11, 2), got (5, 2)", "theta, phi and psi"),
                statistics=lambda rng: np.ones((5, 2), np.float32)),
        _broken("nothing to take statistics of", ("attention_gate: x: expected at least one position", "statistics"),
                x=lambda rng: np.ones((2, 0, 4, 6), np.float32), theta=lambda rng: np.ones((2, 0, 4, 5), np.float32)),
        _broken("integer x", ("attention_gate: x: expected dtype", "got int64", "astype"), TypeError,
                x=lambda rng: np.ones((2, 3, 4, 6), np.int64)),
    ),
    benchmarks=(
        _sample("B8 128x128 C16 dim 8", batch=8, height=128, width=128, channels=16, dim=8),
        _sample("B8 64x64 C64 dim 32", batch=8, height=64, width=64, channels=64, dim=32),
        _sample("B16 16x16 C128 dim 64", batch=16, height=16, width=16, channels=128, dim=64),
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

    A batch norm is ``weight (value - mean) / sqrt(variance + eps) + shift``; its mean and variance (of the population) are taken
    over batch and grid, or given. A bias of the convolution psi moves psi's mean alone: subtract it from a mean that is given.

    Parameters
    ----------
    x : (batch, height, width, channels)
        float32, float64, or float16 computed in float32; copied where the channels are not adjacent.
    theta : (batch, height, width, dim)
    phi : (batch, g_height, g_width, dim)
        A grid at least as large as that of x.
    theta_weight, phi_weight : (dim,)
    shift : (dim,)
        The sum of both norms' shifts.
    psi : (dim,)
    psi_weight, psi_shift : (1,)
    statistics : (2 dim + 1, 2)
        Means and variances of theta, phi and psi, as returned; for inference.
    num_threads, backend
        As in `selective_scan`.

    Returns
    -------
    out : as x, C-contiguous
    statistics : (2 dim + 1, 2)
        Those used; float32 where x is float16.

    Raises
    ------
    ArgumentError
        A shape or dtype is wrong; the message names argument, expectation, value and remedy.
    BackendError
        The backend named cannot run.

    Source: Mamba-AHNet, algorithm 3.

    Examples
    --------
    Where theta is below its mean, and phi says nothing, x is held back:

    >>> import numpy as np, ssmcore
    >>> one, theta = np.ones(1), np.array([-1.0, 1.0]).reshape(1, 1, 2, 1)
    >>> out, _ = ssmcore.attention_gate(np.ones((1, 1, 2, 1)), theta, 0 * theta, one, one, 0 * one, one, 4 * one, 0 * one)
    >>> out.ravel().round(2)
    array([0.02, 0.98])
    """
    arrays = dict(
        zip(
            ARGUMENTS,
            (x, theta, phi, theta_weight, phi_weight, shift, psi, psi_weight, psi_shift, statistics),
            strict=True,
        )
    )
    choice = backends.choose("attention_gate", ENTRIES, backend)
    check(SPEC.shapes_of(arrays))
    out, _, statistics = backends.entry(choice, "attention_gate_fwd")(
        *arrays.values(), eps=eps, num_threads=resolve(num_threads)
    )
    return out, statistics


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
    """Vector-Jacobian product of `attention_gate`: gradients of sum(dout out), through the statistics where they are taken here.

    Parameters
    ----------
    dout : as x
    Others as in `attention_gate`.

    Returns
    -------
    AttentionGateGradients
        In the shapes of the arguments.

    Raises
    ------
    ArgumentError, BackendError
        As in `attention_gate`.

    Source: see ops/attention_gate.md.
    """
    arrays = dict(
        zip(
            ARGUMENTS,
            (x, theta, phi, theta_weight, phi_weight, shift, psi, psi_weight, psi_shift, statistics),
            strict=True,
        )
    )
    choice = backends.choose("attention_gate", ENTRIES, backend)
    check(SPEC.shapes_of(arrays))
    SPEC.check_dtype("dout", dout)
    if dout.shape != x.shape:
        SPEC.fail("dout", f"shape {x.shape} like x", dout.shape, "pass the gradient of the output as it came out")
    threads = resolve(num_threads)
    _, q, used = backends.entry(choice, "attention_gate_fwd")(*arrays.values(), eps=eps, num_threads=threads)
    arrays.pop("statistics")
    grads = backends.entry(choice, "attention_gate_bwd")(
        dout, *arrays.values(), used, q, given=statistics is not None, eps=eps, num_threads=threads
    )
    return AttentionGateGradients(*grads)
