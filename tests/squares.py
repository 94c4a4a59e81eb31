"""Work that other processes can import: squares, but for one number that is bad and one that is deadly."""

from __future__ import annotations

import os
import signal

from segnet.errors import InputError


def square(number: int) -> int:
    if number == 3:
        raise InputError("three")
    if number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number
