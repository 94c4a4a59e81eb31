"""One at a time: locks on files and folders, which end with the process that holds them."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segnet.errors import InputError


@contextmanager
def locked(path: Path, refusal: str, *, shared: bool = False) -> Iterator[None]:
    """Holds the lock of an existing file or folder. Where the file system knows no locks nothing is checked.

    Parameters
    ----------
    refusal : what the error says
    shared : with others that share it, instead of alone

    Raises
    ------
    InputError
        Another process holds it.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(refusal) from None
        except OSError:
            pass
        yield
    finally:
        os.close(handle)
