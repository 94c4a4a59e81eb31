"""Centre crop of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from .. import backends
from ..backends.torch_ import gate_crop_tensors
from ..ops import gate_crop as _gate_crop
from ._common import as_array, check_tensors
from ._register import as_result, choose, define

_SPEC = _gate_crop.SPEC


def _crop(g: Tensor, size: Sequence[int], backend: str | None) -> Tensor:
    choice = choose(_SPEC, g, backend)
    if choice is None:
        return gate_crop_tensors(g, size)
    return as_result(backends.entry(choice, "gate_crop")(as_array(g), tuple(size)), g.dtype)


def _pad(dout: Tensor, g_size: Sequence[int], backend: str | None) -> Tensor:
    """The adjoint of `_crop`."""
    choice = choose(_SPEC, dout, backend)
    if choice is None:
        pads: list[int] = []
        for full, part in zip(reversed(list(g_size)), reversed(dout.shape), strict=False):
            pads += [(full - part) // 2, full - part - (full - part) // 2]
        return F.pad(dout, pads)
    return as_result(backends.entry(choice, "gate_crop_vjp")(as_array(dout), tuple(g_size)), dout.dtype)


def _fake(x: Tensor, size: Sequence[int], backend: str | None) -> Tensor:
    return x.new_empty((*x.shape[: x.ndim - len(size)], *size))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, size, ctx.backend = inputs
    ctx.size = list(x.shape[x.ndim - len(size) :])


def _crop_backward(ctx: Any, dout: Tensor) -> tuple[Tensor, None, None]:
    return _crop_vjp_op(dout, ctx.size, ctx.backend), None, None


def _pad_backward(ctx: Any, ddg: Tensor) -> tuple[Tensor, None, None]:
    return _crop_op(ddg, ctx.size, ctx.backend), None, None


_crop_op = define(
    "gate_crop",
    "(Tensor g, int[] size, str? backend) -> Tensor",
    _crop,
    _fake,
    backward=_crop_backward,
    setup_context=_setup,
)
_crop_vjp_op = define(
    "gate_crop_vjp",
    "(Tensor dout, int[] g_size, str? backend) -> Tensor",
    _pad,
    _fake,
    backward=_pad_backward,
    setup_context=_setup,
)


def gate_crop(g: Tensor, size: Sequence[int], *, backend: str | None = None) -> Tensor:
    """`ssmcore.gate_crop` of a tensor, differentiable any number of times.

    Raises
    ------
    ArgumentError
        `size` is larger than g or has more axes.
    BackendError
        The backend named cannot run.

    Source: Mamba-AHNet, algorithm 3, steps 1 to 4.
    """
    check_tensors("gate_crop", {"g": g})
    cropped: Tensor = _crop_op(g, list(_gate_crop.check(tuple(g.shape), tuple(size))), backend)
    return cropped
