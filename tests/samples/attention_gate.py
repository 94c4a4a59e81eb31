"""Samples of `attention_gate`."""

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
    channels: int = 6,
    dim: int = 3,
    margin: tuple[int, int] = (0, 0),
    inference: bool = False,
    **options: Any,
) -> Case:
    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(dtype)

    case: Case = {
        "x": normal(batch, height, width, channels),
        "theta": normal(batch, height, width, dim) * 2 + 1,
        "phi": normal(batch, height + margin[0], width + margin[1], dim) - 1,
        "theta_weight": normal(dim),
        "phi_weight": normal(dim),
        "shift": normal(dim),
        "psi": normal(dim),
        "psi_weight": normal(1),
        "psi_shift": normal(1),
    }
    if inference:
        case["statistics"] = np.stack([normal(2 * dim + 1), rng.uniform(0.5, 2, 2 * dim + 1).astype(dtype)], axis=1)
    return case | options


_cases = Cases(make_case, batch=2, height=3, width=4, channels=6, dim=5)
_sample, _broken = _cases.sample, _cases.broken

SAMPLES = Samples(
    samples=(
        _sample("training"),
        _sample("inference", inference=True),
        _sample("cropped", margin=(2, 3)),
        _sample("cropped inference", margin=(1, 2), inference=True),
        _sample("off the lanes", height=7, width=19, channels=37, dim=21),
        _sample("whole lanes", height=6, width=24, channels=32, dim=16),
        _sample("several strips", batch=1, height=71, width=33, channels=4, dim=8),
        _sample("wider than a strip", batch=1, height=2, width=1300, channels=2, dim=2),
        _sample("one position", batch=3, height=1, width=1),
        _sample("no channel", channels=0),
    ),
    errors=(
        _broken("theta of another grid", ("attention_gate: theta: expected shape (2, 3, 4, dim) like x, got (2, 4, 3, 5)",),
                theta=lambda rng: np.ones((2, 4, 3, 5), np.float32)),
        _broken("phi smaller", ("attention_gate: phi: expected a grid of at least (3, 4), got (2, 4)",),
                phi=lambda rng: np.ones((2, 2, 4, 5), np.float32)),
        _broken("psi of two", ("attention_gate: psi_weight: expected one element, got 2",),
                psi_weight=lambda rng: np.ones(2, np.float32), psi_shift=lambda rng: np.ones(2, np.float32)),
        _broken("statistics of theta alone", ("attention_gate: statistics: expected shape (11, 2), got (5, 2)", "theta, phi and psi"),
                statistics=lambda rng: np.ones((5, 2), np.float32)),
        _broken("nothing to take statistics of", ("attention_gate: x: expected at least one position", "statistics"),
                x=lambda rng: np.ones((2, 0, 4, 6), np.float32), theta=lambda rng: np.ones((2, 0, 4, 5), np.float32)),
        _broken("integer x", ("attention_gate: x: expected dtype", "got int64", "astype"), TypeError,
                x=lambda rng: np.ones((2, 3, 4, 6), np.int64)),
    ),
    benchmarks=(
        _sample("B8 128x128 C16 dim 8", batch=8, height=128, width=128, channels=16, dim=8),
        _sample("B8 64x64 C64 dim 32", batch=8, height=64, width=64, channels=64, dim=32),
        _sample("B16 16x16 C128 dim 64", batch=16, height=16, width=16, channels=128, dim=64),
    ),
    counted=(
        _sample("training", batch=1, height=16, width=16, channels=64, dim=32),
    ),
)  # fmt: skip
