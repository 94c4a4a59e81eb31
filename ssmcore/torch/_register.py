"""Custom ops of torch from the record of an operation: schemas, kernels, fake kernels and gradients.

Ops are registered by `torch.library.Library`. `torch.library.custom_op` imports torch's compiler at the first call.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import backends
from .._spec import Call, OpSpec
from ..backends._threads import resolve
from ..backends.protocol import Results
from ..backends.torch_ import forward, vjp
from ._common import as_array, wide

READ_NARROW = {"cython": ("selective_scan", "ss2d", "causal_conv1d")}
"""Operations of backends whose kernels read and write bfloat16 and float16 themselves, bfloat16 as the bits in an array of uint16."""
_LIBRARY = torch.library.Library("ssmcore", "FRAGMENT")


def _outside_compilation(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which torch.compile does not look into. The compiler is not loaded for that."""

    @cache
    def disabled() -> Callable[..., Any]:
        return torch.compiler.disable(function)

    def call(*args: Any) -> Any:
        return (disabled() if "torch._dynamo" in sys.modules else function)(*args)

    return call


def define(
    name: str,
    schema: str,
    kernel: Callable[..., Any],
    fake: Callable[..., Any],
    *,
    backward: Callable[..., Any] | None = None,
    setup_context: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    """Registers ``ssmcore::<name>`` for every device and returns it.

    Parameters
    ----------
    schema : such as "(Tensor x, bool silu) -> Tensor", without defaults; a mutated argument is written "Tensor(a!)"
    kernel, fake : the op itself, and what allocates its results from shapes alone
    backward, setup_context : as in `torch.library.register_autograd`; without them a backward pass raises
    """

    def no_gradient(ctx: Any, *_: Any) -> None:
        raise RuntimeError(
            f"ssmcore::{name}: expected first derivatives alone, got a gradient of a gradient; detach the first gradient"
        )

    qualified = f"ssmcore::{name}"
    _LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, _outside_compilation(kernel), "CompositeExplicitAutograd")
    torch.library.register_fake(qualified, fake, lib=_LIBRARY)
    if "!" not in schema:
        torch.library.register_autograd(qualified, backward or no_gradient, setup_context=setup_context, lib=_LIBRARY)
    op: Callable[..., Any] = getattr(torch.ops.ssmcore, name).default
    return op


class TensorOp:
    """``ssmcore::<name>_fwd`` and ``ssmcore::<name>_bwd`` on tensors in the canonical shapes of the backends.

    Parameters
    ----------
    spec : the record
    options : the options of a call as a schema declares them, such as "str layout"
    arguments : the kernels' arguments, unless they are those of the record; an argument that the record lacks has no gradient
    """

    def __init__(self, spec: OpSpec, *options: str, arguments: tuple[str, ...] | None = None) -> None:
        record = {argument.name: argument for argument in spec.arguments}
        self.spec = spec
        self.arguments = tuple(record) if arguments is None else arguments
        self.wanted = tuple(n for n in self.arguments if n in record and record[n].differentiable)
        self.axes = {name: record[name].shapes[0] for name in self.wanted}
        self.options = tuple(option.split()[1] for option in options)
        self.kept = [output for output in spec.outputs if output.kept]
        first, *others = (f"d{output.name}" for output in spec.outputs if not output.kept)
        self.douts = (first, *others)

        tensors = [f"Tensor{'' if n in record and not record[n].optional else '?'} {n}" for n in self.arguments]
        douts = [f"Tensor {first}", *(f"Tensor? {name}" for name in others)]
        kept = [f"Tensor kept_{output.name}" for output in self.kept]
        run = ["str? backend", "int? num_threads"]
        self.backward = define(
            f"{spec.name}_bwd",
            _schema([*douts, *tensors, *kept, *options, *run], len(self.wanted)),
            self._bwd,
            self._fake_bwd,
        )
        self.forward = define(
            f"{spec.name}_fwd",
            _schema([*tensors, *options, "bool keep", *run], len(spec.outputs)),
            self._fwd,
            self._fake_fwd,
            backward=self._gradient,
            setup_context=self._setup,
        )

    def __call__(
        self,
        *tensors: Tensor | None,
        backend: str | None,
        num_threads: int | None,
        keep: bool | None = None,
        **options: Any,
    ) -> Any:
        """The outputs of the record, a tuple if there are several. Those that are not public are empty unless `keep`, by default
        where a gradient is recorded."""
        if num_threads is not None and type(num_threads) is not int:
            resolve(num_threads)  # raises
        if keep is None:
            keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
        return self.forward(*tensors, *(options[name] for name in self.options), keep, backend, num_threads)

    # ---- kernels and fake kernels ----

    def _fwd(self, *given: Any) -> Any:
        tensors, options, (keep, *run) = _parts(given, self.arguments, self.options)
        call = self._call(tensors, options, keep=keep)
        return self._outputs(call, self._run(call, *run))

    def _fake_fwd(self, *given: Any) -> Any:
        tensors, options, (keep, *_) = _parts(given, self.arguments, self.options)
        call = self._call(tensors, options, keep=keep)
        sizes = self.spec.check_shapes({name: None if t is None else tuple(t.shape) for name, t in call.arrays.items()})
        return self._outputs(call, [tensors[0].new_empty(self.spec.shape_of(o, sizes)) for o in self.spec.outputs])

    def _outputs(self, call: Call, found: Sequence[Any]) -> Any:
        x = next(iter(call.arrays.values()))
        results = [
            as_result(f, wide(x) if output.wide else x.dtype, _swapped(output.axes, call))
            if output.public or call.keep
            else x.new_empty(0, dtype=wide(x))
            for output, f in zip(self.spec.outputs, found, strict=True)
        ]
        return results[0] if len(results) == 1 else tuple(results)

    def _bwd(self, *given: Any) -> tuple[Tensor, ...]:
        douts, tensors, kept, options, run = _parts(given, self.douts, self.arguments, self.kept, self.options)
        # kept results of a forward pass without gradient are empty: the backend computes them again
        kept = [] if any(k.shape == (0,) for k in kept) else kept
        call = self._call(tensors, options, douts=tuple(douts), kept=tuple(kept))
        return self._gradients(call, self._run(call, *run))

    def _fake_bwd(self, *given: Any) -> tuple[Tensor, ...]:
        _, tensors, _, options, _ = _parts(given, self.douts, self.arguments, self.kept, self.options)
        call = self._call(tensors, options)
        return self._gradients(call, [call.arrays[name] for name in self.wanted])

    def _gradients(self, call: Call, found: Sequence[Any]) -> tuple[Tensor, ...]:
        """As the arguments in shape and dtype, empty for an absent one."""
        x = next(iter(call.arrays.values()))
        return tuple(
            x.new_empty(0)
            if (t := call.arrays[name]) is None
            else as_result(gradient, t.dtype, _swapped(self.axes[name], call))
            for name, gradient in zip(self.wanted, found, strict=True)
        )

    def _call(self, tensors: Sequence[Any], options: Sequence[Any], **others: Any) -> Call:
        arrays = dict(zip(self.arguments, tensors, strict=True))
        return Call(self.spec, arrays, dict(zip(self.options, options, strict=True)), **others)

    def _run(self, call: Call, backend: str | None, num_threads: int | None) -> Results:
        """Runs a call on tensors: by a backend on their memory, or by torch's own operations."""
        choice = choose(self.spec, next(iter(call.arrays.values())), backend)
        if choice is None:
            with torch.no_grad():
                return vjp(call) if call.douts else forward(call)
        narrow = self.spec.name in READ_NARROW.get(choice.backend, ())
        arrays = {name: as_array(t, narrow=narrow) for name, t in call.arrays.items()}
        douts, kept = (tuple(as_array(t, narrow=narrow) for t in tensors) for tensors in (call.douts, call.kept))
        on_arrays = replace(call, arrays=arrays, douts=douts, kept=kept)
        return backends.run(on_arrays, backend=choice.backend, num_threads=num_threads)

    # ---- autograd ----

    def _setup(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        tensors, options, (_, *run) = _parts(inputs, self.arguments, self.options)
        outputs = zip(self.spec.outputs, output if isinstance(output, tuple) else (output,), strict=True)
        kept = [result for entry, result in outputs if entry.kept]
        ctx.rest = (*options, *run)
        ctx.mark_non_differentiable(*kept)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, *kept)

    def _gradient(self, ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        found: dict[str, Tensor] = {}
        douts = [grad for output, grad in zip(self.spec.outputs, grads, strict=True) if not output.kept]
        tensors, kept = _parts(ctx.saved_tensors, self.arguments)
        if any(grad is not None for grad in douts):
            douts[0] = tensors[0].new_zeros(tensors[0].shape) if douts[0] is None else douts[0]
            found = dict(zip(self.wanted, self.backward(*douts, *tensors, *kept, *ctx.rest), strict=True))
        by_name = zip(self.arguments, tensors, strict=True)
        return (*(None if t is None else found.get(name) for name, t in by_name), *[None] * (len(ctx.rest) + 1))


def _parts(given: Sequence[Any], *groups: Sequence[Any]) -> list[list[Any]]:
    """As many values as each group has, and the rest."""
    values = iter(given)
    return [*(list(islice(values, len(group))) for group in groups), list(values)]


def _swapped(axes: str, call: Call) -> bool:
    """Whether a result with these axes lies in memory as (batch, dim, seqlen)."""
    return axes == "batch seqlen dim" and call.options.get("layout") == "bdl"


def _schema(given: list[str], results: int) -> str:
    return f"({', '.join(given)}) -> " + ("Tensor" if results == 1 else f"({', '.join(['Tensor'] * results)})")


def choose(spec: OpSpec, x: Tensor, backend: str | None) -> backends.Choice | None:
    """Who runs an operation on x and its other arguments; None for torch's own operations.

    Raises
    ------
    BackendError
        The backend named cannot run.
    """
    if x.device.type == "cpu":
        choice = backends.choose(spec, backend)
        return None if choice.backend == "torch" else choice
    if backend not in (None, "auto", "torch"):
        raise backends.BackendError(
            f"{spec.name}: backend {backend!r}, named by argument, cannot run: expected tensors on the CPU, got {x.device}; "
            f"move them there, or name no backend"
        )
    return None


def as_result(found: Any, dtype: torch.dtype, swapped: bool = False) -> Tensor:
    """An array or tensor as a contiguous tensor with memory of its own; `swapped` sequences lie as (batch, dim, seqlen)."""
    found = found.swapaxes(1, 2) if swapped else found
    if isinstance(found, Tensor):
        own = found.to(dtype).clone(memory_format=torch.contiguous_format)
    else:
        tensor = torch.from_numpy(np.ascontiguousarray(found))
        own = (tensor.view(torch.bfloat16) if tensor.dtype == torch.uint16 else tensor).to(dtype)
    return own.transpose(1, 2) if swapped else own
