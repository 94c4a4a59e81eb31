"""The arguments that benchmarks time: the samples of the tests, placed where torch would have put them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from ssmcore.backends._results import LINE, empty

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # for programs that pytest does not start
from samples import SAMPLES, Sample

__all__ = ["SAMPLES", "Sample", "case_of", "placed"]


def placed(array: np.ndarray[Any, Any], offset: int) -> np.ndarray[Any, Any]:
    """A copy that starts `offset` bytes into a cache line."""
    raw = empty((array.nbytes + LINE,), np.dtype(np.uint8))[offset : offset + array.nbytes]
    copy = raw.view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def case_of(sample: Sample, offset: int = 0) -> dict[str, Any]:
    """A sample's arguments in float32. torch starts its tensors on a cache line; numpy often 16 bytes into one, and then rows of
    64 bytes straddle two lines."""
    case = sample.make(np.random.default_rng(0), np.float32)
    return {k: placed(v, offset) if isinstance(v, np.ndarray) else v for k, v in case.items()}
