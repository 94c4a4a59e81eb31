"""The attention gate's centre crop and its adjoint. See gate_crop.md."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import backends
from .._spec import Argument, ArgumentError, Case, ErrorSample, OpSpec, Output, Sample, Tolerance

Array = NDArray[Any]
ENTRIES = ("gate_crop", "gate_crop_vjp")


def _sample(name: str, shape: tuple[int, ...], size: tuple[int, ...]) -> Sample:
    return Sample(name, lambda rng, dtype: {"g": rng.standard_normal(shape).astype(dtype), "size": size})


def _broken(name: str, says: tuple[str, ...], error: type[Exception] = ArgumentError, **changes: Any) -> ErrorSample:
    def make(rng: np.random.Generator) -> Case:
        return {"g": np.ones((2, 3, 5, 6), np.float32), "size": (3, 4)} | changes

    return ErrorSample(name, make, error, says)


SPEC = OpSpec(
    name="gate_crop",
    summary="the centre of the trailing axes of g, of a given size",
    formula="out[..., i, j] = g[..., i + (H_g - H) // 2, j + (W_g - W) // 2]",
    source="Mamba-AHNet IV, algorithm 3, steps 1-4",
    entries=ENTRIES,
    arguments=(Argument("g", ("...",), "gating features"),),
    outputs=(Output("out", "..."),),
    options={},
    forward=Tolerance(float32=0.0, float64=0.0, reason="a copy"),
    gradient=Tolerance(float32=0.0, float64=0.0, reason="a copy"),
    samples=(
        _sample("even", (2, 3, 8, 6), (4, 2)),
        _sample("odd margin", (2, 3, 7, 8), (4, 5)),
        _sample("nothing to crop", (1, 2, 4, 4), (4, 4)),
        _sample("one axis", (3, 9), (4,)),
        _sample("three axes", (2, 5, 6, 7), (3, 3, 4)),
        _sample("every axis", (5, 6), (2, 3)),
        _sample("to nothing", (2, 3, 4, 4), (0, 2)),
        _sample("empty batch", (0, 3, 4, 4), (2, 2)),
    ),
    error_samples=(
        _broken("larger than g", ("gate_crop: size: expected at most (5, 6), the trailing axes of g, got (6, 6)",), size=(6, 6)),
        _broken("more axes than g", ("gate_crop: size: expected at most 4 axes like g, got 5",), size=(1, 1, 1, 1, 1)),
        _broken("negative", ("gate_crop: size: expected", "got (-1, 2)"), size=(-1, 2)),
        _broken("integer g", ("gate_crop: g: expected dtype", "got int64"), TypeError, g=np.ones((2, 3, 5, 6), np.int64)),
    ),
    benchmarks=(_sample("8 x 64 x 130 x 130", (8, 64, 130, 130), (128, 128)),),
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


def gate_crop(g: Array, size: tuple[int, ...], *, backend: str | None = None) -> Array:
    """Cuts the centre out of the trailing axes of g.

    ``out[..., i, j] = g[..., i + (H_g - H) // 2, j + (W_g - W) // 2]``; an odd margin leaves one more at the end.

    Parameters
    ----------
    g : (..., *g_size)
        float32, float64 or float16, any strides.
    size : (H, W) or any other number of trailing axes

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
    choice = backends.choose("gate_crop", ENTRIES, backend)
    cropped: Array = backends.entry(choice, "gate_crop")(g, size)
    return cropped


def gate_crop_vjp(dout: Array, g_size: tuple[int, ...], *, backend: str | None = None) -> Array:
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
    choice = backends.choose("gate_crop", ENTRIES, backend)
    dg: Array = backends.entry(choice, "gate_crop_vjp")(dout, g_size)
    return dg
