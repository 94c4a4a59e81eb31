"""Transforms of augmentation: deterministic functions of images, masks and parameters.

Images are float32 of shape (count, slices, height, width), with the window mapped to [0, 1]. Masks have the same shape and are 0 or 1.
A parameter of each image is a tensor of shape (count,).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from segnet.errors import InputError

AGENT_EDGE_HU = 25.0
"""Width of the logistic ends of the band that takes up contrast agent: within this distance of an end, 27 to 73 % is taken up."""
AGENT_EDGE_PX = 1.0
"""Standard deviation of the transition from the lesion's uptake to the tissue's."""
RING_PX = 4
"""Width of a lesion's surroundings."""
CORE_PX, CORE_SHARE = 2.0, 0.9
"""The core of a lesion is where its mask, blurred by `CORE_PX`, exceeds `CORE_SHARE`. Grain is the part that such a blur removes."""
LEAST_CONTRAST = 0.02
"""Smallest difference of mean grey between a pasted lesion and the covered area. An invisible lesion teaches nothing."""
LIKE_GROUND = 0.1
"""Share of places for a pasted lesion that count as similar to its own ground."""


def each(values: Tensor) -> Tensor:
    """(count,) to (count, 1, 1, 1)."""
    return values[:, None, None, None]


def sampling_grid(
    angle_rad: Tensor, scale: Tensor, flip: Tensor, size_px: int, displacement_px: Tensor | None = None
) -> Tensor:
    """Source position of each pixel of the result, (count, size, size, 2), as `grid_sample` takes it.

    One map applies displacement, then flip, scale and rotation.

    Parameters
    ----------
    angle_rad, scale, flip : (count,); rotation, side shown as a multiple of the source's side, and -1 (mirrored) or 1
    size_px : side of the result
    displacement_px : (count, 2, size, size), along x and y, in pixels of the result; default: none
    """
    count = len(angle_rad)
    cos, sin, zero = torch.cos(angle_rad) * scale, torch.sin(angle_rad) * scale, torch.zeros(count)
    theta = torch.stack([torch.stack([cos * flip, -sin, zero], -1), torch.stack([sin * flip, cos, zero], -1)], 1)
    grid = F.affine_grid(theta, [count, 1, size_px, size_px], align_corners=False)
    if displacement_px is None:
        return grid
    moved = torch.einsum("nij,njhw->nhwi", theta[:, :, :2], displacement_px * (2 / size_px))
    return grid + moved


def resample(images: Tensor, masks: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    """Images by linear interpolation, masks by nearest neighbour. Beyond the edge lies black without lesion."""
    return (
        F.grid_sample(images, grid, mode="bilinear", align_corners=False),
        F.grid_sample(masks, grid, mode="nearest", align_corners=False),
    )


def elastic_displacement(controls: Tensor, size_px: int, spacing_px: float) -> Tensor:
    """A smooth displacement field from its values at control points, by a uniform cubic B-spline along each axis.

    For controls up to m the field stays within m, and its slopes within 1.5 m / spacing. For m below a third of the spacing the two
    slopes of each component sum to less than 1, which prevents folds.

    Parameters
    ----------
    controls : (count, 2, points, points), points = `control_points(size_px, spacing_px)`
    size_px, spacing_px : side of the field, and between control points

    Returns
    -------
    (count, 2, size, size)

    Raises
    ------
    InputError
        The number of control points is wrong.
    """
    points = control_points(size_px, spacing_px)
    if tuple(controls.shape[2:]) != (points, points):
        raise InputError(
            f"controls: expected {points} x {points} points for {size_px} px at {spacing_px} px,"
            f" got {controls.shape[2]} x {controls.shape[3]}; ask control_points"
        )
    at = (torch.arange(size_px) + 0.5) / spacing_px + 1
    distance = (at[:, None] - torch.arange(points)).abs()
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = (2 - distance).clamp(min=0) ** 3 / 6
    basis = torch.where(distance < 1, near, far)
    return basis @ controls @ basis.T


def control_points(size_px: int, spacing_px: float) -> int:
    """Number of control points along an axis: one before its start and two beyond its end, which complete the spline."""
    return math.ceil(size_px / spacing_px) + 3


def smooth(images: Tensor, sd_px: Tensor) -> Tensor:
    """Gaussian blur of each image. At the edges, the weights inside are normalised to 1. A deviation of 0 changes nothing.

    Parameters
    ----------
    images : (count, slices, height, width)
    sd_px : (count,)
    """

    def weights(length: int) -> Tensor:
        offset = torch.arange(length, dtype=torch.float32)
        square = (offset[:, None] - offset) ** 2
        kernel = torch.exp(-square / (2 * sd_px[:, None, None] ** 2).clamp(min=1e-6))
        return (kernel / kernel.sum(-1, keepdim=True))[:, None]

    height, width = images.shape[2:]
    return weights(height) @ images @ weights(width).transpose(-1, -2)


def lower_resolution(images: Tensor, factor: Tensor) -> Tensor:
    """Resampling to pixels `factor` times larger, with antialiasing, and back by cubic interpolation.

    Parameters
    ----------
    images : (count, slices, height, width)
    factor : (count,), at least 1; 1 changes nothing
    """
    out = images.clone()
    size = (images.shape[2], images.shape[3])
    for k in torch.nonzero(factor > 1).flatten().tolist():
        small = [max(round(side / float(factor[k])), 1) for side in size]
        coarse = F.interpolate(images[k : k + 1], small, mode="bilinear", antialias=True)
        out[k] = F.interpolate(coarse, size, mode="bicubic", align_corners=False)[0]
    return out


def surroundings(images: Tensor, masks: Tensor) -> Tensor:
    """Mean grey around the lesion of each slice, (count, slices, 1, 1); 0 without a lesion."""
    side = 2 * RING_PX + 1
    rows = F.max_pool2d(masks, (side, 1), stride=1, padding=(RING_PX, 0))
    ring = F.max_pool2d(rows, (1, side), stride=1, padding=(0, RING_PX)) - masks
    return (images * ring).sum((2, 3), keepdim=True) / ring.sum((2, 3), keepdim=True).clamp(min=1)


def fade(images: Tensor, masks: Tensor, kept: Tensor) -> Tensor:
    """Lesions faded towards their surroundings, slice by slice.

    Parameters
    ----------
    images, masks : (count, slices, height, width)
    kept : (count,) in [0, 1], share of the difference that stays; 1 changes nothing
    """
    around = surroundings(images, masks)
    inside = F.avg_pool2d(masks, 3, stride=1, padding=1)
    return images - (1 - each(kept)) * inside * (images - around)


def contrast_agent(
    images: Tensor,
    masks: Tensor,
    tissue_hu: Tensor,
    lesion_hu: Tensor,
    *,
    window_hu: tuple[float, float],
    band_hu: tuple[float, float],
) -> Tensor:
    """Soft tissue and lesion shifted in HU, each by its own amount, like a change of contrast medium.

    Iodine raises HU in proportion to its concentration. Voxels within a band of HU take it up; the band has soft ends for partial volumes:

        h' = h + w(h) (d_tissue + s (d_lesion - d_tissue)),  w(h) = sigma((h - low) / e) sigma((high - h) / e)

    s is the mask with a soft edge, e is `AGENT_EDGE_HU`. Air and fat lie below the band, bone above it. Shifts below 4 e keep the order
    of greys.

    Parameters
    ----------
    images, masks : (count, slices, height, width)
    tissue_hu, lesion_hu : (count,) shifts; 0 changes nothing
    window_hu : HU of 0 and 1
    band_hu : lower and upper end of the band

    Source: our own model. Sandfort et al., Scientific Reports 9:16884 (2019), show with a CycleGAN that training on other contrast phases
    helps segmentation.
    """
    span = window_hu[1] - window_hu[0]
    hu = images * span + window_hu[0]
    takes = torch.sigmoid((hu - band_hu[0]) / AGENT_EDGE_HU) * torch.sigmoid((band_hu[1] - hu) / AGENT_EDGE_HU)
    inside = smooth(masks, torch.full((len(masks),), AGENT_EDGE_PX))
    shift = each(tissue_hu) + inside * each(lesion_hu - tissue_hu)
    return images + takes * shift / span


def grey(images: Tensor, gamma: Tensor, contrast: Tensor, brightness: Tensor) -> Tensor:
    """contrast x^gamma + brightness of images clipped to [0, 1]; the result is not clipped."""
    return images.clamp(0, 1) ** each(gamma) * each(contrast) + each(brightness)


@dataclass(frozen=True)
class Paste:
    """Lesions to paste.

    Attributes
    ----------
    wanted : (count,) bool; whether an image without lesion gets one
    donor : (count,) in [0, 1); choice among the batch's `whole_lesions`
    place : (count,) in [0, 1); choice among the places similar to the lesion's ground
    level : (count,) brightness added to the pasted lesion
    soft_px : (count,) standard deviation of its edge
    shape : (count, slices, height, width) of 0 and 1; if not empty, replaces the donor's lesion and takes its grey
    texture : (count, slices, height, width), the grain of such a shape, of mean 0 and standard deviation about 1
    """

    wanted: Tensor
    donor: Tensor
    place: Tensor
    level: Tensor
    soft_px: Tensor
    shape: Tensor | None = None
    texture: Tensor | None = None


def whole_lesions(masks: Tensor) -> Tensor:
    """(count,) bool: whether the middle slice holds a lesion that no slice cuts off at the edge."""
    edge = torch.ones(masks.shape[2:], dtype=torch.bool)
    edge[1:-1, 1:-1] = False
    return (masks[:, masks.shape[1] // 2] > 0).flatten(1).any(1) & ~(masks[..., edge] > 0).flatten(1).any(1)


def paste_lesions(
    images: Tensor, masks: Tensor, paste: Paste, donors: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Lesions blended into slices without one. Slices with a lesion stay unchanged.

    The lesion lies whole inside the picture, on ground similar to its own: a lung nodule in lung. Mean grey over the lesion's extent ranks
    the places, and one of the best `LIKE_GROUND` is taken. A donor's lesion keeps its texture and gets a new level. A shape gets the
    mean grey and the grain of the donor's lesion. All slices of an image get their part at the same place. Nothing is pasted without a
    whole lesion in the batch, or with a contrast below `LEAST_CONTRAST`.

    Parameters
    ----------
    images, masks : (count, slices, height, width)
    donors : images and masks of the whole batch, from which lesions are taken; default: `images` and `masks`
    """
    from_images, from_masks = donors or (images, masks)
    out, marked = images.clone(), masks.clone()
    sources = torch.nonzero(whole_lesions(from_masks)).flatten()
    gets = paste.wanted & ~masks.flatten(1).any(1)
    for k in torch.nonzero(gets).flatten().tolist() if len(sources) else []:
        source = int(sources[int(paste.donor[k] * len(sources))])
        lesion, texture = from_masks[source], from_images[source]
        if paste.shape is not None and paste.shape[k].any():
            lesion = paste.shape[k]
            mean, sd = core_grey(texture, from_masks[source])
            texture = mean + sd * (torch.zeros_like(texture) if paste.texture is None else paste.texture[k])
        middle = len(lesion) // 2
        ground = float(surroundings(from_images[source][None], from_masks[source][None])[0, middle])
        shift = _place(images[k, middle], lesion.amax(0), ground, float(paste.place[k]))
        if shift is None:
            continue
        lesion, texture = (torch.roll(x, shift, (1, 2)) for x in (lesion, texture))
        held = lesion > 0
        if abs(float((texture[held] + paste.level[k]).mean() - images[k][held].mean())) < LEAST_CONTRAST:
            continue
        blend = smooth(lesion[None], paste.soft_px[k : k + 1])[0]
        out[k] = images[k] + blend * (texture + paste.level[k] - images[k])
        marked[k] = lesion
    return out, marked


def core_grey(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of a lesion's grey and standard deviation of its grain, in its core if it has one.

    Parameters
    ----------
    image, mask : (slices, height, width); the mask is not empty
    """
    sd_px = torch.tensor([CORE_PX])
    core = (smooth(mask[None], sd_px)[0] > CORE_SHARE) & (mask > 0)
    inside = core if core.any() else mask > 0
    detail = image - smooth(image[None], sd_px)[0]
    return image[inside].mean(), detail[inside].std(correction=0)


def _place(image: Tensor, lesion: Tensor, ground: float, place: float) -> tuple[int, int] | None:
    """Shift of a lesion (height, width) to a place inside the image on similar ground; None without room for it."""
    rows, columns = torch.nonzero(lesion.any(1)).flatten(), torch.nonzero(lesion.any(0)).flatten()
    if not len(rows):
        return None
    top, left = int(rows[0]), int(columns[0])
    height, width = int(rows[-1]) - top + 1, int(columns[-1]) - left + 1
    if height > image.shape[0] or width > image.shape[1]:
        return None
    means = F.avg_pool2d(image[None, None], (height, width), stride=1)[0, 0]
    order = torch.sort((means - ground).abs().flatten(), stable=True).indices
    chosen = int(order[int(place * max(LIKE_GROUND * len(order), 1))])
    return chosen // means.shape[1] - top, chosen % means.shape[1] - left
