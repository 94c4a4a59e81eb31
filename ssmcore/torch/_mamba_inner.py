"""The inside of a Mamba block: convolution, projections, scan and gate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .._spec import ArgumentTypeError, check_option, fail
from ..ops import selective_scan as _scan
from ._causal_conv1d import conv_op
from ._common import check_tensors
from ._selective_scan import scan_op

_OP = "mamba_inner"
_ORDER = (
    *("conv1d_bias", "x_proj_weight", "A", "D", "delta_bias", "delta_proj_weight", "B", "C"),
    *("B_proj_bias", "C_proj_bias", "b_rms_weight", "c_rms_weight", "dt_rms_weight"),
)
"""Arguments of `_inner` after the first three."""


def _check(tensors: dict[str, Any], checkpoint_lvl: int) -> None:
    A, xz, delta_proj, conv = (tensors[name] for name in ("A", "xz", "delta_proj_weight", "conv1d_weight"))
    for name in ("A", "conv1d_weight", "x_proj_weight", "delta_proj_weight"):
        if tensors[name] is None:
            fail(_OP, name, "a tensor", None, "it is not optional", ArgumentTypeError)
    if isinstance(A, Tensor) and A.is_complex():
        fail(_OP, "A", "a real tensor", A.dtype, "complex states are not offered; pass the real A of Mamba")
    check_tensors(_OP, tensors)
    check_option(_OP, "checkpoint_lvl", checkpoint_lvl, (0, 1))
    if A.ndim != 2:
        fail(_OP, "A", "shape (dim, dstate)", tuple(A.shape), "pass -exp(A_log)")
    dim, dstate = A.shape
    if xz.ndim != 3 or xz.shape[1] != 2 * dim:
        fail(
            _OP, "xz", f"shape (batch, {2 * dim}, seqlen)", tuple(xz.shape), "put x and z one after the other in axis 1"
        )
    if delta_proj.ndim != 2 or delta_proj.shape[0] != dim:
        fail(_OP, "delta_proj_weight", f"shape ({dim}, dt_rank)", tuple(delta_proj.shape), "pass dt_proj.weight")
    if conv.ndim not in (2, 3) or conv.shape[0] != dim or (conv.ndim == 3 and conv.shape[1] != 1) or not conv.shape[-1]:
        fail(_OP, "conv1d_weight", f"shape ({dim}, 1, taps)", tuple(conv.shape), "pass conv1d.weight")
    rank, varying = delta_proj.shape[1], sum(tensors[name] is None for name in ("B", "C"))
    out_features = None if (out := tensors["out_proj_weight"]) is None else out.shape[0]
    expected: dict[str, tuple[Any, ...]] = {
        "x_proj_weight": (rank + varying * dstate, dim),
        "out_proj_weight": (out_features, dim),
        "out_proj_bias": (out_features,),
        "conv1d_bias": (dim,),
        "D": (dim,),
        "delta_bias": (dim,),
        "B_proj_bias": (dstate,),
        "C_proj_bias": (dstate,),
        "b_rms_weight": (dstate,),
        "c_rms_weight": (dstate,),
        "dt_rms_weight": (dim,),
    }
    for name, shape in expected.items():
        x = tensors[name]
        if x is not None and tuple(x.shape) != shape:
            fail(_OP, name, f"shape {shape}", tuple(x.shape), f"dim is {dim}, dt_rank {rank}, dstate {dstate}")
    sequence = (xz.shape[0], dim, xz.shape[2])
    from_projection = (xz.shape[0], dstate, xz.shape[2])
    matrices = {name: from_projection if (x := tensors[name]) is None else tuple(x.shape) for name in ("B", "C")}
    _scan.check(
        {"u": sequence, "delta": sequence, "A": tuple(A.shape), **matrices}, discretization="mamba", layout="bdl"
    )
    for name, bias, norm in (("B", "B_proj_bias", "b_rms_weight"), ("C", "C_proj_bias", "c_rms_weight")):
        given = tensors[name]
        if given is not None and not (tensors[bias] is None and tensors[norm] is None):
            remedy = f"apply them to {name} before"
            fail(_OP, name, f"None where {bias} or {norm} is given", tuple(given.shape), remedy)


def _normed(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    if weight is None:
        return x
    wide = x if x.dtype == torch.float64 else x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight).to(x.dtype)


def _projections(
    projected: Tensor,
    dstate: int,
    eps: float,
    weight: Tensor,
    B: Tensor | None,
    C: Tensor | None,
    B_bias: Tensor | None,
    C_bias: Tensor | None,
    b_rms: Tensor | None,
    c_rms: Tensor | None,
    dt_rms: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """delta (batch, seqlen, dim) from x_proj's output; B and C (batch, seqlen, 1, dstate) too, unless they are given."""
    rank = weight.shape[1]
    delta = _normed(F.linear(projected[..., :rank], weight), dt_rms, eps)
    if B is None:
        B = projected[..., rank : rank + dstate]
        B = _normed(B if B_bias is None else B + B_bias.to(B.dtype), b_rms, eps)[:, :, None]
    if C is None:
        C = projected[..., projected.shape[-1] - dstate :]
        C = _normed(C if C_bias is None else C + C_bias.to(C.dtype), c_rms, eps)[:, :, None]
    return delta, B, C


@dataclass(frozen=True)
class _Settings:
    eps: float
    delta_softplus: bool
    run: tuple[str | None, int | None]
    """backend and num_threads"""

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Any:
        backend, num_threads = self.run
        return conv_op(x, weight, bias, None, activation="silu", layout="bld", backend=backend, num_threads=num_threads)


def _inner(
    settings: _Settings,
    keep: bool | None,
    x: Tensor,
    z: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    x_proj_weight: Tensor,
    A: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    *others: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gated output (batch, seqlen, dim), x_proj's output and the scan's checkpoints."""
    convolved = settings.convolve(x, conv_weight, conv_bias)
    projected = F.linear(convolved, x_proj_weight)
    delta, B, C = _projections(projected, A.shape[1], settings.eps, *others)
    backend, num_threads = settings.run
    y, _, checkpoints = scan_op(
        *(convolved, delta, A, B, C, D, z, delta_bias, None),
        delta_softplus=settings.delta_softplus,
        discretization="mamba",
        layout="bld",
        keep=keep,
        backend=backend,
        num_threads=num_threads,
    )
    return y, projected, checkpoints


class _Recomputed(torch.autograd.Function):
    """`_inner`, which keeps neither the convolution nor delta: the backward pass computes them again."""

    @staticmethod
    def forward(ctx: Any, settings: _Settings, x: Tensor, *tensors: Any) -> Tensor:
        y, *kept = _inner(settings, True, x, *tensors)
        ctx.settings = settings
        ctx.autocast = torch.is_autocast_enabled(x.device.type), torch.get_autocast_dtype(x.device.type)
        ctx.save_for_backward(x, *tensors, *kept)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        x, z, conv_weight, conv_bias, x_proj_weight, A, D, delta_bias, *others, projected, checkpoints = (
            ctx.saved_tensors
        )
        settings, (enabled, dtype) = ctx.settings, ctx.autocast
        with torch.autocast(x.device.type, dtype=dtype, enabled=enabled):
            convolved = settings.convolve(x, conv_weight, conv_bias)
            with torch.enable_grad():
                leaves: list[Any] = [None if t is None else t.detach().requires_grad_() for t in (projected, *others)]
                made = _projections(leaves[0], A.shape[1], settings.eps, *leaves[1:])
        delta, B, C = (t.detach() for t in made)
        arguments = (dy, None, convolved, delta, A, B, C, D, z, delta_bias, None, checkpoints)
        grads = scan_op.backward(*arguments, settings.delta_softplus, "mamba", "bld", *settings.run)
        dconvolved, ddelta, dA, dB, dC, dD, dz, ddelta_bias, _ = grads
        wanted = [t for t in leaves if t is not None]
        found = iter(torch.autograd.grad(made, wanted, (ddelta, dB, dC), allow_unused=True))
        dprojected, *dothers = [None if t is None else next(found) for t in leaves]
        assert dprojected is not None
        flat = dprojected.flatten(0, 1).to(x_proj_weight.dtype)
        dx_proj_weight = flat.t() @ convolved.flatten(0, 1).to(x_proj_weight.dtype)
        dconvolved = dconvolved + (flat @ x_proj_weight).view_as(convolved).to(dconvolved.dtype)
        dx, dweight, dbias, _ = conv_op.backward(
            dconvolved, x, conv_weight, conv_bias, None, "silu", "bld", *settings.run
        )
        dbias, dD, ddelta_bias = (
            None if t is None else g for t, g in ((conv_bias, dbias), (D, dD), (delta_bias, ddelta_bias))
        )
        return (None, dx, dz, dweight, dbias, dx_proj_weight, dA, dD, ddelta_bias, *dothers)


def mamba_inner(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    out_proj_weight: Tensor | None,
    out_proj_bias: Tensor | None,
    A: Tensor,
    B: Tensor | None = None,
    C: Tensor | None = None,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    B_proj_bias: Tensor | None = None,
    C_proj_bias: Tensor | None = None,
    delta_softplus: bool = True,
    checkpoint_lvl: int = 1,
    b_rms_weight: Tensor | None = None,
    c_rms_weight: Tensor | None = None,
    dt_rms_weight: Tensor | None = None,
    b_c_dt_rms_eps: float = 1e-6,
    *,
    num_threads: int | None = None,
    backend: str | None = None,
) -> Tensor:
    """The inside of a Mamba block: ``out_proj(scan(u, dt_proj(dt), A, B, C, D) silu(z))``, ``u = silu(conv(x))``, ``dt, B, C = x_proj(u)``.

    Parameters
    ----------
    xz : (batch, 2 dim, seqlen)
        x, then z, along axis 1. Any strides; a transposed (batch, seqlen, 2 dim) is fastest.
    conv1d_weight : (dim, 1, taps) or (dim, taps)
    conv1d_bias : (dim,)
    x_proj_weight : (dt_rank + dstate, where B is None, + dstate, where C is None, dim)
    delta_proj_weight : (dim, dt_rank)
    out_proj_weight : (features, dim), or None for no output projection
    out_proj_bias : (features,)
    A : (dim, dstate), real
    B, C : None, from x_proj; else (dim, dstate), (batch, dstate, seqlen) or (batch, ngroups, dstate, seqlen)
    D, delta_bias : (dim,)
    B_proj_bias, C_proj_bias : (dstate,)
        Added to the projections.
    checkpoint_lvl : 0 or 1
        1 computes the convolution and delta again in the backward pass instead of keeping them. No bit of the output changes.
    b_rms_weight, c_rms_weight : (dstate,)
        Weights of a root-mean-square norm of B or C, after its bias.
    dt_rms_weight : (dim,)
        Weights of a root-mean-square norm of delta, before delta_bias.
    num_threads, backend : as in `selective_scan`

    Returns
    -------
    out : (batch, seqlen, features), or (batch, dim, seqlen) where `out_proj_weight` is None
        Differentiable in every tensor.

    Raises
    ------
    ArgumentError
        A shape, dtype, device or option is wrong, or A is complex.
    BackendError
        The backend named cannot run.

    Source: Gu and Dao, Mamba (2023), section 3.4 and appendix D; the interface follows state-spaces' mamba.
    """
    tensors = {
        "xz": xz,
        "conv1d_weight": conv1d_weight,
        "conv1d_bias": conv1d_bias,
        "x_proj_weight": x_proj_weight,
        "delta_proj_weight": delta_proj_weight,
        "out_proj_weight": out_proj_weight,
        "out_proj_bias": out_proj_bias,
        "A": A,
        "B": B,
        "C": C,
        "D": D,
        "delta_bias": delta_bias,
        "B_proj_bias": B_proj_bias,
        "C_proj_bias": C_proj_bias,
        "b_rms_weight": b_rms_weight,
        "c_rms_weight": c_rms_weight,
        "dt_rms_weight": dt_rms_weight,
    }
    _check(tensors, checkpoint_lvl)
    x, z = xz.transpose(1, 2).chunk(2, dim=-1)
    tensors |= {name: _scan.canonical(name, tensors[name], "bdl") for name in ("B", "C")}
    first = (x, z, conv1d_weight[:, 0] if conv1d_weight.ndim == 3 else conv1d_weight)
    inputs: list[Any] = [*first, *(tensors[name] for name in _ORDER)]
    settings = _Settings(b_c_dt_rms_eps, bool(delta_softplus), (backend, num_threads))
    # a compiler decides by itself which results it computes again
    if checkpoint_lvl == 1 and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        y = _Recomputed.apply(settings, *inputs)
    else:
        y, _, _ = _inner(settings, None, *inputs)
    return y.transpose(1, 2) if out_proj_weight is None else F.linear(y, out_proj_weight, out_proj_bias)
