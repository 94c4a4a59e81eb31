"""Phantoms: what training relies on, and that neither a threshold nor brightness alone finds the lesion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage, stats

from segnet.dataset.phantom import SITES, make_phantom, write_phantoms
from segnet.dataset.phantom.canvas import value_noise
from segnet.errors import InputError
from segnet.io.pairs import find_pairs
from segnet.io.volumes import read_image, read_mask

SMALL = (64, 56, 32)


@pytest.fixture(scope="module")
def small() -> list[tuple[np.ndarray, np.ndarray]]:
    return [make_phantom(seed, shape=SMALL, spacing_mm=(1.6, 1.6, 3.0)) for seed in range(16)]


def test_types_values_and_lesions(small: list[tuple[np.ndarray, np.ndarray]]) -> None:
    for seed, (image, mask) in enumerate(small):
        assert (image.shape, mask.shape) == (SMALL, SMALL)
        assert (image.dtype, mask.dtype) == (np.int16, np.uint8)
        assert set(np.unique(mask)) == {0, 1}
        assert mask[32, 28, 16] == 1, seed
        assert ndimage.label(mask)[1] == 1
        assert image.min() >= -1025
        assert image.max() <= 3071
        assert ((image > 20) & (image < 150)).mean() > 0.05, seed  # soft tissue
        assert (image < -60).mean() > 0.01, seed  # fat or air
    assert np.mean([(image > 250).any() for image, _ in small]) > 0.7  # bone
    assert np.mean([(image < -700).any() for image, _ in small]) > 0.7  # air


def test_diameters_span_the_promised_range(small: list[tuple[np.ndarray, np.ndarray]]) -> None:
    diameters_mm = []
    for _, mask in small:
        at_mm = np.argwhere(mask) * (1.6, 1.6, 3.0)
        diameters_mm.append(float(np.ptp(at_mm, axis=0).max()))
    assert min(diameters_mm) >= 3
    assert max(diameters_mm) <= 55
    assert np.ptp(diameters_mm) > 12


def test_equal_seeds_give_equal_volumes(small: list[tuple[np.ndarray, np.ndarray]]) -> None:
    image, mask = make_phantom(3, shape=SMALL, spacing_mm=(1.6, 1.6, 3.0))
    np.testing.assert_array_equal(image, small[3][0])
    np.testing.assert_array_equal(mask, small[3][1])
    assert not np.array_equal(image, small[4][0])


def test_no_threshold_finds_the_lesion(small: list[tuple[np.ndarray, np.ndarray]]) -> None:
    best = []
    for image, mask in small:
        inside = image[mask > 0]
        low, high = np.percentile(inside, (5, 95))  # even the window of HU that the truth itself would choose
        guess = (image >= low) & (image <= high)
        best.append(2 * (guess & (mask > 0)).sum() / (guess.sum() + mask.sum()))
    assert np.median(best) < 0.2


def test_lesions_differ_from_what_surrounds_them(small: list[tuple[np.ndarray, np.ndarray]]) -> None:
    apart = []
    for image, mask in small:
        lesion = mask > 0
        ring = ndimage.binary_dilation(lesion, iterations=3) & ~ndimage.binary_dilation(lesion)
        apart.append(stats.ks_2samp(image[lesion], image[ring]).statistic)
    assert np.median(apart) > 0.5
    # The smallest lesion has 33 voxels: equal distributions exceed 1.36 / sqrt(33) = 0.24 once in twenty.
    assert min(apart) > 0.3


def test_some_volumes_have_the_border_of_uls23(small: list[tuple[np.ndarray, np.ndarray]]) -> None:
    padded = 0
    for image, mask in small:
        faces = [np.take(image, i, axis) for axis in range(3) for i in (0, -1)]
        borders = [face for face in faces if np.ptp(face) == 0]
        if not borders:
            continue
        padded += 1
        fill = int(borders[0].flat[0])
        assert fill == image.min()
        assert fill == np.unique(image)[1] - 1
        assert not mask[image == fill].any()
    assert 1 <= padded <= 12


def test_every_site_and_style_renders() -> None:
    for site in sorted(set(SITES)):
        for seed in range(6):
            image, mask = make_phantom(seed, shape=(32, 32, 24), spacing_mm=(2.0, 2.0, 3.0), sites=(site,))
            assert mask[16, 16, 12] == 1
            assert mask.sum() >= 8, (site, seed)
            if site in ("liver", "spleen", "kidney", "bone", "node"):
                assert -60 < image[mask > 0].mean() < 250, (site, seed)


def test_crumbs_cut_off_by_an_organs_edge_are_no_lesion() -> None:
    """The outline of seed 6 has one."""
    for seed in range(4, 8):
        _, mask = make_phantom(seed, shape=(48, 48, 24), spacing_mm=(1.0, 1.0, 2.0), sites=("lung",))
        assert ndimage.label(mask)[1] == 1, seed


def test_noise_has_unit_variance_and_its_length() -> None:
    rng = np.random.default_rng(0)
    fields = np.stack([value_noise(rng, (24, 24, 24), (1.0, 1.0, 1.0), 4.0) for _ in range(40)])
    # 40 fields of (24/4)^3 knots: the relative error of the variance is about sqrt(2 / 8640) = 0.015.
    assert abs(fields.var() - 1) < 0.08
    near = (fields[:, 1:] * fields[:, :-1]).mean()
    far = (fields[:, 17:] * fields[:, :-17]).mean()
    assert near > 0.9
    assert abs(far) < 0.15


def test_files_are_pairs_that_the_readers_accept(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    written = write_phantoms(
        tmp_path / "out", 5, n_patients=2, seed=1, shape=(24, 20, 16), progress=lambda *done: calls.append(done)
    )
    assert calls == [(i, 5) for i in range(1, 6)]
    found = find_pairs(tmp_path / "out")
    assert list(found) == sorted(written, key=lambda pair: pair.case)
    assert [pair.case for pair in found] == [
        "phantom_0001_lesion_01",
        "phantom_0001_lesion_02",
        "phantom_0001_lesion_03",
        "phantom_0002_lesion_01",
        "phantom_0002_lesion_02",
    ]
    assert {pair.patient for pair in found} == {"phantom_0001", "phantom_0002"}
    volumes = [read_image(pair.image) for pair in found]
    for pair, volume in zip(found, volumes, strict=True):
        mask = read_mask(pair.mask, like=volume)
        assert mask.array[12, 10, 8] == 1
        np.testing.assert_allclose(volume.spacing_mm, (0.8, 0.8, 1.5), rtol=1e-6)
    assert not np.array_equal(volumes[0].array, volumes[1].array)

    write_phantoms(tmp_path / "again", 5, n_patients=2, seed=1, shape=(24, 20, 16))
    for pair in found:
        twin = tmp_path / "again" / "images" / pair.image.name
        assert twin.read_bytes() == pair.image.read_bytes()


def test_bad_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="seed"):
        make_phantom(-1)
    with pytest.raises(InputError, match="shape"):
        make_phantom(0, shape=(64, 64, 8))
    for spacing in ((0.8, 0.8, 0.0), (0.8, float("nan"), 1.0), (0.8, 0.8, 50.0)):
        with pytest.raises(InputError, match="spacing_mm"):
            make_phantom(0, spacing_mm=spacing)
    with pytest.raises(InputError, match="n_cases"):
        write_phantoms(tmp_path, 0)
    with pytest.raises(InputError, match="n_patients"):
        write_phantoms(tmp_path, 2, n_patients=3)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "mine.nii.gz").touch()
    with pytest.raises(InputError, match="another"):
        write_phantoms(tmp_path, 1, shape=(16, 16, 16))
