"""The attention gate's centre crop and its adjoint. See gate_crop.md."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from .. import backends
from .._spec import Argument, Call, OpSpec, Output, Tolerance

Array = NDArray[Any]


SPEC = OpSpec(
    name="gate_crop",
    summary="the centre of a grid",
    arguments=(Argument("g", ("...",), "gating features"),),
    outputs=(Output("out", "..."),),
    options={},
    forward=Tolerance(float32=0.0, float64=0.0, reason="a copy"),
    gradient=Tolerance(float32=0.0, float64=0.0, reason="a copy"),
)  # fmt: skip


def check(shape: tuple[int, ...], size: tuple[int, ...], name: str = "g") -> tuple[int, ...]:
    """`size` as a tuple of ints. Raises ArgumentError where it does not fit into the trailing axes of `shape`."""
    size = tuple(int(part) for part in size)
    if len(size) > len(shape) or not size:
        SPEC.fail(
            "size",
            f"at most {len(shape)} axes like {name}" if size else "at least one axis",
            len(size),
            "name only trailing axes",
        )
    trailing = shape[len(shape) - len(size) :]
    if any(part < 0 or part > full for part, full in zip(size, trailing, strict=True)):
        SPEC.fail("size", f"at most {trailing}, the trailing axes of {name}", size, "crop to the smaller of the two")
    return size


def gate_crop(
    g: Array,
    size: tuple[int, ...],
    *,
    out: Array | None = None,
    num_threads: int | None = None,
    backend: str | None = None,
) -> Array:
    """Cuts the centre out of the trailing axes of g.

    ``out[..., i, j] = g[..., i + (H_g - H) // 2, j + (W_g - W) // 2]``. An odd margin is one larger at the end.

    Parameters
    ----------
    g : (..., *g_size)
        float32, float64 or float16, any strides.
    size : (H, W) or any other number of trailing axes
    out, num_threads, backend
        As in `selective_scan`; a crop runs on one thread.

    Returns
    -------
    out : (..., *size)
        A contiguous copy.

    Raises
    ------
    ArgumentError
        `size` is larger than g or has more axes.

    Source: Mamba-AHNet, algorithm 3, steps 1 to 4.

    Examples
    --------
    >>> import numpy as np, ssmcore
    >>> ssmcore.gate_crop(np.arange(5.0), (2,))
    array([1., 2.])
    """
    SPEC.check_dtype("g", g)
    size = check(g.shape, size)
    SPEC.check_out(out, g, {"g": g}, (*g.shape[: g.ndim - len(size)], *size))
    call = Call(SPEC, {"g": g}, {"size": size}, into=(out,))
    cropped: Array = backends.run(call, backend=backend, num_threads=num_threads)[0]
    return cropped


def gate_crop_vjp(
    dout: Array, g_size: tuple[int, ...], *, num_threads: int | None = None, backend: str | None = None
) -> Array:
    """Adjoint of `gate_crop`: dout in the centre of zeros.

    Parameters
    ----------
    dout : (..., *size)
    g_size : trailing axes of g

    Returns
    -------
    dg : (..., *g_size)

    Raises
    ------
    ArgumentError
        `g_size` is smaller than dout or has more axes.
    """
    SPEC.check_dtype("dout", dout)
    g_size = tuple(int(part) for part in g_size)
    if len(g_size) > dout.ndim or not g_size:
        SPEC.fail("g_size", f"one to {dout.ndim} axes like dout", len(g_size), "name only trailing axes")
    trailing = dout.shape[dout.ndim - len(g_size) :]
    if any(part > full for part, full in zip(trailing, g_size, strict=True)):
        SPEC.fail("g_size", f"at least {trailing}, the trailing axes of dout", g_size, "pass the size before the crop")
    call = Call(SPEC, {}, {"g_size": g_size}, douts=(dout,))
    dg: Array = backends.run(call, backend=backend, num_threads=num_threads)[0]
    return dg
