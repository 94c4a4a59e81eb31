"""Linear systems of tensors and the layer S4D: against the arrays' functions, scipy and themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import ssmcore
import ssmcore.torch as st


def system(dtype: Any, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> Any:
        x = rng.standard_normal(shape)
        return (x + 1j * rng.standard_normal(shape) if np.dtype(dtype).kind == "c" else x).astype(dtype)

    A = normal(3, 5)
    return 0.95 * A / abs(A).max(), normal(3, 5), normal(3, 5), normal(2, 3, 37), normal(3), normal(2, 3, 5)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_tensors_have_the_values_of_arrays_and_gradients(dtype: Any) -> None:
    A, B, C, u, D, start = system(dtype)
    tensors = [torch.from_numpy(x).requires_grad_() for x in (A, B, C, u, D, start)]
    kernel = ssmcore.ssm_kernel(A, B, C, 37)
    np.testing.assert_allclose(st.ssm_kernel(*tensors[:3], 37).detach(), kernel, rtol=1e-12, atol=1e-13)
    y = st.ssm_convolve(tensors[3], torch.from_numpy(kernel), D=tensors[4])
    np.testing.assert_allclose(y.detach(), ssmcore.ssm_convolve(u, kernel, D=D), rtol=1e-11, atol=1e-12)
    wanted, last = ssmcore.ssm_recurrence(A, B, C, u, D=D, initial_state=start)
    found = st.ssm_recurrence(*tensors[:4], D=tensors[4], initial_state=tensors[5])
    np.testing.assert_allclose(found[0].detach(), wanted, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(found[1].detach(), last, rtol=1e-11, atol=1e-12)
    assert torch.autograd.gradcheck(lambda *a: st.ssm_kernel(*a, 7), tuple(tensors[:3]), fast_mode=True)
    short = tensors[3].detach()[..., :6].requires_grad_()
    taps = torch.from_numpy(kernel[:, :4]).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a, k, d: st.ssm_convolve(a, k, D=d), (short, taps, tensors[4]), fast_mode=True
    )
    assert torch.autograd.gradcheck(
        lambda *a: st.ssm_recurrence(*a[:4], D=a[4], initial_state=a[5]),
        (*tensors[:3], short, *tensors[4:]),
        fast_mode=True,
    )


def test_no_step_and_no_channel() -> None:
    A, B, C, u, _, _ = (torch.from_numpy(x) for x in system(np.float64))
    assert st.ssm_kernel(A, B, C, 0).shape == (3, 0)
    assert st.ssm_convolve(u[..., :0], A).shape == (2, 3, 0)
    assert st.ssm_recurrence(A, B, C, u[..., :0])[0].shape == (2, 3, 0)
    assert st.ssm_convolve(u[:0], A).shape == (0, 3, 37)


INITS = ["lin", "inv", "legs", "real"]


@pytest.mark.parametrize("discretization", ["zoh", "bilinear", "mamba"])
@pytest.mark.parametrize("init", INITS)
def test_the_layer_convolves_what_its_steps_compute(init: str, discretization: str) -> None:
    torch.manual_seed(0)
    layer = st.S4D(6, 8, init=init, discretization=discretization).double()
    u = torch.randn(2, 50, 6, dtype=torch.float64)
    y, state = layer(u), layer.initial_state(2)
    steps = []
    for k in range(50):
        out, state = layer.step(u[:, k], state)
        steps.append(out)
    torch.testing.assert_close(torch.stack(steps, 1), y, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("init", INITS)
def test_the_layer_is_a_selective_scan_that_does_not_select(init: str) -> None:
    torch.manual_seed(1)
    layer = st.S4D(4, 8, init=init).double()
    u = torch.randn(2, 30, 4, dtype=torch.float64)
    decay = -layer.log_decay.exp()
    A = decay if layer.frequency is None else torch.complex(decay, layer.frequency)
    C = layer.C[..., 0] if layer.frequency is None else torch.view_as_complex(layer.C)
    scanned = st.selective_scan(
        u, layer.log_delta.exp().expand(2, 30, 4), A, torch.ones_like(A), C, layer.D, discretization="zoh", layout="bld"
    )
    torch.testing.assert_close(scanned, layer(u), rtol=1e-10, atol=1e-11)


def test_the_kernel_is_scipys_impulse_response() -> None:
    from scipy.signal import cont2discrete, dlsim

    torch.manual_seed(2)
    layer = st.S4D(1, 3, init="inv").double()
    assert layer.frequency is not None
    A = np.diag(torch.complex(-layer.log_decay.exp(), layer.frequency)[0].detach().numpy())
    C = 2 * torch.view_as_complex(layer.C).detach().numpy()
    step = float(layer.log_delta.detach().exp())
    # scipy's systems are real: a complex state is a pair of real ones
    real = np.block([[A.real, -A.imag], [A.imag, A.real]])
    drive, read = np.array([[1.0]] * 3 + [[0.0]] * 3), np.concatenate([C.real, -C.imag], axis=1)
    discrete = cont2discrete((real, drive, read, np.zeros((1, 1))), step, method="zoh")
    # dlsim reads the state before the step, ours the one after it
    impulse = np.zeros((21, 1))
    impulse[0] = 1
    _, wanted, _ = dlsim(discrete, impulse)
    np.testing.assert_allclose(layer.kernel(20)[0].detach(), wanted[1:, 0], rtol=1e-9, atol=1e-12)


def test_the_step_and_all_else_learn() -> None:
    """A channel that is to become a leaky sum."""
    torch.manual_seed(3)
    layer = st.S4D(1, 16, init="lin")
    before = {name: p.detach().clone() for name, p in layer.named_parameters()}
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
    losses, decay = [], 0.3 * 0.8 ** torch.arange(100)
    for _ in range(200):
        u = torch.randn(16, 100, 1)
        wanted = st.ssm_convolve(u.transpose(1, 2), decay).transpose(1, 2)
        loss = (layer(u) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.1 * np.mean(losses[:10])
    assert all((p != before[name]).any() for name, p in layer.named_parameters())


def test_bfloat16_in_and_out_and_a_saved_layer_comes_back() -> None:
    layer = st.S4D(4, 8, init="legs")
    u = torch.randn(1, 20, 4)
    assert layer(u.bfloat16()).dtype == torch.bfloat16
    other = st.S4D(4, 8, init="legs")
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(u), layer(u))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: st.S4D(0), "S4D: dim: expected at least 1, got 0"),
        (lambda: st.S4D(4, init="hippo"), "kind: expected one of 'real', 'lin', 'inv', 'legs', got 'hippo'"),
        (lambda: st.S4D(4, discretization="euler"), "discretization: expected one of"),
        (lambda: st.S4D(4, delta_range=(0.1, 0.01)), r"delta_range: expected \(low, high\)"),
        (lambda: st.S4D(4)(torch.zeros(2, 4, 10)), r"u: expected \(batch, seqlen, dim\) with dim 4, got \(2, 4, 10\)"),
        (lambda: st.ssm_kernel(torch.ones(3), torch.ones(4), torch.ones(3), 5), "B_bar: expected .*dstate 3"),
        (lambda: st.ssm_kernel(torch.ones(3), torch.ones(3), torch.ones(3), -1), "length: expected at least 0, got -1"),
        (lambda: st.ssm_convolve(torch.ones(2, 5), torch.ones(3, 5)), "leading axes that broadcast"),
        (lambda: st.ssm_recurrence(*[torch.ones(3)] * 3, torch.ones(4), initial_state=torch.ones(2)), "initial_state"),
    ],
)  # fmt: skip
def test_errors_say_what_is_wrong(make: Any, says: str) -> None:
    with pytest.raises(ssmcore.ArgumentError, match=says):
        make()
