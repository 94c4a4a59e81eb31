"""Batches around clicks: click in the lesion, masks of one lesion, the same for one process and for several."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from segnet.config import AugmentConfig, DataConfig, FieldsConfig
from segnet.dataset.clicked import ClickedSource
from segnet.dataset.lesion_voxels import LesionVoxels
from segnet.dataset.prepare import prepare
from segnet.dataset.store import Cases
from segnet.io.pairs import find_pairs

FIELDS = FieldsConfig(sides_mm=(20.0, 40.0), offsets_mm=(-2.0, 0.0, 2.0))
CONFIG = DataConfig(fields=FIELDS, input_px=32, click_fraction=1.0, lesion_fraction=1.0)
STILL = AugmentConfig(
    flip_probability=0,
    quarter_turns=False,
    rotation_rad=0,
    scale_log=0,
    fade_probability=0,
    gamma_log=0,
    contrast=0,
    brightness=0,
    noise_sd=0,
)


def test_batches_follow_the_seed_and_their_parts(prepared: Path) -> None:
    cases = Cases(prepared)
    whole, again = (ClickedSource(cases, CONFIG, 3).draw(6) for _ in range(2))
    parts = [ClickedSource(cases, CONFIG, 3).draw(6, own) for own in (slice(0, 3), slice(3, 6))]
    for first, second, *of_parts in zip(whole, again, *parts, strict=True):
        assert torch.equal(first, second)
        torch.testing.assert_close(torch.cat(of_parts), first, rtol=0, atol=1e-6)


def test_channels(prepared: Path) -> None:
    inputs, masks = ClickedSource(Cases(prepared), CONFIG, 0).draw(4)
    assert inputs.shape == (4, 3 + 3, 32, 32)
    assert masks.shape == (4, 32, 32)
    assert inputs.min() >= 0
    assert inputs.max() <= 1
    assert set(masks.unique().tolist()) <= {0.0, 1.0}


def test_the_click_lies_in_the_lesion(prepared: Path) -> None:
    """In the slice of the click the narrow map peaks on the lesion; elsewhere it is weaker by the distance along z."""
    source = ClickedSource(Cases(prepared), CONFIG, 1, augment=STILL)
    found = 0
    for _ in range(20):
        inputs, masks = source.draw(4)
        for k in range(4):
            near, lesion = inputs[k, -2], masks[k] > 0
            if near.max() > 0.97:
                found += 1
                at = int(near.argmax())
                y, x = at // 32, at % 32
                assert lesion[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3].any()
    assert found > 5


def test_without_clicks_the_maps_are_black(prepared: Path) -> None:
    config = CONFIG.model_copy(update={"click_fraction": 0.0})
    inputs, masks = ClickedSource(Cases(prepared), config, 0).draw(8)
    assert inputs[:, -2:].abs().max() == 0
    assert masks.any()


def test_slices_beyond_the_lesion(prepared: Path) -> None:
    config = CONFIG.model_copy(update={"lesion_fraction": 0.0})
    _, masks = ClickedSource(Cases(prepared), config, 0).draw(24)
    assert (masks.flatten(1).sum(1) == 0).any()


def test_the_soft_tissue_channel_is_a_window_of_the_middle_slice(prepared: Path) -> None:
    inputs, _ = ClickedSource(Cases(prepared), CONFIG, 0).draw(4)
    hu = inputs[:, 1] * 1400 - 1000
    torch.testing.assert_close(inputs[:, 3], ((hu + 160) / 400).clamp(0, 1), rtol=0, atol=1e-5)


def test_lesions_of_a_mask() -> None:
    mask = np.zeros((4, 6, 6), np.uint8)
    mask[0, 1, 1] = mask[1, 2, 2] = 1  # one by a corner
    mask[3, 4, 4:] = 1
    lesions = LesionVoxels(np.argwhere(mask).astype(np.uint16))
    assert len(lesions.by_lesion) == 2
    every = slice(0, 6)
    for z in range(4):
        plane = lesions.plane(z, None, every, every)
        assert np.array_equal(np.zeros((6, 6)) if plane is None else plane, mask[z])
    part = lesions.plane(3, 1, slice(4, 6), slice(3, 5))
    assert part is not None
    assert part.tolist() == [[0, 1], [0, 0]]
    assert lesions.plane(3, 0, every, every) is None
    assert lesions.near((3, 2, 5), np.array([0, 2, 0]))
    assert not lesions.near((3, 1, 5), np.array([0, 2, 0]))
    assert lesions.middles[1].tolist() == [3, 4, 4.5]
    assert [end.tolist() for end in lesions.boxes[0]] == [[0, 1, 1], [1, 2, 2]]


def test_no_lesion_is_refused(prepared: Path) -> None:
    with pytest.raises(ValueError, match="expected"):
        ClickedSource(Cases(prepared, []), CONFIG, 0)


def _volume(shape: tuple[int, int, int], lesion: tuple[slice, slice, slice], hu: int) -> tuple[np.ndarray, np.ndarray]:
    """A lesion in lung of even grey, (X, Y, Z)."""
    mask = np.zeros(shape, np.uint8)
    mask[lesion] = 1
    return (-850 + (hu + 850) * mask.astype(np.int16)).astype(np.int16), mask


def test_a_pasted_lesion_keeps_its_grey_and_its_mask(write_nifti: Callable[..., Path], tmp_path: Path) -> None:
    """A crop without surroundings gives its lesion to a volume with them: what is marked is as bright as the donor's lesion."""
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    donor = _volume((24, 24, 6), (slice(8, 16), slice(8, 16), slice(0, 6)), 200)
    host = _volume((90, 90, 60), (slice(4, 8), slice(4, 8), slice(28, 32)), -300)
    for name, (image, mask) in (("donor_lesion_01", donor), ("host_lesion_01", host)):
        write_nifti(tmp_path / "images" / f"{name}.nii.gz", image, affine)
        write_nifti(tmp_path / "labels" / f"{name}.nii.gz", mask, affine)
    prepare(find_pairs(tmp_path), tmp_path / "prepared", workers=1)
    config = CONFIG.model_copy(update={"fields": FieldsConfig(sides_mm=(40.0, 80.0), offsets_mm=(-2.0, 0.0, 2.0))})
    source = ClickedSource(
        Cases(tmp_path / "prepared"), config, 0, augment=STILL.model_copy(update={"paste_probability": 1.0})
    )
    bright = 0
    for _ in range(8):
        inputs, masks = source.draw(8)
        for image, mask in zip(inputs[:, 1], masks, strict=True):
            grey = image * 1400 - 1000
            if mask.sum() > 20 and grey[mask > 0].median() > 100:  # the donor's, not the host's own
                bright += 1
                assert grey[mask > 0].median() == pytest.approx(200, abs=5)
                if image.min() > 0.05:  # all of the field of view lies in the host, which is larger than the donor
                    assert grey[mask == 0].median() == pytest.approx(-850, abs=5)
    assert bright > 10
