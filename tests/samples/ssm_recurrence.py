"""Samples of `ssm_recurrence`."""

from __future__ import annotations

from typing import Any

import numpy as np

from .record import Case, Cases, Samples


def make_case(
    rng: np.random.Generator,
    dtype: Any,
    *,
    systems: tuple[int, ...] = (3,),
    inputs: tuple[int, ...] | None = None,
    seqlen: int = 37,
    dstate: int = 5,
    kind: str = "real",
    real_u: bool = False,
    extras: bool = True,
    structure: str = "diagonal",
) -> Case:
    """A stable system. `inputs`: leading axes of u, those of the systems unless given."""

    def normal(*shape: int, real: bool = kind == "real") -> np.ndarray:
        x = rng.standard_normal(shape)
        wide = dtype if real else np.result_type(dtype, np.complex64)
        return (x if real else x + 1j * rng.standard_normal(shape)).astype(wide)

    if structure == "diagonal":
        A_bar = normal(*systems, dstate)
        A_bar *= 0.97 / np.abs(A_bar).max(initial=1e-9)
    else:
        A_bar = normal(*systems, dstate, dstate)
        A_bar *= 0.97 / np.linalg.norm(A_bar, 2, axis=(-2, -1), keepdims=True)
    inputs = systems if inputs is None else inputs
    case: Case = {"A_bar": A_bar, "B_bar": normal(*systems, dstate), "C": normal(*systems, dstate)}
    case["u"] = normal(*inputs, seqlen, real=real_u or kind == "real")
    if extras:
        case |= {"D": normal(*systems), "initial_state": normal(*inputs, dstate)}
    return case | {"structure": structure}


_cases = Cases(make_case, seqlen=5, extras=False)
_sample, _broken = _cases.sample, _cases.broken

SAMPLES = Samples(
    samples=(
        _sample("real"),
        _sample("complex", kind="complex"),
        _sample("complex, real input", kind="complex", real_u=True),
        _sample("one system, many inputs", systems=(1,), inputs=(2, 3)),
        _sample("many systems, one input", systems=(2, 3), inputs=(), kind="complex"),
        _sample("16 states", dstate=16, seqlen=64),
        _sample("past a vector", dstate=17, seqlen=65, kind="complex"),
        _sample("64 states", dstate=64, seqlen=33, systems=(2, 2)),
        _sample("one state, one step", dstate=1, seqlen=1, extras=False),
        _sample("no step", seqlen=0),
        _sample("no system", systems=(0,)),
        _sample("dense", structure="dense"),
        _sample("dense, complex", structure="dense", kind="complex"),
    ),
    errors=(
        _broken("B_bar of another dstate", ("ssm_recurrence: B_bar: expected", "dstate 5", "got (3, 4)"), B_bar=np.ones((3, 4))),
        _broken("integer C", ("ssm_recurrence: C: expected", "got int64", "convert"), TypeError, C=np.ones((3, 5), np.int64)),
        _broken("u of other systems", ("ssm_recurrence: u, initial_state, D: expected leading axes that broadcast", "(3,)", "(4,)"),
                u=np.ones((4, 5))),
        _broken("dense without being told", ("ssm_recurrence: structure: expected one of", "got 'full'"), structure="full"),
    ),
    benchmarks=(
        _sample("64 channels, L 4096, 16 real states", systems=(64,), seqlen=4096, dstate=16, extras=False),
        _sample("64 channels, L 4096, 32 complex states", systems=(64,), seqlen=4096, dstate=32, kind="complex", real_u=True,
                extras=False),
    ),
    counted=(
        _sample("complex", systems=(8,), seqlen=256, dstate=16, kind="complex"),
    ),
)  # fmt: skip
