"""The header of a checkpoint, read without torch: where the file lies, and the configuration in it; the package's own weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from segnet.config import Config
from segnet.errors import InputError

FORMAT = "segnet-checkpoint/1"
FILE = "model.safetensors"
PACKAGED = Path(__file__).parents[1] / "models" / "weights"
"""Folder of the weights that come with the package, members of one ensemble."""


@dataclass(frozen=True)
class Release:
    """The facts that a released checkpoint holds beside its configuration.

    Attributes
    ----------
    licence, attribution : of the weights, and of the data they were trained on
    sites : the lesions and places they were trained on, in words
    segnet, commit : version and commit of the training
    """

    licence: str
    attribution: str
    sites: str
    segnet: str
    commit: str


def packaged() -> list[Path]:
    """The weights that come with the package, by name; none in a checkout without them.

    Examples
    --------
    >>> {path.suffix for path in packaged()} <= {".safetensors"}
    True
    """
    return sorted(PACKAGED.glob("*.safetensors"))


def default_weights() -> list[Path]:
    """`packaged`, to be used where no model is named.

    Raises
    ------
    InputError
        There are none.
    """
    found = packaged()
    if not found:
        raise InputError(
            f"model: expected weights in {PACKAGED} where no model is named, got none; name a run of `segnet train`, or copy released"
            " .safetensors files there"
        )
    return found


def weights_file(path: Path) -> Path:
    """A checkpoint, or the one in the folder of a training run.

    Raises
    ------
    InputError
        There is none.
    """
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise InputError(
            f"model: expected a checkpoint or a training run's folder, got {path}; train one with `segnet train`"
        )
    return file


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a checkpoint or of the one in a run's folder.

    Raises
    ------
    InputError
        There is no checkpoint, it is damaged, or it is not of segnet.
    """
    file = weights_file(path)
    try:
        with safe_open(file, framework="numpy") as opened:
            metadata = opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"model {file}: expected a safetensors file, got {error}; it may be truncated, copy it again"
        ) from None
    if metadata.get("format") != FORMAT:
        raise InputError(
            f"model {file}: expected a checkpoint of format {FORMAT}, got {metadata.get('format')!r}; it is of another program"
        )
    found: dict[str, str] = metadata
    return found


def read_config(path: Path) -> Config:
    """The configuration of a checkpoint or of a run's folder; raises as `read_metadata`, and for an unknown configuration."""
    return config_of(read_metadata(path), f"model {weights_file(path)}")


def release_of(metadata: Mapping[str, str]) -> Release | None:
    """The facts of a release in a checkpoint's metadata; None for a checkpoint as `segnet train` writes it."""
    names = [field.name for field in fields(Release)]
    return Release(**{name: metadata[name] for name in names}) if all(name in metadata for name in names) else None


def config_of(metadata: Mapping[str, str], where: str) -> Config:
    """The configuration in a file's metadata; an InputError names the file as `where`."""
    try:
        values = json.loads(metadata["config"])
        values["model"].setdefault("encoder", "vss")  # the only one of older versions
        return Config.model_validate(values)
    except (ValidationError, KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"{where}: expected a configuration this version knows, got {type(error).__name__}; use the version that wrote it"
        ) from None
