"""Calls of the C library, made from ssmcore.h: taken down from Python's own, written into a file, and replayed by tests/ssmcore/embedding.c."""

from __future__ import annotations

import ctypes
import inspect
import platform
import re
import shutil
import struct
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ssmcore
from ssmcore._kernels.common import binding
from ssmcore.backends import cython_

ROOT = Path(__file__).parents[1]
HEADER = ROOT / "ssmcore" / "include" / "ssmcore.h"
RUNNER = Path(__file__).parent / "ssmcore" / "embedding.c"
POISON = 0xA5
OK, ERROR_MEMORY, ERROR_ISA, ERROR_ARGUMENT, ERROR_VERSION = 0, -1, -2, -3, -4
FLOAT32, FLOAT64, FLOAT16, BFLOAT16, COMPLEX64, COMPLEX128, UINT8 = range(7)
TYPES = {"f4": FLOAT32, "f8": FLOAT64, "f2": FLOAT16, "c8": COMPLEX64, "c16": COMPLEX128, "u1": UINT8, "u2": BFLOAT16}
VALUE, ARRAY, FORWARD, IN_TURN, OWN_THREADS, ALLOCATE, RELEASE, COUNTS = range(8)  # as in embedding.c

Word = tuple[int, int]

KEPT = {"checkpoints", "q", "used_statistics"}
"""Results that a gradient reads."""


def without_comments(text: str) -> str:
    return re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL)


def declared(text: str) -> dict[str, list[tuple[str, str]]]:
    """(type, name) of every member of every struct that a C text defines. Arrays and function pointers keep their declarators."""
    structs = {}
    for name, body in re.findall(r"typedef struct (\w+) \{(.*?)\} \1;", without_comments(text), re.DOTALL):
        structs[name] = members = []
        for statement in filter(None, (part.strip() for part in body.split(";"))):
            if "(" in statement:  # a function pointer, or the list of the operations
                members.append(("function", re.sub(r"\s+", " ", statement)))
                continue
            kind, first = re.fullmatch(r"((?:const )?\w+) (.*)", statement, re.DOTALL).groups()
            for declarator in re.split(r",\s*", first):
                stars = declarator.count("*")
                members.append((f"{kind} {'*' * stars}".strip(), declarator.lstrip("* ").strip()))
    return structs


STRUCTS = declared(HEADER.read_text())
OPERATIONS = re.findall(r"OP\((\w+)\)", HEADER.read_text().partition("SSMCORE_OPERATIONS(OP)")[2])


def arrays_of(name: str) -> list[str]:
    """Names of the arrays of an operation's struct."""
    return [member for kind, member in STRUCTS[f"ssmcore_{name}_args"] if kind == "const ssmcore_array *"]


def written_by(name: str) -> list[str]:
    """Names of the arrays that an operation writes, by the words of ssmcore.h."""
    body = re.search(rf"typedef struct ssmcore_{name}_args \{{(.*?)\n\}}", HEADER.read_text(), re.DOTALL)
    assert body is not None
    lines = [line for line in body[1].splitlines() if "/* written" in line]
    return [name for line in lines for name in re.findall(r"\*(\w+)", line.partition("/*")[0])]


def words_of(call: CCall) -> list[Word]:
    """The words of the struct of its arguments."""
    return call.words(f"ssmcore_{call.name}_args")


def optional_in(name: str) -> set[str]:
    """Names of the arrays that may be absent: those in brackets, and gradients of inputs."""
    body = re.search(rf"typedef struct ssmcore_{name}_args \{{(.*?)\n\}}", HEADER.read_text(), re.DOTALL)
    assert body is not None
    lines = [line for line in body[1].splitlines() if re.search(r"/\* (written: )?\[", line)]
    found = {name for line in lines for name in re.findall(r"\*(\w+)", line.partition("/*")[0])}
    if has_forward(name):
        found |= set(written_by(name)) | (optional_in(name.removesuffix("_vjp")) - KEPT)
    return found


def has_forward(name: str) -> bool:
    """Whether an operation's struct points to that of the forward call."""
    return any(member == "forward" for _, member in STRUCTS[f"ssmcore_{name}_args"])


@dataclass(frozen=True)
class View:
    """An ssmcore_array, with all memory between its first and last element. An `offset` of -1 makes data NULL."""

    type: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    memory: bytes
    offset: int = 0
    ndim: int | None = None

    @staticmethod
    def of(array: np.ndarray, type: int | None = None) -> View:
        """`type` tells bfloat16 from the integers that NumPy keeps it in."""
        code = TYPES[array.dtype.str[1:]] if type is None else type
        strides = tuple(step // array.itemsize for step in array.strides)
        if array.size == 0:
            return View(code, array.shape, strides, b"")
        reach = [(size - 1) * step for size, step in zip(array.shape, array.strides, strict=True)]
        before = -sum(step for step in reach if step < 0)
        size = before + sum(step for step in reach if step > 0) + array.itemsize
        return View(code, array.shape, strides, ctypes.string_at(array.ctypes.data - before, size), before)

    def poisoned(self) -> View:
        return replace(self, memory=bytes([POISON]) * len(self.memory))

    def packed(self) -> bytes:
        room = [0] * 6
        shape, strides = ([*sizes, *room][:6] for sizes in (self.shape, self.strides))
        ndim = len(self.shape) if self.ndim is None else self.ndim
        return struct.pack("<16q", self.type, ndim, *shape, *strides, len(self.memory), self.offset)

    def array(self, memory: bytes | bytearray) -> np.ndarray:
        """The elements that lie in `memory`; bfloat16 as integers."""
        dtype = np.dtype(next(name for name, code in TYPES.items() if code == self.type))
        strides = [step * dtype.itemsize for step in self.strides]
        return np.ndarray(self.shape, dtype, memory, self.offset, strides) if memory else np.empty(self.shape, dtype)


@dataclass(frozen=True)
class CCall:
    """A call of ssmcore_<name>. `edit` changes the words of its structs "args", "forward" and "options", None being NULL."""

    name: str
    arrays: Mapping[str, View | None]
    settings: Mapping[str, float] = field(default_factory=dict)
    num_threads: int = 1
    isa: int = 0
    work_per_thread: int = 1
    own: tuple[int, ...] = ()
    fail: bool = False
    edit: Mapping[str, Any] = field(default_factory=dict)

    @property
    def present(self) -> list[str]:
        return [name for name, view in self.arrays.items() if view is not None]

    def with_arrays(self, **changes: View | None) -> CCall:
        return replace(self, arrays={**self.arrays, **changes})

    def words(self, struct_name: str) -> list[Word]:
        words: list[Word] = []
        half: list[int] = []
        for kind, member in STRUCTS[struct_name]:
            if kind == "size_t":
                words.append((VALUE, 0))
            elif kind == "int32_t":
                half.append(int(self.settings.get(member, 0)))
                if len(half) == 2:
                    words.append((VALUE, struct.unpack("<q", struct.pack("<2i", *half))[0]))
                    half = []
            elif kind == "double":
                words.append((VALUE, struct.unpack("<q", struct.pack("<d", self.settings.get(member, 0)))[0]))
            elif member == "forward":
                words.append((FORWARD, 0))
            else:
                assert kind == "const ssmcore_array *", kind
                words.append((ARRAY, self.present.index(member)) if member in self.present else (VALUE, 0))
        words[0] = (VALUE, 8 * len(words))
        return words

    def _options(self) -> list[Word]:
        both = struct.unpack("<q", struct.pack("<2i", self.num_threads, self.isa))[0]
        threads = [kind for kind in self.own if kind in (IN_TURN, OWN_THREADS)]
        words = [(VALUE, 64), (VALUE, both), (VALUE, self.work_per_thread)]
        words += [(threads[0], 0), (COUNTS, 0)] if threads else [(VALUE, 0), (VALUE, 0)]
        words += [(kind, 0) if kind in self.own else (VALUE, 0) for kind in (ALLOCATE, RELEASE)]
        return [*words, (COUNTS, 0)]

    def packed(self) -> bytes:
        structs: dict[str, list[Word] | None] = {
            "args": self.words(f"ssmcore_{self.name}_args"),
            "forward": None,
            "options": self._options(),
        }
        if has_forward(self.name):
            structs["forward"] = self.words(f"ssmcore_{self.name.removesuffix('_vjp')}_args")
        for which, edit in self.edit.items():
            structs[which] = edit(structs[which])
        counts = [-1 if words is None else len(words) for words in structs.values()]
        views = [view for view in self.arrays.values() if view is not None]
        parts = [struct.pack("<32s5q", self.name.encode(), *counts, len(views), self.fail)]
        for view in views:
            parts += [view.packed(), view.memory]
        parts += [struct.pack("<2q", *word) for words in structs.values() if words for word in words]
        return b"".join(parts)


@dataclass(frozen=True)
class Result:
    """`tries`, with `fail`: how often it was called until no allocation failed."""

    call: CCall
    status: int
    text: str
    tries: int
    shared: int
    most: int
    wrong: int
    taken: int
    held: int
    memory: Mapping[str, bytes]

    def __getitem__(self, name: str) -> np.ndarray:
        view = self.call.arrays[name]
        assert view is not None
        return view.array(self.memory[name])

    def bits(self, name: str) -> bytes:
        return self[name].tobytes()

    @property
    def wrote_nothing(self) -> bool:
        return all(self.memory[name] == view.memory for name, view in self.call.arrays.items() if view is not None)


class Program:
    """embedding.c, linked to the library, or to objects of another build."""

    def __init__(self, folder: Path, *options: str) -> None:
        compiler = shutil.which("cc")
        if compiler is None:
            pytest.skip("there is no C compiler")
        self._folder, self._path = folder, folder / "embedding"
        # addresses at random can lie where the sanitizer of threads keeps its own memory
        still = "-fsanitize=thread" in options and shutil.which("setarch")
        self._before = [still, platform.machine(), "-R"] if still else []
        link = [ssmcore.get_library(), f"-Wl,-rpath,{Path(ssmcore.get_library()).parent}"]
        warnings = ("-std=c99", "-D_POSIX_C_SOURCE=200809L", "-O1", "-g", "-Wall", "-Wextra", "-Werror")
        command = [
            compiler,
            *warnings,
            f"-I{ssmcore.get_include()}",
            str(RUNNER),
            *(options or link),
            "-pthread",
            "-lm",
        ]
        made = subprocess.run([*command, "-o", str(self._path)], capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stderr

    def run(self, calls: Iterable[CCall]) -> list[Result]:
        """Replays the calls in one process, which must end well."""
        calls = list(calls)
        given, found = self._folder / "calls", self._folder / "results"
        with given.open("wb") as file:
            file.writelines(call.packed() for call in calls)
        done = subprocess.run([*self._before, self._path, given, found], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), f"exit code {done.returncode}\n{done.stderr[-4000:]}"
        data, at, results = found.read_bytes(), 0, []
        for call in calls:
            *report, length = struct.unpack_from("<9q", data, at)
            at += 72
            text = data[at : at + length].decode()
            at += length
            memory = {}
            for name in call.present:
                size = len(call.arrays[name].memory)
                memory[name] = data[at : at + size]
                at += size
            status, tries, shared, most, wrong, taken, held, _ = report
            results.append(Result(call, status, text, tries, shared, most, wrong, taken, held, memory))
        assert at == len(data)
        return results


class _Recorder:
    """Stands for `binding`, and takes down the calls of its operations before they are made."""

    def __init__(self) -> None:
        self.calls: list[CCall] = []

    def __getattr__(self, name: str) -> Any:
        function = getattr(binding, name)
        if name not in OPERATIONS:
            return function

        def call(*arguments: Any) -> None:
            self.calls.append(call_of(name, arguments))
            function(*arguments)

        return call


SETTINGS = {"discretization": int, "delta_softplus": int, "eps": float}


def call_of(name: str, arguments: tuple[Any, ...]) -> CCall:
    """The call that the module makes for these arguments, with poison in the arrays that are written."""
    given = dict(zip(inspect.signature(getattr(binding, name)).parameters, arguments, strict=True))
    settings = {key: kind(given.pop(key)) for key, kind in SETTINGS.items() if key in given}
    if "silu" in given:
        settings["activation"] = int(given.pop("silu"))
    threads, isa, _ = (given.pop(key) for key in ("num_threads", "isa", "work"))
    written = written_by(name)
    views = {key: None if value is None else View.of(value) for key, value in given.items()}
    arrays = {key: view.poisoned() if view is not None and key in written else view for key, view in views.items()}
    return CCall(name, arrays, settings, threads, isa + 1)


@contextmanager
def recorded() -> Iterator[list[CCall]]:
    """The calls of the C library that Python makes in the block."""
    recorder = _Recorder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cython_, "binding", recorder)
        yield recorder.calls


def by_python(call: CCall) -> dict[str, bytes]:
    """The elements that Python's module writes for the same call."""
    function, written = getattr(binding, call.name), written_by(call.name)
    arrays = {
        name: None if view is None else view.array(bytearray(view.memory) if name in written else view.memory)
        for name, view in call.arrays.items()
    }
    run = {"num_threads": call.num_threads, "isa": call.isa - 1, "work": call.work_per_thread}
    given = {**arrays, **call.settings, **run, "silu": call.settings.get("activation")}
    function(*(given[name] for name in inspect.signature(function).parameters))
    return {name: arrays[name].tobytes() for name in written if name in call.present}
