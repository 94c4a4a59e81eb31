"""The command that trains: the index of the dataset is read once, whatever the number of runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from segnet.cli import app


def test_the_index_is_read_once_for_all_folds(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Path] = []
    read_bytes = Path.read_bytes

    def counted(self: Path) -> bytes:
        reads.append(self)
        return read_bytes(self)

    monkeypatch.setattr(Path, "read_bytes", counted)
    settings: dict[str, Any] = {
        "model": {"name": "unet", "base_width": 4},
        "data": {"patch_px": 32, "input_px": 32},
        "train": {"max_steps": 1, "batch_size": 2, "validations": 1, "tensorboard": False},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    arguments = ["train", "-i", prepared, "-o", tmp_path / "run", "-c", tmp_path / "config.yaml", "--folds", 2]
    result = CliRunner().invoke(app, [*map(str, arguments), "-q", "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    assert len(json.loads(result.stdout)["folds"]) == 2
    assert [path.name for path in reads].count("dataset.json") == 1
