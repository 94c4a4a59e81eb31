"""Words and numbers of a text header that is not trusted."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from segnet.errors import InputError
from segnet.io.volume import FloatArray

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?|[+-]?(nan|inf|infinity)", re.IGNORECASE)


class Fields:
    """The fields of one header, by name; every complaint names the field and the file.

    Parameters
    ----------
    values : text of each field
    path : the file
    """

    def __init__(self, values: Mapping[str, str], path: Path) -> None:
        self._values = dict(values)
        self.path = path

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def text(self, name: str, default: str | None = None) -> str:
        """A field's text; without a default the field must be there."""
        value = self._values.get(name, default)
        if value is None:
            raise InputError(f"{name}: expected such a field in the header, got none in {self.path}; save it anew")
        return value

    def integers(self, name: str, count: int | None = None) -> tuple[int, ...]:
        """Whole numbers, separated by spaces."""
        words = self.text(name).split()
        if not all(_INTEGER.fullmatch(word) for word in words) or (count is not None and len(words) != count):
            raise self.wrong(name, f"{'some' if count is None else count} whole numbers")
        return tuple(int(word) for word in words)

    def numbers(self, name: str, count: int) -> FloatArray:
        """(count,) finite numbers, separated by spaces."""
        return self.finite(name, self.text(name).split(), count)

    def finite(self, name: str, words: list[str], count: int) -> FloatArray:
        """(count,) the finite numbers in `words`, which stand in the field `name`."""
        if len(words) != count or not all(_NUMBER.fullmatch(word) for word in words):
            raise self.wrong(name, f"{count} numbers")
        values = [float(word) for word in words]
        if not all(math.isfinite(value) for value in values):
            raise self.wrong(name, "finite numbers")
        return np.array(values, dtype=np.float64)

    def lengths_mm(self, name: str, words: list[str], count: int) -> FloatArray:
        """(count,) the positive lengths in `words`, which stand in the field `name`."""
        values = self.finite(name, words, count)
        if not (values > 0).all():
            raise self.wrong(name, "positive lengths in mm")
        return values

    def wrong(self, name: str, expected: str, remedy: str = "save the volume anew") -> InputError:
        """An error that a field should have been something else."""
        value = self.text(name)
        shown = value if len(value) <= 80 else value[:77] + "..."
        return InputError(f"{name}: expected {expected}, got {shown!r} in {self.path}; {remedy}")


def header_text(head: bytes, path: Path) -> str:
    """A header's bytes as text.

    Raises
    ------
    InputError
        There are bytes that no header of text has.
    """
    text = head.decode("latin-1")
    if any(ord(c) < 32 and c not in "\t\r\n" for c in text):
        raise InputError(f"header: expected text, got control characters in {path}; save the volume anew")
    return text
