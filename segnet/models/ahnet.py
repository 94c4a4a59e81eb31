"""AHNet's blocks, algorithms 1 to 3 of the paper, on (batch, channels, height, width).

AHNet here is the paper's Advanced Hierarchical Network, not MONAI's anisotropic hybrid network of the same name.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ssmcore.torch import attention_gate, gate_crop

from ..distributed import world_size
from .batch_norm import follow


class AttentionGate(nn.Module):
    """Algorithm 3. ``rate = sigmoid(BN(psi(relu(BN(theta x) + BN(phi g)))))``, ``out = x * rate``.

    g is cropped at its centre to the size of x where they differ. theta, phi and psi are 1x1 convolutions.

    Parameters
    ----------
    x_channels, g_channels : channels of the gated and of the gating features
    channels : c of the algorithm, the width of the comparison
    """

    def __init__(self, x_channels: int, g_channels: int, channels: int) -> None:
        super().__init__()
        self.theta = nn.Sequential(nn.Conv2d(x_channels, channels, 1), nn.BatchNorm2d(channels))
        self.phi = nn.Sequential(nn.Conv2d(g_channels, channels, 1), nn.BatchNorm2d(channels))
        self.psi = nn.Sequential(nn.Conv2d(channels, 1, 1), nn.BatchNorm2d(1))

    def forward(self, x: Tensor, g: Tensor) -> Tensor:
        """x (batch, x_channels, height, width), g (batch, g_channels, ...) at least as large."""
        if self.training and world_size() > 1:
            return self._step_by_step(x, g)
        theta, theta_norm = _layers(self.theta)
        phi, phi_norm = _layers(self.phi)
        psi, psi_norm = _layers(self.psi)
        norms, channels = (theta_norm, phi_norm, psi_norm), theta.out_channels
        # psi's bias moves the mean of its norm alone: it cancels where the mean is taken, and is a shift where it is given
        bias = cast(Tensor, psi.bias)
        if self.training:
            statistics, psi_shift = None, psi_norm.bias + 0 * bias
        else:
            statistics = torch.cat([torch.stack(_running(norm), 1) for norm in norms])
            psi_shift = psi_norm.bias + bias * psi_norm.weight * torch.rsqrt(_running(psi_norm)[1] + psi_norm.eps)
        out, used = attention_gate(
            x.permute(0, 2, 3, 1),
            theta(x).permute(0, 2, 3, 1),
            phi(g).permute(0, 2, 3, 1),
            theta_norm.weight,
            phi_norm.weight,
            theta_norm.bias + phi_norm.bias,
            psi.weight.reshape(channels),
            psi_norm.weight,
            psi_shift,
            statistics,
            eps=psi_norm.eps,
        )
        if self.training:
            positions = x.numel() // x.shape[1]
            for norm, taken, moved in zip(norms, used.split([channels, channels, 1]), (0, 0, bias), strict=True):
                follow(norm, taken[:, 0] + moved, taken[:, 1] * (positions / max(positions - 1, 1)))
        return out.permute(0, 3, 1, 2)

    def _step_by_step(self, x: Tensor, g: Tensor) -> Tensor:
        """The same as the paper writes it, for norms whose batch is that of several processes."""
        return x * torch.sigmoid(self.psi(torch.relu(self.theta(x) + self.phi(gate_crop(g, x.shape[-2:])))))


def _layers(convolution_and_norm: nn.Sequential) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    convolution, norm = convolution_and_norm
    return cast(nn.Conv2d, convolution), cast(nn.BatchNorm2d, norm)


def _running(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    return cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)


class HUNetUpsampling(nn.Module):
    """HUNet's block: algorithm 1 without the gate. Transposed convolution, BN, ReLU; concatenation; convolution with ReLU, BN, ReLU.

    Parameters
    ----------
    in_channels, skip_channels : of x and of the skip connection t, which has twice the height and width
    filters : f, the channels of the result
    """

    def __init__(self, in_channels: int, skip_channels: int, filters: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, filters, 3, stride=2, padding=1, output_padding=1)
        self.up_norm = nn.BatchNorm2d(filters)
        self.conv = nn.Conv2d(filters + skip_channels, filters, 3, padding=1)
        self.conv_norm = nn.BatchNorm2d(filters)

    def gated(self, x_up: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return x_up, t

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        x_up = torch.relu(self.up_norm(self.up(x)))
        y = torch.relu(self.conv(torch.cat(self.gated(x_up, t), dim=1)))
        return torch.relu(self.conv_norm(y))


class AttentionUpsampling(HUNetUpsampling):
    """Algorithm 1. Transposed convolution, BN, ReLU; gate; concatenation; convolution with ReLU, BN, ReLU.

    The paper computes the attention map and never uses it; here the gated features replace those they gate.
    `gate_target` "up" gates the upsampled features by the skip (the paper's order of arguments), "skip" the skip by the
    upsampled features (Attention U-Net's).

    Parameters
    ----------
    in_channels, skip_channels, filters : as in `HUNetUpsampling`
    """

    def __init__(self, in_channels: int, skip_channels: int, filters: int, *, gate_target: str = "up") -> None:
        super().__init__(in_channels, skip_channels, filters)
        self.gate_target = gate_target
        gated, gating = (filters, skip_channels) if gate_target == "up" else (skip_channels, filters)
        self.gate = AttentionGate(gated, gating, max(filters // 2, 1))

    def gated(self, x_up: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return (self.gate(x_up, t), t) if self.gate_target == "up" else (x_up, self.gate(t, x_up))


class ResidualUpsampling(nn.Module):
    """Algorithm 2. ``r = relu(y + F(y))``, y by algorithm 1, F = Conv-BN-ReLU-Conv-BN.

    The paper repeats algorithm 1's text and never assigns r; the residual is what its section IV-D describes.
    """

    def __init__(self, in_channels: int, skip_channels: int, filters: int, *, gate_target: str = "up") -> None:
        super().__init__()
        self.attention = AttentionUpsampling(in_channels, skip_channels, filters, gate_target=gate_target)
        self.residual = nn.Sequential(
            nn.Conv2d(filters, filters, 3, padding=1),
            nn.BatchNorm2d(filters),
            nn.ReLU(),
            nn.Conv2d(filters, filters, 3, padding=1),
            nn.BatchNorm2d(filters),
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        y = self.attention(x, t)
        return torch.relu(y + self.residual(y))
