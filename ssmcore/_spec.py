"""One record per operation: arguments, shapes, dtypes, tolerances, samples. Tests, benchmarks and docs derive from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np

Sizes = dict[str, int]
Case = dict[str, Any]


class ArgumentError(ValueError):
    """An argument with a wrong shape or value. The message names argument, expectation, value and remedy."""


class ArgumentTypeError(ArgumentError, TypeError):
    """An argument with a wrong type or dtype."""


def fail(
    operation: str, argument: str, expected: str, got: object, remedy: str, kind: type[ArgumentError] = ArgumentError
) -> NoReturn:
    raise kind(f"{operation}: {argument}: expected {expected}, got {got}; {remedy}")


def check_option(operation: str, name: str, value: object, choices: tuple[Any, ...]) -> None:
    """Raises ArgumentError unless `value` is one of the choices."""
    if value not in choices:
        words = ", ".join(repr(choice) for choice in choices)
        fail(operation, name, f"one of {words}", repr(value), "pass one of these")


def check_count(operation: str, name: str, value: object, least: int, what: str) -> None:
    """Raises ArgumentError unless `value` is an integer of at least `least`; `what` it is the number of goes into the remedy."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        fail(operation, name, "an integer", repr(value), f"pass the number of {what}", ArgumentTypeError)
    if value < least:
        fail(operation, name, f"at least {least}", value, f"pass the number of {what}")


@dataclass(frozen=True)
class Argument:
    """An array argument. `shapes` are the admitted shapes as axis names, `""` being a scalar; `...` stands for any axes."""

    name: str
    shapes: tuple[str, ...]
    meaning: str
    optional: bool = False
    differentiable: bool = True


@dataclass(frozen=True)
class Output:
    """An array result of the kernels, with its axis names.

    Parameters
    ----------
    wide : float32, or float64 for float64 input; the default is the dtype of the first argument
    kept : saved for the backward pass; it has no gradient of its own
    public : returned to the caller; the others are computed only if a gradient is wanted
    """

    name: str
    axes: str
    wide: bool = False
    kept: bool = False
    public: bool = True


@dataclass(frozen=True)
class Tolerance:
    """Bound on |got - reference| / max|reference|, from the arithmetic: see `reason`."""

    float32: float
    float64: float
    reason: str

    def of(self, dtype: Any) -> float:
        return self.float64 if np.dtype(dtype) == np.float64 else self.float32


@dataclass(frozen=True)
class Sample:
    """A named case. `make(rng, dtype)` returns the keyword arguments of the operation."""

    name: str
    make: Callable[[np.random.Generator, Any], Case]


@dataclass(frozen=True)
class ErrorSample:
    """A case every backend refuses in the same words: `says` are fragments of the message, in order."""

    name: str
    make: Callable[[np.random.Generator], Case]
    error: type[Exception]
    says: tuple[str, ...]


class Cases:
    """Samples of an operation from the one function that makes its arguments; `small` are the sizes of its error samples."""

    def __init__(self, make: Callable[..., Case], **small: Any) -> None:
        self._make, self._small = make, small

    def sample(self, name: str, **settings: Any) -> Sample:
        return Sample(name, lambda rng, dtype: self._make(rng, dtype, **settings))

    def broken(
        self, name: str, says: tuple[str, ...], error: type[Exception] = ArgumentError, **changes: Any
    ) -> ErrorSample:
        """A sound case with some arguments exchanged for wrong ones, or for what a function of the generator returns."""

        def make(rng: np.random.Generator) -> Case:
            case = self._make(rng, np.float32, **self._small)
            return case | {k: (v(rng) if callable(v) else v) for k, v in changes.items()}

        return ErrorSample(name, make, error, says)


@dataclass(frozen=True)
class OpSpec:
    """Everything the rest of the project needs to know of an operation."""

    name: str
    summary: str
    formula: str
    source: str
    entries: tuple[str, ...]
    arguments: tuple[Argument, ...]
    outputs: tuple[Output, ...]
    options: Mapping[str, tuple[Any, ...]]
    forward: Tolerance
    gradient: Tolerance
    samples: tuple[Sample, ...]
    error_samples: tuple[ErrorSample, ...]
    benchmarks: tuple[Sample, ...] = ()
    derived: Mapping[str, Callable[[Sizes], int]] = field(default_factory=dict)
    """Sizes of those output axes that no argument has."""

    def shape_of(self, output: Output, sizes: Sizes) -> tuple[int, ...]:
        return tuple(self.derived[axis](sizes) if axis in self.derived else sizes[axis] for axis in output.axes.split())

    def fail(
        self, argument: str, expected: str, got: object, remedy: str, *, kind: type[ArgumentError] = ArgumentError
    ) -> NoReturn:
        fail(self.name, argument, expected, got, remedy, kind)

    def check_option(self, name: str, value: object) -> None:
        """Raises ArgumentError unless `value` is one of the option's values."""
        check_option(self.name, name, value, self.options[name])

    def check_dtype(self, name: str, array: Any, *, complex_too: bool = False) -> None:
        """Raises ArgumentTypeError unless `array` is a NumPy array of float32 or float64 (or float16, computed in float32),
        or of complex64 or complex128 where those are allowed, in this machine's byte order."""
        if not isinstance(array, np.ndarray):
            self.fail(
                name, "a NumPy array", type(array).__name__, "convert it with numpy.asarray", kind=ArgumentTypeError
            )
        if not array.dtype.isnative:
            native = array.dtype.newbyteorder("=")
            self.fail(
                name,
                "this machine's byte order",
                array.dtype,
                f"convert it with {name}.astype({str(native)!r})",
                kind=ArgumentTypeError,
            )
        if complex_too and array.dtype in (np.complex64, np.complex128):
            return
        if array.dtype.kind != "f" or array.dtype.itemsize > 8:
            self.fail(
                name,
                "dtype float16, float32 or float64" + (", complex64 or complex128" if complex_too else ""),
                array.dtype,
                f"convert it with {name}.astype",
                kind=ArgumentTypeError,
            )

    def shapes_of(
        self, arrays: Mapping[str, Any], *, complex_too: tuple[str, ...] = ()
    ) -> dict[str, tuple[int, ...] | None]:
        """Shapes of the arguments, None for an absent one. Raises ArgumentTypeError as `check_dtype` does."""
        for name, array in arrays.items():
            if array is not None:
                self.check_dtype(name, array, complex_too=name in complex_too)
        return {name: None if array is None else array.shape for name, array in arrays.items()}

    def check_shapes(
        self, shapes: Mapping[str, tuple[int, ...] | None], *, hint: str = "check the order of its axes"
    ) -> Sizes:
        """Binds the axis names of the arguments in order and returns their sizes.

        Raises ArgumentError naming the first argument whose shape disagrees, with the shape the earlier ones imply.
        """
        sizes: Sizes = {}
        bound_by: dict[str, str] = {}
        for argument in self.arguments:
            shape = shapes.get(argument.name)
            if shape is None:
                if not argument.optional:
                    self.fail(argument.name, "an array", None, "it is not optional", kind=ArgumentTypeError)
                continue
            patterns = [pattern.split() for pattern in argument.shapes]
            fitting = [axes for axes in patterns if len(axes) == len(shape)]
            match = next(
                (axes for axes in fitting if all(sizes.get(a, s) == s for a, s in zip(axes, shape, strict=True))), None
            )
            if match is None:
                axes = fitting[0] if fitting else patterns[0]
                expected = " or ".join(
                    f"({', '.join(str(sizes.get(a, a)) for a in p)})" for p in ([axes] if fitting else patterns)
                )
                like = next((bound_by[a] for a in axes if a in bound_by), None)
                remedy = (
                    hint
                    if sorted(shape) == sorted(sizes.get(a, -1) for a in axes)
                    else f"its axes are ({', '.join(axes)})"
                )
                self.fail(argument.name, f"shape {expected}" + (f" like {like}" if like else ""), tuple(shape), remedy)
                continue
            for axis, size in zip(match, shape, strict=True):
                sizes.setdefault(axis, size)
                bound_by.setdefault(axis, argument.name)
        return sizes
