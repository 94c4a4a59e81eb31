"""SS2D and the cross scan of tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._conventions import DIRECTIONS, roll_up, unroll
from ..ops import ss2d as _ss2d
from ._common import check_tensors
from ._register import TensorOp

_OP = TensorOp(_ss2d.SPEC, "bool delta_softplus", "str discretization")


def ss2d(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    discretization: str = "mamba",
    num_threads: int | None = None,
    backend: str | None = None,
) -> Tensor:
    """`ssmcore.ss2d` of tensors, differentiable in all of them; devices, dtypes and errors as in `selective_scan`.

    Source: Mamba-AHNet, section III-D and eq. 7; Liu et al., VMamba, section 4.2.
    """
    tensors = dict(zip(_ss2d.ARGUMENTS, (x, delta, A, B, C, D, delta_bias), strict=True))
    _ss2d.check(check_tensors("ss2d", tensors), discretization=discretization)
    options: dict[str, Any] = {"delta_softplus": bool(delta_softplus), "discretization": discretization}
    out, _ = _OP(*tensors.values(), **options, backend=backend, num_threads=num_threads)
    return out


def cross_scan(x: Tensor) -> Tensor:
    """`ssmcore.cross_scan` of a tensor: (batch, height, width, ...) to (batch, 4, height * width, ...). Errors as there.

    Source: Liu et al., VMamba, section 4.2.
    """
    _ss2d.check_grid("cross_scan", tuple(x.shape))
    return torch.stack([unroll(x, k) for k in range(len(DIRECTIONS))], dim=1)


def cross_merge(y: Tensor, height: int, width: int) -> Tensor:
    """`ssmcore.cross_merge` of a tensor: (batch, 4, height * width, ...) to (batch, height, width, ...). Errors as there.

    Source: Liu et al., VMamba, section 4.2.
    """
    _ss2d.check_sequences("cross_merge", tuple(y.shape), height, width)
    return torch.stack([roll_up(y[:, k], k, height, width) for k in range(len(DIRECTIONS))]).sum(0)
