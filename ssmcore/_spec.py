"""One record for each operation. Checks, choice of a backend, torch's ops, tests and the README's table are made from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import numpy as np

Sizes = dict[str, int]
_WIDE = frozenset({np.dtype(np.float32), np.dtype(np.float64)})
_REMEMBERED = 1000
"""Sound shapes that a record remembers."""


class ArrayShapes(dict[str, tuple[int, ...] | None]):
    """Shapes of NumPy arrays by name. Those of tensors may be symbols, which cannot be remembered."""


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
    complex_too: bool = False


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


@dataclass(frozen=True, eq=False)
class OpSpec:
    """Everything the rest of the project needs to know of an operation. Each is itself alone, so that a cache can hold it."""

    name: str
    summary: str
    arguments: tuple[Argument, ...]
    outputs: tuple[Output, ...]
    options: Mapping[str, tuple[Any, ...]]
    forward: Tolerance
    gradient: Tolerance
    derived: Mapping[str, Callable[[Sizes], int]] = field(default_factory=dict)
    """Sizes of those output axes that no argument has."""
    differentiable: bool = True
    traits: tuple[str, ...] = ()
    """What a call may have that not every backend runs: "complex" arrays, "dense" systems."""
    _sound: dict[tuple[Any, ...], Sizes] = field(default_factory=dict, init=False, repr=False)
    """Sizes by shapes that have passed the check, which takes as long as a small kernel."""

    @property
    def entries(self) -> tuple[str, ...]:
        """Names of a backend's functions: the operation and, unless it has no gradient, its vector-Jacobian product."""
        return (self.name, f"{self.name}_vjp") if self.differentiable else (self.name,)

    def channel_first(self) -> OpSpec:
        """The record with time as the last axis of every sequence."""

        def moved(axes: str) -> str:
            others = [axis for axis in axes.split() if axis != "seqlen"]
            return " ".join([*others, "seqlen"]) if "seqlen" in axes.split() else axes

        arguments = tuple(replace(a, shapes=tuple(moved(axes) for axes in a.shapes)) for a in self.arguments)
        return replace(self, arguments=arguments, outputs=tuple(replace(o, axes=moved(o.axes)) for o in self.outputs))

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

    def shapes_of(self, arrays: Mapping[str, Any]) -> dict[str, tuple[int, ...] | None]:
        """Shapes of the arguments, None for an absent one. Raises ArgumentTypeError as `check_dtype` does."""
        for name, array in arrays.items():
            if array is not None and not (type(array) is np.ndarray and array.dtype in _WIDE):
                complex_too = any(argument.complex_too for argument in self.arguments if argument.name == name)
                self.check_dtype(name, array, complex_too=complex_too)
        return ArrayShapes({name: None if array is None else array.shape for name, array in arrays.items()})

    def check_gradient(self, output: Output, dout: Any, sizes: Sizes, *, complex_too: bool = False) -> None:
        """Raises ArgumentError unless `dout` is a sound gradient of the output."""
        name, shape = f"d{output.name}", self.shape_of(output, sizes)
        self.check_dtype(name, dout, complex_too=complex_too)
        if dout.shape != shape:
            like = next((f" like {a.name}" for a in self.arguments if output.axes in a.shapes), "")
            axes = ", ".join(output.axes.split())
            remedy = f"pass the gradient of {output.name} as it came out, ({axes})"
            self.fail(name, f"shape {shape}{like}", dout.shape, remedy)

    def check_gradients(self, sizes: Sizes, dout: Any, *others: Any, complex_too: bool = False) -> tuple[Any, ...]:
        """The gradients of the outputs, in their order, checked; None for any but the first stands for zeros."""
        first, *rest = (output for output in self.outputs if not output.kept)
        self.check_gradient(first, dout, sizes)
        for output, gradient in zip(rest, others, strict=True):
            if gradient is not None:
                self.check_gradient(output, gradient, sizes, complex_too=complex_too)
        return dout, *others

    def check_kept(self, sizes: Sizes, dtype: Any, kept: Mapping[str, Any]) -> tuple[Any, ...]:
        """The kept outputs in the record's order. Raises ArgumentError unless each is as a forward pass of this dtype returned it."""
        outputs = [output for output in self.outputs if output.name in kept]
        for output in outputs:
            array, shape = kept[output.name], self.shape_of(output, sizes)
            remedy = "pass it as the forward pass returned it"
            if not isinstance(array, np.ndarray) or array.dtype != dtype:
                got = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
                self.fail(output.name, f"a NumPy array of {np.dtype(dtype)}", got, remedy, kind=ArgumentTypeError)
            if array.shape != shape:
                self.fail(output.name, f"shape {shape}", array.shape, remedy)
        return tuple(kept[output.name] for output in outputs)

    def check_out(self, out: Any, like: Any, arrays: Mapping[str, Any], shape: tuple[int, ...] | None = None) -> None:
        """Raises ArgumentError unless an output as `like` in dtype and shape, or of another shape, can be written to `out`; None can."""
        if out is None:
            return
        shape = like.shape if shape is None else shape
        expected = f"a writable C-contiguous array of {like.dtype}, {shape}"
        if not isinstance(out, np.ndarray):
            self.fail("out", expected, type(out).__name__, "pass numpy.empty of that shape", kind=ArgumentTypeError)
        if out.dtype != like.dtype or out.shape != shape:
            self.fail("out", expected, f"{out.dtype}, {out.shape}", "pass numpy.empty of that shape and dtype")
        if not (out.flags.writeable and out.flags.c_contiguous):
            got = f"writable: {out.flags.writeable}, C-contiguous: {out.flags.c_contiguous}"
            self.fail("out", expected, got, "pass numpy.empty of that shape and dtype")
        for name, array in arrays.items():
            if array is not None and np.may_share_memory(out, array):
                self.fail("out", f"memory apart from that of {name}", "memory that overlaps it", "pass another array")

    def check_seq_idx(self, seq_idx: Any, sizes: Sizes) -> None:
        """Raises ArgumentError unless `seq_idx` is an array or tensor of integers (batch, seqlen)."""
        expected, remedy = (sizes["batch"], sizes["seqlen"]), "number the sequence of every step"
        if not hasattr(seq_idx, "dtype") or "int" not in str(seq_idx.dtype):
            got = getattr(seq_idx, "dtype", type(seq_idx).__name__)
            self.fail("seq_idx", "integers (batch, seqlen)", got, remedy, kind=ArgumentTypeError)
        if tuple(seq_idx.shape) != expected:
            self.fail("seq_idx", f"shape {expected}", tuple(seq_idx.shape), remedy)

    def check_shapes(
        self, shapes: Mapping[str, tuple[int, ...] | None], *, hint: str = "check the order of its axes"
    ) -> Sizes:
        """Binds the axis names of the arguments in order and returns their sizes.

        Raises ArgumentError naming the first argument whose shape disagrees, with the shape the earlier ones imply.
        """
        if type(shapes) is not ArrayShapes:
            return self._check_shapes(shapes, hint)
        key = tuple(shapes.items())
        known = self._sound.get(key)
        if known is None:
            known = self._check_shapes(shapes, hint)
            if len(self._sound) >= _REMEMBERED:
                self._sound.clear()
            self._sound[key] = known
        return known.copy()

    def _check_shapes(self, shapes: Mapping[str, tuple[int, ...] | None], hint: str) -> Sizes:
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


@dataclass(slots=True)
class Call:
    """One checked call of an operation, as it travels from `ssmcore.ops` to a backend.

    `arrays` are in canonical axes, None for an absent one. Each array and option is an attribute as well: `call.u`, `call.layout`.

    A call with `douts`, the gradients of the outputs, asks for the gradients of `arrays` instead of the outputs. `keep` asks the forward
    pass for the outputs that only the gradient needs; `kept` hands them to the gradient. `into` are arrays that a backend may write
    outputs to, in their order, of any strides but for states, which are C-contiguous. A state may be an argument and a target at once.
    """

    spec: OpSpec
    arrays: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    traits: frozenset[str] = frozenset()
    douts: tuple[Any, ...] = ()
    keep: bool = False
    kept: tuple[Any, ...] = ()
    into: tuple[Any, ...] = ()
    num_threads: int = 1

    def __getattr__(self, name: str) -> Any:
        for held in (self.arrays, self.options):
            if name in held:
                return held[name]
        raise AttributeError(f"a call of {self.spec.name} has no {name}")
