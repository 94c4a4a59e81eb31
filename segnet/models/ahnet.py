"""AHNet's blocks, algorithms 1 to 3 of the paper, on (batch, channels, height, width).

AHNet here is the paper's Advanced Hierarchical Network, not MONAI's anisotropic hybrid network of the same name.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segnet.models.batch_norm import BatchNorm2d, follow
from segnet.runtime.distributed import world_size
from ssmcore.torch import attention_gate, gate_crop


class AttentionGate(nn.Module):
    """Algorithm 3. ``rate = sigmoid(BN(psi(relu(BN(theta x) + BN(phi g)))))``, ``out = x * rate``.

    theta, phi and psi are 1x1 convolutions. If g and x differ in size, `align` "crop" cuts g at its centre (the algorithm's steps);
    "upsample" resizes phi g bilinearly to the size of x (the prose of section IV-F).

    Parameters
    ----------
    x_channels, g_channels : channels of the gated and of the gating features
    channels : c of the algorithm, channels of theta x and phi g
    """

    def __init__(self, x_channels: int, g_channels: int, channels: int, *, align: str = "crop") -> None:
        super().__init__()
        self.align = align
        self.theta = nn.Sequential(nn.Conv2d(x_channels, channels, 1), nn.BatchNorm2d(channels))
        self.phi = nn.Sequential(nn.Conv2d(g_channels, channels, 1), nn.BatchNorm2d(channels))
        self.psi = nn.Sequential(nn.Conv2d(channels, 1, 1), nn.BatchNorm2d(1))

    def forward(self, x: Tensor, g: Tensor) -> Tensor:
        """x (batch, x_channels, height, width), g (batch, g_channels, ...). A cropped g is at least as large as x."""
        if self.training and world_size() > 1:
            return self._step_by_step(x, g)
        theta, theta_norm = _layers(self.theta)
        _, phi_norm = _layers(self.phi)
        psi, psi_norm = _layers(self.psi)
        norms, channels = (theta_norm, phi_norm, psi_norm), theta.out_channels
        # psi's bias only moves the mean of its norm: it cancels in training, and is a shift in evaluation
        bias = cast(Tensor, psi.bias)
        if self.training:
            statistics, psi_shift = None, psi_norm.bias + 0 * bias
        else:
            statistics = torch.cat([torch.stack(_running(norm), 1) for norm in norms])
            psi_shift = psi_norm.bias + bias * psi_norm.weight * torch.rsqrt(_running(psi_norm)[1] + psi_norm.eps)
        out, used = attention_gate(
            x.permute(0, 2, 3, 1),
            theta(x).permute(0, 2, 3, 1),
            self._phi_of(x, g).permute(0, 2, 3, 1),
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
        """The paper's steps one by one, for norms over the batches of several processes."""
        _, phi_norm = _layers(self.phi)
        phi_g = phi_norm(gate_crop(self._phi_of(x, g), x.shape[2:]))
        return x * torch.sigmoid(self.psi(torch.relu(self.theta(x) + phi_g)))

    def _phi_of(self, x: Tensor, g: Tensor) -> Tensor:
        """phi g, not yet cropped."""
        phi_g: Tensor = _layers(self.phi)[0](g)
        if self.align == "upsample" and g.shape[2:] != x.shape[2:]:
            return F.interpolate(phi_g, x.shape[2:], mode="bilinear")
        return phi_g


def _layers(convolution_and_norm: nn.Sequential) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    convolution, norm = convolution_and_norm
    return cast(nn.Conv2d, convolution), cast(nn.BatchNorm2d, norm)


def _running(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    return cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)


class HUNetUpsampling(nn.Module):
    """HUNet's block, algorithm 1 without the gate: transposed convolution, BN, ReLU; concatenation; convolution, ReLU, BN, ReLU.

    Parameters
    ----------
    in_channels, skip_channels : channels of x and of the skip connection t; t has twice the height and width
    filters : f, the channels of the result
    double_relu : keep the ReLU of step 6 before the norm and ReLU of steps 7 and 8
    """

    def __init__(self, in_channels: int, skip_channels: int, filters: int, *, double_relu: bool = True) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, filters, 3, stride=2, padding=1, output_padding=1)
        self.up_norm = BatchNorm2d(filters)
        self.conv = nn.Conv2d(filters + skip_channels, filters, 3, padding=1)
        self.conv_norm = BatchNorm2d(filters)
        self.double_relu = double_relu

    def gated(self, x_up: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return x_up, t

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        x_up = torch.relu(self.up_norm(self.up(x)))
        y = self.conv(torch.cat(self.gated(x_up, t), dim=1))
        if self.double_relu:
            y = torch.relu(y)
        return torch.relu(self.conv_norm(y))


class AttentionUpsampling(HUNetUpsampling):
    """Algorithm 1. Transposed convolution, BN, ReLU; gate; concatenation; convolution, ReLU, BN, ReLU.

    The paper computes the attention map and never uses it. Here the gated features replace the ungated ones.
    `gate_target` "up" gates the upsampled features by the skip (the paper's order of arguments), "skip" the skip by the upsampled
    features (Attention U-Net). "unused" is the paper's text: the gate is computed, but its parameters never learn.

    Parameters
    ----------
    in_channels, skip_channels, filters, double_relu : as in `HUNetUpsampling`
    gate_align : `align` of `AttentionGate`
    """

    def __init__(
        self,
        in_channels: int,
        skip_channels: int,
        filters: int,
        *,
        gate_target: str = "up",
        gate_align: str = "crop",
        double_relu: bool = True,
    ) -> None:
        super().__init__(in_channels, skip_channels, filters, double_relu=double_relu)
        self.gate_target = gate_target
        gated, gating = (skip_channels, filters) if gate_target == "skip" else (filters, skip_channels)
        self.gate = AttentionGate(gated, gating, max(filters // 2, 1), align=gate_align)

    def gated(self, x_up: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        if self.gate_target == "unused":
            with torch.no_grad():
                self.gate(x_up, t)
            return x_up, t
        return (self.gate(x_up, t), t) if self.gate_target == "up" else (x_up, self.gate(t, x_up))


class ResidualUpsampling(nn.Module):
    """Algorithm 2. ``r = relu(y + F(y))``, y by algorithm 1, F = Conv-BN-ReLU-Conv-BN.

    The paper repeats algorithm 1's text and never assigns r. The residual follows its section IV-D.

    Parameters
    ----------
    in_channels, skip_channels, filters : as in `AttentionUpsampling`
    reading : its keyword arguments
    """

    def __init__(self, in_channels: int, skip_channels: int, filters: int, **reading: Any) -> None:
        super().__init__()
        self.attention = AttentionUpsampling(in_channels, skip_channels, filters, **reading)
        self.residual = nn.Sequential(
            nn.Conv2d(filters, filters, 3, padding=1),
            BatchNorm2d(filters),
            nn.ReLU(),
            nn.Conv2d(filters, filters, 3, padding=1),
            BatchNorm2d(filters),
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        y = self.attention(x, t)
        return torch.relu(y + self.residual(y))
