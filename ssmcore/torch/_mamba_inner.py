"""The inside of a Mamba block: convolution, projections, scan and gate."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .._spec import check_option, fail
from ..ops import selective_scan as _scan
from ._causal_conv1d import _conv_bwd, causal_conv1d
from ._common import check_dtypes
from ._selective_scan import _scan_bwd, _scan_fwd, selective_scan

_OP = "mamba_inner"


def _check(tensors: dict[str, Tensor | None], checkpoint_lvl: int) -> None:
    A = tensors["A"]
    if isinstance(A, Tensor) and A.is_complex():
        fail(_OP, "A", "a real tensor", A.dtype, "complex states are not offered; pass the real A of Mamba")
    check_dtypes(_OP, tensors)
    check_option(_OP, "checkpoint_lvl", checkpoint_lvl, (0, 1))
    xz, delta_proj, conv = tensors["xz"], tensors["delta_proj_weight"], tensors["conv1d_weight"]
    assert A is not None
    assert xz is not None
    assert delta_proj is not None
    assert conv is not None
    if A.ndim != 2:
        fail(_OP, "A", "shape (dim, dstate)", tuple(A.shape), "pass -exp(A_log)")
    dim, dstate = A.shape
    if xz.ndim != 3 or xz.shape[1] != 2 * dim:
        fail(
            _OP, "xz", f"shape (batch, {2 * dim}, seqlen)", tuple(xz.shape), "x and z lie one after the other in axis 1"
        )
    if delta_proj.ndim != 2 or delta_proj.shape[0] != dim:
        fail(_OP, "delta_proj_weight", f"shape ({dim}, dt_rank)", tuple(delta_proj.shape), "pass dt_proj.weight")
    if conv.ndim not in (2, 3) or conv.shape[0] != dim or (conv.ndim == 3 and conv.shape[1] != 1):
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


class _Projections:
    """delta, B and C from x_proj's output: (batch, seqlen, dim) and (batch, seqlen, dstate), or B and C as given."""

    def __init__(self, B: Tensor | None, C: Tensor | None, dstate: int, eps: float) -> None:
        self.varies_B, self.varies_C, self.dstate, self.eps = B is None, C is None, dstate, eps

    def __call__(
        self,
        projected: Tensor,
        weight: Tensor,
        B: Tensor | None,
        C: Tensor | None,
        B_bias: Tensor | None,
        C_bias: Tensor | None,
        b_rms: Tensor | None,
        c_rms: Tensor | None,
        dt_rms: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        rank, n = weight.shape[1], self.dstate
        delta = _normed(F.linear(projected[..., :rank], weight), dt_rms, self.eps)
        if self.varies_B:
            B = projected[..., rank : rank + n]
            B = _normed(B if B_bias is None else B + B_bias.to(B.dtype), b_rms, self.eps)
        if self.varies_C:
            C = projected[..., projected.shape[-1] - n :]
            C = _normed(C if C_bias is None else C + C_bias.to(C.dtype), c_rms, self.eps)
        assert B is not None
        assert C is not None
        return delta, B, C


def _time_first(x: Tensor | None) -> Tensor | None:
    """Varying B or C, channel-first as upstream has it, with the sequence first."""
    if x is None or x.ndim == 2:
        return x
    return x.transpose(1, 2) if x.ndim == 3 else x.permute(0, 3, 1, 2)


class _Recomputed(torch.autograd.Function):
    """Keeps neither the convolution nor delta, of batch * seqlen * dim each, and computes both again in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        projections: _Projections,
        delta_softplus: bool,
        x: Tensor,
        z: Tensor,
        conv_weight: Tensor,
        conv_bias: Tensor | None,
        x_proj_weight: Tensor,
        A: Tensor,
        D: Tensor | None,
        delta_bias: Tensor | None,
        *others: Tensor | None,
    ) -> Tensor:
        convolved = causal_conv1d(x, conv_weight, conv_bias, activation="silu", layout="bld")
        projected = F.linear(convolved, x_proj_weight)
        delta, B, C = projections(projected, *others)  # type: ignore[arg-type]
        y, _, checkpoints = _scan_fwd(
            convolved, delta, A, B, C, D, z, delta_bias, None, delta_softplus, "mamba", "bld", True
        )
        ctx.projections, ctx.delta_softplus, ctx.others = projections, delta_softplus, len(others)
        ctx.autocast = torch.is_autocast_enabled(x.device.type), torch.get_autocast_dtype(x.device.type)
        ctx.save_for_backward(
            x, z, conv_weight, conv_bias, x_proj_weight, A, D, delta_bias, *others, projected, checkpoints
        )
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        x, z, conv_weight, conv_bias, x_proj_weight, A, D, delta_bias, *others, projected, checkpoints = (
            ctx.saved_tensors
        )
        enabled, dtype = ctx.autocast
        with torch.autocast(x.device.type, dtype=dtype, enabled=enabled), torch.enable_grad():
            convolved = causal_conv1d(x, conv_weight, conv_bias, activation="silu", layout="bld").detach()
            leaves = [None if t is None else t.detach().requires_grad_() for t in (projected, *others)]
            made = ctx.projections(*leaves)
        grads = _scan_bwd(
            dy,
            None,
            convolved,
            made[0].detach(),
            A,
            made[1].detach(),
            made[2].detach(),
            D,
            z,
            delta_bias,
            None,
            checkpoints,
            ctx.delta_softplus,
            "mamba",
            "bld",
        )
        dconvolved, ddelta, dA, dB, dC, dD, dz, ddelta_bias, _ = grads
        wanted = [t for t in leaves if t is not None]
        found = iter(torch.autograd.grad(made, wanted, (ddelta, dB, dC), allow_unused=True))
        dprojected, *dothers = [None if t is None else next(found) for t in leaves]
        assert dprojected is not None
        dtype = x_proj_weight.dtype
        flat = dprojected.flatten(0, 1).to(dtype)
        dx_proj_weight = flat.t() @ convolved.flatten(0, 1).to(dtype)
        dconvolved = dconvolved + (flat @ x_proj_weight).view_as(convolved).to(dconvolved.dtype)
        dx, dconv_weight, dconv_bias, _ = _conv_bwd(dconvolved, x, conv_weight, conv_bias, None, True, "bld")
        return (
            None,
            None,
            dx,
            dz,
            dconv_weight,
            None if conv_bias is None else dconv_bias,
            dx_proj_weight,
            dA,
            None if D is None else dD,
            None if delta_bias is None else ddelta_bias,
            *dothers,
        )


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
) -> Tensor:
    """The inside of a Mamba block: ``out_proj(scan(u, dt_proj(dt), A, B, C, D) silu(z))``, ``u = silu(conv(x))``, ``dt, B, C = x_proj(u)``.

    Parameters
    ----------
    xz : (batch, 2 dim, seqlen)
        x, then z, along axis 1. Any strides; fastest as a transposed (batch, seqlen, 2 dim).
    conv1d_weight : (dim, 1, taps) or (dim, taps)
    conv1d_bias : (dim,)
    x_proj_weight : (dt_rank + dstate, where B is None, + dstate, where C is None, dim)
    delta_proj_weight : (dim, dt_rank)
    out_proj_weight : (features, dim), or None for what comes before it
    out_proj_bias : (features,)
    A : (dim, dstate), real
    B, C : None, from x_proj; else (dim, dstate), (batch, dstate, seqlen) or (batch, ngroups, dstate, seqlen)
    D, delta_bias : (dim,)
    B_proj_bias, C_proj_bias : (dstate,)
        Added to what x_proj gives.
    checkpoint_lvl : 0 or 1
        1 computes the convolution and delta again in the backward pass instead of keeping them.
    b_rms_weight, c_rms_weight : (dstate,)
        Of a root-mean-square norm of B or C, after its bias.
    dt_rms_weight : (dim,)
        Of a root-mean-square norm of delta, before delta_bias.

    Returns
    -------
    out : (batch, seqlen, features), or (batch, dim, seqlen) where `out_proj_weight` is None
        Differentiable in every tensor. `checkpoint_lvl` changes no bit of it.

    Raises
    ------
    ArgumentError
        A shape, dtype, device or option is wrong, or A is complex.
    BackendError
        The backend named by `use_backend` or SSMCORE_BACKEND cannot run.

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
    weight = conv1d_weight[:, 0] if conv1d_weight.ndim == 3 else conv1d_weight
    projections = _Projections(B, C, A.shape[1], b_c_dt_rms_eps)
    others = (
        delta_proj_weight,
        _time_first(B),
        _time_first(C),
        B_proj_bias,
        C_proj_bias,
        b_rms_weight,
        c_rms_weight,
        dt_rms_weight,
    )
    # a compiler decides itself what to compute again
    if checkpoint_lvl == 1 and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        y = _Recomputed.apply(
            projections, delta_softplus, x, z, weight, conv1d_bias, x_proj_weight, A, D, delta_bias, *others
        )
    else:
        convolved = causal_conv1d(x, weight, conv1d_bias, activation="silu", layout="bld")
        delta, B, C = projections(F.linear(convolved, x_proj_weight), *others)
        y = selective_scan(convolved, delta, A, B, C, D, z, delta_bias, delta_softplus, layout="bld")
    if out_proj_weight is None:
        return y.transpose(1, 2)
    return F.linear(y, out_proj_weight, out_proj_bias)
