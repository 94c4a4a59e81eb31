"""Names of files: what is a mask, what lies beside it, which image is whose."""

from __future__ import annotations

from pathlib import Path

import pytest

from segnet.errors import InputError
from segnet.evaluation.sources import few, images_of, map_beside, mask_files, stem_of


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def test_masks_of_every_format_but_no_maps(tmp_path: Path) -> None:
    masks = ["a.nii.gz", "b.nii", "c.mha", "d.nrrd", "e.nii.gz.zip"]
    touch(tmp_path, *masks, "a_probability.nii.gz", "c_uncertainty.mha", ".f.nii.gz", "notes.txt", "a.png")
    (tmp_path / "folder.nii").mkdir()
    assert [p.name for p in mask_files(tmp_path)] == masks
    assert [stem_of(p) for p in mask_files(tmp_path)] == ["a", "b", "c", "d", "e"]


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
