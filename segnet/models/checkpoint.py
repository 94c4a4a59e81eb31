"""Released weights: one safetensors file whose metadata holds the resolved configuration. No pickles."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from segnet.config import Config
from segnet.errors import InputError
from segnet.io.weights import FILE, FORMAT, config_of, read_config, weights_file
from segnet.models import build, channels_last
from segnet.runtime.files import replacing

__all__ = ["FILE", "FORMAT", "config_of", "load", "save"]


def save(model: nn.Module, config: Config, path: Path) -> None:
    """Writes weights and configuration beside `path`, then renames."""
    tensors = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"format": FORMAT, "config": config.model_dump_json()})


def load(path: Path) -> tuple[nn.Module, Config]:
    """The network in evaluation mode and its configuration.

    Parameters
    ----------
    path : a checkpoint, or a folder that holds `model.safetensors`

    Raises
    ------
    InputError
        There is no checkpoint, segnet did not write it, or weights and configuration disagree.
    """
    file, config = weights_file(path), read_config(path)
    tensors = load_file(file)
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
