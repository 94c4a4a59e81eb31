"""The measuring of speed: that it runs what it says and adds up; no figure of time is held to anything."""

from __future__ import annotations

import json
from itertools import count
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd.profiler import profile

from segnet.config import Config, ModelConfig
from segnet.models import build
from segnet.study import speed

SIZES = {"batch_size": 2, "side_px": 32}


def test_a_step_trains() -> None:
    step = speed.step_of("hunet", "train", **SIZES)
    losses = [float(step().detach()) for _ in range(12)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", ["hunet", "mamba-ahnet"])
def test_a_forward_pass_is_the_networks_own_without_its_batch_norms(name: str) -> None:
    step = speed.step_of(name, "infer", **SIZES)
    torch.manual_seed(0)
    model = build(Config(model=ModelConfig(name=name)).model).eval()
    images = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(step(), model(images)[0], rtol=0, atol=1e-5)
    with torch.autograd.profiler.profile(use_kineto=False) as recorded:
        step()
    norms = sum(event.count for event in recorded.key_averages() if event.key == "aten::batch_norm")
    assert norms == {"hunet": 4, "mamba-ahnet": 3}[name]
    half = speed.step_of(name, "infer", bfloat16=True, **SIZES)()
    torch.testing.assert_close(half, step(), rtol=0.05, atol=0.05)
    assert not torch.equal(half, step())


def test_a_whole_volume_is_segmented(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "VOI_SLICES", 5)
    found = speed.step_of("hunet", "infer", voi=True, **SIZES)()
    assert found.shape == (5, 32, 32)
    assert 0 < found.min() < found.max() < 1
    seen: list[int] = []

    def segment(model: Any, volume: np.ndarray, data: Any, **options: Any) -> np.ndarray:
        seen.append(options["batch_size"])
        return np.zeros(volume.shape, np.float32)

    monkeypatch.setattr(speed, "segment", segment)
    monkeypatch.setattr(speed, "peak_bytes", lambda *_, **__: None)
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=count().__next__))  # every step takes a second
    (row,) = speed.measure("infer", ["hunet"], threads=(1,), rounds=2, voi=True, **SIZES)["rows"]
    assert row["s_a_voi"] == pytest.approx(1)
    assert row["slices_a_second"] == pytest.approx(5)
    assert seen == [2] * (1 + 2 + 1)  # warming up, two rounds, shares


@pytest.mark.parametrize(("name", "scans"), [("hunet", False), ("mamba-ahnet", True)])
def test_shares_by_kind_make_the_whole(name: str, scans: bool) -> None:
    shares = speed.by_kind(speed.step_of(name, "train", **SIZES))
    assert sum(shares.values()) == pytest.approx(1)
    assert (shares["scan"] > 0) == scans
    assert shares["convolution"] > 0.02
    assert shares["optimizer"] > 0


def test_every_operation_of_ours_has_a_kind() -> None:
    step = speed.step_of("mamba-ahnet", "train", **SIZES)
    with profile(use_kineto=False) as recorded:
        step()
    ours = {event.key for event in recorded.key_averages() if "ssmcore" in event.key}
    assert len(ours) >= 6  # scan, convolution and gate, forward and backward
    assert not [key for key in ours if speed.kind_of(key) == "other"]


def test_a_run_of_two_networks() -> None:
    seen: list[str] = []
    found = speed.measure("train", ["hunet", "mamba-ahnet"], threads=(1,), rounds=2, report=seen.append, **SIZES)
    assert [row["model"] for row in found["rows"]] == ["hunet", "mamba-ahnet"]
    assert seen[:3] == [
        f"1 threads, round {k} of 2: {name}" for k, name in ((0, "hunet"), (0, "mamba-ahnet"), (1, "hunet"))
    ]
    for row in found["rows"]:
        assert 0 < row["p20_ms"] <= row["ms_a_slice"] <= row["p80_ms"]
        assert row["slices_a_second"] == pytest.approx(1e3 / row["ms_a_slice"])
        wanted = row["ms_a_slice"] / 1e3 * found["peak_gflop_s"][1] / speed.PAPER_PEAK_GFLOP_S * 24580
        assert row["epoch_s_estimate"]["DeepLesion"] == pytest.approx(wanted)
    assert json.loads(json.dumps(found))["rounds"] == 2


def test_memory_holds_what_each_slice_keeps_for_the_backward_pass() -> None:
    kept = 0

    def keep(module: nn.Module, inputs: object, out: torch.Tensor) -> None:
        nonlocal kept
        kept += out.nbytes

    network = build(ModelConfig(name="hunet"))
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(keep)
    network(torch.zeros(1, 1, 128, 128))
    small, large = (speed.peak_bytes("hunet", "train", threads=1, batch_size=b, side_px=128) for b in (1, 8))
    assert small is not None
    assert large is not None
    # the fixed share, code read from disk among it, differs from run to run and from machine to machine
    assert large - small > 7 * kept > 0


def test_threads_are_put_back_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ValueError, match="multiples of 16"):
        speed.measure("infer", ["hunet"], threads=(1,), batch_size=1, side_px=40)
    assert torch.get_num_threads() == before


def test_the_profiler_prints_nothing_of_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    assert speed.by_kind(lambda: torch.ones(3) + 1)["elementwise"] > 0
    assert capfd.readouterr() == ("", "")
