"""DCAU-Net, to compare with: a reconstruction, for its authors publish no code.

After the name, "dense convolutional attention U-Net", it is hunet whose levels are dense convolution blocks and whose skips pass
AHNet's attention gates. It is not the authors' network: by its abstract theirs has randomised leaky ReLUs before the
convolutions of its dense blocks, convolutional block attention modules (CBAM) for attention, and joins scales while upsampling.

Source: Yuan et al., DCAU-Net: dense convolutional attention U-Net for segmentation of intracranial aneurysm images (2022),
doi 10.1186/s42492-022-00105-4.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..config import ModelConfig
from .ahnet import AttentionGate
from .conv_nets import ConvNet


def _convolution(in_channels: int, channels: int) -> nn.Sequential:
    """3x3 convolution, BN, ReLU."""
    return nn.Sequential(nn.Conv2d(in_channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU())


class DenseConvolution(nn.Module):
    """Twice (3x3 convolution, BN, ReLU), the second on the input and the first's result together."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.first = _convolution(in_channels, channels)
        self.second = _convolution(in_channels + channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.cat([x, self.first(x)], dim=1))


class DenseUpsampling(nn.Module):
    """Transposed convolution, BN, ReLU; the skip gated by it; concatenation; dense convolution block.

    Parameters
    ----------
    in_channels, skip_channels, filters : as in `segnet.models.ahnet.HUNetUpsampling`
    """

    def __init__(self, in_channels: int, skip_channels: int, filters: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, filters, 3, stride=2, padding=1, output_padding=1)
        self.up_norm = nn.BatchNorm2d(filters)
        self.gate = AttentionGate(skip_channels, filters, max(filters // 2, 1))
        self.conv = DenseConvolution(filters + skip_channels, filters)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        x_up = torch.relu(self.up_norm(self.up(x)))
        return self.conv(torch.cat([x_up, self.gate(t, x_up)], dim=1))


def dcau_net(config: ModelConfig) -> ConvNet:
    """A reconstruction of DCAU-Net at hunet's widths."""
    return ConvNet(config, DenseUpsampling, level=DenseConvolution)
