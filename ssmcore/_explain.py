"""The backend of an operation, and the reason."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from . import backends
from .ops import SPECS


def explain(op: str, *, backend: str | None = None) -> backends.Choice:
    """The backend that would run `op` now, the place that named it, and the backends passed over with the reasons.

    Parameters
    ----------
    op : "discretize", "selective_scan", "ss2d", "chunk_scan", "causal_conv1d", "depthwise_conv2d", "attention_gate", "gate_crop" or "ssm_recurrence"
    backend : as in the operation

    Returns
    -------
    Choice
        With `backend`, `asked_by` and `skipped`; it prints as a sentence or two.

    Raises
    ------
    ValueError
        There is no such operation.
    BackendError
        A backend was named and cannot run.

    Examples
    --------
    >>> import ssmcore
    >>> ssmcore.explain("gate_crop", backend="numpy").asked_by
    'by argument'
    """
    if op not in SPECS:
        raise ValueError(f"explain: op: expected one of {', '.join(SPECS)}, got {op!r}; check its spelling")
    return backends.choose(SPECS[op], backend)


def operations_table() -> str:
    """The operations and the backends that run them, as a table in Markdown.

    A mark stands for plain calls; words behind it are properties of a call that the backend supports as well.
    """
    columns = ("operation", "forward", "gradient", *backends.BUILTIN)
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for op, spec in SPECS.items():
        cells = [f"`{op}`: {spec.summary}", "✓", "✓" if spec.differentiable else "tensors"]
        for name in backends.BUILTIN:
            runs = backends.refusal(name, spec, frozenset()) is None
            traits = [trait for trait in spec.traits if backends.refusal(name, spec, frozenset({trait})) is None]
            cells.append(", ".join(["✓", *traits]) if runs else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class CpuFeatures:
    """Instruction sets of the compiled kernels on this processor, narrowest first.

    `usable` are the compiled ones that the processor runs. `isa` is the one in use (SSMCORE_ISA, else the widest), or None without
    compiled kernels. `threads` says whether the kernels run on several threads.
    """

    machine: str
    usable: tuple[str, ...]
    isa: str | None
    threads: bool

    def __str__(self) -> str:
        if self.isa is None:
            return f"{self.machine}: no compiled kernels"
        threads = "several threads" if self.threads else "one thread"
        return f"{self.machine}: {self.isa} of {', '.join(self.usable)}, {threads}"


def cpu_features() -> CpuFeatures:
    """The instruction sets and threads of the compiled kernels on this processor.

    Raises
    ------
    ValueError
        SSMCORE_ISA names an unknown instruction set, or one that this processor does not run.

    Examples
    --------
    >>> import ssmcore
    >>> "generic" in ssmcore.cpu_features().usable or ssmcore.cpu_features().isa is None
    True
    """
    try:
        from .backends import cython_
    except ImportError:
        return CpuFeatures(platform.machine(), (), None, False)
    return CpuFeatures(platform.machine(), cython_.usable_isas(), cython_.isa(), cython_.has_threads())
