"""Plain torch, on any device: what `ssmcore.torch` runs where there is no kernel, and an independent check of the others.

The `*_tensors` functions take and return tensors and are differentiable by autograd; the functions named as operations
take NumPy arrays. Sequences are (batch, seqlen, dim); B and C (batch, seqlen, ngroups, dstate) or (dim, dstate).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from .._conventions import CHECKPOINT_STEPS, DIRECTIONS, centre, roll_up, unroll

Array = NDArray[Any]


def about(op: str) -> str:
    return f"plain torch {torch.__version__}"


# ---- on tensors ----


def _phi(x: Tensor) -> Tensor:
    """(e^x - 1)/x, by its series near 0, so that value and derivative are free of cancellation."""
    near = x.abs() < 0.5
    small = torch.where(near, x, torch.zeros_like(x))
    series = torch.zeros_like(x)
    for k in range(17, 0, -1):
        series = (series * small + 1) / k if k > 1 else series * small + 1
    far = torch.where(near, torch.ones_like(x), x)
    return torch.where(near, series, torch.expm1(far) / far)


def _diagonal(x: Tensor, method: str) -> tuple[Tensor, Tensor]:
    if method == "bilinear":
        return (1 + x / 2) / (1 - x / 2), 1 / (1 - x / 2)
    return torch.exp(x), _phi(x) if method == "zoh" else torch.ones_like(x)


def discretize_tensors(A: Tensor, B: Tensor, delta: Tensor, *, method: str, structure: str) -> tuple[Tensor, Tensor]:
    if structure == "diagonal":
        step = delta[..., None]
        A_bar, gain = _diagonal(step * A, method)
        return A_bar, gain * step * B
    n, m = B.shape[-2:]
    step = delta[..., None, None]
    if method == "bilinear":
        eye = torch.eye(n, dtype=A.dtype, device=A.device)
        left = eye - step / 2 * A
        return torch.linalg.solve(left, eye + step / 2 * A), torch.linalg.solve(left, step * B)
    if method == "mamba":
        return torch.linalg.matrix_exp(step * A), step * B
    X, Y = torch.broadcast_tensors(step * A, torch.zeros_like(step))[0], step * B
    batch = torch.broadcast_shapes(X.shape[:-2], Y.shape[:-2])
    top = torch.cat([X.expand(*batch, n, n), Y.expand(*batch, n, m)], dim=-1)
    E = torch.linalg.matrix_exp(torch.cat([top, top.new_zeros(*batch, m, n + m)], dim=-2))
    return E[..., :n, :n], E[..., :n, n:]


def ssm_recurrence_tensors(
    A_bar: Tensor, B_bar: Tensor, C: Tensor, u: Tensor, initial_state: Tensor, lead: tuple[int, ...], *, structure: str
) -> tuple[Tensor, Tensor]:
    """(y, last_state) by a loop over time."""
    x, steps = initial_state.expand(*lead, initial_state.shape[-1]), []
    for k in range(u.shape[-1]):
        carried = A_bar * x if structure == "diagonal" else (A_bar @ x[..., None])[..., 0]
        x = carried + B_bar * u[..., k, None]
        steps.append((C * x).sum(-1))
    return torch.stack(steps, dim=-1) if steps else (x.sum(-1, keepdim=True) * u)[..., :0], x


def selective_scan_tensors(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    initial_state: Tensor | None = None,
    *,
    delta_softplus: bool,
    discretization: str,
    keep_checkpoints: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """(out, last_state, checkpoints) by a loop over time, in float64 for float64 input and float32 otherwise, as the states stay."""
    dtype, wide = u.dtype, torch.float64 if u.dtype == torch.float64 else torch.float32
    both = torch.complex128 if wide == torch.float64 else torch.complex64
    u, delta, A, B, C = (x.to(both if x.is_complex() else wide) for x in (u, delta, A, B, C))
    batch, seqlen, dim = u.shape
    if delta_bias is not None:
        delta = delta + delta_bias.to(wide)
    if delta_softplus:
        delta = F.softplus(delta)
    h = A.new_zeros(batch, dim, A.shape[1]) if initial_state is None else initial_state.to(A.dtype)
    steps, kept = [], []
    for t in range(seqlen):
        if keep_checkpoints and t % CHECKPOINT_STEPS == 0:
            kept.append(h.transpose(1, 2))
        step = delta[:, t, :, None]
        A_bar, gain = _diagonal(step * A, discretization)
        h = A_bar * h + gain * step * _at(B, t, dim) * u[:, t, :, None]
        y_t = (_at(C, t, dim) * h).sum(-1)
        steps.append(2 * y_t.real if y_t.is_complex() else y_t)
    y = torch.stack(steps, dim=1) if steps else torch.zeros_like(u)
    if D is not None:
        y = y + D.to(wide) * u
    if z is not None:
        y = y * F.silu(z.to(wide))
    checkpoints = (
        torch.stack(kept, dim=1) if kept else h.new_empty((batch, 0, A.shape[1], dim) if keep_checkpoints else 0)
    )
    return y.to(dtype), h, checkpoints


def _at(matrix: Tensor, t: int, dim: int) -> Tensor:
    if matrix.ndim == 2:
        return matrix[None]
    return matrix[:, t].repeat_interleave(dim // matrix.shape[2], dim=1)


def ss2d_tensors(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    *,
    keep_checkpoints: bool = False,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """(out, checkpoints) by four scans, as `selective_scan_tensors` makes them."""
    total, kept = torch.zeros_like(x), []
    for k in range(len(DIRECTIONS)):
        y, _, checkpoints = selective_scan_tensors(
            unroll(x, k),
            unroll(delta[:, :, :, k], k),
            A[k],
            unroll(B[:, :, :, k : k + 1], k),
            unroll(C[:, :, :, k : k + 1], k),
            None if D is None else D[k],
            delta_bias=None if delta_bias is None else delta_bias[k],
            keep_checkpoints=keep_checkpoints,
            **options,
        )
        total = total + roll_up(y, k, x.shape[1], x.shape[2])
        kept.append(checkpoints)
    return total, torch.stack(kept)


def chunk_scan_tensors(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    initial_states: Tensor | None = None,
    starts: Tensor | None = None,
    *,
    keep_states: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """(out, final_states, states before every chunk) by a loop over time, in float64 for float64 input and float32 otherwise, as the
    states stay."""
    dtype, wide = x.dtype, torch.float64 if x.dtype == torch.float64 else torch.float32
    x, dt, A, B, C = (t.to(wide) for t in (x, dt, A, B, C))
    batch, seqlen, nheads, headdim = x.shape
    B, C = (m.repeat_interleave(nheads // m.shape[2], dim=2)[:, :, :, None] for m in (B, C))
    h = x.new_zeros(batch, nheads, headdim, B.shape[4]) if initial_states is None else initial_states.to(wide)
    decay, entering = (dt * A).exp()[..., None, None], (dt[..., None] * x)[..., None]
    steps, kept = [], []
    for t in range(seqlen):
        if t % CHECKPOINT_STEPS == 0:
            kept.append(h.transpose(2, 3))
        if starts is not None and t > 0:
            h = h.masked_fill(starts[:, t, None, None, None] != 0, 0)
        h = decay[:, t] * h + entering[:, t] * B[:, t]
        steps.append((C[:, t] * h).sum(-1))
    y = torch.stack(steps, dim=1) if steps else torch.zeros_like(x)
    if D is not None:
        y = y + D.to(wide) * x
    states = torch.stack(kept, dim=1) if kept else h.new_empty((batch, 0, nheads, B.shape[4], headdim))
    return y.to(dtype), h, states if keep_states else h.new_empty(0)


def causal_conv1d_tensors(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial_states: Tensor | None, *, silu: bool
) -> Tensor:
    """x (batch, seqlen, dim) by torch's own depthwise convolution, in x's dtype."""
    taps, wide = weight.shape[1], torch.float64 if x.dtype == torch.float64 else torch.float32
    extended = x.to(wide).transpose(1, 2)
    if initial_states is None:
        extended = F.pad(extended, (taps - 1, 0))
    else:
        extended = torch.cat([initial_states.to(wide), extended], dim=-1)
    if x.numel() == 0:
        return torch.zeros_like(x) + 0 * extended.sum()
    y = F.conv1d(extended, weight[:, None].to(wide), None if bias is None else bias.to(wide), groups=x.shape[2])
    return (F.silu(y) if silu else y).transpose(1, 2).to(x.dtype)


def depthwise_conv2d_tensors(x: Tensor, weight: Tensor, bias: Tensor | None, *, silu: bool) -> Tensor:
    """x (batch, height, width, dim) by torch's own depthwise convolution, in x's dtype."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    if x.numel() == 0:
        return x * 0 + 0 * weight.sum() + (0 if bias is None else 0 * bias.sum())
    y = F.conv2d(
        x.to(wide).permute(0, 3, 1, 2),
        weight[:, None].to(wide),
        None if bias is None else bias.to(wide),
        padding=1,
        groups=x.shape[3],
    )
    return (F.silu(y) if silu else y).permute(0, 2, 3, 1).to(x.dtype)


def attention_gate_tensors(
    x: Tensor, theta: Tensor, phi: Tensor, *others: Any, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """out, q and the statistics used, by plain operations."""
    theta_weight, phi_weight, shift, psi, psi_weight, psi_shift, statistics = others
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    over, used = (0, 1, 2), []

    def normed(value: Tensor, rows: slice) -> Tensor:
        if statistics is None:
            mean, variance = value.mean(over), value.var(over, correction=0)
        else:
            mean, variance = statistics[rows].to(wide).unbind(-1)
        used.append(torch.stack([mean, variance], -1).reshape(-1, 2))
        return (value - mean) * torch.rsqrt(variance + eps)

    dim = theta.shape[3]
    a = normed(theta.to(wide), slice(dim)) * theta_weight + shift
    a = a + normed(phi[centre(phi, theta)].to(wide), slice(dim, 2 * dim)) * phi_weight
    q = torch.relu(a) @ psi.to(wide)
    rate = torch.sigmoid(normed(q[..., None], slice(2 * dim, None)) * psi_weight + psi_shift)
    return (x * rate).to(x.dtype), q, torch.cat(used)


def gate_crop_tensors(g: Tensor, size: Sequence[int]) -> Tensor:
    lead = g.ndim - len(size)
    for axis, part in enumerate(size, start=lead):
        g = g.narrow(axis, (g.shape[axis] - part) // 2, part)
    return g.clone(memory_format=torch.contiguous_format)


def gradients(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor | None], douts: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Gradients of sum(output * dout), None for an absent input, zeros for one that nothing depends on."""
    pairs = [(o, d) for o, d in zip(outputs, douts, strict=True) if d is not None and o.requires_grad]
    wanted = [x for x in inputs if x is not None]
    if not pairs:
        return [None if x is None else torch.zeros_like(x) for x in inputs]
    found = iter(torch.autograd.grad([o for o, _ in pairs], wanted, [d for _, d in pairs], allow_unused=True))
    return [None if x is None else (torch.zeros_like(x) if (g := next(found)) is None else g) for x in inputs]


# ---- on NumPy arrays ----


def _tensors(*arrays: Array | None, requires_grad: bool = False) -> list[Any]:
    return [None if a is None else torch.from_numpy(a.copy()).requires_grad_(requires_grad) for a in arrays]


def _arrays(tensors: Sequence[Tensor | None]) -> tuple[Any, ...]:
    # a gradient may come expanded, many entries on one number in memory
    return tuple(None if t is None else t.detach().contiguous().numpy() for t in tensors)


def discretize(
    A: Array, B: Array, delta: Array, *, method: str, structure: str, num_threads: int
) -> tuple[Array, Array]:
    A_bar, B_bar = _arrays(discretize_tensors(*_tensors(A, B, delta), method=method, structure=structure))
    return A_bar, B_bar


def discretize_vjp(
    dA_bar: Array, dB_bar: Array, A: Array, B: Array, delta: Array, *, method: str, structure: str, num_threads: int
) -> tuple[Array, Array, Array]:
    inputs = _tensors(A, B, delta, requires_grad=True)
    outputs = discretize_tensors(*inputs, method=method, structure=structure)
    dA, dB, ddelta = _arrays(gradients(outputs, inputs, _tensors(dA_bar, dB_bar)))
    return dA, dB, ddelta


def ssm_recurrence(
    A_bar: Array,
    B_bar: Array,
    C: Array,
    u: Array,
    initial_state: Array,
    lead: tuple[int, ...],
    *,
    structure: str,
    num_threads: int,
) -> tuple[Array, Array]:
    wide = torch.from_numpy(np.zeros(0, np.result_type(A_bar, B_bar, C, u, initial_state))).dtype
    A, B, C_tensor, inputs, start = (t.to(wide) for t in _tensors(A_bar, B_bar, C, u, initial_state))
    y, last_state = _arrays(ssm_recurrence_tensors(A, B, C_tensor, inputs, start, lead, structure=structure))
    return y, last_state


def selective_scan_fwd(
    u: Array,
    delta: Array,
    A: Array,
    B: Array,
    C: Array,
    D: Array | None,
    z: Array | None,
    delta_bias: Array | None,
    initial_state: Array | None,
    *,
    delta_softplus: bool,
    discretization: str,
    channel_first: bool,
    keep_checkpoints: bool,
    num_threads: int,
) -> tuple[Array, Array, Array | None]:
    inputs = _tensors(u, delta, A, B, C, D, z, delta_bias, initial_state)
    out, last, kept = selective_scan_tensors(
        *inputs, delta_softplus=delta_softplus, discretization=discretization, keep_checkpoints=keep_checkpoints
    )
    return out.numpy(), last.numpy(), kept.contiguous().numpy() if keep_checkpoints else None


def selective_scan_bwd(
    dout: Array,
    dlast_state: Array | None,
    u: Array,
    delta: Array,
    A: Array,
    B: Array,
    C: Array,
    D: Array | None,
    z: Array | None,
    delta_bias: Array | None,
    initial_state: Array | None,
    checkpoints: Array | None,
    *,
    delta_softplus: bool,
    discretization: str,
    channel_first: bool,
    num_threads: int,
) -> tuple[Array | None, ...]:
    if initial_state is None:
        initial_state = np.zeros((u.shape[0], *A.shape), A.dtype if A.dtype.kind == "c" else u.dtype)
    inputs = _tensors(u, delta, A, B, C, D, z, delta_bias, initial_state, requires_grad=True)
    out, last, _ = selective_scan_tensors(*inputs, delta_softplus=delta_softplus, discretization=discretization)
    return _arrays(gradients((out, last), inputs, _tensors(dout, dlast_state)))


def ss2d_fwd(
    *arrays: Array | None, keep_checkpoints: bool, num_threads: int, **options: Any
) -> tuple[Array, Array | None]:
    out, kept = ss2d_tensors(*_tensors(*arrays), keep_checkpoints=keep_checkpoints, **options)
    return out.numpy(), kept.numpy() if keep_checkpoints else None


def ss2d_bwd(dout: Array, *arrays: Array | None, num_threads: int, **options: Any) -> tuple[Array | None, ...]:
    *given, _ = arrays
    inputs = _tensors(*given, requires_grad=True)
    out, _ = ss2d_tensors(*inputs, **options)
    return _arrays(gradients((out,), inputs, _tensors(dout)))


def chunk_scan_fwd(*arrays: Array | None, keep_states: bool, num_threads: int) -> tuple[Array, Array, Array | None]:
    out, final, states = chunk_scan_tensors(*_tensors(*arrays), keep_states=keep_states)
    return out.contiguous().numpy(), final.contiguous().numpy(), states.contiguous().numpy() if keep_states else None


def chunk_scan_bwd(
    dout: Array, dfinal_states: Array | None, x: Array, *arrays: Array | None, num_threads: int
) -> tuple[Array | None, ...]:
    *given, initial_states, starts, _ = arrays
    if initial_states is None:
        initial_states = np.zeros((x.shape[0], *x.shape[2:], given[2].shape[3]), x.dtype)  # type: ignore[union-attr]
    inputs = _tensors(x, *given, initial_states, requires_grad=True)
    out, final, _ = chunk_scan_tensors(*inputs, *_tensors(starts))
    return _arrays(gradients((out, final), inputs, _tensors(dout, dfinal_states)))


def causal_conv1d_fwd(*arrays: Array | None, silu: bool, channel_first: bool, num_threads: int) -> Array:
    out: Array = causal_conv1d_tensors(*_tensors(*arrays), silu=silu).numpy()
    return out


def causal_conv1d_bwd(
    dout: Array,
    x: Array,
    weight: Array,
    bias: Array | None,
    initial_states: Array | None,
    *,
    silu: bool,
    channel_first: bool,
    num_threads: int,
) -> tuple[Array | None, ...]:
    if initial_states is None:
        initial_states = np.zeros((x.shape[0], x.shape[2], weight.shape[1] - 1), x.dtype)
    inputs = _tensors(x, weight, bias, initial_states, requires_grad=True)
    out = causal_conv1d_tensors(*inputs, silu=silu)
    return _arrays(gradients((out,), inputs, _tensors(dout)))


def depthwise_conv2d_fwd(*arrays: Array | None, silu: bool, num_threads: int) -> Array:
    out: Array = depthwise_conv2d_tensors(*_tensors(*arrays), silu=silu).contiguous().numpy()
    return out


def depthwise_conv2d_bwd(dout: Array, *arrays: Array | None, silu: bool, num_threads: int) -> tuple[Array | None, ...]:
    inputs = _tensors(*arrays, requires_grad=True)
    out = depthwise_conv2d_tensors(*inputs, silu=silu)
    return _arrays(gradients((out,), inputs, _tensors(dout)))


def attention_gate_fwd(*arrays: Array | None, eps: float, num_threads: int) -> tuple[Array, Array, Array]:
    with torch.no_grad():
        out, q, statistics = attention_gate_tensors(*_tensors(*arrays), eps=eps)
    return out.contiguous().numpy(), q.numpy(), statistics.numpy()


def attention_gate_bwd(
    dout: Array, *arrays: Array, given: bool, eps: float, num_threads: int
) -> tuple[Array | None, ...]:
    *leaves, statistics, _ = arrays
    inputs = _tensors(*leaves, requires_grad=True)
    (used,) = _tensors(statistics)
    out = attention_gate_tensors(*inputs, used if given else None, eps=eps)[0]
    return _arrays(gradients((out,), inputs, _tensors(dout)))


def gate_crop(g: Array, size: tuple[int, ...]) -> Array:
    cropped: Array = gate_crop_tensors(torch.from_numpy(g.copy()), size).numpy()
    return cropped


def gate_crop_vjp(dout: Array, g_size: tuple[int, ...]) -> Array:
    g = torch.zeros(
        *dout.shape[: dout.ndim - len(g_size)], *g_size, dtype=torch.from_numpy(dout.copy()).dtype, requires_grad=True
    )
    cropped = gate_crop_tensors(g, dout.shape[dout.ndim - len(g_size) :])
    (dg,) = torch.autograd.grad(cropped, g, torch.from_numpy(dout.copy()))
    result: Array = dg.numpy()
    return result
