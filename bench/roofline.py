"""Measure the kernels against this machine's ceilings: `make roofline`.

Draws docs/roofline-ISA.svg and rewrites the table between that instruction set's markers in docs/performance.md. One thread, float32. Run
it on an idle machine.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cases import SAMPLES, Sample, case_of
from ceilings import ROOT, copy_gb_s, exp2_ns, fma_ns, tile_ns
from cpuinfo import get_cpu_info

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


def made_on() -> str:
    """Commit and processor. Changes of code are told; this program itself changes docs."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    commit = git("rev-parse", "--short=12", "HEAD") or "unknown"
    changed = " with changes" if git("status", "--porcelain", "--", "ssmcore", "bench") else ""
    return f"commit {commit}{changed}, {get_cpu_info()['brand_raw']}, {ssmcore.cpu_features()}"


def table(isa: str, found: list[Point]) -> str:
    lines = [
        f"`make roofline`, {made_on()}, one thread: a float multiply-add {fma_ns(isa):.4f} ns"
        f" ({2 / fma_ns(isa):.0f} GFLOP/s), 2^x {exp2_ns(isa):.3f} ns, copy {copy_gb_s():.1f} GB/s read and written.",
        "",
        "| kernel | ns an element | of its own mix on a tile in cache | GFLOP/s | flop a byte |",
        "|---|---:|---:|---:|---:|",
    ]
    for p in found:
        share = "" if p.ceiling_ns is None else f"{p.ceiling_ns / p.ns:.0%}"
        lines.append(f"| {p.name} | {p.ns:.3f} | {share} | {p.gflop_s:.0f} | {p.flop_per_byte:.1f} |")
    return "\n".join(lines)


def draw(path: Path, found: list[Point], peak: float, bandwidth: float) -> None:
    """Draw the kernels below the two roofs, given in GFLOP/s and GB/s. Both axes are logarithmic. The table has the numbers."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    looks = {"selective_scan": ("o", "#0b659d"), "ss2d": ("s", "#b04a0a")}
    with mpl.rc_context({"svg.hashsalt": "roofline", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure = Figure(figsize=(8, 4.6), layout="constrained")
        axes = figure.subplots()
        axes.loglog([0.25, peak / bandwidth, 256], [0.25 * bandwidth, peak, peak], base=2, color="#333", linewidth=2)
        axes.set(xlim=(0.25, 256), ylim=(1, 512), xlabel="flop per byte", ylabel="GFLOP/s")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
        axes.grid(True, axis="y", color="#ddd")
        axes.text(240, peak * 1.1, f"{peak:.0f} GFLOP/s multiply-add", ha="right")
        axes.text(0.55, 0.4 * bandwidth, f"{bandwidth:.0f} GB/s copy")
        for op, (marker, colour) in looks.items():
            for what, face in (("forward", colour), ("forward + backward", "white")):
                at = [
                    (min(p.flop_per_byte, 256), p.gflop_s)
                    for p in found
                    if p.name.startswith(f"{op} ") and p.name.endswith(f", {what}")
                ]
                axes.plot(*zip(*at, strict=True), marker, color=colour, markerfacecolor=face, label=f"{op}, {what}")
        axes.legend(loc="lower right", frameon=False)
        figure.savefig(path, format="svg", metadata=dict.fromkeys(("Creator", "Date")))


def main() -> None:
    isa = ssmcore.cpu_features().isa
    if isa is None:
        raise SystemExit("roofline: expected compiled kernels, got none; build with SSMCORE_BUILD=require")
    found = points(isa)
    text = table(isa, found)
    print(text)
    draw(ROOT / "docs" / f"roofline-{isa}.svg", found, 2 / fma_ns(isa), copy_gb_s())
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
