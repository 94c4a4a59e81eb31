"""Names of files: the same role and case for every command, in every spelling that tools and systems write."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from segnet.io.names import ENDINGS, beside, case_of, files_in, on_disk, readings, role_of, says_only_its_role, stem_of

MASKS = {
    "3D Slicer": "p1-label.nrrd p1.seg.nrrd p1-segmentation.seg.nrrd p1-Segmentation.nii.gz Segmentation.seg.nrrd Segmentation_1.seg.nrrd"
    " Segmentation-Segment_1-label.nrrd",
    "ITK-SNAP": "p1_segmentation.nii.gz p1_seg.nii.gz Segmentation.nii",
    "MONAI": "p1_seg.nii.gz p1_trans.nii.gz p1_pred.nii.gz p1_label.nii.gz",
    "people": "p1_Mask.nii P1-MASK.nii.gz p1_labels.mha p1 label.nii p1_prediction.nii.gz p1_ct_pred.nii mask.nii CT_mask.nii p1_gt.nii.gz",
}


@pytest.mark.parametrize("tool", MASKS)
def test_masks_of_every_tool(tool: str) -> None:
    for name in MASKS[tool].replace("p1 label", "p1\0label").split():
        assert role_of(name.replace("\0", " ")) == "mask", name


@pytest.mark.parametrize(
    "name", ["p1_ct.nii", "p1-CT.nii.gz", "p1_Image.mha", "p1_img.nii", "CT_image.nii.gz", "imaging.nii"]
)
def test_images(name: str) -> None:
    assert role_of(name) == "image"


@pytest.mark.parametrize(
    "name", ["p1.nii", "lung_0000.nii.gz", "p1_lesion_01.nii", "impact.nii", "xmask.nii", "p1_seg_x.nii"]
)
def test_names_that_say_nothing(name: str) -> None:
    assert role_of(name) == "plain"


def test_cases() -> None:
    assert {case_of(name) for name in ("p1.nii", "p1_ct.nii", "p1_0000.nii", "p1-label.nrrd", "p1.seg.nrrd")} == {"p1"}
    assert case_of("p1_ct_pred.nii") == "p1_ct"
    assert readings("p1_ct_pred.nii") == ("p1_ct_pred", "p1_ct", "p1")
    assert case_of("labelsTr/lung_0000.nii.gz", "mask") == "lung_0000"
    assert case_of("imagesTr/lung_003_0000.nii.gz") == "lung_003"
    assert case_of("_mask.nii") == "_mask"
    for name in ("image", "CT_image", "CT_mask", "Segmentation", "Segmentation-label", "mask"):
        assert says_only_its_role(f"{name}.nii"), name
    for name in ("p1", "p1_ct", "MR_T1_image", "0000"):
        assert not says_only_its_role(f"{name}.nii"), name


def test_stems() -> None:
    assert [stem_of(f"folder.nii/bone_1.5{ending}") for ending in ENDINGS] == ["bone_1.5"] * len(ENDINGS)
    assert [stem_of(name) for name in ("A.NII.GZ", "series.v2", "a.zip", ".nii")] == ["A", "series.v2", "a.zip", ""]


def test_files_of_a_folder(tmp_path: Path) -> None:
    volumes = ["a.nii.gz", "b.nii", "c.mha", "d.nrrd", "e.nii.gz.zip"]
    for name in (*volumes, "a_probability.nii.gz", "c_uncertainty.mha", ".f.nii.gz", "notes.txt", "a.png"):
        (tmp_path / name).touch()
    (tmp_path / "folder.nii").mkdir()
    assert [path.name for path in files_in(tmp_path)] == volumes


def test_one_name_in_two_normalisations(tmp_path: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    assert stem_of(f"{decomposed}.nii") == case_of(f"{decomposed}_ct.nii") == composed
    (tmp_path / decomposed).mkdir()
    file = tmp_path / decomposed / f"{decomposed}.nii"
    file.touch()
    assert on_disk(tmp_path / composed / f"{composed}.nii") == file
    assert on_disk(tmp_path / composed / "none.nii") == tmp_path / decomposed / "none.nii"
    # a file beside another keeps that one's normalisation
    assert unicodedata.is_normalized("NFD", beside(file, ".json").name)
