"""The paper's networks and their peers, by name. Imports `metrics` and the floors below.

Other packages register networks under the entry point group ``segnet.models``: functions of a `ModelConfig` that return a
`segnet.models.network.Network`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

import torch
from torch import nn

from segnet.config import ModelConfig
from segnet.errors import InputError
from segnet.models.conv_nets import ahnet, hunet, mamba_ahnet_conv
from segnet.models.dcau_net import DCAUNet
from segnet.models.mamba_ahnet import mamba_ahnet
from segnet.models.network import Network
from segnet.models.peers import VMUNet, attention_unet, unet, unetpp

__all__ = ["GROUP", "Network", "build", "channels_last", "names"]

GROUP = "segnet.models"
BUILTIN: dict[str, Callable[[ModelConfig], Network]] = {
    "hunet": hunet,
    "ahnet": ahnet,
    "ahnet-r": ahnet,
    "mamba-ahnet": mamba_ahnet,
    "mamba-ahnet-r": mamba_ahnet,
    "mamba-ahnet-conv": mamba_ahnet_conv,
    "unet": unet,
    "attention-unet": attention_unet,
    "unetpp": unetpp,
    "dcau-net": DCAUNet,
    "vm-unet": VMUNet,
}

Module = TypeVar("Module", bound=nn.Module)


@cache
def _third_party() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def names() -> tuple[str, ...]:
    """Names of all known networks."""
    return (*BUILTIN, *sorted(set(_third_party()) - set(BUILTIN)))


def build(config: ModelConfig) -> Network:
    """A new network by its configured name, initialised from torch's global generator.

    Raises
    ------
    InputError
        The name is unknown.
    """
    if config.name in BUILTIN:
        return BUILTIN[config.name](config)
    if config.name not in _third_party():
        raise InputError(f"model: expected one of {', '.join(names())}, got {config.name!r}; check its spelling")
    made: Network = _third_party()[config.name].load()(config)
    return made


def channels_last(model: Module) -> Module:
    """The same network with channels-last weights, the fastest order for convolutions on CPUs."""
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
