"""Attention gate of tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import backends
from ..backends._threads import resolve
from ..backends.torch_ import attention_gate_tensors, gradients
from ..ops import attention_gate as _gate
from ._common import as_array, as_tensor, check_dtypes, wide


@torch.library.custom_op("ssmcore::attention_gate_fwd", mutates_args=())
def _gate_fwd(
    x: Tensor,
    theta: Tensor,
    phi: Tensor,
    theta_weight: Tensor,
    phi_weight: Tensor,
    shift: Tensor,
    psi: Tensor,
    psi_weight: Tensor,
    psi_shift: Tensor,
    statistics: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """out, q and the statistics used."""
    tensors = (x, theta, phi, theta_weight, phi_weight, shift, psi, psi_weight, psi_shift, statistics)
    if x.device.type != "cpu":
        with torch.no_grad():
            out, q, used = attention_gate_tensors(*tensors, eps=eps)
        return out.contiguous(), q, used
    choice = backends.choose("attention_gate", _gate.ENTRIES)
    found = backends.entry(choice, "attention_gate_fwd")(
        *[as_array(t) for t in tensors], eps=eps, num_threads=resolve(None)
    )
    return as_tensor(found[0], x), torch.from_numpy(found[1]), torch.from_numpy(found[2])


@_gate_fwd.register_fake
def _(x: Tensor, theta: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    empty = x.new_empty(0, dtype=wide(x))
    return x.new_empty(x.shape), empty.new_empty(theta.shape[:3]), empty.new_empty((2 * theta.shape[3] + 1, 2))


@torch.library.custom_op("ssmcore::attention_gate_bwd", mutates_args=())
def _gate_bwd(
    dout: Tensor,
    x: Tensor,
    theta: Tensor,
    phi: Tensor,
    theta_weight: Tensor,
    phi_weight: Tensor,
    shift: Tensor,
    psi: Tensor,
    psi_weight: Tensor,
    psi_shift: Tensor,
    statistics: Tensor,
    q: Tensor,
    given: bool,
    eps: float,
) -> list[Tensor]:
    """Gradients of the first nine arguments after dout."""
    tensors = (x, theta, phi, theta_weight, phi_weight, shift, psi, psi_weight, psi_shift)
    if x.device.type != "cpu":
        with torch.enable_grad():
            inputs: list[Any] = [t.detach().requires_grad_() for t in tensors]
            out = attention_gate_tensors(*inputs, statistics if given else None, eps=eps)[0]
            return [g.contiguous() for g in gradients((out,), inputs, (dout,)) if g is not None]
    choice = backends.choose("attention_gate", _gate.ENTRIES)
    grads = backends.entry(choice, "attention_gate_bwd")(
        *[as_array(t) for t in (dout, *tensors, statistics, q)], given=given, eps=eps, num_threads=resolve(None)
    )
    return [as_tensor(g, t) for t, g in zip(tensors, grads, strict=True)]


@_gate_bwd.register_fake
def _(dout: Tensor, *others: Any) -> list[Tensor]:
    return [t.new_empty(t.shape) for t in others[:9]]


def _gate_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, statistics, ctx.eps = inputs
    _, q, used = output
    ctx.given = statistics is not None
    ctx.mark_non_differentiable(q, used)
    ctx.save_for_backward(*tensors, used, q)


def _gate_backward(ctx: Any, dout: Tensor, *_: Any) -> tuple[Any, ...]:
    return (*_gate_bwd(dout, *ctx.saved_tensors, ctx.given, ctx.eps), None, None)


_gate_fwd.register_autograd(_gate_backward, setup_context=_gate_setup)


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
) -> tuple[Tensor, Tensor]:
    """Gated x and the statistics used; shapes, formula and options as in `ssmcore.attention_gate`.

    Differentiable in every tensor but `statistics`; computed and returned as `selective_scan` is.

    Raises
    ------
    ArgumentError
        A shape, dtype, device or option is wrong.
    BackendError
        The backend named by `use_backend` or SSMCORE_BACKEND cannot run.

    Source: Mamba-AHNet, algorithm 3.
    """
    arguments = (x, theta, phi, theta_weight, phi_weight, shift, psi, psi_weight, psi_shift, statistics)
    tensors = dict(zip(_gate.ARGUMENTS, arguments, strict=True))
    check_dtypes("attention_gate", tensors)
    _gate.check({n: None if t is None else tuple(t.shape) for n, t in tensors.items()})
    out, _, used = _gate_fwd(*arguments, eps)
    return out, used
