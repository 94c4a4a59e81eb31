"""Trained networks that segment together: loaded, held to one another, and run on an image."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from segnet.config import FOLD_FOLDER, Config
from segnet.errors import InputError
from segnet.io.example import or_example
from segnet.io.volume import from_array
from segnet.io.volumes import Volume, read_image
from segnet.io.weights import FILE, PACKAGED, config_of, default_weights, read_metadata, release_of
from segnet.prediction.clicks import Click, ClickSpace, click_index
from segnet.prediction.options import THRESHOLD, Options, Progress, VoiSize

if TYPE_CHECKING:
    from torch import nn

    from segnet.models import Network
    from segnet.prediction.predict import Prediction
    from segnet.prediction.session import Session

Image: TypeAlias = "str | os.PathLike[str] | Volume | NDArray[Any]"
FOLDS = FOLD_FOLDER.format("*")
"""Folders of an ensemble's members within one folder."""
SHARED = (
    "data.route",
    "data.window_hu",
    "data.fields",
    "data.patch_px",
    "data.input_px",
    "model.in_channels",
    "model.classes",
)
"""Fields that members must agree in, because they are shown the same patches."""


class Model:
    """One trained network, or several whose probabilities are averaged. `load` makes it from checkpoints.

    Parameters
    ----------
    config : of the first network; the others agree in all that inference takes from it
    paths : of the checkpoints, which are read when the networks are first needed
    names : of the networks, as the registry knows them
    bfloat16 : segment in bfloat16 where a check on the image allows it (`segnet.prediction.precision`)
    sites : the lesions and places that the packaged weights were trained on; images of others get a warning (`segnet.prediction.sites`)
    """

    def __init__(
        self,
        config: Config,
        paths: Sequence[Path] = (),
        names: Sequence[str] = (),
        *,
        bfloat16: bool = False,
        sites: str | None = None,
    ) -> None:
        self.config, self.paths, self.names = config, tuple(paths), tuple(names)
        self.bfloat16, self.sites = bfloat16, sites

    @classmethod
    def of(
        cls,
        networks: nn.Module | Sequence[nn.Module],
        config: Config,
        *,
        halves: nn.Module | Sequence[nn.Module] = (),
        paths: Sequence[Path] = (),
    ) -> Model:
        """Networks in memory, used as they are.

        Parameters
        ----------
        networks : in evaluation mode
        config : how they were trained: window, field of view, input size, slices shown
        halves : the same networks in bfloat16
        paths : of their checkpoints, if there are any
        """
        several = [tuple(n) if isinstance(n, Sequence) else (n,) for n in (networks, halves)]
        model = cls(config, paths, [config.model.name] * len(several[0]), bfloat16=bool(several[1]))
        model.networks, model.halves = several
        return model

    def __len__(self) -> int:
        """The number of networks."""
        return len(self.paths) or len(self.networks)

    @cached_property
    def networks(self) -> tuple[nn.Module, ...]:
        """In float32, made fast for inference."""
        return self._read(bfloat16=False)

    @cached_property
    def halves(self) -> tuple[nn.Module, ...]:
        """The same in bfloat16, none unless asked for."""
        return self._read(bfloat16=True) if self.bfloat16 else ()

    def read(self) -> None:
        """Reads the checkpoints now rather than at the first image.

        Raises
        ------
        InputError
            One is damaged, or its weights are of another network than its configuration names.
        """
        _ = self.networks, self.halves

    def _read(self, *, bfloat16: bool) -> tuple[nn.Module, ...]:
        import torch

        from segnet.models import checkpoint
        from segnet.prediction.engine import optimise

        with torch.inference_mode(False):  # whoever asks first, the weights are the same kind of tensor
            loaded = (cast("Network", checkpoint.load(path)[0]) for path in self.paths)
            return tuple(optimise(network, bfloat16=bfloat16, in_place=True) for network in loaded)

    def predict(
        self,
        image: Image,
        *,
        click: Click = None,
        click_space: ClickSpace = "voxel",
        spacing_mm: Sequence[float] | None = None,
        voi: VoiSize | None = None,
        skip_padding: bool = False,
        tta: bool = False,
        threshold: float = THRESHOLD,
        uncertainty: bool = False,
        progress: Progress | None = None,
    ) -> Prediction:
        """Segments an image.

        Parameters
        ----------
        image : a file of any format that is read (`docs/formats.md`), the folder of one DICOM series, a `Volume`, or an array
            (Z, Y, X) in HU whose axes run to superior, anterior and right. "example" is the one of the package (`segnet.io.example`)
        click : a point in the lesion. The field of view is centred on it, and the component at it is kept, or the one nearest in mm.
            Voxel indices count from 0, in the order of the image's own axes: (x, y, z) of a file, (z, y, x) of an array.
            "centre" is the voxel at index size // 2
        click_space : "voxel", or mm in "ras" or "lps" for an image that lies in space
        spacing_mm : of an array, (z, y, x); other images have their own
        voi, skip_padding, tta, threshold, uncertainty : as in `segnet.prediction.options.Options`
        progress : called with network passes done and all of them

        Raises
        ------
        InputError
            The image cannot be read, is no volume or has no spacing; the click lies outside it; or uncertainty is asked of one
            network and one view.

        Examples
        --------
        >>> from segnet.models import build
        >>> config = Config.model_validate({"model": {"name": "unet", "base_width": 4}, "data": {"patch_px": 32, "input_px": 32}})
        >>> model = Model.of(build(config.model).eval(), config)
        >>> ct = np.random.default_rng(0).normal(-700, 50, (12, 40, 48)).astype(np.float32)
        >>> found = model.predict(ct, spacing_mm=(2.5, 0.8, 0.8), click=(6, 20, 24), voi=VoiSize((4, 32, 32)))
        >>> found.mask.shape, found.probability.dtype, len(found.lesions)
        ((12, 40, 48), dtype('float32'), 1)
        >>> found.voi_zyx
        (slice(4, 8, None), slice(4, 36, None), slice(8, 40, None))
        """
        from segnet.prediction.predict import predict_volume

        volume = volume_of(image, spacing_mm)
        at = voxel_of(click, click_space, volume, reversed_clicks=isinstance(image, np.ndarray))
        options = Options(voi, skip_padding, tta, threshold, uncertainty)
        return predict_volume(volume, self, options, click_zyx=at, progress=progress)

    def open(self, image: Image, *, spacing_mm: Sequence[float] | None = None) -> Session:
        """Reads an image once, for many clicks: ``model.open("scan.nii.gz").click((128, 130, 64))``.

        Parameters
        ----------
        image, spacing_mm : as in `predict`

        Raises
        ------
        InputError
            The image cannot be read, is no volume or has no spacing.
        """
        from segnet.prediction.session import Session

        return Session(self, volume_of(image, spacing_mm), reversed_clicks=isinstance(image, np.ndarray))


def volume_of(image: Image, spacing_mm: Sequence[float] | None) -> Volume:
    """An image as a volume; InputError where it cannot be read, or where its spacing is missing or given twice."""
    if isinstance(image, np.ndarray):
        if spacing_mm is None:
            raise InputError(
                "spacing_mm: expected three lengths for an array, got None; pass spacing_mm=(z, y, x) in mm"
            )
        return from_array(image, spacing_mm)
    if spacing_mm is not None:
        raise InputError(f"spacing_mm: expected none for an image with its own, got {spacing_mm}; leave it out")
    return image if isinstance(image, Volume) else read_image(or_example(Path(image)))


def voxel_of(
    click: Click, space: ClickSpace, volume: Volume, *, reversed_clicks: bool = False
) -> tuple[int, int, int] | None:
    """The click as (z, y, x) of the canonical array.

    Parameters
    ----------
    reversed_clicks : the image was an array, whose clicks are (z, y, x)

    Raises
    ------
    InputError
        The click lies outside the image, or is in mm in an array, which lies nowhere in space.
    """
    if reversed_clicks and click is not None and click != "centre":
        if space != "voxel":
            raise InputError(f"click_space: expected voxel for an array, got {space}; give voxel indices (z, y, x)")
        z, y, x = click
        click = x, y, z
    return click_index(click, space, volume)


def members(path: Path) -> list[Path]:
    """A checkpoint or a run's folder as it is; of a folder of folds the folders `fold-*` that hold a checkpoint, by number."""
    if path.is_dir() and not (path / FILE).exists():
        folds = [file.parent for file in path.glob(f"{FOLDS}/{FILE}")]
        return sorted(folds, key=lambda fold: (len(fold.name), fold.name)) or [path]
    return [path]


def load(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None, *, bfloat16: bool = False
) -> Model:
    """Checkpoints as one model whose probabilities are averaged. Their weights are read when first needed.

    Parameters
    ----------
    paths : checkpoints, folders of training runs, or folders of folds. Default: the weights that come with the package
    bfloat16 : also make the networks in bfloat16

    Raises
    ------
    InputError
        One is no checkpoint, two differ in the window, the field of view, the slices shown or the classes, or the package holds no
        weights.
    """
    given = default_weights() if paths is None else [paths] if isinstance(paths, str | os.PathLike) else paths
    found = [member for path in given for member in members(Path(path))]
    if not found:
        raise InputError("model: expected at least one checkpoint, got none; name a run's folder")
    headers = [read_metadata(path) for path in found]
    configs = [config_of(header, f"model {path}") for header, path in zip(headers, found, strict=True)]
    for field in SHARED:
        section, name = field.split(".")
        values = [getattr(getattr(config, section), name) for config in configs]
        for path, value in zip(found, values, strict=True):
            if value != values[0]:
                raise InputError(
                    f"model {path}: expected {field} {values[0]} like {found[0]}, got {value}; an ensemble's members see the same patches,"
                    " train them alike"
                )
    facts = [release_of(header) for header, path in zip(headers, found, strict=True) if path.parent == PACKAGED]
    sites = "; ".join(dict.fromkeys(release.sites for release in facts if release is not None))
    return Model(configs[0], found, [config.model.name for config in configs], bfloat16=bfloat16, sites=sites or None)


def predict(image: Image, model: Model | str | os.PathLike[str] | None = None, **options: Any) -> Prediction:
    """Segments an image in one call.

    Parameters
    ----------
    model : a `Model`, a checkpoint, a run's folder or a folder of folds; load it once for several images. Default: as in `load`
    image, options : as in `Model.predict`
    """
    return (model if isinstance(model, Model) else load(model)).predict(image, **options)
