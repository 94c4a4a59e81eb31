"""Samples of `causal_conv1d`."""

from __future__ import annotations

from typing import Any

import numpy as np

from .record import Case, Cases, Samples


def make_case(
    rng: np.random.Generator,
    dtype: Any,
    *,
    batch: int = 2,
    dim: int = 6,
    seqlen: int = 17,
    taps: int = 4,
    extras: bool = True,
    layout: str = "bdl",
    **options: Any,
) -> Case:
    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(dtype)

    case: Case = {
        "x": normal(batch, dim, seqlen) if layout == "bdl" else normal(batch, seqlen, dim),
        "weight": normal(dim, taps) / taps**0.5,
    }
    case["weight"] = case["weight"].astype(dtype)
    if extras:
        case |= {"bias": normal(dim), "initial_state": normal(batch, dim, taps - 1)}
    return case | {"layout": layout} | options


_cases = Cases(make_case, batch=2, dim=6, seqlen=5, taps=4, extras=False)
_sample, _broken = _cases.sample, _cases.broken

SAMPLES = Samples(
    samples=(
        _sample("plain", extras=False),
        _sample("everything", activation="silu"),
        _sample("channel-last", layout="bld", activation="silu"),
        _sample("swish without states", activation="swish", extras=False),
        _sample("two taps", taps=2),
        _sample("three taps", taps=3, layout="bld"),
        _sample("one tap", taps=1),
        _sample("wide", taps=16, seqlen=70, activation="silu"),
        _sample("wider than the sequence", taps=7, seqlen=3),
        _sample("wider than a chunk", taps=70, seqlen=100, dim=2),
        _sample("no step", seqlen=0),
        _sample("one step", seqlen=1),
        _sample("past one chunk", seqlen=65, dim=3),
        _sample("two chunks and a step", seqlen=129, dim=17, layout="bld", activation="silu"),
        _sample("past a unit", dim=131, seqlen=5, layout="bld"),
        _sample("no channel", dim=0),
        _sample("empty batch", batch=0),
    ),
    errors=(
        _broken("weight of another dim", ("causal_conv1d: weight: expected shape (6, taps) like x, got (5, 4)",),
                weight=lambda rng: np.ones((5, 4), np.float32)),
        _broken("weight of three axes", ("causal_conv1d: weight: expected shape (6, taps)", "got (6, 1, 4)"),
                weight=lambda rng: np.ones((6, 1, 4), np.float32)),
        _broken("states of too many steps", ("causal_conv1d: initial_state: expected 3 steps", "got 4"),
                initial_state=lambda rng: np.ones((2, 6, 4), np.float32)),
        _broken("no tap", ("causal_conv1d: weight: expected at least one tap, got shape (6, 0)",),
                weight=lambda rng: np.ones((6, 0), np.float32)),
        _broken("integer x", ("causal_conv1d: x: expected dtype", "got int64", "astype"), TypeError,
                x=lambda rng: np.ones((2, 6, 5), np.int64)),
        _broken("unknown activation", ("causal_conv1d: activation: expected one of None, 'silu', 'swish', got 'relu'",),
                activation="relu"),
        _broken("unknown layout", ("causal_conv1d: layout: expected one of 'bdl', 'bld', got 'ldb'",), layout="ldb"),
    ),
    benchmarks=(
        _sample("B1 D1536 L2048 W4 silu", batch=1, dim=1536, seqlen=2048, layout="bld", activation="silu"),
        _sample("B1 D1536 L2048 W4 silu channel-first", batch=1, dim=1536, seqlen=2048, activation="silu"),
    ),
    counted=(
        _sample("silu", batch=1, dim=64, seqlen=256, layout="bld", activation="silu"),
    ),
)  # fmt: skip
