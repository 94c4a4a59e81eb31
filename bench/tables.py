"""Writes the benchmarks' results into docs/performance.md: `make performance`.

python bench/tables.py build/bench.json

Each pair of markers `<!-- bench NAME -->` and `<!-- end of bench NAME -->` holds the rows of bench/test_NAME.py. Pairs of files without a row stay.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "performance.md"
BLOCK = re.compile(r"(<!-- bench (\w+) -->\n).*?(<!-- end of bench \2 -->)", re.DOTALL)


def about(result: dict[str, Any]) -> str:
    """Commit, processor and versions of a result."""
    machine, commit = result["machine_info"], result["commit_info"]
    changed = " with changes" if commit["dirty"] else ""
    return (
        f"Commit {commit['id'][:12]}{changed}; {machine['cpu']['brand_raw']}, {machine['ssmcore']['cpu_features']};"
        f" torch {machine['ssmcore']['torch']}. Float32 unless a row says otherwise."
    )


def row(benchmark: dict[str, Any]) -> str:
    """One line of a table."""
    name, _, case = benchmark["name"].removeprefix("test_").rstrip("]").partition("[")
    found = benchmark["extra_info"]
    share = "" if found["of_ceiling"] is None else f"{found['of_ceiling']:.0%}"
    spread = f"{found['p20']:.3g} to {found['p80']:.3g}"
    cells = [name.replace("_", " "), case, f"{found['ns_per_element']:.3g}", spread, f"{found['error']:.0e}", share]
    return f"| {' | '.join(cells)} |"


def tables(result: dict[str, Any]) -> dict[str, str]:
    """A table for each file of benchmarks, by the file's name without `test_`."""
    head = "| benchmark | case | ns an element | 20 % to 80 % | error | of the ceiling |\n|---|---|---:|---|---:|---:|"
    found: dict[str, list[str]] = {}
    for benchmark in result["benchmarks"]:
        file = Path(benchmark["fullname"].partition("::")[0]).stem.removeprefix("test_")
        found.setdefault(file, []).append(row(benchmark))
    return {file: "\n".join([about(result), "", head, *rows]) for file, rows in found.items()}


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    by_file = tables(json.loads(Path(sys.argv[1]).read_text()))

    def filled(block: re.Match[str]) -> str:
        return f"{block[1]}{by_file[block[2]]}\n{block[3]}" if block[2] in by_file else block[0]

    PAGE.write_text(BLOCK.sub(filled, PAGE.read_text()))


if __name__ == "__main__":
    main()
