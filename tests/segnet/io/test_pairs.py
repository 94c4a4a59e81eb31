"""Pairing of images and masks in each layout, and patients from case names."""

from __future__ import annotations

from pathlib import Path

import pytest

from segnet.errors import InputError
from segnet.io.pairs import Pair, find_pairs, gather, patient_id, set_of


def touch(root: Path, *names: str) -> None:
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


@pytest.mark.parametrize(
    ("case", "patient"),
    [
        ("000010_02_02_100_lesion_01", "000010"),
        ("000010", "000010"),
        ("0000101_02_lesion_01", "0000101_02"),  # seven digits are no six
        ("bone_00002_lesion_03", "bone_00002"),
        ("diag_pancreas_0004_lesion_01", "diag_pancreas_0004"),
        ("phantom_0001_lesion_01", "phantom_0001"),
        ("LIDC-IDRI-0001_R_1", "LIDC-IDRI-0001"),
        ("STS_002", "STS_002"),
    ],
)
def test_patient_of_a_case(case: str, patient: str) -> None:
    assert patient_id(case) == patient


@pytest.mark.parametrize(
    ("case", "name"),
    [
        ("LIDC-IDRI-0001_R_1", "LIDC-IDRI"),
        ("STS_002", "STS"),
        ("000010_02_02_100_lesion_01", "DeepLesion"),
        ("bone_00002_lesion_03", "bone"),
        ("diag_pancreas_0004_lesion_01", "diag_pancreas"),
        ("ULS23_lidcidri_195_lesion_01", "ULS23_lidcidri"),
        ("p12", "p"),
        ("4DLung-113_HM10395_Tumor", ""),
        ("0000101", ""),
        ("someone", ""),
        ("a_lesion_01", ""),
        ("", ""),
    ],
)
def test_set_of_a_case(case: str, name: str) -> None:
    assert set_of(case) == name


def test_patient_by_regex() -> None:
    assert patient_id("a-b-c", r"-(\w)-") == "b"
    for regex, message in (
        ("(", "regular expression"),
        (".+", "parentheses"),
        (r"(\d+)", "match in every"),
        (r"a(x?)", "match in every"),
    ):
        with pytest.raises(InputError, match=message):
            patient_id("a-b-c", regex)


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("images", "labels"),
        ("images", "nodule_mask"),
        ("images", "mask"),
        ("images", "masks"),
        ("image", "nodule_mask"),
        ("imagesTr", "labelsTr"),
    ],
)
def test_sibling_folders(tmp_path: Path, images: str, masks: str) -> None:
    touch(
        tmp_path,
        f"{images}/b_lesion_01.nii.gz",
        f"{images}/a.nii",
        f"{images}/lonely.nii.gz",
        f"{images}/._a.nii",
        f"{images}/readme.txt",
        f"{masks}/b_lesion_01.nii.gz",
        f"{masks}/a.nii.gz",
        f"{masks}/more.nii.gz",
    )
    found, lesion = find_pairs(tmp_path), "b_lesion_01"
    assert list(found) == [
        Pair("a", "a", tmp_path / images / "a.nii", tmp_path / masks / "a.nii.gz"),
        Pair(lesion, "b", tmp_path / images / f"{lesion}.nii.gz", tmp_path / masks / f"{lesion}.nii.gz"),
    ]
    assert found.unpaired_images == [tmp_path / images / "lonely.nii.gz"]
    assert len(found) == 2
    assert found[1].case == "b_lesion_01"
    assert list(find_pairs((tmp_path / images, tmp_path / masks))) == list(found)


def test_channel_suffix_of_an_image_is_no_part_of_the_case(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "imagesTr/lung_003_0000.nii.gz",
        "labelsTr/lung_003.nii.gz",
        "imagesTr/x_0000.nii.gz",
        "labelsTr/x_0000.nii.gz",
    )
    assert [(p.case, p.mask.name) for p in find_pairs(tmp_path)] == [
        ("lung_003", "lung_003.nii.gz"),
        ("x_0000", "x_0000.nii.gz"),
    ]


def test_one_folder_with_suffixes(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "b_ct.nii.gz",
        "b_mask.nii.gz",
        "a_image.nii",
        "a_label.nii.gz",
        "c_ct.nii",
        "c_seg.nii",
        "d_ct.nii.gz",
        "other.nii.gz",
    )
    found = find_pairs(tmp_path)
    assert [(p.case, p.image.name, p.mask.name) for p in found] == [
        ("a", "a_image.nii", "a_label.nii.gz"),
        ("b", "b_ct.nii.gz", "b_mask.nii.gz"),
        ("c", "c_ct.nii", "c_seg.nii"),
    ]
    assert found.unpaired_images == [tmp_path / "d_ct.nii.gz", tmp_path / "other.nii.gz"]


@pytest.mark.parametrize(
    ("image", "mask", "case"),
    [
        ("a.nrrd", "a-label.nrrd", "a"),
        ("a.nrrd", "a.seg.nrrd", "a"),
        ("a.nrrd", "a-segmentation.seg.nrrd", "a"),
        ("a.nii.gz", "a_Segmentation.nii.gz", "a"),
        ("a.nii.gz", "a_trans.nii.gz", "a"),
        ("a_0000.nii.gz", "a_pred.nii.gz", "a"),
        ("a_img.nii.gz", "a_labels.nii.gz", "a"),
        ("A-CT.nii", "A-MASK.nii", "A"),
        ("a_ct.nii", "a_ct_seg.nii", "a_ct"),
        ("images/a_ct.nii", "labels/a-label.nrrd", "a"),
        ("images/a_seg.nii", "labels/a_seg.nii", "a_seg"),
        ("Images/a.nii", "Masks/a.nii", "a"),
        ("imagesTr/lung_0000.nii", "labelsTr/lung_0000.nii", "lung_0000"),
        ("p1/CTChest.nrrd", "p1/Segmentation.seg.nrrd", "p1"),
        ("p1/CT.nrrd", "p1/CT-label.nrrd", "p1"),
        ("p1/imaging.nii.gz", "p1/segmentation.nii.gz", "p1"),
        ("cafe\u0301/image.nii", "cafe\u0301/mask.nii", "caf\u00e9"),
    ],
)
def test_names_of_every_tool_pair(tmp_path: Path, image: str, mask: str, case: str) -> None:
    touch(tmp_path, image, mask)
    (pair,) = find_pairs(tmp_path)
    assert (pair.case, pair.image, pair.mask) == (case, tmp_path / image, tmp_path / mask)


def test_maps_beside_masks_are_no_images(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii", "a_mask.nii", "a_mask_probability.nii.gz", "b_uncertainty.nii.gz")
    found = find_pairs(tmp_path)
    assert [pair.image.name for pair in found] == ["a.nii"]
    assert found.unpaired_images == []


def test_two_folders_of_one_set_are_taken_together(tmp_path: Path) -> None:
    """ULS23's fully and partially annotated parts have no name of their own."""
    for part, case in (("fully_annotated", "a"), ("partially_annotated", "b")):
        touch(tmp_path / part / "images", f"{case}.nii.gz")
        touch(tmp_path / part / "labels", f"{case}.nii.gz")
    assert [pair.case for pair in find_pairs(tmp_path)] == ["a", "b"]


def test_a_folder_for_each_case(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "STS_1/CT_image.nii.gz",
        "STS_1/CT_mask.nii.gz",
        "STS_1/MR_T1_image.nii.gz",
        "STS_1/MR_T1_mask.nii.gz",
        "STS_2/image.nii",
        "STS_2/mask.nii",
        "STS_3/CT_image.nii.gz",
        "notes/a.txt",
    )
    found = find_pairs(tmp_path, patient_regex=r"STS_(\d)")
    assert [(p.case, p.patient, p.image.name, p.mask.name) for p in found] == [
        ("STS_1", "1", "CT_image.nii.gz", "CT_mask.nii.gz"),
        ("STS_2", "2", "image.nii", "mask.nii"),
    ]
    assert found.unpaired_images == [tmp_path / "STS_3" / "CT_image.nii.gz"]


def test_named_folders_go_before_suffixes(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.nii", "labels/a.nii", "b_ct.nii", "b_mask.nii")
    assert [p.case for p in find_pairs(tmp_path)] == ["a"]


def test_one_name_in_two_spellings_of_unicode_is_one(tmp_path: Path) -> None:
    touch(tmp_path, "images/caf\u00e9.nii", "labels/cafe\u0301.nii")
    assert [pair.case for pair in find_pairs(tmp_path)] == ["caf\u00e9"]


def test_the_challenge_layout(tmp_path: Path) -> None:
    """Sets by name; images without a mask discarded; one case in two sets told apart, and still one patient's."""
    novel, processed = "novel_data/ULS23_DeepLesion3D", "processed_data/partially_annotated/ULS23_DeepLesion"
    touch(
        tmp_path,
        *(f"{novel}/{sub}/000010_02_01_lesion_01.nii.gz" for sub in ("images", "labels")),
        *(f"{processed}/{sub}/000010_02_01_lesion_01.nii.gz" for sub in ("images", "labels")),
        f"{novel}/images/000011_01_01_lesion_01.nii.gz",
        *(f"novel_data/ULS23_Radboudumc_Bone/{sub}/bone_00002_lesion_03.nii.gz" for sub in ("images", "labels")),
        *(
            f"processed_data/fully_annotated/ULS23_NIH_LN/{part}/{sub}/{part}_1_lesion_1.nii.gz"
            for part in ("ABD", "MED")
            for sub in ("images", "labels")
        ),
        "notes/readme.txt",
    )
    found = find_pairs(tmp_path)
    assert [(pair.case, pair.patient, pair.set) for pair in found] == [
        ("ABD_1_lesion_1", "ABD_1", "ULS23_NIH_LN/ABD"),
        ("MED_1_lesion_1", "MED_1", "ULS23_NIH_LN/MED"),
        ("ULS23_DeepLesion3D_000010_02_01_lesion_01", "000010", "ULS23_DeepLesion3D"),
        ("ULS23_DeepLesion_000010_02_01_lesion_01", "000010", "ULS23_DeepLesion"),
        ("bone_00002_lesion_03", "bone_00002", "ULS23_Radboudumc_Bone"),
    ]
    assert [p.name for p in found.unpaired_images] == ["000011_01_01_lesion_01.nii.gz"]


def test_folders_are_gathered(tmp_path: Path) -> None:
    for name in ("one", "two"):
        touch(tmp_path, f"{name}/images/{name}_1.nii", f"{name}/labels/{name}_1.nii", f"{name}/images/x.nii")
    both = gather([find_pairs(tmp_path / name) for name in ("two", "one")])
    assert [(pair.case, pair.set) for pair in both] == [("one_1", "one"), ("two_1", "two")]
    named = [find_pairs(tmp_path / name, set_name=name) for name in ("one", "two")]
    for name in ("one", "two"):
        touch(tmp_path, f"{name}/images/same.nii", f"{name}/labels/same.nii")
    same = gather([find_pairs(tmp_path / name, set_name=name) for name in ("one", "two")])
    assert [pair.case for pair in same if "same" in pair.case] == ["one_same", "two_same"]
    assert {pair.set for pair in gather(named)} == {"one", "two"}
    with pytest.raises(InputError, match="expected one image for each case"):
        gather([find_pairs(tmp_path / name) for name in ("one", "two")])
    assert [path.parent.parent.name for path in both.unpaired_images] == ["one", "two"]


@pytest.mark.parametrize(
    "names",
    [
        ("images/a.nii", "labels/a.nii", "masks/a.nii"),
        ("images/a.nii", "labels/a.nii", "labels/a.nii.gz"),
        ("images/a.nii", "images/a.nii.gz", "labels/a.nii"),
        ("images/a.nii", "images/a_0000.nii", "labels/a.nii"),
        ("images/a.nii", "labels/a.nii", "imagesTr/a.nii", "labelsTr/a.nii"),
        ("a_ct.nii", "a_image.nii", "a_mask.nii"),
        ("a_ct.nii", "a_seg.nii", "a_mask.nii"),
        ("a/image.nii", "a/image.nii.gz", "a/mask.nii"),
    ],
)
def test_two_files_for_one_role_are_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    touch(tmp_path, *names)
    with pytest.raises(InputError, match=r"expected one (file|image)") as caught:
        find_pairs(tmp_path)
    assert "\n" not in str(caught.value)


def test_folders_without_a_pair_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.nii", "labels/b.nii", "file.txt")
    for root in (tmp_path, tmp_path / "images"):
        with pytest.raises(InputError, match="labelsTr") as caught:
            find_pairs(root)
        assert str(root) in str(caught.value)
    with pytest.raises(InputError, match="equal file names"):
        find_pairs((tmp_path / "images", tmp_path / "labels"))
    with pytest.raises(InputError, match="does not exist"):
        find_pairs(tmp_path / "none")
    with pytest.raises(InputError, match="is a file"):
        find_pairs(tmp_path / "file.txt")


def test_real_folders_pair(shared_data: Path) -> None:
    for folder, n_images in (("lidc", 485), ("sarcoma", 17), ("voi", 2)):
        found = find_pairs(shared_data / folder)
        assert (len(found), found.unpaired_images) == (n_images, []), folder
