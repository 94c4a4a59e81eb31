"""Locks on files and folders. A lock ends with the process that holds it, however the process ends.

filelock locks descriptors, so that folders can be locked and no lock file is left. It shares locks through SQLite alone, which is
not safe on network file systems; shared locks therefore come from the system.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import lock_descriptor

from segnet.errors import InputError


@contextmanager
def locked(path: Path, refusal: str, *, shared: bool = False) -> Iterator[None]:
    """Holds the lock of an existing file or folder. On a file system without locks it does nothing.

    Parameters
    ----------
    refusal : message of the error
    shared : together with others that share it

    Raises
    ------
    InputError
        Another process holds the lock.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        if not _lock(handle, shared=shared):
            raise InputError(refusal)
        yield
    finally:
        os.close(handle)


def locked_file(path: Path, refusal: str, *, wait: bool = False) -> int:
    """An open, locked descriptor of a file, which is created if it does not exist. Closing it ends the lock.

    The holder may remove the file before it closes the descriptor.

    Parameters
    ----------
    refusal : message of the error
    wait : for another process that holds the lock

    Raises
    ------
    InputError
        Another process holds the lock.
    """
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not _lock(handle, wait=wait):
                raise InputError(refusal)
            # the last holder may have removed the file since it was opened
            if os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _lock(handle: int, *, shared: bool = False, wait: bool = False) -> bool:
    """Whether the lock was taken. A file system without locks grants every one."""
    try:
        if shared:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return True
        return lock_descriptor(handle, blocking=wait)
    except BlockingIOError:
        return False
    except OSError:
        return True
