"""On real CT: every pair is read, and a VOI of the challenge gets a mask on its own grid."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from segnet.dataset.prepare import prepare
from segnet.dataset.store import load_dataset
from segnet.io.pairs import find_pairs
from segnet.io.volumes import read_image, read_mask
from segnet.io.weights import default_weights
from segnet.prediction.clicked import runner, segment_clicked
from segnet.prediction.model import load
from segnet.prediction.windows import VIEWS


def test_lidc_pairs_are_found_and_belong_to_277_patients(shared_data: Path) -> None:
    pairs = find_pairs(shared_data / "lidc")
    assert len(pairs) == 485
    assert len({pair.patient for pair in pairs}) == 277
    assert not pairs.unpaired_images


def test_lidc_nodules_are_prepared(shared_data: Path, tmp_path: Path) -> None:
    some = list(find_pairs(shared_data / "lidc"))[::40]
    prepare(some, tmp_path / "out")
    dataset = load_dataset(tmp_path / "out")
    assert [case.case for case in dataset.cases] == sorted(pair.case for pair in some)
    assert all(case.lesion_voxels > 0 for case in dataset.cases)


def test_sarcomas_are_read_with_their_masks(shared_data: Path) -> None:
    pairs = find_pairs(shared_data / "sarcoma")
    assert len(pairs) == 17
    image = read_image(pairs[0].image)
    assert read_mask(pairs[0].mask, like=image).array.any()


def test_a_challenge_voi_gets_a_mask_on_its_own_grid(shared_data: Path, tmp_path: Path, run_folder: Path) -> None:
    source = shared_data / "voi" / "ULS23_lidcidri_195_lesion_01_ct.nii.gz"
    load(run_folder).predict(source, click="centre").save(tmp_path / "mask.nii.gz")
    image, mask = nib.load(source), nib.load(tmp_path / "mask.nii.gz")
    assert mask.shape == image.shape == (256, 256, 128)
    assert np.array_equal(mask.affine, image.affine)
    assert set(np.unique(np.asarray(mask.dataobj))) <= {0, 1}


def test_a_dicom_series_gets_a_mask_on_its_own_grid(shared_data: Path, tmp_path: Path, run_folder: Path) -> None:
    source = shared_data / "no_lesion" / "example_ct_dicom"
    found = load(run_folder).predict(source, click="centre")
    found.save(tmp_path / "mask.nii.gz")
    volume, mask = read_image(source), nib.load(tmp_path / "mask.nii.gz")
    assert mask.shape == volume.source_shape
    assert np.allclose(mask.affine, volume.source_affine)
    assert found.as_dict()["voi_zyx"]["shape"] == [20, 256, 256]


def test_slices_around_a_click_give_the_mask_of_the_whole_volume(shared_data: Path) -> None:
    """By a packaged network, in real volumes, at lesions of 2 to 70 ml: bit for bit."""
    model = load(default_weights()[0])
    run = runner(model.networks, VIEWS[:1])
    images = [*sorted((shared_data / "whole" / "image").iterdir()), *sorted((shared_data / "voi").glob("*_ct.nii.gz"))]
    assert len(images) == 5
    for path in images:
        masks = path.parent.with_name("mask") / path.name, path.with_name(path.name.replace("_ct.", "_mask."))
        truth = read_mask(next(mask for mask in masks if mask.exists())).array_zyx
        volume = read_image(path)
        inside = np.argwhere(truth)
        click = tuple(int(at) for at in inside[len(inside) // 2])
        fast, slow = (
            segment_clicked(run, volume.array_zyx, volume.spacing_zyx_mm, model.config.data, click, whole=whole)
            for whole in (False, True)
        )
        assert fast.mask.any()
        first = fast.box[0].start
        last = first + len(fast.mask)
        assert len(fast.mask) < len(slow.mask) == len(truth)
        assert not slow.mask[:first].any()
        assert not slow.mask[last:].any()
        assert np.array_equal(fast.mask, slow.mask[first:last])
        assert np.array_equal(fast.probability, slow.probability[first:last])
