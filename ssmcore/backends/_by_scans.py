"""SS2D from a backend's own selective scan: four unrolled scans after one another, and a sum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._conventions import DIRECTIONS, roll_up, unroll

Array = NDArray[Any]


class SS2DByScans:
    """`ss2d` and its vjp over `selective_scan_fwd` and `selective_scan_bwd` of a backend."""

    def __init__(self, scan_fwd: Callable[..., Any], scan_bwd: Callable[..., Any]) -> None:
        self.scan_fwd, self.scan_bwd = scan_fwd, scan_bwd

    def _sequences(self, k: int, x: Array, delta: Array, A: Array, B: Array, C: Array, D: Any, delta_bias: Any) -> Any:
        """The arguments of direction k's scan: no gate, no initial state, one group."""
        return (
            unroll(x, k),
            unroll(delta[:, :, :, k], k),
            A[k],
            unroll(B[:, :, :, k : k + 1], k),
            unroll(C[:, :, :, k : k + 1], k),
            None if D is None else D[k],
            None,
            None if delta_bias is None else delta_bias[k],
            None,
        )

    def forward(
        self, x: Array, *others: Array | None, keep_checkpoints: bool, **options: Any
    ) -> tuple[Array, Array | None]:
        out, kept = np.zeros(x.shape, x.dtype), []
        for k in range(len(DIRECTIONS)):
            y, _, checkpoints = self.scan_fwd(
                *self._sequences(k, x, *others),  # type: ignore[arg-type]
                channel_first=False,
                keep_checkpoints=keep_checkpoints,
                **options,
            )
            out += roll_up(y, k, *x.shape[1:3])
            kept.append(checkpoints)
        return out, np.stack(kept) if keep_checkpoints else None

    def backward(self, dout: Array, x: Array, *others: Array | None, **options: Any) -> tuple[Array | None, ...]:
        *given, checkpoints = others
        delta, _, B, C, D, delta_bias = given
        height, width = x.shape[1:3]
        dx = np.zeros(x.shape, x.dtype)
        ddelta, dB, dC = (np.empty(a.shape, a.dtype) for a in (delta, B, C) if a is not None)
        dA, dD, dbias = [], [], []
        for k in range(len(DIRECTIONS)):
            grads = self.scan_bwd(
                unroll(dout, k),
                None,
                *self._sequences(k, x, *given),  # type: ignore[arg-type]
                None if checkpoints is None else checkpoints[k],
                channel_first=False,
                **options,
            )
            dx += roll_up(grads[0], k, height, width)
            ddelta[:, :, :, k] = roll_up(grads[1], k, height, width)
            dB[:, :, :, k] = roll_up(grads[3][:, :, 0], k, height, width)
            dC[:, :, :, k] = roll_up(grads[4][:, :, 0], k, height, width)
            dA.append(grads[2])
            dD.append(grads[5])
            dbias.append(grads[7])
        return (
            dx,
            ddelta,
            np.stack(dA),
            dB,
            dC,
            None if D is None else np.stack(dD),
            None if delta_bias is None else np.stack(dbias),
        )
