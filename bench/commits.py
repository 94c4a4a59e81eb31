"""Two commits, or two results of `--benchmark-json`, side by side.

python bench/commits.py before.json after.json
python bench/commits.py HEAD~1 HEAD [words for pytest -k]

A commit is checked out beside this one, built, and timed with its own benchmarks by this interpreter.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def timed(commit: str, words: str, folder: Path) -> Path:
    """The result file of a commit's benchmarks."""
    tree, out = folder / commit.replace("/", "_"), folder / f"{commit.replace('/', '_')}.json"
    subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(tree), commit], cwd=ROOT, check=True)
    try:
        build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace", "-j2"]
        subprocess.run(build, cwd=tree, check=True, env={**os.environ, "SSMCORE_BUILD": "require"}, stdout=sys.stderr)
        bench = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "bench",
            "--benchmark-only",
            f"--benchmark-json={out}",
            "-k",
            words,
        ]
        subprocess.run(bench, cwd=tree, check=True, env={**os.environ, "PYTHONPATH": str(tree)}, stdout=sys.stderr)
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True)
    return out


def medians(file: Path) -> dict[str, tuple[float, float]]:
    """Nanoseconds an element by name of the benchmark, and half of what lies between the 20th and 80th percentiles, as a share of them."""
    found = {}
    for benchmark in json.loads(file.read_text())["benchmarks"]:
        row = benchmark["extra_info"]
        found[benchmark["name"]] = row["ns_per_element"], (row["p80"] - row["p20"]) / 2 / row["ns_per_element"]
    return found


def main() -> None:
    if len(sys.argv) not in (3, 4):
        raise SystemExit(__doc__)
    words = sys.argv[3] if len(sys.argv) == 4 else ""
    with tempfile.TemporaryDirectory() as name:
        files = [Path(a) if a.endswith(".json") else timed(a, words, Path(name)) for a in sys.argv[1:3]]
        before, after = map(medians, files)
    width = max(map(len, before | after), default=0)
    print(f"{'ns an element':{width}}  {'before':>9} {'after':>9}  after/before")
    for name in before | after:
        old, new = before.get(name), after.get(name)
        cells = " ".join(f"{'' if x is None else f'{x[0]:.3f}':>9}" for x in (old, new))
        ratio = ""
        if old is not None and new is not None:
            ratio = f"{new[0] / old[0]:.2f} ± {new[0] / old[0] * math.hypot(old[1], new[1]):.2f}"
        print(f"{name:{width}}  {cells}  {ratio:>12}")


if __name__ == "__main__":
    main()
