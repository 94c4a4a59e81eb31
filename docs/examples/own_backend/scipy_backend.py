"""A backend of ssmcore for two operations: the causal convolution by Fourier transforms, and the gate's crop."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np


def about(op):
    return "Fourier transforms of SciPy" if op == "causal_conv1d" else "slices of NumPy"


def limits(op, traits):
    if op == "causal_conv1d" and find_spec("scipy") is None:
        return "SciPy is not installed; pip install scipy"
    return None


def gate_crop(call):
    return (call.g[_window(call.g, call.size)].copy(),)


def gate_crop_vjp(call):
    (dout,) = call.douts
    dg = np.zeros((*dout.shape[: dout.ndim - len(call.g_size)], *call.g_size), dout.dtype)
    dg[_window(dg, dout.shape[dout.ndim - len(call.g_size) :])] = dout
    return (dg,)


def _window(g, size):
    """Where the centre of `size` lies in the trailing axes of g."""
    trailing = g.shape[g.ndim - len(size) :]
    starts = [(full - part) // 2 for full, part in zip(trailing, size, strict=True)]
    return (..., *(slice(start, start + part) for start, part in zip(starts, size, strict=True)))


def causal_conv1d(call):
    x, weight, bias, initial_state = call.arrays.values()
    out = _before_activation(_with_past(x, weight, initial_state), weight, bias)
    return ((out if call.activation is None else out * _sigmoid(out)).astype(x.dtype),)


def causal_conv1d_vjp(call):
    x, weight, bias, initial_state = call.arrays.values()
    (dout,) = call.douts
    extended, past = _with_past(x, weight, initial_state), weight.shape[1] - 1
    if call.activation is not None:
        y = _before_activation(extended, weight, bias)
        gate = _sigmoid(y)
        dout = dout * gate * (1 + y * (1 - gate))
    dextended = _convolve(dout, weight.T[None], "full")
    dweight = _convolve(extended, dout[:, ::-1], "valid").sum(axis=0).T
    dbias = None if bias is None else dout.sum(axis=(0, 1)).astype(x.dtype)
    dinitial_state = dextended[:, :past].swapaxes(1, 2)
    return dextended[:, past:].astype(x.dtype), dweight.astype(x.dtype), dbias, dinitial_state.astype(x.dtype)


def _with_past(x, weight, initial_state):
    """x in double precision after the taps - 1 inputs before it: (batch, past + seqlen, dim)."""
    batch, _, dim = x.shape
    past = np.zeros((batch, weight.shape[1] - 1, dim)) if initial_state is None else initial_state.swapaxes(1, 2)
    return np.concatenate([past, x], axis=1, dtype=np.float64)


def _before_activation(extended, weight, bias):
    y = _convolve(extended, weight.T[None, ::-1], "valid")
    return y if bias is None else y + bias


def _convolve(a, b, mode):
    """Convolution along time, axis 1, of (batch, time, dim) by Fourier transforms; "full", or "valid", where b lies within a."""
    from scipy.fft import irfft, next_fast_len, rfft

    first, last = (0, a.shape[1] + b.shape[1] - 1) if mode == "full" else (b.shape[1] - 1, a.shape[1])
    if 0 in (a.shape[1], b.shape[1]):
        return np.zeros((a.shape[0], last - first, a.shape[2]))
    size = next_fast_len(a.shape[1] + b.shape[1] - 1, real=True)
    spectra = (rfft(part.astype(np.float64), size, axis=1) for part in (a, b))
    return irfft(np.multiply(*spectra), size, axis=1)[:, first:last]


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


OPERATIONS = {
    "gate_crop": gate_crop,
    "gate_crop_vjp": gate_crop_vjp,
    "causal_conv1d": causal_conv1d,
    "causal_conv1d_vjp": causal_conv1d_vjp,
}
