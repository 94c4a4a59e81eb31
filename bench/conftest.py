"""What every benchmark shares: correctness first, then time an element, bandwidth, error and the share of the ceiling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import ssmcore

ROWS: list[dict[str, Any]] = []


@pytest.fixture
def measure(benchmark: Any, request: pytest.FixtureRequest) -> Callable[..., None]:
    """measure(function, elements=, error=, tolerance=): refuses to time what is wrong, then records a row.

    `moved` are the bytes the function must read and write at least; `ceiling` the nanoseconds an element that the processor
    needs at least, on one thread, by bench/ceilings.py.
    """

    def run(
        function: Callable[[], Any],
        *,
        elements: int,
        error: float,
        tolerance: float,
        rounds: int = 15,
        moved: int | None = None,
        ceiling: float | None = None,
    ) -> None:
        assert error <= tolerance, f"error {error:.1e} above {tolerance:.1e}: no time is printed for a wrong result"
        benchmark.pedantic(function, rounds=rounds, iterations=1, warmup_rounds=1)
        p20, median, p80 = np.percentile(benchmark.stats.stats.data, [20, 50, 80]) / elements * 1e9
        row = {
            "ns_per_element": float(median),
            "p20": float(p20),
            "p80": float(p80),
            "gb_s": None if moved is None else moved / (median * elements),
            "of_ceiling": None if ceiling is None else ceiling / float(median),
            "error": error,
            "elements": elements,
        }
        benchmark.extra_info |= row
        ROWS.append({"name": request.node.name} | row)

    return run


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Goes into the JSON of `--benchmark-json`."""
    import torch

    machine_info["ssmcore"] = {"cpu_features": str(ssmcore.cpu_features()), "torch": torch.__version__}


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not ROWS:
        return
    terminalreporter.section("nanoseconds an element, GB/s, error against float64, share of the one-thread ceiling")
    width = max(len(row["name"]) for row in ROWS)
    terminalreporter.write_line(
        f"{'':{width}}  {'median':>9} {'p20':>9} {'p80':>9}  {'GB/s':>6}  {'error':>7}  of ceiling"
    )
    for row in ROWS:
        gb_s = "" if row["gb_s"] is None else f"{row['gb_s']:.1f}"
        share = "" if row["of_ceiling"] is None else f"{row['of_ceiling']:.0%}"
        times = " ".join(f"{row[key]:9.3f}" for key in ("ns_per_element", "p20", "p80"))
        terminalreporter.write_line(f"{row['name']:{width}}  {times}  {gb_s:>6}  {row['error']:7.1e}  {share:>10}")
