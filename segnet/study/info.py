"""Parts and costs of a network: parameters, multiply-adds, memory, receptive field."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from segnet.config import ModelConfig
from segnet.io.weights import Release, config_of, read_metadata
from segnet.models import Network, build
from segnet.runtime.files import sha256_of

FLOPS_A_SCANNED_STATE = 9
"""Bilinear discretisation and recurrence of one state at one position."""


def count(module: nn.Module) -> int:
    """Number of trained parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def _scan_flops(x: torch.Size, delta: torch.Size, A: torch.Size, *_: Any, **__: Any) -> int:
    directions, _dim, dstate = A
    return FLOPS_A_SCANNED_STATE * directions * x.numel() * dstate


def _depthwise_flops(x: torch.Size, *_: Any, **__: Any) -> int:
    return 2 * 9 * x.numel()


def _gate_flops(x: torch.Size, theta: torch.Size, *_: Any, **__: Any) -> int:
    """Two norms, a sum and a product with psi for each compared channel; one product for each gated channel."""
    return 2 * 3 * theta.numel() + 2 * x.numel()


_FORMULAS = {
    torch.ops.ssmcore.ss2d_fwd: _scan_flops,
    torch.ops.ssmcore.depthwise_conv2d_fwd: _depthwise_flops,
    torch.ops.ssmcore.attention_gate_fwd: _gate_flops,
}
_SCAN = torch.ops.ssmcore.ss2d_fwd
_OPENED = ("decoder", "reconstruction")
"""Modules whose children are listed as parts."""


def _empty(config: ModelConfig, side_px: int) -> tuple[Network, Tensor]:
    """A network in training mode and a batch of one, without memory behind them."""
    with torch.device("meta"):
        return build(config).train(), torch.zeros(1, config.inputs, side_px, side_px)


def _kept_bytes(model: Network, image: Tensor) -> int:
    """Bytes kept between forward and backward pass of a training step, without parameters."""
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(x: Tensor) -> Tensor:
        if x.untyped_storage()._cdata not in own:
            kept[x.untyped_storage()._cdata] = x
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        outputs = model(image)
    total = sum(x.untyped_storage().nbytes() for x in kept.values())
    del outputs
    return total


@torch.no_grad()
def receptive_field(config: ModelConfig, side_px: int) -> tuple[int, int]:
    """Height and width of the field in pixels, from the outputs that become NaN when the middle input pixel is NaN."""
    model = build(config).eval()
    image = torch.zeros(1, config.inputs, side_px, side_px)
    image[..., side_px // 2, side_px // 2] = torch.nan
    reached = model(image)[0][0].isnan().any(0)
    return int(reached.any(1).sum()), int(reached.any(0).sum())


def describe(config: ModelConfig, *, side_px: int = 256) -> dict[str, Any]:
    """Parameters, multiply-adds, operations of the scan, memory and receptive field for one square slice, in all and by part.

    Raises
    ------
    InputError
        The model's name is unknown.
    ValueError
        The network does not take slices of this side.
    """
    model, image = _empty(config, side_px)
    counter = FlopCounterMode(display=False, custom_mapping=_FORMULAS)
    with counter:
        model(image)
    counts = counter.get_flop_counts()
    root = type(model).__name__

    def flops(name: str) -> tuple[int, int]:
        """Multiply-adds without the scan, and floating-point operations of the scan."""
        found = counts.get(name, {})
        scan = found.get(_SCAN, 0)
        return (sum(found.values()) - scan) // 2, scan

    parts = []
    for name, module in model.named_children():
        inner = list(module.named_children()) if isinstance(module, nn.ModuleList) or name in _OPENED else []
        for path, part in [(f"{name}.{n}", m) for n, m in inner] or [(name, module)]:
            macs, scan = flops(f"{root}.{path}")
            if isinstance(part, nn.ModuleList):
                inside = [flops(f"{root}.{path}.{n}") for n, _ in part.named_children()]
                macs, scan = sum(m for m, _ in inside), sum(s for _, s in inside)
            parts.append({"part": path, "parameters": count(part), "macs": macs, "scan_flops": scan})
    macs, scan = flops("Global")
    height, width = receptive_field(config, side_px)
    return {
        "model": config.name,
        "parameters": count(model),
        "macs": macs,
        "scan_flops": scan,
        "activation_bytes": _kept_bytes(model, image),
        "receptive_field_px": [height, width],
        "side_px": side_px,
        "input": f"(batch, {config.inputs}, height, width), multiples of {model.stride}",
        "output": f"(batch, {config.classes}, height, width)",
        "discretization": config.discretization,
        "parts": parts,
    }


def describe_weights(path: Path) -> dict[str, Any]:
    """Network, size, hash and origin of a checkpoint's file; "not stated" where a fact of its release is missing.

    Raises
    ------
    InputError
        It is no checkpoint, or its network is unknown.
    """
    metadata = read_metadata(path)
    config = config_of(metadata, f"model {path}")
    with torch.device("meta"):
        parameters = count(build(config.model))
    return {
        "file": path.name,
        "network": config.model.name,
        "parameters": parameters,
        "bytes": path.stat().st_size,
        "sha256": sha256_of(path),
        **{field.name: metadata.get(field.name, "not stated") for field in fields(Release)},
    }
