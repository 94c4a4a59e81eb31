"""Samples of `ss2d`."""

from __future__ import annotations

from typing import Any

import numpy as np

from ssmcore._conventions import DIRECTIONS

from .record import Case, Cases, Samples


def make_case(
    rng: np.random.Generator,
    dtype: Any,
    *,
    batch: int = 2,
    height: int = 3,
    width: int = 5,
    dim: int = 6,
    dstate: int = 4,
    extras: bool = True,
    **options: Any,
) -> Case:
    """Arguments of realistic size: A negative, steps near those of a trained model."""

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(dtype)

    k, grid = len(DIRECTIONS), (batch, height, width)
    softplus = options.get("delta_softplus", False)
    delta = normal(*grid, k, dim) - 2 if softplus else np.exp(normal(*grid, k, dim) - 3)
    case: Case = {
        "x": normal(*grid, dim),
        "delta": delta.astype(dtype),
        "A": -np.exp(rng.uniform(-1, 2, (k, dim, dstate))).astype(dtype),
        "B": normal(*grid, k, dstate),
        "C": normal(*grid, k, dstate),
    }
    if extras:
        bias = 0.1 * normal(k, dim)
        case |= {"D": normal(k, dim), "delta_bias": bias if softplus else abs(bias)}
    return case | options


_cases = Cases(make_case, batch=2, height=3, width=5, dim=6, dstate=4, extras=False)
_sample, _broken = _cases.sample, _cases.broken

SAMPLES = Samples(
    samples=(
        _sample("plain", extras=False),
        _sample("everything", delta_softplus=True),
        _sample("bilinear", discretization="bilinear", delta_softplus=True),
        _sample("zoh", discretization="zoh"),
        _sample("one row", height=1, width=9),
        _sample("one column", height=9, width=1),
        _sample("one position", height=1, width=1),
        _sample("past one chunk", height=9, width=15, dim=3, dstate=2),
        _sample("past a lane", dim=17, dstate=3),
        _sample("past a block", height=2, width=2, dim=131, dstate=1),
        _sample("past a wide block", batch=9, height=3, width=11, dim=400, dstate=2),
        _sample("16 states", height=8, width=8, dim=32, dstate=16, discretization="bilinear", delta_softplus=True),
        _sample("wide state", dim=5, dstate=37),
        _sample("no row", height=0),
        _sample("no channel", dim=0),
        _sample("empty batch", batch=0),
    ),
    errors=(
        _broken("two directions", ("ss2d: A: expected 4 directions", "got 2"),
                A=lambda rng: -np.ones((2, 6, 4), np.float32), delta=lambda rng: np.ones((2, 3, 5, 2, 6), np.float32),
                B=lambda rng: np.ones((2, 3, 5, 2, 4), np.float32), C=lambda rng: np.ones((2, 3, 5, 2, 4), np.float32)),
        _broken("directions first", ("ss2d: delta: expected shape (2, 3, 5, directions, 6) like x, got (4, 2, 3, 5, 6)",),
                delta=lambda rng: np.ones((4, 2, 3, 5, 6), np.float32)),
        _broken("channel-first x", ("ss2d: delta: expected shape (2, 6, 3, directions, 5) like x",),
                x=lambda rng: np.ones((2, 6, 3, 5), np.float32)),
        _broken("C of another dstate", ("ss2d: C: expected shape (2, 3, 5, 4, 4)", "got (2, 3, 5, 4, 3)"),
                C=lambda rng: np.ones((2, 3, 5, 4, 3), np.float32)),
        _broken("integer x", ("ss2d: x: expected dtype", "got int64", "astype"), TypeError,
                x=lambda rng: np.ones((2, 3, 5, 6), np.int64)),
        _broken("unknown discretization", ("ss2d: discretization: expected one of 'mamba', 'bilinear', 'zoh', got 'euler'",),
                discretization="euler"),
        _broken("no state", ("ss2d: A: expected a dstate of at least 1, got shape (4, 6, 0)",),
                A=lambda rng: np.ones((4, 6, 0), np.float32)),
    ),
    benchmarks=(
        _sample("B1 64x64 D192 N16", batch=1, height=64, width=64, dim=192, dstate=16, delta_softplus=True),
        _sample("B1 64x64 D192 N16 bilinear", batch=1, height=64, width=64, dim=192, dstate=16, delta_softplus=True,
                discretization="bilinear"),
        *(
            _sample(f"VMamba-T stage {k + 1}: B1 {side}x{side} D{192 << k} N16", batch=1, height=side, width=side, dim=192 << k,
                    dstate=16, delta_softplus=True)
            for k, side in enumerate((56, 28, 14, 7))
        ),
        *(
            _sample(f"segnet 256 px stage {k + 1}: B8 {side}x{side} D{96 << k} N16 bilinear", batch=8, height=side, width=side,
                    dim=96 << k, dstate=16, delta_softplus=True, discretization="bilinear")
            for k, side in enumerate((64, 32, 16, 8))
        ),
        _sample("segnet 64 px stage 4: B16 2x2 D768 N16 bilinear", batch=16, height=2, width=2, dim=768, dstate=16,
                delta_softplus=True, discretization="bilinear"),
    ),
)  # fmt: skip
