"""Compiled kernels: C per instruction set behind Cython, on OpenMP threads."""

from __future__ import annotations

import os
from typing import Any

from .._kernels import discretize_cython, gate_crop_cython
from .._kernels import selective_scan_cython as kernels
from ._compiled import SS2D, Discretize, GateCrop, SelectiveScan

_ISA_ENVIRONMENT = "SSMCORE_ISA"
_discretize = Discretize(discretize_cython)
_crop = GateCrop(gate_crop_cython)
_scan = SelectiveScan(kernels, contiguous=False, extra=lambda: (kernels.ISAS.index(isa()),))
_grid = SS2D(kernels, extra=lambda: (kernels.ISAS.index(isa()),))


def isa() -> str:
    """The instruction set in use: SSMCORE_ISA where set, else the widest this processor runs.

    Raises
    ------
    ValueError
        SSMCORE_ISA names one that is unknown or not run by this processor.
    """
    best = kernels.best_isa()
    wanted = os.environ.get(_ISA_ENVIRONMENT)
    if not wanted:
        return str(best)
    usable = kernels.ISAS[: kernels.ISAS.index(best) + 1]
    if wanted not in usable:
        raise ValueError(
            f"{_ISA_ENVIRONMENT}: expected one of {', '.join(usable)} on this processor, got {wanted!r}; unset it"
        )
    return wanted


def about(op: str) -> str:
    threads = "OpenMP threads" if kernels.has_openmp() else "one thread, built without OpenMP"
    return f"compiled C kernels, {isa()}, {threads}" if op in ("selective_scan", "ss2d") else f"compiled kernels, {threads}"


def limits(op: str, *, structure: str = "diagonal", **_: Any) -> str | None:
    return _discretize.limits(structure) if op == "discretize" else None


discretize = _discretize.forward
discretize_vjp = _discretize.backward
gate_crop = _crop.forward
gate_crop_vjp = _crop.backward
selective_scan_fwd = _scan.forward
selective_scan_bwd = _scan.backward
ss2d_fwd = _grid.forward
ss2d_bwd = _grid.backward
