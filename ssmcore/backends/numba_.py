"""Kernels compiled by numba at first use and cached: the fast path where there is no C compiler."""

from __future__ import annotations

from typing import Any

from .._kernels.attention_gate import numba as attention_gate_kernels
from .._kernels.causal_conv1d import numba as causal_conv1d_kernels
from .._kernels.chunk_scan import numba as chunk_scan_kernels
from .._kernels.depthwise_conv2d import numba as depthwise_conv2d_kernels
from .._kernels.discretize import numba as discretize_kernels
from .._kernels.gate_crop import numba as gate_crop_kernels
from .._kernels.selective_scan import numba as selective_scan_kernels
from .._kernels.ssm_recurrence import numba as ssm_recurrence_kernels
from ._by_scans import SS2DByScans
from ._compiled import (
    AttentionGate,
    CausalConv1d,
    ChunkScan,
    DepthwiseConv2d,
    Discretize,
    GateCrop,
    LinearRecurrence,
    SelectiveScan,
)

_discretize = Discretize(discretize_kernels)
_linear = LinearRecurrence(ssm_recurrence_kernels)
_crop = GateCrop(gate_crop_kernels)
_scan = SelectiveScan(selective_scan_kernels, contiguous=True)
_conv = CausalConv1d(causal_conv1d_kernels, contiguous=True)
_chunks = ChunkScan(chunk_scan_kernels, contiguous=True)
_dwconv = DepthwiseConv2d(depthwise_conv2d_kernels, contiguous=True)
_gate = AttentionGate(attention_gate_kernels, contiguous=True)
_grid = SS2DByScans(_scan.forward, _scan.backward)


def about(op: str) -> str:
    kernels = "numba kernels, on numba's threads"
    return f"four scans by {kernels}" if op == "ss2d" else kernels


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
chunk_scan_fwd = _chunks.forward
chunk_scan_bwd = _chunks.backward
depthwise_conv2d_fwd = _dwconv.forward
depthwise_conv2d_bwd = _dwconv.backward
selective_scan_fwd = _scan.forward
selective_scan_bwd = _scan.backward
ss2d_fwd = _grid.forward
ss2d_bwd = _grid.backward
