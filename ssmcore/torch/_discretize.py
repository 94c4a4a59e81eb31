"""Discretisation of tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from .._spec import Call
from ..backends.torch_ import forward
from ..ops import discretize as _discretize
from ._common import check_tensors


def discretize(
    A: Tensor, B: Tensor, delta: Tensor, *, method: str = "zoh", structure: str = "diagonal"
) -> tuple[Tensor, Tensor]:
    """`ssmcore.discretize` of tensors, in torch's own operations on any device.

    Raises
    ------
    ArgumentError
        A dtype, device or option is wrong.

    Source: Mamba-AHNet, eq. 2.
    """
    check_tensors("discretize", {"A": A, "B": B, "delta": delta}, complex_too=("A", "B"))
    _discretize.SPEC.check_option("method", method)
    _discretize.SPEC.check_option("structure", structure)
    arrays, options = {"A": A, "B": B, "delta": delta}, {"method": method, "structure": structure}
    A_bar, B_bar = forward(Call(_discretize.SPEC, arrays, options))
    core = 1 if structure == "diagonal" else 2
    lead = torch.broadcast_shapes(A.shape[:-core], B.shape[:-core], delta.shape)
    return A_bar.expand(*lead, *A.shape[-core:]), B_bar.expand(*lead, *B.shape[-core:])
