"""A run that is killed and resumed is, bit for bit, the one that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file

from segnet.config import AugmentConfig
from segnet.dataset.prepare import prepare
from segnet.errors import InputError
from segnet.io.pairs import find_pairs
from segnet.models import checkpoint
from segnet.report.run import draw_run
from segnet.training import log, loop, state

STEPS = 12
train = partial(loop.train, on_end=draw_run)  # as the command line does


class Killed(Exception):
    pass


def changed(config: Any, section: str, **values: Any) -> Any:
    return config.model_copy(update={section: getattr(config, section).model_copy(update=values)})


@pytest.fixture(scope="module")
def config() -> Any:
    """A network with all that has a state: batch norms, stochastic depth, two decoders."""
    from segnet.config import Config

    return Config.model_validate(
        {
            "model": {"name": "mamba-ahnet-r", "base_width": 4, "depths": (1, 1, 1, 1), "dstate": 4},
            "data": {"patch_px": 32, "input_px": 32},
            "train": {
                "max_steps": STEPS,
                "batch_size": 2,
                "validations": 4,
                "save_every_s": 1e-6,
                "tensorboard": False,
            },
        }
    )


def killed_at(step: int) -> Callable[[dict[str, Any]], None]:
    """A progress callback that ends the run at a step."""

    def stop(row: dict[str, Any]) -> None:
        if row["step"] == step:
            raise Killed

    return stop


@pytest.fixture(scope="module")
def unbroken(config: Any, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "run"
    train(prepared, out, config)
    return out


def same(first: Path, second: Path) -> None:
    """Weights and losses of two runs are equal bit for bit, and nothing of the run's state is left behind."""
    a, b = (checkpoint.load(folder)[0].state_dict() for folder in (first, second))
    assert all(torch.equal(a[name], b[name]) for name in a)
    times = {"elapsed_s", "slices_per_s"}
    rows = [
        [{k: v for k, v in row.items() if k not in times} for row in log.read(f / log.FILE)] for f in (first, second)
    ]
    assert rows[0] == rows[1]
    assert len([row for row in rows[0] if "val_dice" not in row]) == STEPS
    assert sorted(p.name for p in first.iterdir()) == sorted(p.name for p in second.iterdir())


@pytest.mark.parametrize("at", [1, 2, 7, STEPS])
def test_a_run_stopped_at_a_step_goes_on_as_if_it_had_not(
    at: int, config: Any, prepared: Path, tmp_path: Path, unbroken: Path
) -> None:
    stop = killed_at(at)
    with pytest.raises(Killed):
        train(prepared, tmp_path / "run", config, progress=stop)
    torch.manual_seed(99)
    train(prepared, tmp_path / "run", config, resume=True)
    same(unbroken, tmp_path / "run")


def test_a_process_killed_at_any_moment_goes_on_as_if_it_had_not(
    config: Any, prepared: Path, tmp_path: Path, unbroken: Path
) -> None:
    out, settings = tmp_path / "run", tmp_path / "config.yaml"
    settings.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-m", "segnet", "train", "-i", str(prepared), "-o", str(out), "-c", str(settings)]
    command += ["--resume", "-q"]

    def logged() -> str:
        return (out / log.FILE).read_text() if (out / log.FILE).exists() else ""

    kills = 0
    for wait_s in (0.0, 0.1):
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE)
        before, until = logged(), time.monotonic() + 120
        while logged() == before and process.poll() is None and time.monotonic() < until:
            time.sleep(0.005)
        time.sleep(wait_s)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += process.returncode == -signal.SIGKILL
    assert kills >= 1
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    same(unbroken, out)


def test_a_run_killed_at_its_first_validation_is_not_taken_for_a_finished_one(
    config: Any, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where its weights are written and nothing else is."""
    config = changed(config, "train", save_every_s=3600, validations=STEPS)
    train(prepared, tmp_path / "unbroken", config)
    write = checkpoint.save

    def killed(*arguments: Any) -> None:
        write(*arguments)
        raise Killed

    monkeypatch.setattr(checkpoint, "save", killed)
    with pytest.raises(Killed):
        train(prepared, tmp_path / "run", config)
    assert (tmp_path / "run" / checkpoint.FILE).exists()
    monkeypatch.setattr(checkpoint, "save", write)
    train(prepared, tmp_path / "run", config, resume=True)
    same(tmp_path / "unbroken", tmp_path / "run")


def test_a_run_is_not_begun_over_another(config: Any, prepared: Path, tmp_path: Path, unbroken: Path) -> None:
    def stop(_: dict[str, Any]) -> None:
        raise Killed

    with pytest.raises(Killed):
        train(prepared, tmp_path / "run", changed(config, "train", validations=STEPS), progress=stop)
    # no step was saved yet
    train(prepared, tmp_path / "run", config)
    with pytest.raises(InputError, match="expected a folder without a run, got one"):
        train(prepared, tmp_path / "run", config)


def test_another_configuration_is_not_resumed(config: Any, prepared: Path, tmp_path: Path, unbroken: Path) -> None:
    stop = killed_at(3)
    with pytest.raises(Killed):
        train(prepared, tmp_path / "run", config, progress=stop)
    assert (tmp_path / "run" / state.FILE).exists()
    says = "expected the configuration the run began with, train.batch_size = 2, got 3; give the same flags"
    with pytest.raises(InputError, match=says):
        train(prepared, tmp_path / "run", changed(config, "train", batch_size=3), resume=True)
    augmented = "the configuration the run began with, augment.fade_probability = 0.4, got 0.9"
    with pytest.raises(InputError, match=augmented):
        train(prepared, tmp_path / "run", changed(config, "augment", fade_probability=0.9), resume=True)
    with pytest.raises(InputError, match="got an unfinished one: resume it, or choose another folder"):
        train(prepared, tmp_path / "run", config)
    with pytest.raises(InputError, match=says):
        train(prepared, unbroken, changed(config, "train", batch_size=3), resume=True)


def test_a_run_does_not_go_on_with_other_patients(
    config: Any, pairs_folder: Path, prepared: Path, tmp_path: Path
) -> None:
    """Where the dataset has changed since, test patients might be trained on."""
    with pytest.raises(Killed):
        train(prepared, tmp_path / "run", config, progress=killed_at(3))
    prepare(find_pairs(pairs_folder)[1:], tmp_path / "fewer")
    with pytest.raises(InputError, match="expected the split that the run began with"):
        train(tmp_path / "fewer", tmp_path / "run", config, resume=True)


def test_a_finished_run_is_left_as_it_is(config: Any, prepared: Path, unbroken: Path) -> None:
    before = {p.name: p.stat().st_mtime_ns for p in unbroken.iterdir()}
    result = train(prepared, unbroken, config, resume=True)
    assert result.steps == STEPS
    assert len(result.history) == 4
    assert result.best_dice == max(row["val_dice"] for row in result.history)
    assert {p.name: p.stat().st_mtime_ns for p in unbroken.iterdir()} == before


def test_a_truncated_state_is_refused(config: Any, prepared: Path, tmp_path: Path) -> None:
    stop = killed_at(3)
    with pytest.raises(Killed):
        train(prepared, tmp_path / "run", config, progress=stop)
    file = tmp_path / "run" / state.FILE
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(
        InputError, match=r"state .*: expected a training state, got .*; remove the folder to start anew"
    ):
        train(prepared, tmp_path / "run", config, resume=True)


def test_half_a_line_of_the_log_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / log.FILE).write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert log.read(tmp_path / log.FILE) == [{"step": 1}, {"step": 2}]
    log.Log(tmp_path, kept=1, after=1, board=False).close()
    assert json.loads((tmp_path / log.FILE).read_text()) == {"step": 1}


def test_a_failed_write_leaves_the_old_state(
    config: Any, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = killed_at(3)
    with pytest.raises(Killed):
        train(prepared, tmp_path / "run", config, progress=stop)
    before = (tmp_path / "run" / state.FILE).read_bytes()

    def fails(_tensors: Any, path: Path, metadata: Any = None) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(state, "save_file", fails)
    with pytest.raises(OSError, match="disk full"):
        train(prepared, tmp_path / "run", config, resume=True)
    assert (tmp_path / "run" / state.FILE).read_bytes() == before


def test_a_run_that_began_before_there_was_a_section_for_augmentation_goes_on(
    config: Any, prepared: Path, tmp_path: Path, unbroken: Path
) -> None:
    stop = killed_at(3)
    with pytest.raises(Killed):
        train(prepared, tmp_path / "run", config, progress=stop)
    file = tmp_path / "run" / state.FILE
    with safe_open(file, framework="pt") as opened:
        metadata, tensors = opened.metadata(), {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    old = json.loads(metadata["config"])
    old["data"]["fade_fraction"] = old.pop("augment")["fade_probability"]
    save_file(tensors, file, {**metadata, "config": json.dumps(old)})
    train(prepared, tmp_path / "run", config, resume=True)
    same(unbroken, tmp_path / "run")


def test_strong_augmentation_resumes_to_the_bit(config: Any, prepared: Path, tmp_path: Path) -> None:
    stop = killed_at(5)
    strong = config.model_copy(update={"augment": AugmentConfig.model_validate({"preset": "strong"})})
    strong = changed(strong, "data", balance=1.0, beside_fraction=0.5)
    train(prepared, tmp_path / "whole", strong)
    with pytest.raises(Killed):
        train(prepared, tmp_path / "run", strong, progress=stop)
    train(prepared, tmp_path / "run", strong, resume=True)
    same(tmp_path / "whole", tmp_path / "run")
