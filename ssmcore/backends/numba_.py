"""Kernels compiled by numba at first use and cached: the fast path where there is no C compiler."""

from __future__ import annotations

from functools import partial

import numba  # noqa: F401  the backend is refused here where numba is missing

from . import _compiled
from ._by_scans import ss2d_by_scans, ss2d_vjp_by_scans

OPERATIONS = _compiled.operations("numba", contiguous=True, lazy=True)
OPERATIONS["ss2d"] = partial(ss2d_by_scans, OPERATIONS["selective_scan"])
OPERATIONS["ss2d_vjp"] = partial(ss2d_vjp_by_scans, OPERATIONS["selective_scan_vjp"])
limits = _compiled.limits


def about(op: str) -> str:
    kernels = "numba kernels, on numba's threads"
    return f"four scans by {kernels}" if op == "ss2d" else kernels
