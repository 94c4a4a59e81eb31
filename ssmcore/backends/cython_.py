"""Compiled kernels: C per instruction set behind Cython, on OpenMP threads."""

from __future__ import annotations

import os
from typing import Any

from .._kernels.attention_gate import binding as attention_gate_kernels
from .._kernels.causal_conv1d import binding as causal_conv1d_kernels
from .._kernels.chunk_scan import binding as chunk_scan_kernels
from .._kernels.depthwise_conv2d import binding as depthwise_conv2d_kernels
from .._kernels.discretize import binding as discretize_kernels
from .._kernels.gate_crop import binding as gate_crop_kernels
from .._kernels.selective_scan import binding as kernels
from .._kernels.ssm_recurrence import binding as ssm_recurrence_kernels
from ._compiled import (
    SS2D,
    AttentionGate,
    CausalConv1d,
    ChunkScan,
    DepthwiseConv2d,
    Discretize,
    GateCrop,
    LinearRecurrence,
    SelectiveScan,
)

_ISA_ENVIRONMENT = "SSMCORE_ISA"
_discretize = Discretize(discretize_kernels)
_linear = LinearRecurrence(ssm_recurrence_kernels, extra=lambda: (_isa_code(),))
_crop = GateCrop(gate_crop_kernels)
_scan = SelectiveScan(kernels, contiguous=False, extra=lambda: (_isa_code(),))
_grid = SS2D(kernels, extra=lambda: (_isa_code(),))
_conv = CausalConv1d(causal_conv1d_kernels, contiguous=False, extra=lambda: (_isa_code(),))
_chunks = ChunkScan(chunk_scan_kernels, contiguous=False, extra=lambda: (_isa_code(),))
_dwconv = DepthwiseConv2d(depthwise_conv2d_kernels, contiguous=False, extra=lambda: (_isa_code(),))
_gate = AttentionGate(attention_gate_kernels, contiguous=False, extra=lambda: (_isa_code(),))
_PER_ISA = (
    "selective_scan",
    "ss2d",
    "causal_conv1d",
    "chunk_scan",
    "depthwise_conv2d",
    "attention_gate",
    "ssm_recurrence",
)


def usable_isas() -> tuple[str, ...]:
    """The instruction sets compiled in that this processor runs, narrowest first."""
    return kernels.ISAS[: kernels.ISAS.index(kernels.best_isa()) + 1]


def isa() -> str:
    """The instruction set in use: SSMCORE_ISA where set, else the widest this processor runs.

    Raises
    ------
    ValueError
        SSMCORE_ISA names one that is unknown or not run by this processor.
    """
    usable = usable_isas()
    wanted = os.environ.get(_ISA_ENVIRONMENT)
    if not wanted:
        return usable[-1]
    if wanted not in usable:
        raise ValueError(
            f"{_ISA_ENVIRONMENT}: expected one of {', '.join(usable)} on this processor, got {wanted!r}; unset it"
        )
    return wanted


def has_openmp() -> bool:
    """Whether the kernels run on several threads."""
    return kernels.openmp_threads() > 0


def _isa_code() -> int:
    return kernels.ISAS.index(isa())


def about(op: str) -> str:
    threads = "OpenMP threads" if has_openmp() else "one thread, built without OpenMP"
    return f"compiled C kernels, {isa()}, {threads}" if op in _PER_ISA else f"compiled kernels, {threads}"


def limits(op: str, *, structure: str = "diagonal", complex_too: bool = False, **_: Any) -> str | None:
    if op == "ssm_recurrence":
        return _linear.limits(structure)
    if op == "discretize":
        return _discretize.limits(structure, complex_too)
    return (
        "its kernels scan with a real A; the numpy and torch backends also with a complex one" if complex_too else None
    )


discretize = _discretize.forward
discretize_vjp = _discretize.backward
attention_gate_fwd = _gate.forward
attention_gate_bwd = _gate.backward
ssm_recurrence = _linear.run
gate_crop = _crop.forward
gate_crop_vjp = _crop.backward
causal_conv1d_fwd = _conv.forward
causal_conv1d_bwd = _conv.backward
causal_conv1d_step = _conv.step
chunk_scan_fwd = _chunks.forward
chunk_scan_bwd = _chunks.backward
depthwise_conv2d_fwd = _dwconv.forward
depthwise_conv2d_bwd = _dwconv.backward
selective_scan_fwd = _scan.forward
selective_scan_bwd = _scan.backward
selective_scan_step = _scan.step
ss2d_fwd = _grid.forward
ss2d_bwd = _grid.backward
