"""The command line, run in this process: a start of torch for each command would take most of the tests' time."""

from __future__ import annotations

import io
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from subprocess import CompletedProcess
from unittest import mock

import torch

from segnet.cli import main


def segnet(*arguments: str | Path) -> CompletedProcess[str]:
    """`segnet ARGUMENTS`. Environment and threads are afterwards as they were."""
    command = ["segnet", *map(str, arguments)]
    out, err = io.StringIO(), io.StringIO()
    threads, code = torch.get_num_threads(), 0
    try:
        with (
            mock.patch.object(sys, "argv", command),
            mock.patch.dict(os.environ),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        torch.set_num_threads(threads)
    return CompletedProcess(command, code, out.getvalue(), err.getvalue())
