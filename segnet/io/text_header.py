"""The common part of MetaImage and NRRD: a text header that is not trusted, and the voxels behind it.

Design: no library reads these two formats here. SimpleITK (264 MB installed) opens the files that a header names, and inflates before a limit
can be set. pynrrd (1 MB) inflates without a limit, accepts NaN geometry, and reads NRRD alone. Behind a check that refuses all this, nothing
but `np.frombuffer` would be left for either of them to do.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segnet.errors import InputError
from segnet.io.streams import Inflated, Readable, check_size, read_body
from segnet.io.volume import FloatArray

_MAX_BYTES = 2**20
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?|[+-]?(nan|inf|infinity)", re.IGNORECASE)


class Fields:
    """The fields of one header by name. Every error names the field and the file."""

    def __init__(self, path: Path) -> None:
        self._values: dict[str, str] = {}
        self.path = path

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def add(self, name: str, value: str, written: str) -> None:
        """Keeps a field, called `written` in the file; refuses one that is there already."""
        if name in self:
            raise InputError(f"{name}: expected this field once, got it again as {written} in {self.path}; remove one")
        self._values[name] = value.strip()

    def text(self, name: str, default: str | None = None) -> str:
        """A field's text. A field without a default must be there."""
        value = self._values.get(name, default)
        if value is None:
            raise InputError(f"{name}: expected such a field in the header, got none in {self.path}; save it anew")
        return value

    def integers(self, name: str, count: int) -> tuple[int, ...]:
        """`count` whole numbers, separated by spaces."""
        words = self.text(name).split()
        if len(words) != count or not all(_INTEGER.fullmatch(word) for word in words):
            raise self.wrong(name, f"{count} whole numbers")
        return tuple(int(word) for word in words)

    def numbers(self, name: str, count: int, words: list[str] | None = None, *, positive: bool = False) -> FloatArray:
        """(count,) finite numbers of a field: its `words`, or all of them."""
        words = self.text(name).split() if words is None else [word.strip() for word in words]
        if len(words) != count or not all(_NUMBER.fullmatch(word) for word in words):
            raise self.wrong(name, f"{count} numbers")
        values = [float(word) for word in words]
        if not all(map(math.isfinite, values)):
            raise self.wrong(name, "finite numbers")
        if positive and min(values) <= 0:
            raise self.wrong(name, "positive lengths in mm")
        return np.array(values, dtype=np.float64)

    def wrong(self, name: str, expected: str, remedy: str = "save the volume anew") -> InputError:
        """The error for a field that should have been something else."""
        value = self.text(name)
        shown = value if len(value) <= 80 else value[:77] + "..."
        return InputError(f"{name}: expected {expected}, got {shown!r} in {self.path}; {remedy}")


class TextHeader:
    """A header's lines, and the file behind them.

    Parameters
    ----------
    stream : stands at the start of the file
    n_bytes : size of the file
    kind : format, for messages
    begins, end : match the start of a header, and its last bytes
    no_end : text of the error for a header without an end, from the bytes read

    Raises
    ------
    InputError
        The file starts otherwise, or the header does not end within 1 MB.
    """

    def __init__(
        self,
        stream: Readable,
        path: Path,
        n_bytes: int,
        kind: str,
        begins: re.Pattern[bytes],
        end: re.Pattern[bytes],
        no_end: Any,
    ) -> None:
        head, found = b"", None
        while found is None:
            chunk = stream.read(2**16)
            head += chunk
            if not begins.match(head):
                raise InputError(
                    f"path: expected a {kind}, got {path}, which has no such header; convert it to .nii.gz"
                )
            found = end.search(head)
            if found is None and (not chunk or len(head) > _MAX_BYTES):
                raise InputError(no_end(head))
        self.path = path
        self.lines = head[: found.end()].decode("latin-1").replace("\r\n", "\n").split("\n")
        self._stream, self._rest, self._n_header, self._n_file = stream, head[found.end() :], found.end(), n_bytes

    @property
    def n_behind(self) -> int:
        """Bytes behind the header."""
        return self._n_file - self._n_header

    def check_text(self, text: str) -> None:
        """Raises `InputError` for control characters."""
        if any(ord(c) < 32 and c not in "\t\r" for c in text):
            raise InputError(f"header: expected text, got control characters in {self.path}; save the volume anew")

    def voxels(
        self, dtype: np.dtype[Any], shape: tuple[int, ...], packed: Literal["gzip", "zlib"] | None
    ) -> NDArray[Any]:
        """(X, Y, Z) the voxels behind the header, x running fastest; nothing is inflated beyond them.

        Raises
        ------
        InputError
            There are fewer or more bytes, or a packed stream is damaged.
        """
        n_bytes = math.prod(shape) * dtype.itemsize
        check_size(n_bytes if packed else self._n_header + n_bytes, self.path, self._n_file, packed=packed is not None)
        if packed:
            buffer = read_body(Inflated(self._stream, self.path, packed, head=self._rest), b"", n_bytes, self.path)
        else:
            buffer = read_body(self._stream, self._rest, n_bytes, self.path)
        return np.frombuffer(buffer, dtype, math.prod(shape)).reshape(shape[:3], order="F")
