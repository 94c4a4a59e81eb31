"""The reference: plain loops over time in double precision, to be read beside ops/*.md.

Sequences are (batch, seqlen, dim); B and C are (batch, seqlen, ngroups, dstate), or constant (dim, dstate).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._conventions import CHECKPOINT_STEPS, centre, sigmoid, softplus
from .._spec import Call
from ._by_scans import ss2d_by_scans, ss2d_vjp_by_scans
from ._results import as_arguments
from .protocol import Operations, Results

Array = NDArray[Any]
OPERATIONS = Operations()


def about(op: str) -> str:
    return "NumPy loops in double precision: the reference, not made for speed"


def limits(op: str, traits: frozenset[str]) -> str | None:
    return None


def _wide(*arrays: Array | None) -> list[Any]:
    return [None if a is None else a.astype(np.complex128 if a.dtype.kind == "c" else np.float64) for a in arrays]


def _narrow(dtype: np.dtype[Any], *arrays: Array | None) -> Results:
    return tuple(None if a is None else a.astype(dtype) for a in arrays)


def _state_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """States and statistics are kept in float32 at least."""
    return np.promote_types(dtype, np.float32)


# ---- discretize ----


def _phi(x: Array) -> Array:
    """(e^x - 1)/x, 1 at 0."""
    safe = np.where(x == 0, 1.0, x)
    return np.where(x == 0, 1.0, np.expm1(safe) / safe)


def _dphi(x: Array) -> Array:
    """phi'(x) = (e^x - phi(x))/x; its series where the two terms cancel."""
    series = np.zeros_like(x)
    small = np.where(np.abs(x) <= 0.5, x, 0.0)
    coefficient = 0.5
    for k in range(14):
        series += coefficient * small**k
        coefficient *= (k + 2) / ((k + 1) * (k + 3))
    safe = np.where(np.abs(x) <= 0.5, 1.0, x)
    return np.where(np.abs(x) <= 0.5, series, (np.exp(safe) - _phi(safe)) / safe)


def _diagonal(x: Array, method: str) -> tuple[Array, Array]:
    """A_bar and B_bar/(delta B) for x = delta A."""
    if method == "bilinear":
        return (1 + x / 2) / (1 - x / 2), 1 / (1 - x / 2)
    return np.exp(x), _phi(x) if method == "zoh" else np.ones_like(x)


def _diagonal_slopes(x: Array, method: str) -> tuple[Array, Array]:
    """Derivatives of both by x."""
    if method == "bilinear":
        return 1 / (1 - x / 2) ** 2, 0.5 / (1 - x / 2) ** 2
    return np.exp(x), _dphi(x) if method == "zoh" else np.zeros_like(x)


def _expm(X: Array) -> Array:
    """e^X by its Taylor series after scaling to a norm of at most 1/2, then squaring back."""
    norm = np.abs(X).sum(axis=-1).max(axis=-1, initial=0.0)
    squarings = int(max(0.0, np.ceil(np.log2(max(float(np.max(norm, initial=0.0)), 1e-300)) + 1)))
    scaled = X / 2.0**squarings
    term = np.broadcast_to(np.eye(X.shape[-1], dtype=X.dtype), X.shape)
    total = term.copy()
    for k in range(1, 19):
        term = term @ scaled / k
        total = total + term
    for _ in range(squarings):
        total = total @ total
    return total


def _augmented(A: Array, B: Array, step: Array) -> Array:
    """delta [[A, B], [0, 0]], whose exponential is [[A_bar, B_bar], [0, I]] (zero-order hold, A may be singular)."""
    n, m = B.shape[-2:]
    batch = np.broadcast_shapes(A.shape[:-2], B.shape[:-2], step.shape[:-2])
    M = np.zeros((*batch, n + m, n + m), dtype=np.result_type(A, B, step))
    M[..., :n, :n] = step * A
    M[..., :n, n:] = step * B
    return M


@OPERATIONS
def discretize(call: Call) -> Results:
    A, B, delta = call.arrays.values()
    if call.structure == "diagonal":
        step = delta[..., None]
        A_bar, gain = _diagonal(step * A, call.method)
        return A_bar, gain * step * B
    n = A.shape[-1]
    step = delta[..., None, None]
    if call.method == "bilinear":
        left = np.eye(n) - step / 2 * A
        return np.linalg.solve(left, np.eye(n) + step / 2 * A), np.linalg.solve(left, step * B)
    if call.method == "mamba":
        return _expm(step * A), step * B
    E = _expm(_augmented(A, B, step))
    return E[..., :n, :n], E[..., :n, n:]


@OPERATIONS
def discretize_vjp(call: Call) -> Results:
    """Gradients with respect to A, B, delta, still of the broadcast shape."""
    A, B, delta = call.arrays.values()
    dA_bar, dB_bar = call.douts
    if call.structure == "diagonal":
        step = delta[..., None]
        x = step * A
        _, gain = _diagonal(x, call.method)
        slope, gain_slope = _diagonal_slopes(x, call.method)
        dx = dA_bar * slope.conj() + dB_bar * (B * step * gain_slope).conj()
        return dx * step, dB_bar * gain.conj() * step, (dx * A.conj() + dB_bar * (B * gain).conj()).real.sum(axis=-1)
    n = A.shape[-1]
    step = delta[..., None, None]
    if call.method == "bilinear":
        # left A_bar = right, left B_bar = delta B
        left = np.eye(n) - step / 2 * A
        A_bar, B_bar = discretize(replace(call, douts=()))
        dright = np.linalg.solve(_adjoint(left), dA_bar)
        dinput = np.linalg.solve(_adjoint(left), dB_bar)
        dleft = -dright @ _adjoint(A_bar) - dinput @ _adjoint(B_bar)
        dX = (dright - dleft) / 2
        return dX * step, dinput * step, _inner(dX, A) + _inner(dinput, B)
    if call.method == "mamba":
        dX = _expm_adjoint(step * A, dA_bar)
        return dX * step, dB_bar * step, _inner(dX, A) + _inner(dB_bar, B)
    M = _augmented(A, B, step)
    dE = np.zeros_like(M)
    dE[..., :n, :n] = dA_bar
    dE[..., :n, n:] = dB_bar
    dM = _expm_adjoint(M, dE)
    dX, dinput = dM[..., :n, :n], dM[..., :n, n:]
    return dX * step, dinput * step, _inner(dX, A) + _inner(dinput, B)


def _adjoint(X: Array) -> Array:
    """Conjugate transpose, which is the transpose of a real matrix."""
    return np.swapaxes(X, -1, -2).conj()


def _inner(dX: Array, X: Array) -> Array:
    """Gradient of a real factor of X, from that of X."""
    inner: Array = (dX * X.conj()).real.sum(axis=(-1, -2))
    return inner


def _expm_adjoint(X: Array, G: Array) -> Array:
    """Adjoint of the derivative of e^X, applied to G: the corner of exp [[X*, G], [0, X*]], X* the conjugate transpose."""
    n = X.shape[-1]
    M = np.zeros((*X.shape[:-2], 2 * n, 2 * n), dtype=np.result_type(X, G))
    M[..., :n, :n] = M[..., n:, n:] = _adjoint(X)
    M[..., :n, n:] = G
    return _expm(M)[..., :n, n:]


# ---- ssm_recurrence ----


@OPERATIONS
def ssm_recurrence(call: Call) -> Results:
    A_bar, B_bar, C, u, initial_state = _wide(*call.arrays.values())
    dtype = np.result_type(A_bar, B_bar, C, u, initial_state)
    x = np.broadcast_to(initial_state, (*call.lead, A_bar.shape[-1])).astype(dtype)
    y = np.empty((*call.lead, u.shape[-1]), dtype)
    for k in range(u.shape[-1]):
        carried = A_bar * x if call.structure == "diagonal" else (A_bar @ x[..., None])[..., 0]
        x = carried + B_bar * u[..., k, None]
        y[..., k] = (C * x).sum(axis=-1)
    return y, x


# ---- selective_scan ----


def _output(C: Array, h: Array) -> Array:
    """C h, or twice its real part where one of each pair of conjugate states is kept."""
    y: Array = (C * h).sum(axis=-1)
    return 2 * y.real if y.dtype.kind == "c" else y


def _at(matrix: Array, t: int, dim: int) -> Array:
    """B[t] or C[t] for every channel: (batch or 1, dim, dstate). Channel d belongs to group d // (dim // ngroups)."""
    if matrix.ndim == 2:
        return matrix[None]
    return np.repeat(matrix[:, t], dim // matrix.shape[2], axis=1)


@OPERATIONS
def selective_scan(call: Call) -> Results:
    u, delta, A, B, C, D, z, delta_bias, initial_state = _wide(*call.arrays.values())
    batch, seqlen, dim = u.shape
    if delta_bias is not None:
        delta = delta + delta_bias
    if call.delta_softplus:
        delta = softplus(delta)
    h = np.zeros((batch, dim, A.shape[1]), A.dtype) if initial_state is None else initial_state
    y = np.empty((batch, seqlen, dim))
    kept = []
    for t in range(seqlen):
        if t % CHECKPOINT_STEPS == 0:
            kept.append(h.swapaxes(1, 2))
        step = delta[:, t, :, None]
        A_bar, gain = _diagonal(step * A, call.discretization)
        h = A_bar * h + gain * step * _at(B, t, dim) * u[:, t, :, None]
        y[:, t] = _output(_at(C, t, dim), h)
    if D is not None:
        y = y + D * u
    if z is not None:
        y = y * z * sigmoid(z)
    dtype = _state_dtype(call.u.dtype)
    state_dtype = np.result_type(dtype, np.complex64) if h.dtype.kind == "c" else dtype
    checkpoints = _checkpoints(kept, (batch, A.shape[1], dim), state_dtype) if call.keep else None
    return y.astype(call.u.dtype), h.astype(state_dtype), checkpoints


def _checkpoints(kept: list[Array], shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """States before every chunk, one behind another on the second axis."""
    checkpoints = np.zeros((shape[0], len(kept), *shape[1:]), dtype)
    for chunk, state in enumerate(kept):
        checkpoints[:, chunk] = state
    return checkpoints


@OPERATIONS
def selective_scan_vjp(call: Call) -> Results:
    dout, dlast_state = _wide(*call.douts)
    u, delta, A, B, C, D, z, delta_bias, initial_state = _wide(*call.arrays.values())
    batch, seqlen, dim = u.shape
    raw = delta if delta_bias is None else delta + delta_bias
    delta = softplus(raw) if call.delta_softplus else raw

    h = np.zeros((batch, seqlen + 1, dim, A.shape[1]), A.dtype)
    if initial_state is not None:
        h[:, 0] = initial_state
    y = np.zeros((batch, seqlen, dim))
    for t in range(seqlen):
        step = delta[:, t, :, None]
        A_bar, gain = _diagonal(step * A, call.discretization)
        h[:, t + 1] = A_bar * h[:, t] + gain * step * _at(B, t, dim) * u[:, t, :, None]
        y[:, t] = _output(_at(C, t, dim), h[:, t + 1])
    if D is not None:
        y = y + D * u

    twice = 2 if A.dtype.kind == "c" else 1
    dz = None
    dy = dout
    if z is not None:
        gate = sigmoid(z)
        dz = dout * y * gate * (1 + z * (1 - gate))
        dy = dout * z * gate

    du, ddelta = np.zeros_like(u), np.zeros_like(u)
    dA = np.zeros_like(A)
    dB, dC = (np.zeros(matrix.shape, A.dtype) for matrix in (B, C))
    dh = np.zeros_like(h[:, 0]) if dlast_state is None else dlast_state.copy()
    for t in reversed(range(seqlen)):
        step, Bt = delta[:, t, :, None], _at(B, t, dim)
        x = step * A
        A_bar, gain = _diagonal(x, call.discretization)
        slope, gain_slope = _diagonal_slopes(x, call.discretization)
        _add(dC, t, twice * dy[:, t, :, None] * h[:, t + 1].conj())
        dh = dh + twice * _at(C, t, dim).conj() * dy[:, t, :, None]
        entering = u[:, t, :, None] * Bt
        dx = dh * (slope * h[:, t] + gain_slope * step * entering).conj()
        dA += (dx * step).sum(axis=0)
        ddelta[:, t] = (dx * A.conj() + dh * (gain * entering).conj()).real.sum(axis=-1)
        du[:, t] = (dh * (gain * step * Bt).conj()).real.sum(axis=-1)
        _add(dB, t, dh * gain.conj() * step * u[:, t, :, None])
        dh = A_bar.conj() * dh
    dD = None
    if D is not None:
        du += D * dy
        dD = (dy * u).sum(axis=(0, 1))
    if call.delta_softplus:
        ddelta *= np.where(raw > 20, 1.0, sigmoid(raw))
    ddelta_bias = None if delta_bias is None else ddelta.sum(axis=(0, 1))
    grads = (du, ddelta, dA, dB, dC, dD, dz, ddelta_bias, dh)
    if call.A.dtype.kind == "c":  # a real array has the real part; an absent state counts as complex
        given = dict(call.arrays, initial_state=call.A) if call.initial_state is None else call.arrays
        pairs = zip(grads, given.values(), strict=True)
        grads = tuple(g.real if g is not None and a is not None and a.dtype.kind == "f" else g for g, a in pairs)
        return tuple(g if g is None else g.astype(a.dtype) for g, a in zip(grads, given.values(), strict=True))
    return as_arguments(call, *grads)


def _add(gradient: Array, t: int, per_channel: Array) -> None:
    """Adds (batch, dim, dstate) into the gradient of B or C: the adjoint of `_at`."""
    if gradient.ndim == 2:
        gradient += per_channel.sum(axis=0)
    else:
        batch, ngroups, dstate = gradient[:, t].shape
        members = per_channel.shape[1] // ngroups
        gradient[:, t] += per_channel.reshape(batch, ngroups, members, dstate).sum(axis=2)


# ---- ss2d ----


def _in_float64(call: Call, **changes: Any) -> Call:
    return replace(call, arrays=dict(zip(call.arrays, _wide(*call.arrays.values()), strict=True)), **changes)


@OPERATIONS
def ss2d(call: Call) -> Results:
    out, checkpoints = ss2d_by_scans(selective_scan, _in_float64(call))
    return *_narrow(call.x.dtype, out), *_narrow(_state_dtype(call.x.dtype), checkpoints)


@OPERATIONS
def ss2d_vjp(call: Call) -> Results:
    return as_arguments(
        call, *ss2d_vjp_by_scans(selective_scan_vjp, _in_float64(call, douts=tuple(_wide(*call.douts))))
    )


# ---- chunk_scan ----


def _per_head(matrix: Array, nheads: int) -> Array:
    """(batch, ngroups, dstate) for every head: head h reads group h // (nheads // ngroups)."""
    return np.repeat(matrix, nheads // matrix.shape[1], axis=1)


@OPERATIONS
def chunk_scan(call: Call) -> Results:
    *arrays, starts = call.arrays.values()
    x, dt, A, B, C, D, initial_state = _wide(*arrays)
    batch, seqlen, nheads, headdim = x.shape
    h = np.zeros((batch, nheads, headdim, B.shape[3])) if initial_state is None else initial_state
    y = np.empty(x.shape)
    kept = []
    for t in range(seqlen):
        if t % CHECKPOINT_STEPS == 0:
            kept.append(h.swapaxes(2, 3))
        if starts is not None and t > 0:
            h = np.where(starts[:, t, None, None, None] != 0, 0.0, h)
        decay, entering = np.exp(dt[:, t] * A), dt[:, t, :, None] * x[:, t]
        h = decay[..., None, None] * h + entering[..., None] * _per_head(B[:, t], nheads)[:, :, None]
        y[:, t] = (h * _per_head(C[:, t], nheads)[:, :, None]).sum(axis=-1)
    if D is not None:
        y = y + D * x
    dtype = _state_dtype(call.x.dtype)
    checkpoints = _checkpoints(kept, (batch, nheads, B.shape[3], headdim), dtype) if call.keep else None
    return y.astype(call.x.dtype), h.astype(dtype), checkpoints


@OPERATIONS
def chunk_scan_vjp(call: Call) -> Results:
    *arrays, starts = call.arrays.values()
    dout, dh = _wide(*call.douts)
    x, dt, A, B, C, D, initial_state = _wide(*arrays)
    batch, seqlen, nheads, headdim = x.shape
    ngroups = B.shape[2]
    before = np.zeros((seqlen + 1, batch, nheads, headdim, B.shape[3]))
    after = np.zeros_like(before)
    if initial_state is not None:
        before[0] = initial_state
    decay = np.exp(dt * A)
    for t in range(seqlen):
        if starts is not None and t > 0:
            before[t][starts[:, t] != 0] = 0
        entering = (dt[:, t, :, None] * x[:, t])[..., None] * _per_head(B[:, t], nheads)[:, :, None]
        after[t] = decay[:, t, :, None, None] * before[t] + entering
        before[t + 1] = after[t]
    dx, ddt, dB, dC = (np.zeros_like(a) for a in (x, dt, B, C))
    dA = np.zeros_like(A)
    dh = np.zeros_like(before[0]) if dh is None else dh

    def by_group(per_head: Array) -> Array:
        """(batch, nheads, dstate) summed over the heads of each group."""
        summed: Array = per_head.reshape(batch, ngroups, nheads // ngroups, per_head.shape[2]).sum(axis=2)
        return summed

    for t in reversed(range(seqlen)):
        Bt, Ct = (_per_head(matrix[:, t], nheads)[:, :, None] for matrix in (B, C))
        dC[:, t] = by_group((dout[:, t, :, :, None] * after[t]).sum(axis=2))
        dh = dh + dout[:, t, :, :, None] * Ct
        dlog = (dh * before[t]).sum(axis=(2, 3)) * decay[:, t]
        through_B = (dh * Bt).sum(axis=3)
        ddt[:, t] = dlog * A + (through_B * x[:, t]).sum(axis=2)
        dA += (dlog * dt[:, t]).sum(axis=0)
        dx[:, t] = dt[:, t, :, None] * through_B
        dB[:, t] = by_group((dh * (dt[:, t, :, None] * x[:, t])[..., None]).sum(axis=2))
        dh = decay[:, t, :, None, None] * dh
        if starts is not None and t > 0:
            dh = np.where(starts[:, t, None, None, None] != 0, 0.0, dh)
    dD = None
    if D is not None:
        dx += D * dout
        dD = (dout * x).sum(axis=(0, 1))
    return as_arguments(call, dx, ddt, dA, dB, dC, dD, dh)


# ---- causal_conv1d ----


def _with_past(x: Array, initial_state: Array | None, past: int) -> Array:
    """x in double precision after its past: (batch, past + seqlen, dim)."""
    batch, _, dim = x.shape
    before = np.zeros((batch, past, dim)) if initial_state is None else initial_state.swapaxes(1, 2)
    return np.concatenate([before, x], axis=1, dtype=np.float64)


def _silu_vjp(dout: Array, y: Array) -> Array:
    gate = sigmoid(y)
    through: Array = dout * gate * (1 + y * (1 - gate))
    return through


def _causal(extended: Array, weight: Array, bias: Array | None) -> Array:
    """The convolution before its activation; `extended` as `_with_past` gives it."""
    seqlen = extended.shape[1] - weight.shape[1] + 1
    y = np.zeros((len(extended), seqlen, len(weight))) + (0 if bias is None else bias)
    for k in range(weight.shape[1]):
        y += weight[:, k] * extended[:, k : k + seqlen]
    return y


@OPERATIONS
def causal_conv1d(call: Call) -> Results:
    x, weight, bias, initial_state = _wide(*call.arrays.values())
    y = _causal(_with_past(x, initial_state, weight.shape[1] - 1), weight, bias)
    return _narrow(call.x.dtype, y if call.activation is None else y * sigmoid(y))


@OPERATIONS
def causal_conv1d_vjp(call: Call) -> Results:
    x, weight, bias, initial_state = _wide(*call.arrays.values())
    (dout,) = _wide(*call.douts)
    past, seqlen = weight.shape[1] - 1, x.shape[1]
    extended = _with_past(x, initial_state, past)
    if call.activation is not None:
        dout = _silu_vjp(dout, _causal(extended, weight, bias))
    dextended, dweight = np.zeros_like(extended), np.zeros_like(weight)
    for k in range(past + 1):
        dextended[:, k : k + seqlen] += weight[:, k] * dout
        dweight[:, k] = (dout * extended[:, k : k + seqlen]).sum(axis=(0, 1))
    dbias = None if bias is None else dout.sum(axis=(0, 1))
    dinitial_state = np.ascontiguousarray(dextended[:, :past].swapaxes(1, 2))
    return as_arguments(call, dextended[:, past:], dweight, dbias, dinitial_state)


# ---- depthwise_conv2d ----


def _bordered(x: Array) -> Array:
    """(batch, height, width, dim) with zeros around the grid."""
    return np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))


def _depthwise(bordered: Array, weight: Array, bias: Array | None) -> Array:
    """The convolution before its activation."""
    height, width = bordered.shape[1] - 2, bordered.shape[2] - 2
    y = np.zeros((len(bordered), height, width, len(weight))) + (0 if bias is None else bias)
    for i, j in np.ndindex(3, 3):
        y += weight[:, i, j] * bordered[:, i : i + height, j : j + width]
    return y


@OPERATIONS
def depthwise_conv2d(call: Call) -> Results:
    x, weight, bias = _wide(*call.arrays.values())
    y = _depthwise(_bordered(x), weight, bias)
    return _narrow(call.x.dtype, y if call.activation is None else y * sigmoid(y))


@OPERATIONS
def depthwise_conv2d_vjp(call: Call) -> Results:
    x, weight, bias = _wide(*call.arrays.values())
    (dout,) = _wide(*call.douts)
    height, width = x.shape[1:3]
    bordered = _bordered(x)
    if call.activation is not None:
        dout = _silu_vjp(dout, _depthwise(bordered, weight, bias))
    dbordered, dweight = np.zeros_like(bordered), np.zeros_like(weight)
    for i, j in np.ndindex(3, 3):
        dbordered[:, i : i + height, j : j + width] += weight[:, i, j] * dout
        dweight[:, i, j] = (dout * bordered[:, i : i + height, j : j + width]).sum(axis=(0, 1, 2))
    dbias = None if bias is None else dout.sum(axis=(0, 1, 2))
    return as_arguments(call, dbordered[:, 1:-1, 1:-1], dweight, dbias)


# ---- attention_gate ----


def _gate(
    theta: Array, phi: Array, weights: tuple[Array, ...], statistics: Array | None, eps: float
) -> tuple[Array, Array, Array, Array]:
    """a, q, sigmoid(m) and the statistics, phi being cropped; all in float64."""
    theta_weight, phi_weight, shift, psi, psi_weight, psi_shift = weights
    dim, over = theta.shape[3], (0, 1, 2)
    used = np.empty((2 * dim + 1, 2))
    if statistics is None:
        for k, value in enumerate((theta, phi)):
            used[k * dim : (k + 1) * dim] = np.stack([value.mean(axis=over), value.var(axis=over)], axis=1)
    else:
        used[:] = statistics
    (mean_theta, var_theta), (mean_phi, var_phi) = used[:dim].T, used[dim : 2 * dim].T
    a = theta_weight * (theta - mean_theta) / np.sqrt(var_theta + eps)
    a = a + phi_weight * (phi - mean_phi) / np.sqrt(var_phi + eps) + shift
    q = (psi * np.maximum(a, 0)).sum(axis=-1)
    if statistics is None:
        used[-1] = q.mean(), q.var()
    rate = sigmoid(psi_weight * (q - used[-1, 0]) / np.sqrt(used[-1, 1] + eps) + psi_shift)
    return a, q, rate, used


@OPERATIONS
def attention_gate(call: Call) -> Results:
    x, theta, phi, *weights, statistics = _wide(*call.arrays.values())
    _, q, rate, used = _gate(theta, phi[centre(phi, theta)], tuple(weights), statistics, call.eps)
    return *_narrow(call.x.dtype, x * rate[..., None]), *_narrow(_state_dtype(call.x.dtype), q, used)


@OPERATIONS
def attention_gate_vjp(call: Call) -> Results:
    over, given = (0, 1, 2), call.statistics is not None
    (dout,) = _wide(*call.douts)
    x, theta, phi, *others, used = _wide(*call.arrays.values())
    theta_weight, phi_weight, _, psi, psi_weight, _ = others
    dim, window = theta.shape[3], phi[centre(phi, theta)]
    a, q, rate, used = _gate(theta, window, tuple(others), used, call.eps)
    deviation = np.sqrt(used[:, 1] + call.eps)

    def through_norm(grad: Array, normed: Array, scale: Array) -> Array:
        """The gradient of a norm's argument from that of its result."""
        if not given:
            grad = grad - grad.mean(axis=over) - normed * (grad * normed).mean(axis=over)
        return scale * grad

    q_hat = (q - used[-1, 0]) / deviation[-1]
    dm = (dout * x).sum(axis=-1) * rate * (1 - rate)
    dq = through_norm(dm, q_hat, psi_weight / deviation[-1])[..., None]
    da = np.where(a > 0, dq * psi, 0)
    theta_hat = (theta - used[:dim, 0]) / deviation[:dim]
    phi_hat = (window - used[dim:-1, 0]) / deviation[dim:-1]
    dphi = np.zeros_like(phi)
    dphi[centre(phi, theta)] = through_norm(da, phi_hat, phi_weight / deviation[dim:-1])
    return as_arguments(
        call,
        dout * rate[..., None],
        through_norm(da, theta_hat, theta_weight / deviation[:dim]),
        dphi,
        (da * theta_hat).sum(axis=over),
        (da * phi_hat).sum(axis=over),
        da.sum(axis=over),
        (dq * np.maximum(a, 0)).sum(axis=over),
        np.array([(dm * q_hat).sum()]),
        np.array([dm.sum()]),
    )


# ---- gate_crop ----


def _window(shape: tuple[int, ...], size: tuple[int, ...]) -> tuple[Any, ...]:
    """Where the centre of `size` lies in the trailing axes of `shape`."""
    starts = [(full - part) // 2 for full, part in zip(shape[len(shape) - len(size) :], size, strict=True)]
    return (..., *(slice(start, start + part) for start, part in zip(starts, size, strict=True)))


@OPERATIONS
def gate_crop(call: Call) -> Results:
    return (call.g[_window(call.g.shape, call.size)].copy(),)


@OPERATIONS
def gate_crop_vjp(call: Call) -> Results:
    (dout,) = call.douts
    lead = dout.ndim - len(call.g_size)
    dg = np.zeros((*dout.shape[:lead], *call.g_size), dout.dtype)
    dg[_window(dg.shape, dout.shape[lead:])] = dout
    return (dg,)
