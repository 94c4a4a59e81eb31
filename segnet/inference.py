"""From a volume to lesion probabilities and a mask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from .config import DataConfig
from .data.dataset import cut, normalise, stack, window_starts

Progress = Callable[[int, int], None]


VIEWS = tuple((quarter_turns, flipped) for quarter_turns in range(4) for flipped in (False, True))
"""The eight symmetries of a square: quarter turns, then a flip."""


def _seen(x: Tensor, view: tuple[int, bool]) -> Tensor:
    turned = torch.rot90(x, view[0], (2, 3))
    return turned.flip(3) if view[1] else turned


def _seen_back(x: Tensor, view: tuple[int, bool]) -> Tensor:
    """Inverse of `_seen`."""
    return torch.rot90(x.flip(3) if view[1] else x, -view[0], (2, 3))


@torch.inference_mode()
def _probabilities(model: nn.Module, patches: Tensor, config: DataConfig, *, tta: bool) -> Tensor:
    """Lesion probability (n, 1, patch, patch) of (n, slices, patch, patch), at the patch's own resolution; the mean over all views where asked."""
    side = patches.shape[-1]
    size = (config.input_px, config.input_px)
    x = patches if side == config.input_px else F.interpolate(patches, size, mode="bilinear", align_corners=False)
    total = torch.zeros(len(x), 1, *size)
    views = VIEWS if tta else VIEWS[:1]
    for view in views:
        logits, _ = model(_seen(x, view).contiguous(memory_format=torch.channels_last))
        total += _seen_back(logits.float().softmax(1)[:, 1:].sum(1, keepdim=True), view)
    total /= len(views)
    if side == config.input_px:
        return total
    # not "area", whose windows are whole pixels: between sizes that are no multiples it shifts an edge by up to a third of one
    return F.interpolate(total, (side, side), mode="bilinear", align_corners=False, antialias=side < config.input_px)


def segment(
    model: nn.Module,
    image_zyx: NDArray[Any],
    config: DataConfig,
    *,
    click_zyx: tuple[int, int, int] | None = None,
    slices: int = 1,
    tta: bool = False,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """Lesion probability of every voxel.

    Parameters
    ----------
    model : in evaluation mode
    image_zyx : (Z, Y, X) in HU
    click_zyx : voxel inside the lesion; only the field of view around it is looked at, the rest is 0. Without it, windows
        of the field of view cover the slice and are blended
    slices : shown to the network at once, its `in_channels`
    tta : mean over the eight quarter turns and flips in plane (test-time augmentation)
    batch_size : patches at once

    Returns
    -------
    (Z, Y, X) float32 in [0, 1]
    """
    side = config.patch_px
    depth, height, width = image_zyx.shape
    if click_zyx is None:
        corners = [(y, x) for y in window_starts(height, side) for x in window_starts(width, side)]
    else:
        corners = [(click_zyx[1] - side // 2, click_zyx[2] - side // 2)]
    ramp = np.minimum(np.arange(1, side + 1), np.arange(side, 0, -1)).astype(np.float32)
    weight = np.minimum.outer(ramp, ramp) if len(corners) > 1 else np.ones((side, side), np.float32)
    total = np.zeros((depth, height, width), np.float32)
    weights = np.zeros((height, width), np.float32)
    work = [(z, corner) for corner in corners for z in range(depth)]
    for start in range(0, len(work), batch_size):
        some = work[start : start + batch_size]
        patches = np.stack(
            [
                [
                    cut(plane, (y + side // 2, x + side // 2), side, config.window_hu[0])
                    for plane in stack(image_zyx, z, slices)
                ]
                for z, (y, x) in some
            ]
        )
        shown = torch.from_numpy(normalise(patches, config.window_hu))
        found = _probabilities(model, shown, config, tta=tta)[:, 0].numpy()
        for (z, (y, x)), p in zip(some, found, strict=True):
            inside = _inside(y, x, side, height, width)
            total[z][inside[0]] += (p * weight)[inside[1]]
        if progress is not None:
            progress(min(start + batch_size, len(work)), len(work))
    for y, x in corners:
        to, of = _inside(y, x, side, height, width)
        weights[to] += weight[of]
    return np.divide(total, weights, out=total, where=weights > 0)


def _inside(y: int, x: int, side: int, height: int, width: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The part of a window within the image: where it lies in the image, and in the window."""
    y0, x0, y1, x1 = max(y, 0), max(x, 0), min(y + side, height), min(x + side, width)
    return (slice(y0, max(y1, y0)), slice(x0, max(x1, x0))), (
        slice(y0 - y, max(y1, y0) - y),
        slice(x0 - x, max(x1, x0) - x),
    )


def keep_clicked(
    mask_zyx: NDArray[np.bool_], click_zyx: tuple[int, int, int], spacing_zyx_mm: tuple[float, ...]
) -> NDArray[np.bool_]:
    """The 3-D component (26 neighbours) at the click, or the one nearest to it in mm where the click misses all."""
    labels, count = ndimage.label(mask_zyx, np.ones((3, 3, 3)))
    if count == 0:
        return mask_zyx
    at_click = labels[click_zyx]
    if at_click == 0:
        voxels = np.argwhere(mask_zyx)
        distance_mm = (((voxels - np.asarray(click_zyx)) * np.asarray(spacing_zyx_mm)) ** 2).sum(axis=1)
        at_click = labels[tuple(voxels[distance_mm.argmin()])]
    kept: NDArray[np.bool_] = labels == at_click
    return kept
