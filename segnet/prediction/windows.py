"""From a volume to lesion probabilities and a mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from segnet.config import DataConfig
from segnet.dataset.batches import normalise, stack, window_starts
from segnet.errors import InputError
from segnet.prediction.options import Progress

View = tuple[int, bool]

VIEWS = tuple((quarter_turns, flipped) for quarter_turns in range(4) for flipped in (False, True))
"""The eight symmetries of a square: quarter turns, then a flip."""


def _seen(x: Tensor, view: View) -> Tensor:
    turned = torch.rot90(x, view[0], (2, 3)) if view[0] else x  # torch copies for no turn at all
    return turned.flip(3) if view[1] else turned


def _seen_back(x: Tensor, view: View) -> Tensor:
    """Inverse of `_seen`."""
    flipped = x.flip(3) if view[1] else x
    return torch.rot90(flipped, -view[0], (2, 3)) if view[0] else flipped


def lesion_probability(model: nn.Module, x: Tensor, view: View) -> Tensor:
    """Lesion probability (n, 1, size, size) of inputs (n, channels, size, size), as one view of them shows it."""
    logits, _ = model(_seen(x, view).contiguous(memory_format=torch.channels_last))
    return _seen_back(logits.float().softmax(1)[:, 1:].sum(1, keepdim=True), view)


@torch.inference_mode()
def _probabilities(model: nn.Module, patches: Tensor, config: DataConfig, view: View) -> Tensor:
    """Lesion probability (n, patch, patch) of (n, slices, patch, patch), at the patch's own resolution, as one view of it shows it."""
    side = patches.shape[-1]
    size = (config.input_px, config.input_px)
    x = patches if side == config.input_px else F.interpolate(patches, size, mode="bilinear", align_corners=False)
    found = lesion_probability(model, x, view)
    if side != config.input_px:
        # "area" averages whole pixels: between sizes that are no multiples it shifts an edge by up to a third of a pixel
        smaller = side < config.input_px
        found = F.interpolate(found, (side, side), mode="bilinear", align_corners=False, antialias=smaller)
    return found[:, 0]


class _Windows:
    """Fields of view in the slices of a volume: their places, their patches, their blending.

    Parameters
    ----------
    image_zyx : (Z, Y, X) in HU
    click_yx : middle of the only field of view; None: windows cover the slice
    """

    def __init__(
        self, image_zyx: NDArray[Any], config: DataConfig, click_yx: tuple[int, int] | None, slices: int
    ) -> None:
        self.image_zyx, self.config, self.slices = image_zyx, config, slices
        self.side = side = config.patch_px
        height, width = image_zyx.shape[1:]
        if click_yx is None:
            self.corners = [(y, x) for y in window_starts(height, side) for x in window_starts(width, side)]
        else:
            self.corners = [(click_yx[0] - side // 2, click_yx[1] - side // 2)]
        ys, xs = zip(*self.corners, strict=True)
        self.top, self.left = min(ys), min(xs)
        self.seen_shape = (max(ys) - self.top + side, max(xs) - self.left + side)
        ramp = np.minimum(np.arange(1, side + 1), np.arange(side, 0, -1)).astype(np.float32)
        self.weight = np.minimum.outer(ramp, ramp) if len(self.corners) > 1 else np.ones((side, side), np.float32)
        self.weights = np.zeros((height, width), np.float32)
        for corner in self.corners:
            self.add(self.weights, corner, self.weight)
        self._kept: dict[int, NDArray[np.float32]] = {}  # neighbouring slices share planes

    def _plane(self, z: int) -> NDArray[np.float32]:
        """The part of slice z in all fields of view, in [0, 1], 0 beyond the edge. The last `slices` planes are kept."""
        if z not in self._kept:
            if len(self._kept) == self.slices:
                del self._kept[next(iter(self._kept))]
            self._kept[z] = self._normalised(z)
        return self._kept[z]

    def _normalised(self, z: int) -> NDArray[np.float32]:
        seen = np.zeros(self.seen_shape, np.float32)
        to, of = _inside(self.top, self.left, self.seen_shape, self.image_zyx.shape[1:])
        seen[of] = normalise(self.image_zyx[z][to], self.config.window)
        return seen

    def patch(self, z: int, corner: tuple[int, int]) -> NDArray[np.float32]:
        """(slices, side, side) around slice z."""
        y, x = corner[0] - self.top, corner[1] - self.left
        around = stack(np.arange(len(self.image_zyx)), z, self.slices)
        return np.stack([self._plane(int(k))[y : y + self.side, x : x + self.side] for k in around])

    def add(self, plane: NDArray[np.float32], corner: tuple[int, int], patch: NDArray[np.float32]) -> None:
        """Adds a patch to a whole slice."""
        to, of = _inside(*corner, patch.shape, plane.shape)
        plane[to] += patch[of]


def _blended(
    windows: _Windows,
    probabilities: Callable[[Tensor], Tensor],
    at: Sequence[int],
    batch_size: int,
    step: Callable[[int], None],
) -> NDArray[np.float32]:
    """The windows' probabilities as a volume, 0 in slices other than `at`."""
    total = np.zeros(windows.image_zyx.shape, np.float32)
    work = [(z, corner) for z in at for corner in windows.corners]
    for start in range(0, len(work), batch_size):
        some = work[start : start + batch_size]
        found = probabilities(torch.from_numpy(np.stack([windows.patch(*where) for where in some]))).numpy()
        for (z, corner), p in zip(some, found, strict=True):
            windows.add(total[z], corner, p * windows.weight)
        step(len(some))
    return np.divide(total, windows.weights, out=total, where=windows.weights > 0)


def segment(
    model: nn.Module | Sequence[nn.Module],
    image_zyx: NDArray[Any],
    config: DataConfig,
    *,
    click_zyx: tuple[int, int, int] | None = None,
    slices: int = 1,
    tta: bool = False,
    batch_size: int = 16,
    at: Sequence[int] | None = None,
    deviation: NDArray[np.float32] | None = None,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """Lesion probability of every voxel, the mean over members and views.

    Parameters
    ----------
    model : in evaluation mode; or several, the members of an ensemble
    image_zyx : (Z, Y, X) in HU
    click_zyx : voxel in the lesion; only the field of view around it is segmented, the rest is 0. Without it, windows of the size of
        the field of view cover the slice and are blended
    slices : shown to the network at once, its `in_channels`
    tta : use the eight quarter turns and flips in plane as views (test-time augmentation), not the slice alone
    batch_size : patches at once
    at : slices to segment, the others are 0; default: all
    deviation : (Z, Y, X), filled with the standard deviation of the members' and views' probabilities p_k about their mean p,
        ``sqrt(sum_k (p_k - p)^2 / K)``, K being members times views

    Returns
    -------
    (Z, Y, X) float32 in [0, 1]

    Raises
    ------
    InputError
        There is no network.
    """
    members = [model] if isinstance(model, nn.Module) else list(model)
    if not members:
        raise InputError("model: expected at least one network, got none; load one with `segnet.load`")
    windows = _Windows(image_zyx, config, None if click_zyx is None else click_zyx[1:], slices)
    at = range(len(image_zyx)) if at is None else at
    samples = [(member, view) for member in members for view in (VIEWS if tta else VIEWS[:1])]
    count, done = len(samples) * len(at) * len(windows.corners), 0

    def step(patches: int) -> None:
        nonlocal done
        done += patches
        if progress is not None:
            progress(done, count)

    mean = np.zeros(image_zyx.shape, np.float32)
    squares = np.zeros(image_zyx.shape, np.float32) if deviation is not None else None
    for number, (member, view) in enumerate(samples, 1):
        found = _blended(windows, partial(_probabilities, member, config=config, view=view), at, batch_size, step)
        # Welford's update: squares of differences from the mean, never differences of squares
        found -= mean
        mean += found / number
        if squares is not None:
            squares += found**2 * ((number - 1) / number)
    if deviation is not None and squares is not None:
        np.sqrt(squares / len(samples), out=deviation)
    return mean


def _inside(
    y: int, x: int, shape: tuple[int, ...], within: tuple[int, ...]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The part of a window of `shape` at (y, x) inside an image of shape `within`: its slices in the image, and in the window."""
    y0, x0, y1, x1 = max(y, 0), max(x, 0), min(y + shape[0], within[0]), min(x + shape[1], within[1])
    return (slice(y0, max(y1, y0)), slice(x0, max(x1, x0))), (
        slice(y0 - y, max(y1, y0) - y),
        slice(x0 - x, max(x1, x0) - x),
    )


def keep_clicked(
    mask_zyx: NDArray[np.bool_], click_zyx: tuple[int, int, int], spacing_zyx_mm: tuple[float, ...]
) -> NDArray[np.bool_]:
    """The 3-D component (26 neighbours) at the click, or the nearest one in mm if the click misses all or lies outside the mask's array.

    An empty mask stays empty.
    """
    labels, count = ndimage.label(mask_zyx, np.ones((3, 3, 3)))
    if count == 0:
        return mask_zyx
    inside = all(0 <= at < length for at, length in zip(click_zyx, mask_zyx.shape, strict=True))
    at_click = labels[click_zyx] if inside else 0
    if at_click == 0:
        voxels = np.argwhere(mask_zyx)
        distance_mm = (((voxels - np.asarray(click_zyx)) * np.asarray(spacing_zyx_mm)) ** 2).sum(axis=1)
        at_click = labels[tuple(voxels[distance_mm.argmin()])]
    kept: NDArray[np.bool_] = labels == at_click
    return kept
