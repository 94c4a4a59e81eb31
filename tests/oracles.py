"""Independent oracles: scalar loops and finite differences, wider than any kernel's accumulator."""

from __future__ import annotations

from typing import Any

import numpy as np


def widened(case: dict[str, Any]) -> dict[str, Any]:
    """A case with its arrays in double precision."""
    return {k: v.astype(np.float64) if isinstance(v, np.ndarray) else v for k, v in case.items()}


def relative_error(got: Any, reference: Any) -> float:
    """max|got - reference| / max|reference|; infinity where one is NaN or infinite and the other is not."""
    got, reference = np.asarray(got), np.asarray(reference)
    if reference.dtype.kind == "c":
        got, reference = (np.stack([x.real, x.imag]) for x in (got, reference))
    got, reference = np.asarray(got, np.float64), np.asarray(reference, np.float64)
    assert got.shape == reference.shape, f"shape {got.shape}, reference {reference.shape}"
    if got.size == 0:
        return 0.0
    if not np.array_equal(np.isfinite(got), np.isfinite(reference)):
        return float("inf")
    finite = np.isfinite(reference)
    worst = np.abs(got - reference, where=finite, out=np.zeros_like(got)).max()
    largest = np.abs(reference, where=finite, out=np.zeros_like(got)).max()
    return float(worst / largest) if largest > 0 else float(worst)


def scalar_scan(
    u: Any,
    delta: Any,
    A: Any,
    B: Any,
    C: Any,
    D: Any = None,
    z: Any = None,
    delta_bias: Any = None,
    delta_softplus: bool = False,
    *,
    discretization: str = "mamba",
    initial_state: Any = None,
    layout: str = "bdl",
) -> tuple[np.ndarray, np.ndarray]:
    """(out, last_state) by four nested loops over numbers. Works for complex input, so that it can be differentiated."""
    if layout == "bld":
        u, delta, z = (None if x is None else np.moveaxis(x, 1, 2) for x in (u, delta, z))
        B, C = (x if x.ndim == 2 else np.moveaxis(x, 1, -1) for x in (B, C))
    batch, dim, seqlen = u.shape
    dstate = A.shape[1]

    def entry(matrix: Any, b: int, d: int, n: int, t: int) -> Any:
        if matrix.ndim == 2:
            return matrix[d, n]
        if matrix.ndim == 3:
            return matrix[b, n, t]
        return matrix[b, d * matrix.shape[1] // dim, n, t]

    kind = np.result_type(
        np.float64, *(x for x in (u, delta, A, B, C, D, z, delta_bias, initial_state) if x is not None)
    )
    out, last = np.zeros((batch, dim, seqlen), kind), np.zeros((batch, dim, dstate), kind)
    for b in range(batch):
        for d in range(dim):
            h = [0.0 if initial_state is None else initial_state[b, d, n] for n in range(dstate)]
            for t in range(seqlen):
                step = delta[b, d, t] + (0.0 if delta_bias is None else delta_bias[d])
                if delta_softplus and step.real <= 20:
                    step = np.log(1 + np.exp(step))
                y = 0.0
                for n in range(dstate):
                    x = step * A[d, n]
                    if discretization == "mamba":
                        A_bar, B_bar = np.exp(x), step
                    elif discretization == "bilinear":
                        A_bar, B_bar = (1 + x / 2) / (1 - x / 2), step / (1 - x / 2)
                    else:
                        A_bar, B_bar = np.exp(x), (np.exp(x) - 1) / A[d, n]
                    h[n] = A_bar * h[n] + B_bar * entry(B, b, d, n, t) * u[b, d, t]
                    y = y + entry(C, b, d, n, t) * h[n]
                if D is not None:
                    y = y + D[d] * u[b, d, t]
                if z is not None:
                    y = y * z[b, d, t] / (1 + np.exp(-z[b, d, t]))
                out[b, d, t] = y
            last[b, d] = h
    return (np.moveaxis(out, 2, 1) if layout == "bld" else out), last


def directional_derivative(function: Any, arrays: dict[str, Any], name: str, direction: Any) -> Any:
    """d/de function(arrays with `name` + e direction) at 0, by a complex step: exact to rounding, no cancellation."""
    step = 1e-30
    moved = {**arrays, name: arrays[name] + 1j * step * direction}
    return tuple(np.imag(result) / step for result in function(**moved))


def scalar_chunk_scan(
    x: Any,
    dt: Any,
    A: Any,
    B: Any,
    C: Any,
    D: Any = None,
    z: Any = None,
    dt_bias: Any = None,
    initial_state: Any = None,
    seq_idx: Any = None,
    *,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, np.inf),
) -> tuple[np.ndarray, np.ndarray]:
    """(out, last_state) by nested loops over numbers. Works for complex input, so that it can be differentiated."""
    batch, seqlen, nheads, headdim = x.shape
    dstate = B.shape[3]
    kind = np.result_type(np.float64, *(a for a in (x, dt, A, B, C, D, z, dt_bias, initial_state) if a is not None))
    out, final = np.zeros(x.shape, kind), np.zeros((batch, nheads, headdim, dstate), kind)
    for b in range(batch):
        for h in range(nheads):
            group = h * B.shape[2] // nheads
            for p in range(headdim):
                state = [
                    0 * kind.type(0) if initial_state is None else initial_state[b, h, p, n] for n in range(dstate)
                ]
                for t in range(seqlen):
                    step = dt[b, t, h] + (0 if dt_bias is None else dt_bias[h])
                    if dt_softplus and np.real(step) <= 20:
                        step = np.log1p(np.exp(step))
                    low, high = dt_limit
                    step = low if np.real(step) < low else high if np.real(step) > high else step
                    if seq_idx is not None and t > 0 and seq_idx[b, t] != seq_idx[b, t - 1]:
                        state = [0 * s for s in state]
                    y = 0 if D is None else (D[h] if D.ndim == 1 else D[h, p]) * x[b, t, h, p]
                    for n in range(dstate):
                        state[n] = np.exp(step * A[h]) * state[n] + step * x[b, t, h, p] * B[b, t, group, n]
                        y = y + state[n] * C[b, t, group, n]
                    if z is not None:
                        y = y * z[b, t, h, p] / (1 + np.exp(-z[b, t, h, p]))
                    out[b, t, h, p] = y
                final[b, h, p] = state
    return out, final
