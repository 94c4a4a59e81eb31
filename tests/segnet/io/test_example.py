"""The image and mask of the package."""

from __future__ import annotations

from pathlib import Path

import pytest

import segnet
from segnet.io.example import IMAGE, MASK, or_example
from segnet.io.volumes import read_image, read_mask


def test_they_lie_on_one_grid_with_the_lesion_in_the_middle() -> None:
    image = read_image(IMAGE)
    mask = read_mask(MASK, like=image)
    assert mask.array[tuple(size // 2 for size in mask.array.shape)] == 1
    assert image.array.min() < -800 < 0 < image.array.max()
    assert IMAGE.stat().st_size + MASK.stat().st_size <= 10**6
    assert "licence" in IMAGE.with_name("README.md").read_text()


def test_a_file_of_the_users_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert or_example(Path("example")) == IMAGE
    assert or_example(Path("folder/example")) == Path("folder/example")
    (tmp_path / "example").touch()
    assert or_example(Path("example")) == Path("example")


def test_it_stands_for_an_image_in_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = segnet.predict("example", click="centre")
    assert found.volume.path == IMAGE
    found.save("mask.nii.gz")
    assert read_mask("mask.nii.gz", like=read_image(IMAGE)).array.sum() == found.mask.sum()
