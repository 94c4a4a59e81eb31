"""Where a number stopped being one."""

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
    """Name of the first layer, in the order they run, that makes something not finite of what is; None if all are well.

    Parameters
    ----------
    model : in the mode it failed in; batch norms move their running statistics once more
    images : that it failed on
    """
    found: list[str] = []

    def watch(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if not found and not _finite(output):
                found.append(name)

        return hook

    handles = [m.register_forward_hook(watch(name)) for name, m in model.named_modules() if name]
    try:
        model(images)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def bad_gradients(model: nn.Module) -> list[str]:
    """Parameters whose gradient is not finite, those nearest to the output first."""
    named = [(name, p.grad) for name, p in model.named_parameters()]
    return [name for name, gradient in reversed(named) if gradient is not None and not _finite(gradient)]
