"""Depthwise 3x3 convolution of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import backends
from ..backends._threads import resolve
from ..backends.torch_ import depthwise_conv2d_tensors, gradients
from ..ops import depthwise_conv2d as _dwconv
from ._common import as_array, as_tensor, check_dtypes


@torch.library.custom_op("ssmcore::depthwise_conv2d_fwd", mutates_args=())
def _dwconv_fwd(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
    if x.device.type != "cpu":
        with torch.no_grad():
            return depthwise_conv2d_tensors(x, weight, bias, silu=silu).clone(memory_format=torch.contiguous_format)
    choice = backends.choose("depthwise_conv2d", _dwconv.ENTRIES)
    out = backends.entry(choice, "depthwise_conv2d_fwd")(
        as_array(x), as_array(weight), as_array(bias), silu=silu, num_threads=resolve(None)
    )
    return as_tensor(out, x)


@_dwconv_fwd.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op("ssmcore::depthwise_conv2d_bwd", mutates_args=())
def _dwconv_bwd(dout: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> list[Tensor]:
    """Gradients of x, weight and bias, empty for an absent argument."""
    tensors = (x, weight, bias)
    grads: Sequence[Any]
    if x.device.type != "cpu":
        with torch.enable_grad():
            inputs: list[Any] = [None if t is None else t.detach().requires_grad_() for t in tensors]
            out = depthwise_conv2d_tensors(*inputs, silu=silu)
            grads = gradients((out,), inputs, (dout,))
        return [x.new_empty(0) if g is None else g.contiguous() for g in grads]
    choice = backends.choose("depthwise_conv2d", _dwconv.ENTRIES)
    grads = backends.entry(choice, "depthwise_conv2d_bwd")(
        as_array(dout), *[as_array(t) for t in tensors], silu=silu, num_threads=resolve(None)
    )
    return [x.new_empty(0) if t is None else as_tensor(g, t) for t, g in zip(tensors, grads, strict=True)]


@_dwconv_bwd.register_fake
def _(dout: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> list[Tensor]:
    return [x.new_empty(0) if t is None else t.new_empty(t.shape) for t in (x, weight, bias)]


def _dwconv_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, ctx.silu = inputs
    ctx.save_for_backward(x, weight, bias)


def _dwconv_backward(ctx: Any, dout: Tensor) -> tuple[Any, ...]:
    x, weight, bias = ctx.saved_tensors
    dx, dweight, dbias = _dwconv_bwd(dout, x, weight, bias, ctx.silu)
    return dx, dweight, None if bias is None else dbias, None


_dwconv_fwd.register_autograd(_dwconv_backward, setup_context=_dwconv_setup)


def depthwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None) -> Tensor:
    """Depthwise 3x3 convolution of channel-last grids; shapes, formula and options as in `ssmcore.depthwise_conv2d`.

    Differentiable in every tensor; computed and returned as `selective_scan` is.

    Raises
    ------
    ArgumentError
        A shape, dtype, device or option is wrong.
    BackendError
        The backend named by `use_backend` or SSMCORE_BACKEND cannot run.

    Source: Mamba-AHNet, eq. 7.
    """
    tensors = dict(zip(_dwconv.ARGUMENTS, (x, weight, bias), strict=True))
    check_dtypes("depthwise_conv2d", tensors)
    _dwconv.check({n: None if t is None else tuple(t.shape) for n, t in tensors.items()}, activation=activation)
    return _dwconv_fwd(x, weight, bias, activation is not None)
