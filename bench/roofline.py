"""Measures this machine's ceilings and every kernel against them: `make roofline`.

Draws docs/roofline-ISA.svg and rewrites the table between that instruction set's markers in docs/performance.md. One thread, float32. Run
it on an idle machine.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from cases import SAMPLES, Sample, case_of
from ceilings import ROOT, copy_gb_s, exp2_ns, fma_ns, tile_ns

import ssmcore

FLOPS = {"mamba": 19, "bilinear": 13, "zoh": 60, "uniform A": 5}
"""Of one element of the recurrence forward, a multiply-add counting two: read off `coefficients` and `advance` in
selective_scan/kernel.h. Where A is uniform, the exponential is shared by all states and left out."""
BACKWARD_FLOPS = {"mamba": 33, "bilinear": 31, "zoh": 90, "uniform A": 19}
"""Of one element of the backward sweep, the recomputed states included."""
MARKERS = ("<!-- roofline {isa} -->", "<!-- end of roofline {isa} -->")


@dataclass(frozen=True)
class Point:
    """One kernel: its nanoseconds an element, the ceiling of its own instruction mix (None where that was not measured), and where it lies on
    the roofline."""

    name: str
    ns: float
    ceiling_ns: float | None
    gflop_s: float
    flop_per_byte: float


def median_ns(function: Callable[[], Any], elements: int, rounds: int = 15) -> float:
    function()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds)) / elements * 1e9


def points_of(op: str, sample: Sample, isa: str) -> list[Point]:
    case = case_of(sample)
    disc = case.get("discretization", "mamba")
    mix = "uniform A" if "uniform A" in sample.name else disc
    x, scans = (case["u"], 1) if op == "selective_scan" else (case["x"], len(case["A"]))
    elements = scans * x.size * case["A"].shape[-1]
    read = sum(a.nbytes for a in case.values() if isinstance(a, np.ndarray))
    dout = np.ones_like(x)

    def forward() -> Any:
        return getattr(ssmcore, op)(**case, num_threads=1)

    def both() -> Any:
        return getattr(ssmcore, f"{op}_vjp")(dout, **case, num_threads=1)

    def point(what: str, function: Callable[[], Any], flops: int, moved: int, ceiling: float | None) -> Point:
        ns = median_ns(function, elements)
        return Point(f"{op} {sample.name}, {what}", ns, ceiling, flops / ns, flops * elements / moved)

    # the tile has an exponential for each state, which a uniform A shares
    once = None if mix == "uniform A" else tile_ns(isa, disc)
    both_ns = None if once is None else once + tile_ns(isa, disc, backward=True)
    return [
        point("forward", forward, FLOPS[mix], read + x.nbytes, once),
        # the vjp of arrays runs the forward pass first; gradients are written beside what is read
        point("forward + backward", both, FLOPS[mix] + BACKWARD_FLOPS[mix], 3 * read + 2 * x.nbytes, both_ns),
    ]


def points(isa: str) -> list[Point]:
    return [
        p for op in ("selective_scan", "ss2d") for sample in SAMPLES[op].benchmarks for p in points_of(op, sample, isa)
    ]


def table(isa: str, found: list[Point]) -> str:
    lines = [
        f"`make roofline` on {ssmcore.cpu_features()}, one thread: a float multiply-add {fma_ns(isa):.4f} ns"
        f" ({2 / fma_ns(isa):.0f} GFLOP/s), 2^x {exp2_ns(isa):.3f} ns, copy {copy_gb_s():.1f} GB/s read and written.",
        "",
        "| kernel | ns an element | of its own mix on a tile in cache | GFLOP/s | flop a byte |",
        "|---|---:|---:|---:|---:|",
    ]
    for p in found:
        share = "" if p.ceiling_ns is None else f"{p.ceiling_ns / p.ns:.0%}"
        lines.append(f"| {p.name} | {p.ns:.3f} | {share} | {p.gflop_s:.0f} | {p.flop_per_byte:.1f} |")
    return "\n".join(lines)


def svg(isa: str, found: list[Point]) -> str:
    """Log-log: flop a byte to the right, GFLOP/s upwards, the two roofs, and the kernels by number."""
    width, height, left, bottom, top = 760, 420, 60, 50, 20
    x_low, x_high, y_low, y_high = 0.25, 256.0, 1.0, 512.0
    peak, bandwidth = 2 / fma_ns(isa), copy_gb_s()

    def at(x: float, y: float) -> tuple[float, float]:
        right = left + (width - left - 20) * math.log(x / x_low) / math.log(x_high / x_low)
        up = height - bottom - (height - bottom - top) * math.log(y / y_low) / math.log(y_high / y_low)
        return round(right, 1), round(up, 1)

    ridge = peak / bandwidth
    roof = [at(x_low, x_low * bandwidth), at(ridge, peak), at(x_high, peak)]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height + 16 * len(found) + 20}" font-family="sans-serif"'
        ' font-size="12" role="img" aria-label="Roofline of the kernels">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for exponent in range(-2, 9, 2):
        x, y = at(2.0**exponent, y_low)
        parts.append(f'<text x="{x}" y="{y + 18}" text-anchor="middle">{2.0**exponent:g}</text>')
    for exponent in range(0, 10, 2):
        x, y = at(x_low, 2.0**exponent)
        parts.append(f'<text x="{x - 8}" y="{y + 4}" text-anchor="end">{2.0**exponent:g}</text>')
        parts.append(f'<line x1="{x}" y1="{y}" x2="{width - 20}" y2="{y}" stroke="#ddd"/>')
    parts.append(
        f'<polyline points="{" ".join(f"{x},{y}" for x, y in roof)}" fill="none" stroke="#333" stroke-width="2"/>'
    )
    parts.append(
        f'<text x="{width - 24}" y="{at(x_high, peak)[1] - 6}" text-anchor="end">{peak:.0f} GFLOP/s multiply-add</text>'
    )
    x, y = at(0.5, 0.5 * bandwidth)
    parts.append(f'<text x="{x + 8}" y="{y + 14}">{bandwidth:.0f} GB/s copy</text>')
    parts.append(f'<text x="{width / 2}" y="{height - 8}" text-anchor="middle">flop a byte</text>')
    parts.append(
        f'<text x="14" y="{height / 2}" transform="rotate(-90 14 {height / 2})" text-anchor="middle">GFLOP/s</text>'
    )
    for i, p in enumerate(found, 1):
        x, y = at(min(p.flop_per_byte, x_high), p.gflop_s)
        parts.append(f'<circle cx="{x}" cy="{y}" r="4" fill="#0a6"/><text x="{x + 6}" y="{y - 5}">{i}</text>')
        parts.append(f'<text x="{left}" y="{height + 16 * i}">{i}  {p.name}: {p.ns:.3f} ns an element</text>')
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    isa = ssmcore.cpu_features().isa
    if isa is None:
        raise SystemExit("roofline: expected compiled kernels, got none; build with SSMCORE_BUILD=require")
    found = points(isa)
    text = table(isa, found)
    print(text)
    (ROOT / "docs" / f"roofline-{isa}.svg").write_text(svg(isa, found))
    page = ROOT / "docs" / "performance.md"
    start, end = (marker.format(isa=isa) for marker in MARKERS)
    before, found_start, rest = page.read_text().partition(start)
    if not found_start:
        raise SystemExit(
            f"roofline: expected {start} in {page}, got none; add the two markers where the table should stand"
        )
    page.write_text(f"{before}{start}\n{text}\n{end}{rest.partition(end)[2]}")


if __name__ == "__main__":
    main()
