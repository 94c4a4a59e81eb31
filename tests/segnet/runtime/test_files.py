"""Writing beside, then renaming."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from segnet.errors import InputError
from segnet.runtime.files import remove_leftovers, replacing, write_text


def test_a_file_appears_whole(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "grün")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "grün"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")

    def interrupted() -> None:
        with replacing(tmp_path / "a.txt") as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "a.txt").read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_it_is_readable_as_any_new_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "")
    (tmp_path / "b.txt").touch()
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "b.txt").stat().st_mode


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a file in an existing folder"):
        write_text(tmp_path / "no" / "a.txt", "")


SAVES = """
import resource, signal, sys
import torch
from safetensors.torch import save_file
from segnet.runtime.files import remove_leftovers, replacing
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
with replacing(sys.argv[1]) as temporary:
    save_file({"x": torch.zeros(10_000)}, temporary)
"""


def test_what_a_process_killed_while_it_saves_leaves_behind_is_taken_away(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SAVES, str(tmp_path / "state.safetensors")]
    assert subprocess.run(command, check=False).returncode == -signal.SIGXFSZ
    assert list(tmp_path.iterdir()) != []
    kept = tmp_path / ".hidden"
    kept.touch()
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [kept]
