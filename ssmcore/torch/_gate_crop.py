"""Centre crop of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import backends
from ..backends.torch_ import gate_crop_tensors
from ..ops import gate_crop as _gate_crop
from ._common import as_array, as_tensor, check_dtypes


@torch.library.custom_op("ssmcore::gate_crop", mutates_args=())
def _crop(g: Tensor, size: Sequence[int]) -> Tensor:
    if g.device.type != "cpu":
        return gate_crop_tensors(g, size)
    choice = backends.choose("gate_crop", _gate_crop.ENTRIES)
    return as_tensor(backends.entry(choice, "gate_crop")(as_array(g), tuple(size)), g)


@_crop.register_fake
def _(g: Tensor, size: Sequence[int]) -> Tensor:
    return g.new_empty((*g.shape[: g.ndim - len(size)], *size))


@torch.library.custom_op("ssmcore::gate_crop_vjp", mutates_args=())
def _crop_vjp(dout: Tensor, g_size: Sequence[int]) -> Tensor:
    if dout.device.type != "cpu":
        pads: list[int] = []
        for full, part in zip(reversed(list(g_size)), reversed(dout.shape), strict=False):
            pads += [(full - part) // 2, full - part - (full - part) // 2]
        return torch.nn.functional.pad(dout, pads)
    choice = backends.choose("gate_crop", _gate_crop.ENTRIES)
    return as_tensor(backends.entry(choice, "gate_crop_vjp")(as_array(dout), tuple(g_size)), dout)


@_crop_vjp.register_fake
def _(dout: Tensor, g_size: Sequence[int]) -> Tensor:
    return dout.new_empty((*dout.shape[: dout.ndim - len(g_size)], *g_size))


def _crop_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    g, size = inputs
    ctx.g_size = list(g.shape[g.ndim - len(size) :])
    ctx.size = list(size)


def _crop_backward(ctx: Any, dout: Tensor) -> tuple[Tensor, None]:
    return _crop_vjp(dout, ctx.g_size), None


def _crop_vjp_backward(ctx: Any, ddg: Tensor) -> tuple[Tensor, None]:
    return _crop(ddg, ctx.size), None


def _crop_vjp_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    dout, g_size = inputs
    ctx.size = list(dout.shape[dout.ndim - len(g_size) :])


_crop.register_autograd(_crop_backward, setup_context=_crop_setup)
_crop_vjp.register_autograd(_crop_vjp_backward, setup_context=_crop_vjp_setup)


def gate_crop(g: Tensor, size: Sequence[int]) -> Tensor:
    """Centre of the trailing axes of g, as `ssmcore.gate_crop`; differentiable any number of times.

    Parameters
    ----------
    g : (..., *g_size)
    size : trailing axes of the result, each at most that of g

    Raises
    ------
    ArgumentError
        `size` is larger than g or has more axes.

    Source: Mamba-AHNet, algorithm 3, steps 1 to 4.
    """
    check_dtypes("gate_crop", {"g": g})
    return _crop(g, list(_gate_crop.check(tuple(g.shape), tuple(size))))
