"""Discretisation and gate crop beside plain NumPy, convolutions and the attention gate beside torch's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from oracles import relative_error, widened
from samples import SAMPLES

import ssmcore
from ssmcore.ops import SPECS


@pytest.mark.parametrize("backend", ["cython", "numba", "numpy"])
def test_discretize(backend: str, measure: Any) -> None:
    spec = SPECS["discretize"]
    case = SAMPLES["discretize"].benchmarks[0].make(np.random.default_rng(0), np.float32)

    def run() -> Any:
        return ssmcore.discretize(**case, backend=backend)

    result = run()[1]
    error = relative_error(result, ssmcore.discretize(**widened(case))[1])
    measure(run, elements=result.size, error=error, tolerance=spec.forward.float32, rounds=5)


@pytest.mark.parametrize("backend", ["cython", "numba", "numpy"])
def test_gate_crop(backend: str, measure: Any) -> None:
    case = SAMPLES["gate_crop"].benchmarks[0].make(np.random.default_rng(0), np.float32)

    def run() -> Any:
        return ssmcore.gate_crop(**case, backend=backend)

    reference = np.ascontiguousarray(case["g"][..., 1:-1, 1:-1])
    measure(run, elements=reference.size, error=relative_error(run(), reference), tolerance=0.0)


CONVOLUTIONS = {sample.name: sample for sample in SAMPLES["causal_conv1d"].benchmarks}


def convolution(name: str) -> dict[str, Any]:
    return CONVOLUTIONS[name].make(np.random.default_rng(0), np.float32)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("backend", ["cython", "numba"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_causal_conv1d(name: str, backend: str, threads: int, measure: Any) -> None:
    case = convolution(name)

    def run() -> Any:
        return ssmcore.causal_conv1d(**case, backend=backend, num_threads=threads)

    error = relative_error(run(), ssmcore.causal_conv1d(**widened(case)))
    tolerance = SPECS["causal_conv1d"].forward.float32
    measure(run, elements=case["x"].size, error=error, tolerance=tolerance, moved=2 * case["x"].nbytes)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_causal_conv1d_forward_and_backward(name: str, threads: int, measure: Any) -> None:
    case = convolution(name)
    dout = np.ones_like(case["x"])

    def run() -> Any:
        ssmcore.causal_conv1d(**case, num_threads=threads)
        return ssmcore.causal_conv1d_vjp(dout, **case, num_threads=threads)

    wide = widened(case)
    error = relative_error(run().weight, ssmcore.causal_conv1d_vjp(np.ones_like(wide["x"]), **wide).weight)
    tolerance = SPECS["causal_conv1d"].gradient.float32
    measure(run, elements=case["x"].size, error=error, tolerance=tolerance, moved=5 * case["x"].nbytes)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_torch_conv1d(name: str, measure: Any) -> None:
    """What a user writes instead: pad, grouped convolution, SiLU, on (batch, dim, seqlen)."""
    case = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in convolution(name).items()}
    x = case["x"].transpose(1, 2) if case["layout"] == "bld" else case["x"]

    @torch.inference_mode()
    def run() -> Any:
        extended = torch.cat([case["initial_state"], x], -1)
        y = torch.nn.functional.conv1d(extended, case["weight"][:, None], case["bias"], groups=x.shape[1])
        y = torch.nn.functional.silu(y)
        return y.transpose(1, 2).contiguous() if case["layout"] == "bld" else y

    error = relative_error(run(), ssmcore.causal_conv1d(**widened(convolution(name))))
    measure(run, elements=x.numel(), error=error, tolerance=1e-4, rounds=7, moved=2 * x.numel() * 4)


GRID_CONVOLUTIONS = {sample.name: sample for sample in SAMPLES["depthwise_conv2d"].benchmarks}


def grid_convolution(name: str) -> dict[str, Any]:
    return GRID_CONVOLUTIONS[name].make(np.random.default_rng(0), np.float32)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("backend", ["cython", "numba"])
@pytest.mark.parametrize("name", GRID_CONVOLUTIONS)
def test_depthwise_conv2d(name: str, backend: str, threads: int, measure: Any) -> None:
    case = grid_convolution(name)

    def run() -> Any:
        return ssmcore.depthwise_conv2d(**case, backend=backend, num_threads=threads)

    error = relative_error(run(), ssmcore.depthwise_conv2d(**widened(case)))
    tolerance = SPECS["depthwise_conv2d"].forward.float32
    measure(run, elements=case["x"].size, error=error, tolerance=tolerance, moved=2 * case["x"].nbytes)


@pytest.mark.parametrize("way", ["ssmcore", "torch"])
@pytest.mark.parametrize("name", GRID_CONVOLUTIONS)
def test_depthwise_conv2d_training_step(name: str, way: str, measure: Any) -> None:
    """Forward and backward through torch, ours and what a user writes instead: conv2d on channels-last memory, then SiLU."""
    import ssmcore.torch

    case = grid_convolution(name)
    x, weight, bias = (torch.from_numpy(case[n]).requires_grad_() for n in ("x", "weight", "bias"))

    def output() -> torch.Tensor:
        if way == "ssmcore":
            return ssmcore.torch.depthwise_conv2d(x, weight, bias, "silu")
        y = torch.nn.functional.conv2d(x.permute(0, 3, 1, 2), weight[:, None], bias, padding=1, groups=x.shape[3])
        return torch.nn.functional.silu(y).permute(0, 2, 3, 1)

    dout = torch.ones_like(x)

    def run() -> Any:
        return torch.autograd.grad(output(), (x, weight, bias), dout)

    wide = widened(case)
    reference = ssmcore.depthwise_conv2d_vjp(np.ones_like(wide["x"]), **wide)
    error = max(relative_error(got, wanted) for got, wanted in zip(run(), reference, strict=True))
    measure(run, elements=x.numel(), error=error, tolerance=1e-4, moved=5 * x.numel() * 4)


GATES = {sample.name: sample for sample in SAMPLES["attention_gate"].benchmarks}


def torch_gate(case: dict[str, torch.Tensor], *, training: bool) -> torch.Tensor:
    """What a user writes instead: batch norms, ReLU, a 1x1 convolution, sigmoid and product, on channels-last memory."""
    f = torch.nn.functional
    x, theta, phi = (case[n].permute(0, 3, 1, 2) for n in ("x", "theta", "phi"))
    dim = theta.shape[1]
    zero, one = theta.new_zeros(dim), theta.new_ones(dim)

    def norm(value: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        channels = value.shape[1]
        statistics = (None, None) if training else (zero[:channels], one[:channels])
        return f.batch_norm(value, *statistics, weight, bias, training=training)

    a = f.relu(norm(theta, case["theta_weight"], case["shift"]) + norm(phi, case["phi_weight"], zero))
    q = norm(f.conv2d(a, case["psi"].reshape(1, dim, 1, 1)), case["psi_weight"], case["psi_shift"])
    return (x * torch.sigmoid(q)).permute(0, 2, 3, 1)


@pytest.mark.parametrize("pass_", ["inference", "training step"])
@pytest.mark.parametrize("way", ["ssmcore", "torch"])
@pytest.mark.parametrize("name", GATES)
def test_attention_gate(name: str, way: str, pass_: str, measure: Any) -> None:
    """An element is one of theta."""
    import ssmcore.torch

    arrays = GATES[name].make(np.random.default_rng(0), np.float32)
    training = pass_ == "training step"
    case = {n: torch.from_numpy(a).requires_grad_(training) for n, a in arrays.items()}
    rows = 2 * arrays["shift"].size + 1
    given = None if training else np.tile(np.array([[0.0, 1.0]], np.float32), (rows, 1))
    dout = torch.ones_like(case["x"])

    def output() -> torch.Tensor:
        if way == "torch":
            return torch_gate(case, training=training)
        return ssmcore.torch.attention_gate(*case.values(), None if given is None else torch.from_numpy(given))[0]

    def run() -> Any:
        if training:
            return torch.autograd.grad(output(), (case["x"], case["theta"], case["phi"]), dout)
        with torch.inference_mode():
            return (output(),)

    wide = widened(arrays)
    if training:
        wanted = ssmcore.attention_gate_vjp(np.ones_like(wide["x"]), **wide)[:3]
    else:
        wanted = ssmcore.attention_gate(**wide, statistics=given)[:1]
    error = max(relative_error(got, w) for got, w in zip(run(), wanted, strict=True))
    moved = (4 if training else 1) * (2 * arrays["x"].nbytes + 2 * arrays["theta"].nbytes)
    # an a within rounding of 0 may fall on the other side of the ReLU, which moves a whole entry of a gradient
    measure(run, elements=arrays["theta"].size, error=error, tolerance=0.1 if way == "torch" else 1e-3, moved=moved)
