"""Mamba-AHNet, section IV-B and figure 3: a VSS encoder, AHNet's decoder with a VM layer after each block."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ..config import ModelConfig
from .ahnet import ResidualUpsampling
from .mamba import PatchEmbedding, PatchMerging, VMLayer, VSSBlock, VSSConfig

STRIDE = 32
"""Height and width of the input are multiples of this: patches of 4, halved three times."""


def vss_config(config: ModelConfig) -> VSSConfig:
    return VSSConfig(config.expand, config.dstate, config.discretization)


class Decoder(nn.Module):
    """Three times (algorithm 2, VM layer), then twice (transposed convolution, BN, ReLU) to the input's size, and a 1x1 head.

    Parameters
    ----------
    dims : channels of the encoder's stages, finest first
    width : factor of the decoder's own channels; the skips keep theirs
    out_channels : of the head
    """

    def __init__(self, dims: tuple[int, ...], config: ModelConfig, *, width: float, out_channels: int) -> None:
        super().__init__()
        filters = [max(4, int(dim * width)) for dim in dims]
        self.blocks, self.vm_layers = nn.ModuleList(), nn.ModuleList()
        channels = dims[-1]
        for skip, f in zip(reversed(dims[:-1]), reversed(filters[:-1]), strict=True):
            self.blocks.append(ResidualUpsampling(channels, skip, f, gate_target=config.gate_target))
            self.vm_layers.append(VMLayer(f, vss_config(config)))
            channels = f
        tail: list[nn.Module] = []
        for _ in range(2):
            f = max(4, channels // 2)
            tail += [
                nn.ConvTranspose2d(channels, f, 3, stride=2, padding=1, output_padding=1),
                nn.BatchNorm2d(f),
                nn.ReLU(),
            ]
            channels = f
        self.tail = nn.Sequential(*tail)
        self.head = nn.Conv2d(channels, out_channels, 1)

    def forward(self, stages: list[Tensor]) -> Tensor:
        *skips, x = (stage.permute(0, 3, 1, 2) for stage in stages)
        for block, vm_layer in zip(self.blocks, self.vm_layers, strict=True):
            x = block(x, skips.pop())
            x = vm_layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.head(self.tail(x))


class MambaAHNet(nn.Module):
    """Lesion logits, and for `mamba-ahnet-r` the reconstructed slice, from a CT slice.

    Source: section IV; the paper publishes no code, so widths and depths are a reconstruction (docs/models.md).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        dims = tuple(3 * config.base_width * 2**i for i in range(4))
        self.embed = PatchEmbedding(config.in_channels, dims[0])
        rates = np.linspace(0, config.drop_path, sum(config.depths)).tolist()
        self.stages, self.merges = nn.ModuleList(), nn.ModuleList()
        for dim, depth in zip(dims, config.depths, strict=True):
            blocks = [VSSBlock(dim, vss_config(config), drop_path=rates.pop(0)) for _ in range(depth)]
            self.stages.append(nn.Sequential(*blocks))
            if dim != dims[-1]:
                self.merges.append(PatchMerging(dim))
        self.decoder = Decoder(dims, config, width=1.0, out_channels=config.classes)
        self.reconstruction = None
        if config.reconstructs:
            width = config.reconstruction_width
            self.reconstruction = Decoder(dims, config, width=width, out_channels=config.in_channels)

    def encode(self, x: Tensor) -> list[Tensor]:
        """The four stages' features, (batch, height/2^(i+2), width/2^(i+2), dim_i), finest first."""
        if x.shape[-2] % STRIDE or x.shape[-1] % STRIDE:
            raise ValueError(
                f"x: expected height and width to be multiples of {STRIDE}, got {tuple(x.shape[-2:])}; pad or resample it"
            )
        features = self.embed(x)
        stages = []
        for i, stage in enumerate(self.stages):
            if i:
                features = self.merges[i - 1](features)
            features = stage(features)
            stages.append(features)
        return stages

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(logits, reconstruction).

        Parameters
        ----------
        x : (batch, in_channels, height, width), values in [0, 1], height and width multiples of 32

        Returns
        -------
        logits : (batch, classes, height, width)
        reconstruction : (batch, in_channels, height, width) in [0, 1] while a model with a reconstruction branch trains, else None
        """
        stages = self.encode(x)
        logits = self.decoder(stages)
        if self.reconstruction is None or not self.training:
            return logits, None
        return logits, torch.sigmoid(self.reconstruction(stages))
