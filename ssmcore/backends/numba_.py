"""Kernels compiled by numba at first use and cached: the fast path where there is no C compiler."""

from __future__ import annotations

from typing import Any

from .._kernels import (
    attention_gate_numba,
    causal_conv1d_numba,
    chunk_scan_numba,
    depthwise_conv2d_numba,
    discretize_numba,
    gate_crop_numba,
    selective_scan_numba,
    ssm_recurrence_numba,
)
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

_discretize = Discretize(discretize_numba)
_linear = LinearRecurrence(ssm_recurrence_numba)
_crop = GateCrop(gate_crop_numba)
_scan = SelectiveScan(selective_scan_numba, contiguous=True)
_conv = CausalConv1d(causal_conv1d_numba, contiguous=True)
_chunks = ChunkScan(chunk_scan_numba, contiguous=True)
_dwconv = DepthwiseConv2d(depthwise_conv2d_numba, contiguous=True)
_gate = AttentionGate(attention_gate_numba, contiguous=True)
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
