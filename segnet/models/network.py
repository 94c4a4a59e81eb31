"""The interface of all networks: encoder features, finest first; decoders; logits and, in training, a reconstruction."""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segnet.config import ModelConfig
from segnet.models.ahnet import AttentionUpsampling, HUNetUpsampling, ResidualUpsampling
from segnet.models.batch_norm import BatchNorm2d
from segnet.models.mamba import VMLayer, VSSConfig


class Upsampling(Protocol):
    """Makes a decoder's block: (in_channels, skip_channels, filters)."""

    def __call__(self, in_channels: int, skip_channels: int, filters: int) -> nn.Module: ...


def vss_config(config: ModelConfig) -> VSSConfig:
    return VSSConfig(config.expand, config.dstate, config.discretization)


def hunet_block(config: ModelConfig) -> Upsampling:
    """HUNet's decoder block."""
    return partial(HUNetUpsampling, double_relu=config.double_relu)


def ahnet_block(config: ModelConfig) -> Upsampling:
    """AHNet's decoder block, by the configured reading of algorithms 1 to 3."""
    block = ResidualUpsampling if config.decoder_residual else AttentionUpsampling
    return partial(block, gate_target=config.gate_target, gate_align=config.gate_align, double_relu=config.double_relu)


class Decoder(nn.Module):
    """An upsampling block per skip, each with an optional VM layer; `tail` times (transposed convolution, BN, ReLU); a 1x1 head.

    Parameters
    ----------
    dims : channels of the encoder's stages, finest first
    upsampling : makes the blocks
    vm_layers : whether a VM layer follows each
    plain : of the finest blocks, how many are HUNet's, without gate, residual and VM layer
    tail : doublings of height and width after the blocks
    width : factor of the decoder's channels; skips keep theirs
    out_channels : channels of the head
    """

    def __init__(
        self,
        dims: tuple[int, ...],
        config: ModelConfig,
        upsampling: Upsampling,
        *,
        vm_layers: bool,
        plain: int = 0,
        tail: int,
        width: float,
        out_channels: int,
    ) -> None:
        super().__init__()
        filters = [max(4, int(dim * width)) for dim in dims]
        self.blocks, self.vm_layers = nn.ModuleList(), nn.ModuleList()
        channels = dims[-1]
        for level in reversed(range(len(dims) - 1)):
            f, is_plain = filters[level], level < plain
            block = hunet_block(config) if is_plain else upsampling
            self.blocks.append(block(channels, dims[level], f))
            self.vm_layers.append(VMLayer(f, vss_config(config)) if vm_layers and not is_plain else nn.Identity())
            channels = f
        last: list[nn.Module] = []
        for _ in range(tail):
            f = max(4, channels // 2)
            last += [
                nn.ConvTranspose2d(channels, f, 3, stride=2, padding=1, output_padding=1),
                BatchNorm2d(f),
                nn.ReLU(),
            ]
            channels = f
        self.tail = nn.Sequential(*last)
        self.head = nn.Conv2d(channels, out_channels, 1)

    def forward(self, stages: list[Tensor]) -> Tensor:
        *skips, x = stages
        for block, vm_layer in zip(self.blocks, self.vm_layers, strict=True):
            x = block(x, skips.pop())
            if not isinstance(vm_layer, nn.Identity):
                x = vm_layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.head(self.tail(x))


class ReconstructionDecoder(Decoder):
    """A decoder of the slice itself, in [0, 1]."""

    def forward(self, stages: list[Tensor]) -> Tensor:
        return torch.sigmoid(super().forward(stages))


class SoftmaxReconstruction(nn.Module):
    """Algorithm 4. ``softmax(Conv3x3(conv_last))`` over channels, on the last map of the encoder.

    The paper equates this with the image, which has another size; here it is resized bilinearly. With one channel the softmax is 1
    everywhere and its gradient 0: the branch then teaches nothing.

    Parameters
    ----------
    channels : channels of the last map
    out_channels : channels of the image, in place of the paper's number of classes
    factor : height of the image over height of the map
    """

    def __init__(self, channels: int, out_channels: int, factor: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.factor = float(factor)

    def forward(self, stages: list[Tensor]) -> Tensor:
        rebuilt = torch.softmax(self.conv(stages[-1]), dim=1)
        return F.interpolate(rebuilt, scale_factor=self.factor, mode="bilinear")


class Network(nn.Module):
    """Lesion logits of a CT slice and, in some networks, a reconstruction of the slice.

    A subclass sets `stride` and `decoder`, optionally `reconstruction`, and defines `encode`. `add_decoders` sets both decoders.
    """

    stride: int
    """Height and width of the input are multiples of this."""
    decoder: nn.Module
    reconstruction: nn.Module | None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.reconstruction = None

    def add_decoders(
        self, dims: tuple[int, ...], upsampling: Upsampling, *, vm_layers: bool, tail: int, plain: int = 0
    ) -> None:
        """Sets the decoder for stages of `dims` channels and, if the name ends in "-r", the reconstruction by `recon_head`.

        Parameters
        ----------
        dims, upsampling, vm_layers, tail, plain : as in `Decoder`
        """
        config = self.config
        sizes: dict[str, Any] = {"vm_layers": vm_layers, "tail": tail, "plain": plain}
        self.decoder = Decoder(dims, config, upsampling, **sizes, width=1.0, out_channels=config.classes)
        if not config.reconstructs:
            return
        if config.recon_head == "paper_softmax":
            self.reconstruction = SoftmaxReconstruction(dims[-1], config.in_channels, self.stride)
        else:
            width = 1.0 if config.recon_head == "full" else config.reconstruction_width
            if plain and config.recon_head == "thin":  # where fine blocks are HUNet's, all of a thin decoder are
                sizes |= {"plain": len(dims), "vm_layers": False}
            self.reconstruction = ReconstructionDecoder(
                dims, config, upsampling, **sizes, width=width, out_channels=config.in_channels
            )

    def encode(self, x: Tensor) -> list[Tensor]:
        """Features of the stages, (batch, channels, height, width), finest first."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(logits, reconstruction).

        Parameters
        ----------
        x : (batch, inputs, height, width), slices and guides in [0, 1], height and width multiples of `stride`

        Returns
        -------
        logits : (batch, classes, height, width)
        reconstruction : (batch, in_channels, height, width) in [0, 1] while a network with this branch trains, else None

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
        return logits, self.reconstruction(stages)
