"""Backends: who runs an operation, chosen by name, by environment, or automatically.

A backend is a module (or any object) with the functions an operation's spec lists under `entries`, and optionally
`limits(op, **case)`, which returns why it cannot run a case, or None. Others register theirs under the entry point group
``ssmcore.backends``. A named backend runs or raises; only the automatic choice passes one over, and `explain` says why.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

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


class BackendError(RuntimeError):
    """A named backend cannot run. The message says which, why, and what else there is."""


@dataclass(frozen=True)
class Choice:
    """Who runs an operation. `asked_by` says where the name came from; `skipped` holds (backend, reason)."""

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
    """(backend, None), or (None, why it cannot be loaded)."""
    try:
        if name in BUILTIN:
            return importlib.import_module(BUILTIN[name]), None
        return _third_party()[name].load(), None
    except Exception as error:  # whatever a backend's import raises is the reason it is not available
        return None, f"{type(error).__name__}: {error}"


def _refusal(name: str, entries: tuple[str, ...], op: str, case: dict[str, Any]) -> str | None:
    backend, problem = _loaded(name)
    if problem is not None:
        return problem
    missing = [entry for entry in entries if not hasattr(backend, entry)]
    if missing:
        return f"it has no {missing[0]}"
    limits = getattr(backend, "limits", None)
    return None if limits is None else limits(op, **case)


def choose(op: str, entries: tuple[str, ...], backend: str | None = None, **case: Any) -> Choice:
    """Decides who runs `op` for this case.

    Raises
    ------
    BackendError
        The name given (argument, `use_backend`, or SSMCORE_BACKEND, in this order) is unknown or cannot run the case.
    """
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
        reason = _refusal(name, entries, op, case)
        if reason is not None:
            raise BackendError(
                f"{op}: backend {name!r}, named {asked_by}, cannot run: {reason}; name another, or none for automatic choice"
            )
        return Choice(op, name, asked_by)
    skipped: list[tuple[str, str]] = []
    for name in AUTOMATIC:
        reason = _refusal(name, entries, op, case)
        if reason is None:
            if name == "numpy" and not case:
                _warn_slow(op, tuple(skipped))
            return Choice(op, name, "automatically", tuple(skipped))
        skipped.append((name, reason))
    raise BackendError(f"{op}: no backend can run this: " + "; ".join(f"{n}: {r}" for n, r in skipped))


@cache
def _warn_slow(op: str, skipped: tuple[tuple[str, str], ...]) -> None:
    reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped)
    warnings.warn(
        f"{op} runs as NumPy loops, the slow reference ({reasons}). Install a C compiler and reinstall, or `pip install ssmcore[numba]`.",
        stacklevel=4,
    )


def entry(choice: Choice, name: str) -> Callable[..., Any]:
    """The function `name` of the chosen backend."""
    function: Callable[..., Any] = getattr(_loaded(choice.backend)[0], name)
    return function


def optional_entry(choice: Choice, name: str) -> Callable[..., Any] | None:
    """The function `name` of the chosen backend, or None where it has none: a shorter way to what its entries also do."""
    function: Callable[..., Any] | None = getattr(_loaded(choice.backend)[0], name, None)
    return function


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Runs the operations inside the block on one backend, or raises at the operation it cannot run.

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
