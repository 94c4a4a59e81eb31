"""Layers and gradients that are not finite."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def _finite(values: Any) -> bool:
    if isinstance(values, Tensor):
        return not values.is_floating_point() or bool(torch.isfinite(values).all())
    if isinstance(values, (list, tuple)):
        return all(map(_finite, values))
    return True


@torch.no_grad()
def first_bad_layer(model: nn.Module, images: Tensor) -> str | None:
    """Name of the first layer with non-finite output, in the order of execution; None if all outputs are finite.

    Parameters
    ----------
    model : in the mode in which it failed; batch norms update their running statistics once more
    images : input on which it failed
    """
    bad: list[str] = []

    def watch(name: str) -> Any:
        return lambda _, __, output: None if _finite(output) else bad.append(name)

    handles = [m.register_forward_hook(watch(name)) for name, m in model.named_modules() if name]
    try:
        model(images)
    finally:
        for handle in handles:
            handle.remove()
    return bad[0] if bad else None


def bad_gradients(model: nn.Module) -> list[str]:
    """Parameters with a non-finite gradient, those nearest to the output first."""
    named = [(name, p.grad) for name, p in model.named_parameters()]
    return [name for name, gradient in reversed(named) if gradient is not None and not _finite(gradient)]
