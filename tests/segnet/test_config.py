"""Defaults, file, environment, flags: in this order."""

from __future__ import annotations

from pathlib import Path

import pytest

from segnet.config import Config, load_config
from segnet.errors import InputError


def test_later_sources_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("train: {minutes: 3, batch_size: 2, seed: 5}\nmodel: {name: mamba-ahnet-r}\n")
    monkeypatch.setenv("SEGNET_TRAIN__BATCH_SIZE", "4")
    monkeypatch.setenv("SEGNET_TRAIN__SEED", "6")
    config = load_config(file, {"train": {"seed": 7, "minutes": None}})
    assert (config.train.minutes, config.train.batch_size, config.train.seed) == (3, 4, 7)
    assert config.model.name == "mamba-ahnet-r"
    assert config.data == Config().data


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("train: {minuets: 3}", r"config: train.minuets: Extra inputs"),
        ("train: {minutes: -1}", r"config: train.minutes: Input should be greater than 0, got -1"),
        ("data: {window_hu: [400, -1000]}", "expected low < high, got 400"),
        ("data: {input_px: 100}", "multiple of 32"),
        ("- 1", "expected sections model, data, augment, train, got list"),
        ("{", "expected a YAML file"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=says):
        load_config(file)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="FileNotFoundError"):
        load_config(tmp_path / "none.yaml")
