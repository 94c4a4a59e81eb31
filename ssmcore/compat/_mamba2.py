"""The block of Mamba-2 under its name in mamba_ssm."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import torch as st
from .._spec import fail
from ..torch._common import wide
from ._chunk_scan import mamba_split_conv1d_scan_combined
from ._mamba_simple import StatesInCache, check_token, initial_dt_bias, kept_parameter
from ._norms import GatedRMSNorm
from ._steps import causal_conv1d_update


class Mamba2(StatesInCache, nn.Module):
    """Mamba-2 block on (batch, seqlen, d_model). Parameters have mamba_ssm's names: its checkpoints load.

    Parameters
    ----------
    d_model : channels in and out
    d_state, d_conv, expand : states of a head's channel, taps of the convolution, factor of the inner channels
    conv_init : bound of the convolution's initial uniform weights, or None for torch's own
    headdim, ngroups : channels of a head; groups of heads that share B and C
    d_ssm : scanned inner channels, None for all; the others pass through a gate alone
    A_init_range, dt_min, dt_max, dt_init_floor : initial rates of decay and initial steps
    dt_limit : bounds of the steps
    D_has_hdim : one skip for each channel instead of for each head
    rmsnorm, norm_before_gate : whether a norm follows the scan, and whether the gate follows the norm
    bias, conv_bias : whether the outer projections, and the convolution, have one
    chunk_size, use_mem_eff_path, process_group, sequence_parallel : without effect
    layer_idx : key of the layer's states in an `InferenceParams`

    Raises
    ------
    ArgumentError
        A number does not divide another: headdim the scanned channels, ngroups the heads.

    Source: Dao and Gu, Transformers are SSMs (2024), section 7.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 128,
        d_conv: int = 4,
        conv_init: float | None = None,
        expand: float = 2,
        headdim: int = 64,
        d_ssm: int | None = None,
        ngroups: int = 1,
        A_init_range: tuple[float, float] = (1, 16),
        D_has_hdim: bool = False,
        rmsnorm: bool = True,
        norm_before_gate: bool = False,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init_floor: float = 1e-4,
        dt_limit: tuple[float, float] = (0.0, float("inf")),
        bias: bool = False,
        conv_bias: bool = True,
        chunk_size: int = 256,
        use_mem_eff_path: bool = True,
        layer_idx: int | None = None,
        process_group: Any = None,
        sequence_parallel: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        inner = int(expand * d_model)
        scanned = inner if d_ssm is None else d_ssm
        if scanned % headdim:
            fail("Mamba2", "headdim", f"a divisor of the {scanned} scanned channels", headdim, "choose another")
        self.nheads = nheads = scanned // headdim
        if nheads % ngroups:
            fail("Mamba2", "ngroups", f"a divisor of the {nheads} heads", ngroups, "choose another")
        self.d_model, self.d_state, self.d_conv, self.expand = d_model, d_state, d_conv, expand
        self.d_inner, self.d_ssm, self.headdim, self.ngroups = inner, scanned, headdim, ngroups
        self.D_has_hdim, self.rmsnorm, self.norm_before_gate = D_has_hdim, rmsnorm, norm_before_gate
        self.dt_limit, self.chunk_size, self.layer_idx, self.activation = dt_limit, chunk_size, layer_idx, "silu"
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        self.conv_dim = scanned + 2 * ngroups * d_state
        self.in_proj = nn.Linear(d_model, 2 * inner + 2 * ngroups * d_state + nheads, bias=bias, **made)
        self.conv1d = nn.Conv1d(
            self.conv_dim, self.conv_dim, d_conv, groups=self.conv_dim, padding=d_conv - 1, bias=conv_bias, **made
        )
        if conv_init is not None:
            nn.init.uniform_(self.conv1d.weight, -conv_init, conv_init)
        dt_bias = initial_dt_bias(nheads, dt_min, dt_max, dt_init_floor, device)
        self.dt_bias = kept_parameter(dt_bias.to(dtype), _no_weight_decay=True)
        rates = torch.empty(nheads, device=device).uniform_(*A_init_range)
        self.A_log = kept_parameter(rates.log().to(dtype), _no_weight_decay=True)
        self.D = kept_parameter(torch.ones(scanned if D_has_hdim else nheads, device=device), _no_weight_decay=True)
        if rmsnorm:
            self.norm = GatedRMSNorm(
                scanned, group_size=scanned // ngroups, norm_before_gate=norm_before_gate, device=device, dtype=dtype
            )
        self.out_proj = nn.Linear(inner, d_model, bias=bias, **made)

    def _split(self, projected: Tensor) -> tuple[Tensor, ...]:
        """z0 and x0 of the unscanned channels; z, xBC and dt of the scanned ones."""
        beside = self.d_inner - self.d_ssm
        return projected.split([beside, beside, self.d_ssm, self.conv_dim, self.nheads], dim=-1)

    def _scanned(self, xBC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x by heads, B and C by groups."""
        shared = self.ngroups * self.d_state
        x, B, C = xBC.split([self.d_ssm, shared, shared], dim=-1)
        groups = (self.ngroups, self.d_state)
        return x.unflatten(-1, (self.nheads, self.headdim)), B.unflatten(-1, groups), C.unflatten(-1, groups)

    def _skip(self) -> Tensor:
        return self.D.float().view(self.nheads, self.headdim) if self.D_has_hdim else self.D.float()

    def forward(
        self,
        u: Tensor,
        seqlen: int | None = None,
        seq_idx: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        inference_params: Any = None,
    ) -> Tensor:
        """(batch, seqlen, d_model), or (batch seqlen, d_model) with `seqlen`, to the same.

        `inference_params` keeps the states; the second and later calls do one step. `seq_idx` (batch, seqlen) or `cu_seqlens` name
        the sequences packed into a row; no states can be kept of these.
        """
        if inference_params is not None and (cu_seqlens is not None or seq_idx is not None):
            remedy = "a cache holds one sequence a row; pass them as rows of a batch"
            fail("Mamba2", "inference_params", "None with packed sequences", type(inference_params).__name__, remedy)
        flat = u.ndim == 2 and seqlen is not None
        hidden = u.unflatten(0, (-1, seqlen)) if flat else u
        if cu_seqlens is not None and seq_idx is None:
            lengths = cu_seqlens.diff().long()
            seq_idx = torch.repeat_interleave(torch.arange(len(lengths), device=u.device), lengths).int()[None]
        states = None
        if inference_params is not None:
            states = self._get_states_from_cache(inference_params, hidden.shape[0])
            if inference_params.seqlen_offset > 0:
                return self.step(hidden, *states)[0]
        projected = self.in_proj(hidden)
        out, final = mamba_split_conv1d_scan_combined(
            projected,
            self.conv1d.weight[:, 0],
            self.conv1d.bias,
            self.dt_bias,
            -torch.exp(self.A_log.float()),
            self._skip(),
            self.chunk_size,
            seq_idx=seq_idx,
            dt_limit=self.dt_limit,
            return_final_states=True,
            activation=self.activation,
            rmsnorm_weight=self.norm.weight if self.rmsnorm else None,
            rmsnorm_eps=self.norm.eps if self.rmsnorm else 0.0,
            outproj_weight=self.out_proj.weight,
            outproj_bias=self.out_proj.bias,
            headdim=self.headdim,
            ngroups=self.ngroups,
            norm_before_gate=self.norm_before_gate,
        )
        if states is not None:
            xBC = self._split(projected)[3]
            with torch.no_grad():
                states[0].copy_(F.pad(xBC.transpose(1, 2), (self.d_conv - xBC.shape[1], 0)))
                states[1].copy_(final)
        return out.flatten(0, 1) if flat else out

    def step(self, hidden_states: Tensor, conv_state: Tensor, ssm_state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One token, (batch, 1, d_model), from the states, which change in place. No gradient."""
        check_token("Mamba2.step", hidden_states)
        z0, x0, z, xBC, dt = self._split(self.in_proj(hidden_states[:, 0]))
        weight = self.conv1d.weight[:, 0]
        xBC = causal_conv1d_update(xBC, conv_state, weight, self.conv1d.bias, self.activation)
        x, B, C = self._scanned(xBC)
        shape = (self.nheads, self.headdim)
        step = F.softplus(dt.float() + self.dt_bias.float()).clamp(*self.dt_limit)
        A = -torch.exp(self.A_log.float())[:, None, None].expand(*shape, self.d_state)
        D = self._skip() if self.D_has_hdim else self._skip()[:, None].expand(shape)
        with torch.no_grad():
            y = st.selective_state_update(
                ssm_state,
                x.to(wide(x)) if self.rmsnorm else x,
                step[:, :, None].expand(x.shape),
                A,
                B,
                C,
                D,
                None if self.rmsnorm else z.unflatten(-1, shape),
            )
        out = y.flatten(1)
        if self.rmsnorm:
            out = self.norm(out, z).to(x.dtype)
        if x0.shape[-1]:
            out = torch.cat([F.silu(z0) * x0, out], dim=-1)
        return self.out_proj(out)[:, None], conv_state, ssm_state

    def allocate_inference_cache(
        self, batch_size: int, max_seqlen: int, dtype: torch.dtype | None = None, **_: Any
    ) -> tuple[Tensor, Tensor]:
        """States of zero: (batch, conv_dim, d_conv) of the convolution and (batch, nheads, headdim, d_state) of the scan."""
        like = self.in_proj.weight
        return (
            like.new_zeros((batch_size, self.conv_dim, self.d_conv), dtype=dtype or self.conv1d.weight.dtype),
            like.new_zeros((batch_size, self.nheads, self.headdim, self.d_state), dtype=dtype or like.dtype),
        )
