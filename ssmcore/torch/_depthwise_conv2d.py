"""Depthwise 3x3 convolution of tensors."""

from __future__ import annotations

from torch import Tensor

from ..ops import depthwise_conv2d as _dwconv
from ._common import check_tensors
from ._register import TensorOp

_OP = TensorOp(_dwconv.SPEC, "str? activation")


def depthwise_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    *,
    num_threads: int | None = None,
    backend: str | None = None,
) -> Tensor:
    """`ssmcore.depthwise_conv2d` of tensors, differentiable in all of them; devices, dtypes and errors as in `selective_scan`.

    Source: Mamba-AHNet, eq. 7.
    """
    tensors = dict(zip(_dwconv.ARGUMENTS, (x, weight, bias), strict=True))
    _dwconv.check(check_tensors("depthwise_conv2d", tensors), activation=activation)
    out: Tensor = _OP(*tensors.values(), activation=activation, backend=backend, num_threads=num_threads)
    return out
