"""Centre crop of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .. import backends
from .._spec import Call
from ..backends.torch_ import forward, vjp
from ..ops import gate_crop as _gate_crop
from ._common import as_array, check_tensors
from ._register import as_result, choose, define

_SPEC = _gate_crop.SPEC


def _crop(g: Tensor, size: Sequence[int], backend: str | None) -> Tensor:
    options, choice = {"size": tuple(size)}, choose(_SPEC, g, backend)
    if choice is None:
        return forward(Call(_SPEC, {"g": g}, options))[0]
    call = Call(_SPEC, {"g": as_array(g)}, options)
    return as_result(backends.run(call, backend=choice.backend)[0], g.dtype)


def _pad(dout: Tensor, g_size: Sequence[int], backend: str | None) -> Tensor:
    """The adjoint of `_crop`."""
    options, choice = {"g_size": tuple(g_size)}, choose(_SPEC, dout, backend)
    if choice is None:
        return vjp(Call(_SPEC, {}, options, douts=(dout,)))[0]
    call = Call(_SPEC, {}, options, douts=(as_array(dout),))
    return as_result(backends.run(call, backend=choice.backend)[0], dout.dtype)


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
