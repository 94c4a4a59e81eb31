"""Released weights: one safetensors file whose metadata holds the resolved configuration. No pickles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from segnet.config import Config
from segnet.errors import InputError
from segnet.io.weights import FILE, FORMAT, Release, config_of, read_config, weights_file
from segnet.models import build, channels_last
from segnet.runtime.files import replacing

__all__ = ["FILE", "FORMAT", "Release", "config_of", "load", "release", "save"]


def save(model: nn.Module, config: Config, path: Path) -> None:
    """Writes weights and configuration beside `path`, then renames."""
    _write({name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}, config, path)


def _write(tensors: Mapping[str, Tensor], config: Config, path: Path, facts: Mapping[str, str] | None = None) -> None:
    metadata = {"format": FORMAT, "config": config.model_dump_json(), **(facts or {})}
    with replacing(path) as temporary:
        save_file(dict(tensors), temporary, metadata=metadata)


STATISTICS = ("running_mean", "running_var")
"""Ends of the names of a batch norm's statistics."""


def release(source: Path, path: Path, facts: Release) -> None:
    """Writes a trained checkpoint for others: in half precision, with the facts of its release.

    Every weight is rounded once to float16. Statistics of norms stay float32, for a variance may exceed float16, and counters of batches
    whole numbers. The configuration stays, but for the folder
    of `augment.shapes`, a place on the machine of the training.

    Parameters
    ----------
    source : a checkpoint, or the folder of a training run
    path : file to write, in an existing folder

    Raises
    ------
    InputError
        `source` is no checkpoint, or a weight is beyond the range of float16.
    """
    model, config = load(source)
    tensors = {}
    for name, tensor in model.state_dict().items():
        rounded = tensor.is_floating_point() and not name.endswith(STATISTICS)
        tensors[name] = tensor.half().contiguous() if rounded else tensor.contiguous()
        if not tensors[name].isfinite().all():
            raise InputError(
                f"model {source}: expected weights within the range of float16, got {float(tensor.abs().max()):g} in {name};"
                " train with weight decay, or release another run"
            )
    shapes = config.augment.model_copy(update={"shapes": None})
    _write(tensors, config.model_copy(update={"augment": shapes}), path, asdict(facts))


def load(path: Path) -> tuple[nn.Module, Config]:
    """The network in evaluation mode and its configuration.

    Parameters
    ----------
    path : a checkpoint, or a folder that holds `model.safetensors`. Weights in half precision become float32

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
    wide = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    model.load_state_dict(wide, assign=True)
    return channels_last(model.eval()), config
