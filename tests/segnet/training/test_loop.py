"""Training: it learns, repeats by seed, keeps patients apart, and leaves what it says."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segnet.errors import InputError
from segnet.models import names
from segnet.training import checkpoint
from segnet.training.loop import _rate, make_split, train


def changed(config: Any, section: str, **values: Any) -> Any:
    return config.model_copy(update={section: getattr(config, section).model_copy(update=values)})


def test_the_loss_falls(prepared: Path, tmp_path: Path, tiny_config: Any) -> None:
    config = changed(tiny_config, "train", max_steps=60, validate_every_s=1e9, learning_rate=3e-3, batch_size=4)
    losses: list[float] = []
    from segnet.training import loop

    original = loop._step

    def recorded(*args: Any) -> float:
        losses.append(original(*args))
        return losses[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_step", recorded)
        train(prepared, tmp_path / "run", config)
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])


@pytest.mark.parametrize("name", names())
def test_every_network_trains_and_comes_back(name: str, prepared: Path, tmp_path: Path, tiny_config: Any) -> None:
    config = changed(changed(tiny_config, "train", max_steps=2, validate_every_s=1e9), "model", name=name)
    train(prepared, tmp_path / "run", config)
    model, loaded = checkpoint.load(tmp_path / "run")
    assert loaded.model.name == name
    logits, reconstruction = model(torch.rand(1, config.model.in_channels, 64, 64))
    assert logits.shape == (1, 2, 64, 64)
    assert reconstruction is None
    assert torch.isfinite(logits).all()


def test_a_run_leaves_weights_split_and_log(run_folder: Path) -> None:
    assert {p.name for p in run_folder.iterdir()} == {"model.safetensors", "split.json", "log.jsonl"}
    rows = [json.loads(line) for line in (run_folder / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 4
    assert 0 <= rows[-1]["val_dice"] <= 1


def test_the_same_seed_gives_the_same_weights(
    prepared: Path, tmp_path: Path, tiny_config: Any, run_folder: Path
) -> None:
    train(prepared, tmp_path / "again", tiny_config)
    first, second = (checkpoint.load(folder)[0].state_dict() for folder in (run_folder, tmp_path / "again"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    train(prepared, tmp_path / "other", changed(tiny_config, "train", seed=1))
    third = checkpoint.load(tmp_path / "other")[0].state_dict()
    assert not all(torch.equal(first[name], third[name]) for name in first)


def test_no_patient_is_in_two_parts(prepared: Path, tiny_config: Any) -> None:
    split = make_split(prepared, tiny_config)
    assert sorted(split) == ["test", "train", "val"]
    patients = [{case.rsplit("_lesion", 1)[0] for case in cases} for cases in split.values()]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 10
    assert all(patients)


def test_a_folder_with_a_run_is_not_overwritten(prepared: Path, run_folder: Path, tiny_config: Any) -> None:
    before = (run_folder / "model.safetensors").read_bytes()
    with pytest.raises(InputError, match="expected a folder without a trained model"):
        train(prepared, run_folder, tiny_config)
    assert (run_folder / "model.safetensors").read_bytes() == before


def test_a_window_other_than_prepared_is_refused(prepared: Path, tmp_path: Path, tiny_config: Any) -> None:
    with pytest.raises(InputError, match=r"data.window_hu: expected \(-1000.0, 400.0\) as the dataset was prepared"):
        train(prepared, tmp_path / "run", changed(tiny_config, "data", window_hu=(-160.0, 240.0)))
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_no_number_stops_the_run(prepared: Path, tmp_path: Path, tiny_config: Any) -> None:
    from segnet.training import loop

    class Broken(torch.nn.Module):
        def forward(self, logits: torch.Tensor, *_: Any) -> torch.Tensor:
            return logits.sum() * float("nan")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "JointLoss", lambda _w: Broken())
        with pytest.raises(FloatingPointError, match="loss: expected a finite number, got nan at step 0"):
            train(prepared, tmp_path / "run", tiny_config)
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_the_schedule_warms_up_and_ends_at_nothing() -> None:
    rates = [_rate(p, 0.1) for p in np.linspace(0, 1, 101)]
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == pytest.approx(1.0)
    assert int(np.argmax(rates)) == 10
    assert rates[-1] == pytest.approx(0.0, abs=1e-12)
    assert all(a >= b for a, b in pairwise(rates[10:]))
