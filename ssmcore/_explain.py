"""Which backend runs an operation, and why."""

from __future__ import annotations

from . import backends
from .ops import SPECS


def explain(op: str, *, backend: str | None = None) -> backends.Choice:
    """Which backend would run `op` now, who asked for it, and which were passed over for what reason.

    Parameters
    ----------
    op : "discretize", "selective_scan", "ss2d" or "gate_crop"
    backend : as in the operation

    Returns
    -------
    Choice
        With `backend`, `asked_by` and `skipped`; printed, it reads as a sentence or two.

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
    return backends.choose(op, SPECS[op].entries, backend)
