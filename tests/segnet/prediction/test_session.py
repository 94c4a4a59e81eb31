"""A session equals one call for each click, bit for bit, and runs the network for new slices alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import Threshold
from torch import nn

import segnet
from segnet.config import Config
from segnet.errors import InputError
from segnet.io.volumes import read_image
from segnet.prediction import session
from segnet.prediction.model import Model
from segnet.prediction.predict import Prediction

TOLD = Config.model_validate({"data": {"fields": {}, "input_px": 32}})
PLAIN = Config.model_validate({"data": {"patch_px": 32, "input_px": 32}})
SPACING = (2.0, 0.9, 0.9)
CLICK = (13, 45, 50)


class Brightness(nn.Module):
    """Lesion as far as the middle slice is bright; counts the slices it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.slices = 0

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        self.slices += len(x)
        logit = (x[:, 2:3] - 0.5) * 10
        return torch.cat([-logit, logit], 1), None


def ball() -> np.ndarray:
    """HU of a ball with a wide rim: a lower threshold gives a larger mask."""
    z, y, x = np.mgrid[:26, :90, :100]
    distance = np.sqrt(((z - 13) * 2) ** 2 + ((y - 45) * 0.9) ** 2 + ((x - 50) * 0.9) ** 2)
    noise = np.random.default_rng(0).normal(0, 15, distance.shape)
    return (-900 + 1100 / (1 + np.exp((distance - 9) / 1.5)) + noise).astype(np.float32)


def same(one: Prediction, other: Prediction) -> None:
    assert one.mask.any()
    assert np.array_equal(one.mask, other.mask)
    assert np.array_equal(one.probability, other.probability)
    assert one.voi_zyx == other.voi_zyx
    assert one.as_dict() == other.as_dict()


@pytest.mark.parametrize("bfloat16", [False, True])
def test_clicks_thresholds_and_views_equal_single_calls(bfloat16: bool) -> None:
    model = Model.of(Brightness(), TOLD, halves=Brightness() if bfloat16 else ())
    opened = model.open(ball(), spacing_mm=SPACING)
    assert opened.volume.array_zyx.shape == (26, 90, 100)
    for click, threshold, tta in [
        (CLICK, 0.5, False),
        (CLICK, 0.8, False),
        (CLICK, 0.2, False),
        (CLICK, 0.5, True),
        ((12, 44, 52), 0.5, False),
        (CLICK, 0.5, False),
    ]:
        alone = model.predict(ball(), spacing_mm=SPACING, click=click, threshold=threshold, tta=tta)
        same(opened.click(click, threshold=threshold, tta=tta), alone)


def test_another_threshold_runs_no_network_on_slices_already_segmented() -> None:
    network = Brightness()
    opened = Model.of(network, TOLD).open(ball(), spacing_mm=SPACING)
    opened.click(CLICK, threshold=0.5)
    first = network.slices
    assert first > 0
    for threshold in (0.6, 0.5, 0.55):
        opened.click(CLICK, threshold=threshold)
    assert network.slices == first
    opened.click((12, 45, 50))
    assert network.slices > first


def test_clicks_of_long_ago_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "KEPT", 2)
    network = Brightness()
    opened = Model.of(network, TOLD).open(ball(), spacing_mm=SPACING)
    for click in (CLICK, (12, 45, 50), CLICK, (14, 45, 50)):
        opened.click(click)
    kept = network.slices
    opened.click(CLICK)
    assert network.slices == kept
    opened.click((12, 45, 50))
    assert network.slices > kept


def test_networks_that_are_not_told_the_click_work_too() -> None:
    model = Model.of(Threshold(), PLAIN)
    opened = model.open(ball(), spacing_mm=SPACING)
    for threshold in (0.5, 0.9):
        same(
            opened.click(CLICK, threshold=threshold),
            model.predict(ball(), spacing_mm=SPACING, click=CLICK, threshold=threshold),
        )


def test_an_image_is_read_once_and_clicked_in_its_own_axes(
    tmp_path: Path, write_nifti: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_nifti(tmp_path / "scan.nii.gz", ball().astype(np.int16).transpose(2, 1, 0))
    model = Model.of(Brightness(), TOLD)
    opened = model.open(path)
    wanted = model.predict(path, click=(50, 45, 13))
    ras = (opened.volume.source_affine @ (50, 45, 13, 1))[:3]
    path.unlink()
    same(opened.click((50, 45, 13)), wanted)
    same(opened.click((ras[0], ras[1], ras[2]), "ras"), wanted)
    same(opened.click("centre"), opened.click((50, 45, 13)))
    with pytest.raises(InputError, match="click: expected a point inside the image"):
        opened.click((500, 45, 13))
    in_memory = model.open(ball(), spacing_mm=SPACING)
    with pytest.raises(InputError, match="click_space: expected voxel for an array, got ras"):
        in_memory.click(CLICK, "ras")
    with pytest.raises(InputError, match="spacing_mm: expected three lengths for an array"):
        model.open(ball())


def test_the_packages_weights_give_the_same_in_a_session() -> None:
    model = segnet.load()
    opened = model.open("example")
    for threshold in (0.5, 0.3):
        one, other = (
            opened.click("centre", threshold=threshold),
            model.predict("example", click="centre", threshold=threshold),
        )
        assert np.array_equal(one.probability, other.probability)
        assert np.array_equal(one.mask, other.mask)
    assert read_image(opened.volume.path).array.shape == opened.volume.array.shape
