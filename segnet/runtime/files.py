"""Files that are written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path

from segnet.errors import InputError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary file beside `path`, which is renamed to `path` when the block ends without an error.

    A failure leaves neither a partial file nor a temporary one. The file has the permissions that `open` would give it.

    Raises
    ------
    InputError
        The folder of `path` does not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise InputError(f"path: expected a file in an existing folder, got {path}; create {path.parent} first")
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # mkstemp gives 0600
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_leftovers(folder: str | Path) -> None:
    """Removes temporary files of a killed process from a folder: those of `replacing`, and safetensors' own."""
    for pattern in (".*.tmp", ".tmp??????"):
        for leftover in Path(folder).glob(pattern):
            leftover.unlink(missing_ok=True)


def remove_leftovers_of(path: Path) -> None:
    """Removes temporary files of a killed process beside the file that it was writing."""
    for leftover in path.parent.glob(f".{escape(path.name[:100])}.*.tmp"):
        leftover.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Writes UTF-8 text, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file; InputError if it cannot be read."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise InputError(
            f"path: expected a readable file, got {path} ({error.strerror or error}); check its name and its rights"
        ) from error
