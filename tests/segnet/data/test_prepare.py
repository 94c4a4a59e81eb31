"""HDF5 datasets: content, refusal of bad cases, and that a failure leaves nothing half-written."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pytest

from segnet.data.pairs import Pair, find_pairs
from segnet.data.prepare import load_dataset, prepare
from segnet.errors import InputError

AFFINE_LPS = np.array([[-0.5, 0, 0, 40], [0, -0.75, 0, 30], [0, 0, 3.0, -7], [0, 0, 0, 1]])


def hu(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1500, 1500, (6, 5, 4)).astype(np.int16)


def lesion() -> np.ndarray:
    mask = np.zeros((6, 5, 4), np.uint8)
    mask[1:4, 2, 1] = 1
    return mask


def add_case(root: Path, case: str, image: np.ndarray | None = None, mask: np.ndarray | None = None) -> None:
    arrays = {"images": hu() if image is None else image, "labels": lesion() if mask is None else mask}
    for folder, array in arrays.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, AFFINE_LPS), root / folder / f"{case}.nii.gz")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for case in ("b_lesion_01", "a_lesion_02", "a_lesion_01"):
        add_case(tmp_path / "in", case)
    return tmp_path / "in"


def only(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


def test_files_hold_what_is_promised(root: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    result = prepare(
        find_pairs(root), tmp_path / "out", window_hu=(-1000, 400), progress=lambda *done: calls.append(done)
    )
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert only(tmp_path / "out") == {"a.h5", "b.h5", "dataset.json"}
    assert only(tmp_path) == {"in", "out"}
    image = hu()[::-1, ::-1].transpose(2, 1, 0)  # LPS to RAS+, then (Z, Y, X)
    with h5py.File(tmp_path / "out" / "a.h5") as file:
        assert set(file) == {"a_lesion_01", "a_lesion_02"}
        assert file.attrs["patient"] == "a"
        assert file.attrs["format"] == "segnet-prepare/1"
        np.testing.assert_array_equal(file.attrs["window_hu"], [-1000.0, 400.0])
        group: Any = file["a_lesion_01"]
        assert group["image"].dtype == np.int16
        assert group["mask"].dtype == np.uint8
        np.testing.assert_array_equal(group["image"][:], np.clip(image, -1000, 400))
        np.testing.assert_array_equal(group["mask"][:], lesion()[::-1, ::-1].transpose(2, 1, 0))
        for name in ("image", "mask"):
            stored = group[name]
            assert (stored.chunks, stored.compression, stored.shuffle) == ((1, 5, 6), "lzf", True)
        np.testing.assert_allclose(group.attrs["spacing_zyx_mm"], [3.0, 0.75, 0.5])
        affine = group.attrs["affine"]
        np.testing.assert_allclose(affine[:3, :3], np.diag([0.5, 0.75, 3.0]))
        np.testing.assert_allclose(affine[:3, 3], [40 - 5 * 0.5, 30 - 4 * 0.75, -7])
        assert group.attrs["source_image"] == group.attrs["source_mask"] == "a_lesion_01.nii.gz"
        digest = hashlib.sha256((root / "images" / "a_lesion_01.nii.gz").read_bytes()).hexdigest()
        assert group.attrs["image_sha256"] == digest

    dataset = load_dataset(tmp_path / "out")
    assert list(dataset.cases) == result.cases
    assert [case.case for case in dataset.cases] == ["a_lesion_01", "a_lesion_02", "b_lesion_01"]
    assert dataset.patients == ["a", "b"]
    assert dataset.window_hu == (-1000, 400)
    first = dataset.cases[0]
    assert (first.shape_zyx, first.spacing_zyx_mm, first.lesion_voxels) == ((4, 5, 6), (3.0, 0.75, 0.5), 3)
    assert first.image_sha256 == digest
    assert dataset.path_of(first) == tmp_path / "out" / "a.h5"
    assert load_dataset(tmp_path / "out" / "dataset.json") == dataset
    listed = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert set(listed) == {"format", "window_hu", "cases"}
    assert set(listed["cases"][0]) == {
        "case",
        "patient",
        "file",
        "shape_zyx",
        "spacing_zyx_mm",
        "lesion_voxels",
        "image_sha256",
        "mask_sha256",
    }


def test_scaled_images_are_rounded_not_truncated(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.full((6, 5, 4), 39.7, np.float32), AFFINE_LPS)
    add_case(tmp_path / "in", "a")
    nib.save(image, tmp_path / "in" / "images" / "a.nii.gz")
    prepare(find_pairs(tmp_path / "in"), tmp_path / "out")
    with h5py.File(tmp_path / "out" / "a.h5") as file:
        assert np.unique(file["a/image"][:]) == [40]


def bad_cases(root: Path) -> None:
    add_case(root, "c_empty", mask=np.zeros((6, 5, 4), np.uint8))
    add_case(root, "d_nan", image=np.full((6, 5, 4), np.nan, np.float32))
    add_case(root, "e_labels", mask=2 * lesion())


def test_a_bad_case_stops_the_run_and_leaves_nothing(root: Path, tmp_path: Path) -> None:
    bad_cases(root)
    with pytest.raises(InputError, match="at least one lesion voxel"):
        prepare(find_pairs(root), tmp_path / "out")
    assert only(tmp_path) == {"in"}


def test_bad_cases_can_be_skipped(root: Path, tmp_path: Path) -> None:
    bad_cases(root)
    result = prepare(find_pairs(root), tmp_path / "out", on_error="skip")
    assert [case for case, _ in result.skipped] == ["c_empty", "d_nan", "e_labels"]
    for (_, reason), word in zip(result.skipped, ("lesion voxel", "NaN", "also 2"), strict=True):
        assert word in reason
    assert only(tmp_path / "out") == {"a.h5", "b.h5", "dataset.json"}
    bad = [pair for pair in find_pairs(root) if pair.case[0] in "cde"]
    with pytest.raises(InputError, match="none of 3"):
        prepare(bad, tmp_path / "none", on_error="skip")
    assert only(tmp_path) == {"in", "out"}


def test_any_failure_leaves_the_earlier_dataset(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(find_pairs(root), out)
    before = {p.name: p.read_bytes() for p in out.iterdir()}

    def interrupt(done: int, _: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(find_pairs(root)[1:], out, window_hu=(0, 100), progress=interrupt)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    assert only(tmp_path) == {"in", "out"}


def test_a_second_run_replaces_the_dataset_and_nothing_else(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(find_pairs(root), out)
    (out / "notes.txt").write_text("mine")
    prepare([pair for pair in find_pairs(root) if pair.patient == "b"], out, window_hu=(0, 100))
    assert only(out) == {"b.h5", "dataset.json", "notes.txt"}
    assert load_dataset(out).window_hu == (0, 100)
    assert load_dataset(out).patients == ["b"]


def test_other_peoples_folders_are_left_alone(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    prepare(find_pairs(root)[:1], out)  # empty: taken
    for content in ("{", "[]", '{"format": "other/1"}'):
        (out / "dataset.json").write_text(content)
        with pytest.raises(InputError, match="--overwrite"):
            prepare(find_pairs(root), out)
        assert (out / "dataset.json").read_text() == content
    prepare(find_pairs(root), out, overwrite=True)
    assert len(load_dataset(out).cases) == 3
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="got the file"):
        prepare(find_pairs(root), tmp_path / "file")


def test_bad_arguments_are_refused(root: Path, tmp_path: Path) -> None:
    pairs = find_pairs(root)
    out = tmp_path / "out"
    with pytest.raises(InputError, match="at least one pair"):
        prepare([], out)
    for window in ((400.0, -1000.0), (0.0, 0.0), (0.0, float("nan")), (-1e6, 0.0)):
        with pytest.raises(InputError, match="window_hu"):
            prepare(pairs, out, window_hu=window)
    with pytest.raises(InputError, match="once"):
        prepare([pairs[0], pairs[0]], out)
    with pytest.raises(InputError, match="on_error"):
        prepare(pairs, out, on_error="ignore")  # type: ignore[arg-type]
    for name in ("../up", "", ".", "a/b", "a\\b"):
        for case, patient in ((name, "p"), ("c", name)):
            with pytest.raises(InputError, match="expected a name"):
                prepare([Pair(case, patient, pairs[0].image, pairs[0].mask)], out)
    assert only(tmp_path) == {"in"}


def test_a_damaged_index_is_refused(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(find_pairs(root), out)
    index = json.loads((out / "dataset.json").read_text())

    def check(message: str, **changes: Any) -> None:
        case = {**index["cases"][0], **changes.pop("case", {})}
        content = {**index, "cases": [case, *index["cases"][1:]], **changes}
        (out / "dataset.json").write_text(json.dumps(content))
        with pytest.raises(InputError, match=message) as caught:
            load_dataset(out)
        assert "\n" not in str(caught.value)

    check("format", format="segnet-prepare/2")
    check("cases", cases=[])
    check(r"cases\.0\.file", case={"file": "../a.h5"})
    check(r"cases\.0\.lesion_voxels", case={"lesion_voxels": 0})
    check(r"cases\.0\.extra", case={"extra": 1})
    check("window_hu", window_hu=[5.0, -5.0])
    check("twice", case={"case": "b_lesion_01"})
    check("no such file", case={"file": "gone.h5"})
    (out / "dataset.json").write_text("{")
    with pytest.raises(InputError, match="fault at the file"):
        load_dataset(out)
    with pytest.raises(InputError, match="segnet prepare"):
        load_dataset(tmp_path)


def test_real_cases_prepare(tmp_path: Path, shared_data: Path) -> None:
    pairs = find_pairs(shared_data / "lidc")[:6]
    result = prepare(pairs, tmp_path / "out")
    assert len(result.cases) == 6
    for pair, case in zip(pairs, result.cases, strict=True):
        truth = np.asarray(nib.load(pair.mask).dataobj)
        assert case.lesion_voxels == truth.sum()
        assert case.shape_zyx == truth.shape[::-1]
