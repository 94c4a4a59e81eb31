"""Batch norms for few channels, and over the batches of all processes."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from segnet.runtime.distributed import total, world_size

Module = TypeVar("Module", bound=nn.Module)


@torch.no_grad()
def follow(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    """Moves the running statistics towards the batch's, like nn.BatchNorm2d; `variance` divides by count - 1."""
    for running, taken in ((norm.running_mean, mean), (norm.running_var, variance)):
        cast(Tensor, running).lerp_(taken.to(cast(Tensor, running).dtype), cast(float, norm.momentum))
    cast(Tensor, norm.num_batches_tracked).add_(1)


LANES = 16
"""Channels in a vector of torch's kernels. Other multiples are processed one by one, ten times slower."""


def _fold(x: Tensor) -> int:
    """Number of neighbouring channels-last positions to treat as further channels, up to four vectors; 1 if nothing is gained."""
    channels, fold = x.shape[1], 1
    plain = x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64)
    if plain or channels % LANES == 0 or not x.is_contiguous(memory_format=torch.channels_last):
        return 1
    positions = x.numel() // channels
    while 2 * fold * channels <= 4 * LANES and positions > 0 and positions % (2 * fold) == 0:
        fold *= 2
    return fold


class _Folded(torch.autograd.Function):
    """Batch norm with folded channels: output, mean and variance over count. The statistics are not differentiated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, fold: int) -> tuple[Tensor, ...]:
        rows = x.permute(0, 2, 3, 1).reshape(-1, fold * x.shape[1])
        found = torch.batch_norm_update_stats(rows, None, None, 0.0)
        means, variances = (statistic.view(fold, -1) for statistic in found)
        mean = means.mean(0)
        variance = variances.mean(0) + (means - mean).square().mean(0)
        w, b, m, v = (t.repeat(fold) for t in (weight, bias, mean, variance))
        out = torch.native_batch_norm(rows, w, b, m, v, False, 0.0, eps)[0]
        ctx.save_for_backward(rows, weight, mean, variance)
        ctx.eps, ctx.fold = eps, fold
        ctx.mark_non_differentiable(mean, variance)
        return _unfolded(out, x), mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, mean, variance = ctx.saved_tensors
        fold, eps = ctx.fold, ctx.eps
        w, m, v = (t.repeat(fold) for t in (weight, mean, variance))
        # first with constant mean and variance, then the part through both
        dx, dweight, dbias = torch.ops.aten.native_batch_norm_backward(
            dout.permute(0, 2, 3, 1).reshape(rows.shape), rows, w, m, v, None, None, False, eps, [True, True, True]
        )
        dweight, dbias = (g.view(fold, -1).sum(0) for g in (dweight, dbias))
        count, inverse = rows.numel() // len(mean), torch.rsqrt(variance + eps)
        slope = -weight * inverse.square() * dweight / count
        level = -weight * inverse * dbias / count - slope * mean
        dx.addcmul_(rows, slope.repeat(fold)).add_(level.repeat(fold))
        return _unfolded(dx, dout), dweight, dbias, None, None


def _unfolded(rows: Tensor, like: Tensor) -> Tensor:
    batch, channels, height, width = like.shape
    return rows.view(batch, height, width, channels).permute(0, 3, 1, 2)


class BatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d that trains ten times faster on few channels in channels-last memory.

    torch's kernels keep channels in vector lanes and process 12 channels one at a time. Here neighbouring positions become further
    channels. Their means and variances, each over equally many positions, are joined to the channels' own.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width)."""
        fold = _fold(x) if self.training and self.affine and self.track_running_stats and self.momentum else 1
        if fold == 1:
            return super().forward(x)
        out, mean, variance = _Folded.apply(x, self.weight, self.bias, self.eps, fold)
        count = x.numel() // x.shape[1]
        follow(self, mean, variance * (count / (count - 1)))
        return out


BATCH_NORMS = (nn.BatchNorm2d, BatchNorm2d)
"""Batch norms of one process: exactly these classes, no subclasses."""


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
    """The same network. With several processes its batch norms become global."""
    if world_size() > 1:
        for module in model.modules():
            if type(module) in BATCH_NORMS:
                module.__class__ = GlobalBatchNorm2d
    return model
