"""The command line bounds the spin of OpenMP's threads before torch loads libgomp."""

from __future__ import annotations

import os
import subprocess
import sys
from tempfile import gettempdir

import pytest

COMMAND = ("-m", "segnet", "info", "--list")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", *COMMAND)


def displayed(arguments: tuple[str, ...], **chosen: str) -> str:
    """What libgomp says of itself when the command loads it."""
    known = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    environment = known | {"OMP_DISPLAY_ENV": "VERBOSE", "PYTHONPATH": os.pathsep.join(sys.path)} | chosen
    run = subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=gettempdir(), capture_output=True, text=True, check=True
    )
    assert "OPENMP DISPLAY ENVIRONMENT BEGIN" in run.stderr
    return run.stderr


@pytest.mark.parametrize("arguments", [COMMAND, TORCHRUN], ids=["alone", "torchrun"])
def test_libgomp_spins_for_a_bounded_time(arguments: tuple[str, ...]) -> None:
    assert "GOMP_SPINCOUNT = '3000'" in displayed(arguments)


@pytest.mark.parametrize(
    ("chosen", "shown"),
    [({"GOMP_SPINCOUNT": "77"}, "GOMP_SPINCOUNT = '77'"), ({"OMP_WAIT_POLICY": "passive"}, "GOMP_SPINCOUNT = '0'")],
    ids=["count", "policy"],
)
def test_a_users_choice_stays(chosen: dict[str, str], shown: str) -> None:
    assert shown in displayed(COMMAND, **chosen)
