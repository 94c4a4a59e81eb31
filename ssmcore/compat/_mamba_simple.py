"""The block of Mamba under its name in mamba_ssm, one-directional, and bidirectional as forks have it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import torch as st
from .._spec import check_option, fail
from ._scan_interface import mamba_inner_fn, mamba_inner_fn_no_out_proj
from ._steps import causal_conv1d_update, selective_state_update

_DIRECTIONS = {None: (), "none": (), "v2": ("_b",), "v3": ("_b", "_s")}


@dataclass
class InferenceParams:
    """States of all layers between the tokens of a generation."""

    max_seqlen: int
    max_batch_size: int
    seqlen_offset: int = 0
    batch_size_offset: int = 0
    key_value_memory_dict: dict[Any, Any] = field(default_factory=dict)
    lengths_per_sample: Tensor | None = None

    def reset(self, max_seqlen: int, max_batch_size: int) -> None:
        self.max_seqlen, self.max_batch_size, self.seqlen_offset = max_seqlen, max_batch_size, 0
        if self.lengths_per_sample is not None:
            self.lengths_per_sample.zero_()


def kept_parameter(value: Tensor, **marks: bool) -> nn.Parameter:
    """A parameter with the marks by which training code treats it apart."""
    parameter = nn.Parameter(value)
    for name, mark in marks.items():
        setattr(parameter, name, mark)
    return parameter


def initial_dt_bias(count: int, dt_min: float, dt_max: float, floor: float, device: Any) -> Tensor:
    """Biases whose softplus is log-uniform between dt_min and dt_max, and at least `floor`."""
    spread = torch.rand(count, device=device) * math.log(dt_max / dt_min) + math.log(dt_min)
    dt = spread.exp().clamp(min=floor)
    return dt + torch.log(-torch.expm1(-dt))


def check_token(operation: str, hidden_states: Tensor) -> None:
    if hidden_states.ndim != 3 or hidden_states.shape[1] != 1:
        fail(operation, "hidden_states", "shape (batch, 1, d_model)", tuple(hidden_states.shape), "pass one token")


class StatesInCache:
    """Finds a layer's states in an `InferenceParams`, or puts them there."""

    layer_idx: int | None

    def allocate_inference_cache(self, batch_size: int, max_seqlen: int, **_: Any) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def _get_states_from_cache(
        self, inference_params: Any, batch_size: int, initialize_states: bool = False
    ) -> tuple[Tensor, Tensor]:
        if self.layer_idx is None:
            expected = "an integer where states are kept"
            fail(type(self).__name__, "layer_idx", expected, None, "number the layers when building them")
        cache = inference_params.key_value_memory_dict
        if self.layer_idx not in cache:
            cache[self.layer_idx] = self.allocate_inference_cache(batch_size, inference_params.max_seqlen)
        states: tuple[Tensor, Tensor] = cache[self.layer_idx]
        if initialize_states:
            for state in states:
                state.zero_()
        return states


class Mamba(StatesInCache, nn.Module):
    """Mamba block on (batch, seqlen, d_model). Parameters have mamba_ssm's names: its checkpoints load.

    Parameters
    ----------
    d_model : channels in and out
    d_state, d_conv, expand : states of a channel, taps of the convolution, factor of the inner channels
    dt_rank : width of delta's bottleneck; "auto" is d_model / 16, rounded up
    dt_min, dt_max, dt_init, dt_scale, dt_init_floor : delta's initial projection; `dt_init` is "random" or "constant"
    conv_bias, bias : whether the convolution, and the outer projections, have one
    use_fast_path : without effect, since there is one path
    layer_idx : key of the layer's states in an `InferenceParams`
    bimamba_type : None or "none"; "v2" adds a backward direction; "v3" adds to that a direction across `nslices` slices
    nslices : slices of the sequence for "v3"

    Raises
    ------
    ArgumentError
        An option is unknown, or `nslices` does not divide a sequence.

    Source: Gu and Dao, Mamba (2023), section 3.4; v2: Zhu et al., Vision Mamba (2024); v3: Xing et al., SegMamba (2024).
    """

    conv1d: nn.Conv1d
    x_proj: nn.Linear
    dt_proj: nn.Linear
    A_log: nn.Parameter
    D: nn.Parameter

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: float = 2,
        dt_rank: int | str = "auto",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init: str = "random",
        dt_scale: float = 1.0,
        dt_init_floor: float = 1e-4,
        conv_bias: bool = True,
        bias: bool = False,
        use_fast_path: bool = True,
        layer_idx: int | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
        bimamba_type: str | None = None,
        nslices: int = 5,
    ) -> None:
        super().__init__()
        check_option("Mamba", "dt_init", dt_init, ("random", "constant"))
        check_option("Mamba", "bimamba_type", bimamba_type, tuple(_DIRECTIONS))
        self.d_model, self.d_state, self.d_conv, self.expand = d_model, d_state, d_conv, expand
        self.d_inner = inner = int(expand * d_model)
        self.dt_rank = rank = math.ceil(d_model / 16) if isinstance(dt_rank, str) else dt_rank
        self.use_fast_path, self.layer_idx = use_fast_path, layer_idx
        self.bimamba_type, self.nslices = bimamba_type, nslices
        self.activation = "silu"
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        self.in_proj = nn.Linear(d_model, 2 * inner, bias=bias, **made)
        for suffix in ("", *_DIRECTIONS[bimamba_type]):
            conv = nn.Conv1d(inner, inner, d_conv, groups=inner, padding=d_conv - 1, bias=conv_bias, **made)
            self.add_module(f"conv1d{suffix}", conv)
            self.add_module(f"x_proj{suffix}", nn.Linear(inner, rank + 2 * d_state, bias=False, **made))
            self.add_module(f"dt_proj{suffix}", nn.Linear(rank, inner, **made))
            A_log = torch.arange(1, d_state + 1, dtype=torch.float32, device=device).log().repeat(inner, 1)
            self.register_parameter(f"A{suffix}_log", kept_parameter(A_log, _no_weight_decay=True))
            self.register_parameter(
                f"D{suffix}", kept_parameter(torch.ones(inner, device=device), _no_weight_decay=True)
            )
        self.out_proj = nn.Linear(inner, d_model, bias=bias, **made)
        bound = rank**-0.5 * dt_scale
        if dt_init == "constant":
            nn.init.constant_(self.dt_proj.weight, bound)
        else:
            nn.init.uniform_(self.dt_proj.weight, -bound, bound)
        with torch.no_grad():
            self.dt_proj.bias.copy_(initial_dt_bias(inner, dt_min, dt_max, dt_init_floor, device))
        self.dt_proj.bias._no_reinit = True  # type: ignore[attr-defined]

    def _direction(self, suffix: str) -> dict[str, Any]:
        """Arguments of the inner function for one direction."""
        conv, dt_proj = getattr(self, f"conv1d{suffix}"), getattr(self, f"dt_proj{suffix}")
        return {
            "conv1d_weight": conv.weight,
            "conv1d_bias": conv.bias,
            "x_proj_weight": getattr(self, f"x_proj{suffix}").weight,
            "delta_proj_weight": dt_proj.weight,
            "A": -torch.exp(getattr(self, f"A{suffix}_log").float()),
            "D": getattr(self, f"D{suffix}").float(),
            "delta_bias": dt_proj.bias.float(),
            "delta_softplus": True,
        }

    def forward(self, hidden_states: Tensor, inference_params: Any = None) -> Tensor:
        """(batch, seqlen, d_model) to the same. `inference_params` keeps the states; the second and later calls do one step."""
        if inference_params is not None:
            if _DIRECTIONS[self.bimamba_type]:
                remedy = "generate with a block of one direction"
                fail("Mamba", "inference_params", f"None for bimamba_type {self.bimamba_type!r}", "states", remedy)
            conv_state, ssm_state = self._get_states_from_cache(inference_params, hidden_states.shape[0])
            if inference_params.seqlen_offset > 0:
                return self.step(hidden_states, conv_state, ssm_state)[0]
            return self._prefill(hidden_states, conv_state, ssm_state)
        xz = self.in_proj(hidden_states).transpose(1, 2)
        if not _DIRECTIONS[self.bimamba_type]:
            return mamba_inner_fn(
                xz, out_proj_weight=self.out_proj.weight, out_proj_bias=self.out_proj.bias, **self._direction("")
            )
        out = mamba_inner_fn_no_out_proj(xz, **self._direction(""))
        out = out + mamba_inner_fn_no_out_proj(xz.flip(-1), **self._direction("_b")).flip(-1)
        if self.bimamba_type == "v3":
            slices, seqlen = self.nslices, xz.shape[2]
            if seqlen % slices:
                remedy = "choose another, or pad the sequence"
                fail("Mamba", "nslices", f"a divisor of seqlen = {seqlen}", slices, remedy)
            # step i of every slice, then step i + 1: across the slices of a volume
            across = xz.unflatten(-1, (slices, seqlen // slices)).transpose(-1, -2).flatten(-2)
            found = mamba_inner_fn_no_out_proj(across, **self._direction("_s"))
            out = out + found.unflatten(-1, (seqlen // slices, slices)).transpose(-1, -2).flatten(-2)
        return self.out_proj(out.transpose(1, 2))

    def _prefill(self, hidden_states: Tensor, conv_state: Tensor, ssm_state: Tensor) -> Tensor:
        x, z = self.in_proj(hidden_states).chunk(2, dim=-1)
        with torch.no_grad():
            conv_state.copy_(F.pad(x.transpose(1, 2), (self.d_conv - x.shape[1], 0)))
        given = self._direction("")
        weight = given["conv1d_weight"][:, 0]
        u = st.causal_conv1d(x, weight, given["conv1d_bias"], activation="silu", layout="bld")
        rank, B, C = self.x_proj(u).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        delta = F.linear(rank, self.dt_proj.weight)
        bias = given["delta_bias"]
        scanned = (u, delta, given["A"], B, C, given["D"], z, bias, True)
        y, last_state = st.selective_scan(*scanned, return_last_state=True, layout="bld")
        with torch.no_grad():
            ssm_state.copy_(last_state)
        return self.out_proj(y)

    def step(self, hidden_states: Tensor, conv_state: Tensor, ssm_state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One token, (batch, 1, d_model), from the states, which change in place. No gradient."""
        check_token("Mamba.step", hidden_states)
        x, z = self.in_proj(hidden_states[:, 0]).chunk(2, dim=-1)
        x = causal_conv1d_update(x, conv_state, self.conv1d.weight[:, 0], self.conv1d.bias, self.activation)
        rank, B, C = self.x_proj(x).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        dt = F.linear(rank, self.dt_proj.weight)
        A = -torch.exp(self.A_log.float())
        y = selective_state_update(ssm_state, x, dt, A, B, C, self.D, z=z, dt_bias=self.dt_proj.bias, dt_softplus=True)
        return self.out_proj(y)[:, None], conv_state, ssm_state

    def allocate_inference_cache(
        self, batch_size: int, max_seqlen: int, dtype: torch.dtype | None = None, **_: Any
    ) -> tuple[Tensor, Tensor]:
        """States of zero: (batch, d_inner, d_conv) of the convolution and (batch, d_inner, d_state) of the scan."""
        conv, ssm = self.conv1d.weight, self.dt_proj.weight
        return (
            conv.new_zeros((batch_size, self.d_inner, self.d_conv), dtype=dtype or conv.dtype),
            ssm.new_zeros((batch_size, self.d_inner, self.d_state), dtype=dtype or ssm.dtype),
        )
