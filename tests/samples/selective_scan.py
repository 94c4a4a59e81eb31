"""Samples of `selective_scan`."""

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
    dstate: int = 4,
    ngroups: int | None = None,
    constant_B: bool = False,
    constant_C: bool = False,
    uniform_A: bool = False,
    complex_A: bool = False,
    extras: bool = True,
    layout: str = "bdl",
    **options: Any,
) -> Case:
    """Arguments of realistic size: A negative, steps near those of a trained model. `uniform_A`: the same for all states. `complex_A`: so are
    B, C and the initial state."""

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(dtype)

    def sequence() -> np.ndarray:
        return normal(batch, dim, seqlen) if layout == "bdl" else normal(batch, seqlen, dim)

    def matrix(constant: bool) -> np.ndarray:
        if constant:
            return normal(dim, dstate)
        if ngroups is None:
            return normal(batch, dstate, seqlen) if layout == "bdl" else normal(batch, seqlen, dstate)
        return normal(batch, ngroups, dstate, seqlen) if layout == "bdl" else normal(batch, seqlen, ngroups, dstate)

    softplus = options.get("delta_softplus", False)
    delta = sequence() - 2 if softplus else np.exp(sequence() - 3)
    case: Case = {
        "u": sequence(),
        "delta": delta.astype(dtype),
        "A": -np.exp(rng.uniform(-1, 2, (dim, 1 if uniform_A else dstate))).astype(dtype) * np.ones((1, dstate), dtype),
        "B": matrix(constant_B),
        "C": matrix(constant_C),
    }
    if extras:
        bias = 0.1 * normal(dim)
        case |= {"D": normal(dim), "z": sequence(), "delta_bias": bias if softplus else abs(bias)}
        case["initial_state"] = normal(batch, dim, dstate)
    if complex_A:
        wide = np.result_type(dtype, np.complex64)
        for name in [name for name in ("A", "B", "C", "initial_state") if name in case]:
            case[name] = (case[name] + 1j * normal(*case[name].shape)).astype(wide)
    return case | {"layout": layout} | options


_cases = Cases(make_case, batch=2, dim=6, seqlen=5, dstate=4, extras=False)
_sample, _broken = _cases.sample, _cases.broken

SAMPLES = Samples(
    samples=(
        _sample("plain", extras=False),
        _sample("everything", delta_softplus=True),
        _sample("channel-last", layout="bld", delta_softplus=True),
        _sample("bilinear", discretization="bilinear"),
        _sample("zoh", discretization="zoh"),
        _sample("groups", ngroups=3, dim=12),
        _sample("groups, channel-last", ngroups=2, dim=10, layout="bld"),
        _sample("one channel a group", ngroups=6),
        _sample("constant B", constant_B=True),
        _sample("constant C", constant_C=True, ngroups=2),
        _sample("constant both", constant_B=True, constant_C=True, discretization="bilinear"),
        _sample("no step", seqlen=0),
        _sample("one step", seqlen=1),
        _sample("past one chunk", seqlen=65, dim=3, dstate=2),
        _sample("two chunks", seqlen=128, dim=3, dstate=1, discretization="zoh"),
        _sample("past a lane", dim=17, dstate=3),
        _sample("past a block", dim=131, dstate=1, seqlen=5),
        _sample("past a wide block", batch=9, dim=400, dstate=2, seqlen=33),
        _sample("wide state", dim=5, dstate=37, discretization="bilinear"),
        _sample("16 states", dim=33, dstate=16, seqlen=70, delta_softplus=True),
        _sample("uniform A", uniform_A=True, dim=33, dstate=16, seqlen=70, delta_softplus=True),
        _sample("uniform A, bilinear", uniform_A=True, dim=17, dstate=9, discretization="bilinear"),
        _sample("complex A", complex_A=True, delta_softplus=True),
        _sample("complex A, zoh, groups", complex_A=True, discretization="zoh", ngroups=3, dim=12, layout="bld"),
        _sample("complex A, bilinear, constant B and C", complex_A=True, discretization="bilinear", constant_B=True,
                constant_C=True, extras=False),
        _sample("no channel", dim=0),
        _sample("empty batch", batch=0),
    ),
    errors=(
        _broken("delta transposed", ("selective_scan: delta: expected shape (2, 6, 5) like u, got (2, 5, 6)", "layout"),
                delta=lambda rng: np.ones((2, 5, 6), np.float32)),
        _broken("A of another dim", ("selective_scan: A: expected shape (6, dstate) like u, got (7, 4)",),
                A=lambda rng: -np.ones((7, 4), np.float32)),
        _broken("groups that do not divide", ("selective_scan: B: expected", "divides dim = 6", "got 4"),
                B=lambda rng: np.ones((2, 4, 4, 5), np.float32)),
        _broken("groups of B alone", ("selective_scan: C: expected 3 groups like the other of B and C, got (2, 4, 5)",),
                B=lambda rng: np.ones((2, 3, 4, 5), np.float32)),
        _broken("C of another dstate", ("selective_scan: C: expected shape (2, 4, 5)", "got (2, 3, 5)"),
                C=lambda rng: np.ones((2, 3, 5), np.float32)),
        _broken("integer u", ("selective_scan: u: expected dtype", "got int64", "astype"), TypeError,
                u=lambda rng: np.ones((2, 6, 5), np.int64)),
        _broken("complex u", ("selective_scan: u: expected dtype", "got complex64"), TypeError,
                u=lambda rng: np.ones((2, 6, 5), np.complex64)),
        _broken("complex B of a real A", ("selective_scan: B: expected a real dtype like A", "got complex64", "A.astype"), TypeError,
                B=lambda rng: np.ones((2, 4, 5), np.complex64)),
        _broken("a list", ("selective_scan: u: expected a NumPy array, got list", "numpy.asarray"), TypeError, u=[1.0]),
        _broken("D of two axes", ("selective_scan: D: expected shape (6)", "got (6, 1)"),
                D=lambda rng: np.ones((6, 1), np.float32)),
        _broken("unknown discretization", ("selective_scan: discretization: expected one of 'mamba', 'bilinear', 'zoh', got 'euler'",),
                discretization="euler"),
        _broken("unknown layout", ("selective_scan: layout: expected one of 'bdl', 'bld', got 'ldb'",), layout="ldb"),
        _broken("no state", ("selective_scan: A: expected a dstate of at least 1, got shape (6, 0)",),
                A=lambda rng: np.ones((6, 0), np.float32)),
    ),
    benchmarks=(
        _sample("B1 D512 L4096 N16", batch=1, dim=512, seqlen=4096, dstate=16, extras=False, layout="bld"),
        _sample("B1 D512 L4096 N16 softplus D z", batch=1, dim=512, seqlen=4096, dstate=16, layout="bld", delta_softplus=True),
        _sample("B1 D512 L4096 N16 channel-first", batch=1, dim=512, seqlen=4096, dstate=16, extras=False),
        _sample("B1 D512 L4096 N16 uniform A", batch=1, dim=512, seqlen=4096, dstate=16, extras=False, layout="bld",
                uniform_A=True),
        _sample("B1 D512 L4096 N16 bilinear", batch=1, dim=512, seqlen=4096, dstate=16, extras=False, layout="bld",
                discretization="bilinear"),
        _sample("Mamba-130m: B1 D1536 L2048 N16 softplus D z", batch=1, dim=1536, seqlen=2048, dstate=16, delta_softplus=True),
        _sample("Mamba-130m decode step: B1 D1536 L1 N16 softplus D z", batch=1, dim=1536, seqlen=1, dstate=16,
                delta_softplus=True),
    ),
    counted=(
        _sample("mamba", batch=1, dim=64, seqlen=256, dstate=16, layout="bld", discretization="mamba", extras=False),
        _sample("bilinear softplus D z", batch=1, dim=64, seqlen=256, dstate=16, layout="bld", discretization="bilinear",
                delta_softplus=True),
    ),
)  # fmt: skip
