"""Several processes that train as one, over gloo. torchrun starts them, and each has its part of every batch.

All processes draw the same random numbers, and sums over a batch are sums over all processes. Two processes with batches of b
therefore follow one process with batches of 2 b, except for rounding.
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
    """Joins the processes that torchrun started; does nothing without torchrun."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield
        return
    distributed.init_process_group("gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


def own_part(count: int) -> slice:
    """This process's part of `count` samples, a multiple of the number of processes."""
    each = count // world_size()
    return slice(rank() * each, (rank() + 1) * each)


def own(drawn: Tensor) -> Tensor:
    """This process's part, along the first axis, of numbers that all processes have drawn alike."""
    return drawn[own_part(len(drawn))]


def first_says(value: Value) -> Value:
    """The value of the first process."""
    if world_size() == 1:
        return value
    held: list[Any] = [value]
    distributed.broadcast_object_list(held, src=0)
    return held[0]


def gather_objects(values: list[Value]) -> list[Value]:
    """The joined lists of all processes."""
    if world_size() == 1:
        return values
    held: list[Any] = [None] * world_size()
    distributed.all_gather_object(held, values)
    return [value for part in held for value in part]


def gather(x: Tensor) -> Tensor:
    """The tensors of all processes, joined along the first axis. The gradient reaches this process's own."""
    if world_size() == 1:
        return x
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(world_size())]
    distributed.all_gather(parts, x.detach().contiguous())
    parts[rank()] = x
    return torch.cat(parts)


class _Total(torch.autograd.Function):
    """A sum over processes. Each of them uses it, so its gradient is the sum of theirs."""

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
    """Replaces the gradients of every process by their sum, in one message."""
    if world_size() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    together = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(together)
    for gradient, part in zip(gradients, together.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
