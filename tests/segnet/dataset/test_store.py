"""Patient files: values restored, and every kind of damage named with its remedy."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from segnet.config import DataConfig, PrepareConfig
from segnet.dataset.batches import BatchSource
from segnet.dataset.prepare import prepare
from segnet.dataset.store import Cases, PatientFile, load_dataset
from segnet.errors import InputError
from segnet.io.pairs import find_pairs


def test_masks_of_zscores_are_read_and_images_refused(pairs_folder: Path, tmp_path: Path) -> None:
    prepare(find_pairs(pairs_folder), tmp_path / "z", PrepareConfig(values="zscore"), workers=1)
    dataset = load_dataset(tmp_path / "z")
    first = dataset.cases[0]
    with PatientFile(dataset.path_of(first), dataset.config) as file:
        assert file.mask(first.case).any()
        with pytest.raises(InputError, match="zscore"):
            file.image(first.case)


def remove(file: Path) -> None:
    file.unlink()


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-500])


def overwrite(file: Path) -> None:
    file.write_text("no HDF5")


def changed(change: Callable[[Any], None]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            change(file[next(name for name in file if not name.startswith("."))])

    return damage


def shorter_list(group: Any) -> None:
    voxels = group["lesion"][:1]
    del group["lesion"]
    group["lesion"] = voxels


def other_shape(group: Any) -> None:
    mask = group["mask"][:, :-1]
    del group["mask"]
    group["mask"] = mask


DAMAGE = {
    "missing": remove,
    "truncated": truncate,
    "of another kind": overwrite,
    "without the case": changed(lambda group: group.parent.__delitem__(group.name)),
    "without an image": changed(lambda group: group.__delitem__("image")),
    "without a list of voxels": changed(lambda group: group.__delitem__("lesion")),
    "with a shorter list": changed(shorter_list),
    "with a mask of another shape": changed(other_shape),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_named_with_the_remedy(
    damage: Callable[[Path], None], prepared: Path, tmp_path: Path
) -> None:
    """By every reader: a whole case, a slice, a voxel of the lesion, a training batch."""
    shutil.copytree(prepared, tmp_path / "copy")
    dataset = load_dataset(tmp_path / "copy")
    entry = dataset.cases[0]
    file = dataset.path_of(entry)
    damage(file)
    readers: list[Callable[[Cases], object]] = [
        lambda cases: cases[0],
        lambda cases: cases.plane(0, 2),
        lambda cases: cases.lesion_voxel(0, entry.lesion_voxels - 1),
        lambda cases: BatchSource(cases, DataConfig(patch_px=32, input_px=32), 0).draw(4),
    ]
    for read in readers:
        with pytest.raises(InputError) as caught:
            read(Cases(dataset, [entry.case]))
        assert str(file) in str(caught.value)
        assert str(caught.value).endswith("run `segnet prepare` again")


def test_a_file_with_changed_bytes_is_read_or_refused(prepared: Path, tmp_path: Path) -> None:
    """Never anything but an InputError, wherever the bytes lie."""
    shutil.copytree(prepared, tmp_path / "copy")
    dataset = load_dataset(tmp_path / "copy")
    entry = dataset.cases[0]
    file = dataset.path_of(entry)
    whole = file.read_bytes()
    refused = 0
    for at in np.random.default_rng(0).integers(len(whole), size=200).tolist():
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF] * 4) + whole[at + 4 :])
        try:
            cases = Cases(dataset, [entry.case])
            _ = cases[0]
            cases.lesion_voxel(0, 0)
            cases.close()
        except InputError:
            refused += 1
    assert 0 < refused < 200
