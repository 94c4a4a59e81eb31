"""Files in and out by bytes. A file that is read is not trusted: it is inflated no further than asked for, and read to its end."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

from segnet.errors import InputError
from segnet.runtime.files import replacing

SLACK_BYTES = 2**20
"""Zero bytes that may follow the voxels or a packed stream, as padding. Nothing else may."""
FREE_BYTES = 2**29
"""Up to so many bytes of voxels, any compression is accepted: a mask of 2048 slices needs it."""
MAX_RATIO = 100
"""Above `FREE_BYTES`, the limit of voxel bytes for each byte of the file. Images stay below 10; deflate reaches 1032."""

_CHUNK = 2**20
_MAX_MEMBERS = 2**16  # blocked gzip has one for each 64 kB


@contextmanager
def opened(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """A file to read from, and its size in bytes.

    Raises
    ------
    InputError
        There is no such file, or it cannot be read.
    """
    if not path.is_file():
        problem = "is no file" if path.exists() else "does not exist"
        raise InputError(f"path: expected a file, got {path}, which {problem}; check the name")
    try:
        with path.open("rb") as stream:
            yield stream, os.fstat(stream.fileno()).st_size
    except OSError as error:
        raise InputError(
            f"path: expected a readable file, got {path} ({error.strerror or error}); check its rights and the disk"
        ) from error


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes its place when it is whole. A failure leaves neither half a file nor a temporary one.

    Raises
    ------
    InputError
        It cannot be written.
    """
    try:
        with replacing(path) as temporary, temporary.open("wb") as stream:
            yield stream
    except OSError as error:
        raise InputError(
            f"path: expected a writable file, got {path} ({error.strerror or error}); check rights and free space"
        ) from error


class Readable(Protocol):
    """Anything that gives bytes until it gives none."""

    def read(self, n_bytes: int, /) -> bytes: ...


class Inflated:
    """Reads a gzip or zlib stream, no further than asked for, and checks its checksums.

    A gzip stream may have several members, like blocked gzip. Only zero padding may follow the stream.

    Parameters
    ----------
    stream : gives the packed bytes
    path : named in errors
    kind : container of the deflated data
    head : packed bytes that were read from `stream` already
    """

    def __init__(
        self, stream: Readable, path: Path, kind: Literal["gzip", "zlib"] = "gzip", *, head: bytes = b""
    ) -> None:
        self._stream = stream
        self._path = path
        self._kind = kind
        self._pending = head
        self._members = 1
        self._member = self._new_member()
        self._done = False

    def read(self, n_bytes: int, /) -> bytes:
        """Up to `n_bytes` inflated bytes; fewer only at the end of the stream."""
        out = bytearray()
        while len(out) < n_bytes and not self._done:
            self._pending = self._pending or self._stream.read(2**16)
            if not self._pending:
                raise InputError(
                    f"path: expected a whole {self._kind} stream, got {self._path}, which is truncated; "
                    "copy or download it again"
                )
            try:
                out += self._member.decompress(self._pending, n_bytes - len(out))
            except zlib.error as error:
                wrong_sum = any(f"{what} check" in str(error) for what in ("incorrect data", "incorrect length"))
                what = "a wrong checksum" if wrong_sum else "damaged data"
                raise InputError(
                    f"path: expected a sound {self._kind} stream, got {what} in {self._path}; copy or download it again"
                ) from error
            self._pending = self._member.unconsumed_tail
            if self._member.eof:
                self._next_member()
        return bytes(out)

    def _new_member(self) -> zlib._Decompress:
        return zlib.decompressobj(wbits=31 if self._kind == "gzip" else 15)

    def _next_member(self) -> None:
        rest = self._member.unused_data
        rest += self._stream.read(2**16) if len(rest) < 2 else b""
        if self._kind == "gzip" and rest.startswith(b"\x1f\x8b"):
            self._members += 1
            if self._members > _MAX_MEMBERS:
                raise InputError(
                    f"path: expected at most {_MAX_MEMBERS} gzip members, got more in {self._path}; save it anew"
                )
            self._pending = rest
            self._member = self._new_member()
        else:
            self._done = True
            check_padding(self._stream, self._path, f"the {self._kind} stream", head=rest)


def check_padding(source: Readable, path: Path, what: str, *, head: bytes | bytearray = b"") -> None:
    """Reads `source` to its end. Raises `InputError` unless at most `SLACK_BYTES` zeros follow `what`."""
    n_behind, chunk = 0, bytes(head) or source.read(_CHUNK)
    while chunk:
        n_behind += len(chunk)
        if chunk.strip(b"\0") or n_behind > SLACK_BYTES:
            held = "other bytes" if chunk.strip(b"\0") else f"over {SLACK_BYTES} more"
            raise InputError(
                f"path: expected the end of the file or zero padding behind {what}, got {held} in {path}; "
                "save the volume anew"
            )
        chunk = source.read(_CHUNK)


def check_size(n_bytes: int, path: Path, file_bytes: int, *, packed: bool) -> None:
    """Compares the size that a header declares with the size of its file, before anything is inflated.

    Parameters
    ----------
    n_bytes : up to the last voxel, inflated
    path : named in errors
    file_bytes : size of the file on disk
    packed : whether the voxels are deflated

    Raises
    ------
    InputError
        The file is too short, or packs more than `FREE_BYTES` more tightly than `MAX_RATIO`.
    """
    if not packed and file_bytes < n_bytes:
        raise _truncated(n_bytes, path, file_bytes)
    if packed and n_bytes > max(FREE_BYTES, MAX_RATIO * file_bytes):
        raise InputError(
            f"path: expected at most {MAX_RATIO} bytes for each of the {file_bytes} bytes of {path}, got "
            f"{n_bytes} by its header, more than an image packs into them; crop it, or store a mask as uint8"
        )


def read_body(source: Readable, head: bytes | bytearray, end: int, path: Path) -> bytearray:
    """`head` and what follows it in `source`, up to `end` bytes or a little more; zero padding may follow.

    Raises
    ------
    InputError
        There are fewer bytes, or other bytes follow.
    """
    buffer = bytearray(head)
    while len(buffer) < end and (chunk := source.read(min(_CHUNK, end - len(buffer)))):
        buffer += chunk
    if len(buffer) < end:
        raise _truncated(end, path, len(buffer))
    check_padding(source, path, "the voxels that the header declares", head=buffer[end:])
    return buffer


def _truncated(expected: int, path: Path, got: int) -> InputError:
    return InputError(
        f"path: expected {expected} bytes as the header of {path} declares, got {got}: the file is truncated; "
        "copy or download it again"
    )
