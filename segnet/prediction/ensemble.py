"""Networks that segment together: checkpoints loaded, held to one another, made fast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from torch import nn

from segnet.config import FOLD_FOLDER, Config
from segnet.errors import InputError
from segnet.models import Network, checkpoint
from segnet.prediction.engine import optimise

FOLDS = FOLD_FOLDER.format("*")
"""Folders of an ensemble's members within one folder."""
SHARED = ("data.route", "data.window_hu", "data.patch_px", "data.input_px", "model.in_channels", "model.classes")
"""Fields that members must agree in, for they are shown the same patches."""


@dataclass(frozen=True)
class Ensemble:
    """One network or several.

    Attributes
    ----------
    paths : of the members' checkpoints
    models : float32, as `segnet.prediction.engine.optimise` makes them
    halves : the same in bfloat16, none unless asked for
    config : of the first; the others agree in what inference takes from it
    names : of the members' networks, as the registry knows them
    """

    paths: tuple[Path, ...]
    models: tuple[nn.Module, ...]
    halves: tuple[nn.Module, ...]
    config: Config
    names: tuple[str, ...]


def members(path: Path) -> list[Path]:
    """A checkpoint or a run's folder as it is; of a folder of folds the folders `fold-*` that hold a checkpoint, by number."""
    if path.is_dir() and not (path / checkpoint.FILE).exists():
        folds = [file.parent for file in path.glob(f"{FOLDS}/{checkpoint.FILE}")]
        return sorted(folds, key=lambda fold: (len(fold.name), fold.name)) or [path]
    return [path]


def load(paths: Path | Sequence[Path], *, bfloat16: bool = False) -> Ensemble:
    """Checkpoints as an ensemble whose probabilities are averaged.

    Parameters
    ----------
    paths : checkpoints, folders of training runs, or folders of folds
    bfloat16 : also make the networks in bfloat16

    Raises
    ------
    InputError
        One is no checkpoint, or two differ in the window, the field of view, the slices shown or the classes.
    """
    found = [member for path in ([paths] if isinstance(paths, Path) else paths) for member in members(path)]
    if not found:
        raise InputError("model: expected at least one checkpoint, got none; name a run's folder")
    loaded = [checkpoint.load(path) for path in found]
    for field in SHARED:
        section, name = field.split(".")
        values = [getattr(getattr(config, section), name) for _, config in loaded]
        for path, value in zip(found, values, strict=True):
            if value != values[0]:
                raise InputError(
                    f"model {path}: expected {field} {values[0]} like {found[0]}, got {value}; an ensemble's members see the same patches,"
                    " train them alike"
                )
    networks = [cast(Network, network) for network, _ in loaded]
    return Ensemble(
        tuple(found),
        tuple(optimise(network) for network in networks),
        tuple(optimise(network, bfloat16=True) for network in networks) if bfloat16 else (),
        loaded[0][1],
        tuple(config.model.name for _, config in loaded),
    )
