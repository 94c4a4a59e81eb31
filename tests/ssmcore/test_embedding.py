"""The C library outside Python: a C program that calls every operation, the errors it gets, what is exported, what builds against it."""

from __future__ import annotations

import ctypes
import inspect
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import threading
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import c_calls
import numpy as np
import pytest
from c_calls import CCall, Program, View, by_python, recorded
from samples import SAMPLES

import ssmcore
from ssmcore import _embedding
from ssmcore.backends import cython_
from ssmcore.ops import SPECS

pytestmark = [
    pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="builds C programs as Linux does"),
]
COMPUTING = [op for op in c_calls.OPERATIONS if not op.startswith("gate_crop")]
DOUTS = ("dout", "dlast_state", "dA_bar", "dB_bar")
COMPLEX = (c_calls.COMPLEX64, c_calls.COMPLEX128)
ISAS = range(1, len(cython_.usable_isas()) + 1)


LARGER = {
    "discretize": lambda rng, dtype: {name: abs(rng.standard_normal(shape)).astype(dtype)
                                      for name, shape in (("A", (1001, 9)), ("B", (1001, 9)), ("delta", (1001,)))},
    "gate_crop": lambda rng, dtype: {"g": rng.standard_normal((3, 151, 153)).astype(dtype), "size": (131, 127)},
}  # fmt: skip
"""Cases that are shared among threads, where those of the samples are too small."""


def _state_case(op: str) -> dict[str, Any]:
    return next(
        case
        for case in (sample.make(np.random.default_rng(3), np.float32) for sample in SAMPLES[op].samples)
        if case.get("initial_state") is not None
        and case["initial_state"].size
        and case["initial_state"].dtype == np.float32
    )


STATEFUL = {op: _state_case(op) for op in ("selective_scan", "ssm_recurrence", "causal_conv1d")}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return Program(tmp_path_factory.mktemp("embedding"))


def calls_of(op: str, case: dict[str, Any]) -> list[CCall]:
    """The calls of the C library that the operation and its gradient make, forward first."""
    function, vjp = getattr(ssmcore, op), getattr(ssmcore, f"{op}_vjp", None)
    state = {"return_last_state": True} if "return_last_state" in inspect.signature(function).parameters else {}
    with recorded() as calls:
        outputs = function(**case, **state, backend="cython")
        if vjp is not None:
            rng = np.random.default_rng(2)
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            douts = [rng.standard_normal(o.shape).astype(o.dtype) for o in outputs]
            if op == "gate_crop":
                vjp(douts[0], case["g"].shape[case["g"].ndim - len(case["size"]) :], backend="cython")
            else:
                names = [name for name in inspect.signature(vjp).parameters if name in DOUTS]
                vjp(**dict(zip(names, douts, strict=False)), **case, backend="cython")
    # the gradient runs the forward pass again, for its checkpoints
    return list({call.name: call for call in calls}.values())


def sample_calls(op: str, dtype: Any) -> list[CCall]:
    found, rng = [], np.random.default_rng(1)
    larger = [make(rng, dtype) for name, make in LARGER.items() if name == op]
    for case in (*(sample.make(np.random.default_rng(1), dtype) for sample in SAMPLES[op].samples), *larger):
        is_complex = any(isinstance(v, np.ndarray) and v.dtype.kind == "c" for v in case.values())
        if case.get("structure") != "dense" and (op == "ssm_recurrence" or not is_complex):
            found += calls_of(op, case)
    return found


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda d: d.__name__)
@pytest.mark.parametrize("op", list(SPECS))
def test_a_c_program_equals_python_to_the_bit(op: str, dtype: Any, program: Program) -> None:
    """Each sample, forward and gradient, by each instruction set that this processor runs, on one thread and on two."""
    calls = [
        replace(call, isa=isa, num_threads=threads)
        for call in sample_calls(op, dtype)
        for isa in ISAS
        for threads in (1, 2)
    ]
    assert {call.name for call in calls} == {name for name in c_calls.OPERATIONS if name in (op, f"{op}_vjp")}
    for call, result in zip(calls, program.run(calls), strict=True):
        assert result.status == c_calls.OK, result.text
        for name, bits in by_python(call).items():
            assert result.bits(name) == bits, f"{call.name}: {name}, isa {call.isa}, {call.num_threads} threads"


# ---- how arrays lie ----


@cache
def rich(name: str, dtype: Any = np.float32) -> CCall:
    """The small call of an operation that has most arrays and options, on two threads."""
    op = name.removesuffix("_vjp")
    calls = [call for call in sample_calls(op, dtype) if call.name == name]
    small = [call for call in calls if 50 < sum(len(view.memory) for view in call.arrays.values() if view) < 40_000]
    real = [call for call in small if not any(view and view.type in COMPLEX for view in call.arrays.values())]
    call = max(
        real, key=lambda call: (len(call.present), len(call.arrays["out"].shape) if "out" in call.present else 0)
    )
    return replace(call, num_threads=2)


def poison(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    return np.frombuffer(bytes([c_calls.POISON]) * int(np.prod(shape) * dtype.itemsize), dtype).reshape(shape).copy()


def with_gaps(x: np.ndarray) -> np.ndarray:
    view = poison(tuple(2 * size for size in x.shape), x.dtype)[tuple(slice(0, 2 * size, 2) for size in x.shape)]
    view[...] = x
    return view


def backwards(x: np.ndarray) -> np.ndarray:
    every = tuple(slice(None, None, -1) for _ in x.shape)
    return x[every].copy()[every]


def axes_turned(x: np.ndarray) -> np.ndarray:
    return np.asfortranarray(x)


def backwards_with_gaps(x: np.ndarray) -> np.ndarray:
    return backwards(with_gaps(x)[...]) if x.ndim == 0 else with_gaps(x[::-1])[::-1]


def rearranged(call: CCall, memory: Any) -> CCall:
    views = {name: view and View.of(memory(view.array(view.memory)), view.type) for name, view in call.arrays.items()}
    return replace(call, arrays=views)


@pytest.mark.parametrize("memory", [with_gaps, backwards, axes_turned, backwards_with_gaps], ids=lambda f: f.__name__)
def test_strides_change_no_bit_and_gaps_stay_as_they_were(memory: Any, program: Program) -> None:
    plain = [rich(name, dtype) for name in c_calls.OPERATIONS for dtype in (np.float32, np.float64)]
    strided = [rearranged(call, memory) for call in plain]
    results = program.run([*plain, *strided])
    for call, other, expected, got in zip(plain, strided, results, results[len(plain) :], strict=False):
        assert (expected.status, got.status) == (c_calls.OK, c_calls.OK), got.text
        for name, view in other.arrays.items():
            if view is None:
                continue
            memory_then = bytearray(view.memory)
            view.array(memory_then)[...] = expected[name] if view.memory else 0
            assert got.memory[name] == bytes(memory_then), f"{call.name}: {name}"


def test_a_stride_of_zero_repeats_an_axis(program: Program) -> None:
    """Of each array that is read, each axis."""
    pairs = []
    for op in c_calls.OPERATIONS:
        call = rich(op)
        for name in set(call.present) - set(c_calls.written_by(op)):
            view = call.arrays[name]
            assert view is not None
            x = view.array(view.memory)
            for axis in range(x.ndim):
                repeated = np.broadcast_to(np.take(x, [0], axis), x.shape)
                pairs.append([call.with_arrays(**{name: View.of(a)}) for a in (repeated, repeated.copy())])
    assert len(pairs) > 200
    results = iter(program.run(call for pair in pairs for call in pair))
    for repeated, copied in zip(results, results, strict=True):
        assert (repeated.status, copied.status) == (c_calls.OK, c_calls.OK), repeated.text
        for name in set(c_calls.written_by(repeated.call.name)) & set(repeated.memory):
            assert repeated.memory[name] == copied.memory[name], f"{repeated.call.name}: {name}"


def test_a_state_is_advanced_in_its_own_memory(program: Program) -> None:
    for name in ("selective_scan", "ssm_recurrence", "causal_conv1d"):
        (apart,) = (call for call in calls_of(name, STATEFUL[name]) if call.name == name)
        state = apart.arrays["initial_state"]
        assert state is not None
        apart = apart.with_arrays(last_state=state.poisoned())
        struct = [member for _, member in c_calls.STRUCTS[f"ssmcore_{name}_args"]]
        # the words of a struct: its size, its options in one word, and a pointer for each array
        pointers = [i for i, member in enumerate(struct) if member in c_calls.arrays_of(name)]
        place = {member: i for i, member in zip(range(len(pointers)), c_calls.arrays_of(name), strict=True)}
        first = len(c_calls.words_of(apart)) - len(pointers)

        def aliased(words: list[Any], first: int = first, place: dict[str, int] = place) -> list[Any]:
            words[first + place["last_state"]] = words[first + place["initial_state"]]
            return words

        expected, got = program.run([apart, replace(apart, edit={"args": aliased})])
        assert (expected.status, got.status) == (c_calls.OK, c_calls.OK), got.text
        assert got.bits("initial_state") == expected.bits("last_state")
        assert got.bits("initial_state") != state.array(state.memory).tobytes()


def test_the_last_state_of_a_convolution_is_that_of_python(program: Program) -> None:
    for seqlen in (0, 1, 2, 3, 9):
        rng = np.random.default_rng(seqlen)
        x, weight = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 5, seqlen), (5, 4)))
        state = rng.standard_normal((2, 5, 3)).astype(np.float32)
        (call,) = (
            c
            for c in calls_of("causal_conv1d", {"x": x, "weight": weight, "initial_state": state})
            if c.name == "causal_conv1d"
        )
        (result,) = program.run([call.with_arrays(last_state=View.of(poison((2, 5, 3), np.dtype("f4"))))])
        last = ssmcore.causal_conv1d(x, weight, initial_state=state, return_last_state=True, backend="numpy")[1]
        assert result.bits("last_state") == last.tobytes()


# ---- half precision ----


def to_brain(x: np.ndarray) -> np.ndarray:
    """To the nearest bfloat16, ties to even, as integers."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    rounded = ((bits.astype(np.uint64) + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(x), (bits >> 16 & 0x8000 | 0x7FC0).astype(np.uint16), rounded)


def from_brain(x: np.ndarray) -> np.ndarray:
    return (x.astype(np.uint32) << 16).view(np.float32)


def to_half(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return x.astype(np.float16)


NARROW = {
    "float16": (c_calls.FLOAT16, np.dtype("f2"), to_half, lambda x: x.astype(np.float32)),
    "bfloat16": (c_calls.BFLOAT16, np.dtype("u2"), to_brain, from_brain),
}


@pytest.mark.parametrize("narrow", NARROW)
@pytest.mark.parametrize("op", COMPUTING)
def test_half_precision_is_computed_in_float32_and_rounded_once(op: str, narrow: str, program: Program) -> None:
    code, dtype, rounded, widened = NARROW[narrow]
    call, arrays = rich(op), {}
    for name, view in call.arrays.items():
        if view is not None and view.type == c_calls.FLOAT32 and not (name in c_calls.KEPT and op.endswith("_vjp")):
            narrow_values = rounded(view.array(view.memory))
            arrays[name] = narrow_values
    read = set(arrays) - set(c_calls.written_by(op))
    wide = call.with_arrays(**{name: View.of(widened(arrays[name])) for name in read})
    narrow_read = call.with_arrays(**{name: View.of(arrays[name], code) for name in read})
    both = narrow_read.with_arrays(
        **{name: View.of(poison(a.shape, dtype), code) for name, a in arrays.items() if name not in read}
    )
    expected, mixed, got = program.run([wide, narrow_read, both])
    assert (expected.status, mixed.status, got.status) == (0, 0, 0), got.text
    written = set(c_calls.written_by(op)) & set(call.present)
    assert written
    for name in written:
        assert mixed.bits(name) == expected.bits(name), name
        assert got.bits(name) == rounded(expected[name]).tobytes(), name


def through_a_state(x: np.ndarray, type_in: int, dtype_out: Any, type_out: int, program: Program) -> np.ndarray:
    """x of 8 steps, converted: the last steps of a convolution are its state."""
    steps, dim = 8, x.size // 8
    weight = np.zeros((dim, steps + 1), np.float32)
    arrays = {
        "x": View.of(x.reshape(1, steps, dim), type_in),
        "weight": View.of(weight),
        "bias": None,
        "initial_state": None,
        "out": View.of(np.empty((1, steps, dim), np.float32)),
        "last_state": View.of(poison((1, dim, steps), np.dtype(dtype_out)), type_out),
    }
    (result,) = program.run([CCall("causal_conv1d", arrays)])
    assert result.status == c_calls.OK, result.text
    return result["last_state"].swapaxes(1, 2).reshape(-1)


def hard_cases(bits_of_narrow: np.ndarray) -> np.ndarray:
    """float32 around what is representable: each value, each midpoint, their neighbours; subnormals, limits, and numbers at random."""
    finite = np.unique(bits_of_narrow[np.isfinite(bits_of_narrow)])
    with np.errstate(over="ignore"):
        middles = ((finite[1:].astype(np.float64) + finite[:-1]) / 2).astype(np.float32)
        near = [np.nextafter(x, np.float32(to)) for x in (finite, middles) for to in (-np.inf, np.inf)]
    at_random = np.random.default_rng(0).integers(0, 2**32, 2**18, dtype=np.uint32).view(np.float32)
    edges = np.array(
        [0, -0.0, 1e-45, -1e-45, 65504, 65519.99, 65520, -65520, 1e38, 3.4e38, np.inf, -np.inf, np.nan, -np.nan],
        np.float32,
    )
    found = np.concatenate([finite, middles, *near, at_random, edges]).astype(np.float32)
    return np.resize(found, -(-found.size // 8) * 8)


def through_a_kernel(
    x: np.ndarray, type_in: int, dtype_out: Any, type_out: int, isa: int, program: Program
) -> np.ndarray:
    """x, converted: a convolution by 1. Of -0 it makes 0."""
    shape = (1, 8, x.size // 8)
    arrays = {
        "x": View.of(x.reshape(shape), type_in),
        "weight": View.of(np.ones((shape[2], 1), np.float32)),
        "bias": None,
        "initial_state": None,
        "out": View.of(poison(shape, np.dtype(dtype_out)), type_out),
        "last_state": None,
    }
    (result,) = program.run([CCall("causal_conv1d", arrays, isa=isa)])
    assert result.status == c_calls.OK, result.text
    return result["out"].reshape(-1)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("narrow", NARROW)
def test_kernels_read_and_round_every_number_of_half_precision(narrow: str, isa: int, program: Program) -> None:
    code, dtype, rounded, widened = NARROW[narrow]
    every = np.arange(2**16, dtype=np.uint16).view(dtype)
    wide = through_a_kernel(every, code, np.float32, c_calls.FLOAT32, isa, program)
    np.testing.assert_array_equal(wide, widened(every))
    values = hard_cases(widened(every))
    got = through_a_kernel(values, c_calls.FLOAT32, dtype, code, isa, program)
    np.testing.assert_array_equal(widened(got), widened(rounded(values)))


@pytest.mark.parametrize("narrow", NARROW)
def test_every_number_of_half_precision_is_read_and_every_other_rounded(narrow: str, program: Program) -> None:
    code, dtype, rounded, widened = NARROW[narrow]
    every = np.arange(2**16, dtype=np.uint16).view(dtype)
    wide = through_a_state(every, code, np.float32, c_calls.FLOAT32, program)
    expected = widened(every)
    assert np.array_equal(np.isnan(wide), np.isnan(expected))
    sound = ~np.isnan(expected)
    assert np.array_equal(wide.view(np.uint32)[sound], expected.view(np.uint32)[sound])

    values = hard_cases(expected)
    got, wanted = through_a_state(values, c_calls.FLOAT32, dtype, code, program), rounded(values)
    sound = ~np.isnan(values)
    assert np.array_equal(got.view(np.uint16)[sound], wanted.view(np.uint16)[sound])
    assert np.isnan(widened(got[~sound])).all()
    assert np.array_equal(np.signbit(widened(got)), np.signbit(values))


# ---- errors ----

BROKEN: dict[str, tuple[Any, str]] = {
    "seven axes": (lambda v: replace(v, ndim=7), "axes"),
    "billions of axes": (lambda v: replace(v, ndim=2**31 - 1), "axes"),
    "minus one axis": (lambda v: replace(v, ndim=-1), "axes"),
    "an axis too many": (lambda v: replace(v, shape=(*v.shape, 1), strides=(*v.strides, 1)), "axes"),
    "a negative axis": (lambda v: replace(v, shape=(-1, *v.shape[1:])), "-1"),
    "an axis of 2^62": (
        lambda v: replace(v, shape=(2**62, *v.shape[1:]), strides=(0, *v.strides[1:])),
        "4611686018427387904",
    ),
    "no such type": (lambda v: replace(v, type=7), "type"),
    "a negative type": (lambda v: replace(v, type=-1), "type"),
    "no memory": (lambda v: replace(v, offset=-1), "expected memory, got NULL"),
    "between two elements": (lambda v: replace(v, offset=v.offset + 1), "multiple of its type's size"),
    "complex": (lambda v: replace(v, type=c_calls.COMPLEX64, strides=tuple(0 for _ in v.strides)), "type"),
    "bytes": (lambda v: replace(v, type=c_calls.UINT8), "type"),
}


def broken_calls(op: str) -> list[tuple[str, str, str, CCall]]:
    """(what, array, word of the message, call): each array broken in each way."""
    call, found = rich(op), []
    for name in call.present:
        view = call.arrays[name]
        assert view is not None
        for what, (change, word) in BROKEN.items():
            of_bytes = view.type == c_calls.UINT8
            if (what == "complex" and op in ("ssm_recurrence", "gate_crop", "gate_crop_vjp")) or (
                of_bytes and what in ("between two elements", "bytes")
            ):
                continue
            if what == "an axis too many" and op.startswith(("gate_crop", "discretize")):
                continue  # these take arrays of any number of axes, and blame another one
            if what == "an axis of 2^62" and name in ("g", "out", "dout", "dg") and op.startswith("gate_crop"):
                continue
            found.append((what, name, word, call.with_arrays(**{name: change(view)})))
        if name not in c_calls.optional_in(op):
            found.append(("absent", name, "expected an array, got NULL", call.with_arrays(**{name: None})))
    return found


@pytest.mark.parametrize("op", c_calls.OPERATIONS)
def test_a_broken_array_is_named_and_nothing_written(op: str, program: Program) -> None:
    broken = broken_calls(op)
    for (what, name, word, _), result in zip(broken, program.run(call for *_, call in broken), strict=True):
        assert result.status == c_calls.ERROR_ARGUMENT, (what, name, result.text)
        assert result.text.startswith(f"{op}: "), result.text
        # the first array to have an axis tells its length, and arrays of unlike types are blamed in turn
        blames = what != "an axis of 2^62" and not (op.startswith("gate_crop") and what == "bytes")
        assert not blames or (f": {name}: " in result.text and word in result.text), (what, name, result.text)
        assert result.wrote_nothing, (what, name)


def test_an_array_that_is_written_has_memory_for_every_element(program: Program) -> None:
    calls = []
    for op in c_calls.OPERATIONS:
        call = rich(op)
        for name in set(c_calls.written_by(op)) & set(call.present):
            view = call.arrays[name]
            assert view is not None
            axis = next((axis for axis, size in enumerate(view.shape) if size > 1), None)
            if axis is not None:
                strides = tuple(0 if i == axis else step for i, step in enumerate(view.strides))
                calls.append((name, call.with_arrays(**{name: replace(view, strides=strides)})))
    for (name, call), result in zip(calls, program.run(call for _, call in calls), strict=True):
        assert result.status == c_calls.ERROR_ARGUMENT, (call.name, name)
        assert f"{call.name}: {name}: expected elements apart" in result.text
        assert result.wrote_nothing


WORDS = {
    "delta transposed": ("selective_scan", "delta", (2, 6, 17), "selective_scan: delta: expected shape (2, 17, 6) like u, got (2, 6, 17); its axes are (batch, seqlen, dim)"),
    "A of another dim": ("selective_scan", "A", (5, 4), "selective_scan: A: expected shape (6, dstate) like u, got (5, 4); its axes are (dim, dstate)"),
    "A without a state": ("selective_scan", "A", (6, 0), "selective_scan: A: expected a dstate of at least 1, got 0"),
    "checkpoints of two chunks": ("selective_scan", "checkpoints", (2, 2, 4, 6), "selective_scan: checkpoints: expected shape (2, 1, 4, 6)"),
    "a grid of three directions": ("ss2d", "A", (3, 6, 4), "ss2d: A: expected shape (4, 6, dstate) like x, got (3, 6, 4); its axes are (4, dim, dstate)"),
    "groups that do not divide": ("chunk_scan", "B", (2, 17, 4, 5), "chunk_scan: C: expected shape (2, 17, 4, 5) like x, got (2, 17, 2, 5)"),
    "no tap": ("causal_conv1d", "weight", (6, 0), "causal_conv1d: weight: expected at least one tap, got 0"),
    "a kernel of five by five": ("depthwise_conv2d", "weight", (6, 5, 5), "depthwise_conv2d: weight: expected shape (6, 3, 3) like x, got (6, 5, 5); its axes are (dim, 3, 3)"),
    "a small phi": ("attention_gate", "phi", (2, 4, 4, 3), "attention_gate: phi: expected a grid of at least (5, 4), got (4, 4); it is cropped to x"),
    "a window that is larger": ("gate_crop", "out", (2, 100, 4, 6), "gate_crop: g: expected an axis 1 of at least 100"),
}  # fmt: skip


@pytest.mark.parametrize("what", WORDS)
def test_a_wrong_shape_is_told_in_words(what: str, program: Program) -> None:
    op, name, shape, words = WORDS[what]
    dtype = np.dtype("f4")
    (result,) = program.run([rich(op).with_arrays(**{name: View.of(poison(shape, dtype))})])
    assert result.status == c_calls.ERROR_ARGUMENT
    assert result.text.startswith(words), result.text
    assert result.wrote_nothing


def first_word(value: int) -> Any:
    return lambda words: [(c_calls.VALUE, value), *words[1:]]


def longer(*tail: int) -> Any:
    """The struct of a newer header, with more members at its end."""
    return lambda words: [
        (c_calls.VALUE, 8 * (len(words) + len(tail))),
        *words[1:],
        *((c_calls.VALUE, x) for x in tail),
    ]


def shorter(words_left: int) -> Any:
    return lambda words: [(c_calls.VALUE, 8 * words_left), *words[1:words_left]]


def no_struct(_: Any) -> None:
    return None


STRUCT_ERRORS = {
    "NULL": (no_struct, c_calls.ERROR_ARGUMENT, "expected a struct, got NULL; pass its address"),
    "size 0": (first_word(0), c_calls.ERROR_ARGUMENT, "got 0; set it first"),
    "size 7": (first_word(7), c_calls.ERROR_ARGUMENT, "got 7; set it first"),
    "size 65537": (first_word(65537), c_calls.ERROR_ARGUMENT, "got 65537; set it first"),
    "size 2^64 - 1": (first_word(-1), c_calls.ERROR_ARGUMENT, "got 18446744073709551615; set it first"),
    "a member not known": (longer(0, 0, 1), c_calls.ERROR_VERSION, "all that version"),
    "a byte not known": (longer(1 << 56), c_calls.ERROR_VERSION, "install a newer library"),
}


@pytest.mark.parametrize("what", STRUCT_ERRORS)
def test_a_struct_of_no_sound_size_is_refused(what: str, program: Program) -> None:
    edit, status, words = STRUCT_ERRORS[what]
    calls = [
        (op, which, replace(rich(op), edit={which: edit}))
        for op in c_calls.OPERATIONS
        for which in ("args", "forward", "options")
        if (which != "forward" or c_calls.has_forward(op)) and (which != "options" or what != "NULL")
    ]
    for (op, which, _), result in zip(calls, program.run(call for *_, call in calls), strict=True):
        assert result.status == status, (op, which, result.text)
        assert result.text.startswith(f"{op}: {which}: expected ")
        assert words in result.text
        assert result.wrote_nothing


@pytest.mark.parametrize("op", c_calls.OPERATIONS)
def test_structs_of_older_and_newer_headers_work(op: str, program: Program) -> None:
    """A newer one whose further members are 0. An older one, which ends before options or results that are absent."""
    call = rich(op)
    both = {"args": longer(0, 0, 0), "options": longer(0)}
    if c_calls.has_forward(op):
        both["forward"] = longer(0)
    calls = [
        call,
        replace(call, edit=both),
        replace(call, edit={"options": shorter(3)}),
        replace(call, edit={"options": no_struct}),
    ]
    tail, used = [], c_calls.arrays_of(op)
    while len(used) > 1 and used[-1] in c_calls.optional_in(op):
        tail.append(used.pop())
    whole = call.with_arrays(**dict.fromkeys(tail))
    count = len(c_calls.words_of(call))
    calls += [whole, replace(whole, edit={"args": shorter(count - len(tail))})]
    results = program.run(calls)
    assert [result.status for result in results] == [c_calls.OK] * len(calls), [result.text for result in results]
    assert all(result.memory == results[0].memory for result in results[1:4])
    assert results[4].memory == results[5].memory


OPTION_ERRORS = {
    "num_threads -1": ({"num_threads": -1}, c_calls.ERROR_ARGUMENT, "num_threads"),
    "work_per_thread -1": ({"work_per_thread": -1}, c_calls.ERROR_ARGUMENT, "work_per_thread"),
    "isa -1": ({"isa": -1}, c_calls.ERROR_ISA, "isa: expected at most"),
    "isa 4": ({"isa": 4}, c_calls.ERROR_ISA, "isa: expected at most"),
    "isa beyond this processor": ({"isa": len(ISAS) + 1}, c_calls.ERROR_ISA, "pass 0 for the widest"),
    "allocate alone": ({"own": (c_calls.ALLOCATE,)}, c_calls.ERROR_ARGUMENT, "allocate and release together"),
    "release alone": ({"own": (c_calls.RELEASE,)}, c_calls.ERROR_ARGUMENT, "allocate and release together"),
}


@pytest.mark.parametrize("what", OPTION_ERRORS)
def test_a_wrong_option_is_refused(what: str, program: Program) -> None:
    changes, status, words = OPTION_ERRORS[what]
    calls = [replace(rich(op), **changes) for op in c_calls.OPERATIONS]
    for result in program.run(calls):
        assert result.status == status, result.text
        assert result.text.startswith(f"{result.call.name}: options: ")
        assert words in result.text
        assert result.wrote_nothing


@pytest.mark.parametrize("value", [-1, 3, 2**31 - 1])
def test_an_option_of_no_known_value_is_refused(value: int, program: Program) -> None:
    calls = [(setting, replace(rich(op), settings={**rich(op).settings, setting: value}))
             for op in c_calls.OPERATIONS for setting in ("discretization", "activation") if setting in rich(op).settings]  # fmt: skip
    assert len(calls) == 10
    for (setting, call), result in zip(calls, program.run(call for _, call in calls), strict=True):
        assert result.status == c_calls.ERROR_ARGUMENT
        assert result.text.startswith(f"{call.name}: {setting}: expected a number of 0 to ")
        assert result.wrote_nothing


def test_the_text_of_an_error_is_its_threads_own() -> None:
    library = ctypes.CDLL(ssmcore.get_library())
    library.ssmcore_error.restype = ctypes.c_char_p
    apart, seen = threading.Barrier(2, timeout=30), {}

    def fail(op: str) -> None:
        before = library.ssmcore_error()
        apart.wait()
        getattr(library, f"ssmcore_{op}")(None, None)
        apart.wait()
        seen[op] = before, library.ssmcore_error()

    threads = [threading.Thread(target=fail, args=(op,)) for op in ("ss2d", "gate_crop")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for op in ("ss2d", "gate_crop"):
        assert seen[op][0] == b""
        assert seen[op][1].startswith(f"{op}: args: ".encode())


# ---- the caller's threads and memory ----


@pytest.mark.parametrize("kind", [c_calls.IN_TURN, c_calls.OWN_THREADS], ids=["in turn", "threads"])
def test_a_callers_threads_do_the_work(kind: int, program: Program) -> None:
    plain = [replace(call, num_threads=3, isa=0) for op in SPECS for call in sample_calls(op, np.float32)]
    results = program.run([*plain, *(replace(call, own=(kind,)) for call in plain)])
    shared = set()
    for expected, got in zip(results, results[len(plain) :], strict=False):
        assert (expected.status, got.status, got.wrong) == (c_calls.OK, c_calls.OK, 0), got.text
        assert got.memory == expected.memory
        assert got.most <= 3
        if got.shared:
            shared.add(got.call.name)
    assert shared == set(c_calls.OPERATIONS)


def test_a_callers_memory_is_used_and_given_back(program: Program) -> None:
    plain = [replace(call, num_threads=2) for op in SPECS for call in sample_calls(op, np.float32)]
    results = program.run([*plain, *(replace(call, own=(c_calls.ALLOCATE, c_calls.RELEASE)) for call in plain)])
    used = set()
    for expected, got in zip(results, results[len(plain) :], strict=False):
        assert (got.status, got.wrong, got.held) == (c_calls.OK, 0, 0), got.text
        assert got.memory == expected.memory
        if got.taken:
            used.add(got.call.name)
    assert used == set(c_calls.OPERATIONS)


def failing_calls() -> list[CCall]:
    """Of arrays that have to be converted: most memory."""
    plain = [rearranged(rich(op, dtype), with_gaps) for op in c_calls.OPERATIONS for dtype in (np.float32, np.float64)]
    return [replace(call, num_threads=threads, own=(c_calls.ALLOCATE, c_calls.RELEASE, *kind), fail=True)
            for call in plain for threads, kind in ((1, ()), (2, ()), (2, (c_calls.OWN_THREADS,)))]  # fmt: skip


def test_no_memory_at_any_moment_is_an_error_that_leaks_nothing(program: Program) -> None:
    """Each allocation of a call fails once, and all others are given back. Then none fails."""
    calls = failing_calls()
    results = program.run([*calls, *(replace(call, fail=False, own=()) for call in calls)])
    for got, expected in zip(results, results[len(calls) :], strict=False):
        assert (got.status, got.wrong, got.held) == (c_calls.OK, 0, 0), got.text
        assert got.tries == got.taken + 1
        assert got.memory == expected.memory
        assert got.taken > 0


# ---- what is exported and declared ----


def output_of(*command: Any, **options: Any) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def needs(*tools: str) -> Any:
    missing = [tool for tool in tools if shutil.which(tool) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


FUNCTIONS = {
    f"ssmcore_{name}" for name in (*c_calls.OPERATIONS, "abi", "version", "error", "widest_isa", "has_threads", "table")
}


@needs("nm")
def test_the_library_exports_its_interface_alone() -> None:
    lines = output_of("nm", "-D", "--defined-only", ssmcore.get_library()).splitlines()
    assert {line.split()[-1] for line in lines} == FUNCTIONS


@needs("readelf")
def test_the_library_needs_libc_and_libm_alone() -> None:
    text = output_of("readelf", "-d", ssmcore.get_library())
    needed = {name.partition(".")[0] for name in re.findall(r"\(NEEDED\).*\[(.*)\]", text)}
    assert needed <= {"libc", "libm", "libpthread", "ld-linux-x86-64", "ld-linux-aarch64"}
    assert re.findall(r"\(SONAME\).*\[(.*)\]", text) == [Path(ssmcore.get_library()).name]
    assert "NODELETE" in text


@pytest.mark.parametrize(
    ("compiler", "standard", "suffix"),
    [("cc", "c99", "c"), ("cc", "c11", "c"), ("c++", "c++11", "cpp"), ("c++", "c++17", "cpp")],
)
@pytest.mark.parametrize("header", ["ssmcore.h", "ssmcore_python.h"])
def test_a_header_compiles_without_a_warning(
    compiler: str, standard: str, suffix: str, header: str, tmp_path: Path
) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"needs {compiler}")
    python = sysconfig.get_path("include")
    if header == "ssmcore_python.h" and not (Path(python) / "Python.h").exists():
        pytest.skip("needs the headers of Python")
    source = tmp_path / f"program.{suffix}"
    use = "ssmcore_import()" if header == "ssmcore_python.h" else "ssmcore_table()"
    # twice, as when two other headers include it
    source.write_text(f"#include <{header}>\n#include <{header}>\nint main(void) {{ return {use} == 0; }}\n")
    warnings = ["-pedantic", "-Wall", "-Wextra", "-Wstrict-prototypes", "-Werror"][: None if suffix == "c" else 3]
    flags = [f"-std={standard}", *warnings, "-Werror", f"-I{ssmcore.get_include()}", "-isystem", python]
    output_of(compiler, *flags, "-fsyntax-only", source)


def members_of_pxd(text: str) -> dict[str, list[tuple[str, str]]]:
    structs: dict[str, list[tuple[str, str]]] = {}
    for name, body in re.findall(r"ctypedef struct (\w+):\n((?: {8}.*\n)+)", text):
        structs[name] = members = []
        for line in map(str.strip, body.splitlines()):
            pointer = re.fullmatch(r"(.*?)\(\*(\w+)\)\((.*)\) noexcept nogil", line)
            if pointer:
                members.append(("function", f"{pointer[1]}(*{pointer[2]})({pointer[3] or 'void'})"))
                continue
            kind, declarators = re.fullmatch(r"((?:const )?\w+) (.*)", line).groups()
            for declarator in declarators.split(", "):
                stars = "*" * declarator.count("*")
                members.append((f"{kind} {stars}".strip(), declarator.lstrip("*")))
    return structs


def test_cythons_declarations_are_those_of_the_header() -> None:
    """Each constant, function type, struct with its members in order, and function."""
    header = c_calls.without_comments(c_calls.HEADER.read_text())
    pxd = (c_calls.ROOT / "ssmcore" / "capi.pxd").read_text()
    enums = [name for body in re.findall(r"enum \{(.*?)\}", header) + re.findall(r"enum \{(.*?)\}", header, re.DOTALL)
             for name in re.findall(r"(SSMCORE_\w+) =", body)]  # fmt: skip
    assert set(re.findall(r"^ {8}(SSMCORE_\w+)$", pxd, re.MULTILINE)) == {"SSMCORE_ABI", *enums}
    types = re.findall(r"typedef void \*?(ssmcore_\w+)\(", header)
    assert set(re.findall(r"ctypedef void \*?(ssmcore_\w+)\(.*\) noexcept nogil$", pxd, re.MULTILINE)) == set(types)

    declared = members_of_pxd(pxd)
    operations = [
        ("function", f"int (*{op})(const ssmcore_{op}_args *args, const ssmcore_options *options)")
        for op in c_calls.OPERATIONS
    ]
    for name, members in c_calls.STRUCTS.items():
        wanted = [
            (kind, member.replace("SSMCORE_MAX_NDIM", "6"))
            for kind, member in members
            if not member.startswith("SSMCORE_")
        ]
        assert declared.pop(name) == wanted + (operations if name == "ssmcore_functions" else []), name
    assert not declared
    functions = dict(
        re.findall(r"^ {4}(?:[\w ]+ )\*?(ssmcore_\w+)\((.*)\)$", pxd.partition("ssmcore_python.h")[0], re.MULTILINE)
    )
    assert set(functions) == FUNCTIONS
    for op in c_calls.OPERATIONS:
        assert functions[f"ssmcore_{op}"] == f"const ssmcore_{op}_args *args, const ssmcore_options *options"


def test_the_table_has_every_function() -> None:
    library = ctypes.CDLL(ssmcore.get_library())
    library.ssmcore_table.restype = ctypes.POINTER(ctypes.c_size_t)
    words = library.ssmcore_table()
    size = 8 * (2 + 4 + len(c_calls.OPERATIONS))
    assert words[0] == size
    assert words[1] == 1  # the ABI, and 0 in what is reserved
    names = ["version", "error", "widest_isa", "has_threads", *c_calls.OPERATIONS]
    addresses = [ctypes.cast(getattr(library, f"ssmcore_{name}"), ctypes.c_void_p).value for name in names]
    assert [words[2 + i] for i in range(len(names))] == addresses


# ---- how programs find the library ----

EXAMPLES = c_calls.ROOT / "docs" / "examples" / "embedding"
VERSION = tomllib.loads((c_calls.ROOT / "pyproject.toml").read_text())["project"]["version"]


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a wheel installs for other languages, at another place than where it was built."""
    package, place = Path(ssmcore.__file__).parent, tmp_path_factory.mktemp("site packages") / "ssmcore"
    for folder in ("lib", "include"):
        shutil.copytree(package / folder, place / folder, ignore=shutil.ignore_patterns("__pycache__", "*.in"))
    if not (place / "lib" / "pkgconfig").exists():
        pytest.skip("this build wrote no files for pkg-config and CMake")
    return place.rename(tmp_path_factory.mktemp("moved") / "ssmcore")


def test_one_version_everywhere(moved: Path) -> None:
    library = ctypes.CDLL(ssmcore.get_library())
    library.ssmcore_version.restype = ctypes.c_char_p
    assert library.ssmcore_version().decode() == ssmcore.__version__ == VERSION
    assert f"\nVersion: {VERSION}\n" in (moved / "lib/pkgconfig/ssmcore.pc").read_text()
    assert f'set(PACKAGE_VERSION "{VERSION}")\n' in (moved / "lib/cmake/ssmcore/ssmcoreConfigVersion.cmake").read_text()
    for file in (*moved.rglob("*.pc"), *moved.rglob("*.cmake")):
        assert not re.search(r"@\w+@", file.read_text()), file.name
        assert str(c_calls.ROOT) not in file.read_text(), file.name


def test_a_library_that_was_not_built_is_told_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_embedding, "__file__", str(tmp_path / "ssmcore" / "_embedding.py"))
    with pytest.raises(
        FileNotFoundError, match=r"get_library: expected the C library at .*ssmcore/lib/.*install a C compiler"
    ):
        ssmcore.get_library()
    (tmp_path / "setup.py").touch()
    with pytest.raises(FileNotFoundError, match="run `make build`"):
        ssmcore.get_library()


BATCH, SEQLEN, DIM, DSTATE = 2, 71, 37, 5


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A folder with the arrays of a scan, and its result by Python."""
    rng, folder = np.random.default_rng(7), tmp_path_factory.mktemp("arrays")
    shapes = {"u": (BATCH, SEQLEN, DIM), "delta": (BATCH, SEQLEN, DIM), "A": (DIM, DSTATE), "B": (BATCH, SEQLEN, DSTATE), "C": (BATCH, SEQLEN, DSTATE)}  # fmt: skip
    arrays = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    arrays["A"] = -np.exp(arrays["A"])
    for name, array in arrays.items():
        array.tofile(folder / name)
    return folder, ssmcore.selective_scan(**arrays, delta_softplus=True, layout="bld", backend="cython")


def assert_it_scans(program: Path, written: tuple[Path, np.ndarray]) -> None:
    folder, expected = written
    (folder / "out").unlink(missing_ok=True)
    output_of(program, folder, BATCH, SEQLEN, DIM, DSTATE, 2)
    assert (folder / "out").read_bytes() == expected.tobytes()
    failed = subprocess.run(
        [program, folder, "2", str(SEQLEN), str(DIM), "-1", "2"], capture_output=True, text=True, check=False
    )
    assert failed.returncode not in (0, -11), failed.stderr


def flags(moved: Path) -> list[str]:
    environment = {**os.environ, "PKG_CONFIG_PATH": str(moved / "lib" / "pkgconfig")}
    return output_of("pkg-config", "--cflags", "--libs", f"ssmcore = {VERSION}", env=environment).split()


def test_the_c_program_is_short() -> None:
    assert len((EXAMPLES / "scan.c").read_text().splitlines()) <= 60


@needs("pkg-config", "c++")
@pytest.mark.parametrize(("compiler", "standard", "source"), [("cc", "c99", "scan.c"), ("c++", "c++17", "scan.cpp")])
def test_the_examples_are_built_by_pkg_config(
    compiler: str, standard: str, source: str, moved: Path, written: Any, tmp_path: Path
) -> None:
    warnings = ["-pedantic", "-Wall", "-Wextra", "-Werror"]
    output_of(compiler, f"-std={standard}", *warnings, EXAMPLES / source, *flags(moved), "-o", tmp_path / "scan")
    assert_it_scans(tmp_path / "scan", written)


@pytest.mark.slow
@needs("cmake", "c++")
def test_the_examples_are_built_by_cmake(moved: Path, written: Any, tmp_path: Path) -> None:
    output_of("cmake", "-S", EXAMPLES, "-B", tmp_path, f"-DCMAKE_PREFIX_PATH={moved}")
    output_of("cmake", "--build", tmp_path)
    for program in ("scan_c", "scan_cpp"):
        assert_it_scans(tmp_path / program, written)


@pytest.mark.slow
@needs("cmake")
def test_cmake_takes_no_version_that_does_not_fit(moved: Path, tmp_path: Path) -> None:
    major, minor, _ = map(int, VERSION.split("."))
    series = "" if major else f"{major}."
    fitting = [VERSION, f"{major}.{minor}", ""]
    for number, version in enumerate([*fitting, f"{major + 1}.0", f"{major}.{minor}.999", f"{series}999"]):
        folder = tmp_path / str(number)
        folder.mkdir()
        script = (
            f"cmake_minimum_required(VERSION 3.16)\nproject(x LANGUAGES C)\nfind_package(ssmcore {version} REQUIRED)\n"
        )
        (folder / "CMakeLists.txt").write_text(script)
        command = ["cmake", "-S", folder, "-B", folder / "build", f"-DCMAKE_PREFIX_PATH={moved}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode == 0) == (version in fitting), f"{version}: {done.stderr}"
    (moved / "lib" / Path(ssmcore.get_library()).name).rename(moved / "gone")
    try:
        done = subprocess.run(["cmake", "-S", tmp_path / "0", "-B", tmp_path / "gone", f"-DCMAKE_PREFIX_PATH={moved}"], capture_output=True, text=True)  # fmt: skip
    finally:
        (moved / "gone").rename(moved / "lib" / Path(ssmcore.get_library()).name)
    assert done.returncode
    assert "install ssmcore again" in done.stderr.replace("\n", " ").replace("  ", " ")


@pytest.mark.slow
@needs("rustc")
def test_the_example_in_rust(written: Any, tmp_path: Path) -> None:
    library = ssmcore.get_library()
    link = [f"-Clink-arg={library}", f"-Clink-arg=-Wl,-rpath,{Path(library).parent}"]
    output_of("rustc", "--edition=2021", "-Dwarnings", EXAMPLES / "scan.rs", *link, "-o", tmp_path / "scan")
    assert_it_scans(tmp_path / "scan", written)


@pytest.mark.slow
@needs("go", "pkg-config")
def test_the_example_in_go(moved: Path, written: Any, tmp_path: Path) -> None:
    settings = {"PKG_CONFIG_PATH": str(moved / "lib/pkgconfig"), "GOCACHE": str(tmp_path / "cache"), "GOFLAGS": "-mod=mod", "GOPROXY": "off"}  # fmt: skip
    output_of("go", "build", "-o", tmp_path / "scan", EXAMPLES / "scan.go", env={**os.environ, **settings})
    assert_it_scans(tmp_path / "scan", written)


PAGE = (c_calls.ROOT / "docs" / "embedding.md").read_text()
BLOCKS = [
    (language, text)
    for language, text in re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    if language in ("c", "cpp")
]
FOREIGN = {"oneapi/tbb": "oneTBB", "ATen": "torch"}


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_the_programs_of_the_page_compile(number: int, tmp_path: Path) -> None:
    language, text = BLOCKS[number]
    compiler, standard = {"c": ("cc", "c99"), "cpp": ("c++", "c++17")}[language]
    if shutil.which(compiler) is None:
        pytest.skip(f"needs {compiler}")
    source = tmp_path / f"block.{language}"
    source.write_text(text)
    include = [f"-I{ssmcore.get_include()}", "-isystem", sysconfig.get_path("include")]
    if "ATen" in text:
        from torch.utils.cpp_extension import include_paths

        include += [part for path in include_paths() for part in ("-isystem", path)]
    for place, name in FOREIGN.items():
        probe = ["-x", "c++", "-std=c++17", *include, "-E", "-o", os.devnull, "-"]
        if place in text:
            (header,) = re.findall(rf"#include <({place}.*)>", text)
            found = subprocess.run(
                ["c++", *probe], input=f"#include <{header}>\n", capture_output=True, text=True, check=False
            )
            if found.returncode:
                pytest.skip(f"needs the headers of {name}")
    output_of(
        compiler, f"-std={standard}", "-Wall", "-Wextra", "-pedantic", "-Werror", *include, "-fsyntax-only", source
    )


def test_the_page_shows_examples_that_are_there() -> None:
    for name in ("scan.c", "scan.cpp", "scan.rs", "scan.go", "scanmodule.pyx", "setup.py", "CMakeLists.txt"):
        assert f"`{name}`" in PAGE
        assert (EXAMPLES / name).exists()
    for operation in c_calls.OPERATIONS:
        assert f"`ssmcore_{operation}`" in PAGE
    text = next(block for block in re.findall(r"^```text\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
    assert text.strip() == WORDS["delta transposed"][3]


# ---- extension modules of Python ----


@pytest.mark.slow
def test_the_example_in_cython_has_the_functions_without_a_link(written: Any, tmp_path: Path) -> None:
    pytest.importorskip("Cython")
    folder = tmp_path / "module"
    folder.mkdir()
    for name in ("scanmodule.pyx", "setup.py"):
        shutil.copy(EXAMPLES / name, folder)
    environment = {**os.environ, "PYTHONPATH": str(Path(ssmcore.__file__).parents[1])}
    output_of(sys.executable, "setup.py", "-q", "build_ext", "--inplace", cwd=folder, env=environment)
    arrays, expected = written
    program = f"""
import numpy as np, pathlib, scanmodule, sys
assert not [name for name in sys.modules if name.startswith("ssmcore.torch")]
read = lambda name, *shape: np.fromfile(pathlib.Path({str(arrays)!r}) / name, np.float32).reshape(shape)[-1]
u, delta, B, C = (read(n, {BATCH}, {SEQLEN}, -1) for n in ("u", "delta", "B", "C"))
A, out = np.fromfile({str(arrays / "A")!r}, np.float32).reshape({DIM}, -1), np.empty_like(u)
scanmodule.scan(u, delta, A, B, C, out, num_threads=2)
out.tofile("out")
try:
    scanmodule.scan(u, delta, A[1:], B, C, out)
except ValueError as error:
    print(error)
"""
    said = output_of(sys.executable, "-c", program, cwd=folder, env=environment)
    assert (folder / "out").read_bytes() == expected[-1].tobytes()
    assert said.startswith("selective_scan: A: expected shape (37, dstate) like u, got (36, 5)")


MODULE = """
#include <ssmcore_python.h>
static const ssmcore_functions *functions;
static PyObject *version(PyObject *self, PyObject *ignored) { return PyUnicode_FromString(functions->version()); }
static PyMethodDef methods[] = {{"version", version, METH_NOARGS, NULL}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "importer", NULL, -1, methods, NULL, NULL, NULL, NULL};
PyMODINIT_FUNC PyInit_importer(void) {
    functions = ssmcore_import();
    return functions ? PyModule_Create(&module) : NULL;
}
"""

FAKE = """
import ctypes, sys, types
table = (ctypes.c_uint64 * 30)({size}, {abi})
class Version(ctypes.Structure):
    pass
version = ctypes.CFUNCTYPE(ctypes.c_char_p)(lambda: b"0.0.1")
table[2] = ctypes.cast(version, ctypes.c_void_p).value
new = ctypes.pythonapi.PyCapsule_New
new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
sys.modules["ssmcore.capi"] = fake = types.ModuleType("ssmcore.capi")
fake.functions = new(ctypes.addressof(table), {name!r}, None)
"""
SIZE = 8 * (6 + len(c_calls.OPERATIONS))
IMPORTS = {
    "the library": ("", VERSION),
    "a larger table": (FAKE.format(size=SIZE + 8, abi=1, name=b"ssmcore.capi.functions"), "0.0.1"),
    "another ABI": (FAKE.format(size=SIZE, abi=2, name=b"ssmcore.capi.functions"), "ImportError: ssmcore: expected ABI 1, for which this module was compiled, got 2; compile the module again"),
    "a smaller table": (FAKE.format(size=SIZE - 8, abi=1, name=b"ssmcore.capi.functions"), f"ImportError: ssmcore: expected functions of {SIZE} bytes, got {SIZE - 8}, of version 0.0.1; install a newer ssmcore"),
    "another capsule": (FAKE.format(size=SIZE, abi=1, name=b"another"), "ValueError: PyCapsule_GetPointer called with incorrect name"),
    "no library": ("import sys; sys.modules['ssmcore._kernels.common.binding'] = None", "ModuleNotFoundError: import of ssmcore._kernels.common.binding halted"),
    "no ssmcore": ("import sys; sys.modules['ssmcore'] = None", "ModuleNotFoundError: "),
}  # fmt: skip


@pytest.fixture(scope="module")
def importer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a module that gets the functions by ssmcore_import, compiled for the stable ABI."""
    python = Path(sysconfig.get_path("include"))
    if not (python / "Python.h").exists():
        pytest.skip("needs the headers of Python")
    folder = tmp_path_factory.mktemp("importer")
    (folder / "importer.c").write_text(MODULE)
    settings = ["-DPy_LIMITED_API=0x030b0000", "-shared", "-fPIC", f"-I{ssmcore.get_include()}", f"-I{python}"]
    output_of("cc", *settings, folder / "importer.c", "-o", folder / "importer.abi3.so")
    return folder


@pytest.mark.parametrize("what", IMPORTS)
def test_a_module_imports_the_functions_or_is_told_why_not(what: str, importer: Path) -> None:
    before, says = IMPORTS[what]
    program = f"{before}\nimport importer\nprint(importer.version())"
    path = os.pathsep.join([str(importer), str(Path(ssmcore.__file__).parents[1])])
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path}, cwd=importer
    )
    told = done.stdout if done.returncode == 0 else done.stderr.splitlines()[-1]
    assert told.strip().startswith(says), done.stderr


# ---- under sanitizers ----


@pytest.mark.slow
@pytest.mark.parametrize("sanitizers", [("address", "undefined"), ("thread",)], ids=lambda names: "-".join(names))
def test_sanitizers_find_nothing_in_all_calls(sanitizers: tuple[str, ...], tmp_path: Path) -> None:
    """The library's own sources: all samples, strides, errors, and allocations that fail."""
    if not list((c_calls.ROOT / "build" / "kernels").glob("*/*.c")):
        pytest.skip("needs the C sources that the build wrote")
    options = [f"-fsanitize={name}" for name in sanitizers]
    program = Program(tmp_path, *objects_of(tmp_path, *options), *options)
    calls = [
        replace(call, num_threads=2, isa=isa) for op in SPECS for call in sample_calls(op, np.float32) for isa in ISAS
    ]
    memories = (with_gaps, backwards, axes_turned)
    calls += [
        rearranged(rich(op, dtype), memory)
        for op in c_calls.OPERATIONS
        for dtype in (np.float32, np.float64)
        for memory in memories
    ]
    calls += [replace(call, own=(c_calls.OWN_THREADS,), num_threads=3) for call in calls if call.num_threads > 1]
    sound = len(calls)
    calls += failing_calls()
    calls += [call for op in c_calls.OPERATIONS for *_, call in broken_calls(op)]
    calls += [
        replace(rich(op), edit={"args": edit}) for op in c_calls.OPERATIONS for edit, *_ in STRUCT_ERRORS.values()
    ]
    results = program.run(calls)
    assert {result.status for result in results[:sound]} == {c_calls.OK}


def objects_of(folder: Path, *options: str) -> list[str]:
    """All sources of the library, compiled for the program itself. Kernels for wide vectors, which are the same text, as the build left them:
    under a sanitizer they take a compiler a quarter of an hour."""
    kernels, build = c_calls.ROOT / "ssmcore" / "_kernels", c_calls.ROOT / "build"
    sources = [*(build / "kernels").glob("*/*.c"), *kernels.glob("*/*.c")]

    def compiled(source: Path) -> str:
        own = kernels / source.parent.name
        built = list(build.glob(f"temp.*/{source.relative_to(c_calls.ROOT).with_suffix('.o')}"))
        if source.stem in ("isa_avx2", "isa_avx512") and built:
            return str(max(built, key=lambda file: file.stat().st_mtime))
        made = folder / f"{own.name}-{source.stem}.o"
        include = [f"-I{path}" for path in (own, kernels / "common", ssmcore.get_include())]
        macros = ['-DSSMCORE_VERSION="0"', "-DSSMCORE_BUILDING=1"]
        checks = [option for option in options if source.stem != "isa_generic" or "undefined" not in option]
        flags = ["-O1", "-g", "-fno-math-errno", "-Wno-psabi", *checks, *macros, *include]
        output_of("cc", *flags, "-c", source, "-o", made)
        return str(made)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compiled, sources))
