"""Several processes that train as one, by gloo: started by torchrun, each with its part of every batch.

All of them draw the same random numbers and take their own part of what is drawn; sums over the batch are sums over all processes. So two
processes with batches of b follow one process with batches of 2 b, but for rounding.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

Value = TypeVar("Value")


def rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


@contextmanager
def process_group() -> Iterator[None]:
    """Joins the processes that torchrun started, if it did; alone otherwise."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield
        return
    distributed.init_process_group("gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


def own(drawn: Tensor) -> Tensor:
    """This process's part, along the first axis, of what all have drawn alike."""
    return drawn.chunk(world_size())[rank()]


def first_says(value: Value) -> Value:
    """What the first process holds."""
    if world_size() == 1:
        return value
    held: list[Any] = [value]
    distributed.broadcast_object_list(held, src=0)
    return held[0]


def gather_objects(values: list[Value]) -> list[Value]:
    """The lists of all processes, one after the other."""
    if world_size() == 1:
        return values
    held: list[Any] = [None] * world_size()
    distributed.all_gather_object(held, values)
    return [value for part in held for value in part]


def gather(x: Tensor) -> Tensor:
    """The tensors of all processes along the first axis; the gradient reaches this process's own."""
    if world_size() == 1:
        return x
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(world_size())]
    distributed.all_gather(parts, x.detach().contiguous())
    parts[rank()] = x
    return torch.cat(parts)


class _Total(torch.autograd.Function):
    """A sum over processes. Each goes on with it, so the gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        distributed.all_reduce(total)
        return total


def total(x: Tensor) -> Tensor:
    """The sum of all processes' tensors, differentiable."""
    return x if world_size() == 1 else _Total.apply(x)


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Every process's gradients become their sum, in one message."""
    if world_size() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    together = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(together)
    for gradient, part in zip(gradients, together.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
