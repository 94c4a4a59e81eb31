"""Vision Mamba blocks, equations 5 to 7 of the paper, on (batch, height, width, channels)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segnet.runtime.distributed import own, world_size
from ssmcore.torch import depthwise_conv2d, ss2d

DIRECTIONS = 4


@dataclass(frozen=True)
class VSSConfig:
    """Settings shared by all VSS modules of a network.

    Parameters
    ----------
    expand : lambda of eq. 7, width of both branches per channel
    dstate : N, states per channel
    discretization : as in `ssmcore.selective_scan`; the paper's is bilinear (eq. 2)
    """

    expand: int = 2
    dstate: int = 16
    discretization: str = "bilinear"


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, groups: int = 1) -> Tensor:
    """Matrix product at every position, (batch, height, width, channels) to (batch, height, width, features).

    Runs as a 1x1 convolution: for few channels this takes half to nine tenths of the time of a general matrix product and its
    gradients. With `groups`, each group of features sees its own group of channels.
    """
    return F.conv2d(x.permute(0, 3, 1, 2), weight[:, :, None, None], bias, groups=groups).permute(0, 2, 3, 1)


class Pointwise(nn.Linear):
    """nn.Linear for (batch, height, width, channels), by `pointwise`."""

    def forward(self, x: Tensor) -> Tensor:
        return pointwise(x, self.weight, self.bias)


class SS2D(nn.Module):
    """Four selective scans of the grid, each with its own delta, B, C, A and D, summed at every position.

    Parameters
    ----------
    channels : of the grid
    dt_rank : width of delta's bottleneck
    """

    def __init__(self, channels: int, dt_rank: int, config: VSSConfig) -> None:
        super().__init__()
        dstate = config.dstate
        self.dt_rank, self.config = dt_rank, config
        k = DIRECTIONS
        # delta, B and C depend on the position alone: one product serves all directions
        self.x_proj = Pointwise(channels, k * (dt_rank + 2 * dstate), bias=False)
        self.dt_weight = nn.Parameter(torch.empty(k, channels, dt_rank).uniform_(-(dt_rank**-0.5), dt_rank**-0.5))
        self.dt_bias = nn.Parameter(torch.empty(k, channels))
        self.A_log = nn.Parameter(torch.empty(k, channels, dstate))
        self.D = nn.Parameter(torch.ones(k, channels))
        if not self.dt_bias.is_meta:  # arithmetic on shapes alone would load torch's compiler, in more than a second
            self._initialise()
        for parameter in (self.dt_bias, self.A_log, self.D):
            parameter._no_weight_decay = True  # type: ignore[attr-defined]

    @torch.no_grad()
    def _initialise(self) -> None:
        """softplus(dt_bias) becomes log-uniform in [1e-3, 0.1], floor 1e-4; A becomes -1, -2 and so on."""
        dt = torch.exp(torch.rand_like(self.dt_bias) * math.log(100) + math.log(1e-3)).clamp(min=1e-4)
        self.dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))
        self.A_log.copy_(torch.log(torch.arange(1, self.config.dstate + 1).float()))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, height, width, channels) to the same. Steps and scan stay float32 under bfloat16 autocast."""
        projected = self.x_proj(x)
        rank, B, C = projected.unflatten(-1, (DIRECTIONS, -1)).split(
            [self.dt_rank, self.config.dstate, self.config.dstate], dim=-1
        )
        wide = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast("cpu", enabled=False):
            # the largest array, made in the scan's own layout
            to_delta = self.dt_weight.to(wide).flatten(0, 1)
            delta = pointwise(rank.to(wide).flatten(-2), to_delta, groups=DIRECTIONS).unflatten(-1, (DIRECTIONS, -1))
        return ss2d(
            x.to(wide),
            delta,
            -torch.exp(self.A_log),
            B.to(wide),
            C.to(wide),
            self.D,
            self.dt_bias,
            delta_softplus=True,
            discretization=self.config.discretization,
        )


class DWConv(nn.Conv2d):
    """Depthwise 3x3 convolution, then SiLU, on (batch, height, width, channels). float32, for the scan that follows."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        return depthwise_conv2d(x.to(wide), self.weight[:, 0], self.bias, "silu")


class VSSModule(nn.Module):
    """Equation 7. ``W1 = LN(SS2D(silu(DWConv(Linear W))))``, ``W2 = silu(Linear W)``, ``out = Linear(W1 * W2)``."""

    def __init__(self, channels: int, config: VSSConfig) -> None:
        super().__init__()
        inner = config.expand * channels
        self.linear1 = Pointwise(channels, inner, bias=False)
        self.linear2 = Pointwise(channels, inner, bias=False)
        self.dwconv = DWConv(inner)
        self.ss2d = SS2D(inner, math.ceil(channels / 16), config)
        self.norm = nn.LayerNorm(inner)
        self.out = Pointwise(inner, channels, bias=False)

    def forward(self, w: Tensor) -> Tensor:
        w1 = self.norm(self.ss2d(self.dwconv(self.linear1(w))))
        w2 = F.silu(self.linear2(w))
        return self.out(w1 * w2)


class DropPath(nn.Module):
    """Stochastic depth: drops the whole branch of a sample, and scales kept branches by 1/(1 - rate)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = own(torch.rand(x.shape[0] * world_size(), *[1] * (x.ndim - 1), device=x.device)) >= self.rate
        return x * keep / (1 - self.rate)


class VSSBlock(nn.Module):
    """The encoder's block: ``x + DropPath(VSS(LN(x)))``."""

    def __init__(self, channels: int, config: VSSConfig, *, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.vss = VSSModule(channels, config)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.vss(self.norm(x)))


class VMLayer(nn.Module):
    """Equations 5 and 6. ``M = VSSM(LN(M_in)) + s M_in``, ``M_out = Proj(LN'(M))``, s learned per channel, 1 at first."""

    def __init__(self, channels: int, config: VSSConfig, *, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.vssm = VSSModule(channels, config)
        self.drop_path = DropPath(drop_path)
        self.s = nn.Parameter(torch.ones(channels))
        self.second_norm = nn.LayerNorm(channels)
        self.projection = Pointwise(channels, channels)

    def forward(self, m: Tensor) -> Tensor:
        m = self.drop_path(self.vssm(self.norm(m))) + self.s * m
        return self.projection(self.second_norm(m))


class PatchEmbedding(nn.Module):
    """(batch, channels, height, width) to (batch, height/4, width/4, dim): 4x4 patches, then LayerNorm."""

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(in_channels, dim, 4, stride=4)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.project(x).permute(0, 2, 3, 1))


class PatchMerging(nn.Module):
    """Joins 2x2 neighbours: half the height and width, twice the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduce = Pointwise(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).permute(0, 1, 3, 4, 2, 5)
        return self.reduce(self.norm(x.reshape(batch, height // 2, width // 2, 4 * channels)))


class PatchExpanding(nn.Module):
    """`factor` times the height and width, from `channels` to channels * gain / factor^2: Linear, positions out of channels, LayerNorm."""

    def __init__(self, channels: int, factor: int, gain: int) -> None:
        super().__init__()
        self.factor = factor
        self.expand = Pointwise(channels, gain * channels, bias=False)
        self.norm = nn.LayerNorm(channels * gain // factor**2)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        f = self.factor
        x = self.expand(x).unflatten(-1, (f, f, -1)).permute(0, 1, 3, 2, 4, 5)
        return self.norm(x.reshape(batch, f * height, f * width, -1))
