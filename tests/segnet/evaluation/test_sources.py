"""Names of files: what is a mask, what lies beside it, which image is whose."""

from __future__ import annotations

from pathlib import Path

import pytest

from segnet.errors import InputError
from segnet.evaluation.sources import few, find_truths, images_of, map_beside, match
from segnet.io.images import images_in
from segnet.prediction.clicks import read_clicks


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    "names",
    [
        ("a.nii", "a_pred.nii"),
        ("a_img.nii", "a_labels.nii"),
        ("a.nrrd", "a.seg.nrrd"),
        ("a.nrrd", "a-label.nrrd"),
        ("a_CT.nii", "a_Mask.nii"),
        ("a_0000.nii.gz", "a-segmentation.nii.gz"),
        ("images/a_0000.nii", "labels/a.nii"),
        ("a/1.nrrd", "a/Segmentation.seg.nrrd"),
    ],
)
def test_a_file_is_a_mask_or_an_image_for_every_command(tmp_path: Path, names: tuple[str, str]) -> None:
    image, mask = (tmp_path / name for name in names)
    for path in (image, mask):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert images_in(tmp_path) == {"a": image}
    (truth,) = find_truths(tmp_path, None)
    assert (truth.case, truth.mask, truth.image) == ("a", mask, image)


def test_masks_alone_are_no_images(tmp_path: Path) -> None:
    touch(tmp_path, "a_seg.nii", "lung_0000.nii", "b-label.nrrd")
    assert {t.case: t.mask.name for t in find_truths(tmp_path, None)} == {
        "a": "a_seg.nii",
        "b": "b-label.nrrd",
        "lung_0000": "lung_0000.nii",
    }
    assert list(images_in(tmp_path)) == ["lung_0000"]
    (tmp_path / "lung_0000.nii").unlink()
    with pytest.raises(InputError, match=r"got only a_seg\.nii, a mask by its name; rename it"):
        images_in(tmp_path)


def test_cases_in_another_normalisation_of_unicode(tmp_path: Path) -> None:
    touch(tmp_path / "p", "cafe\u0301.nii", "cafe\u0301_probability.nii")
    touch(tmp_path / "t", "caf\u00e9.nii")
    truths = find_truths(tmp_path / "t", None)
    assert match(tmp_path / "p", truths, single=False) == ({"caf\u00e9": tmp_path / "p" / "cafe\u0301.nii"}, [])
    assert map_beside(tmp_path / "p" / "cafe\u0301.nii") is not None
    assert list(images_in(tmp_path / "p", ["cafe\u0301"])) == ["caf\u00e9"]
    clicks = tmp_path / "clicks.csv"
    clicks.write_text("case,x,y,z\ncafe\u0301,1,2,3\n")
    assert list(read_clicks(clicks)) == ["caf\u00e9"]


def test_maps_beside_masks(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz", "a_probability.nii.gz", "b.mha", "b_probability.mha", "c.nii.gz")
    beside = {name: map_beside(tmp_path / name) for name in ("a.nii.gz", "b.mha", "c.nii.gz")}
    assert [None if p is None else p.name for p in beside.values()] == [
        "a_probability.nii.gz", "b_probability.mha", None,
    ]  # fmt: skip


def test_images_by_case(tmp_path: Path) -> None:
    touch(tmp_path / "i", "a_ct.nii.gz", "b.nii.gz", "c_0000.nii.gz", "stranger.nii.gz")
    assert {case: p.name for case, p in images_of(tmp_path / "i", ["a", "b", "c", "d"]).items()} == {
        "a": "a_ct.nii.gz",
        "b": "b.nii.gz",
        "c": "c_0000.nii.gz",
    }
    touch(tmp_path / "i", "a.nii.gz")
    with pytest.raises(InputError, match=r"images: expected one file for case a, got a.nii.gz and a_ct.nii.gz"):
        images_of(tmp_path / "i", ["a"])
    with pytest.raises(InputError, match="images: expected a folder"):
        images_of(tmp_path / "none", ["a"])


def test_few_names() -> None:
    assert few(["a", "b"]) == "a, b"
    assert few(list("abcdef")) == "a, b, c, d and 2 more"
    assert few([]) == "none"
