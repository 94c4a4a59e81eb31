"""Samples of `gate_crop`."""

from __future__ import annotations

from typing import Any

import numpy as np

from ssmcore import ArgumentError

from .record import Case, ErrorSample, Sample, Samples


def _sample(name: str, shape: tuple[int, ...], size: tuple[int, ...]) -> Sample:
    return Sample(name, lambda rng, dtype: {"g": rng.standard_normal(shape).astype(dtype), "size": size})


def _broken(name: str, says: tuple[str, ...], error: type[Exception] = ArgumentError, **changes: Any) -> ErrorSample:
    def make(rng: np.random.Generator) -> Case:
        return {"g": np.ones((2, 3, 5, 6), np.float32), "size": (3, 4)} | changes

    return ErrorSample(name, make, error, says)


SAMPLES = Samples(
    samples=(
        _sample("even", (2, 3, 8, 6), (4, 2)),
        _sample("odd margin", (2, 3, 7, 8), (4, 5)),
        _sample("nothing to crop", (1, 2, 4, 4), (4, 4)),
        _sample("one axis", (3, 9), (4,)),
        _sample("three axes", (2, 5, 6, 7), (3, 3, 4)),
        _sample("every axis", (5, 6), (2, 3)),
        _sample("to nothing", (2, 3, 4, 4), (0, 2)),
        _sample("empty batch", (0, 3, 4, 4), (2, 2)),
    ),
    errors=(
        _broken("larger than g", ("gate_crop: size: expected at most (5, 6), the trailing axes of g, got (6, 6)",), size=(6, 6)),
        _broken("more axes than g", ("gate_crop: size: expected at most 4 axes like g, got 5",), size=(1, 1, 1, 1, 1)),
        _broken("negative", ("gate_crop: size: expected", "got (-1, 2)"), size=(-1, 2)),
        _broken("integer g", ("gate_crop: g: expected dtype", "got int64"), TypeError, g=np.ones((2, 3, 5, 6), np.int64)),
    ),
    benchmarks=(_sample("8 x 64 x 130 x 130", (8, 64, 130, 130), (128, 128)),),
)  # fmt: skip
