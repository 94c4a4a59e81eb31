"""The header of a checkpoint, read without torch: where the file lies, and the configuration in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from segnet.config import Config
from segnet.errors import InputError

FORMAT = "segnet-checkpoint/1"
FILE = "model.safetensors"


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


def read_config(path: Path) -> Config:
    """The configuration of a checkpoint or of a run's folder.

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
    return config_of(metadata, f"model {file}")


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
