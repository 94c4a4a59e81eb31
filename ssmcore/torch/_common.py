"""What the custom ops share: tensors as arrays and back, and checks of dtype and device."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._spec import ArgumentTypeError

_REAL = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def as_array(x: Tensor | None) -> Any:
    """The tensor's memory as an array; bfloat16, which NumPy lacks, and float16, whose gradients of wider arguments would be rounded
    to it, widened to float32."""
    if x is None:
        return None
    x = x.detach()
    return (x.float() if x.dtype in (torch.bfloat16, torch.float16) else x).numpy()


def as_tensor(array: Any, like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(like.dtype)


def as_state(array: Any, like: Tensor) -> Tensor:
    """A state as it is carried on: in the dtype that a scan of `like` is computed in."""
    return torch.from_numpy(np.ascontiguousarray(array)).to(wide(like))


def wide(x: Tensor) -> torch.dtype:
    """The dtype a scan of x is computed in."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def check_dtypes(op: str, tensors: dict[str, Tensor | None], *, complex_too: tuple[str, ...] = ()) -> None:
    """Raises ArgumentTypeError unless all are tensors of one device and of real floats, or complex where that is allowed."""
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
