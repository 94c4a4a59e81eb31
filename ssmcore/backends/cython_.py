"""Compiled kernels: C for each instruction set behind Cython, on threads of their own."""

from __future__ import annotations

import os
from functools import cache

from .._kernels.common import binding as machine
from . import _compiled

_ISA_ENVIRONMENT = "SSMCORE_ISA"
_PORTABLE = ("discretize", "gate_crop")
"""Operations whose kernels are compiled once, and not for each instruction set."""


def usable_isas() -> tuple[str, ...]:
    """The instruction sets compiled in that this processor runs, narrowest first."""
    return machine.ISAS[: machine.ISAS.index(machine.best_isa()) + 1]


def isa() -> str:
    """The instruction set in use: SSMCORE_ISA where set, else the widest this processor runs.

    Raises
    ------
    ValueError
        SSMCORE_ISA names one that is unknown or not run by this processor.
    """
    return machine.ISAS[_isa_code()]


def has_threads() -> bool:
    """Whether the kernels run on several threads."""
    return machine.has_threads()


def _isa_code() -> int:
    return _code_of(os.environ.get(_ISA_ENVIRONMENT))


@cache
def _code_of(wanted: str | None) -> int:
    usable = usable_isas()
    if wanted and wanted not in usable:
        raise ValueError(
            f"{_ISA_ENVIRONMENT}: expected one of {', '.join(usable)} on this processor, got {wanted!r}; unset it"
        )
    return machine.ISAS.index(wanted or usable[-1])


def about(op: str) -> str:
    threads = "several threads" if has_threads() else "one thread"
    return f"compiled C kernels, {isa()}, {threads}" if op not in _PORTABLE else f"compiled kernels, {threads}"


OPERATIONS = _compiled.operations("binding", extra=lambda: (_isa_code(),), without_extra=_PORTABLE)
limits = _compiled.limits
