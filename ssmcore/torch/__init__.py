"""The operations for tensors: custom ops with fake kernels and gradients, for eager mode, `torch.compile` and `torch.export`.

On the CPU the backends of `ssmcore` run on the tensors' own memory. On other devices torch's own operations run. A gradient
of a gradient raises.

>>> import torch, ssmcore.torch
>>> one = torch.ones(1, 1, 3, dtype=torch.float64)
>>> ssmcore.torch.selective_scan(one, one, torch.zeros(1, 1, dtype=torch.float64), one, one)
tensor([[[1., 2., 3.]]], dtype=torch.float64)
"""

from __future__ import annotations

from ._attention_gate import attention_gate
from ._causal_conv1d import causal_conv1d
from ._chunk_scan import chunk_scan
from ._depthwise_conv2d import depthwise_conv2d
from ._discretize import discretize
from ._gate_crop import gate_crop
from ._lti import S4D, ssm_convolve, ssm_kernel, ssm_recurrence
from ._mamba_inner import mamba_inner
from ._selective_scan import selective_scan
from ._ss2d import cross_merge, cross_scan, ss2d
from ._team import share_threads
from ._updates import causal_conv1d_update, selective_state_update

share_threads()

__all__ = [
    "S4D",
    "attention_gate",
    "causal_conv1d",
    "causal_conv1d_update",
    "chunk_scan",
    "cross_merge",
    "cross_scan",
    "depthwise_conv2d",
    "discretize",
    "gate_crop",
    "mamba_inner",
    "selective_scan",
    "selective_state_update",
    "ss2d",
    "ssm_convolve",
    "ssm_kernel",
    "ssm_recurrence",
]
