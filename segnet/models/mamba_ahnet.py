"""Mamba-AHNet, section IV-B and figure 3, in two readings: Mamba at coarse strides only, or a VSS encoder from patches of 4x4 on."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from segnet.config import ModelConfig
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


class CoarseMamba(Network):
    """AHNet's convolutions, with VSS blocks after those at coarse strides; gates, residuals and VM layers at strides 4 and 8 only.

    "Mamba blocks in the upsampling pathway", as section IV says. Fine strides cost most of a scan and have the least to remember:
    there the decoder's blocks are HUNet's.
    """

    stride = 2**LEVELS
    PLAIN = 2
    """Strides without gates, residuals and Mamba: 1 and 2."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        dims = tuple(config.base_width * 2**i for i in range(LEVELS + 1))
        self.levels = nn.ModuleList(map(double_convolution, (config.inputs, *dims[:-1]), dims))
        rates = np.linspace(0, config.drop_path, max(sum(config.coarse_depths), 1)).tolist()
        self.stages = nn.ModuleList(
            nn.Sequential(*(VSSBlock(dim, vss_config(config), drop_path=rates.pop(0)) for _ in range(depth)))
            for dim, depth in zip(dims[self.PLAIN :], config.coarse_depths, strict=True)
        )
        self.add_decoders(dims, ahnet_block(config), vm_layers=config.decoder_vm_layers, tail=0, plain=self.PLAIN)

    def encode(self, x: Tensor) -> list[Tensor]:
        stages: list[Tensor] = []
        for level, convolutions in enumerate(self.levels):
            features = convolutions(torch.max_pool2d(stages[-1], 2) if stages else x)
            blocks = self.stages[level - self.PLAIN] if level >= self.PLAIN else None
            if blocks is not None and self.config.coarse_depths[level - self.PLAIN]:
                features = blocks(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            stages.append(features)
        return stages


def mamba_ahnet(config: ModelConfig) -> Network:
    """`mamba-ahnet` and `mamba-ahnet-r`, by `encoder`.

    Source: section IV; the paper publishes no code, so widths and depths are a reconstruction (docs/models.md).
    """
    return CoarseMamba(config) if config.encoder == "convolution" else _vss_encoder(config)
