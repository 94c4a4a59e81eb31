"""What is drawn lies where it is, and reads as it should."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from segnet.errors import InputError
from segnet.io.pairs import Pair
from segnet.report import pictures
from segnet.report.overlay import PRED_RGB, TRUTH_RGB
from segnet.report.pictures import at_pixel, lesion_pictures

WINDOW_HU = (-1000.0, 400.0)
RAS = np.diag([1.0, 1.0, 5.0, 1.0])


def pixels(source: str) -> np.ndarray:
    kind, data = source.split(",")
    assert kind == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)


def amount(source: str, rgb: tuple[int, int, int]) -> int:
    """Pixels about this colour, as lossy coding leaves them."""
    return int((np.abs(pixels(source) - rgb).max(axis=2) < 40).sum())


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    """A lesion at the patient's left front (x small, y large) of slices 2 to 4, largest in 3."""
    image, mask = np.full((40, 40, 6), -800, np.int16), np.zeros((40, 40, 6), np.uint8)
    for z, half in ((2, 3), (3, 5), (4, 3)):
        mask[10 - half : 10 + half, 28 - half : 28 + half, z] = 1
    for name, array in (("image", image), ("mask", mask), ("pred", np.roll(mask, 3, axis=0))):
        nib.Nifti1Image(array, RAS).to_filename(tmp_path / f"{name}.nii.gz")
    return Pair("a", "a", tmp_path / "image.nii.gz", tmp_path / "mask.nii.gz")


def test_outlines_of_truth_and_model_are_where_they_belong(pair: Pair, tmp_path: Path) -> None:
    found = lesion_pictures(pair, {"m": tmp_path / "pred.nii.gz"}, window_hu=WINDOW_HU)
    assert amount(found.image.source, TRUTH_RGB) == amount(found.image.source, PRED_RGB) == 0
    assert amount(found.truth.source, TRUTH_RGB) > 50
    assert amount(found.truth.source, PRED_RGB) == 0
    assert min(amount(found.main["m"].source, rgb) for rgb in (TRUTH_RGB, PRED_RGB)) > 50
    assert found.where == "slice 4 of 6, largest area"
    assert "slice 3 of 6, −5.0 mm" in [p.where for p in found.slices["m"]]
    assert pixels(found.image.source).shape == (pictures.SIDE_PX, pictures.SIDE_PX, 3)


def test_a_model_without_a_mask_says_why(pair: Pair, tmp_path: Path) -> None:
    nib.Nifti1Image(np.zeros((5, 5, 5), np.uint8), RAS).to_filename(tmp_path / "other.nii.gz")
    found = lesion_pictures(pair, {"none": None, "grid": tmp_path / "other.nii.gz"}, window_hu=WINDOW_HU)
    assert found.absent["none"] == "no predicted mask was found"
    assert "shape" in found.absent["grid"]
    assert found.main == {}
    with pytest.raises(InputError):
        lesion_pictures(Pair("a", "a", tmp_path / "none.nii.gz", pair.mask), {}, window_hu=WINDOW_HU)


def test_patients_right_is_left_and_front_is_up() -> None:
    box = (0.0, 0.0, 40.0, 40.0)
    # x grows to the patient's right, y to the front; the picture's origin is its upper left
    assert at_pixel(39.5, 39.5, box, 400) == (0.0, 0.0)
    assert at_pixel(39.5, -0.5, box, 400) == (400.0, 0.0)
    assert at_pixel(-0.5, 39.5, box, 400) == (0.0, 400.0)


def test_axes_are_drawn_in_their_own_slice_only(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    real = pictures.recist

    def spy(mask: Any, spacing: Any) -> Any:
        found = real(mask, spacing)
        drawn.append(found)
        return found

    monkeypatch.setattr(pictures, "recist", spy)
    files = {"m": tmp_path / "pred.nii.gz"}
    with_axes = lesion_pictures(pair, files, window_hu=WINDOW_HU)
    assert [a.z for a in drawn] == [3, 3]
    monkeypatch.setattr(pictures, "recist", lambda mask, spacing: None)
    without = lesion_pictures(pair, files, window_hu=WINDOW_HU)
    changed = [a.source != b.source for a, b in zip(with_axes.slices["m"], without.slices["m"], strict=True)]
    assert changed == ["largest area" in p.where for p in without.slices["m"]]
    difference = np.abs(pixels(with_axes.truth.source) - pixels(without.truth.source)).max(axis=2) > 60
    # the middle of the long axis lies at the lesion's centre
    y, x = (np.mean([e[k] for e in drawn[1].long_yx]) for k in (0, 1))
    assert (y, x) == pytest.approx((27.5, 9.5), abs=0.51)
    rows, columns = np.nonzero(difference)
    assert rows.size > 50
    box = pictures.overlay.field_of_view(np.asarray(nib.load(pair.mask).dataobj).transpose(2, 1, 0) > 0, np.ones(2))
    right, down = at_pixel(y, x, box, pictures.SIDE_PX)
    assert np.hypot(columns - right, rows - down).min() < 3


def test_an_empty_truth_is_drawn_around_the_prediction(pair: Pair, tmp_path: Path) -> None:
    nib.Nifti1Image(np.zeros((40, 40, 6), np.uint8), RAS).to_filename(tmp_path / "empty.nii.gz")
    empty = Pair("a", "a", pair.image, tmp_path / "empty.nii.gz")
    found = lesion_pictures(empty, {"m": tmp_path / "pred.nii.gz"}, window_hu=WINDOW_HU)
    assert found.where == "slice 4 of 6, largest area"
    assert amount(found.main["m"].source, PRED_RGB) > 50
    nothing = lesion_pictures(empty, {"m": tmp_path / "empty.nii.gz"}, window_hu=WINDOW_HU)
    assert amount(nothing.main["m"].source, PRED_RGB) == 0
    assert nothing.main["m"].nothing
    assert not found.main["m"].nothing
