"""A Mamba model of transformers as it comes, patched, and patched with a scan that does nothing: `python bench/transformers_models.py`.

MambaForCausalLM of the shape of mamba-130m with random weights. What the scan that does nothing takes is what a model costs that
no scan can make faster: its projections, convolutions and norms. The three run in turns, so that a machine that drifts drifts for all.
Nothing is timed unless the logits agree.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers
from torch.nn import functional as F
from transformers.models.mamba import modeling_mamba

from ssmcore.compat import patch_transformers, unpatch_transformers

PROMPT, TRAINED, BOUND = 512, 256, 1e-4


def as_it_comes() -> None:
    unpatch_transformers()


def patched() -> None:
    unpatch_transformers()
    patch_transformers("mamba")


def without_scan() -> None:
    """Patched, and instead of the scan u silu(z), which keeps the gate; states stay zero."""
    patched()

    def scan(u: Any, dt: Any, A: Any, *_: Any, z: Any, return_last_state: bool = False, **__: Any) -> Any:
        out = u * F.silu(z)
        return (out, u.new_zeros(*u.shape[:2], A.shape[1])) if return_last_state else out

    modeling_mamba.mamba_selective_scan = scan
    modeling_mamba.mamba_selective_state_update = lambda state, x, *_, z, **__: x * F.silu(z)


WAYS = {"transformers": as_it_comes, "ssmcore": patched, "no scan": without_scan}


def measure(functions: dict[str, Callable[[], Any]], rounds: int) -> dict[str, np.ndarray]:
    """Times in ms of each function in its way, in turns."""
    found: dict[str, list[float]] = {way: [] for way in functions}
    for turn in range(rounds + 1):
        for way, function in functions.items():
            WAYS[way]()
            start = time.perf_counter()
            function()
            if turn:  # the first warms up
                found[way].append((time.perf_counter() - start) * 1e3)
    return {way: np.array(times) for way, times in found.items()}


def report(what: str, times: dict[str, np.ndarray], difference: str) -> None:
    median = {way: float(np.median(t)) for way, t in times.items()}
    low_high = {way: np.percentile(t, (25, 75)) for way, t in times.items()}
    row = [f"{way} {median[way]:9.2f} ms ({low_high[way][0]:.2f} to {low_high[way][1]:.2f})" for way in times]
    ratios = [f"transformers/ssmcore {median['transformers'] / median['ssmcore']:.2f}"]
    if "no scan" in median:
        ratios.append(f"ssmcore/no scan {median['ssmcore'] / median['no scan']:.2f}")
    print(f"{what:32}", *row, *ratios, difference, sep=" | ", flush=True)


def checked(what: str, values: dict[str, torch.Tensor]) -> str:
    """The largest difference between transformers as it comes and patched, in words. Exits where they disagree."""
    difference = float((values["ssmcore"] - values["transformers"]).abs().max())
    largest = float(values["transformers"].abs().max())
    words = f"largest difference {difference:.1e} where the largest value is {largest:.3g}"
    if not difference <= BOUND * max(1.0, largest):
        raise SystemExit(f"{what}: {words}, which is more than {BOUND:.0e} of it; nothing is timed")
    return words


def each(compute: Callable[[], Any], ways: tuple[str, ...] = tuple(WAYS)) -> dict[str, Any]:
    found = {}
    for way in ways:
        WAYS[way]()
        found[way] = compute()
    return found


@torch.no_grad()
def scan(model: Any, rounds: int) -> None:
    """One layer's discretisation, recurrence, skip and gate, on what the first mixer hands to them."""
    given: list[Any] = []
    as_it_comes()
    original = modeling_mamba.mamba_selective_scan
    modeling_mamba.mamba_selective_scan = lambda *x, **options: given.append((x, options)) or original(*x, **options)
    model(tokens(PROMPT), use_cache=False)
    modeling_mamba.mamba_selective_scan = original
    arguments, options = given[0]

    def run() -> torch.Tensor:
        return modeling_mamba.mamba_selective_scan(*arguments, **options)

    ways = ("transformers", "ssmcore")
    difference = checked("scan", each(run, ways))
    report(f"scan of a layer, {PROMPT} tokens", measure(dict.fromkeys(ways, run), rounds), difference)


@torch.no_grad()
def prefill(model: Any, rounds: int) -> None:
    """A prompt up to the logits of its last token, the ones that `generate` asks for."""

    def run(kept: int = 1) -> torch.Tensor:
        return model(tokens(PROMPT), use_cache=True, logits_to_keep=kept).logits

    difference = checked("prefill", each(lambda: run(0)))  # 0 keeps all
    report(f"prefill, {PROMPT} tokens", measure(dict.fromkeys(WAYS, run), rounds), difference)


@torch.no_grad()
def step(model: Any, rounds: int) -> None:
    caches = each(lambda: model(tokens(PROMPT), use_cache=True).cache)

    def run(cache: Any) -> torch.Tensor:
        return model(tokens(1), cache=cache, use_cache=True).logits

    logits = {}
    for way, cache in caches.items():
        WAYS[way]()
        logits[way] = run(cache)
    functions = {way: lambda cache=cache: run(cache) for way, cache in caches.items()}
    report("step with a cache", measure(functions, rounds), checked("step", logits))


def training(model: Any, rounds: int) -> None:
    ids = tokens(TRAINED)
    model.train()

    def run() -> torch.Tensor:
        model.zero_grad(set_to_none=True)
        out = model(ids, labels=ids, use_cache=False)
        out.loss.backward()
        return out.logits.detach()

    difference = checked("training", each(run))
    report(f"training step, {TRAINED} tokens", measure(dict.fromkeys(WAYS, run), rounds), difference)


def tokens(length: int) -> torch.Tensor:
    return torch.randint(0, 50280, (1, length), generator=torch.Generator().manual_seed(1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5, help="runs of each, ten times as many of a step")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    # at the default range of 0.1 the 24 layers make thousands of roundings of one: a disturbance of the embeddings by a rounding
    # then moves logits by 7e-3, patched or not
    config = transformers.MambaConfig(
        vocab_size=50280,
        hidden_size=768,
        intermediate_size=1536,
        state_size=16,
        num_hidden_layers=options.layers,
        initializer_range=0.02,
    )
    model = transformers.MambaForCausalLM(config).eval()
    print(f"{options.layers} layers, {torch.get_num_threads()} threads, transformers {transformers.__version__}")
    scan(model, 2 * options.rounds)
    prefill(model, options.rounds)
    step(model, 10 * options.rounds)
    training(model, options.rounds)


if __name__ == "__main__":
    main()
