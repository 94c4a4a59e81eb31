"""Conventions that operations, backends and kernels share: kept states, directions of a grid, the place of a crop, softplus."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHECKPOINT_STEPS = 64
"""The backward pass starts from states kept this many steps apart. The kernels call it CHUNK."""

DIRECTIONS = ("row", "column", "row_reversed", "column_reversed")
"""Orders of a grid's positions, by number: odd ones go by columns, 2 and 3 backwards."""


def unroll(x: Any, direction: int) -> Any:
    """The sequence (batch, height * width, ...) of a grid (batch, height, width, ...) along a direction; arrays or tensors."""
    if direction % 2:
        x = x.swapaxes(1, 2)
    sequence = x.reshape(x.shape[0], x.shape[1] * x.shape[2], *x.shape[3:])
    if direction < 2:
        return sequence
    return sequence[:, ::-1] if isinstance(sequence, np.ndarray) else sequence.flip(1)


def roll_up(y: Any, direction: int, height: int, width: int) -> Any:
    """Inverse of `unroll`."""
    if direction >= 2:
        y = y[:, ::-1] if isinstance(y, np.ndarray) else y.flip(1)
    if direction % 2:
        return y.reshape(y.shape[0], width, height, *y.shape[2:]).swapaxes(1, 2)
    return y.reshape(y.shape[0], height, width, *y.shape[2:])


def centre(g: Any, x: Any) -> tuple[slice, slice, slice]:
    """The window of g that `gate_crop` cuts to the grid of x, both (batch, height, width, ...)."""
    starts = [(full - part) // 2 for full, part in zip(g.shape[1:3], x.shape[1:3], strict=True)]
    rows, columns = (slice(start, start + part) for start, part in zip(starts, x.shape[1:3], strict=True))
    return slice(None), rows, columns


def softplus(x: NDArray[Any]) -> NDArray[Any]:
    """log(1 + e^x), the identity above 20 as everywhere in Mamba."""
    return np.where(x > 20, x, np.log1p(np.exp(np.minimum(x, 20))))


def sigmoid(x: NDArray[Any]) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        rate: NDArray[Any] = 1 / (1 + np.exp(-x))
    return rate


def sequence_starts(seq_idx: NDArray[Any]) -> NDArray[np.uint8]:
    """(batch, seqlen), 1 where a step belongs to another sequence than the one before it in its row."""
    starts = np.zeros(seq_idx.shape, np.uint8)
    starts[:, 1:] = seq_idx[:, 1:] != seq_idx[:, :-1]
    return starts


def spread_sequences(seq_idx: NDArray[Any], gap: int) -> tuple[NDArray[Any], int]:
    """Positions of packed steps with a gap before each sequence but a row's first, and the number of positions.

    seq_idx and positions are (batch, seqlen); a sequence begins where seq_idx changes. With zeros in the gaps, a convolution of gap + 1
    taps does not reach from one sequence into the next.
    """
    before = sequence_starts(seq_idx).cumsum(axis=1, dtype=np.int64)
    positions = np.arange(seq_idx.shape[1]) + gap * before
    return positions, int(positions.max(initial=-1)) + 1


def packed_rows(rows: Iterable[Sequence[int]]) -> list[tuple[slice, list[slice]]]:
    """Rows of a batch with the steps of each of their sequences, which begin where the number changes. Neighbouring rows packed alike come
    together; a row without steps has one empty sequence."""
    found: list[tuple[slice, list[slice]]] = []
    for number, row in enumerate(rows):
        changes = (np.flatnonzero(np.diff(row)) + 1).tolist()
        runs = [slice(a, b) for a, b in zip([0, *changes], [*changes, len(row)], strict=True)]
        if found and found[-1][1] == runs:
            found[-1] = slice(found[-1][0].start, number + 1), runs
        else:
            found.append((slice(number, number + 1), runs))
    return found
