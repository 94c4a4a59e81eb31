"""Attention gate of tensors."""

from __future__ import annotations

from torch import Tensor

from ..ops import attention_gate as _gate
from ._common import check_tensors
from ._register import TensorOp

_OP = TensorOp(_gate.SPEC, "float eps")


def attention_gate(
    x: Tensor,
    theta: Tensor,
    phi: Tensor,
    theta_weight: Tensor,
    phi_weight: Tensor,
    shift: Tensor,
    psi: Tensor,
    psi_weight: Tensor,
    psi_shift: Tensor,
    statistics: Tensor | None = None,
    *,
    eps: float = 1e-5,
    num_threads: int | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """`ssmcore.attention_gate` of tensors, differentiable in all but `statistics`; devices, dtypes and errors as in `selective_scan`.

    Source: Mamba-AHNet, algorithm 3.
    """
    arguments = (x, theta, phi, theta_weight, phi_weight, shift, psi, psi_weight, psi_shift, statistics)
    _gate.check(check_tensors("attention_gate", dict(zip(_gate.ARGUMENTS, arguments, strict=True))))
    out, _, used = _OP(*arguments, eps=eps, backend=backend, num_threads=num_threads)
    return out, used
