"""Mamba-AHNet, section IV-B and figure 3, in two readings: Mamba at coarse strides only, or a VSS encoder from patches of 4x4 on."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from segnet.config import ModelConfig
from segnet.models.batch_norm import BatchNorm2d
from segnet.models.conv_nets import LEVELS, double_convolution
from segnet.models.mamba import PatchEmbedding, PatchMerging, VSSBlock
from segnet.models.network import Network, ahnet_block, vss_config


class VSSEncoder(Network):
    """Patches of 4x4, then four stages of VSS blocks with patch merging between.

    Parameters
    ----------
    dim : channels of the first stage; each further stage doubles them
    """

    stride = 32

    def __init__(self, config: ModelConfig, dim: int) -> None:
        super().__init__(config)
        self.dims = tuple(dim * 2**i for i in range(len(config.depths)))
        self.embed = PatchEmbedding(config.inputs, dim)
        rates = np.linspace(0, config.drop_path, sum(config.depths)).tolist()
        self.stages, self.merges = nn.ModuleList(), nn.ModuleList()
        for width, depth in zip(self.dims, config.depths, strict=True):
            blocks = [VSSBlock(width, vss_config(config), drop_path=rates.pop(0)) for _ in range(depth)]
            self.stages.append(nn.Sequential(*blocks))
            if width != self.dims[-1]:
                self.merges.append(PatchMerging(width))

    def encode(self, x: Tensor) -> list[Tensor]:
        features, stages = self.embed(x), []
        for i, stage in enumerate(self.stages):
            if i:
                features = self.merges[i - 1](features)
            features = stage(features)
            stages.append(features.permute(0, 3, 1, 2))
        return stages


def _vss_encoder(config: ModelConfig) -> Network:
    """VSS stages from stride 4 to 32, AHNet's decoder, then two doublings."""
    network = VSSEncoder(config, 3 * config.base_width)
    network.add_decoders(network.dims, ahnet_block(config), vm_layers=config.decoder_vm_layers, tail=2)
    return network


class ResidualUnit(nn.Module):
    """``relu(x' + F(x))``, F = Conv-BN-ReLU-Conv-BN, whose first convolution halves height and width; x' by a 1x1 convolution of stride 2.

    That 1x1 convolution takes every other pixel by indexing. With `stride=2`, oneDNN 3.12 in torch 2.13 writes the gradient of the weights
    beyond its memory on processors with AVX2 and without AVX-512, where 2, 3, 4 or 7 channels come in.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, stride=2, padding=1),
            BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            BatchNorm2d(channels),
        )
        self.shortcut = nn.Conv2d(in_channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.shortcut(x[..., ::2, ::2]) + self.residual(x))


class CoarseMamba(Network):
    """Convolutions with VSS blocks after those at coarse strides; gates, residuals and VM layers at strides 4 and 8 only.

    "Mamba blocks in the upsampling pathway", as section IV says. Fine strides cost most of a scan and have the least to remember:
    there the decoder's blocks are HUNet's. The convolutions are AHNet's from stride 1 on, or residual units from stride 2 on.
    """

    stride = 2**LEVELS
    COARSE = 4
    """The finest stride with gates, residuals and Mamba."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.halves_first = config.encoder == "residual"
        dims = tuple(config.base_width * 2**i for i in range(LEVELS + (0 if self.halves_first else 1)))
        unit = ResidualUnit if self.halves_first else double_convolution
        self.levels = nn.ModuleList(unit(*ends) for ends in pairwise((config.inputs, *dims)))
        self.plain = 1 if self.halves_first else 2
        rates = np.linspace(0, config.drop_path, max(sum(config.coarse_depths), 1)).tolist()
        self.stages = nn.ModuleList(
            nn.Sequential(*(VSSBlock(dim, vss_config(config), drop_path=rates.pop(0)) for _ in range(depth)))
            for dim, depth in zip(dims[self.plain :], config.coarse_depths, strict=True)
        )
        tail = 1 if self.halves_first else 0
        self.add_decoders(dims, ahnet_block(config), vm_layers=config.decoder_vm_layers, tail=tail, plain=self.plain)

    def encode(self, x: Tensor) -> list[Tensor]:
        stages: list[Tensor] = []
        for level, convolutions in enumerate(self.levels):
            pooled = torch.max_pool2d(stages[-1], 2) if stages and not self.halves_first else (stages or [x])[-1]
            features = convolutions(pooled)
            if level >= self.plain and self.config.coarse_depths[level - self.plain]:
                features = self.stages[level - self.plain](features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            stages.append(features)
        return stages


def mamba_ahnet(config: ModelConfig) -> Network:
    """`mamba-ahnet` and `mamba-ahnet-r`, by `encoder`.

    Source: section IV; the paper publishes no code, so widths and depths are a reconstruction (docs/models.md).
    """
    return _vss_encoder(config) if config.encoder == "vss" else CoarseMamba(config)
