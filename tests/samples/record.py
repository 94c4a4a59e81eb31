"""Samples of an operation: cases to run, cases to refuse, cases to time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssmcore import ArgumentError

Case = dict[str, Any]


@dataclass(frozen=True)
class Sample:
    """A named case. `make(rng, dtype)` returns the keyword arguments of the operation."""

    name: str
    make: Callable[[np.random.Generator, Any], Case]


@dataclass(frozen=True)
class ErrorSample:
    """A case that the operation refuses. `says` are fragments of the message, in order."""

    name: str
    make: Callable[[np.random.Generator], Case]
    error: type[Exception]
    says: tuple[str, ...]


@dataclass(frozen=True)
class Samples:
    """All samples of an operation. Tests and benchmarks take their cases from here. `counted` are small ones, whose instructions
    `bench/instructions.py` counts."""

    samples: tuple[Sample, ...]
    errors: tuple[ErrorSample, ...]
    benchmarks: tuple[Sample, ...] = ()
    counted: tuple[Sample, ...] = ()

    def named(self, name: str) -> Sample:
        return next(sample for sample in self.samples if sample.name == name)


class Cases:
    """Samples from the one function that makes an operation's arguments. `small` are the sizes of its error samples."""

    def __init__(self, make: Callable[..., Case], **small: Any) -> None:
        self._make, self._small = make, small

    def sample(self, name: str, **settings: Any) -> Sample:
        return Sample(name, lambda rng, dtype: self._make(rng, dtype, **settings))

    def broken(
        self, name: str, says: tuple[str, ...], error: type[Exception] = ArgumentError, **changes: Any
    ) -> ErrorSample:
        """A sound case with some arguments replaced, by a value or by the result of a function of the generator."""

        def make(rng: np.random.Generator) -> Case:
            case = self._make(rng, np.float32, **self._small)
            return case | {k: (v(rng) if callable(v) else v) for k, v in changes.items()}

        return ErrorSample(name, make, error, says)
