"""What augmentation does to a batch: each transform a function of images, masks and its parameters, without any chance.

Images are float32 of shape (count, slices, height, width), the window brought to [0, 1]; masks have that shape and are 0 or 1. What a
transform needs of each image is a tensor of shape (count,).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from segnet.errors import InputError

AGENT_EDGE_HU = 25.0
"""Of the logistic ends of the band that takes up contrast agent: within so much of an end it takes up 27 to 73 %."""
AGENT_EDGE_PX = 1.0
"""Over which the lesion's own uptake passes into that of the tissue: a standard deviation."""
RING_PX = 4
"""How far what surrounds a lesion reaches."""
CORE_PX, CORE_SHARE = 2.0, 0.9
"""The core of a lesion is where its mask, blurred by so much, is above that; grain is what such a blur takes away."""
LEAST_CONTRAST = 0.02
"""Difference of its mean grey to what it covers below which a lesion is not pasted: a mask of what cannot be seen teaches nothing."""
LIKE_GROUND = 0.1
"""Share of the places for a pasted lesion that count as like the ground it comes from."""


def each(values: Tensor) -> Tensor:
    """(count,) to (count, 1, 1, 1)."""
    return values[:, None, None, None]


def sampling_grid(
    angle_rad: Tensor, scale: Tensor, flip: Tensor, size_px: int, displacement_px: Tensor | None = None
) -> Tensor:
    """Where each pixel of the result lies in what it is taken from: (count, size, size, 2) as `grid_sample` wants it.

    Displacement first, then flip, scale and turn, in one map.

    Parameters
    ----------
    angle_rad, scale, flip : (count,); turn, side of what is shown as a multiple of the source's side, and -1 (left is right) or 1
    size_px : side of the result
    displacement_px : (count, 2, size, size), along x and y, in pixels of the result; None is none
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
    """Images by linear interpolation, masks by nearest neighbour, black and no lesion beyond the edge. All slices alike."""
    return (
        F.grid_sample(images, grid, mode="bilinear", align_corners=False),
        F.grid_sample(masks, grid, mode="nearest", align_corners=False),
    )


def elastic_displacement(controls: Tensor, size_px: int, spacing_px: float) -> Tensor:
    """A smooth displacement field from its values at control points: a uniform cubic B-spline along each axis.

    With controls of at most m along each axis the field stays within m, and its slopes within 1.5 m / spacing. Where m is less than a
    third of the spacing the two slopes of each component sum to less than 1, so that nothing folds.

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
        There are more or fewer control points.
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
    """Control points along an axis: one before its begin and two beyond its end, so that the spline is whole everywhere."""
    return math.ceil(size_px / spacing_px) + 3


def smooth(images: Tensor, sd_px: Tensor) -> Tensor:
    """Gaussian blur, by image; at the edges the weights within are brought to a sum of 1. 0 leaves an image alone.

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
    """Down to pixels `factor` times larger, with the antialiasing that takes, and back by cubic interpolation.

    Parameters
    ----------
    images : (count, slices, height, width)
    factor : (count,), at least 1; 1 leaves an image alone
    """
    out = images.clone()
    size = (images.shape[2], images.shape[3])
    for k in torch.nonzero(factor > 1).flatten().tolist():
        small = [max(round(side / float(factor[k])), 1) for side in size]
        coarse = F.interpolate(images[k : k + 1], small, mode="bilinear", antialias=True)
        out[k] = F.interpolate(coarse, size, mode="bicubic", align_corners=False)[0]
    return out


def surroundings(images: Tensor, masks: Tensor) -> Tensor:
    """Mean grey of what lies around the lesion of each slice, (count, slices, 1, 1); 0 without one."""
    side = 2 * RING_PX + 1
    rows = F.max_pool2d(masks, (side, 1), stride=1, padding=(RING_PX, 0))
    ring = F.max_pool2d(rows, (1, side), stride=1, padding=(0, RING_PX)) - masks
    return (images * ring).sum((2, 3), keepdim=True) / ring.sum((2, 3), keepdim=True).clamp(min=1)


def fade(images: Tensor, masks: Tensor, kept: Tensor) -> Tensor:
    """Lesions faded towards what surrounds them, as if they were faint ones: what is `kept` of the difference, by image.

    Parameters
    ----------
    images, masks : (count, slices, height, width); each slice by itself
    kept : (count,) in [0, 1]; 1 leaves an image alone
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
    """Soft tissue and lesion raised or lowered, each by its own, as if more or less contrast medium had been given.

    Iodine adds to the HU of what takes it up, in proportion to its concentration. What takes it up is taken to be what lies in a band of
    HU, with soft ends so that partial volumes take up a part:

        h' = h + w(h) (d_tissue + s (d_lesion - d_tissue)),  w(h) = sigma((h - low) / e) sigma((high - h) / e)

    s is the mask with a soft edge, e `AGENT_EDGE_HU`. Air and fat lie below the band, bone above it. As long as a shift is less than
    4 e, dark tissue never becomes brighter than tissue that was brighter.

    Parameters
    ----------
    images, masks : (count, slices, height, width)
    tissue_hu, lesion_hu : (count,); 0 leaves it alone
    window_hu : HU of 0 and 1
    band_hu : what takes it up

    Source: the model is our own. That segmentation gains from training on other contrast phases than those scanned is shown by
    Sandfort et al., Scientific Reports 9:16884 (2019), who make them with a CycleGAN.
    """
    span = window_hu[1] - window_hu[0]
    hu = images * span + window_hu[0]
    takes = torch.sigmoid((hu - band_hu[0]) / AGENT_EDGE_HU) * torch.sigmoid((band_hu[1] - hu) / AGENT_EDGE_HU)
    inside = smooth(masks, torch.full((len(masks),), AGENT_EDGE_PX))
    shift = each(tissue_hu) + inside * each(lesion_hu - tissue_hu)
    return images + takes * shift / span


def grey(images: Tensor, gamma: Tensor, contrast: Tensor, brightness: Tensor) -> Tensor:
    """contrast x^gamma + brightness, of images clipped to [0, 1]; the result is not."""
    return images.clamp(0, 1) ** each(gamma) * each(contrast) + each(brightness)


@dataclass(frozen=True)
class Paste:
    """What is pasted where.

    Attributes
    ----------
    wanted : (count,) bool; whether an image gets a lesion if it has none
    donor : (count,) in [0, 1); which of the batch's `whole_lesions` it gets
    place : (count,) in [0, 1); which of the places that are like the lesion's ground
    level : (count,) what the pasted lesion is brighter by
    soft_px : (count,) standard deviation of its edge
    shape : (count, slices, height, width) of 0 and 1; where it is not empty it is pasted instead of the donor's lesion, with the grey of that
    texture : the same shape, of mean 0 and standard deviation 1 in the main; the grain of such a shape
    """

    wanted: Tensor
    donor: Tensor
    place: Tensor
    level: Tensor
    soft_px: Tensor
    shape: Tensor | None = None
    texture: Tensor | None = None


def whole_lesions(masks: Tensor) -> Tensor:
    """(count,) bool: whether the middle slice holds a lesion, and no slice cuts it off at the edge."""
    edge = torch.ones(masks.shape[2:], dtype=torch.bool)
    edge[1:-1, 1:-1] = False
    return (masks[:, masks.shape[1] // 2] > 0).flatten(1).any(1) & ~(masks[..., edge] > 0).flatten(1).any(1)


def paste_lesions(
    images: Tensor, masks: Tensor, paste: Paste, donors: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Lesions blended into slices without one. Slices that hold one already stay as they are.

    A lesion comes to lie whole inside the picture, at one of the tenth of the places whose mean grey over the lesion's extent is most like
    that around it where it comes from: a lung nodule in lung. A donor's lesion keeps its texture and gets a new level; a shape gets the
    mean grey and the grain of the donor's lesion. A batch without a whole lesion stays as it is, and so does an image where
    the lesion would differ from what it covers by less than `LEAST_CONTRAST`. All slices of an image get their part of it
    at the same place.
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
    """Mean of a lesion's grey and standard deviation of its grain, away from its edge where it is thick enough for that.

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
    """By how much to move a lesion (height, width) so that it lies whole in the image, on ground like its own; None where it has no room."""
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
