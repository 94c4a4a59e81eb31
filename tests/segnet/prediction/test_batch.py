"""A batch of results: kept, made anew, refused; killed at any moment it is, run again, the one that was not."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from networks import Threshold
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from segnet.cli.predict import draw_preview
from segnet.config import Config
from segnet.errors import InputError
from segnet.io.images import images_in
from segnet.prediction.batch import Batch, BatchOptions, Task, plan, predict_batch
from segnet.prediction.model import Model, load
from segnet.prediction.options import VoiSize
from segnet.prediction.predict import Prediction
from segnet.prediction.results import begun, claim_path, claimed, read_sidecar
from segnet.prediction.table import TABLE

CONFIG = Config.model_validate({"data": {"patch_px": 32, "input_px": 32}})
ALL = BatchOptions(tta=True, probabilities=True, uncertainty=True)
KINDS = ("{}.nii.gz", "{}.json", "{}.png", "{}_probability.nii.gz", "{}_uncertainty.nii.gz")


@pytest.fixture
def model(tmp_path: Path) -> Model:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"weights")
    return Model.of(Threshold(), CONFIG, paths=[weights])


@pytest.fixture
def images(tmp_path: Path, write_nifti: Callable[..., Path]) -> dict[str, Path]:
    """Each with a box of 4 x 3 x 2 voxels and one of 2 x 2 x 2."""
    for number, name in enumerate(("a", "b", "c")):
        image = np.random.default_rng(number).normal(-900, 5, (36, 40, 5)).round().astype(np.int16)
        image[10:14, 20:23, 1:3], image[25:27, 20:22, 2:4] = 300 + number, 200
        write_nifti(tmp_path / "in" / f"{name}.nii.gz", image)
    return images_in(tmp_path / "in")


def draw(path: Path, found: Prediction) -> None:
    """A preview that tells the mask and the window."""
    path.write_text(f"{found.volume.path.name} {int(found.mask.sum())} {found.window_hu}")


def run(images: dict[str, Path], out: Path, model: Model, options: BatchOptions = ALL, **more: Any) -> Batch:
    return predict_batch(plan(images, out)[0], model, options, **more)


def contents(folder: Path) -> dict[str, Any]:
    """Every file of a folder, hidden ones too, without what tells the time or the folder."""
    found: dict[str, Any] = {}
    for path in folder.iterdir():
        if path.suffix == ".json":
            found[path.name] = json.loads(path.read_text().replace(str(folder), "")) | {"elapsed_s": 0}
        elif path.suffix == ".csv":
            found[path.name] = [{**row, "seconds": ""} for row in csv.DictReader(path.open())]
        else:
            found[path.name] = path.read_bytes()
    return found


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_what_is_written_and_told(images: dict[str, Path], tmp_path: Path, model: Model) -> None:
    out = tmp_path / "out"
    batch = run(images, out, model, replace(ALL, preview=draw))
    assert {p.name for p in out.iterdir()} == {kind.format(case) for case in images for kind in KINDS} | {TABLE}
    assert [p["state"] for p in batch.predictions] == ["written"] * 3
    rows = list(csv.DictReader((out / TABLE).open()))
    assert [(row["case"], row["lesion"], row["voxels"]) for row in rows] == [
        (case, lesion, voxels) for case in "abc" for lesion, voxels in (("1", "24"), ("2", "8"))
    ]
    (large, small), sidecar = batch.predictions[1]["lesions"], read_sidecar(out / "b.json")
    assert sidecar == {k: v for k, v in batch.predictions[1].items() if k != "state"}
    assert (large["hu"]["mean"], large["hu"]["sd"], small["hu"]["max"]) == (301, 0, 200)
    affine = nib.load(images["b"]).affine
    voxel_ml = abs(np.linalg.det(affine[:3, :3])) / 1000
    assert large["volume_ml"] == pytest.approx(24 * voxel_ml, rel=1e-5)
    assert float(rows[2]["volume_ml"]) == large["volume_ml"]
    assert float(rows[2]["hu_mean"]) == 301
    assert float(rows[2]["mean_probability"]) == pytest.approx(1)
    # the mean of the box's voxels, 10..13, 20..22 and 1..2
    np.testing.assert_allclose(large["centre_ras_mm"], (affine @ (11.5, 21, 1.5, 1))[:3], atol=1e-4)
    # the axes lie in the canonical array, whose first two axes run the other way
    assert large["axes"]["z"] == 1
    ends = np.array(large["axes"]["long_yx"])
    assert ((ends[:, 0] >= 39 - 22.5) & (ends[:, 0] <= 39 - 19.5)).all()
    assert ((ends[:, 1] >= 35 - 13.5) & (ends[:, 1] <= 35 - 9.5)).all()


def test_clicked_lesions_get_a_mask_and_a_row_each_and_an_empty_one_too(
    images: dict[str, Path], tmp_path: Path, model: Model
) -> None:
    out, none = tmp_path / "out", replace(ALL, voi=VoiSize((1, 2, 2)))
    tasks = [
        Task("a", images["a"], out / "a_lesion_01.nii.gz", (11, 21, 1), "voxel", 1),
        Task("a", images["a"], out / "a_lesion_02.nii.gz", (25, 20, 2), "voxel", 2),
    ]
    batch = predict_batch(tasks, model, ALL)
    assert [p["lesion_voxels"] for p in batch.predictions] == [24, 8]
    masks = [np.asarray(nib.load(task.mask).dataobj) for task in tasks]
    assert not (masks[0] * masks[1]).any()
    assert masks[0].shape == (36, 40, 5)
    predict_batch([Task("a", images["a"], out / "none.nii.gz", (3, 3, 0), "voxel")], model, none)
    run({"b": images["b"]}, out, model, replace(ALL, threshold=1.0))
    rows = list(csv.DictReader((out / TABLE).open()))
    assert [(r["mask"], r["lesion"], r["voxels"], r["click_x"], r["click_space"]) for r in rows] == [
        ("a_lesion_01.nii.gz", "1", "24", "11", "voxel"),
        ("a_lesion_02.nii.gz", "2", "8", "25", "voxel"),
        ("b.nii.gz", "", "0", "", ""),
        ("none.nii.gz", "1", "0", "3", "voxel"),
    ]
    assert read_sidecar(out / "none.json")["voi_zyx"]["shape"] == [1, 2, 2]  # type: ignore[index]
    assert rows[3]["hu_mean"] == rows[3]["mean_probability"] == ""


def test_finished_results_are_kept_and_only_missing_ones_made(
    images: dict[str, Path], tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    options = BatchOptions(preview=draw, probabilities=True)
    images.pop("b")
    run(images, out, model, options)
    wanted, before = contents(out), times(out)
    monkeypatch.setattr("segnet.prediction.batch.read_image", None)  # nothing is read, let alone computed
    assert [p["state"] for p in run(images, out, model, options).predictions] == ["kept"] * 2
    assert {k: v for k, v in times(out).items() if k != TABLE} == {k: v for k, v in before.items() if k != TABLE}
    monkeypatch.undo()
    for name in ("a.nii.gz", "c.json", "a.png"):
        (out / name).unlink()
        if name == "c.json":  # its files are no longer known as ours
            with pytest.raises(
                InputError, match=r"output .*c_prob.*: expected no file, or one that segnet predict wrote"
            ):
                run(images, out, model, options)
            [p.unlink() for p in out.glob("c*")]
        run(images, out, model, options)
        assert contents(out) == wanted
    more = run(images, out, model, replace(options, preview=None))
    assert [p["state"] for p in more.predictions] == ["kept"] * 2


@pytest.mark.parametrize("what", ["image", "weights", "threshold", "tta", "click", "padding", "version"])
def test_a_result_of_something_else_is_made_anew_only_when_that_is_said(
    what: str, images: dict[str, Path], tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, options, clicks = tmp_path / "out", replace(ALL, probabilities=False), {}
    if what != "image":
        images.pop("a")
        images.pop("c")
    run(images, out, model)
    before = times(out)
    if what == "image":
        image = nib.load(images["b"])
        array = np.asarray(image.dataobj).copy()
        array[0, 0, 0] = 1
        nib.Nifti1Image(array, image.affine).to_filename(images["b"])
    elif what == "weights":
        model.paths[0].write_bytes(b"others")
    elif what == "version":
        monkeypatch.setattr("segnet.prediction.batch.__version__", "9.9")
    elif what == "click":
        clicks = {"click": (11, 21, 1)}
    else:
        change = {
            "threshold": {"threshold": 0.4},
            "tta": {"tta": False, "uncertainty": False},
            "padding": {"skip_padding": True},
        }
        options = replace(options, **change[what])

    def again(**more: Any) -> Batch:
        return predict_batch(plan(images, out, **clicks)[0], model, options, **more)  # type: ignore[arg-type]

    if what == "image":
        batch = again()
        assert [p["case"] for p in batch.predictions] == ["a", "c"]
        assert "expected the image_sha256 it was made with" in batch.failed[0]["reason"]
        assert "pass --overwrite" in batch.failed[0]["reason"]
    else:
        with pytest.raises(InputError, match=rf"expected the .*{what}.* it was made with, .*; pass --overwrite"):
            again()
    assert {k: v for k, v in times(out).items() if k != TABLE} == {k: v for k, v in before.items() if k != TABLE}
    batch = again(overwrite=True)
    assert [p["state"] for p in batch.predictions] == (["kept", "written", "kept"] if what == "image" else ["written"])
    # what the new settings do not write would be of the old ones
    assert (out / "b_probability.nii.gz").exists() is False
    clean = predict_batch(plan(images, tmp_path / "clean", **clicks)[0], model, options)  # type: ignore[arg-type]
    if what != "image":
        assert contents(out) == contents(tmp_path / "clean")
    assert len(clean.predictions) == len(images)


@pytest.mark.parametrize("name", ["b.nii.gz", "b.json", "b_probability.nii.gz", TABLE])
@pytest.mark.parametrize("overwrite", [True, False])
def test_files_of_others_are_never_replaced(
    name: str, overwrite: bool, images: dict[str, Path], tmp_path: Path, model: Model
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text('{"mine": 1}')
    with pytest.raises(InputError, match=rf"output .*{name}: expected no file, or"):
        run(images, out, model, overwrite=overwrite)
    assert contents(out).keys() == {name}
    assert (out / name).read_text() == '{"mine": 1}'


def test_an_edited_mask_is_never_replaced(images: dict[str, Path], tmp_path: Path, model: Model) -> None:
    out = tmp_path / "out"
    run(images, out, model)
    (out / "b.nii.gz").write_bytes(b"by hand")
    for options in (ALL, replace(ALL, threshold=0.4)):
        batch = run(images, out, model, options, overwrite=True)
        assert [f["case"] for f in batch.failed] == ["b"]
        assert "got a changed one" in batch.failed[0]["reason"]
        assert (out / "b.nii.gz").read_bytes() == b"by hand"


def test_two_results_in_one_place_and_two_processes_on_one_result_are_refused(
    images: dict[str, Path], tmp_path: Path, model: Model
) -> None:
    both = {"a": images["a"], "a_probability": images["b"]}
    with pytest.raises(InputError, match=r"a_probability.nii.gz: expected one result to write it"):
        run(both, tmp_path / "out", model)
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match=r"in/a.nii.gz: expected no file, or one that segnet predict wrote"):
        run(images, tmp_path / "in", model)
    (tmp_path / "out").mkdir()
    with claimed(tmp_path / "out" / "b.nii.gz"):
        batch = run(images, tmp_path / "out", model)
    assert [f["case"] for f in batch.failed] == ["b"]
    assert "expected no other process on b.nii.gz" in batch.failed[0]["reason"]
    assert not list((tmp_path / "out").glob(".*"))


def test_a_failed_write_leaves_no_sidecar_and_is_made_up_for(
    images: dict[str, Path], tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def full(*_: Any) -> None:
        raise InputError("path: expected a writable file, got a full disk; make room")

    monkeypatch.setattr("segnet.prediction.predict.write_mask", full)
    batch = run(images, out, model)
    assert len(batch.failed) == 3
    assert not list(out.glob("*.json"))
    monkeypatch.undo()
    assert [p["state"] for p in run(images, out, model).predictions] == ["written"] * 3
    run(images, tmp_path / "clean", model)
    assert contents(out) == contents(tmp_path / "clean")


def test_a_place_that_cannot_be_written_is_told(
    images: dict[str, Path], tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"output: expected a writable place, got .*file/out"):
        run(images, tmp_path / "file" / "out", model)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    batch = run({"a": images["a"]}, tmp_path / "out", model, BatchOptions(preview=full))
    assert "No space left on device" in batch.failed[0]["reason"]


def killed_at(operation: int, work: Callable[[], Any]) -> bool:
    """Does the work in a process that ends without a word before its n-th change to the file system; whether it came to that."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)  # a process that was forked has no other threads, and would wait for them
        signal.alarm(60)
        left = operation

        def counted(function: Any) -> Any:
            def call(*arguments: Any, **more: Any) -> Any:
                nonlocal left
                if left == 0:
                    os._exit(9)
                left -= 1
                return function(*arguments, **more)

            return call

        for name in ("replace", "unlink", "pwrite", "ftruncate", "close", "chmod"):
            setattr(os, name, counted(getattr(os, name)))
        try:
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 9


def check_sound(out: Path) -> None:
    """Every sidecar without a claim stands beside the very files it records."""
    for path in out.glob("*.json"):
        sidecar = read_sidecar(path)
        assert sidecar is not None
        if not begun(claim_path(path.with_name(sidecar["outputs"]["mask"]["file"]))):
            for entry in sidecar["outputs"].values():
                assert (out / entry["file"]).exists()


@pytest.mark.parametrize("anew", [False, True])
def test_a_batch_killed_before_any_change_to_the_file_system_ends_as_if_it_had_not_been(
    anew: bool, images: dict[str, Path], tmp_path: Path, model: Model
) -> None:
    two = {case: images[case] for case in "ab"}
    few = BatchOptions(probabilities=True)
    run(two, tmp_path / "clean", model, few)
    wanted = contents(tmp_path / "clean")
    at = 0
    while True:
        out = tmp_path / f"out-{at}"
        if anew:
            run(two, out, model, replace(few, threshold=0.999999))
        if not killed_at(at, lambda out=out: run(two, out, model, few, overwrite=anew)):  # type: ignore[misc]
            break
        check_sound(out)
        batch = run(two, out, model, few, overwrite=anew)
        assert not batch.failed
        assert contents(out) == wanted, at
        at += 1
    assert at > 20


def test_a_process_killed_at_any_moment_goes_on(
    tmp_path: Path, write_nifti: Callable[..., Path], run_folder: Path
) -> None:
    """The command itself, by SIGKILL."""
    for number in range(12):
        image = np.random.default_rng(number).normal(-700, 100, (64, 64, 12)).astype(np.int16)
        write_nifti(tmp_path / "in" / f"{number:02d}.nii.gz", image)

    def command(out: Path) -> list[str]:
        start = [sys.executable, "-m", "segnet", "predict", "-i", str(tmp_path / "in"), "-o", str(out)]
        return [*start, "-m", str(run_folder), "--probabilities", "--threshold", "0.1", "-q", "--json"]

    out, clean = tmp_path / "out", tmp_path / "clean"
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    run(
        images_in(tmp_path / "in"),
        clean,
        load(run_folder),
        BatchOptions(threshold=0.1, preview=draw_preview, probabilities=True),
    )
    process = subprocess.Popen(command(out), env=environment, stdout=subprocess.PIPE, cwd=tmp_path)
    until = time.monotonic() + 120
    while len(list(out.glob("*.json"))) < 2 and process.poll() is None and time.monotonic() < until:
        time.sleep(0.002)
    time.sleep(0.03)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    check_sound(out)
    check_sound(out)
    done = subprocess.run(command(out), env=environment, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    states = [p["state"] for p in json.loads(done.stdout)["predictions"]]
    assert len(states) == 12
    assert "kept" in states
    assert contents(out) == contents(clean)


def test_another_run_of_the_same_network_is_another_model(
    tmp_path: Path, run_folder: Path, images: dict[str, Path]
) -> None:
    run({"a": images["a"]}, tmp_path / "out", load(run_folder), BatchOptions())
    with safe_open(run_folder / "model.safetensors", "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(run_folder / "model.safetensors")
    next(iter(tensors.values())).view(-1)[0] += 1
    save_file(tensors, tmp_path / "other.safetensors", metadata)
    with pytest.raises(InputError, match="expected the weights_sha256 it was made with"):
        run({"a": images["a"]}, tmp_path / "out", load(tmp_path / "other.safetensors"), BatchOptions())
