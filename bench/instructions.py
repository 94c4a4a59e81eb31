"""Instructions the AVX2 kernels execute, by callgrind: `make instructions`. Unlike seconds they do not depend on what else runs.

Counts a forward and, where there is one, a backward pass of the samples that are `counted`. Fails where one has grown by more than
2 % over bench/instructions.json, which holds counts by compiler, or where compiled kernels have no such sample. `--update` writes the
counts of this compiler. Needs valgrind and a processor with AVX2.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from cases import SAMPLES

import ssmcore
from ssmcore.ops import SPECS

FILE = Path(__file__).with_suffix(".json")
ALLOWED = 0.02
KERNELS = Path(ssmcore.__file__).parent / "_kernels"
COUNTED = {f"{op} {sample.name}": (op, sample) for op in SPECS for sample in SAMPLES[op].counted}
"""Operation and sample, by name."""


def run(name: str) -> None:
    """The forward and backward pass, in the process that callgrind watches."""
    op, sample = COUNTED[name]
    case = sample.make(np.random.default_rng(0), np.float32)
    out = getattr(ssmcore, op)(**case, backend="cython", num_threads=1)
    if not SPECS[op].differentiable:
        return
    dout = np.ones_like(out[0] if isinstance(out, tuple) else out)
    getattr(ssmcore, f"{op}_vjp")(dout, **case, backend="cython", num_threads=1)


def count(name: str) -> int:
    """Instructions within the kernels' entry points."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "callgrind.out"
        command = ["valgrind", "--tool=callgrind", "--collect-atstart=no", "--toggle-collect=ssm_*_f32_avx2"]
        command.append(f"--callgrind-out-file={out}")
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
    if len(sys.argv) == 2 and sys.argv[1] in COUNTED:
        run(sys.argv[1])
        return
    bare = [op for op in SPECS if (KERNELS / op / "kernel.h").exists() and not SAMPLES[op].counted]
    if bare:
        raise SystemExit(f"no counted sample of {', '.join(bare)}; add a small one to tests/samples")
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    before = known.get(compiler(), {})
    found = {name: count(name) for name in COUNTED}
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
