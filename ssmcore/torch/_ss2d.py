"""SS2D and the cross scan of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import backends
from .._conventions import DIRECTIONS, roll_up, unroll
from ..backends._threads import resolve
from ..backends.torch_ import gradients, ss2d_tensors
from ..ops import selective_scan as _scan
from ..ops import ss2d as _ss2d
from ._common import as_array, as_tensor, check_dtypes, wide


@torch.library.custom_op("ssmcore::ss2d_fwd", mutates_args=())
def _ss2d_fwd(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    discretization: str,
    keep_checkpoints: bool,
) -> tuple[Tensor, Tensor]:
    """(out, checkpoints); the latter (direction, batch, nchunks, dstate, dim), or empty."""
    tensors = (x, delta, A, B, C, D, delta_bias)
    options: dict[str, Any] = {
        "delta_softplus": delta_softplus,
        "discretization": discretization,
        "keep_checkpoints": keep_checkpoints,
    }
    if x.device.type != "cpu":
        with torch.no_grad():
            out, kept = ss2d_tensors(*tensors, **options)
        return out.contiguous(), kept if keep_checkpoints else kept.new_empty(0)
    choice = backends.choose("ss2d", _ss2d.ENTRIES)
    out_array, kept_array = backends.entry(choice, "ss2d_fwd")(
        *[as_array(t) for t in tensors], **options, num_threads=resolve(None)
    )
    kept = torch.empty(0, dtype=wide(x)) if kept_array is None else torch.from_numpy(kept_array)
    return as_tensor(out_array, x), kept


@_ss2d_fwd.register_fake
def _(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    discretization: str,
    keep_checkpoints: bool,
) -> tuple[Tensor, Tensor]:
    batch, height, width, dim = x.shape
    kept = (len(DIRECTIONS), *_scan.checkpoint_shape(batch, dim, height * width, A.shape[2]))
    return x.new_empty(x.shape), x.new_empty(kept if keep_checkpoints else (0,), dtype=wide(x))


@torch.library.custom_op("ssmcore::ss2d_bwd", mutates_args=())
def _ss2d_bwd(
    dout: Tensor,
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    checkpoints: Tensor,
    delta_softplus: bool,
    discretization: str,
) -> list[Tensor]:
    """Gradients in the order of `ARGUMENTS`, empty for an absent argument."""
    tensors = (x, delta, A, B, C, D, delta_bias)
    grads: Sequence[Any]
    if x.device.type != "cpu":
        with torch.enable_grad():
            inputs: list[Any] = [None if t is None else t.detach().requires_grad_() for t in tensors]
            out, _ = ss2d_tensors(*inputs, delta_softplus=delta_softplus, discretization=discretization)
            grads = gradients((out,), inputs, (dout,))
        return [x.new_empty(0) if g is None else g.contiguous() for g in grads]
    choice = backends.choose("ss2d", _ss2d.ENTRIES)
    grads = backends.entry(choice, "ss2d_bwd")(
        as_array(dout),
        *[as_array(t) for t in tensors],
        checkpoints.numpy(),
        delta_softplus=delta_softplus,
        discretization=discretization,
        num_threads=resolve(None),
    )
    return [x.new_empty(0) if g is None or t is None else as_tensor(g, t) for t, g in zip(tensors, grads, strict=True)]


@_ss2d_bwd.register_fake
def _(
    dout: Tensor,
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    checkpoints: Tensor,
    delta_softplus: bool,
    discretization: str,
) -> list[Tensor]:
    return [x.new_empty(0) if t is None else t.new_empty(t.shape) for t in (x, delta, A, B, C, D, delta_bias)]


def _ss2d_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.delta_softplus, ctx.discretization, _ = inputs
    ctx.present = [t is not None for t in tensors]
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1], *[t for t in tensors if t is not None])


def _ss2d_backward(ctx: Any, dout: Tensor, _: Tensor) -> tuple[Any, ...]:
    checkpoints, *given = ctx.saved_tensors
    tensors = iter(given)
    arguments: list[Any] = [next(tensors) if present else None for present in ctx.present]
    grads = _ss2d_bwd(dout, *arguments, checkpoints, ctx.delta_softplus, ctx.discretization)
    return (*[g if present else None for g, present in zip(grads, ctx.present, strict=True)], None, None, None)


_ss2d_fwd.register_autograd(_ss2d_backward, setup_context=_ss2d_setup)


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
) -> Tensor:
    """Four selective scans of a grid, summed; shapes, directions and options as in `ssmcore.ss2d`.

    Differentiable in every tensor, computed and returned as `selective_scan` is.

    Raises
    ------
    ArgumentError
        A shape, dtype, device or option is wrong.
    BackendError
        The backend named by `use_backend` or SSMCORE_BACKEND cannot run.

    Source: Mamba-AHNet, section III-D and eq. 7; Liu et al., VMamba, section 4.2.
    """
    tensors = dict(zip(_ss2d.ARGUMENTS, (x, delta, A, B, C, D, delta_bias), strict=True))
    check_dtypes("ss2d", tensors)
    shapes = {name: None if t is None else tuple(t.shape) for name, t in tensors.items()}
    _ss2d.check(shapes, discretization=discretization)
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors.values())
    out, _ = _ss2d_fwd(*tensors.values(), bool(delta_softplus), discretization, keep)
    return out


def cross_scan(x: Tensor) -> Tensor:
    """The four unrolled sequences of a grid, (batch, height, width, ...) to (batch, 4, height * width, ...); as `ssmcore.cross_scan`.

    Raises
    ------
    ArgumentError
        x has fewer than three axes.

    Source: Liu et al., VMamba, section 4.2.
    """
    _ss2d.check_grid("cross_scan", tuple(x.shape))
    return torch.stack([unroll(x, k) for k in range(len(DIRECTIONS))], dim=1)


def cross_merge(y: Tensor, height: int, width: int) -> Tensor:
    """Sums four unrolled sequences at every position, (batch, 4, height * width, ...) to (batch, height, width, ...).

    Raises
    ------
    ArgumentError
        y has no four directions, or another number of positions.

    Source: Liu et al., VMamba, section 4.2.
    """
    _ss2d.check_sequences("cross_merge", tuple(y.shape), height, width)
    return torch.stack([roll_up(y[:, k], k, height, width) for k in range(len(DIRECTIONS))]).sum(0)
