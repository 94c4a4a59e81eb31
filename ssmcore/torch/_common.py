"""Tensors as arrays, and the checks that all functions share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._spec import ArgumentTypeError

_REAL = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def as_array(x: Tensor | None, *, narrow: bool = False) -> Any:
    """The tensor's memory as an array. bfloat16 and float16 become float32, unless `narrow`: NumPy has bfloat16 as the bits alone, uint16."""
    if x is None:
        return None
    x = x.detach()
    if x.dtype == torch.bfloat16 and narrow:
        return x.view(torch.uint16).numpy()
    return (x.float() if x.dtype in (torch.bfloat16, torch.float16) and not narrow else x).numpy()


def wide(x: Tensor) -> torch.dtype:
    """The dtype that results for x are computed in."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def check_tensors(
    op: str, tensors: dict[str, Tensor | None], *, complex_too: tuple[str, ...] = ()
) -> dict[str, tuple[int, ...] | None]:
    """Checks the arguments of an operation and returns their shapes by name, None for an absent one.

    Raises
    ------
    ArgumentTypeError
        An argument is not a tensor, is on another device than the first, or has no real floating dtype. The arguments in
        `complex_too` may be complex.
    """
    name, first = next(iter(tensors.items()))
    if first is None:
        raise ArgumentTypeError(f"{op}: {name}: expected a tensor, got None; it is not optional")
    for name, x in tensors.items():
        if x is None:
            continue
        if not isinstance(x, Tensor):
            raise ArgumentTypeError(
                f"{op}: {name}: expected a tensor, got {type(x).__name__}; convert it with torch.as_tensor"
            )
        if x.dtype not in _REAL and not (name in complex_too and x.dtype.is_complex):
            raise ArgumentTypeError(
                f"{op}: {name}: expected a real floating dtype, got {x.dtype}; convert it with {name}.float()"
            )
        if x.device != first.device:
            raise ArgumentTypeError(
                f"{op}: {name}: expected device {first.device} like the first argument, got {x.device}; move it there"
            )
    return {name: None if x is None else tuple(x.shape) for name, x in tensors.items()}
