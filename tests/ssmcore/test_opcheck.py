"""Every registered custom op, forward and backward, by torch's own checks of schema, fake kernel, gradient and tracing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from samples import SAMPLES
from torch.utils._python_dispatch import TorchDispatchMode

import ssmcore.torch as st

QUICK = ("test_schema", "test_faketensor")
ALL = (*QUICK, "test_autograd_registration", "test_aot_dispatch_dynamic")
CHECKED = {
    "selective_scan": ("plain", "everything", "channel-last", "groups", "constant both"),
    "ss2d": ("plain", "everything"),
    "chunk_scan": ("plain", "everything", "packed"),
    "causal_conv1d": ("plain", "everything", "channel-last"),
    "depthwise_conv2d": ("plain", "everything"),
    "attention_gate": ("training", "inference", "cropped"),
    "gate_crop": ("even",),
}
CASES = [(name, sample) for name, samples in CHECKED.items() for sample in samples]


class Recorder(TorchDispatchMode):
    """Keeps the arguments of each of our ops that is called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[Any, tuple[Any, ...]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "ssmcore":
            once = func._opname.endswith("_bwd")  # differentiable once, which this is
            self.calls[func] = tuple(
                a.detach().clone().requires_grad_(a.requires_grad and not once) if isinstance(a, torch.Tensor) else a
                for a in args
            )
        return func(*args, **(kwargs or {}))


def calls_of(name: str, sample: str, dtype: Any, backend: str | None = None) -> dict[Any, tuple[Any, ...]]:
    """The ops of a forward and a backward pass with their arguments."""
    chosen = SAMPLES[name].named(sample)
    given = {
        k: torch.from_numpy(v).requires_grad_(v.dtype.kind == "f" and k != "statistics")
        if isinstance(v, np.ndarray)
        else v
        for k, v in chosen.make(np.random.default_rng(0), dtype).items()
    }
    with Recorder() as recorder:
        out = getattr(st, name)(**given, backend=backend)
        (out if isinstance(out, torch.Tensor) else out[0]).sum().backward()
    return recorder.calls


@torch.no_grad()
def calls_of_steps(dtype: torch.dtype, indices: Any, backend: str | None = None) -> dict[Any, tuple[Any, ...]]:
    ones, more = torch.ones(2, 6, dtype=dtype), torch.ones(2, 6, 3, dtype=dtype)
    kept = None if indices is None else torch.tensor(indices)
    with Recorder() as recorder:
        st.selective_state_update(
            more, ones, ones, -more[0], more[:, 0], more[:, 0], state_batch_indices=kept, backend=backend
        )
        st.causal_conv1d_update(ones, more, torch.ones(6, 4, dtype=dtype), conv_state_indices=kept, backend=backend)
    return recorder.calls


def check(calls: dict[Any, tuple[Any, ...]], tests: tuple[str, ...]) -> None:
    assert calls
    for op, arguments in calls.items():
        assert set(torch.library.opcheck(op, arguments, test_utils=tests).values()) == {"SUCCESS"}, op


def test_all_registered_ops_are_checked() -> None:
    registered = {n.partition("::")[2] for n in torch._C._dispatch_get_all_op_names() if n.startswith("ssmcore::")}
    calls = calls_of_steps(torch.float32, [1, -1])
    for name, samples in CHECKED.items():
        calls |= calls_of(name, samples[0], np.float32)
    assert registered == {op._opname for op in calls}


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda d: d.__name__)
@pytest.mark.parametrize(("name", "sample"), CASES)
def test_every_backend_returns_what_the_fake_kernel_says(name: str, sample: str, dtype: Any, any_backend: str) -> None:
    check(calls_of(name, sample, dtype, any_backend), QUICK)


@pytest.mark.parametrize("indices", [None, [1, -1]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_of_every_backend(dtype: torch.dtype, indices: Any, any_backend: str) -> None:
    check(calls_of_steps(dtype, indices, any_backend), QUICK)


@pytest.mark.parametrize(("name", "sample"), CASES)
def test_ops_have_gradients_and_can_be_traced(name: str, sample: str) -> None:
    check(calls_of(name, sample, np.float32), ALL)


@pytest.mark.parametrize("indices", [None, [1, -1]])
def test_steps_can_be_traced(indices: Any) -> None:
    check(calls_of_steps(torch.float32, indices), ALL)
