"""From which length on the convolution by Fourier transforms is faster than the recurrence: `make crossover`.

Systems in double precision on one thread: diagonal ones, real and complex, whose recurrence is compiled, and dense ones, whose
recurrence is a loop of NumPy. Recurrence and convolution take
turns, so that a machine that drifts drifts for both, and neither is timed before both agree. Rewrites the table between its markers in
docs/choosing.md. Run it on an idle machine.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import ssmcore

PAGE = Path(__file__).parents[1] / "docs" / "choosing.md"
MARKERS = ("<!-- crossover -->", "<!-- /crossover -->")
LENGTHS = tuple(2**k for k in range(2, 17))
SHOWN = LENGTHS[2::2]
KINDS = ("real", "complex", "dense")
FORMS = ("recurrence", "kernel and convolution", "convolution, kernel known")
BUDGET_S, MOST, LEAST = 0.5, 25, 5
"""Rounds of a case go on for so long, but are so many at most and at least."""
TOLERANCE = 1e-10
"""Of largest difference over largest value: the transforms round a few times 1e-16 on values that are sums of up to 65536."""


@dataclass(frozen=True)
class Times:
    """Of one form at one length: the median, and half the distance from the 20th to the 80th percentile as a share of it."""

    median_us: float
    spread: float

    @classmethod
    def of(cls, seconds: list[float]) -> Times:
        low, median, high = np.percentile(seconds, [20, 50, 80])
        return cls(float(median) * 1e6, float((high - low) / 2 / median))

    def __str__(self) -> str:
        digits = f"{self.median_us:,.0f}" if self.median_us >= 100 else f"{self.median_us:.1f}"
        return f"{digits} ± {self.spread:.0%}"


def forms(kind: str, dstate: int, channels: int, length: int) -> tuple[Callable[[], Any], ...]:
    """The functions of `FORMS`; each returns the real output (channels, length)."""
    rng = np.random.default_rng(0)
    delta = np.geomspace(1e-3, 1e-1, channels)
    if kind == "dense":
        structure, (A, B) = "dense", ssmcore.hippo("legs", dstate)
        A_bar, columns = ssmcore.discretize(A, B[:, None], delta, method="bilinear", structure="dense")
        B_bar = columns[..., 0]
    else:
        structure, A = "diagonal", ssmcore.s4d_diagonal({"real": "real", "complex": "lin"}[kind], dstate)
        A_bar, B_bar = ssmcore.discretize(A, np.ones_like(A), delta, method="zoh")
    C = rng.standard_normal((channels, dstate)).astype(A.dtype)
    u = rng.standard_normal((channels, length))

    def real(x: Any) -> Any:
        """Of one of each pair of conjugates, the output is twice the real part."""
        return 2 * x.real if kind == "complex" else x

    def kernel() -> Any:
        return real(ssmcore.ssm_kernel(A_bar, B_bar, C, length, structure=structure))

    known = kernel()
    return (
        lambda: real(ssmcore.ssm_recurrence(A_bar, B_bar, C, u, structure=structure, num_threads=1)[0]),
        lambda: ssmcore.ssm_convolve(u, kernel(), num_threads=1),
        lambda: ssmcore.ssm_convolve(u, known, num_threads=1),
    )


def timed(functions: tuple[Callable[[], Any], ...]) -> tuple[Times, ...]:
    """The functions in turns. Refuses to time what disagrees with the first."""
    reference, *others = (function() for function in functions)
    for form, other in zip(FORMS[1:], others, strict=True):
        error = float(np.abs(other - reference).max() / np.abs(reference).max())
        if not error <= TOLERANCE:
            raise SystemExit(
                f"crossover: {form}: expected an error of at most {TOLERANCE:.0e}, got {error:.1e}; no time is printed"
            )
    seconds: tuple[list[float], ...] = tuple([] for _ in functions)
    end = time.perf_counter() + BUDGET_S
    while len(seconds[0]) < LEAST or (len(seconds[0]) < MOST and time.perf_counter() < end):
        for function, into in zip(functions, seconds, strict=True):
            start = time.perf_counter()
            function()
            into.append(time.perf_counter() - start)
    return tuple(Times.of(each) for each in seconds)


def crossover(recurrence: list[Times], other: list[Times]) -> str:
    """The least length measured from which on the other form has the smaller median at every length."""
    first = None
    for length, one, two in zip(reversed(LENGTHS), reversed(recurrence), reversed(other), strict=True):
        if two.median_us >= one.median_us:
            break
        first = length
    return f"above {LENGTHS[-1]}" if first is None else str(first)


def table() -> str:
    lines = [
        f"`make crossover`, one thread, NumPy {np.__version__}, float64 and complex128: microseconds, the median and half the"
        " distance from the 20th to the 80th percentile.",
        "",
        "| system | form | " + " | ".join(f"L {length}" for length in SHOWN) + " | faster from L |",
        "|---|---|" + "---:|" * (len(SHOWN) + 1),
    ]
    for kind in KINDS:
        for dstate in (16, 64):
            for channels in (1, 64):
                found = [timed(forms(kind, dstate, channels, length)) for length in LENGTHS]
                recurrence, *_ = by_form = [list(times) for times in zip(*found, strict=True)]
                for form, times in zip(FORMS, by_form, strict=True):
                    shown = [str(t) for length, t in zip(LENGTHS, times, strict=True) if length in SHOWN]
                    last = "" if times is recurrence else crossover(recurrence, times)
                    lines.append(
                        f"| {kind}, dstate {dstate}, channels {channels} | {form} | {' | '.join(shown)} | {last} |"
                    )
                print("\n".join(lines[-len(FORMS) :]), flush=True)
    return "\n".join(lines)


def placed(text: str) -> str:
    """The page with `text` between its markers."""
    start, end = MARKERS
    before, found_start, rest = PAGE.read_text().partition(start)
    _, found_end, after = rest.partition(end)
    if not (found_start and found_end):
        raise SystemExit(
            f"crossover: expected {start} and {end} in {PAGE}, got none; add the two where the table should stand"
        )
    return f"{before}{start}\n{text}\n{end}{after}"


def main() -> None:
    threads = os.environ.get("OPENBLAS_NUM_THREADS")
    if threads != "1":
        raise SystemExit(f"crossover: expected OPENBLAS_NUM_THREADS=1, got {threads}; run it by make crossover")
    placed("")  # rather now than after some minutes
    PAGE.write_text(placed(table()))


if __name__ == "__main__":
    main()
