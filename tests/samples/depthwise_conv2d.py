"""Samples of `depthwise_conv2d`."""

from __future__ import annotations

from typing import Any

import numpy as np

from .record import Case, Cases, Samples


def make_case(
    rng: np.random.Generator,
    dtype: Any,
    *,
    batch: int = 2,
    height: int = 5,
    width: int = 4,
    dim: int = 6,
    extras: bool = True,
    **options: Any,
) -> Case:
    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(dtype)

    case: Case = {"x": normal(batch, height, width, dim), "weight": (normal(dim, 3, 3) / 3).astype(dtype)}
    if extras:
        case["bias"] = normal(dim)
    return case | options


_cases = Cases(make_case, batch=2, height=3, width=4, dim=6, extras=False)
_sample, _broken = _cases.sample, _cases.broken

SAMPLES = Samples(
    samples=(
        _sample("plain", extras=False),
        _sample("everything", activation="silu"),
        _sample("swish without bias", activation="swish", extras=False),
        _sample("one position", height=1, width=1, activation="silu"),
        _sample("two by two", height=2, width=2, dim=48, activation="silu"),
        _sample("one row", height=1, width=9),
        _sample("one column", height=9, width=1, dim=17),
        _sample("off the lanes", height=7, width=6, dim=37, activation="silu"),
        # more rows than a strip of the kernels holds, of float64 in lanes of 64 bytes: 2^17 / (66 * 64) = 31
        _sample("several strips", batch=1, height=70, width=64, dim=3, activation="silu"),
        _sample("wider than a strip", batch=1, height=4, width=3000, dim=1, activation="silu"),
        _sample("no row", height=0),
        _sample("no channel", dim=0),
        _sample("empty batch", batch=0),
    ),
    errors=(
        _broken("weight of another dim", ("depthwise_conv2d: weight: expected shape (6, rows, columns) like x, got (5, 3, 3)",),
                weight=lambda rng: np.ones((5, 3, 3), np.float32)),
        _broken("weight of torch's four axes", ("depthwise_conv2d: weight: expected shape (6, rows, columns)", "got (6, 1, 3, 3)"),
                weight=lambda rng: np.ones((6, 1, 3, 3), np.float32)),
        _broken("five by five", ("depthwise_conv2d: weight: expected 3x3 weights, got 5x5",),
                weight=lambda rng: np.ones((6, 5, 5), np.float32)),
        _broken("channel-first x", ("depthwise_conv2d: weight: expected shape (4, rows, columns) like x, got (6, 3, 3)",),
                x=lambda rng: np.ones((2, 6, 3, 4), np.float32)),
        _broken("integer x", ("depthwise_conv2d: x: expected dtype", "got int64", "astype"), TypeError,
                x=lambda rng: np.ones((2, 3, 4, 6), np.int64)),
        _broken("unknown activation", ("depthwise_conv2d: activation: expected one of None, 'silu', 'swish', got 'relu'",),
                activation="relu"),
    ),
    benchmarks=(
        _sample("B8 64x64 D96 silu", batch=8, height=64, width=64, dim=96, activation="silu"),
        _sample("B16 16x16 D96 silu", batch=16, height=16, width=16, dim=96, activation="silu"),
        _sample("B16 2x2 D768 silu", batch=16, height=2, width=2, dim=768, activation="silu"),
    ),
    counted=(
        _sample("silu", batch=1, height=16, width=16, dim=64, activation="silu"),
    ),
)  # fmt: skip
