"""Simulated clicks: where they fall, that cutting and putting back are inverse, and the score of segmenters that are known."""

from __future__ import annotations

import math
from itertools import combinations, count
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from networks import Threshold

from segnet import metrics
from segnet.config import Config, PrepareConfig
from segnet.dataset.prepare import prepare
from segnet.errors import InputError
from segnet.evaluation.click_score import VOI_ZYX, challenge_score, click_positions, cut_voi, network, put_back
from segnet.evaluation.evaluate import truths_of
from segnet.evaluation.sources import Truth
from segnet.io.pairs import Pair, find_pairs
from segnet.prediction.model import Model

SPACING = (2.5, 0.8, 0.8)
VOI = (8, 16, 16)
AFFINE = np.diag([0.8, 0.8, 2.5, 1.0])


def blob(shape: tuple[int, int, int] = (10, 24, 26)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[3:7, 8:15, 9:19] = True
    mask[3:7, 8:12, 9:14] = False  # bent, so that the centre of mass need not be inside
    return mask


@pytest.fixture
def cases(tmp_path: Path) -> list[Truth]:
    """Three lesions of two patients; the image holds 100 HU where the mask is, else -500."""
    pairs = []
    for case, shape in (
        ("a_1_lesion_01", (10, 24, 26)),
        ("a_1_lesion_02", (9, 30, 26)),
        ("b_2_lesion_01", (12, 24, 40)),
    ):
        mask = blob(shape)
        for kind, array in (("mask", mask), ("ct", np.where(mask, 100, -500))):
            nib.Nifti1Image(array.transpose(2, 1, 0).astype(np.int16), AFFINE).to_filename(
                tmp_path / f"{case}_{kind}.nii.gz"
            )
        pairs.append(Pair(case, case[:3], tmp_path / f"{case}_ct.nii.gz", tmp_path / f"{case}_mask.nii.gz"))
    return truths_of(pairs)


def test_clicks_lie_in_the_lesion_and_are_a_cases_own() -> None:
    mask = blob()
    clicks = click_positions(mask, SPACING, 6, case="x")
    assert all(mask[click] for click in clicks)
    assert len(set(clicks)) == 6
    assert click_positions(mask, SPACING, 6, case="x") == clicks
    assert click_positions(mask, SPACING, 3, case="x")[0] == clicks[0]
    assert click_positions(mask, SPACING, 6, case="y")[1:] != clicks[1:]
    assert click_positions(mask, SPACING, 6, case="x", seed=1)[1:] != clicks[1:]
    voxels = np.argwhere(mask)
    away = np.linalg.norm((voxels - voxels.mean(axis=0)) * SPACING, axis=1)
    assert np.linalg.norm((np.array(clicks[0]) - voxels.mean(axis=0)) * SPACING) == pytest.approx(away.min())
    single = np.zeros((2, 2, 2), bool)
    single[1, 0, 1] = True
    assert click_positions(single, SPACING, 3) == [(1, 0, 1)] * 3


def test_the_first_click_of_a_challenge_volume_is_its_middle() -> None:
    mask = np.zeros(VOI_ZYX, bool)
    mask[60:80, 120:140, 100:140] = True
    assert click_positions(mask, SPACING, 2)[0] == (64, 128, 128)
    mask[64, 128, 128] = False
    assert click_positions(mask, SPACING, 2)[0] != (64, 128, 128)


@pytest.mark.parametrize("click", [(0, 0, 0), (5, 12, 13), (9, 23, 25), (2, 20, 1)])
def test_cutting_and_putting_back(click: tuple[int, int, int]) -> None:
    image = np.random.default_rng(0).normal(0, 100, (10, 24, 26)).astype(np.float32)
    voi = cut_voi(image, click, VOI)
    assert voi.shape == VOI
    assert voi[4, 8, 8] == image[click]
    reached = put_back(np.ones(VOI, bool), click, image.shape)
    assert np.count_nonzero(voi != -1000.0) == np.count_nonzero(reached)
    # what is above a threshold in the volume lies where it is above it in the image
    assert np.array_equal(put_back(voi > 50, click, image.shape), (image > 50) & reached)


def consistency_of(masks: list[np.ndarray]) -> float:
    """Mean Dice of all pairs; two empty masks agree on nothing."""
    return float(np.mean([metrics.dice(a, b) if a.any() or b.any() else 0.0 for a, b in combinations(masks, 2)]))


def test_a_click_that_finds_nothing_agrees_with_no_other(cases: list[Truth]) -> None:
    """Two clicks of three find all: one pair of three agrees."""
    calls = count()
    found = challenge_score(
        cases, lambda voi, spacing, click: (voi > 0) & (next(calls) % 3 < 2), clicks=3, voi=(40, 80, 80)
    )
    assert found["consistency"] == pytest.approx(1 / 3)


def test_who_finds_all_and_who_finds_nothing(cases: list[Truth]) -> None:
    large = (40, 80, 80)  # every lesion is seen whole from every click
    perfect = challenge_score(cases, lambda voi, spacing, click: voi > 0, clicks=3, voi=large)
    assert (perfect["score"], perfect["dice"], perfect["consistency"]) == pytest.approx((1.0, 1.0, 1.0), rel=1e-12)
    assert (perfect["n_lesions"], perfect["n_patients"], perfect["clicks"]) == (3, 2, 3)
    assert perfect["ci95_lo"] == pytest.approx(1.0)
    nothing = challenge_score(cases, lambda voi, spacing, click: np.zeros(voi.shape, bool), clicks=3, voi=large)
    assert [nothing[k] for k in ("score", "dice", "long_axis_error", "short_axis_error", "consistency")] == [
        0,
        0,
        1,
        1,
        0,
    ]


def test_a_segmenter_that_marks_a_cube_at_the_click(cases: list[Truth]) -> None:
    """Its masks are as far apart as its clicks; every part of the score is computed here a second time."""

    def cube(voi: np.ndarray, spacing: tuple[float, float, float], click: tuple[int, int, int]) -> np.ndarray:
        assert spacing == pytest.approx(SPACING)
        assert voi[click] > 0
        out = np.zeros(voi.shape, bool)
        out[tuple(slice(c - 2, c + 3) for c in click)] = True
        return out

    found = challenge_score(cases, cube, clicks=4, seed=5, voi=VOI)
    for truth, row in zip(cases, found["lesions"], strict=True):
        mask = truth.load().mask
        masks = []
        for click in row["clicks_zyx"]:
            cubes = np.zeros(mask.shape, bool)
            cubes[tuple(slice(max(c - 2, 0), c + 3) for c in click)] = True
            masks.append(cubes)
        assert row["consistency"] == pytest.approx(consistency_of(masks), rel=1e-12)
        assert row["dice"] == pytest.approx(metrics.dice(masks[0], mask), rel=1e-12)
        axes = [metrics.recist_axes_mm(m, SPACING) for m in (masks[0], mask)]
        assert row["long_axis_error"] == pytest.approx(metrics.axis_error(axes[0][0], axes[1][0]), rel=1e-5)
    means = {k: np.mean([r[k] for r in found["lesions"]]) for k in ("dice", "consistency")}
    assert found["dice"] == pytest.approx(means["dice"])
    expected = metrics.uls23_score(*(found[k] for k in ("dice", "long_axis_error", "short_axis_error", "consistency")))
    assert found["score"] == pytest.approx(expected, rel=1e-12)
    assert found["ci95_lo"] < found["score"] < found["ci95_hi"]


def test_bad_images_count_as_nothing_found_and_are_listed(cases: list[Truth]) -> None:
    assert cases[1].image is not None
    cases[1].image.write_bytes(b"no image")
    found = challenge_score(cases, lambda voi, spacing, click: voi > 0, clicks=2, voi=(40, 80, 80))
    assert [u["case"] for u in found["unreadable"]] == ["a_1_lesion_02"]
    assert found["score"] == pytest.approx(2 / 3)
    for truth in cases:
        assert truth.image is not None
        truth.image.write_bytes(b"no image")
    with pytest.raises(InputError):
        challenge_score(cases, lambda voi, spacing, click: voi > 0, clicks=2, voi=VOI)
    with pytest.raises(InputError, match="clicks: expected at least 2 in each lesion, got 1"):
        challenge_score(cases, lambda voi, spacing, click: voi > 0, clicks=1, voi=VOI)


def test_conventions_say_where_the_first_click_is_and_how_axes_differ(cases: list[Truth]) -> None:
    told = challenge_score(cases, lambda voi, spacing, click: voi > 0, clicks=2, voi=VOI)["conventions"]
    assert "middle of a volume of the challenge's shape" in told["clicks"]
    assert "between centres of voxels, in voxels, on the largest part of each slice" in told["differences"]


def test_one_patient_has_no_interval(cases: list[Truth]) -> None:
    found = challenge_score(cases[:1], lambda voi, spacing, click: voi > 0, clicks=2, voi=VOI)
    assert (found["ci95_lo"], found["ci95_hi"]) == (None, None)
    assert math.isfinite(found["score"])


def test_prepared_cases_bring_their_images(prepared: Path) -> None:
    truths = truths_of(prepared)
    assert all(truth.prepared and truth.image is None for truth in truths)
    # lesions of these phantoms lie near -50 HU, all else near -700
    found = challenge_score(truths[:3], lambda voi, spacing, click: voi > -375, clicks=2, voi=(16, 64, 64))
    assert found["unreadable"] == []
    assert found["dice"] > 0.99


def test_prepared_images_are_clicked_on_in_hu_however_they_are_stored(pairs_folder: Path, tmp_path: Path) -> None:
    """From 0 to 1 they are converted by the dataset's window; z-scores cannot be, and are refused by name."""
    pairs = find_pairs(pairs_folder)[:2]
    found = {}
    for values in ("hu", "unit", "zscore"):
        prepare(pairs, tmp_path / values, PrepareConfig(values=values, window_hu=(-900, 300)), workers=1)  # type: ignore[arg-type]
        truths = truths_of(tmp_path / values)
        assert all(truth.load().mask.any() for truth in truths)
        if values != "zscore":
            found[values] = challenge_score(truths, lambda voi, spacing, click: voi > -375, clicks=2, voi=(16, 64, 64))
    assert found["unit"]["dice"] == found["hu"]["dice"] > 0.99
    with pytest.raises(InputError, match="values: expected a dataset of hu or unit, got zscore"):
        challenge_score(truths, lambda voi, spacing, click: voi > 0, clicks=2, voi=VOI)


def test_a_constant_border_is_hidden_from_the_network_as_in_the_challenges_container(tmp_path: Path) -> None:
    """Three planes of 300 HU lie against the lesion, and would be part of it."""
    mask = np.zeros((9, 32, 32), bool)
    mask[3:6, 15:18, 15:18] = True
    image = np.random.default_rng(0).normal(-900, 5, mask.shape)
    image[mask], image[:3] = 300, 300
    for kind, array in (("mask", mask), ("ct", image)):
        nib.Nifti1Image(array.transpose(2, 1, 0).astype(np.int16), AFFINE).to_filename(tmp_path / f"a_{kind}.nii.gz")
    model = Model.of(Threshold(), Config.model_validate({"data": {"patch_px": 32, "input_px": 32}}))
    found = challenge_score(truths_of(tmp_path), network(model), clicks=2, voi=mask.shape)  # type: ignore[arg-type]
    assert found["dice"] == 1
