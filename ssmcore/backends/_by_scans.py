"""SS2D by a backend's own selective scan: four unrolled scans, one after another, and their sum."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from .._conventions import DIRECTIONS, roll_up, unroll
from .._spec import Call
from .protocol import Operation, Results


def scan_of(call: Call, k: int, **changes: Any) -> Call:
    """The scan along direction k: no gate, no initial state, one group."""
    x, delta, A, B, C, D, delta_bias = call.arrays.values()
    arrays = {
        "u": unroll(x, k),
        "delta": unroll(delta[:, :, :, k], k),
        "A": A[k],
        "B": unroll(B[:, :, :, k : k + 1], k),
        "C": unroll(C[:, :, :, k : k + 1], k),
        "D": None if D is None else D[k],
        "z": None,
        "delta_bias": None if delta_bias is None else delta_bias[k],
        "initial_state": None,
    }
    return replace(call, arrays=arrays, options={**call.options, "layout": "bld"}, into=(), **changes)


def ss2d_by_scans(scan: Operation, call: Call) -> Results:
    x, kept = call.x, []
    out = np.zeros(x.shape, x.dtype)
    for k in range(len(DIRECTIONS)):
        y, _, checkpoints = scan(scan_of(call, k))
        out += roll_up(y, k, *x.shape[1:3])
        kept.append(checkpoints)
    return out, np.stack(kept) if call.keep else None


def ss2d_vjp_by_scans(scan_vjp: Operation, call: Call) -> Results:
    x, delta, _, B, C, D, delta_bias = call.arrays.values()
    height, width = x.shape[1:3]
    (dout,) = call.douts
    dx = np.zeros(x.shape, x.dtype)
    ddelta, dB, dC = (np.empty(a.shape, a.dtype) for a in (delta, B, C))
    dA, dD, dbias = [], [], []
    for k in range(len(DIRECTIONS)):
        kept = tuple(checkpoints[k] for checkpoints in call.kept)
        grads = scan_vjp(scan_of(call, k, douts=(unroll(dout, k), None), kept=kept))
        dx += roll_up(grads[0], k, height, width)
        ddelta[:, :, :, k] = roll_up(grads[1], k, height, width)
        dB[:, :, :, k] = roll_up(grads[3][:, :, 0], k, height, width)
        dC[:, :, :, k] = roll_up(grads[4][:, :, 0], k, height, width)
        dA.append(grads[2])
        dD.append(grads[5])
        dbias.append(grads[7])
    optional = (None if given is None else np.stack(parts) for given, parts in ((D, dD), (delta_bias, dbias)))
    return dx, ddelta, np.stack(dA), dB, dC, *optional
