"""Trained networks made fast for inference on CPUs."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from segnet.models import Network, channels_last
from segnet.models.batch_norm import BATCH_NORMS
from segnet.models.mamba import Pointwise

FOLDED_DIFFERENCE = 1e-3
"""Of the largest logit: what a network may lose by folding. Rounding takes a hundredth of it or less; a norm folded where it does
not belong changes the logits by its own size."""

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
"""Layers that a batch norm is folded into: these classes alone, not subclasses."""


class BFloat16(nn.Module):
    """A network whose convolutions and matrix products run in bfloat16. Its logits are float32."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        with torch.autocast("cpu", torch.bfloat16):
            logits, reconstruction = self.network(x)
        return logits.float(), reconstruction


@torch.inference_mode(False)
@torch.no_grad()
def optimise(model: Network, *, bfloat16: bool = False, in_place: bool = False) -> nn.Module:
    """A trained network for inference: unused parts dropped, batch norms folded, weights channels-last and frozen.

    A batch norm behind a convolution whose result goes nowhere else becomes part of the convolution,

        ``weight' = weight * gamma / sqrt(var + eps)``, ``bias' = (bias - mean) * gamma / sqrt(var + eps) + beta``.

    One forward pass of the network shows these pairs. A norm behind a ReLU stays, and so do norms inside the attention gate, which is one
    operation already. A network whose logits change by more than rounding stays as it is.

    Parameters
    ----------
    model : copied, so that it stays as it is
    in_place : change the network itself instead
    bfloat16 : layers that autocast runs in bfloat16 keep their weights in bfloat16, rounded once. The scan and the sums of softmax and
        norms are float32. Compare the masks with float32 masks (`segnet.prediction.precision`)

    Returns
    -------
    nn.Module
        In evaluation mode, with the network's inputs and outputs.
    """
    network = (model if in_place else deepcopy(model)).eval()
    network.reconstruction = None  # only training runs it
    side = 2 * model.stride
    sample = torch.rand(1, model.config.inputs, side, side, generator=torch.Generator().manual_seed(0))
    seen = _watch(network, sample)
    unfolded = {name: network.get_submodule(name) for pair in seen.pairs for name in pair}
    for convolution, norm in seen.pairs:
        _fold(network, convolution, norm)
    changed = (network(sample)[0] - seen.logits).abs().max()
    if not changed <= FOLDED_DIFFERENCE * seen.logits.abs().max():
        for name, module in unfolded.items():
            network.set_submodule(name, module)
    network = channels_last(network.requires_grad_(False))
    if not bfloat16:
        return network
    half = BFloat16(network).eval()
    for name in _watch(half, sample).in_bfloat16:
        half.get_submodule(name).to(torch.bfloat16)
    return half


@dataclass
class _Seen:
    """Modules of a network by name, by what a forward pass did with them.

    Attributes
    ----------
    pairs : a convolution and the batch norm its result enters, unchanged; each ran once
    in_bfloat16 : convolutions and linear layers that ran under autocast and never outside it
    logits : of the pass
    """

    pairs: list[tuple[str, str]]
    in_bfloat16: list[str]
    logits: Tensor


def _watch(model: nn.Module, x: Tensor) -> _Seen:
    runs: Counter[str] = Counter()
    outside: set[str] = set()
    results: dict[int, tuple[str, Tensor, int]] = {}
    entered: list[tuple[str, str]] = []

    def follow(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], result: Tensor) -> None:
            runs[name] += 1
            if not torch.is_autocast_enabled("cpu"):
                outside.add(name)
            if isinstance(module, nn.BatchNorm2d):
                made = results.get(id(inputs[0]))
                # an in-place ReLU gives the same tensor, of another version
                if made is not None and made[2] == inputs[0]._version and module.running_var is not None:
                    entered.append((made[0], name))
            elif type(module) in CONVOLUTIONS:
                results[id(result)] = name, result, result._version  # held, so that no other tensor gets its id

        return hook

    classes = (*CONVOLUTIONS, *BATCH_NORMS, nn.Linear, Pointwise)
    watched = {n: m for n, m in model.named_modules() if type(m) in classes}
    hooks = [module.register_forward_hook(follow(name)) for name, module in watched.items()]
    try:
        logits, _ = model(x)
    finally:
        for hook in hooks:
            hook.remove()
    takers = Counter(name for name, _ in entered)
    return _Seen(
        [(c, n) for c, n in entered if runs[c] == runs[n] == takers[c] == 1],
        [n for n in runs if n not in outside and not isinstance(watched[n], nn.BatchNorm2d)],
        logits,
    )


def _fold(model: nn.Module, convolution: str, norm: str) -> None:
    made: Any = model.get_submodule(convolution)
    transposed = isinstance(made, nn.ConvTranspose2d)
    if transposed and made.groups > 1:
        return  # its output channels are spread over two axes
    followed: Any = model.get_submodule(norm)
    model.set_submodule(convolution, fuse_conv_bn_eval(made, followed, transposed))
    model.set_submodule(norm, nn.Identity().eval())
