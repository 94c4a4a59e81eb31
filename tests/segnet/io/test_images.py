"""Images of a folder: by case, without masks, none passed over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from segnet.errors import InputError
from segnet.io.images import images_in


@pytest.fixture
def scan(tmp_path: Path, write_nifti: Callable[..., Path]) -> Path:
    return write_nifti(tmp_path / "scan.nii.gz", np.zeros((4, 3, 2), np.int16))


def test_images_of_a_folder(scan: Path, tmp_path: Path, pairs_folder: Path) -> None:
    assert images_in(tmp_path) == images_in(tmp_path, ["scan"]) == images_in(scan) == {"scan": scan}
    with pytest.raises(InputError, match="expected an image of case other, got none"):
        images_in(tmp_path, ["other"])
    (tmp_path / "empty").mkdir()
    assert set(images_in(pairs_folder)) == {f"bone_{i:05d}_lesion_01" for i in range(10)}
    with pytest.raises(InputError, match=r"expected at least one file ending in .* or DICOM series, got none"):
        images_in(tmp_path / "empty")


def test_an_image_beside_pairs_is_not_passed_over(tmp_path: Path, scan: Path) -> None:
    """It is one without a mask where names tell which is what, and has no place beside folders of images and masks."""
    cohort = tmp_path / "cohort"
    for name in ("A/a_ct", "A/a_mask", "A/b", "A/c_seg"):
        (cohort / name).parent.mkdir(parents=True, exist_ok=True)
        (cohort / f"{name}.nii.gz").write_bytes(scan.read_bytes())
    assert list(images_in(cohort / "A")) == list(images_in(cohort)) == ["a", "b"]
    (cohort / "d.nii.gz").write_bytes(scan.read_bytes())
    with pytest.raises(InputError, match=r"expected images and masks in one layout, got d\.nii\.gz"):
        images_in(cohort)


def test_cases_of_one_name_in_two_sets_are_told(tmp_path: Path, scan: Path) -> None:
    for name in ("A/images/p1", "A/labels/p1", "B/images/p1", "B/labels/p2", "B/images/p2"):
        path = tmp_path / "cohort" / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(scan.read_bytes())
    with pytest.raises(InputError, match=r"expected one image for each case, got .*A/images/p1.* and .*B/images/p1"):
        images_in(tmp_path / "cohort")


def test_images_need_no_mask_and_masks_are_no_images(tmp_path: Path, scan: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a_ct", "a_mask", "b_ct"):
        (folder / f"{name}.nii.gz").write_bytes(scan.read_bytes())
    assert list(images_in(folder)) == ["a", "b"]
    (folder / "a_seg.nii.gz").write_bytes(scan.read_bytes())
    with pytest.raises(InputError, match="expected one file"):
        images_in(folder)
