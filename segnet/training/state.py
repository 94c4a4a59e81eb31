"""All that a run needs to go on as if it had never stopped, in one file that is replaced as a whole. No pickles."""

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
    """How far a run is.

    Attributes
    ----------
    step : steps done
    elapsed_s : time of the run itself, by its clock, without what lies between a stop and its resumption
    validations, since_best : done; and of these, since the best one
    best_dice : of the validations, None before the first and where there are no validation cases
    rows : of the log
    dice_by_case : 3-D Dice of the best weights on each validation case
    losses : of the steps since the last validation
    planned : validations of the whole run; fewer than asked for where they would take too much of its minutes
    history : one row a validation
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
    """Brings all of them to where `save` found them.

    Raises
    ------
    InputError
        The file cannot be read, or was written with another configuration.
    """
    with _opened(path) as (opened, metadata):
        tensors: dict[str, Tensor] = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    check_same(config_of(metadata, f"state {path}"), config)
    for key, module in modules.items():
        prefix = f"{key}/"
        module.load_state_dict({n.removeprefix(prefix): x for n, x in tensors.items() if n.startswith(prefix)})
    for number, parameter in enumerate(_parameters(optimizer)):
        prefix = f"optimizer/{number}/"
        for name in [n for n in tensors if n.startswith(prefix)]:
            # in the parameter's own order in memory, which the fused optimizer relies on
            of = tensors[name]
            like = torch.empty_like(parameter, requires_grad=False) if of.shape == parameter.shape else of
            optimizer.state[parameter][name.removeprefix(prefix)] = like.copy_(of)
    torch.set_rng_state(tensors["torch_rng"])
    rng.bit_generator.state = json.loads(metadata["numpy_rng"])
    return Progress(**json.loads(metadata["progress"]))


def began_with(path: Path) -> Config:
    """The configuration of the run in a state's file.

    Raises
    ------
    InputError
        The file cannot be read.
    """
    with _opened(path) as (_, metadata):
        return config_of(metadata, f"state {path}")


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, str]]]:
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise InputError(
                    f"state {path}: expected format {FORMAT}, got {metadata.get('format')!r}; it is of another version, remove the folder to start anew"
                )
            yield opened, metadata
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"state {path}: expected a training state, got {error}; remove the folder to start anew"
        ) from None


def check_same(began: Config, now: Config) -> None:
    """Whether a run would go on with the configuration it began with.

    Raises
    ------
    InputError
        It would not; the message names the first difference.
    """
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
