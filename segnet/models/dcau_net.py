"""DCAU-Net for comparison, reconstructed from its abstract; its authors publish no code.

Stated in the abstract: U-Net as backbone; dense blocks of batch normalisation, a randomly rectified linear unit and a convolution; the
convolutional block attention module (CBAM) with channel and spatial attention; fusion of several scales while upsampling.

Guessed:

- slices, and hunet's widths: b, 2b, 4b, 8b, 16b, with max-pooling between;
- dense block: two 3x3 convolutions. The second sees the input and the first's result; only its own result is passed on. Slopes lie
  between 1/8 and 1/3. A convolution stands before the first block, as in DenseNet: no random slope meets the image;
- CBAM on the skips, reduction 16, without biases and norm, like its equations;
- upsampling: norm, activation, transposed convolution;
- fusion: every decoder level goes to b channels and bilinearly to the finest size; a 1x1 head follows.

Sources: Yuan et al., DCAU-Net: dense convolutional attention U-Net for segmentation of intracranial aneurysm images (2022),
doi 10.1186/s42492-022-00105-4, abstract; Woo et al., CBAM: convolutional block attention module (2018), section 3; Xu et al.,
Empirical evaluation of rectified activations in convolutional network (2015), for the activation.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segnet.config import ModelConfig
from segnet.models.conv_nets import ConvNet
from segnet.models.network import Upsampling


def _layer(channels: int, convolution: nn.Module) -> nn.Sequential:
    """BN, randomised leaky ReLU, convolution."""
    return nn.Sequential(nn.BatchNorm2d(channels), nn.RReLU(), convolution)


class DenseBlock(nn.Module):
    """Twice (BN, randomised leaky ReLU, 3x3 convolution), the second on input and first result together."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.first = _layer(in_channels, nn.Conv2d(in_channels, channels, 3, padding=1))
        self.second = _layer(in_channels + channels, nn.Conv2d(in_channels + channels, channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.cat([x, self.first(x)], dim=1))


class CBAM(nn.Module):
    """Channel attention, ``x' = x * sigmoid(MLP(mean x) + MLP(max x))`` over positions, then spatial attention,
    ``x' * sigmoid(Conv7x7([mean x', max x']))`` over channels. MLP = W1 relu(W0 .), one for both.

    Parameters
    ----------
    channels : of x
    reduction : channels per hidden channel of the MLP; at least one is hidden

    Source: Woo et al. (2018), equations 1 to 3.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.mlp = nn.Sequential(
            nn.Linear(channels, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, channels, bias=False)
        )
        self.spatial = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        channel = torch.sigmoid(self.mlp(x.mean((2, 3))) + self.mlp(x.amax((2, 3))))
        x = x * channel[:, :, None, None]
        pooled = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)
        return x * torch.sigmoid(self.spatial(pooled))


class DenseUpsampling(nn.Module):
    """BN, randomised leaky ReLU, transposed convolution; concatenation with the skip after CBAM; dense block.

    Parameters
    ----------
    in_channels, skip_channels, filters : as in `segnet.models.ahnet.HUNetUpsampling`
    """

    def __init__(self, in_channels: int, skip_channels: int, filters: int) -> None:
        super().__init__()
        up = nn.ConvTranspose2d(in_channels, filters, 3, stride=2, padding=1, output_padding=1)
        self.up = _layer(in_channels, up)
        self.attention = CBAM(skip_channels)
        self.conv = DenseBlock(filters + skip_channels, filters)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.conv(torch.cat([self.up(x), self.attention(t)], dim=1))


class FusingDecoder(nn.Module):
    """An upsampling block per skip. Each result goes by a 1x1 convolution and bilinearly to the finest size, then all into a head.

    Parameters
    ----------
    dims : channels of the encoder's stages, finest first
    upsampling : makes the blocks
    classes : channels of the logits
    """

    def __init__(self, dims: tuple[int, ...], upsampling: Upsampling, classes: int) -> None:
        super().__init__()
        width, filters = dims[0], dims[-2::-1]
        self.blocks = nn.ModuleList(map(upsampling, reversed(dims), filters, filters))
        self.scales = nn.ModuleList(_layer(f, nn.Conv2d(f, width, 1)) for f in filters)
        together = width * len(filters)
        self.head = _layer(together, nn.Conv2d(together, classes, 1))

    def forward(self, stages: list[Tensor]) -> Tensor:
        *skips, x = stages
        size, fused = skips[0].shape[2:], []
        for block, scale in zip(self.blocks, self.scales, strict=True):
            x = block(x, skips.pop())
            fused.append(F.interpolate(scale(x), size, mode="bilinear"))
        return self.head(torch.cat(fused, dim=1))


class DCAUNet(ConvNet):
    """A reconstruction of DCAU-Net at hunet's widths."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, DenseUpsampling, level=DenseBlock)
        width = self.dims[0]
        stem = nn.Conv2d(config.inputs, width, 3, padding=1)
        self.levels[0] = nn.Sequential(stem, DenseBlock(width, width))

    def add_decoders(
        self, dims: tuple[int, ...], upsampling: Upsampling, *, vm_layers: bool, tail: int, plain: int = 0
    ) -> None:
        """Its own decoder, without VM layers or tail."""
        self.decoder = FusingDecoder(dims, upsampling, self.config.classes)
