"""From image files to mask files: one file or a folder, with a preview and the lesion's measurements beside each mask."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from segnet.config import Config, DataConfig
from segnet.dataset.routes import PAPER_SIDE_PX, grey_slices, paper_point, resized_back
from segnet.errors import InputError
from segnet.io.boxes import Box, common, is_empty, widened, within
from segnet.io.names import ENDINGS, nfc, role_of, stem_of
from segnet.io.nifti import write_like, write_mask
from segnet.io.padding import constant_border
from segnet.io.pairs import NoPairs, find_pairs, image_case, volumes_in
from segnet.io.volumes import Volume, is_dicom_series, read_image
from segnet.metrics import recist_axes_mm, volume_ml
from segnet.prediction.clicks import Click, ClickSpace, click_index
from segnet.prediction.lesions import Lesion, lesions_of
from segnet.prediction.precision import BFloat16Difference, segment_in_bfloat16
from segnet.prediction.voi import ULS23_VOI, VoiSize, around
from segnet.prediction.windows import keep_clicked, segment

Networks = nn.Module | Sequence[nn.Module]
Precision = Literal["float32", "bfloat16"]
Progress = Callable[[int, int], None]
Preview = Callable[[Path, Volume, NDArray[np.bool_], tuple[float, float]], None]
"""Draws a mask (Z, Y, X) over its image into a PNG file; the last argument is the CT window in HU."""
MASK_ENDINGS = (".nii.gz", ".nii")
THRESHOLD = 0.5
"""Of the lesion probability."""
NOTHING = "no voxel is above the threshold: the mask is empty"
CUT = "the mask reaches the edge of the network's field of view around the click, and may go on beyond it"
BOXED = "the mask reaches the edge of the volume of interest, and may go on beyond it: enlarge it"
MISSED = "the network found nothing at the click: the component nearest to it was kept"
CONSTANT = "the volume holds a single value where a lesion was looked for: the mask is empty"


def images_in(source: Path, cases: Sequence[str] | None = None) -> dict[str, Path]:
    """Images by case: of one file or DICOM series, of a folder of image and mask pairs, or of a folder of images.

    Parameters
    ----------
    source : a file; a folder with one DICOM series; or a folder of files and DICOM series. Masks are left out: those of
        pairs (`segnet.io.pairs`), and files whose name says so (`segnet.io.names`). An image needs no mask
    cases : limit to these

    Raises
    ------
    InputError
        There is no image, none of a case asked for, two of one case, or a file beside pairs that may be an image.
    """
    if not source.exists():
        raise InputError(f"input: expected an image or a folder of images, got {source}; check the path")
    if is_one_image(source):
        found = {stem_of(source): source}
    else:
        try:
            found = _images_of_pairs(source)
        except NoPairs:
            found = _visible_images(source)
    if not found:
        masks = [path.name for path in volumes_in(source)]
        got, remedy = (
            (f"only {masks[0]}, a mask by its name", "rename it, or name the file itself")
            if masks
            else ("none", "check the folder")
        )
        raise InputError(
            f"input {source}: expected at least one file ending in {', '.join(ENDINGS)} or DICOM series, got {got}; {remedy}"
        )
    wanted = sorted(found) if cases is None else sorted(map(nfc, cases))
    missing = [case for case in wanted if case not in found]
    if missing:
        raise InputError(
            f"input {source}: expected an image of case {missing[0]}, got none; check the folder or the part"
        )
    return {case: found[case] for case in wanted}


def is_one_image(source: Path) -> bool:
    """Whether a path is one image: a file, or a folder with one DICOM series."""
    return source.is_file() or (source.is_dir() and is_dicom_series(source))


def _images_of_pairs(folder: Path) -> dict[str, Path]:
    pairs = find_pairs(folder)
    known = {path for pair in pairs for path in (pair.image, pair.mask)} | set(pairs.unpaired_images)
    for path in volumes_in(folder):
        if path not in known and role_of(path) != "mask":
            raise InputError(
                f"input {folder}: expected images and masks in one layout, got {path.name} beside them; move it, or name it as they are"
            )
    named = [(pair.case, pair.image) for pair in pairs] + [(image_case(path), path) for path in pairs.unpaired_images]
    return _one_for_each_case(folder, named)


def _visible_images(folder: Path) -> dict[str, Path]:
    return _one_for_each_case(folder, [(stem_of(path), path) for path in volumes_in(folder) if role_of(path) != "mask"])


def _one_for_each_case(folder: Path, named: Sequence[tuple[str, Path]]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for case, path in named:
        if case in found:
            raise InputError(
                f"input {folder}: expected one image for each case, got {found[case]} and {path}; rename one, or take their folders one by one"
            )
        found[case] = path
    return found


@dataclass(frozen=True, eq=False)
class Segmentation:
    """What was found in one volume, in memory.

    Attributes
    ----------
    mask_zyx : bool
    probability_zyx : of lesion, float32
    uncertainty_zyx : standard deviation of the probability over members and views, float32, where it was asked for
    voi_zyx : the box that was segmented, counted in voxels of the volume; outside it all three are 0
    precision : what the mask was found in
    bfloat16_difference : where bfloat16 was asked for: how far it lay from float32
    warnings : what to know before the mask is used
    """

    mask_zyx: NDArray[np.bool_]
    probability_zyx: NDArray[np.float32]
    uncertainty_zyx: NDArray[np.float32] | None
    voi_zyx: Box
    precision: Precision
    bfloat16_difference: BFloat16Difference | None
    warnings: tuple[str, ...] = ()


def require_several(model: Networks, tta: bool) -> None:
    """Raises InputError where there is one network and one view of a slice, which deviate from nothing."""
    if not tta and (isinstance(model, nn.Module) or len(model) < 2):
        raise InputError(
            "uncertainty: expected several members or views to deviate from their mean, got one network and one view;"
            " name more models or add --tta"
        )


def predict_array(
    image_zyx: NDArray[Any],
    model: Networks,
    config: Config,
    *,
    spacing_zyx_mm: tuple[float, float, float],
    click_zyx: tuple[int, int, int] | None = None,
    voi: VoiSize = ULS23_VOI,
    skip_padding: bool = False,
    half: Networks = (),
    tta: bool = False,
    threshold: float = THRESHOLD,
    uncertainty: bool = False,
    progress: Progress | None = None,
) -> Segmentation:
    """Segments a volume in memory.

    Parameters
    ----------
    image_zyx : (Z, Y, X) in HU, axes running superior, anterior and right as networks are trained on
        (`Volume.array_zyx` of what `segnet.io.volumes.read_image` reads)
    model : one network, or the members of an ensemble, as `segnet.prediction.ensemble.load` gives them with their `config`
    spacing_zyx_mm : lengths of a voxel; the component nearest to a click is chosen in mm
    click_zyx : voxel in the lesion: the field of view is centred on it and the component at it is kept, or the one nearest to
        it in mm
    voi : with a click, only this part of the volume around it is segmented, and neither time nor memory goes to the rest
    skip_padding : a constant border (`segnet.io.padding`) is not shown to the network, as if the volume ended there
    half : the same networks in bfloat16, used where a check on this volume finds a difference that is tolerable
        (`segnet.prediction.precision`)
    tta : mean over eight views (test-time augmentation)
    threshold : of the lesion probability
    uncertainty : also the standard deviation of the probability over members and views

    Raises
    ------
    InputError
        Uncertainty was asked of one network and one view.

    Examples
    --------
    >>> from segnet.models import build
    >>> config = Config.model_validate({"model": {"name": "unet", "base_width": 4}, "data": {"patch_px": 32, "input_px": 32}})
    >>> ct = np.random.default_rng(0).normal(-700, 50, (12, 40, 48)).astype(np.float32)
    >>> found = predict_array(
    ...     ct, build(config.model).eval(), config, spacing_zyx_mm=(2.5, 0.8, 0.8), click_zyx=(6, 20, 24), voi=VoiSize((4, 32, 32))
    ... )
    >>> found.mask_zyx.shape, found.probability_zyx.dtype, found.precision
    ((12, 40, 48), dtype('float32'), 'float32')
    >>> found.voi_zyx
    (slice(4, 8, None), slice(4, 36, None), slice(8, 40, None))
    """
    if uncertainty:
        require_several(model, tta)
    shape = image_zyx.shape
    whole: Box = (slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2]))
    content = constant_border(image_zyx) if skip_padding else whole
    if config.data.route == "paper" and not is_empty(
        content
    ):  # the whole of a slice is resized, as it was for training
        content = (content[0], *whole[1:])
    box = content
    if click_zyx is not None:
        box = common(around(click_zyx, voi.voxels_zyx(spacing_zyx_mm), shape), content)
    mask = np.zeros(shape, np.bool_)
    probability = np.zeros(shape, np.float32)
    deviation = np.zeros(shape, np.float32) if uncertainty else None
    if is_empty(box):
        return Segmentation(mask, probability, deviation, box, "float32", None, (CONSTANT,))
    # what the network is shown reaches beyond the box: neighbouring slices, and the field of view where it is the larger
    reach = config.data.patch_px if click_zyx is not None else 0
    seen = common(widened(box, (config.model.in_channels // 2, reach, reach), shape), content)
    if config.data.route == "paper":  # each slice has the scale of its whole self
        seen = (seen[0], *content[1:])
    inner = within(box, seen)
    click = None if click_zyx is None else _less(click_zyx, seen)
    image = image_zyx[seen]
    if config.data.route == "paper":
        click = None if click is None else paper_point(click, image.shape)
        image = grey_slices(image)
    seen_deviation = np.zeros(image.shape, np.float32) if uncertainty else None
    options: dict[str, Any] = {
        "click_zyx": click,
        "slices": config.model.in_channels,
        "tta": tta,
        "at": range(inner[0].start, inner[0].stop),
        "deviation": seen_deviation,
        "progress": progress,
    }
    difference = None
    if isinstance(half, nn.Module) or half:
        found, difference = segment_in_bfloat16(model, half, image, config.data, threshold=threshold, **options)
    else:
        found = segment(model, image, config.data, **options)
    if config.data.route == "paper":
        side_yx = (seen[1].stop - seen[1].start, seen[2].stop - seen[2].start)
        found = resized_back(found, side_yx)
        seen_deviation = None if seen_deviation is None else resized_back(seen_deviation, side_yx)
    lesion: NDArray[np.bool_] = found[inner] > threshold
    warnings = [] if lesion.any() else [NOTHING]
    if click_zyx is not None:
        lesion = keep_clicked(lesion, _less(click_zyx, box), spacing_zyx_mm)
        if lesion.any() and not _holds(lesion, _less(click_zyx, box)):
            warnings.append(MISSED)
        if _is_cut(lesion, _field_of_view(config.data, _less(click_zyx, box)[1:], seen)):
            warnings.append(CUT)
        if _is_boxed(lesion, box, content):
            warnings.append(BOXED)
    mask[box], probability[box] = lesion, found[inner]
    if deviation is not None and seen_deviation is not None:
        deviation[box] = seen_deviation[inner]
    precision: Precision = "bfloat16" if difference is not None and difference.tolerable else "float32"
    return Segmentation(mask, probability, deviation, box, precision, difference, tuple(warnings))


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


def _holds(mask: NDArray[np.bool_], point_zyx: tuple[int, int, int]) -> bool:
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


def _less(point_zyx: tuple[int, int, int], box: Box) -> tuple[int, int, int]:
    """A voxel as it is counted from the corner of a box."""
    z, y, x = (at - part.start for at, part in zip(point_zyx, box, strict=True))
    return z, y, x


@dataclass(frozen=True)
class Files:
    """Where what was found in one image goes; None is not written."""

    mask: Path
    preview: Path | None = None
    probabilities: Path | None = None
    uncertainty: Path | None = None

    def each(self) -> dict[str, Path]:
        """What is written, by name, in the order it is written in."""
        named = {
            "probabilities": self.probabilities,
            "uncertainty": self.uncertainty,
            "preview": self.preview,
            "mask": self.mask,
        }
        return {name: path for name, path in named.items() if path is not None}


@dataclass(frozen=True)
class Prediction:
    """What was written for one image, the size of what was found, and the precision it was found in.

    Attributes
    ----------
    image, mask, preview, probabilities, uncertainty : paths
    lesion_voxels, volume_ml, long_axis_mm, short_axis_mm : of the whole mask
    lesions : measurements of each lesion
    click_zyx : as voxel of the canonical array (RAS), None without a click
    voi_zyx : first voxel and shape of the box that was segmented, in the same order
    field_of_view_px : side of the square that the network sees of a slice
    warnings : what to know before the mask is used
    bfloat16_difference : where bfloat16 was asked for: how far it lay from float32; `precision` says which of them the mask is of
    """

    image: str
    mask: str
    preview: str | None
    probabilities: str | None
    uncertainty: str | None
    lesion_voxels: int
    volume_ml: float
    long_axis_mm: float
    short_axis_mm: float
    lesions: tuple[Lesion, ...]
    click_zyx: tuple[int, int, int] | None
    voi_zyx: dict[str, tuple[int, ...]]
    field_of_view_px: int
    warnings: tuple[str, ...]
    elapsed_s: float
    precision: Precision
    bfloat16_difference: BFloat16Difference | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "lesions": [lesion.as_dict() for lesion in self.lesions]}


def predict_volume(
    volume: Volume,
    model: Networks,
    config: Config,
    *,
    click: Click = None,
    click_space: ClickSpace = "voxel",
    **options: Any,
) -> tuple[Segmentation, tuple[int, int, int] | None]:
    """Segments a volume that was read from a file.

    Parameters
    ----------
    click, click_space : as `segnet.prediction.clicks.click_index` reads them
    model, config, options : as in `predict_array`

    Returns
    -------
    What was found, and the click as (z, y, x).

    Raises
    ------
    InputError
        The click lies outside the image, or uncertainty is asked of one network and one view.
    """
    at = click_index(click, click_space, volume)
    found = predict_array(
        volume.array_zyx, model, config, spacing_zyx_mm=volume.spacing_zyx_mm, click_zyx=at, **options
    )
    return found, at


def write_found(
    volume: Volume, found: Segmentation, files: Files, *, window_hu: tuple[float, float], draw: Preview | None = None
) -> None:
    """Writes what was found in the image's own shape, orientation, affine and header; the mask last.

    `draw` makes the preview; without it there is none.

    Raises
    ------
    InputError
        A file cannot be written, or uncertainty is to be written that was not asked for.
    """
    if files.probabilities is not None:
        write_like(files.probabilities, found.probability_zyx.transpose(2, 1, 0), volume, np.float32)
    if files.uncertainty is not None:
        if found.uncertainty_zyx is None:
            raise InputError("uncertainty: expected a segmentation with uncertainty, got one without; ask for it")
        write_like(files.uncertainty, found.uncertainty_zyx.transpose(2, 1, 0), volume, np.float32)
    if files.preview is not None and draw is not None:
        draw(files.preview, volume, found.mask_zyx, window_hu)
    write_mask(files.mask, found.mask_zyx.transpose(2, 1, 0).astype(np.uint8), volume)


def described(
    volume: Volume,
    found: Segmentation,
    files: Files,
    *,
    click_zyx: tuple[int, int, int] | None,
    lesion: int | None,
    config: Config,
    elapsed_s: float,
) -> Prediction:
    """What is told of a segmentation; `lesion` is the number of the one that was clicked."""
    box, spacing = found.voi_zyx, volume.spacing_zyx_mm
    mask = found.mask_zyx[box]
    corner_zyx = [part.start for part in box]
    number = None if click_zyx is None else lesion or 1
    lesions = lesions_of(volume, found.mask_zyx, found.probability_zyx, box, number=number)
    long_mm, short_mm = recist_axes_mm(mask, spacing)
    return Prediction(
        str(volume.path),
        str(files.mask),
        _text(files.preview),
        _text(files.probabilities),
        _text(files.uncertainty),
        int(mask.sum()),
        volume_ml(mask, spacing),
        long_mm,
        short_mm,
        tuple(lesions),
        click_zyx,
        {"start": tuple(corner_zyx), "shape": mask.shape},
        config.data.patch_px,
        found.warnings,
        elapsed_s,
        found.precision,
        found.bfloat16_difference,
    )


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def predict_file(
    image: Path,
    mask: Path,
    model: Networks,
    config: Config,
    *,
    click: Click = None,
    click_space: ClickSpace = "voxel",
    probabilities: Path | None = None,
    uncertainty: Path | None = None,
    **options: Any,
) -> Prediction:
    """Segments one image and writes its mask in the image's own shape, orientation, affine and header.

    Parameters
    ----------
    image : in any format that is read here; a folder that is one DICOM series
    mask : to write, .nii or .nii.gz
    click : a point in the lesion: the field of view is centred on it and the component at it is kept
    probabilities, uncertainty : also write float32 NIfTI of the probability and of its standard deviation
    model, config, options : as in `predict_array`

    Raises
    ------
    InputError
        The image cannot be read, the click lies outside it, or uncertainty is asked of one network and one view; nothing is
        written then.
    """
    began = time.monotonic()
    files = Files(mask, None, probabilities, uncertainty)
    for name, path in files.each().items():
        if not path.name.endswith(MASK_ENDINGS):
            raise InputError(f"{name}: expected a name ending in .nii or .nii.gz, got {path}; add the ending")
    volume = read_image(image)
    found, at = predict_volume(
        volume,
        model,
        config,
        click=click,
        click_space=click_space,
        uncertainty=uncertainty is not None,
        **options,
    )
    write_found(volume, found, files, window_hu=config.data.window_hu)
    return described(volume, found, files, click_zyx=at, lesion=None, config=config, elapsed_s=time.monotonic() - began)
