"""Bounds of packed sequences."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import Tensor

from .._conventions import packed_rows
from .._spec import ArgumentTypeError, Sizes, fail

Pieces = list[tuple[slice, list[slice]]]
"""Rows of a batch, with the steps of each of their sequences."""


def _integers(operation: str, name: str, x: object, what: str) -> list[list[int]] | list[int]:
    if not isinstance(x, Tensor) or x.dtype.is_floating_point or x.dtype.is_complex:
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        fail(operation, name, f"a tensor of integers {what}", got, "convert it with .int()", ArgumentTypeError)
    values: list[list[int]] | list[int] = x.tolist()
    return values


def pieces_of(operation: str, sizes: Sizes, seq_idx: Tensor | None, cu_seqlens: Tensor | None) -> Pieces:
    """Pieces of the batch. Neighbouring rows with equal `seq_idx` make one; for `cu_seqlens` each sequence makes one.

    Raises
    ------
    ArgumentError
        Both are given, or one has a wrong shape, dtype or order.
    """
    batch, seqlen = sizes["batch"], sizes["seqlen"]
    if seq_idx is not None and cu_seqlens is not None:
        fail(operation, "cu_seqlens", "None where seq_idx is given", "both", "pass one of them")
    if seq_idx is not None:
        if tuple(seq_idx.shape) != (batch, seqlen):
            expected, got = f"shape {(batch, seqlen)}", tuple(seq_idx.shape)
            fail(operation, "seq_idx", expected, got, "number the sequence of every step")
        rows: Any = _integers(operation, "seq_idx", seq_idx, "(batch, seqlen)")
        return packed_rows(rows)
    ends = _integers(operation, "cu_seqlens", cu_seqlens, "(nsequences + 1,)")
    assert cu_seqlens is not None
    if batch != 1:
        remedy = "pack all sequences into one row, or pass seq_idx"
        fail(operation, "cu_seqlens", "a batch of 1", f"a batch of {batch}", remedy)
    sound = cu_seqlens.ndim == 1 and len(ends) > 0 and ends[0] == 0 and ends[-1] == seqlen and ends == sorted(ends)
    if not sound:
        expected = f"where each sequence begins, from 0 and never falling, and {seqlen} last"
        fail(operation, "cu_seqlens", expected, ends, "take the cumulative sum of the lengths")
    return [(slice(0, 1), [slice(a, b)]) for a, b in pairwise(ends)]
