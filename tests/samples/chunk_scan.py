"""Samples of `chunk_scan`."""

from __future__ import annotations

from typing import Any

import numpy as np

from .record import Case, Cases, Samples


def make_case(
    rng: np.random.Generator,
    dtype: Any,
    *,
    batch: int = 2,
    seqlen: int = 17,
    nheads: int = 6,
    headdim: int = 4,
    dstate: int = 5,
    ngroups: int = 2,
    extras: bool = True,
    wide_D: bool = False,
    lengths: tuple[int, ...] = (),
    **options: Any,
) -> Case:
    """Arguments of realistic size: A negative, steps near those of a trained model. `lengths`: of the sequences in each row."""

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(dtype)

    dt = normal(batch, seqlen, nheads) - 2
    case: Case = {
        "x": normal(batch, seqlen, nheads, headdim),
        "dt": dt.astype(dtype) if options.get("dt_softplus") else np.exp(dt).astype(dtype),
        "A": -np.exp(rng.uniform(-1, 2, nheads)).astype(dtype),
        "B": normal(batch, seqlen, ngroups, dstate),
        "C": normal(batch, seqlen, ngroups, dstate),
    }
    if extras:
        case |= {"D": normal(nheads, headdim) if wide_D else normal(nheads), "z": normal(*case["x"].shape)}
        case |= {"dt_bias": abs(0.1 * normal(nheads)), "initial_state": normal(batch, nheads, headdim, dstate)}
    if lengths:
        case["seq_idx"] = np.tile(np.repeat(np.arange(len(lengths), dtype=np.int32), lengths), (batch, 1))
    return case | options


_cases = Cases(make_case, batch=2, seqlen=5, nheads=6, headdim=4, dstate=5, extras=False)
_sample, _broken = _cases.sample, _cases.broken

SAMPLES = Samples(
    samples=(
        _sample("plain", extras=False),
        _sample("everything", dt_softplus=True),
        _sample("D of every entry", wide_D=True),
        _sample("clamped", dt_softplus=True, dt_limit=(0.1, 0.2)),
        _sample("no group shared", ngroups=6),
        _sample("one group", ngroups=1, nheads=5),
        _sample("no step", seqlen=0),
        _sample("one step", seqlen=1),
        _sample("past one chunk", seqlen=65, nheads=2, dstate=3),
        _sample("two chunks", seqlen=128, nheads=2, headdim=3),
        _sample("blocks of heads", batch=3, nheads=18, ngroups=2, seqlen=9),
        _sample("whole vectors", seqlen=100, nheads=2, headdim=16, dstate=32),
        _sample("past a vector", seqlen=70, nheads=2, headdim=33, dstate=17),
        _sample("64 by 64", batch=1, seqlen=130, nheads=2, headdim=64, dstate=64, ngroups=1, dt_softplus=True),
        _sample("one entry, one state", headdim=1, dstate=1, seqlen=70),
        _sample("packed", seqlen=70, lengths=(3, 1, 61, 5)),
        _sample("packed at chunks", seqlen=192, lengths=(64, 63, 1, 64), nheads=2),
        _sample("packed, plain", seqlen=40, lengths=(20, 20), extras=False),
        _sample("no entry", headdim=0),
        _sample("empty batch", batch=0),
    ),
    errors=(
        _broken("dt of another nheads", ("chunk_scan: dt: expected shape (2, 5, 6) like x, got (2, 5, 4)",),
                dt=lambda rng: np.ones((2, 5, 4), np.float32)),
        _broken("A of two axes", ("chunk_scan: A: expected shape (6) like x, got (6, 5)",),
                A=lambda rng: -np.ones((6, 5), np.float32)),
        _broken("groups that do not divide", ("chunk_scan: B: expected", "divides nheads = 6", "got 4"),
                B=lambda rng: np.ones((2, 5, 4, 5), np.float32)),
        _broken("C of another group", ("chunk_scan: C: expected shape (2, 5, 2, 5)", "got (2, 5, 3, 5)"),
                C=lambda rng: np.ones((2, 5, 3, 5), np.float32)),
        _broken("states transposed", ("chunk_scan: initial_state: expected shape (2, 6, 4, 5)", "got (2, 6, 5, 4)"),
                initial_state=lambda rng: np.ones((2, 6, 5, 4), np.float32)),
        _broken("no state", ("chunk_scan: B: expected a dstate of at least 1",),
                B=lambda rng: np.ones((2, 5, 2, 0), np.float32)),
        _broken("integer x", ("chunk_scan: x: expected dtype", "got int64", "astype"), TypeError,
                x=lambda rng: np.ones((2, 5, 6, 4), np.int64)),
        _broken("limits that cross", ("chunk_scan: dt_limit: expected", "0 <= low <= high", "got (2.0, 1.0)"),
                dt_limit=(2.0, 1.0)),
        _broken("seq_idx of floats", ("chunk_scan: seq_idx: expected integers (2, 5)", "got float32 (2, 5)"), TypeError,
                seq_idx=lambda rng: np.ones((2, 5), np.float32)),
        _broken("seq_idx of another length", ("chunk_scan: seq_idx: expected integers (2, 5)", "got int64 (2, 4)"),
                seq_idx=lambda rng: np.ones((2, 4), np.int64)),
    ),
    benchmarks=(
        _sample("B2 L4096 H8 P64 N64", batch=2, seqlen=4096, nheads=8, headdim=64, dstate=64, ngroups=1, extras=False),
        _sample("Mamba-2 130m: B1 L2048 H24 P64 N128", batch=1, seqlen=2048, nheads=24, headdim=64, dstate=128, ngroups=1,
                extras=False),
    ),
    counted=(
        _sample("plain", batch=1, seqlen=256, nheads=2, headdim=64, dstate=64, ngroups=1, extras=False),
    ),
)  # fmt: skip
