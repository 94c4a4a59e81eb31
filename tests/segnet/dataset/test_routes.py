"""The two routes: what is kept, and, for the paper's, that each step is the one it names."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from segnet.config import PrepareConfig
from segnet.dataset.prepare import prepare
from segnet.dataset.routes import grey_slices, mask_slices, paper_affine, windowed
from segnet.dataset.store import load_dataset
from segnet.errors import InputError
from segnet.io.pairs import find_pairs


def test_the_window_clips_and_rounds() -> None:
    image = np.array([[[-2000.0, -999.6, 39.5, 39.7, 5000.0]]], np.float32)
    assert windowed(image, PrepareConfig()).tolist() == [[[-1000, -1000, 40, 40, 400]]]
    whole = np.array([[[-2000, 17, 5000]]], np.int16)
    assert windowed(whole, PrepareConfig()).tolist() == [[[-1000, 17, 400]]]
    assert windowed(image, PrepareConfig()).dtype == windowed(whole, PrepareConfig()).dtype == np.int16


def test_z_scores_have_mean_zero_and_deviation_one() -> None:
    image = np.random.default_rng(0).normal(-300, 200, (3, 40, 50)).astype(np.float32)
    scored = windowed(image, PrepareConfig(values="zscore")).astype(np.float64)
    assert abs(scored.mean()) < 1e-3
    assert abs(scored.std() - 1) < 1e-3
    with pytest.raises(InputError, match="varies"):
        windowed(np.full((1, 2, 2), 50.0), PrepareConfig(values="zscore"))


def test_each_slice_has_its_own_grey_scale() -> None:
    """A slice of 256 x 256 is not resampled: 0 to 255 over its own range, so that HU are lost."""
    plane = np.arange(256.0)[None, :] * np.ones((256, 1))
    image = np.stack([plane, 1000 + 3 * plane, np.full((256, 256), 7.0)])
    grey = grey_slices(image)
    assert grey.dtype == np.uint8
    np.testing.assert_array_equal(grey[0], plane)
    np.testing.assert_array_equal(grey[1], grey[0])
    assert not grey[2].any()


def test_slices_are_resized_by_lanczos_and_masks_by_the_nearest_voxel() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(-1000, 1000, (2, 100, 300)).astype(np.int16)
    for plane, grey in zip(image, grey_slices(image), strict=True):
        scaled = np.rint((plane - plane.min()) * (255.0 / (plane.max() - plane.min()))).astype(np.uint8)
        np.testing.assert_array_equal(grey, np.asarray(Image.fromarray(scaled).resize((256, 256), Image.LANCZOS)))
    mask = (rng.random((2, 100, 300)) < 0.3).astype(np.uint8)
    for plane, small in zip(mask, mask_slices(mask), strict=True):
        np.testing.assert_array_equal(small, np.asarray(Image.fromarray(plane).resize((256, 256), Image.NEAREST)))


def test_the_field_of_view_stays_where_it_was() -> None:
    """The outer corners of the first and the last pixel lie at the same mm before and after."""
    affine = np.array([[0.7, 0.1, 0, -100], [-0.1, 0.8, 0, 50], [0, 0, 3.0, 7], [0, 0, 0, 1]])
    resized = paper_affine(affine, (9, 100, 300))
    for before, after in (((-0.5, -0.5, 0), (-0.5, -0.5, 0)), ((299.5, 99.5, 8), (255.5, 255.5, 8))):
        np.testing.assert_allclose(affine @ [*before, 1], resized @ [*after, 1])


def test_the_paper_route_leaves_a_dataset_and_its_pictures(pairs_folder: Path, tmp_path: Path) -> None:
    config = PrepareConfig(route="paper", keep_png=True)
    pairs = find_pairs(pairs_folder)[:2]
    prepare(pairs, tmp_path / "out", config, workers=1)
    dataset = load_dataset(tmp_path / "out")
    assert dataset.config == config
    case = dataset.cases[0]
    assert case.shape_zyx == (6, 256, 256)
    with h5py.File(dataset.path_of(case)) as file:
        image, mask = file[case.case]["image"][:], file[case.case]["mask"][:]
    assert image.dtype == np.uint8
    assert (image.reshape(6, -1).max(1) == 255).all()
    # lesion by volume: 256 / 40 and 256 / 36 as many pixels, each so much smaller; an edge pixel more or less
    exact = load_dataset_of(pairs_folder, tmp_path).cases[0]
    assert case.lesion_ml == pytest.approx(exact.lesion_ml, rel=0.05)
    for z in range(6):
        folder = tmp_path / "out" / "png" / case.case
        np.testing.assert_array_equal(np.asarray(Image.open(folder / f"image_{z:04d}.png")), image[z])
        np.testing.assert_array_equal(np.asarray(Image.open(folder / f"label_{z:04d}.png")), 255 * mask[z])


def load_dataset_of(pairs_folder: Path, tmp_path: Path):  # type: ignore[no-untyped-def]
    prepare(find_pairs(pairs_folder)[:2], tmp_path / "exact", workers=1)
    return load_dataset(tmp_path / "exact")
