"""Released weights: one safetensors file whose metadata holds the resolved configuration. No pickles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from segnet.config import Config
from segnet.errors import InputError
from segnet.models import build, channels_last
from segnet.runtime.files import replacing

FORMAT = "segnet-checkpoint/1"
FILE = "model.safetensors"


def save(model: nn.Module, config: Config, path: Path) -> None:
    """Writes weights and configuration beside `path`, then renames."""
    tensors = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"format": FORMAT, "config": config.model_dump_json()})


def config_of(metadata: Mapping[str, str], where: str) -> Config:
    """The configuration in a file's metadata; `where` names the file in the InputError of one that is missing or unknown."""
    try:
        return Config.model_validate_json(metadata["config"])
    except (ValidationError, KeyError) as error:
        raise InputError(
            f"{where}: expected a configuration this version knows, got {type(error).__name__}; use the version that wrote it"
        ) from None


def load(path: Path) -> tuple[nn.Module, Config]:
    """The network in evaluation mode and its configuration.

    Parameters
    ----------
    path : a checkpoint, or a folder that holds `model.safetensors`

    Raises
    ------
    InputError
        There is none, it is not one of segnet's, or its weights are of another model than its configuration names.
    """
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise InputError(
            f"model: expected a checkpoint or a training run's folder, got {path}; train one with `segnet train`"
        )
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise InputError(
                    f"model {file}: expected a checkpoint of format {FORMAT}, got {metadata.get('format')!r}; it is of another program"
                )
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"model {file}: expected a safetensors file, got {error}; it may be truncated, copy it again"
        ) from None
    config = config_of(metadata, f"model {file}")
    with torch.device("meta"):
        model: nn.Module = build(config.model)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if wanted != found:
        name = sorted(n for n in wanted.keys() | found.keys() if wanted.get(n) != found.get(n))[0]
        raise InputError(
            f"model {file}: expected the weights of {config.model.name}, got {name} of shape {found.get(name)} where it has {wanted.get(name)};"
            " they are of another model"
        )
    model.load_state_dict(tensors, assign=True)
    return channels_last(model.eval()), config
