"""Batch norms whose batch is that of all processes."""

from __future__ import annotations

from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from ..distributed import total, world_size

Module = TypeVar("Module", bound=nn.Module)


@torch.no_grad()
def follow(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    """The running statistics a step towards those of a batch, as nn.BatchNorm2d itself takes it; the variance over count - 1."""
    for running, taken in ((norm.running_mean, mean), (norm.running_var, variance)):
        cast(Tensor, running).lerp_(taken.to(cast(Tensor, running).dtype), cast(float, norm.momentum))
    cast(Tensor, norm.num_batches_tracked).add_(1)


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d with mean and variance over the batches of all processes. torch's own SyncBatchNorm refuses CPUs."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width)."""
        if not self.training:
            return super().forward(x)
        count = x.numel() // x.shape[1] * world_size()
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        mean = total(wide.sum((0, 2, 3))) / count
        centred = wide - mean[:, None, None]
        variance = total((centred * centred).sum((0, 2, 3))) / count
        follow(self, mean, variance * (count / (count - 1)))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


def synchronised(model: Module) -> Module:
    """The same network with the batch norms of all processes, where there are several."""
    if world_size() > 1:
        for module in model.modules():
            if type(module) is nn.BatchNorm2d:
                module.__class__ = GlobalBatchNorm2d
    return model
