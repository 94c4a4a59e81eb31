"""Every custom op that is registered, forward and backward, by torch's own checks of schema, fake kernel and tracing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import ssmcore.torch as st
from ssmcore.ops import SPECS

CHECKS = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")


class Recorder(TorchDispatchMode):
    """Keeps the arguments of the first call of each of our ops."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, tuple[Any, tuple[Any, ...]]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "ssmcore" and func._opname not in self.calls:
            self.calls[func._opname] = (
                func,
                tuple(a.detach().clone() if isinstance(a, torch.Tensor) else a for a in args),
            )
        return func(*args, **(kwargs or {}))


def both_ways(name: str, sample: str) -> Callable[[], None]:
    """A forward and a backward pass of an operation on a sample of its spec."""

    def run() -> None:
        chosen = next(s for s in SPECS[name].samples if s.name == sample)
        case = chosen.make(np.random.default_rng(0), np.float32)
        given = {
            k: torch.from_numpy(v).requires_grad_(v.dtype.kind == "f") if isinstance(v, np.ndarray) else v
            for k, v in case.items()
        }
        out = getattr(st, name)(**given)
        (out if isinstance(out, torch.Tensor) else out[0]).sum().backward()

    return run


@torch.no_grad()
def steps() -> None:
    ones = torch.ones(2, 6)
    st.selective_state_update(
        torch.ones(2, 6, 3), ones, ones, -torch.ones(6, 3), torch.ones(2, 3), torch.ones(2, 3),
        state_batch_indices=torch.tensor([1, -1]),
    )  # fmt: skip
    st.causal_conv1d_update(ones, torch.ones(2, 6, 3), torch.ones(6, 4), conv_state_indices=torch.tensor([1, -1]))


RUNS = {
    "selective_scan": both_ways("selective_scan", "everything"),
    "ss2d": both_ways("ss2d", "everything"),
    "chunk_scan": both_ways("chunk_scan", "packed"),
    "causal_conv1d": both_ways("causal_conv1d", "everything"),
    "depthwise_conv2d": both_ways("depthwise_conv2d", "everything"),
    "attention_gate": both_ways("attention_gate", "training"),
    "gate_crop": both_ways("gate_crop", SPECS["gate_crop"].samples[0].name),
    "steps": steps,
}


def recorded() -> dict[str, tuple[Any, tuple[Any, ...]]]:
    recorder = Recorder()
    with recorder:
        for run in RUNS.values():
            run()
    return recorder.calls


CALLS = recorded()


def test_all_that_are_registered_were_called() -> None:
    registered = {
        name.partition("::")[2] for name in torch._C._dispatch_get_all_op_names() if name.startswith("ssmcore::")
    }
    assert registered == set(CALLS)


@pytest.mark.parametrize("name", sorted(CALLS))
def test_opcheck(name: str) -> None:
    op, arguments = CALLS[name]
    assert set(torch.library.opcheck(op, arguments, test_utils=CHECKS).values()) == {"SUCCESS"}
