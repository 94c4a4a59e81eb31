"""What every benchmark shares: correctness first, then ns per element and error beside the time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

ROWS: list[dict[str, Any]] = []


@pytest.fixture
def measure(benchmark: Any, request: pytest.FixtureRequest) -> Callable[..., None]:
    """measure(function, elements, error, tolerance): refuses to time what is wrong, then records a row."""

    def run(function: Callable[[], Any], *, elements: int, error: float, tolerance: float, rounds: int = 15) -> None:
        assert error <= tolerance, f"error {error:.1e} above {tolerance:.1e}: no time is printed for a wrong result"
        benchmark.pedantic(function, rounds=rounds, iterations=1, warmup_rounds=1)
        nanoseconds = benchmark.stats.stats.median / elements * 1e9
        benchmark.extra_info |= {"ns_per_element": nanoseconds, "error": error, "elements": elements}
        ROWS.append({"name": request.node.name, "ns_per_element": nanoseconds, "error": error})

    return run


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not ROWS:
        return
    terminalreporter.section("nanoseconds per element (batch * dim * seqlen * dstate) and error against float64")
    width = max(len(row["name"]) for row in ROWS)
    for row in ROWS:
        terminalreporter.write_line(f"{row['name']:{width}}  {row['ns_per_element']:10.3f} ns  {row['error']:.1e}")
