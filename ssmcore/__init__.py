"""State space model kernels for CPUs: NumPy in, NumPy out. `ssmcore.torch` has the same for tensors, with gradients."""

from __future__ import annotations

from ._embedding import get_include, get_library
from ._explain import CpuFeatures, cpu_features, explain
from ._hippo import hippo, s4d_diagonal
from ._lti import ssm_convolve, ssm_kernel
from ._processors import available_processors
from ._spec import ArgumentError, ArgumentTypeError
from ._updates import causal_conv1d_update, selective_state_update
from .backends import BackendError, use_backend
from .backends import names as backend_names
from .ops.attention_gate import AttentionGateGradients, attention_gate, attention_gate_vjp
from .ops.causal_conv1d import CausalConv1dGradients, causal_conv1d, causal_conv1d_vjp
from .ops.chunk_scan import ChunkScanGradients, chunk_scan, chunk_scan_vjp
from .ops.depthwise_conv2d import DepthwiseConv2dGradients, depthwise_conv2d, depthwise_conv2d_vjp
from .ops.discretize import DiscretizeGradients, discretize, discretize_vjp
from .ops.gate_crop import gate_crop, gate_crop_vjp
from .ops.selective_scan import SelectiveScanGradients, selective_scan, selective_scan_vjp
from .ops.ss2d import SS2DGradients, cross_merge, cross_scan, ss2d, ss2d_vjp
from .ops.ssm_recurrence import ssm_recurrence

__version__ = "0.1.0"
__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "AttentionGateGradients",
    "BackendError",
    "CausalConv1dGradients",
    "ChunkScanGradients",
    "CpuFeatures",
    "DepthwiseConv2dGradients",
    "DiscretizeGradients",
    "SS2DGradients",
    "SelectiveScanGradients",
    "attention_gate",
    "attention_gate_vjp",
    "available_processors",
    "backend_names",
    "causal_conv1d",
    "causal_conv1d_update",
    "causal_conv1d_vjp",
    "chunk_scan",
    "chunk_scan_vjp",
    "cpu_features",
    "cross_merge",
    "cross_scan",
    "depthwise_conv2d",
    "depthwise_conv2d_vjp",
    "discretize",
    "discretize_vjp",
    "explain",
    "gate_crop",
    "gate_crop_vjp",
    "get_include",
    "get_library",
    "hippo",
    "s4d_diagonal",
    "selective_scan",
    "selective_scan_vjp",
    "selective_state_update",
    "ss2d",
    "ss2d_vjp",
    "ssm_convolve",
    "ssm_kernel",
    "ssm_recurrence",
    "use_backend",
]
