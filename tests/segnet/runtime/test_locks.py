"""Locks: alone or shared, refused or waited for, ended by signal 9, and never on a file that was removed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from segnet.errors import InputError
from segnet.runtime.locks import locked, locked_file


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_lock_is_held_alone_or_shared(first: bool, second: bool, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x" if kind == "file" else tmp_path
    if kind == "file":
        path.write_text("content")
    before = sorted(tmp_path.iterdir())
    with locked(path, "taken", shared=first):
        if first and second:
            with locked(path, "taken", shared=second):
                pass
        else:
            with pytest.raises(InputError, match="taken"), locked(path, "taken", shared=second):
                pass
    with locked(path, "taken"):
        pass
    assert sorted(tmp_path.iterdir()) == before
    assert kind == "folder" or path.read_text() == "content"


HOLD = """
import sys, time
from pathlib import Path
from segnet.runtime.locks import locked_file
locked_file(Path(sys.argv[1]), "taken")
print("held", flush=True)
time.sleep(600)
"""


def test_a_lock_ends_with_a_killed_process(tmp_path: Path) -> None:
    path = tmp_path / "claim"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="taken"):
            locked_file(path, "taken")
        process.send_signal(signal.SIGKILL)
    os.close(locked_file(path, "taken"))


def test_who_waits_for_a_file_that_is_removed_locks_its_successor(tmp_path: Path) -> None:
    path = tmp_path / "claim"
    first = locked_file(path, "taken")
    got: list[int] = []
    waiting = threading.Thread(target=lambda: got.append(locked_file(path, "taken", wait=True)))
    waiting.start()
    waiting.join(0.2)
    assert not got
    path.unlink()
    os.close(first)
    waiting.join(60)
    assert os.path.samestat(os.fstat(got[0]), path.stat())
    with pytest.raises(InputError, match="taken"):
        locked_file(path, "taken")
    os.close(got[0])
