"""Training: it learns, repeats by seed, keeps patients apart, and leaves what it says."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from lesion_case import lesion_case

from segnet.config import PrepareConfig
from segnet.dataset.batches import BatchSource
from segnet.dataset.prepare import prepare
from segnet.dataset.split import make_split
from segnet.dataset.store import Cases, load_dataset
from segnet.errors import InputError
from segnet.io.pairs import find_pairs
from segnet.models import build, checkpoint, names
from segnet.runtime.locks import locked
from segnet.training import log, loop
from segnet.training.loop import averaging, train


def changed(config: Any, section: str, **values: Any) -> Any:
    return config.model_copy(update={section: getattr(config, section).model_copy(update=values)})


def test_the_loss_falls(prepared: Path, tmp_path: Path, tiny_config: Any) -> None:
    config = changed(tiny_config, "train", max_steps=60, validations=1, learning_rate=3e-3, batch_size=4)
    losses: list[float] = []
    train(prepared, tmp_path / "run", config, progress=lambda row: losses.append(row["loss"]))
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])


def test_bfloat16_follows_float32_within_its_rounding(prepared: Path, tmp_path: Path, tiny_config: Any) -> None:
    """The first loss differs by what eight bits leave of logits near 1; weights, their averages and the scan stay float32."""
    config = changed(tiny_config, "train", validations=1)
    exact, rounded = (
        losses_of(prepared, tmp_path / str(half), changed(config, "train", bfloat16=half)) for half in (False, True)
    )
    assert 0 < abs(exact[0] - rounded[0]) < 2**-6
    weights = checkpoint.load(tmp_path / "True")[0].state_dict()
    assert {x.dtype for x in weights.values() if x.is_floating_point()} == {torch.float32}


@pytest.mark.parametrize("clock", ["wall", "processor"])
def test_minutes_are_those_of_the_clock(clock: str, prepared: Path, tmp_path: Path, tiny_config: Any) -> None:
    """Waiting counts on the wall alone."""
    config = changed(tiny_config, "train", clock=clock, validations=1)
    waited_s = 0.5 * config.train.max_steps
    result = train(prepared, tmp_path / "run", config, progress=lambda _: time.sleep(0.5))
    assert (result.elapsed_s > waited_s) == (clock == "wall")


@pytest.mark.parametrize("clock", ["wall", "processor"])
def test_a_run_takes_its_minutes_and_no_more_after_a_stop(
    clock: str, prepared: Path, tmp_path: Path, tiny_config: Any
) -> None:
    """But for a step and a validation, which may be slow on a machine that does other things too."""
    settings = {
        "max_steps": None,
        "minutes": 0.05,
        "clock": clock,
        "save_every_s": 1e-6,
        "validations": 2,
        "threads": 1,
    }
    config = changed(tiny_config, "train", **settings)

    before: list[float] = []

    def stop(row: Any) -> None:
        before.append(row["done"])
        if row["done"] > 0.4:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(prepared, tmp_path / "run", config, progress=stop)
    done: list[float] = []
    result = train(prepared, tmp_path / "run", config, resume=True, progress=lambda row: done.append(row["done"]))
    assert done[0] >= before[-2]  # of what was done at the last state
    assert 3 <= result.elapsed_s < 13


def test_validation_takes_no_more_than_its_share_of_the_minutes(
    prepared: Path, tmp_path: Path, tiny_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that takes a third of them is left for the end; of a number of steps all are made."""

    def slow(_: Any, cases: Cases, *__: Any) -> dict[str, float]:
        time.sleep(1 / 3 * len(cases))
        return {entry.case: 0.5 for entry in cases.entries}

    monkeypatch.setattr(loop, "scores", slow)
    timed = changed(tiny_config, "train", max_steps=None, minutes=0.05, validations=10)
    assert len(train(prepared, tmp_path / "timed", timed).history) == 1
    counted = changed(tiny_config, "train", max_steps=3, validations=3)
    assert len(train(prepared, tmp_path / "counted", counted).history) == 3


def test_weights_averaged_over_few_steps_are_not_those_of_the_first() -> None:
    """Of 12 numbers 0, 1, 2, ... the average lies behind the last by less than half of them."""
    average = torch.optim.swa_utils.AveragedModel(torch.nn.Linear(1, 1), multi_avg_fn=averaging(0.99), use_buffers=True)
    for number in range(12):
        model = torch.nn.Linear(1, 1)
        torch.nn.init.constant_(model.weight, number)
        average.update_parameters(model)
    assert 11 - average.module.weight.item() < 6


@pytest.mark.parametrize("name", names())
def test_every_network_trains_and_comes_back(name: str, prepared: Path, tmp_path: Path, tiny_config: Any) -> None:
    config = changed(changed(tiny_config, "train", max_steps=2, validations=1), "model", name=name)
    train(prepared, tmp_path / "run", config)
    model, loaded = checkpoint.load(tmp_path / "run")
    assert loaded.model.name == name
    logits, reconstruction = model(torch.rand(1, config.model.in_channels, 64, 64))
    assert logits.shape == (1, 2, 64, 64)
    assert reconstruction is None
    assert torch.isfinite(logits).all()


def test_a_run_leaves_weights_split_and_log(run_folder: Path) -> None:
    left = {"model.safetensors", "MODEL_CARD.md", "split.json", "log.jsonl", "tensorboard", "curves.png", "cases"}
    assert {p.name for p in run_folder.iterdir()} == left
    assert {p.name for p in (run_folder / "cases").iterdir()} == {"only.png"}
    rows = [json.loads(line) for line in (run_folder / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 4
    assert 0 <= rows[-1]["val_dice"] <= 1


def test_the_end_of_a_run_is_told_once(prepared: Path, tmp_path: Path, tiny_config: Any) -> None:
    """With the best weights on disk; the loop itself draws nothing."""
    config, told = changed(tiny_config, "train", tensorboard=False), []
    result = train(prepared, tmp_path / "run", config, on_end=told.append)
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"model.safetensors", "split.json", "log.jsonl"}
    (run,) = told
    assert run.folder == result.folder
    assert run.history == result.history
    assert set(run.dice_by_case) == {entry.case for entry in run.validation.entries}
    assert np.mean(list(run.dice_by_case.values())) == pytest.approx(result.best_dice)
    train(prepared, tmp_path / "run", config, resume=True, on_end=told.append)
    assert len(told) == 1


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
    split = make_split(load_dataset(prepared), tiny_config)
    assert sorted(split) == ["test", "train", "val"]
    patients = [{case.rsplit("_lesion", 1)[0] for case in cases} for cases in split.values()]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 10
    assert all(patients)


@pytest.mark.parametrize("split", ["stratified", "patient"])
def test_lesions_of_a_patient_stay_together(split: str, tmp_path: Path, tiny_config: Any) -> None:
    """In every part, and every fold."""
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for patient in range(9):
        for lesion in (1, 2, 3):
            for folder, array in zip(("images", "labels"), lesion_case(10 * patient + lesion), strict=True):
                file = tmp_path / folder / f"bone_{patient:05d}_lesion_{lesion:02d}.nii.gz"
                nib.Nifti1Image(array, np.eye(4)).to_filename(file)
    prepare(find_pairs(tmp_path), tmp_path / "data", workers=1)
    patient_of = {entry.case: entry.patient for entry in load_dataset(tmp_path / "data").cases}
    config = changed(tiny_config, "data", split=split)
    folded = [changed(config, "data", folds=3, fold=fold) for fold in range(3)]
    for one in [config, *folded]:
        parts = make_split(load_dataset(tmp_path / "data"), one)
        patients = [{patient_of[case] for case in cases} for cases in parts.values()]
        assert sum(map(len, patients)) == len(set.union(*patients)) == 9
        assert sorted(case for cases in parts.values() for case in cases) == sorted(patient_of)


def test_two_processes_do_not_train_in_one_folder(prepared: Path, tmp_path: Path, tiny_config: Any) -> None:
    (tmp_path / "run").mkdir()
    with locked(tmp_path / "run", "taken"), pytest.raises(InputError, match="in which nobody else trains"):
        train(prepared, tmp_path / "run", tiny_config)
    assert list((tmp_path / "run").iterdir()) == []
    assert train(prepared, tmp_path / "run", tiny_config).steps == 4


def test_a_folder_with_a_run_is_not_overwritten(prepared: Path, run_folder: Path, tiny_config: Any) -> None:
    before = (run_folder / "model.safetensors").read_bytes()
    with pytest.raises(InputError, match="expected a folder without a run, got one"):
        train(prepared, run_folder, tiny_config)
    assert (run_folder / "model.safetensors").read_bytes() == before


def test_a_window_other_than_prepared_is_refused(prepared: Path, tmp_path: Path, tiny_config: Any) -> None:
    with pytest.raises(InputError, match=r"data.window_hu: expected \(-1000.0, 400.0\) as the dataset was prepared"):
        train(prepared, tmp_path / "run", changed(tiny_config, "data", window_hu=(-160.0, 240.0)))
    assert not (tmp_path / "run").exists()


class Broken(torch.nn.Module):
    """A joint loss that is no number from its second call on."""

    def __init__(self, *_: Any) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, logits: torch.Tensor, *_: Any) -> torch.Tensor:
        self.calls += 1
        return logits.sum() * (float("nan") if self.calls > 1 else 1.0)


def test_a_loss_that_is_no_number_stops_the_run(
    prepared: Path, tmp_path: Path, tiny_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "JointLoss", Broken)
    config = changed(tiny_config, "train", validations=1)
    with pytest.raises(
        FloatingPointError,
        match=r"got nan at step 1, first in the loss itself; begin another run with a lower train\.learning_rate",
    ):
        train(prepared, tmp_path / "run", config)
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_layer_that_makes_no_numbers_is_named(
    prepared: Path, tmp_path: Path, tiny_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poisoned(config: Any) -> torch.nn.Module:
        model = build(config)
        with torch.no_grad():
            model.decoder.tail[0].weight[0, 0, 0, 0] = torch.inf  # type: ignore[index, union-attr]
        return model

    monkeypatch.setattr(loop, "build", poisoned)
    with pytest.raises(FloatingPointError, match=r"at step 0, first in decoder.tail.0;"):
        train(prepared, tmp_path / "run", tiny_config)


def test_a_gradient_that_is_no_number_names_its_parameter(
    prepared: Path, tmp_path: Path, tiny_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def steep(config: Any) -> torch.nn.Module:
        model = build(config)
        model.decoder.head.weight.register_hook(lambda gradient: gradient * torch.inf)  # type: ignore[union-attr]
        return model

    monkeypatch.setattr(loop, "build", steep)
    with pytest.raises(FloatingPointError, match=r"gradient: .* at step 0, in decoder.head.weight and 0 more"):
        train(prepared, tmp_path / "run", tiny_config)


def losses_of(prepared: Path, out: Path, config: Any) -> list[float]:
    losses: list[float] = []
    train(prepared, out, config, progress=lambda row: losses.append(row["loss"]))
    return losses


def test_gradients_of_several_batches_are_their_mean(
    prepared: Path, tmp_path: Path, tiny_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first batch twice, as one step, is a step on that batch: no batch norm and no stochastic depth tell them apart."""
    config = changed(changed(tiny_config, "train", max_steps=2, validations=1), "model", name="unet")
    once = losses_of(prepared, tmp_path / "once", config)
    draw = BatchSource.draw

    def twice(self: BatchSource, *arguments: Any) -> Any:
        self.drawn = getattr(self, "drawn", []) or [draw(self, *arguments)] * 2  # type: ignore[attr-defined]
        return self.drawn.pop()  # type: ignore[attr-defined]

    monkeypatch.setattr(BatchSource, "draw", twice)
    doubled = losses_of(prepared, tmp_path / "twice", changed(config, "train", accumulate=2))
    assert doubled == pytest.approx(once, rel=1e-5)


def test_validations_are_spread_evenly(prepared: Path, tmp_path: Path, tiny_config: Any) -> None:
    config = changed(tiny_config, "train", max_steps=12, validations=4)
    result = train(prepared, tmp_path / "run", config)
    assert [row["step"] for row in result.history] == [4, 7, 10, 12]


def test_a_run_that_no_longer_improves_stops(
    prepared: Path, tmp_path: Path, tiny_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    falling = iter([0.5, 0.6, 0.55, 0.54, 0.7])
    monkeypatch.setattr(loop, "scores", lambda _, cases, *__: {cases[0].name: next(falling)})
    config = changed(tiny_config, "train", max_steps=40, validations=40, patience=1)
    result = train(prepared, tmp_path / "run", config)
    assert [row["val_dice"] for row in result.history] == [0.5, 0.6, 0.55, 0.54]
    assert result.best_dice == 0.6


def test_folds_hold_every_patient_out_once(prepared: Path, tiny_config: Any) -> None:
    splits = [make_split(load_dataset(prepared), changed(tiny_config, "data", folds=3, fold=k)) for k in range(3)]
    everyone = sorted(entry.case for entry in load_dataset(prepared).cases)
    assert sorted(case for split in splits for case in split["test"]) == everyone
    for split in splits:
        assert sorted(case for part in split.values() for case in part) == everyone
        assert split["val"]
        assert len(split["train"]) > len(split["val"])


def test_a_split_by_slice_warns_and_keeps_slices_apart(
    prepared: Path, tmp_path: Path, tiny_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn_from: list[Any] = []

    def source(*arguments: Any, only: Any, **more: Any) -> BatchSource:
        drawn_from.append(only)
        return BatchSource(*arguments, only=only, **more)

    monkeypatch.setattr(loop, "BatchSource", source)
    config = changed(changed(tiny_config, "data", split="slice-paper"), "train", validations=1)
    with pytest.warns(UserWarning, match="nothing about new patients"):
        result = train(prepared, tmp_path / "run", config)
    split = json.loads((tmp_path / "run" / "split.json").read_text())
    every = [(case, z) for part in split.values() for case, zs in part.items() for z in zs]
    assert sorted(every) == [(e.case, z) for e in load_dataset(prepared).cases for z in range(6)]
    assert set(split["train"]) & set(split["test"])  # the leak it warns of
    assert drawn_from == [split["train"]]
    assert result.best_dice is not None


def test_only_training_slices_are_drawn(prepared: Path, tiny_config: Any) -> None:
    cases = Cases(prepared)
    only = {cases.entries[0].case: [2, 3], cases.entries[4].case: [0]}
    source = BatchSource(cases, tiny_config.data, 0, only=only)
    assert sorted([*source.sampler.lesion, *source.sampler.background]) == [(0, 2), (0, 3), (4, 0)]


def test_an_image_goes_to_the_network_as_the_dataset_was_prepared(
    pairs_folder: Path, tmp_path: Path, tiny_config: Any
) -> None:
    prepare(find_pairs(pairs_folder), tmp_path / "grey", PrepareConfig(route="paper"), workers=1)
    with pytest.raises(InputError, match=r"data\.route: expected paper"):
        train(tmp_path / "grey", tmp_path / "run", tiny_config)
    config = changed(tiny_config, "data", route="paper")
    seen = BatchSource(Cases(tmp_path / "grey"), config.data, 0).draw(8)[0]
    assert seen.max() > 0.5  # grey of 255 is 1
    assert train(tmp_path / "grey", tmp_path / "run", config).steps == 4


def test_a_deterministic_run_is_one_and_leaves_the_process_as_it_was(
    prepared: Path, tmp_path: Path, tiny_config: Any
) -> None:
    seen: list[bool] = []
    config = changed(tiny_config, "train", deterministic=True)
    train(
        prepared, tmp_path / "run", config, progress=lambda _: seen.append(torch.are_deterministic_algorithms_enabled())
    )
    assert seen == [True] * 4
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_log_tells_every_step(run_folder: Path) -> None:
    rows = [row for row in log.read(run_folder / "log.jsonl") if "val_dice" not in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(row["loss"] > 0 and row["gradient_norm"] > 0 and row["slices_per_s"] > 0 for row in rows)


def test_tensorboard_has_the_same_numbers(run_folder: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run_folder / "tensorboard"))
    events.Reload()
    shown = [event.value for event in events.Scalars("loss")]
    rows = log.read(run_folder / "log.jsonl")
    assert shown == pytest.approx([row["loss"] for row in rows if "val_dice" not in row], rel=1e-6)
    dices = [event.value for event in events.Scalars("val_dice")]
    assert dices == pytest.approx([row["val_dice"] for row in rows if "val_dice" in row], rel=1e-6)


def test_the_learning_rate_warms_up_and_falls_along_half_a_cosine(
    prepared: Path, tmp_path: Path, tiny_config: Any
) -> None:
    config = changed(tiny_config, "train", max_steps=10, warmup_fraction=0.3, validations=1, tensorboard=False)
    train(prepared, tmp_path / "run", config)
    rows = [row for row in log.read(tmp_path / "run" / log.FILE) if "val_dice" not in row]
    rates = [row["learning_rate"] / config.train.learning_rate for row in rows]
    falling = [0.5 * (1 + math.cos(math.pi * k / 7)) for k in range(7)]
    assert rates == pytest.approx([0.01, 1 / 3, 2 / 3, *falling], rel=1e-5)
