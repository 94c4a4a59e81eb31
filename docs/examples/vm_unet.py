"""A U-shaped network of state space blocks, written against the interfaces of VMamba and mamba-ssm alone, on a CPU.

    python docs/examples/vm_unet.py [--steps 12] [--dims 24] [--size 64]

Nothing below the first two statements knows of ssmcore: with the CUDA packages installed they are used instead.
Architecture: Ruan et al., VM-UNet (2024); its block: Liu et al., VMamba (2024).
"""

from __future__ import annotations

import ssmcore.compat

ssmcore.compat.install()

import argparse  # noqa: E402
import math  # noqa: E402
import time  # noqa: E402
from collections.abc import Sequence  # noqa: E402

import torch  # noqa: E402
from csm_triton import cross_merge_fn, cross_scan_fn  # noqa: E402
from mamba_ssm.ops.selective_scan_interface import selective_scan_fn  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

DIRECTIONS = 4


class SS2D(nn.Module):
    """Four scans of the grid, (batch, height, width, channels), inside a gated unit.

    Parameters
    ----------
    channels : of the grid; twice as many inside
    d_state : states a channel
    """

    def __init__(self, channels: int, d_state: int = 16) -> None:
        super().__init__()
        inner, rank = 2 * channels, math.ceil(channels / 16)
        self.rank, self.d_state = rank, d_state
        self.in_proj = nn.Linear(channels, 2 * inner, bias=False)
        self.conv2d = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.x_proj_weight = nn.Parameter(torch.empty(DIRECTIONS, rank + 2 * d_state, inner))
        self.dt_projs_weight = nn.Parameter(torch.empty(DIRECTIONS, inner, rank))
        nn.init.uniform_(self.x_proj_weight, -(inner**-0.5), inner**-0.5)
        nn.init.uniform_(self.dt_projs_weight, -(rank**-0.5), rank**-0.5)
        # softplus of the bias is log-uniform between 0.001 and 0.1
        dt = torch.exp(torch.rand(DIRECTIONS, inner) * math.log(100) + math.log(1e-3))
        self.dt_projs_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))
        self.A_logs = nn.Parameter(torch.arange(1, d_state + 1).float().log().repeat(DIRECTIONS * inner, 1))
        self.Ds = nn.Parameter(torch.ones(DIRECTIONS * inner))
        self.out_norm = nn.LayerNorm(inner)
        self.out_proj = nn.Linear(inner, channels, bias=False)

    def scans(self, x: Tensor) -> Tensor:
        """(batch, inner, height, width) to (batch, inner, height * width)."""
        batch, _, height, width = x.shape
        xs = cross_scan_fn(x)
        projected = torch.einsum("bkdl,kcd->bkcl", xs, self.x_proj_weight)
        dts, Bs, Cs = projected.split([self.rank, self.d_state, self.d_state], dim=2)
        dts = torch.einsum("bkrl,kdr->bkdl", dts, self.dt_projs_weight)
        ys = selective_scan_fn(
            xs.flatten(1, 2),
            dts.flatten(1, 2),
            -self.A_logs.exp(),
            Bs,
            Cs,
            self.Ds,
            delta_bias=self.dt_projs_bias.flatten(),
            delta_softplus=True,
        )
        return cross_merge_fn(ys.view(batch, DIRECTIONS, -1, height, width))

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        x, z = self.in_proj(x).chunk(2, dim=-1)
        x = F.silu(self.conv2d(x.permute(0, 3, 1, 2)))
        y = self.scans(x).transpose(1, 2).unflatten(1, (height, width))
        return self.out_proj(self.out_norm(y) * F.silu(z))


class VSSBlock(nn.Module):
    """``x + SS2D(LN(x))``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.ss2d = nn.LayerNorm(channels), SS2D(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.ss2d(self.norm(x))


class PatchEmbedding(nn.Module):
    """(batch, channels, height, width) to (batch, height / 4, width / 4, dim)."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.proj, self.norm = nn.Conv2d(channels, dim, 4, stride=4), nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class PatchMerging(nn.Module):
    """Half the height and width, twice the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        corners = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return self.reduction(self.norm(torch.cat(corners, dim=-1)))


class PatchExpanding(nn.Module):
    """`factor` times the height and width. From `channels` to `channels * gain / factor**2`."""

    def __init__(self, channels: int, factor: int, gain: int) -> None:
        super().__init__()
        self.factor, kept = factor, channels * gain // factor**2
        self.expand = nn.Linear(channels, gain * channels, bias=False)
        self.norm = nn.LayerNorm(kept)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        f = self.factor
        x = self.expand(x).view(batch, height, width, f, f, -1).transpose(2, 3)
        return self.norm(x.reshape(batch, f * height, f * width, -1))


class VMUNet(nn.Module):
    """An image, its sides multiples of 32, to logits of the same height and width; skip connections add.

    Parameters
    ----------
    channels, classes : of the image and of the logits
    depths, depths_decoder : blocks of each stage, from the image inwards and back out
    dims : channels of the first stage, doubled at each further one
    """

    def __init__(
        self,
        channels: int = 3,
        classes: int = 1,
        depths: Sequence[int] = (2, 2, 2, 2),
        depths_decoder: Sequence[int] = (2, 2, 2, 1),
        dims: int = 96,
    ) -> None:
        super().__init__()
        widths = [dims * 2**i for i in range(len(depths))]
        self.patch_embed = PatchEmbedding(channels, dims)
        self.encoder = nn.ModuleList(
            nn.Sequential(*map(VSSBlock, [w] * n)) for w, n in zip(widths, depths, strict=True)
        )
        self.merges = nn.ModuleList(map(PatchMerging, widths[:-1]))
        outwards = list(zip(widths[::-1], depths_decoder, strict=True))
        self.decoder = nn.ModuleList(nn.Sequential(*map(VSSBlock, [w] * n)) for w, n in outwards)
        self.expands = nn.ModuleList(PatchExpanding(w, 2, 2) for w in widths[:0:-1])
        self.final_expand = PatchExpanding(dims, 4, 4)
        self.final_conv = nn.Conv2d(dims // 4, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        x, skips = self.patch_embed(image), []
        for i, stage in enumerate(self.encoder):
            skips.append(x)
            x = stage(x)
            if i < len(self.merges):
                x = self.merges[i](x)
        x = self.decoder[0](x)
        for expand, stage in zip(self.expands, self.decoder[1:], strict=True):
            # a skip is what entered the encoder's stage of the same depth
            x = stage(expand(x + skips.pop()))
        return self.final_conv(self.final_expand(x).permute(0, 3, 1, 2))


def disks(count: int, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noisy images (count, 3, size, size) of one bright disk each, and its mask (count, 1, size, size)."""
    centre = (0.3 + 0.4 * torch.rand(count, 2, 1, 1, generator=generator)) * size
    radius = (0.1 + 0.15 * torch.rand(count, 1, 1, generator=generator)) * size
    row, column = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    mask = ((row - centre[:, 0]) ** 2 + (column - centre[:, 1]) ** 2 < radius**2).float()[:, None]
    return mask + 0.5 * torch.randn(count, 3, size, size, generator=generator), mask


def loss_of(logits: Tensor, mask: Tensor) -> Tensor:
    """Cross entropy and Dice loss."""
    rate = logits.sigmoid()
    dice = 2 * (rate * mask).sum((1, 2, 3)) / (rate + mask).sum((1, 2, 3)).clamp(min=1)
    return F.binary_cross_entropy_with_logits(logits, mask) + 1 - dice.mean()


def train(model: nn.Module, *, steps: int, size: int, batch: int = 4, rate: float = 1e-3, seed: int = 0) -> list[float]:
    """Losses before each of `steps` steps of AdamW at a learning rate, each on new disks."""
    generator, losses = torch.Generator().manual_seed(seed), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    for _ in range(steps):
        image, mask = disks(batch, size, generator)
        loss = loss_of(model(image), mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--dims", type=int, default=24, help="channels of the first stage; 96 is the published network")
    parser.add_argument("--size", type=int, default=64, help="height and width of the images")
    arguments = parser.parse_args()
    published = sum(p.numel() for p in VMUNet().parameters())
    print(f"the published network: {published:,} parameters ({published / 1e6:.2f} M)")
    torch.manual_seed(0)
    model = VMUNet(dims=arguments.dims)
    print(f"trained here: {sum(p.numel() for p in model.parameters()):,} parameters, dims from {arguments.dims}")
    started = time.perf_counter()
    losses = train(model, steps=arguments.steps, size=arguments.size)
    for step, loss in enumerate(losses):
        print(f"step {step:3d}  loss {loss:.3f}")
    print(f"{(time.perf_counter() - started) / max(len(losses), 1):.2f} s a step")


if __name__ == "__main__":
    main()
