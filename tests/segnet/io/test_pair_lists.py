"""Pairs by table and by pattern: what they find, and one clear error for each thing that can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from segnet.errors import InputError
from segnet.io.pair_lists import pairs_from_csv, pairs_from_patterns
from segnet.io.pairs import Pair


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def table(root: Path, *lines: str) -> Path:
    touch(root, "a.nii.gz", "a_lesion_01.nii.gz", "b.nii")
    path = root / "pairs.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_table_names_pairs(tmp_path: Path) -> None:
    a, b, mask = (tmp_path / name for name in ("a.nii.gz", "b.nii", "a_lesion_01.nii.gz"))
    found = pairs_from_csv(table(tmp_path, "image,mask", "a.nii.gz,a_lesion_01.nii.gz", "b.nii,"))
    assert list(found) == [Pair("a_lesion_01", "a", a, mask)]
    assert found.unpaired_images == [b]
    path = table(tmp_path, "set,case,patient,image,mask", f"ward,2,p,b.nii,{mask}", "ward,1,,b.nii,a_lesion_01.nii.gz")
    assert list(pairs_from_csv(path)) == [Pair("1", "1", b, mask, "ward"), Pair("2", "p", b, mask, "ward")]
    assert pairs_from_csv(path, patient_regex=r"(\d)")[0].patient == "1"
    spaced = table(tmp_path, "image, mask", "", 'a.nii.gz , "a_lesion_01.nii.gz"')
    assert list(pairs_from_csv(spaced)) == [Pair("a_lesion_01", "a", a, mask)]


def test_names_are_found_in_another_normalisation_of_unicode(tmp_path: Path) -> None:
    touch(tmp_path, "cafe\u0301/ct_e\u0301.nii", "caf\u00e9_masks/\u00e9.nii")
    path = tmp_path / "pairs.csv"
    path.write_text("image,mask,patient\ncaf\u00e9/ct_\u00e9.nii,cafe\u0301_masks/e\u0301.nii,Jose\u0301\n")
    (pair,) = pairs_from_csv(path)
    assert (pair.case, pair.patient) == ("\u00e9", "Jos\u00e9")
    assert pair.image.exists()
    assert pair.mask.exists()
    patterns = "caf\u00e9/ct_{case}.nii", "cafe\u0301_masks/{case}.nii"
    (same,) = pairs_from_patterns(tmp_path, *patterns)
    assert (same.case, same.image, same.mask) == (pair.case, pair.image, pair.mask)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["image,label", "a.nii.gz,b.nii"], "columns image, mask and perhaps case, patient, set, got image, label"),
        (["image,mask,image2", "a.nii.gz,b.nii,b.nii"], "columns image, mask"),
        ([], "columns image, mask"),
        (["image,mask,mask", "a.nii.gz,b.nii,b.nii"], "columns image, mask"),
        (["image,mask", "a.nii.gz"], "line 2: expected 2 values, got 1"),
        (["image,mask", "a.nii.gz,b.nii,b.nii"], "line 2: expected 2 values, got 3"),
        (["image,mask", "a.nii.gz,b.nii", "gone.nii,b.nii"], r"existing image in line 3 .* got 'gone.nii'"),
        (["image,mask", "a.nii.gz,gone.nii"], "existing mask in line 2"),
        (["image,mask", ",b.nii"], "existing image in line 2"),
        (["image,mask", "a.nii.gz,b.nii", "b.nii,b.nii"], "'b' in lines 2 and 3"),
        (["image,mask", "a.nii.gz,"], "at least one line"),
        (["image,mask", '"a.nii.gz,b.nii'], "quotes"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(lines: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as caught:
        pairs_from_csv(table(tmp_path, *lines))
    assert "\n" not in str(caught.value)


def test_a_table_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.csv").write_bytes("image,mask\né".encode("latin-1"))
    for name in ("gone.csv", "latin.csv"):
        with pytest.raises(InputError, match="csv: expected a CSV file in UTF-8"):
            pairs_from_csv(tmp_path / name)


def test_patterns_find_pairs(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "p1/ct_a.nii.gz",
        "p1/seg/a_1.nii.gz",
        "p1/seg/a_2.nii.gz",
        "p2/ct_a[x].nii.gz",
        "p2/seg/a[x]_1.nii.gz",
        "p2/seg/gone_1.nii.gz",
        "p3/ct_b.nii.gz",
        "p1/._ct_a.nii.gz",
        "p1/seg/._a_1.nii.gz",
    )
    found = pairs_from_patterns(tmp_path, "{patient}/ct_{case}.nii.gz", "{patient}/seg/{case}_{lesion}.nii.gz")
    assert [(p.case, p.patient, p.image.name, p.mask.name) for p in found] == [
        ("a[x]_1", "p2", "ct_a[x].nii.gz", "a[x]_1.nii.gz"),
        ("a_1", "p1", "ct_a.nii.gz", "a_1.nii.gz"),
        ("a_2", "p1", "ct_a.nii.gz", "a_2.nii.gz"),
    ]
    assert found.unpaired_images == [tmp_path / "p3" / "ct_b.nii.gz"]
    assert [p.case for p in pairs_from_patterns(tmp_path, "{w}/ct_{v}.nii.gz", "{w}/seg/{v}_1.nii.gz")] == [
        "p1_a",
        "p2_a[x]",
    ]


@pytest.mark.parametrize(
    ("images", "masks", "message"),
    [
        ("ct.nii", "{case}.nii", "images: expected a path"),
        ("{case", "{case}.nii", "images: expected a path"),
        ("{}.nii", "{case}.nii", "images: expected a path"),
        ("/{case}.nii", "{case}.nii", "images: expected a path"),
        ("../{case}.nii", "{case}.nii", "images: expected a path"),
        ("{case.real}.nii", "{case}.nii", "images: expected a path"),
        ("{a}/{case}.nii", "{case}.nii", r"no \{a\}"),
        ("{case}.nii", "no/{case}.nii", "no such pair"),
        ("x/{case}.nii", "{any}/{case}_m.nii", None),
        ("x/{case}.nii", "{case}/{case}.nii", "no such pair"),
    ],
)
def test_patterns_that_do_not_fit_are_refused(images: str, masks: str, message: str | None, tmp_path: Path) -> None:
    touch(tmp_path, "x/a.nii", "y/a_m.nii", "z/a_m.nii", "b/c.nii")
    if message is None:  # two masks, told apart by the field
        assert [p.case for p in pairs_from_patterns(tmp_path, images, masks)] == ["a_y", "a_z"]
        return
    with pytest.raises(InputError, match=message):
        pairs_from_patterns(tmp_path, images, masks)


def test_two_masks_of_one_case_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii", "p/a.q_r.nii", "p_q/a.r.nii")
    with pytest.raises(InputError, match="expected one mask for each case"):
        pairs_from_patterns(tmp_path, "{case}.nii", "{x}/{case}.{lesion}.nii")
