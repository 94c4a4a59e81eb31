"""The contract of a backend: operations by name, each a function of one `Call`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

from .._spec import Call

Results = tuple[Any, ...]
"""Outputs in the record's order, None for one that was not asked for; or gradients in the order of the arrays, None for an absent one."""


class Operation(Protocol):
    """Runs one checked call. Arrays may have any strides and be read-only; axes may have length 0."""

    def __call__(self, call: Call, /) -> Results: ...


class Backend(Protocol):
    """A module or object that runs operations. It may have only some."""

    @property
    def OPERATIONS(self) -> Mapping[str, Operation]:
        """The functions by the names that `OpSpec.entries` lists."""


class ExplainedBackend(Backend, Protocol):
    """A backend that also says what it runs and what it cannot run, as all of ssmcore's own do."""

    def about(self, op: str) -> str:
        """What runs an operation, in a few words."""

    def limits(self, op: str, traits: frozenset[str]) -> str | None:
        """Why a call with these traits cannot run, or None."""


_Function = TypeVar("_Function", bound=Operation)


class Operations(dict[str, Operation]):
    """Operations by name. As a decorator it adds a function under the function's own name."""

    def __call__(self, function: _Function) -> _Function:
        self[function.__name__] = function  # type: ignore[attr-defined]
        return function
