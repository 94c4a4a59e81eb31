"""The state of a run, from which it resumes bit for bit: one safetensors file, replaced as a whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from segnet.config import Config
from segnet.errors import InputError
from segnet.models.checkpoint import config_of
from segnet.runtime.files import replacing

FORMAT = "segnet-training-state/2"
FILE = "state.safetensors"


@dataclass
class Progress:
    """Progress of a run.

    Attributes
    ----------
    step : number of steps done
    elapsed_s : time of the run by its clock, without the time between a stop and its resumption
    validations, since_best : number of validations, and of those since the best one
    best_dice : best validation Dice; None before the first validation, or without validation cases
    rows : number of rows of the log
    dice_by_case : 3-D Dice of the best weights on each validation case
    losses : losses of the steps since the last validation
    planned : number of validations of the whole run
    history : one row for each validation
    """

    step: int = 0
    elapsed_s: float = 0.0
    validations: int = 0
    since_best: int = 0
    best_dice: float | None = None
    rows: int = 0
    dice_by_case: dict[str, float] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    planned: int | None = None
    history: list[dict[str, Any]] = field(default_factory=list)


def save(
    path: Path,
    config: Config,
    progress: Progress,
    modules: dict[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    rng: np.random.Generator,
) -> None:
    """Writes networks, optimizer, both random generators and progress."""
    tensors = {f"{key}/{name}": x for key, module in modules.items() for name, x in module.state_dict().items()}
    for number, parameter in enumerate(_parameters(optimizer)):
        for name, x in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{number}/{name}"] = x
    tensors["torch_rng"] = torch.get_rng_state()
    metadata = {
        "format": FORMAT,
        "config": config.model_dump_json(),
        "progress": json.dumps(asdict(progress)),
        "numpy_rng": json.dumps(rng.bit_generator.state),
    }
    with replacing(path) as temporary:
        save_file({name: x.detach().contiguous() for name, x in tensors.items()}, temporary, metadata)


def load(
    path: Path,
    config: Config,
    modules: dict[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    rng: np.random.Generator,
) -> Progress:
    """Restores everything that `save` wrote; InputError if the file cannot be read or is of another configuration."""
    with _opened(path) as (opened, metadata):
        tensors: dict[str, Tensor] = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    check_same(config_of(metadata, f"state {path}"), config)
    for key, module in modules.items():
        prefix = f"{key}/"
        module.load_state_dict({n.removeprefix(prefix): x for n, x in tensors.items() if n.startswith(prefix)})
    for number, parameter in enumerate(_parameters(optimizer)):
        prefix = f"optimizer/{number}/"
        for name in [n for n in tensors if n.startswith(prefix)]:
            value = tensors[name]
            if value.shape == parameter.shape:  # the fused optimizer relies on the parameter's memory format
                value = torch.empty_like(parameter, requires_grad=False).copy_(value)
            optimizer.state[parameter][name.removeprefix(prefix)] = value
    torch.set_rng_state(tensors["torch_rng"])
    rng.bit_generator.state = json.loads(metadata["numpy_rng"])
    return Progress(**json.loads(metadata["progress"]))


def began_with(path: Path) -> Config:
    """The configuration in a state file; InputError if the file cannot be read."""
    with _opened(path) as (_, metadata):
        return config_of(metadata, f"state {path}")


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, str]]]:
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise InputError(
                    f"state {path}: expected format {FORMAT}, got {metadata.get('format')!r} of another version; remove the folder to start anew"
                )
            yield opened, metadata
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"state {path}: expected a training state, got {error}; remove the folder to start anew"
        ) from None


def check_same(began: Config, now: Config) -> None:
    """Raises InputError, with the first difference, unless a run resumes with its own configuration."""
    for section in Config.model_fields:
        was, given = (getattr(config, section) for config in (began, now))
        for name in type(was).model_fields:
            if getattr(was, name) != getattr(given, name):
                raise InputError(
                    f"resume: expected the configuration the run began with, {section}.{name} = {getattr(was, name)},"
                    f" got {getattr(given, name)}; give the same flags, or another folder"
                )


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
