"""Cases read when they are asked for: the same whole, by slice, from any cache, through closed files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segnet.config import PrepareConfig
from segnet.dataset import store as module
from segnet.dataset.prepare import prepare
from segnet.dataset.store import Cases
from segnet.errors import InputError
from segnet.io.pairs import find_pairs


def test_cases_come_back_as_prepared(prepared: Path) -> None:
    cases = Cases(prepared)
    assert len(cases) == 10
    for case, entry in zip(cases, cases.entries, strict=True):
        assert case.image.shape == case.mask.shape == entry.shape_zyx == (6, 36, 40)
        assert case.mask.sum() == entry.lesion_voxels > 0
        assert case.spacing_zyx_mm == pytest.approx((2.5, 0.80025, 0.80025), abs=1e-4)
    name = cases[3].name
    assert [c.name for c in Cases(prepared, [name])] == [name] == [cases.named(name).name]
    assert [c.name for c in cases[2:8:3]] == [cases[2].name, cases[5].name]
    with pytest.raises(InputError, match="got 'nobody'"):
        Cases(prepared, ["nobody"])
    with pytest.raises(KeyError):
        cases.named("nobody")


def open_files(suffix: str) -> list[Path]:
    """Files with this suffix that the process holds open."""
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return [target for target in (Path(os.readlink(link)) for link in links) if target.suffix == suffix]


def test_slices_and_voxels_are_those_of_the_whole(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where no more than one slice and one file are kept."""
    monkeypatch.setattr(module, "OPEN_FILES", 1)
    for cache_bytes in (0, 2**30):
        cases = Cases(prepared, cache_bytes=cache_bytes)
        for _ in range(2):
            for index, case in enumerate(cases):
                for z in (0, 3):
                    image, mask = cases.plane(index, z)
                    np.testing.assert_array_equal(image, case.image[z])
                    np.testing.assert_array_equal(mask, case.mask[z])
                voxels = [cases.lesion_voxel(index, k) for k in range(cases.entries[index].lesion_voxels)]
                np.testing.assert_array_equal(voxels, np.argwhere(case.mask))
        first, _ = cases.plane(0, 0)
        cases.plane(0, 3)
        assert (cases.plane(0, 0)[0] is first) == (cache_bytes > 0)
        assert len(open_files(".h5")) == 1
        cases.close()
    assert not open_files(".h5")


def test_unit_values_come_back_as_hu(pairs_folder: Path, prepared: Path, tmp_path: Path) -> None:
    prepare(find_pairs(pairs_folder), tmp_path / "unit", PrepareConfig(values="unit"), workers=1)
    for stored, exact in zip(Cases(tmp_path / "unit"), Cases(prepared), strict=True):
        assert np.abs(stored.image - exact.image).max() <= 1400 * 2**-12 + 1e-3  # half a unit of float16 below 1
    prepare(find_pairs(pairs_folder), tmp_path / "z", PrepareConfig(values="zscore"), workers=1)
    with pytest.raises(InputError, match="zscore"):
        Cases(tmp_path / "z")


def test_a_file_that_is_gone_is_named(prepared: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(prepared, copy)
    cases: Any = Cases(copy)
    (copy / cases.entries[0].file).unlink()
    with pytest.raises(InputError, match=cases.entries[0].file):
        cases[0]
