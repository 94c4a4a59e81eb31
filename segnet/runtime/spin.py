"""A bound on the time that OpenMP's threads spin at a barrier before they sleep. Imports nothing, to run before torch is loaded."""

from __future__ import annotations

import os

SPIN_COUNT = 3000
"""Rounds of libgomp's waiting loop. Without a bound, threads spin for a partner that another process keeps off its core."""


def bound_spin() -> None:
    """Bounds the spin of libgomp, unless OMP_WAIT_POLICY or GOMP_SPINCOUNT is set. libgomp reads both once, when torch loads it."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPIN_COUNT))
