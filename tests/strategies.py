"""Hypothesis strategies for the arguments of a selective scan."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from samples.selective_scan import make_case
from samples.ss2d import make_case as make_grid

LENGTHS = (0, 1, 2, 3, 7, 16, 63, 64, 65, 66, 129)


@st.composite
def scans(draw: Any, *, dtypes: tuple[Any, ...] = (np.float32, np.float64)) -> tuple[dict[str, Any], Any]:
    """(arguments, dtype) over lengths, widths off the lane width, groups (dim != groups squared), options and strides."""
    dtype = draw(st.sampled_from(dtypes))
    ngroups = draw(st.sampled_from((None, 1, 2, 3)))
    members = draw(st.integers(1, 40 if ngroups in (None, 1) else 13))
    case = make_case(
        np.random.default_rng(draw(st.integers(0, 2**32 - 1))),
        dtype,
        batch=draw(st.integers(1, 3)),
        dim=members * (ngroups or 1),
        seqlen=draw(st.sampled_from(LENGTHS)),
        dstate=draw(st.sampled_from((1, 2, 5, 8, 16, 19))),
        ngroups=ngroups,
        constant_B=draw(st.booleans()) and draw(st.booleans()),
        constant_C=draw(st.booleans()) and draw(st.booleans()),
        extras=draw(st.booleans()),
        layout=draw(st.sampled_from(("bdl", "bld"))),
        discretization=draw(st.sampled_from(("mamba", "bilinear", "zoh"))),
        delta_softplus=draw(st.booleans()),
    )
    for name in ("D", "z", "delta_bias", "initial_state"):
        if name in case and draw(st.booleans()):
            del case[name]
    for name, value in case.items():
        if isinstance(value, np.ndarray):
            case[name] = draw(st.sampled_from((plain, every_other, reversed_memory, transposed_memory)))(value)
            case[name].setflags(write=False)
    return case, dtype


@st.composite
def grids(draw: Any, *, dtypes: tuple[Any, ...] = (np.float32, np.float64)) -> tuple[dict[str, Any], Any]:
    """(arguments of ss2d, dtype) over heights and widths on both sides of a chunk, widths off the lane, options and strides."""
    dtype = draw(st.sampled_from(dtypes))
    case = make_grid(
        np.random.default_rng(draw(st.integers(0, 2**32 - 1))),
        dtype,
        batch=draw(st.integers(1, 2)),
        height=draw(st.sampled_from((1, 2, 5, 8, 13))),
        width=draw(st.sampled_from((1, 3, 8, 11))),
        dim=draw(st.sampled_from((1, 5, 16, 33, 70))),
        dstate=draw(st.sampled_from((1, 3, 8, 16, 19))),
        extras=draw(st.booleans()),
        discretization=draw(st.sampled_from(("mamba", "bilinear", "zoh"))),
        delta_softplus=draw(st.booleans()),
    )
    for name, value in case.items():
        if isinstance(value, np.ndarray):
            case[name] = draw(st.sampled_from((plain, every_other, reversed_memory, transposed_memory)))(value)
            case[name].setflags(write=False)
    return case, dtype


def plain(x: np.ndarray) -> np.ndarray:
    return x.copy()


def every_other(x: np.ndarray) -> np.ndarray:
    """The same values with gaps of NaN between them in memory."""
    wide = np.full(tuple(2 * size for size in x.shape), np.nan, x.dtype)
    view = wide[tuple(slice(0, 2 * size, 2) for size in x.shape)]
    view[...] = x
    return view


def reversed_memory(x: np.ndarray) -> np.ndarray:
    """The same values through negative strides."""
    every = tuple(slice(None, None, -1) for _ in x.shape)
    return x[every].copy()[every]


def transposed_memory(x: np.ndarray) -> np.ndarray:
    """The same values in Fortran order."""
    return np.asfortranarray(x)
