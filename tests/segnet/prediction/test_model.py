"""Several checkpoints as one: which are taken, which fit together, and that their probabilities are averaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import shaken
from torch import nn

from segnet.config import Config
from segnet.errors import InputError
from segnet.models import checkpoint
from segnet.prediction.model import load, members
from segnet.prediction.windows import segment

SMALL = {"base_width": 4, "depths": (1, 1, 1, 1), "dstate": 4}


def run(folder: Path, name: str = "hunet", data: dict[str, Any] | None = None, **model: Any) -> Path:
    """A folder with a checkpoint whose batch norms do something."""
    config = Config.model_validate(
        {"model": {"name": name, **SMALL, **model}, "data": {"patch_px": 32, "input_px": 32, **(data or {})}}
    )
    folder.mkdir(parents=True)
    checkpoint.save(shaken(name, **model), config, folder / checkpoint.FILE)
    return folder


def test_one_network_is_the_checkpoint_made_fast(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", "mamba-ahnet")
    one, by_file = load(folder), load(folder / checkpoint.FILE)
    plain, config = checkpoint.load(folder)
    assert one.config == by_file.config == config
    assert one.paths == (folder,)
    assert one.halves == ()
    left = [sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) for model in (one.networks[0], plain)]
    assert left[0] < left[1]
    x = torch.rand(1, 1, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(one.networks[0](x)[0], plain(x)[0], rtol=0, atol=1e-5)
        (half,) = load(folder, bfloat16=True).halves
        torch.testing.assert_close(half(x)[0], plain(x)[0], rtol=0, atol=0.05)


def test_probabilities_are_averaged(tmp_path: Path) -> None:
    model = load([run(tmp_path / "a"), run(tmp_path / "b", "unet"), run(tmp_path / "c", "ahnet", gate_target="skip")])
    image = np.random.default_rng(0).uniform(-1000, 400, (2, 32, 32))
    each = [segment(network, image, model.config.data) for network in model.networks]
    assert np.std(each, 0).max() > 0.05
    np.testing.assert_allclose(segment(model.networks, image, model.config.data), np.mean(each, 0), atol=1e-6)


def test_a_folder_of_folds_is_its_members_by_number(tmp_path: Path) -> None:
    folds = [run(tmp_path / "run" / f"fold-{k}") for k in (0, 2, 10, 1)]
    (tmp_path / "run" / "fold-3").mkdir()  # not trained yet
    assert members(tmp_path / "run") == [folds[0], folds[3], folds[1], folds[2]]
    other = run(tmp_path / "other")
    assert load([other, tmp_path / "run"]).paths == (other, folds[0], folds[3], folds[1], folds[2])
    run(tmp_path / "both" / "fold-0")
    (tmp_path / "both" / checkpoint.FILE).write_bytes((other / checkpoint.FILE).read_bytes())
    assert members(tmp_path / "both") == [tmp_path / "both"]


@pytest.mark.parametrize(
    ("difference", "says"),
    [
        ({"data": {"patch_px": 48}}, "expected data.patch_px 32 like {a}, got 48"),
        ({"data": {"input_px": 64}}, "expected data.input_px 32 like {a}, got 64"),
        (
            {"data": {"window_hu": (-100.0, 400.0)}},
            r"expected data.window_hu (-1000.0, 400.0) like {a}, got (-100.0, 400.0)",
        ),
        ({"data": {"route": "paper"}}, "expected data.route hu like {a}, got paper"),
        ({"in_channels": 3}, "expected model.in_channels 1 like {a}, got 3"),
        ({"classes": 3}, "expected model.classes 2 like {a}, got 3"),
        ({"data": {"patch_px": 48, "window_hu": (-100.0, 400.0)}}, "expected data.window_hu"),
    ],
)
def test_members_that_see_other_patches_are_refused(difference: dict[str, Any], says: str, tmp_path: Path) -> None:
    a, b = run(tmp_path / "a"), run(tmp_path / "b", **difference)
    with pytest.raises(InputError) as error:
        load([a, a, b])
    assert str(error.value).startswith(f"model {b}: " + says.format(a=a))
    assert "train them alike" in str(error.value)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a checkpoint or a training run's folder"):
        load([run(tmp_path / "a"), tmp_path])
    with pytest.raises(InputError, match="model: expected at least one checkpoint, got none"):
        load([])
