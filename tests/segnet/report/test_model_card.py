"""A model card says what the run's files say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from segnet.errors import InputError
from segnet.report.model_card import model_card
from segnet.training import log


def test_every_number_is_of_the_runs_files(run_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(run_folder, run)
    rows = [
        {"step": 1, "elapsed_s": 30.0, "loss": 1.0},
        {"step": 1, "loss": 1.0, "val_dice": 0.25},
        {"step": 2, "elapsed_s": 90.0, "loss": 1.0},
        {"step": 2, "loss": 1.0, "val_dice": 0.75},
        {"step": 3, "elapsed_s": 150.0, "loss": 1.0},
        {"step": 3, "loss": 1.0, "val_dice": 0.5},
    ]
    (run / log.FILE).write_text("".join(json.dumps(row) + "\n" for row in rows))
    split = {"train": ["a_lesion_01", "a_lesion_02", "b_lesion_01"], "val": ["c"], "test": ["d", "e"]}
    (run / "split.json").write_text(json.dumps(split))
    text = model_card(run, licence="CC BY 4.0")
    assert text.startswith("# mamba-ahnet\n")
    assert "- training: 3 lesions of 2 patients" in text
    assert "- test, never seen in training: 2 lesions of 2 patients" in text
    assert "- 3 steps in 2.5 minutes" in text
    assert "Dice per lesion 0.750, without a click, at step 2, the best of 3 validations" in text
    assert "32 x 32 pixels of the image, resampled to 32 x 32; -1000 to 400 HU" in text
    assert text.endswith("## Licence\n\n- CC BY 4.0\n")


def test_what_the_files_do_not_say_is_unknown(run_folder: Path, tmp_path: Path) -> None:
    shutil.copy(run_folder / "model.safetensors", tmp_path)
    text = model_card(tmp_path)
    assert "unknown: the run has no split.json" in text
    assert "steps and time unknown" in text
    assert "none stated" in text
    (tmp_path / "split.json").write_text('{"train": []}')
    with pytest.raises(InputError, match=r"split .*: expected cases of train, val and test"):
        model_card(tmp_path)
    with pytest.raises(InputError, match="expected a checkpoint"):
        model_card(tmp_path / "none")
