"""Defaults, file, environment, flags: in this order."""

from __future__ import annotations

from pathlib import Path

import pytest

from segnet.config import AUGMENT_PRESETS, AugmentConfig, Config, load_config
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
        ("augment: {preset: weak}", r"config: augment.preset: Input should be 'default' or 'strong', got 'weak'"),
        (
            "augment: {fade_probability: 1.5}",
            "config: augment.fade_probability: Input should be less than or equal to 1",
        ),
        ("augment: {elastic_px: 6}", r"elastic_px: expected less than a third of elastic_spacing_px, got 6.0"),
        ("augment: {agent_band_hu: [200, 0]}", r"agent_band_hu: expected low < high, got 200.0 0.0"),
        ("augment: {agent_hu: 100}", "config: augment.agent_hu: Input should be less than 100"),
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


def test_a_preset_gives_what_is_not_given_itself(tmp_path: Path) -> None:
    strong = AUGMENT_PRESETS["strong"]
    assert strong["noise_sd"] != AugmentConfig().noise_sd
    given = AugmentConfig.model_validate({"preset": "strong", "noise_sd": 0.5})
    assert given.noise_sd == 0.5
    assert given.elastic_probability == strong["elastic_probability"]
    assert given.rotation_rad == AugmentConfig().rotation_rad
    assert AugmentConfig.model_validate_json(given.model_dump_json()) == given


def test_a_preset_named_later_takes_the_place_of_the_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole configuration as `segnet info --show-config` prints it names every field, of which the preset's would be none."""
    file = tmp_path / "c.yaml"
    file.write_text(Config().model_dump_json())
    assert load_config(file, {"augment": {"preset": None}}) == Config()
    assert load_config(file, {"augment": {"preset": "strong"}}).augment == AugmentConfig.model_validate(
        {"preset": "strong"}
    )
    monkeypatch.setenv("SEGNET_AUGMENT__PRESET", "strong")
    monkeypatch.setenv("SEGNET_AUGMENT__NOISE_SD", "0.5")
    augment = load_config(file, {"augment": {"blur_px": 2.0}}).augment
    assert (augment.preset, augment.noise_sd, augment.blur_px) == ("strong", 0.5, 2.0)


def test_fading_is_found_where_it_was_of_the_data(tmp_path: Path) -> None:
    """Files and checkpoints of old, which have no section for augmentation either."""
    old = Config().model_dump(mode="json")
    del old["augment"]
    assert Config.model_validate(old) == Config()
    old["data"]["fade_fraction"] = 0.1
    found = Config.model_validate(old)
    assert found.augment == AugmentConfig(fade_probability=0.1)
    assert found.data == Config().data
    both = Config.model_validate({"data": {"fade_fraction": 0.1}, "augment": {"fade_probability": 0.7}})
    assert both.augment.fade_probability == 0.7
