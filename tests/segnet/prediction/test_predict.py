"""Files in, files out: grid, click spaces, measurements, nothing half-written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from dicom_series import write_series
from networks import Threshold
from scipy import ndimage
from torch import nn

from segnet.config import Config
from segnet.errors import InputError
from segnet.io.volumes import read_image
from segnet.prediction.clicks import click_index
from segnet.prediction.model import Model
from segnet.prediction.options import VoiSize
from segnet.prediction.predict import BOXED, CUT, MISSED, require_several

CONFIG = Config.model_validate({"data": {"patch_px": 32, "input_px": 32}})


@pytest.fixture
def scan(tmp_path: Path, write_nifti: Callable[..., Path]) -> Path:
    """A box of 6 x 4 x 2 voxels in the file's own (LPS) axes."""
    image = np.full((40, 36, 5), -900, np.int16)
    image[10:16, 20:24, 1:3] = 300
    return write_nifti(tmp_path / "scan.nii.gz", image)


def test_the_mask_lies_on_the_image_own_grid(scan: Path, tmp_path: Path) -> None:
    out = tmp_path / "mask.nii.gz"
    result = Model.of(Threshold(), CONFIG).predict(scan)
    result.save(out, probability=tmp_path / "p.nii.gz")
    source, mask = nib.load(scan), nib.load(out)
    assert mask.shape == source.shape
    assert np.array_equal(mask.affine, source.affine)
    assert mask.get_data_dtype() == np.uint8
    wanted = np.zeros(source.shape, bool)
    wanted[10:16, 20:24, 1:3] = True
    assert np.array_equal(np.asarray(mask.dataobj) > 0, wanted)
    assert result.whole.voxels == 48
    voxel_ml = abs(np.linalg.det(source.affine[:3, :3])) / 1000
    assert result.whole.volume_ml == pytest.approx(48 * voxel_ml, rel=1e-5)
    # a box of 4.8 x 3.2 mm: its long axis is about its diagonal, and both are right to one pixel of 0.8 mm
    assert abs(result.whole.long_axis_mm - np.hypot(4.8, 3.2)) < 0.8
    assert 3.2 - 0.8 < result.whole.short_axis_mm < 4.8
    assert np.asarray(nib.load(tmp_path / "p.nii.gz").dataobj)[12, 21, 1] == pytest.approx(1)


@pytest.mark.parametrize("space", ["voxel", "ras", "lps"])
def test_a_click_means_the_same_voxel_in_every_space(scan: Path, space: Any) -> None:
    voxel = (12.0, 21.0, 1.0)
    ras = (nib.load(scan).affine @ (*voxel, 1))[:3]
    point = {"voxel": voxel, "ras": tuple(ras), "lps": (-ras[0], -ras[1], ras[2])}[space]
    volume = read_image(scan)
    at = click_index(point, space, volume)
    assert at is not None
    assert volume.array_zyx[at] == 300
    # the file's first two axes run left and posterior, the canonical ones right and anterior
    assert at == (1, 35 - 21, 39 - 12)


def test_the_centre_and_no_click(scan: Path) -> None:
    volume = read_image(scan)
    # index size // 2 of the file's own axes, the first two of which run the other way
    assert click_index("centre", "voxel", volume) == click_index((20, 18, 2), "voxel", volume) == (2, 35 - 18, 39 - 20)
    assert click_index(None, "voxel", volume) is None


def test_a_click_outside_is_refused(scan: Path) -> None:
    with pytest.raises(InputError, match=r"click: expected a point inside the image of \(40, 36, 5\) voxels"):
        Model.of(Threshold(), CONFIG).predict(scan, click=(40, 3, 3))


class Tilted(nn.Module):
    """Lesion everywhere, more so towards the right of what it sees."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        logit = torch.linspace(-1, 1, x.shape[3]).expand_as(x)
        return torch.cat([-logit, logit], 1), None


def test_uncertainty_is_the_standard_deviation_on_the_image_own_grid(scan: Path, tmp_path: Path) -> None:
    files = tmp_path / "p.nii.gz", tmp_path / "u.nii.gz"
    models = [Threshold(), Tilted()]
    found = Model.of(models, CONFIG).predict(scan, uncertainty=True)
    found.save(tmp_path / "m.nii.gz", probability=files[0], uncertainty=files[1])
    each = []
    for number, model in enumerate(models):
        Model.of(model, CONFIG).predict(scan).save(tmp_path / "m.nii.gz", probability=tmp_path / f"{number}.nii.gz")
        each.append(np.asarray(nib.load(tmp_path / f"{number}.nii.gz").dataobj, np.float64))
    maps = [nib.load(file) for file in files]
    assert all(image.get_data_dtype() == np.float32 for image in maps)
    assert all(np.array_equal(image.affine, nib.load(scan).affine) for image in maps)
    np.testing.assert_allclose(np.asarray(maps[0].dataobj), np.mean(each, 0), atol=1e-6)
    np.testing.assert_allclose(np.asarray(maps[1].dataobj), np.std(each, 0), atol=1e-6)


def test_one_network_and_one_view_have_no_uncertainty(scan: Path, tmp_path: Path) -> None:
    one = Model.of(Threshold(), CONFIG)
    with pytest.raises(InputError, match=r"uncertainty: expected several members or views .* or add --tta"):
        one.predict(scan, uncertainty=True)
    with pytest.raises(InputError, match="uncertainty: expected a prediction with uncertainty"):
        one.predict(scan).save(tmp_path / "m.nii.gz", uncertainty=tmp_path / "u.nii.gz")
    assert [p.name for p in tmp_path.iterdir()] == ["scan.nii.gz"]
    require_several(Model.of([Threshold(), Threshold()], CONFIG), tta=False)
    require_several(one, tta=True)


def test_the_precision_used_and_the_difference_are_told(scan: Path) -> None:
    plain = Model.of(Threshold(), CONFIG).predict(scan)
    assert (plain.precision, plain.bfloat16_difference) == ("float32", None)
    agreed = Model.of(Threshold(), CONFIG, halves=Threshold()).predict(scan)
    assert agreed.precision == "bfloat16"
    assert agreed.as_dict()["bfloat16_difference"] == {"slices": 5, "probability": 0.0, "dice": 1.0}
    assert np.array_equal(agreed.mask, plain.mask)
    differing = Model.of(Threshold(), CONFIG, halves=[Tilted()]).predict(scan)
    assert differing.precision == "float32"
    assert differing.as_dict()["bfloat16_difference"]["dice"] < 0.1
    assert np.array_equal(differing.mask, plain.mask)


def test_a_volume_in_memory(scan: Path) -> None:
    volume = read_image(scan)
    found = Model.of([Threshold(), Tilted()], CONFIG).predict(volume, tta=True, uncertainty=True, threshold=0.4)
    assert found.mask.dtype == bool
    assert np.array_equal(found.mask, found.probability > 0.4)
    assert found.uncertainty is not None
    assert found.uncertainty.max() > 0.1
    clicked = Model.of(Threshold(), CONFIG).predict(volume, click=(12, 21, 1), threshold=0.4)
    assert clicked.mask.sum() == 48
    assert clicked.uncertainty is None


def test_a_network_of_the_paper_route_is_shown_what_it_was_trained_on(tmp_path: Path) -> None:
    """Slices of 96 x 300 go through 256 x 256 grey and back: a box comes back to a pixel, wherever the slice's HU lie."""
    rng = np.random.default_rng(0)
    image = rng.normal(-800, 20, (6, 96, 300)).astype(np.float32)
    wanted = np.zeros(image.shape, bool)
    wanted[2:4, 30:50, 100:160] = True
    image[wanted] += 900
    image[3] += 2000  # another scale, outside of every window
    config = Config.model_validate({"data": {"route": "paper", "patch_px": 64, "input_px": 64}})
    options: dict[str, Any] = {"spacing_mm": (2.0, 0.7, 0.7)}
    found = Model.of(Threshold(), config).predict(image, **options).mask
    inner = ndimage.binary_erosion(wanted[2:4], np.ones((1, 3, 3)))
    outer = ndimage.binary_dilation(wanted[2:4], np.ones((1, 3, 3)))
    assert (found[2:4] >= inner).all()
    assert (found[2:4] <= outer).all()
    # of slices of noise alone the brightest grains are above half of their own range: that is what the route does
    # around a click the slices are the same, whatever part of them is asked for
    click = (3, 40, 130)
    voi = VoiSize((2, 40, 80))
    near = Model.of(Threshold(), config).predict(image, click=click, voi=voi, **options)
    assert near.mask[click]
    box = near.voi_zyx
    far = np.ones(image.shape, bool)
    far[box] = False
    assert not near.mask[far].any()
    whole = Model.of(Threshold(), config).predict(image, click=click, **options)
    np.testing.assert_array_equal(near.probability[box], whole.probability[box])


def test_a_click_in_the_padding_is_one_that_missed() -> None:
    """On either side of what is no padding."""
    image = np.full((6, 60, 60), -1024, np.float32)
    image[:, 20:40, 20:40] = np.random.default_rng(0).normal(-900, 5, (6, 20, 20))
    image[2:4, 28:32, 28:32] = 300
    for click in ((3, 18, 30), (3, 42, 30), (3, 30, 43)):
        found = Model.of(Threshold(), CONFIG).predict(image, spacing_mm=(2.0, 0.7, 0.7), click=click, skip_padding=True)
        assert found.mask.any()
        assert MISSED in found.warnings


def test_a_mask_that_reaches_the_edge_of_what_is_seen_says_so() -> None:
    """The field of view is 32 pixels, the bright stripe 40; one of 20 ends inside of it, one at the image's border does too."""
    for width, y, cut in ((40, 40, True), (20, 40, False), (20, 5, False)):
        image = np.full((3, 80, 80), -900, np.float32)
        image[1, max(y - width // 2, 0) : y + width // 2, 38:42] = 300
        found = Model.of(Threshold(), CONFIG).predict(image, spacing_mm=(2.0, 0.7, 0.7), click=(1, y, 40))
        assert found.mask.any()
        assert (CUT in found.warnings) == cut


def test_the_first_and_the_last_pixel_of_the_field_of_view_count() -> None:
    """An odd one begins at the click less half of it, rounded down."""
    for patch_px, first, last in ((64, 8, 71), (65, 8, 72)):
        config = Config.model_validate({"data": {"patch_px": patch_px, "input_px": 64}})
        for y, cut in ((first, True), (first + 2, False), (last, True), (last - 2, False)):
            image = np.full((1, 80, 80), -900, np.float32)
            image[0, min(y, 40) : max(y, 40) + 1, 36:45] = 300
            found = Model.of(Threshold(), config).predict(image, spacing_mm=(2.0, 0.7, 0.7), click=(0, 40, 40))
            assert (CUT in found.warnings) == cut, (patch_px, y)


def test_a_mask_that_reaches_the_edge_of_the_volume_of_interest_says_so() -> None:
    """Along z too, where the field of view has no end; not where the image ends there."""
    image = np.full((9, 40, 40), -900, np.float32)
    image[1:8, 18:22, 18:22] = 300
    for slices, boxed in ((4, True), (7, True), (9, False)):
        options: Any = {"spacing_mm": (2.0, 0.7, 0.7), "click": (4, 20, 20), "voi": VoiSize((slices, 32, 32))}
        found = Model.of(Threshold(), CONFIG).predict(image, **options)
        assert found.mask.any()
        assert (BOXED in found.warnings) == boxed


def test_oddities_of_the_image_are_warnings_of_the_result(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "series", np.zeros((3, 40, 40)))
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[132:])
    found = Model.of(Threshold(), CONFIG).predict(folder)
    assert "3 of 3 files have no DICOM preamble" in found.as_dict()["warnings"]


def test_a_wrong_ending_is_found_before_anything_is_written(scan: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"mask: expected a name ending in \.nii"):
        Model.of(Threshold(), CONFIG).predict(scan).save(tmp_path / "m.mha", probability=tmp_path / "p.nii.gz")
    assert not (tmp_path / "p.nii.gz").exists()
