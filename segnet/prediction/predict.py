"""From a volume in memory to a mask with its measurements. Nothing is written here but by `Prediction.save`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from segnet.config import DataConfig
from segnet.dataset.routes import PAPER_SIDE_PX, grey_slices, paper_point, resized_back
from segnet.errors import InputError
from segnet.io.boxes import Box, common, constant_border, is_empty, widened, within
from segnet.io.nifti import write_like, write_mask
from segnet.io.volumes import Volume
from segnet.metrics import LesionStatistics, lesion_statistics
from segnet.prediction.clicked import Looks, Run, runner, segment_clicked, segment_everywhere
from segnet.prediction.lesions import Lesion, lesions_of
from segnet.prediction.options import MASK_ENDINGS, Options, Progress, around
from segnet.prediction.precision import BFloat16Difference, segment_in_bfloat16
from segnet.prediction.sites import site_warnings
from segnet.prediction.windows import VIEWS, keep_clicked, segment

if TYPE_CHECKING:
    from torch import Tensor

    from segnet.prediction.model import Model

Voxel = tuple[int, int, int]
NOTHING = "no voxel is above the threshold: the mask is empty"
CUT = "the mask reaches the edge of the network's field of view around the click, and may go on beyond it"
BOXED = "the mask reaches the edge of the volume of interest, and may go on beyond it: enlarge it"
MISSED = "the network found nothing at the click: the component nearest to it was kept"
CONSTANT = "the volume holds a single value where a lesion was looked for: the mask is empty"


@dataclass(frozen=True, eq=False)
class Prediction:
    """A mask on the grid of its image, with its measurements.

    All arrays are (Z, Y, X) with axes to superior, anterior and right, like `volume.array_zyx`.

    Attributes
    ----------
    volume : the image
    mask : bool
    probability : of lesion, float32
    uncertainty : standard deviation of the probability over networks and views, float32; None unless it was asked for
    voi_zyx : the box that was segmented, in voxels; outside it all arrays are 0
    click_zyx : voxel of the click, None without one
    lesion : number of the clicked lesion
    window_hu : the network's CT window
    field_of_view_px : side of the square that the network sees of a slice; None where the image decided it
    field_of_view_mm : the side that the image decided, for a network that was told the click; else None
    precision : of the mask
    bfloat16_difference : from float32, where bfloat16 was asked for
    warnings : read them before the mask is used
    """

    volume: Volume
    mask: NDArray[np.bool_]
    probability: NDArray[np.float32]
    uncertainty: NDArray[np.float32] | None
    voi_zyx: Box
    click_zyx: Voxel | None
    lesion: int
    window_hu: tuple[float, float]
    field_of_view_px: int | None
    field_of_view_mm: float | None
    bfloat16_difference: BFloat16Difference | None
    warnings: tuple[str, ...]

    @property
    def precision(self) -> Literal["float32", "bfloat16"]:
        difference = self.bfloat16_difference
        return "bfloat16" if difference is not None and difference.tolerable else "float32"

    @cached_property
    def lesions(self) -> list[Lesion]:
        """Volume (ml), RECIST axes (mm), HU and place of each lesion, the largest first; with a click of the clicked one alone."""
        number = None if self.click_zyx is None else self.lesion
        return lesions_of(self.volume, self.mask, self.probability, self.voi_zyx, number=number)

    @cached_property
    def whole(self) -> LesionStatistics:
        """Size of the whole mask, without HU. Its axes are in voxels of the box that was segmented."""
        return lesion_statistics(None, self.mask[self.voi_zyx], self.volume.spacing_zyx_mm)

    def as_dict(self) -> dict[str, Any]:
        """The measurements as plain values for JSON."""
        whole = self.whole
        return {
            "lesion_voxels": whole.voxels,
            "volume_ml": whole.volume_ml,
            "long_axis_mm": whole.long_axis_mm,
            "short_axis_mm": whole.short_axis_mm,
            "lesions": [lesion.as_dict() for lesion in self.lesions],
            "click_zyx": self.click_zyx,
            "voi_zyx": {
                "start": [part.start for part in self.voi_zyx],
                "shape": [part.stop - part.start for part in self.voi_zyx],
            },
            "field_of_view_px": self.field_of_view_px,
            "field_of_view_mm": self.field_of_view_mm,
            "warnings": self.warnings,
            "precision": self.precision,
            "bfloat16_difference": None if self.bfloat16_difference is None else asdict(self.bfloat16_difference),
        }

    def save(
        self, mask: str | Path, *, probability: str | Path | None = None, uncertainty: str | Path | None = None
    ) -> None:
        """Writes NIfTI files in the image's own shape, orientation, affine and header; the mask last.

        Parameters
        ----------
        mask : file to write, .nii or .nii.gz
        probability, uncertainty : files for the maps, float32

        Raises
        ------
        InputError
            A name has another ending, a file cannot be written, or there is no uncertainty to write.
        """
        for name, path in (("probability", probability), ("uncertainty", uncertainty), ("mask", mask)):
            if path is not None and not str(path).endswith(MASK_ENDINGS):
                raise InputError(f"{name}: expected a name ending in .nii or .nii.gz, got {path}; add the ending")
        if probability is not None:
            write_like(probability, self.probability.transpose(2, 1, 0), self.volume, np.float32)
        if uncertainty is not None:
            if self.uncertainty is None:
                raise InputError(
                    "uncertainty: expected a prediction with uncertainty, got one without; predict with uncertainty=True"
                )
            write_like(uncertainty, self.uncertainty.transpose(2, 1, 0), self.volume, np.float32)
        write_mask(mask, self.mask.transpose(2, 1, 0).astype(np.uint8), self.volume)


def predict_volume(
    volume: Volume,
    model: Model,
    options: Options,
    *,
    click_zyx: Voxel | None = None,
    lesion: int = 1,
    progress: Progress | None = None,
    looks: Looks | None = None,
) -> Prediction:
    """Segments a volume.

    Parameters
    ----------
    volume : in HU
    click_zyx : voxel in the lesion. The field of view is centred on it; the component at it is kept, or the one nearest in mm
    lesion : number of the clicked lesion
    progress : called with the work done and all of it, before each pass of the networks; what it raises ends the segmentation
    looks : of earlier calls with this volume, model and click, and the same `options` but for the threshold

    Raises
    ------
    InputError
        Uncertainty was asked of one network and one view.
    """
    if options.uncertainty:
        require_several(model, options.tta)
    image, spacing, config = volume.array_zyx, volume.spacing_zyx_mm, model.config
    shape, paper = image.shape, config.data.route == "paper"
    mask, probability = np.zeros(shape, np.bool_), np.zeros(shape, np.float32)
    uncertainty = np.zeros(shape, np.float32) if options.uncertainty else None

    whole: Box = tuple(slice(0, length) for length in shape)
    content = constant_border(image) if options.skip_padding else whole
    if paper and not is_empty(content):  # the whole of a slice is resized, as for training
        content = (content[0], *whole[1:])
    box = content
    fields, voi = config.data.fields, options.voi_of(config.data)
    if click_zyx is not None and voi is not None:
        box = common(around(click_zyx, voi.voxels_zyx(spacing), shape), content)
    oddities = [*volume.warnings]
    if model.sites is not None:
        oddities += site_warnings(image, spacing, click_zyx, model.sites)
    prediction = Prediction(
        volume=volume,
        mask=mask,
        probability=probability,
        uncertainty=uncertainty,
        voi_zyx=box,
        click_zyx=click_zyx,
        lesion=lesion,
        window_hu=config.data.window_hu,
        field_of_view_px=config.data.patch_px if fields is None else None,
        field_of_view_mm=None,
        bfloat16_difference=None,
        warnings=tuple(oddities),
    )
    if is_empty(box):
        return replace(prediction, warnings=(*oddities, CONSTANT))
    if fields is not None and click_zyx is not None:
        return _clicked(prediction, model, options, click_zyx, content, looks, progress)
    # the network also sees neighbouring slices, and its field of view where that is larger than the box
    reach = config.data.patch_px if click_zyx is not None else 0
    seen = common(widened(box, (config.model.in_channels // 2, reach, reach), shape), content)
    if paper:  # each slice is scaled as a whole
        seen = (seen[0], *content[1:])
    inner = within(box, seen)
    click = None if click_zyx is None else _less(click_zyx, seen)
    found, deviation, difference = _segmented(image[seen], spacing, model, options, click, inner[0], progress)
    mask[box], probability[box] = found[inner] > options.threshold, found[inner]
    if uncertainty is not None and deviation is not None:
        uncertainty[box] = deviation[inner]
    warnings = oddities
    if not mask[box].any():
        warnings.append(NOTHING)
    if click_zyx is not None:
        at = _less(click_zyx, box)
        mask[box] = clicked = keep_clicked(mask[box], at, spacing)
        if clicked.any() and not _holds(clicked, at):
            warnings.append(MISSED)
        if _is_cut(clicked, _field_of_view(config.data, at[1:], seen)):
            warnings.append(CUT)
        if _is_boxed(clicked, box, content):
            warnings.append(BOXED)
    return replace(prediction, bfloat16_difference=difference, warnings=tuple(warnings))


def _clicked(
    prediction: Prediction,
    model: Model,
    options: Options,
    click_zyx: Voxel,
    content: Box,
    looks: Looks | None,
    progress: Progress | None,
) -> Prediction:
    """The lesion at a click by networks that are told the click, in the box of a prediction without one."""
    volume, seen = prediction.volume, prediction.voi_zyx
    views = VIEWS if options.tta else VIEWS[:1]
    passes, depth = 0, seen[0].stop - seen[0].start

    def told(run: Run) -> Run:
        """Slices so far, of all slices: few lesions need them all."""

        def counted(inputs: Tensor) -> Tensor:
            nonlocal passes
            passes += len(inputs)
            if progress is not None:
                progress(min(passes, depth), depth)
            return run(inputs)

        return counted

    found = segment_clicked(
        told(runner(model.networks, views)),
        volume.array_zyx[seen],
        volume.spacing_zyx_mm,
        model.config.data,
        _less(click_zyx, seen),
        threshold=options.threshold,
        in_bfloat16=told(runner(model.halves, views)) if model.halves else None,
        looks=looks,
    )
    box = tuple(slice(a.start + b.start, a.start + b.stop) for a, b in zip(seen, found.box, strict=True))
    prediction.mask[box], prediction.probability[box] = found.mask, found.probability
    if prediction.uncertainty is not None:
        prediction.uncertainty[box] = found.deviation
    warnings = [*prediction.warnings]
    if not found.mask.any():
        warnings.append(NOTHING)
    elif not prediction.mask[click_zyx]:
        warnings.append(MISSED)
    if found.cut:
        warnings.append(CUT)
    if _is_boxed(prediction.mask[seen], seen, content):
        warnings.append(BOXED)
    return replace(
        prediction,
        voi_zyx=box,
        field_of_view_mm=found.side_mm,
        bfloat16_difference=found.bfloat16_difference,
        warnings=tuple(warnings),
    )


def require_several(model: Model, tta: bool) -> None:
    """Raises InputError for one network and one view of a slice, which deviate from nothing."""
    if not tta and len(model) < 2:
        raise InputError(
            "uncertainty: expected several members or views to deviate from their mean, got one network and one view;"
            " name more models or add --tta"
        )


def _segmented(
    image: NDArray[Any],
    spacing: tuple[float, float, float],
    model: Model,
    options: Options,
    click: Voxel | None,
    slices: slice,
    progress: Progress | None,
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None, BFloat16Difference | None]:
    """Lesion probability of some slices of an image, its deviation, and how far bfloat16 lies from float32."""
    data, side_yx = model.config.data, image.shape[1:]
    if data.route == "paper":
        click = None if click is None else paper_point(click, image.shape)
        image = grey_slices(image)
    if data.fields is not None:
        views = VIEWS if options.tta else VIEWS[:1]
        return segment_everywhere(
            runner(model.networks, views),
            image,
            spacing,
            data,
            threshold=options.threshold,
            in_bfloat16=runner(model.halves, views) if model.halves else None,
            progress=progress,
        )
    deviation = np.zeros(image.shape, np.float32) if options.uncertainty else None
    more: dict[str, Any] = {
        "click_zyx": click,
        "slices": model.config.model.in_channels,
        "tta": options.tta,
        "at": range(slices.start, slices.stop),
        "deviation": deviation,
        "progress": progress,
    }
    difference = None
    if model.halves:
        found, difference = segment_in_bfloat16(
            model.networks, model.halves, image, data, threshold=options.threshold, **more
        )
    else:
        found = segment(model.networks, image, data, **more)
    if data.route == "paper":
        found = resized_back(found, side_yx)
        deviation = None if deviation is None else resized_back(deviation, side_yx)
    return found, deviation, difference


def _field_of_view(data: DataConfig, click_yx: tuple[int, int], seen: Box) -> tuple[tuple[int, int], tuple[int, int]]:
    """First and last pixel, down and across, of the field of view around a click in the same pixels; they may lie outside the image.

    By the route paper, pixels there are larger or smaller than the image's; then the pixels that are sure to be seen.
    """
    if data.route == "hu":
        first = [at - data.patch_px // 2 for at in click_yx]
        return (first[0], first[0] + data.patch_px - 1), (first[1], first[1] + data.patch_px - 1)
    edges = []
    for at, part in zip(click_yx, seen[1:], strict=True):
        step = (part.stop - part.start) / PAPER_SIDE_PX
        half = data.patch_px / 2 * step
        edges.append((math.ceil(at - half + step), math.floor(at + half - step)))
    return edges[0], edges[1]


def _holds(mask: NDArray[np.bool_], point_zyx: Voxel) -> bool:
    """Whether a voxel, which may lie outside, is in a mask."""
    inside = all(0 <= at < length for at, length in zip(point_zyx, mask.shape, strict=True))
    return inside and bool(mask[point_zyx])


def _is_cut(lesion: NDArray[np.bool_], field_of_view: Sequence[tuple[int, int]]) -> bool:
    """Whether a lesion of (Z, Y, X) reaches the edge of the field of view, down or across, and not only that of the volume."""
    for axis, (first, last) in enumerate(field_of_view, 1):
        held = np.flatnonzero(lesion.any(axis=tuple(k for k in range(3) if k != axis)))
        if held.size and ((first > 0 and held[0] <= first) or (last < lesion.shape[axis] - 1 and held[-1] >= last)):
            return True
    return False


def _is_boxed(lesion: NDArray[np.bool_], box: Box, content: Box) -> bool:
    """Whether a lesion within `box` reaches a face of it that is not one of `content` too."""
    for axis, (part, whole) in enumerate(zip(box, content, strict=True)):
        planes = np.moveaxis(lesion, axis, 0)
        if (part.start > whole.start and planes[0].any()) or (part.stop < whole.stop and planes[-1].any()):
            return True
    return False


def _less(point_zyx: Voxel, box: Box) -> Voxel:
    """A voxel counted from the corner of a box."""
    z, y, x = (at - part.start for at, part in zip(point_zyx, box, strict=True))
    return z, y, x
