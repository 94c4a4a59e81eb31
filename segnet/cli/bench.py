"""`segnet bench`: speed of networks on this machine."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

import typer

from segnet.cli.options import AsJson, Quiet, print_json
from segnet.errors import InputError


def bench(
    mode: Annotated[Literal["train", "infer"], typer.Argument(help="A training step, or a forward pass.")],
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="A network's name from `segnet info --list`; repeat it. Default: all."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Slices per step.")] = 8,
    side_px: Annotated[int, typer.Option(min=32, help="Side of a slice, a multiple of 32.")] = 256,
    threads: Annotated[
        list[int] | None, typer.Option(min=1, help="Number of threads; repeat it. Default: torch's.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Timed steps of each network.")] = 5,
    bfloat16: Annotated[bool, typer.Option("--bfloat16", help="bfloat16 except in the scan.")] = False,
    voi: Annotated[
        bool,
        typer.Option("--voi", help="With infer: segment a whole volume of 128 slices, --batch-size slices at once."),
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Measure speed and memory of networks, in turns in one run. Run it on an idle machine."""
    if voi and mode != "infer":
        raise typer.BadParameter(f"--voi: expected infer, got {mode}; training takes no whole volumes")
    from segnet.runtime.memory import keep_freed_memory
    from segnet.runtime.table import format_table
    from segnet.study.speed import KINDS, PAPER_SAMPLES, measure

    keep_freed_memory()
    try:
        found = measure(
            mode,
            model or (),
            batch_size=batch_size,
            side_px=side_px,
            threads=threads or (),
            rounds=rounds,
            bfloat16=bfloat16,
            voi=voi,
            report=None if quiet else lambda line: print(line, file=sys.stderr, flush=True),
        )
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"side-px: {error}") from None
    if as_json:
        print_json(found)
        return
    for count, peak in found["peak_gflop_s"].items():
        print(f"{count} threads: a matrix product reaches {peak:.0f} GFLOP/s")
    print(f"batches of {batch_size} slices of {side_px} px, medians of {rounds}\n")
    rows = [{**row, "peak_mb": None if row["peak_bytes"] is None else row["peak_bytes"] / 1e6} for row in found["rows"]]
    speed = {
        "model": "model",
        "threads": "threads",
        "ms_a_slice": "ms a slice",
        "p20_ms": "20th",
        "p80_ms": "80th percentile",
    }
    if voi:
        speed["s_a_voi"] = "s a VOI"
    print(format_table(rows, speed | {"slices_a_second": "slices/s", "peak_mb": "MB"}, digits=1))
    kinds = [*(kind for kind, _ in KINDS), "other"]
    print("\nshares of a step, in per cent\n")
    shares = [{"model": r["model"], "threads": r["threads"], **{k: 100 * r["shares"][k] for k in kinds}} for r in rows]
    print(format_table(shares, ["model", "threads", *kinds], digits=0))
    if mode == "train":
        print(
            "\nseconds per epoch as in the paper's Table I: an estimate for its processor, from the ratio of peak speeds\n"
        )
        epochs = [{"model": r["model"], "threads": r["threads"], **r["epoch_s_estimate"]} for r in rows]
        print(format_table(epochs, ["model", "threads", *PAPER_SAMPLES], digits=0))
