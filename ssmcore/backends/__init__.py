"""Choice of the backend that runs an operation: by name, by environment, or automatically.

`protocol.py` says what a backend is. Other packages register theirs under the entry point group ``ssmcore.backends``.
A named backend runs or raises; only the automatic choice passes one over, and `explain` says why.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._spec import Call, OpSpec
from ._threads import resolve
from .protocol import Results

if TYPE_CHECKING:
    from . import cython_, numba_, numpy_, torch_
    from .protocol import ExplainedBackend

    _conforming: tuple[ExplainedBackend, ...] = (cython_, numba_, numpy_, torch_)

BUILTIN = {
    "cython": "ssmcore.backends.cython_",
    "numba": "ssmcore.backends.numba_",
    "numpy": "ssmcore.backends.numpy_",
    "torch": "ssmcore.backends.torch_",
}
AUTOMATIC = ("cython", "numba", "numpy")
ENVIRONMENT = "SSMCORE_BACKEND"
GROUP = "ssmcore.backends"

_chosen: ContextVar[str | None] = ContextVar("ssmcore_backend", default=None)
_told = False
"""Whether this process has been told that the compiled kernels are missing."""


class BackendError(RuntimeError):
    """A named backend cannot run. The message names it, the reason and the remedy."""


@dataclass(frozen=True)
class Choice:
    """The backend of an operation. `asked_by` says where its name came from; `skipped` holds (backend, reason)."""

    op: str
    backend: str
    asked_by: str
    skipped: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.op}: {self.backend} ({self.asked_by})"]
        about = getattr(_loaded(self.backend)[0], "about", None)
        if about is not None:
            lines.append(f"  {about(self.op)}")
        lines += [f"  passed over {name}: {reason}" for name, reason in self.skipped]
        return "\n".join(lines)


@cache
def _third_party() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def names() -> tuple[str, ...]:
    """Names of all known backends, whether or not they can be loaded."""
    return (*BUILTIN, *sorted(set(_third_party()) - set(BUILTIN)))


@cache
def _loaded(name: str) -> tuple[Any, str | None]:
    """(backend, None), or (None, the reason why it cannot be loaded)."""
    try:
        if name in BUILTIN:
            return importlib.import_module(BUILTIN[name]), None
        return _third_party()[name].load(), None
    except Exception as error:  # any error of a backend's import is the reason that it is not available
        return None, f"{type(error).__name__}: {error}"


def refusal(name: str, spec: OpSpec, traits: frozenset[str]) -> str | None:
    """Why a backend cannot run calls of an operation with these traits, or None."""
    backend, problem = _loaded(name)
    if problem is not None:
        return problem
    operations = getattr(backend, "OPERATIONS", {})
    for entry in spec.entries:
        if entry not in operations:
            return f"it has no {entry}"
    limits = getattr(backend, "limits", None)
    reason: str | None = None if limits is None else limits(spec.name, traits)
    return reason


def choose(spec: OpSpec, backend: str | None = None, traits: frozenset[str] = frozenset()) -> Choice:
    """The backend that runs a call of an operation with these traits.

    Raises
    ------
    BackendError
        The name given (argument, `use_backend`, or SSMCORE_BACKEND, in this order) is unknown or cannot run the call.
    """
    op = spec.name
    for name, asked_by in (
        (backend, "by argument"),
        (_chosen.get(), "by use_backend"),
        (os.environ.get(ENVIRONMENT) or None, f"by {ENVIRONMENT}"),
    ):
        if name is None or name == "auto":
            continue
        if name not in names():
            raise BackendError(
                f"{op}: backend: expected one of auto, {', '.join(names())}, got {name!r} {asked_by}; check its spelling"
            )
        reason = refusal(name, spec, traits)
        if reason is not None:
            raise BackendError(
                f"{op}: backend {name!r}, named {asked_by}, cannot run: {reason}; name another, or none for automatic choice"
            )
        return Choice(op, name, asked_by)
    choice = _automatic(spec, traits)
    if choice.backend != "cython" and (problem := _loaded("cython")[1]) is not None:
        _warn_unbuilt(choice.backend, problem)
    return choice


@cache
def _automatic(spec: OpSpec, traits: frozenset[str]) -> Choice:
    """Kept, for it costs as much as a decoding step's kernel."""
    skipped: list[tuple[str, str]] = []
    for name in AUTOMATIC:
        reason = refusal(name, spec, traits)
        if reason is None:
            return Choice(spec.name, name, "automatically", tuple(skipped))
        skipped.append((name, reason))
    raise BackendError(f"{spec.name}: no backend can run this: " + "; ".join(f"{n}: {r}" for n, r in skipped))


def _warn_unbuilt(name: str, problem: str) -> None:
    """Tells, at the first automatic fallback of a process, that the compiled kernels are missing."""
    global _told
    if _told:
        return
    _told = True
    checkout = (Path(__file__).parents[2] / "setup.py").exists()
    remedy = "run `make build`" if checkout else "install a C compiler and reinstall"
    slow = ""
    if name == "numpy":
        slow, remedy = ", the slow reference", f"{remedy}, or `pip install ssmcore[numba]`"
    warnings.warn(
        f"ssmcore: the compiled kernels are missing ({problem}), so {name} runs instead{slow}; {remedy}, "
        f"or set {ENVIRONMENT}={name} if that is intended",
        stacklevel=5,
    )


def run(call: Call, *, backend: str | None = None, num_threads: int | None = None) -> Results:
    """Results of a checked call, on the backend that `choose` names.

    Outputs with a target in `call.into` are written there, whatever the backend does with targets.
    """
    choice = choose(call.spec, backend, call.traits)
    call.num_threads = resolve(num_threads)
    function = _loaded(choice.backend)[0].OPERATIONS[call.spec.entries[bool(call.douts)]]
    results: Results = function(call)
    if all(target is None or result is target for result, target in zip(results, call.into, strict=False)):
        return results
    written = list(results)
    for index, target in enumerate(call.into):
        if target is not None and results[index] is not target:
            target[...] = results[index]
            written[index] = target
    return tuple(written)


def run_entry(entry: str, call: Call, *, backend: str | None = None, num_threads: int | None = None) -> bool:
    """Runs a call by a function that a backend may have beside those of the contract; whether it has it."""
    choice = choose(call.spec, backend, call.traits)
    function = _loaded(choice.backend)[0].OPERATIONS.get(entry)
    if function is None:
        return False
    call.num_threads = resolve(num_threads)
    function(call)
    return True


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Runs the operations inside the block on one backend, or raises at the operation that it cannot run.

    Examples
    --------
    >>> import numpy as np, ssmcore
    >>> with ssmcore.use_backend("numpy"):
    ...     ssmcore.gate_crop(np.arange(9.0).reshape(1, 1, 3, 3), (1, 1)).item()
    4.0
    """
    if name != "auto" and name not in names():
        raise BackendError(
            f"use_backend: name: expected one of auto, {', '.join(names())}, got {name!r}; check its spelling"
        )
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)
