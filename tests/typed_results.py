"""Types of results that depend on options. `make lint` checks this file; nothing runs it."""

from __future__ import annotations

from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

import ssmcore
from ssmcore.ops.chunk_scan import ChunkScanCheckpoints

Array = NDArray[Any]
x: Array = np.ones((1, 1, 3))
A: Array = -np.ones((1, 1))

assert_type(ssmcore.selective_scan(x, x, A, x, x), Array)
assert_type(ssmcore.selective_scan(x, x, A, x, x, None, None, None, False, True), tuple[Array, Array])
assert_type(ssmcore.selective_scan(x, x, A, x, x, return_last_state=True, layout="bld"), tuple[Array, Array])
assert_type(ssmcore.selective_scan(x, x, A, x, x, return_checkpoints=True), tuple[Array, Array])
assert_type(
    ssmcore.selective_scan(x, x, A, x, x, return_last_state=True, return_checkpoints=True), tuple[Array, Array, Array]
)
assert_type(ssmcore.ss2d(x, x, A, x, x), Array)
assert_type(ssmcore.ss2d(x, x, A, x, x, return_checkpoints=True), tuple[Array, Array])
assert_type(ssmcore.chunk_scan(x, x, A, x, x), Array)
assert_type(ssmcore.chunk_scan(x, x, A, x, x, return_last_state=True), tuple[Array, Array])
assert_type(ssmcore.chunk_scan(x, x, A, x, x, return_checkpoints=True), tuple[Array, ChunkScanCheckpoints])
assert_type(ssmcore.causal_conv1d(x, A), Array)
assert_type(ssmcore.causal_conv1d(x, A, return_last_state=True), tuple[Array, Array])
