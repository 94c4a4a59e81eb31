"""HDF5 datasets: content, refusal of bad cases, and that a failure leaves nothing half-written."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pytest
from command import segnet
from dicom_series import write_series
from pydicom import dcmread

from segnet.config import PrepareConfig, checked_prepare_config
from segnet.dataset.prepare import PrepareResult, prepare
from segnet.dataset.store import Cases, load_dataset, read_record
from segnet.errors import InputError
from segnet.io.metaimage import write_metaimage
from segnet.io.pairs import Pair, find_pairs

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


ALL = {"a.h5", "b.h5", "dataset.json", "manifest.csv", "prepare.json"}


def run(root: Path, out: Path, **options: Any) -> PrepareResult:
    return prepare(find_pairs(root), out, PrepareConfig(**options.pop("config", {})), workers=1, **options)


def test_files_hold_what_is_promised(root: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    result = run(root, tmp_path / "out", progress=lambda *done: calls.append(done))
    assert calls == [(2, 3), (3, 3)]
    assert only(tmp_path / "out") == ALL
    assert only(tmp_path) == {"in", "out"}
    image = hu()[::-1, ::-1].transpose(2, 1, 0)  # LPS to RAS+, then (Z, Y, X)
    with h5py.File(tmp_path / "out" / "a.h5") as file:
        assert set(file) == {"a_lesion_01", "a_lesion_02", ".record"}
        group: Any = file["a_lesion_01"]
        assert group["image"].dtype == np.int16
        assert group["mask"].dtype == np.uint8
        np.testing.assert_array_equal(group["image"][:], np.clip(image, -1000, 400))
        np.testing.assert_array_equal(group["mask"][:], lesion()[::-1, ::-1].transpose(2, 1, 0))
        np.testing.assert_array_equal(group["lesion"][:], np.argwhere(group["mask"][:]))
        for name in ("image", "mask"):
            assert (group[name].chunks, group[name].compression) == ((1, 5, 6), "lzf")
        np.testing.assert_allclose(group.attrs["spacing_zyx_mm"], [3.0, 0.75, 0.5])
        affine = group.attrs["affine"]
        np.testing.assert_allclose(affine[:3, :3], np.diag([0.5, 0.75, 3.0]))
        np.testing.assert_allclose(affine[:3, 3], [40 - 5 * 0.5, 30 - 4 * 0.75, -7])
    digest = hashlib.sha256((root / "images" / "a_lesion_01.nii.gz").read_bytes()).hexdigest()

    dataset = load_dataset(tmp_path / "out")
    assert list(dataset.cases) == result.cases
    assert [case.case for case in dataset.cases] == ["a_lesion_01", "a_lesion_02", "b_lesion_01"]
    assert dataset.patients == ["a", "b"]
    assert dataset.config == PrepareConfig()
    first = dataset.cases[0]
    assert (first.shape_zyx, first.lesion_voxels, first.set) == ((4, 5, 6), 3, "")
    assert first.spacing_zyx_mm == pytest.approx((3.0, 0.75, 0.5))
    assert first.lesion_ml == pytest.approx(3 * 3.0 * 0.75 * 0.5 / 1000)
    assert first.lesion_slices == ((1, 1),)
    assert first.lesion_z == [1]
    assert first.image_sha256 == digest
    assert dataset.path_of(first) == tmp_path / "out" / "a.h5"
    assert load_dataset(tmp_path / "out" / "dataset.json") == dataset
    with (tmp_path / "out" / "manifest.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["case"], row["status"]) for row in rows] == [(case.case, "prepared") for case in dataset.cases]
    assert rows[0]["image_sha256"] == digest
    assert rows[0]["image"] == str(root / "images" / "a_lesion_01.nii.gz")


@pytest.mark.parametrize(("values", "dtype"), [("hu", np.int16), ("unit", np.float16), ("zscore", np.float16)])
def test_values_are_stored_as_asked(values: str, dtype: Any, root: Path, tmp_path: Path) -> None:
    run(root, tmp_path / "out", config={"values": values, "window_hu": (-500, 300)})
    clipped = np.clip(hu()[::-1, ::-1].transpose(2, 1, 0), -500, 300).astype(np.float64)
    expected = {"hu": clipped, "unit": (clipped + 500) / 800, "zscore": (clipped - clipped.mean()) / clipped.std()}[
        values
    ]
    with h5py.File(tmp_path / "out" / "a.h5") as file:
        stored = file["a_lesion_01/image"][:]
    assert stored.dtype == dtype
    np.testing.assert_allclose(stored, expected, rtol=2**-11, atol=2**-11)  # half a unit in the last place of float16


def test_scaled_images_are_rounded_not_truncated(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.full((6, 5, 4), 39.7, np.float32), AFFINE_LPS)
    add_case(tmp_path / "in", "a")
    nib.save(image, tmp_path / "in" / "images" / "a.nii.gz")
    run(tmp_path / "in", tmp_path / "out")
    with h5py.File(tmp_path / "out" / "a.h5") as file:
        assert np.unique(file["a/image"][:]) == [40]


def test_oddities_of_files_are_shown_and_kept(root: Path, tmp_path: Path) -> None:
    odd = nib.Nifti1Image(hu(), None)
    odd.set_qform(AFFINE_LPS, code=1)
    raw = bytearray(odd.to_bytes())
    raw[76:80] = np.float32(2).tobytes()  # pixdim[0], which may be 1 or -1
    (root / "images" / "b_lesion_01.nii.gz").unlink()
    (root / "images" / "b_lesion_01.nii").write_bytes(raw)
    told = "image: qfac (pixdim[0]) is 2.0, read as 1"
    out = tmp_path / "out"
    for _ in range(2):  # a kept patient's, too
        done = segnet("prepare", "-i", root, "-o", out, "-q", "--json")
        assert done.stderr == f"b_lesion_01: {told}\n"
        assert json.loads(done.stdout)["warnings"] == {"b_lesion_01": [told]}
    assert [case.warnings for case in load_dataset(out).cases] == [(), (), (told,)]
    with (out / "manifest.csv").open(newline="") as stream:
        assert [row["warnings"] for row in csv.DictReader(stream)] == ["", "", told]


def bad_cases(root: Path) -> None:
    add_case(root, "c_empty", mask=np.zeros((6, 5, 4), np.uint8))
    add_case(root, "d_nan", image=np.full((6, 5, 4), np.nan, np.float32))
    add_case(root, "e_labels", mask=2 * lesion())
    add_case(root, "a_lesion_00", mask=2 * lesion())  # of a patient with sound cases


@pytest.mark.parametrize("workers", [1, 2])
def test_bad_cases_are_left_out_and_listed(workers: int, root: Path, tmp_path: Path) -> None:
    bad_cases(root)
    result = prepare(find_pairs(root), tmp_path / "out", workers=workers)
    assert [bad.case for bad in result.left_out] == ["a_lesion_00", "c_empty", "d_nan", "e_labels"]
    for bad, word in zip(result.left_out, ("also 2", "lesion voxel", "NaN", "also 2"), strict=True):
        assert word in bad.reason
    assert only(tmp_path / "out") == ALL
    assert [case.case for case in load_dataset(tmp_path / "out").cases] == ["a_lesion_01", "a_lesion_02", "b_lesion_01"]
    assert "left out" in (tmp_path / "out" / "manifest.csv").read_text()
    # mended, it is taken in the next time
    add_case(root, "c_empty")
    again = prepare(find_pairs(root), tmp_path / "out", workers=workers)
    assert [bad.case for bad in again.left_out] == ["a_lesion_00", "d_nan", "e_labels"]
    assert "c_empty" in [case.case for case in again.cases]


def test_strict_stops_at_a_bad_case_and_all_bad_is_an_error(root: Path, tmp_path: Path) -> None:
    bad_cases(root)
    with pytest.raises(InputError, match=r"a_lesion_00: .*also 2"):
        run(root, tmp_path / "out", strict=True)
    assert "dataset.json" not in only(tmp_path / "out")
    bad = [pair for pair in find_pairs(root) if pair.case[0] in "cde"]
    with pytest.raises(InputError, match=r"none of 3; the first, c_empty: .*lesion voxel"):
        prepare(bad, tmp_path / "none", workers=1)
    assert not (tmp_path / "none").exists()


def contents(out: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in out.iterdir()}


def test_a_second_run_changes_nothing(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(root, out)
    before = contents(out)
    times = {p.name: p.stat().st_mtime_ns for p in out.glob("*.h5")}
    result = run(root, out)
    assert (result.written, result.kept) == (0, 2)
    assert contents(out) == before
    assert {p.name: p.stat().st_mtime_ns for p in out.glob("*.h5")} == times
    for file in root.rglob("*.nii.gz"):  # a copy of the same bytes is the same image
        os.utime(file)
    assert run(root, out).written == 0


def test_changed_images_are_noticed(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(root, out)
    add_case(root, "b_lesion_01", image=hu(7))
    result = run(root, out)
    assert (result.written, result.kept) == (1, 1)
    with h5py.File(out / "b.h5") as file:
        np.testing.assert_array_equal(
            file["b_lesion_01/image"][:], np.clip(hu(7)[::-1, ::-1].transpose(2, 1, 0), -1000, 400)
        )
    # of the same size: the time tells, and then the hash
    image = nib.Nifti1Image(hu(8), AFFINE_LPS)
    (root / "images" / "b_lesion_01.nii.gz").unlink()
    nib.save(image, root / "images" / "b_lesion_01.nii")
    assert run(root, out).written == 1
    nib.save(nib.Nifti1Image(hu(9), AFFINE_LPS), root / "images" / "b_lesion_01.nii")
    assert run(root, out).written == 1
    add_case(root, "b_lesion_02")
    assert run(root, out).written == 1
    assert [case.case for case in load_dataset(out).cases if case.patient == "b"] == ["b_lesion_01", "b_lesion_02"]


def test_patients_that_are_gone_leave_and_others_files_stay(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(root, out)
    (out / "notes.txt").write_text("mine")
    with h5py.File(out / "mine.h5", "w") as file:
        file["x"] = 1
    result = prepare([pair for pair in find_pairs(root) if pair.patient == "b"], out, workers=1)
    assert (result.kept, result.removed) == (1, 1)
    assert only(out) == (ALL - {"a.h5"}) | {"notes.txt", "mine.h5"}
    assert load_dataset(out).patients == ["b"]


def test_another_way_of_preparing_needs_to_be_meant(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(root, out)
    before = contents(out)
    with pytest.raises(InputError, match="--overwrite"):
        run(root, out, config={"window_hu": (0, 100)})
    assert contents(out) == before
    run(root, out, config={"window_hu": (0, 100)}, overwrite=True)
    assert load_dataset(out).config.window_hu == (0, 100)
    with h5py.File(out / "a.h5") as file:
        assert file["a_lesion_01/image"][:].max() == 100


def test_a_stopped_run_is_visibly_unfinished_and_goes_on(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def interrupt(done: int, _: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(root, out, progress=interrupt)
    with pytest.raises(InputError, match="to its end"):
        load_dataset(out)
    result = run(root, out)
    assert (result.written, result.kept) == (1, 1)
    assert only(out) == ALL


def test_a_dataset_that_is_being_brought_up_to_date_is_unfinished(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(root, out)
    add_case(root, "b_lesion_01", image=hu(7))
    seen: list[bool] = []
    run(root, out, progress=lambda *_: seen.append((out / "dataset.json").exists()))
    assert seen == [True, False]


def test_shards_make_the_same_dataset(root: Path, tmp_path: Path) -> None:
    for patient in "cdefg":
        add_case(root, f"{patient}_lesion_01", image=hu(ord(patient)))
    run(root, tmp_path / "whole")
    parts = [run(root, tmp_path / "parts", shard=(number, 3)) for number in (2, 3, 1)]
    assert sum(part.written for part in parts) == 7
    assert not any(part.complete for part in parts)
    assert "dataset.json" not in only(tmp_path / "parts")
    assert run(root, tmp_path / "parts").written == 0
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    for bad in ((0, 3), (4, 3), (1, 0)):
        with pytest.raises(InputError, match="shard"):
            run(root, tmp_path / "parts", shard=bad)


def test_shards_may_begin_together_and_one_may_hold_bad_cases_alone(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / ".prepare.json.abc.tmp").touch()  # another shard is just writing it
    add_case(root, "c_empty", mask=np.zeros((6, 5, 4), np.uint8))
    assert run(root, out, shard=(1, 3)).written == 1
    assert [bad.case for bad in run(root, out, shard=(3, 3)).left_out] == ["c_empty"]
    run(root, out, shard=(2, 3))
    assert run(root, out).kept == 2
    (tmp_path / "other").mkdir()
    assert run(root, tmp_path / "other", shard=(3, 3)).left_out
    assert (tmp_path / "other" / "prepare.json").exists()


def test_a_run_of_all_waits_for_no_shard(root: Path, tmp_path: Path) -> None:
    """Nor a shard for it: each is told of the other. Shards go side by side."""
    out = tmp_path / "out"
    seen: list[str] = []

    def during(shard: tuple[int, int] | None, other: tuple[int, int] | None) -> None:
        def progress(*_: int) -> None:
            if len(seen) < 1:
                try:
                    seen.append("ran" if run(root, out, shard=other) else "")
                except InputError as error:
                    seen.append(str(error))

        seen.clear()
        run(root, out, shard=shard, progress=progress)

    for shard, other, told in (
        ((1, 2), None, "a run at work"),
        (None, (1, 2), "a run at work"),
        ((1, 2), (2, 2), "ran"),
    ):
        during(shard, other)
        assert told in seen[0]


def test_names_that_cannot_be_written_are_refused_first(root: Path, tmp_path: Path) -> None:
    pair = find_pairs(root)[0]
    odd = Path(os.fsdecode(b"n\xe4gel.nii.gz"))
    with pytest.raises(InputError, match="names that are text"):
        prepare([Pair("a", "a", odd, pair.mask)], tmp_path / "out", workers=1)
    assert only(tmp_path) == {"in"}


def test_a_series_with_one_changed_slice_is_noticed(tmp_path: Path) -> None:
    """Of the same size, and not the newest."""
    series, out = write_series(tmp_path / "ct", np.zeros((3, 6, 5))), tmp_path / "out"
    files = sorted(series.iterdir())
    for number, file in enumerate(files):
        os.utime(file, ns=(0, number * 10**9))
    mask = np.zeros((5, 6, 3), np.uint8)
    mask[2, 2, 1] = 1
    nib.save(nib.Nifti1Image(mask, np.diag([-1.0, -1, 2, 1])), tmp_path / "mask.nii.gz")
    pairs = [Pair("a", "a", series, tmp_path / "mask.nii.gz")]
    assert prepare(pairs, out, workers=1).written == 1
    (series / "notes.txt").write_text("read by nobody")
    assert prepare(pairs, out, workers=1).kept == 1
    changed = dcmread(files[1])
    changed.PixelData = bytes(reversed(range(60)))
    changed.save_as(files[1])
    os.utime(files[1], ns=(0, 5 * 10**8))
    assert prepare(pairs, out, workers=1).written == 1


def test_pictures_are_those_of_the_dataset(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    config = {"route": "paper", "keep_png": True}
    run(root, out, config=config)
    folder = out / "png" / "b_lesion_01"
    shutil.rmtree(folder)
    run(root, out, config=config)
    assert len(list(folder.iterdir())) == 8
    add_case(root, "b_lesion_01", image=hu()[:, :, :2], mask=np.ones((6, 5, 2), np.uint8))
    run(root, out, config=config)
    assert len(list(folder.iterdir())) == 4


def test_lesions_far_out_are_where_they_are(tmp_path: Path) -> None:
    """Beyond the range of sixteen bits, in a format that has such sizes."""
    image, mask = tmp_path / "image.mha", tmp_path / "mask.mha"
    voxels = np.zeros((1, 2, 70001), np.int16)
    write_metaimage(image, voxels, spacing_xyz_mm=(1, 1, 1))
    voxels[0, 0, 0] = 1  # LPS: x and y are turned
    write_metaimage(mask, voxels, spacing_xyz_mm=(1, 1, 1))
    prepare([Pair("a", "a", image, mask)], tmp_path / "out", workers=1)
    assert tuple(Cases(tmp_path / "out").lesion_voxel(0, 0)) == (0, 1, 70000)


KILLED_PATIENTS = 8


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Patients whose files take some time to write."""
    root = tmp_path_factory.mktemp("many")
    rng = np.random.default_rng(0)
    mask = np.zeros((160, 160, 24), np.uint8)
    mask[70:90, 70:90, 10:14] = 1
    for i in range(KILLED_PATIENTS):
        image = rng.integers(-1000, 400, mask.shape).astype(np.int16)
        for folder, array in (("images", image), ("labels", mask)):
            (root / folder).mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(array, AFFINE_LPS), root / folder / f"p{i}_lesion_01.nii.gz")
    return root


def whole_files(out: Path) -> list[Path]:
    files = list(out.glob("*.h5"))
    assert all(read_record(file) is not None for file in files)
    return files


def test_a_run_killed_at_any_moment_goes_on(many: Path, tmp_path: Path) -> None:
    """Killed by signal 9 again and again, it ends as the unbroken one, byte for byte."""
    prepare(find_pairs(many), tmp_path / "whole", workers=2)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "segnet", "prepare", "-i", str(many), "-o", str(out), "--workers", "2", "-q"]
    rng = np.random.default_rng(1)
    kills = 0
    for goal in (0, 2, 4, 6):
        process = subprocess.Popen(command, cwd=Path(__file__).parents[3], stdout=subprocess.DEVNULL)
        while len(list(out.glob("*.h5"))) < goal or not (out / "prepare.json").exists():
            assert process.poll() is None or (out / "dataset.json").exists()
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.15))
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(0.1)  # its workers follow it
        assert len(whole_files(out)) >= goal
        assert not (out / "dataset.json").exists() or len(whole_files(out)) == KILLED_PATIENTS
    assert kills
    subprocess.run(command, cwd=Path(__file__).parents[3], check=True, stdout=subprocess.DEVNULL)
    assert contents(out) == contents(tmp_path / "whole")


def test_other_peoples_folders_are_left_alone(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for content in ("{", "[]", '{"format": "other/1"}'):
        (out / "prepare.json").write_text(content)
        with pytest.raises(InputError, match="--overwrite"):
            run(root, out)
        assert contents(out) == {"prepare.json": content.encode()}
    run(root, out, overwrite=True)
    assert len(load_dataset(out).cases) == 3
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="got the file"):
        run(root, tmp_path / "file")


def test_bad_arguments_are_refused(root: Path, tmp_path: Path) -> None:
    pairs = find_pairs(root)
    out = tmp_path / "out"
    with pytest.raises(InputError, match="at least one pair"):
        prepare([], out)
    with pytest.raises(InputError, match="once"):
        prepare([pairs[0], pairs[0]], out)
    with pytest.raises(InputError, match="workers"):
        prepare(pairs, out, workers=0)
    for name in ("../up", "", ".", "a/b", "a\\b"):
        for case, patient in ((name, "p"), ("c", name)):
            with pytest.raises(InputError, match="expected a name"):
                prepare([Pair(case, patient, pairs[0].image, pairs[0].mask)], out)
    assert only(tmp_path) == {"in"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"window_hu": (400.0, -1000.0)}, "window_hu"),
        ({"window_hu": (0.0, float("nan"))}, "window_hu"),
        ({"window_hu": (-1e6, 0.0)}, "window_hu"),
        ({"route": "paper", "values": "unit"}, "8-bit grey"),
        ({"keep_png": True}, "makes no pictures"),
    ],
)
def test_settings_that_do_not_fit_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        checked_prepare_config(values)


def test_a_damaged_index_is_refused(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(root, out)
    index = json.loads((out / "dataset.json").read_text())

    def check(message: str, **changes: Any) -> None:
        case = {**index["cases"][0], **changes.pop("case", {})}
        content = {**index, "cases": [case, *index["cases"][1:]], **changes}
        (out / "dataset.json").write_text(json.dumps(content))
        with pytest.raises(InputError, match=message) as caught:
            load_dataset(out)
        assert "\n" not in str(caught.value)

    check("format", format="segnet-prepare/1")
    check("cases", cases=[])
    check(r"cases\.0\.file", case={"file": "../a.h5"})
    check(r"cases\.0\.lesion_voxels", case={"lesion_voxels": 0})
    check(r"cases\.0\.extra", case={"extra": 1})
    check("window_hu", config={"window_hu": [5.0, -5.0]})
    check("twice", case={"case": "b_lesion_01"})
    check("no such file", case={"file": "gone.h5"})
    (out / "dataset.json").write_text("{")
    with pytest.raises(InputError, match="fault at the file"):
        load_dataset(out)
    with pytest.raises(InputError, match="segnet prepare"):
        load_dataset(tmp_path)


def test_real_cases_prepare(tmp_path: Path, shared_data: Path) -> None:
    pairs = find_pairs(shared_data / "lidc")[:6]
    result = prepare(pairs, tmp_path / "out", workers=1)
    assert len(result.cases) == 6
    for pair, case in zip(pairs, result.cases, strict=True):
        truth = np.asarray(nib.load(pair.mask).dataobj)
        assert case.lesion_voxels == truth.sum()
        assert case.shape_zyx == truth.shape[::-1]
