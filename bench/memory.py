"""Peak memory of a training step of the scan beside mambapy's, each in a process of its own: `python bench/memory.py`.

B1 D512 L4096 N16, float32, forward and backward through torch. What is printed is the peak of the resident set over that before the
step, the arguments and their gradients included.
"""

from __future__ import annotations

import json
import subprocess
import sys

SIZES = {"batch": 1, "dim": 512, "seqlen": 4096, "dstate": 16}


def ours(arguments: dict) -> None:
    import ssmcore.torch

    ssmcore.torch.selective_scan(**arguments).sum().backward()


def mambapy(arguments: dict) -> None:
    from peers import mambapy_scan

    mambapy_scan(arguments).sum().backward()


WAYS = {"ssmcore": ours, "mambapy": mambapy}


def peak_mb(way: str) -> float:
    """Runs in a fresh process: a small step first, so that libraries are loaded and warm."""
    import resource

    import cases  # noqa: F401, puts the tests' samples on the path
    import numpy as np
    import torch
    from samples.selective_scan import make_case

    def step(**sizes: int) -> None:
        case = make_case(np.random.default_rng(0), np.float32, extras=False, **sizes)
        WAYS[way]({k: torch.from_numpy(v).requires_grad_() for k, v in case.items() if k != "layout"})

    step(**{**SIZES, "dim": 16, "seqlen": 64})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step(**SIZES)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    if len(sys.argv) == 2:
        print(json.dumps(peak_mb(sys.argv[1])))
        return
    found = {}
    for way in WAYS:
        run = subprocess.run([sys.executable, __file__, way], capture_output=True, text=True, check=True)
        found[way] = json.loads(run.stdout.splitlines()[-1])
        print(f"{way:8} {found[way]:8.0f} MB")
    print(f"ssmcore needs {found['ssmcore'] / found['mambapy']:.1%} of mambapy's")


if __name__ == "__main__":
    main()
