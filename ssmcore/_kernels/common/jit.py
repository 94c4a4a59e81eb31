"""`kernel` compiles a numba function for one dtype at the first call with that dtype."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache, wraps
from typing import Any

import numba
import numpy as np
from numba import types

from . import forks

# contract and reassoc let the compiler vectorise and fuse sums; NaN, infinity and signed limits stay as IEEE has them
OPTIONS: dict[str, Any] = {"cache": True, "error_model": "numpy", "fastmath": {"contract", "reassoc", "nsz"}}


def kernel(arguments: str, *, pass_threads: bool = False, **options: Any) -> Callable[[Callable[..., None]], Any]:
    """Decorates a numba kernel that fills arrays of one dtype, float32 or float64.

    The kernel is compiled with an explicit signature: arrays are C-contiguous, so that no layout compiles it again.

    Parameters
    ----------
    arguments : one word for each argument. `r3` is an array of three axes that is read, `w3` one that is written, `real` a number of
        the arrays' dtype and `int` a 64-bit integer. The first argument is an array, whose dtype is that of all.
    pass_threads : the kernel has one more argument, the number of its threads
    options : of `numba.njit`, instead of or beside `OPTIONS`

    Returns
    -------
    callable
        Takes the arguments and, unless `parallel=False`, `num_threads`. An array may be None: the kernel gets an empty one.
    """
    words, choices = arguments.split(), {"parallel": True, **OPTIONS, **options}

    def decorate(function: Callable[..., None]) -> Any:
        @cache
        def compiled(dtype: np.dtype[Any], parallel: bool) -> Any:
            real = numba.from_dtype(dtype)
            scalars = {"int": types.int64, "real": real}
            kinds = [scalars.get(w) or types.Array(real, int(w[1:]), "C", readonly=w[0] == "r") for w in words]
            settings = (
                choices if parallel == choices["parallel"] else {**choices, "parallel": parallel, "cache": False}
            )  # one cache entry
            return numba.njit([types.void(*kinds, *[types.int64] * pass_threads)], **settings)(function)

        @wraps(function)
        def call(*given: Any) -> None:
            values, num_threads = given[: len(words)], given[len(words) :]
            dtype = values[0].dtype
            plain = [_plain(word, value, dtype) for word, value in zip(words, values, strict=True)]
            parallel = choices["parallel"] and not forks.numba_stranded
            with threads(*num_threads) if parallel else nullcontext():
                compiled(dtype, parallel)(*plain, *num_threads[:pass_threads])

        return call

    return decorate


def _plain(word: str, value: Any, dtype: np.dtype[Any]) -> Any:
    if word == "int":
        return int(value)
    if word == "real":
        return dtype.type(value)
    if value is None:
        return np.empty((0,) * int(word[1:]), dtype)
    return value.astype(dtype, copy=False) if word[0] == "r" else value


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Limits numba to `count` threads inside the block, or to all that it has where these are fewer."""
    before = numba.get_num_threads()
    available: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    numba.set_num_threads(min(count, available))
    try:
        yield
    finally:
        numba.set_num_threads(before)
