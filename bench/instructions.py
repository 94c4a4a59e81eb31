"""Instructions the AVX2 kernels execute, by callgrind: `make instructions`. Unlike seconds they do not depend on what else runs.

Counts a forward and a backward pass of each kernel (of ssm_recurrence, whose kernel has no backward pass, the forward one), and fails where one has grown by more than 2 % over bench/instructions.json, which
holds counts by compiler; `--update` writes those of this compiler. Needs valgrind and a processor with AVX2.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path

FILE = Path(__file__).with_suffix(".json")
ALLOWED = 0.02
GRID = {"batch": 1, "height": 16, "width": 16}
SCAN = {"batch": 1, "dim": 64, "seqlen": 256, "dstate": 16, "layout": "bld"}
CHUNKS = {"batch": 1, "seqlen": 256, "nheads": 2, "headdim": 64, "dstate": 64, "ngroups": 1, "extras": False}
KERNELS = {
    "selective_scan mamba": ("ssm_scan", SCAN | {"discretization": "mamba", "extras": False}),
    "selective_scan bilinear softplus D z": ("ssm_scan", SCAN | {"discretization": "bilinear", "delta_softplus": True}),
    "causal_conv1d silu": ("ssm_conv", {"batch": 1, "dim": 64, "seqlen": 256, "layout": "bld", "activation": "silu"}),
    "depthwise_conv2d silu": ("ssm_dwconv", GRID | {"dim": 64, "activation": "silu"}),
    "attention_gate": ("ssm_gate", GRID | {"channels": 64, "dim": 32}),
    "chunk_scan": ("ssm_chunks", CHUNKS),
    "ssm_recurrence": ("ssm_linear", {"systems": (8,), "seqlen": 256, "dstate": 16, "kind": "complex"}),
}
"""Symbol of the kernel and settings of its case, by name, which begins with the operation."""


def run(name: str) -> None:
    """The forward and backward pass, in the process that callgrind watches."""
    import cases  # noqa: F401, puts the tests' samples on the path
    import numpy as np

    import ssmcore

    op = name.split()[0]
    case = import_module(f"samples.{op}").make_case(np.random.default_rng(0), np.float32, **KERNELS[name][1])
    out = getattr(ssmcore, op)(**case, backend="cython", num_threads=1)
    if op == "ssm_recurrence":
        return
    dout = np.ones_like(out[0] if isinstance(out, tuple) else out)
    getattr(ssmcore, f"{op}_vjp")(dout, **case, backend="cython", num_threads=1)


def count(name: str) -> int:
    """Instructions within the kernels' entry points."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "callgrind.out"
        toggles = [f"--toggle-collect={KERNELS[name][0]}_*_f32_avx2"]
        command = ["valgrind", "--tool=callgrind", "--collect-atstart=no", *toggles, f"--callgrind-out-file={out}"]
        environment = {**os.environ, "SSMCORE_ISA": "avx2", "OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run(
            [*command, sys.executable, __file__, name], env=environment, capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(f"{name}: callgrind failed\n{done.stderr[-2000:]}")
        totals = [line for line in out.read_text().splitlines() if line.startswith(("totals:", "summary:"))]
    found = int(totals[0].split()[1])
    if found == 0:
        raise SystemExit(f"{name}: callgrind saw no instruction; is the package built with its symbols?")
    return found


def compiler() -> str:
    """What the counts depend on besides the source."""
    version = subprocess.run([os.environ.get("CC", "cc"), "--version"], capture_output=True, text=True, check=True)
    return version.stdout.splitlines()[0]


def main() -> None:
    if len(sys.argv) == 2 and sys.argv[1] in KERNELS:
        run(sys.argv[1])
        return
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    before = known.get(compiler(), {})
    found = {name: count(name) for name in KERNELS}
    grown = []
    for name, now in found.items():
        change = now / before[name] - 1 if name in before else None
        print(f"{name:40} {now:12,} {'no count of this compiler' if change is None else f'{change:+.2%}'}")
        if change is not None and change > ALLOWED:
            grown.append(name)
    if not before:
        print(f"instructions: compared with nothing, for {FILE.name} has no counts of {compiler()}", file=sys.stderr)
    if "--update" in sys.argv:
        FILE.write_text(json.dumps({**known, compiler(): found}, indent=1, sort_keys=True) + "\n")
    elif grown:
        raise SystemExit(
            f"more instructions than before: {', '.join(grown)}; look why, or write the new counts with --update"
        )


if __name__ == "__main__":
    main()
