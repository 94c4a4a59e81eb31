"""What all networks share: an encoder's features, finest first, decoders over them, logits and, in training, a reconstruction."""

from __future__ import annotations

from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from ..config import ModelConfig
from .ahnet import AttentionUpsampling, ResidualUpsampling
from .mamba import VMLayer, VSSConfig


class Upsampling(Protocol):
    """Makes a decoder's block: (in_channels, skip_channels, filters)."""

    def __call__(self, in_channels: int, skip_channels: int, filters: int) -> nn.Module: ...


def vss_config(config: ModelConfig) -> VSSConfig:
    return VSSConfig(config.expand, config.dstate, config.discretization)


def ahnet_block(config: ModelConfig) -> Upsampling:
    """AHNet's decoder block by the configuration's reading of algorithms 1 to 3."""
    block = ResidualUpsampling if config.decoder_residual else AttentionUpsampling
    return partial(block, gate_target=config.gate_target, gate_align=config.gate_align, double_relu=config.double_relu)


class Decoder(nn.Module):
    """An upsampling block for every skip, a VM layer after each where asked, then as many (transposed convolution, BN, ReLU) as bring the
    features to the input's size, and a 1x1 head.

    Parameters
    ----------
    dims : channels of the encoder's stages, finest first
    upsampling : makes the blocks
    vm_layers : whether a VM layer follows each
    tail : doublings of height and width after the blocks
    width : factor of the decoder's own channels; the skips keep theirs
    out_channels : of the head
    """

    def __init__(
        self,
        dims: tuple[int, ...],
        config: ModelConfig,
        upsampling: Upsampling,
        *,
        vm_layers: bool,
        tail: int,
        width: float,
        out_channels: int,
    ) -> None:
        super().__init__()
        filters = [max(4, int(dim * width)) for dim in dims]
        self.blocks, self.vm_layers = nn.ModuleList(), nn.ModuleList()
        channels = dims[-1]
        for skip, f in zip(reversed(dims[:-1]), reversed(filters[:-1]), strict=True):
            self.blocks.append(upsampling(channels, skip, f))
            self.vm_layers.append(VMLayer(f, vss_config(config)) if vm_layers else nn.Identity())
            channels = f
        last: list[nn.Module] = []
        for _ in range(tail):
            f = max(4, channels // 2)
            last += [
                nn.ConvTranspose2d(channels, f, 3, stride=2, padding=1, output_padding=1),
                nn.BatchNorm2d(f),
                nn.ReLU(),
            ]
            channels = f
        self.tail = nn.Sequential(*last)
        self.head = nn.Conv2d(channels, out_channels, 1)

    def forward(self, stages: list[Tensor]) -> Tensor:
        *skips, x = stages
        for block, vm_layer in zip(self.blocks, self.vm_layers, strict=True):
            x = block(x, skips.pop())
            x = vm_layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.head(self.tail(x))


class Network(nn.Module):
    """Lesion logits, and for a network that reconstructs the slice itself, from a CT slice.

    A subclass sets `decoder`, and `reconstruction` where it has one, and says how an image is encoded.
    """

    stride: int
    """Height and width of the input are multiples of this."""
    decoder: nn.Module
    reconstruction: nn.Module | None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.reconstruction = None

    def encode(self, x: Tensor) -> list[Tensor]:
        """Features of the stages, (batch, channels, height, width), finest first."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(logits, reconstruction).

        Parameters
        ----------
        x : (batch, in_channels, height, width), values in [0, 1], height and width multiples of `stride`

        Returns
        -------
        logits : (batch, classes, height, width)
        reconstruction : (batch, in_channels, height, width) in [0, 1] while a model with a reconstruction branch trains, else None

        Raises
        ------
        ValueError
            Height or width is no multiple of `stride`.
        """
        if x.shape[-2] % self.stride or x.shape[-1] % self.stride:
            raise ValueError(
                f"x: expected height and width to be multiples of {self.stride}, got {tuple(x.shape[-2:])}; pad or resample it"
            )
        stages = self.encode(x)
        logits = self.decoder(stages)
        if self.reconstruction is None or not self.training:
            return logits, None
        return logits, torch.sigmoid(self.reconstruction(stages))
