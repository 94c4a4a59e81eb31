"""Plain torch, on any device: the path of `ssmcore.torch` without kernels, and an independent check of other backends.

`forward` and `vjp` take a call whose arrays are tensors and return tensors; autograd differentiates `forward`. `OPERATIONS` do the same for
NumPy arrays. Sequences are (batch, seqlen, dim); B and C (batch, seqlen, ngroups, dstate) or (dim, dstate).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .._conventions import CHECKPOINT_STEPS, DIRECTIONS, centre, roll_up
from .._spec import Call
from ._by_scans import scan_of
from .protocol import Operation, Operations, Results

TENSORS = Operations()
"""Forward functions of calls on tensors."""


def about(op: str) -> str:
    return f"plain torch {torch.__version__}"


def limits(op: str, traits: frozenset[str]) -> str | None:
    return None


def wide(x: Tensor) -> torch.dtype:
    """The dtype that an operation on x is computed in."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


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


@TENSORS
def discretize(call: Call) -> Results:
    A, B, delta = call.arrays.values()
    if call.structure == "diagonal":
        step = delta[..., None]
        A_bar, gain = _diagonal(step * A, call.method)
        return A_bar, gain * step * B
    n, m = B.shape[-2:]
    step = delta[..., None, None]
    if call.method == "bilinear":
        eye = torch.eye(n, dtype=A.dtype, device=A.device)
        left = eye - step / 2 * A
        return torch.linalg.solve(left, eye + step / 2 * A), torch.linalg.solve(left, step * B)
    if call.method == "mamba":
        return torch.linalg.matrix_exp(step * A), step * B
    X, Y = torch.broadcast_tensors(step * A, torch.zeros_like(step))[0], step * B
    batch = torch.broadcast_shapes(X.shape[:-2], Y.shape[:-2])
    top = torch.cat([X.expand(*batch, n, n), Y.expand(*batch, n, m)], dim=-1)
    E = torch.linalg.matrix_exp(torch.cat([top, top.new_zeros(*batch, m, n + m)], dim=-2))
    return E[..., :n, :n], E[..., :n, n:]


@TENSORS
def ssm_recurrence(call: Call) -> Results:
    """(y, last_state) by a loop over time."""
    A_bar, B_bar, C, u, initial_state = call.arrays.values()
    if call.structure == "dense":  # a matrix product wants one dtype
        dtype = reduce(torch.promote_types, (x.dtype for x in call.arrays.values()))
        A_bar, initial_state = A_bar.to(dtype), initial_state.to(dtype)
    x, steps = initial_state.expand(*call.lead, initial_state.shape[-1]), []
    for k in range(u.shape[-1]):
        carried = A_bar * x if call.structure == "diagonal" else (A_bar @ x[..., None])[..., 0]
        x = carried + B_bar * u[..., k, None]
        steps.append((C * x).sum(-1))
    return torch.stack(steps, dim=-1) if steps else (x.sum(-1, keepdim=True) * u)[..., :0], x


@TENSORS
def selective_scan(call: Call) -> Results:
    """(out, last_state, checkpoints) by a loop over time."""
    u, delta, A, B, C, D, z, delta_bias, initial_state = call.arrays.values()
    dtype, real = u.dtype, wide(u)
    both = torch.complex128 if real == torch.float64 else torch.complex64
    u, delta, A, B, C = (x.to(both if x.is_complex() else real) for x in (u, delta, A, B, C))
    batch, seqlen, dim = u.shape
    if delta_bias is not None:
        delta = delta + delta_bias.to(real)
    if call.delta_softplus:
        delta = F.softplus(delta)
    h = A.new_zeros(batch, dim, A.shape[1]) if initial_state is None else initial_state.to(A.dtype)
    steps, kept = [], []
    for t in range(seqlen):
        if call.keep and t % CHECKPOINT_STEPS == 0:
            kept.append(h.transpose(1, 2))
        step = delta[:, t, :, None]
        A_bar, gain = _diagonal(step * A, call.discretization)
        h = A_bar * h + gain * step * _at(B, t, dim) * u[:, t, :, None]
        y_t = (_at(C, t, dim) * h).sum(-1)
        steps.append(2 * y_t.real if y_t.is_complex() else y_t)
    y = torch.stack(steps, dim=1) if steps else torch.zeros_like(u)
    if D is not None:
        y = y + D.to(real) * u
    if z is not None:
        y = y * F.silu(z.to(real))
    return y.to(dtype), h, _checkpoints(call, kept, h.new_empty(batch, 0, A.shape[1], dim))


def _checkpoints(call: Call, kept: list[Tensor], none: Tensor) -> Tensor | None:
    """States before every chunk, one behind another on the second axis; `none` where there is no chunk."""
    return (torch.stack(kept, dim=1) if kept else none) if call.keep else None


def _at(matrix: Tensor, t: int, dim: int) -> Tensor:
    if matrix.ndim == 2:
        return matrix[None]
    return matrix[:, t].repeat_interleave(dim // matrix.shape[2], dim=1)


@TENSORS
def ss2d(call: Call) -> Results:
    """(out, checkpoints) by four scans."""
    x, kept = call.x, []
    total = torch.zeros_like(x)
    for k in range(len(DIRECTIONS)):
        y, _, checkpoints = selective_scan(scan_of(call, k))
        total = total + roll_up(y, k, x.shape[1], x.shape[2])
        kept.append(checkpoints)
    return total, torch.stack(kept) if call.keep else None


@TENSORS
def chunk_scan(call: Call) -> Results:
    """(out, last_state, states before every chunk) by a loop over time."""
    x, dt, A, B, C, D, initial_state, starts = call.arrays.values()
    dtype, real = x.dtype, wide(x)
    x, dt, A, B, C = (t.to(real) for t in (x, dt, A, B, C))
    batch, seqlen, nheads, headdim = x.shape
    B, C = (m.repeat_interleave(nheads // m.shape[2], dim=2)[:, :, :, None] for m in (B, C))
    h = x.new_zeros(batch, nheads, headdim, B.shape[4]) if initial_state is None else initial_state.to(real)
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
        y = y + D.to(real) * x
    return y.to(dtype), h, _checkpoints(call, kept, h.new_empty(batch, 0, nheads, B.shape[4], headdim))


@TENSORS
def causal_conv1d(call: Call) -> Results:
    """By torch's own depthwise convolution."""
    x, weight, bias, initial_state = call.arrays.values()
    taps, real = weight.shape[1], wide(x)
    extended = x.to(real).transpose(1, 2)
    if initial_state is None:
        extended = F.pad(extended, (taps - 1, 0))
    else:
        extended = torch.cat([initial_state.to(real), extended], dim=-1)
    if x.numel() == 0:
        return (torch.zeros_like(x) + 0 * extended.sum(),)
    y = F.conv1d(extended, weight[:, None].to(real), None if bias is None else bias.to(real), groups=x.shape[2])
    return ((y if call.activation is None else F.silu(y)).transpose(1, 2).to(x.dtype),)


@TENSORS
def depthwise_conv2d(call: Call) -> Results:
    """By torch's own depthwise convolution."""
    x, weight, bias = call.arrays.values()
    real = wide(x)
    if x.numel() == 0:
        return (x * 0 + 0 * weight.sum() + (0 if bias is None else 0 * bias.sum()),)
    y = F.conv2d(
        x.to(real).permute(0, 3, 1, 2),
        weight[:, None].to(real),
        None if bias is None else bias.to(real),
        padding=1,
        groups=x.shape[3],
    )
    return ((y if call.activation is None else F.silu(y)).permute(0, 2, 3, 1).to(x.dtype),)


@TENSORS
def attention_gate(call: Call) -> Results:
    """(out, q, the statistics used) by plain operations."""
    x, theta, phi, theta_weight, phi_weight, shift, psi, psi_weight, psi_shift, statistics = call.arrays.values()
    real, over, used = wide(x), (0, 1, 2), []

    def normed(value: Tensor, rows: slice) -> Tensor:
        if statistics is None:
            mean, variance = value.mean(over), value.var(over, correction=0)
        else:
            mean, variance = statistics[rows].to(real).unbind(-1)
        used.append(torch.stack([mean, variance], -1).reshape(-1, 2))
        return (value - mean) * torch.rsqrt(variance + call.eps)

    dim = theta.shape[3]
    a = normed(theta.to(real), slice(dim)) * theta_weight + shift
    a = a + normed(phi[centre(phi, theta)].to(real), slice(dim, 2 * dim)) * phi_weight
    q = torch.relu(a) @ psi.to(real)
    rate = torch.sigmoid(normed(q[..., None], slice(2 * dim, None)) * psi_weight + psi_shift)
    return (x * rate).to(x.dtype), q, torch.cat(used)


@TENSORS
def gate_crop(call: Call) -> Results:
    g, size = call.g, call.size
    for axis, part in enumerate(size, start=g.ndim - len(size)):
        g = g.narrow(axis, (g.shape[axis] - part) // 2, part)
    return (g.clone(memory_format=torch.contiguous_format),)


def gate_crop_vjp(call: Call) -> Results:
    (dout,) = call.douts
    pads: list[int] = []
    for full, part in zip(reversed(call.g_size), reversed(dout.shape), strict=False):
        pads += [(full - part) // 2, full - part - (full - part) // 2]
    return (F.pad(dout, pads),)


def forward(call: Call) -> Results:
    """Outputs of a call on tensors."""
    return TENSORS[call.spec.name](call)


def vjp(call: Call) -> Results:
    """Gradients of a call on tensors: by autograd, None for an absent tensor, zeros for one that nothing depends on."""
    if call.spec.name == "gate_crop":
        return gate_crop_vjp(call)
    arrays = _with_state(call)
    wanted = [a.name for a in call.spec.arguments if a.differentiable and a.name in arrays]
    leaves = {name: x.detach().requires_grad_() for name in wanted if (x := arrays[name]) is not None}
    # within a custom op torch records no gradients unless its autograd is let in again
    recording = torch._C._SetExcludeDispatchKeyGuard(torch._C.DispatchKey.AutogradFunctionality, False)
    with recording, torch.enable_grad():
        outputs = forward(replace(call, arrays=arrays | leaves, douts=(), keep=False))
        pairs = [(o, d) for o, d in zip(outputs, call.douts, strict=False) if d is not None and o.requires_grad]
    found: Sequence[Tensor | None] = [None] * len(leaves)
    if pairs:
        inputs, (ys, dys) = list(leaves.values()), zip(*pairs, strict=True)
        found = torch.autograd.grad(ys, inputs, dys, allow_unused=True)
    filled = {n: torch.zeros_like(x) if g is None else g for (n, x), g in zip(leaves.items(), found, strict=True)}
    return tuple(filled.get(name) for name in wanted)


def _with_state(call: Call) -> dict[str, Any]:
    """The tensors, with zeros for an absent initial state, whose gradient is given all the same."""
    arrays = dict(call.arrays)
    state = next((name for name in arrays if name.startswith("initial_state") and arrays[name] is None), None)
    if state is not None:
        name = call.spec.name
        if name == "selective_scan":
            zeros = call.u.new_zeros(
                (call.u.shape[0], *call.A.shape), dtype=call.A.dtype if call.A.is_complex() else None
            )
        elif name == "chunk_scan":
            zeros = call.x.new_zeros((call.x.shape[0], *call.x.shape[2:], call.B.shape[3]))
        else:
            zeros = call.x.new_zeros((call.x.shape[0], call.x.shape[2], call.weight.shape[1] - 1))
        arrays[state] = zeros
    return arrays


# ---- on NumPy arrays ----


def _tensors(*arrays: Any) -> tuple[Any, ...]:
    return tuple(None if a is None else torch.from_numpy(a.copy()) for a in arrays)


def _on_arrays(function: Operation) -> Operation:
    """The function of a call on tensors as one of a call on arrays."""

    def run(call: Call) -> Results:
        arrays = dict(zip(call.arrays, _tensors(*call.arrays.values()), strict=True))
        with torch.no_grad():
            results = function(replace(call, arrays=arrays, douts=_tensors(*call.douts), into=()))
        # a gradient may come expanded, many entries on one number in memory
        return tuple(None if t is None else t.contiguous().numpy() for t in results)

    return run


OPERATIONS: dict[str, Operation] = {name: _on_arrays(forward) for name in TENSORS}
OPERATIONS |= {f"{name}_vjp": _on_arrays(vjp) for name in TENSORS}
