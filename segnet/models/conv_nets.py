"""The paper's networks with a convolutional encoder: HUNet, AHNet, and AHNet with VM layers in the decoder."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from segnet.config import ModelConfig
from segnet.errors import InputError
from segnet.models.batch_norm import BatchNorm2d
from segnet.models.network import Network, Upsampling, ahnet_block, hunet_block

LEVELS = 4
"""Halvings of height and width; each doubles the channels."""


def double_convolution(in_channels: int, channels: int) -> nn.Sequential:
    """Twice (3x3 convolution, BN, ReLU)."""
    layers: list[nn.Module] = []
    for entering in (in_channels, channels):
        layers += [nn.Conv2d(entering, channels, 3, padding=1), BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(*layers)


class ConvNet(Network):
    """Double convolutions with max-pooling between, and a decoder.

    Parameters
    ----------
    upsampling : makes the decoder's blocks
    vm_layers : whether a VM layer follows each
    level : makes the encoder's blocks: (in_channels, channels)

    Source: section IV-A. The paper builds on HUNet, which has no public code; filters and depth are a reconstruction (docs/models.md).
    """

    stride = 2**LEVELS

    def __init__(
        self,
        config: ModelConfig,
        upsampling: Upsampling,
        *,
        vm_layers: bool = False,
        level: Callable[[int, int], nn.Module] = double_convolution,
    ) -> None:
        super().__init__(config)
        self.dims = tuple(config.base_width * 2**i for i in range(LEVELS + 1))
        entering = (config.inputs, *self.dims[:-1])
        self.levels = nn.ModuleList(map(level, entering, self.dims))
        self.add_decoders(self.dims, upsampling, vm_layers=vm_layers, tail=0)

    def encode(self, x: Tensor) -> list[Tensor]:
        stages: list[Tensor] = []
        for level in self.levels:
            stages.append(level(torch.max_pool2d(stages[-1], 2) if stages else x))
        return stages


def hunet(config: ModelConfig) -> ConvNet:
    """HUNet, the base of AHNet: upsampling by algorithm 1 without its gate."""
    return ConvNet(config, hunet_block(config))


def ahnet(config: ModelConfig) -> ConvNet:
    """AHNet: upsampling by algorithm 2, with reconstruction for `ahnet-r`."""
    return ConvNet(config, ahnet_block(config))


def mamba_ahnet_conv(config: ModelConfig) -> ConvNet:
    """The other reading of "Mamba blocks in the upsampling pathway": AHNet with a VM layer after each decoder block.

    Raises
    ------
    InputError
        `decoder_vm_layers` is false; that network is `ahnet`.
    """
    if not config.decoder_vm_layers:
        raise InputError(
            "model.decoder_vm_layers: expected true for mamba-ahnet-conv, got false; without VM layers it is ahnet, name that"
        )
    return ConvNet(config, ahnet_block(config), vm_layers=True)
