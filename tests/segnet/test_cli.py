"""The command line as a user meets it: exit codes, one-line errors, results on stdout. A few commands get a process of their own."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import gettempdir

import nibabel as nib
import numpy as np
import pytest
import torch
from command import segnet
from safetensors.torch import load_file, save_file

from segnet.io import weights
from segnet.io.metaimage import read_metaimage, write_metaimage
from segnet.io.weights import packaged


def in_its_own_process(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "segnet", *map(str, arguments)]
    # not in the checkout, whose folder would hide the installed package
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=gettempdir())


def refused(*arguments: str | Path, says: str) -> None:
    """Exit code 3, nothing on stdout, one line on stderr that says so."""
    result = segnet(*arguments)
    assert result.returncode == 3, result.stderr
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if line.strip() and "%|" not in line and "it/s" not in line]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("segnet: ")
    assert says in lines[0]


@pytest.mark.parametrize("command", ["predict", "uls23-process", "train", "evaluate", "compare", "bench"])
def test_no_command_offers_a_device_that_it_does_not_run_on(command: str) -> None:
    result = segnet(command, "--device", "cpu")
    assert result.returncode == 2
    assert "No such option" in result.stderr
    assert "--device" in result.stderr


def pair(
    folder: Path, image: np.ndarray, mask: np.ndarray, write: Callable[..., Path], mask_affine: object = None
) -> None:
    write(folder / "images" / "a.nii.gz", image)
    write(folder / "labels" / "a.nii.gz", mask, *([] if mask_affine is None else [mask_affine]))


IMAGE = np.zeros((12, 10, 4), np.int16)
MASK = np.zeros((12, 10, 4), np.uint8)
MASK[5, 5, 2] = 1


def test_a_process_of_its_own_has_the_same_exit_codes_and_streams(tmp_path: Path) -> None:
    for arguments in (
        ["--version"],
        ["predict"],
        ["info", "ahnet", "--base-width", "8", "--json"],
        ["prepare", "-i", tmp_path, "-o", tmp_path / "out", "-q"],
    ):
        alone, here = in_its_own_process(*arguments), segnet(*arguments)
        assert (alone.returncode, alone.stdout) == (here.returncode, here.stdout)
        assert alone.stderr == here.stderr or arguments == ["predict"]  # where the program's name differs


def test_help_and_version() -> None:
    for arguments in (["--help"], ["train", "--help"], ["predict", "--help"]):
        result = segnet(*arguments)
        assert result.returncode == 0
        assert "Usage" in result.stdout
    assert segnet("--version").stdout.startswith("segnet 0.")


def test_usage_errors_have_code_2() -> None:
    assert segnet("predict").returncode == 2
    assert segnet("nonsense").returncode == 2
    assert segnet("predict", "-i", "a", "-o", "b", "-m", "c", "--click", "1,2").returncode == 2


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("truncated", "truncated"),
        ("shape", "shape"),
        ("affine", "expected voxels within 0.001 mm of those of"),
        ("nan", "NaN"),
        ("2-D", "2-D"),
        ("labels", "0 and 1"),
        ("no pairs", "pair"),
    ],
)
def test_prepare_refuses_bad_input_and_writes_nothing(
    case: str, says: str, tmp_path: Path, write_nifti: Callable[..., Path]
) -> None:
    folder, image, mask, affine = tmp_path / "in", IMAGE, MASK, None
    if case == "shape":
        mask = MASK[:-1]
    elif case == "affine":
        affine = np.diag([1.0, 1, 1, 1])
    elif case == "nan":
        image = np.where(np.arange(4) == 1, np.nan, IMAGE).astype(np.float32)
    elif case == "2-D":
        image = IMAGE[:, :, 0]
    elif case == "labels":
        mask = MASK * 3
    pair(folder, image, mask, write_nifti, affine)
    if case == "truncated":
        file = folder / "images" / "a.nii.gz"
        file.write_bytes(gzip.compress(os.urandom(5000))[:-500])
        nib.Nifti1Image(np.random.default_rng(0).integers(0, 999, IMAGE.shape, np.int16), np.eye(4)).to_filename(file)
        file.write_bytes(file.read_bytes()[:-200])
    elif case == "no pairs":
        (folder / "labels" / "a.nii.gz").unlink()
    refused("prepare", "-i", folder, "-o", tmp_path / "out", "-q", says=says)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


def test_predict_refuses_bad_input_and_writes_nothing(
    tmp_path: Path, write_nifti: Callable[..., Path], run_folder: Path
) -> None:
    good = write_nifti(tmp_path / "good.nii.gz", IMAGE)
    flat = write_nifti(tmp_path / "flat.nii.gz", IMAGE[:, :, 0])
    out = tmp_path / "out"
    out.mkdir()
    refused("predict", "-i", flat, "-o", out / "m.nii.gz", "-m", run_folder, "-q", says="2-D")
    refused("predict", "-i", tmp_path / "no.nii.gz", "-o", out / "m.nii.gz", "-m", run_folder, "-q", says="no.nii.gz")
    refused("predict", "-i", good, "-o", out / "m.nii.gz", "-m", tmp_path, "-q", says="expected a checkpoint")
    other = tmp_path / "other.safetensors"
    save_file(load_file(run_folder / "model.safetensors"), other, {"format": "pt"})
    refused("predict", "-i", good, "-o", out / "m.nii.gz", "-m", other, "-q", says="another program")
    refused("predict", "-i", good, "-o", out / "m.png", "-m", run_folder, "-q", says=".nii.gz")
    refused("predict", "-i", good, "-o", out / "m.nii.gz", "-m", run_folder, "--click", "99,0,0", "-q", says="click")
    assert list(out.iterdir()) == []


def test_an_ensemble_of_a_folder_of_folds_with_uncertainty_and_bfloat16(
    tmp_path: Path, write_nifti: Callable[..., Path], run_folder: Path
) -> None:
    image = write_nifti(tmp_path / "in" / "case.nii.gz", np.where(MASK, 300, -900).astype(np.int16))
    folds = tmp_path / "folds"
    for k in range(2):
        shutil.copytree(run_folder, folds / f"fold-{k}")
    flags = ["--uncertainty", "--bfloat16", "--probabilities", "-q"]
    result = segnet(
        "predict", "-i", image, "-o", tmp_path / "out.nii.gz", "-m", folds, "-m", run_folder, *flags, "--json"
    )
    assert result.returncode == 0, result.stderr
    (found,) = json.loads(result.stdout)["predictions"]
    assert found["bfloat16_difference"]["slices"] == 4
    assert ("float32 used" in result.stderr) == (found["precision"] == "float32")
    names = {"out.nii.gz", "out.json", "out.png", "out_probability.nii.gz", "out_uncertainty.nii.gz", "in", "folds"}
    assert {p.name for p in tmp_path.iterdir()} == names
    # three times the same network
    assert np.abs(np.asarray(nib.load(tmp_path / "out_uncertainty.nii.gz").dataobj)).max() < 1e-6
    refused(
        *["predict", "-i", tmp_path / "in", "-o", tmp_path / "masks", "-m", run_folder, "--uncertainty", "-q"],
        says="uncertainty: expected several members or views",
    )
    split = json.loads((run_folder / "split.json").read_text())
    result = segnet("predict", "-i", tmp_path / "in", "-o", tmp_path / "m", "-m", folds, "--part", "test", "-q")
    assert f"expected an image of case {min(split['test'])}" in result.stderr
    (folds / "fold-1" / "split.json").write_text(json.dumps({**split, "test": split["val"]}))
    refused(
        *["predict", "-i", tmp_path / "in", "-o", tmp_path / "m", "-m", folds, "--part", "test", "-q"],
        says="part: expected the same test cases in every run's split",
    )


def test_one_bad_image_of_a_folder_gives_code_4_and_the_others_their_masks(
    tmp_path: Path, write_nifti: Callable[..., Path], run_folder: Path
) -> None:
    write_nifti(tmp_path / "in" / "good.nii.gz", IMAGE)
    write_nifti(tmp_path / "in" / "flat.nii.gz", IMAGE[:, :, 0])
    result = segnet("predict", "-i", tmp_path / "in", "-o", tmp_path / "out", "-m", run_folder, "-q", "--json")
    assert result.returncode == 4
    found = json.loads(result.stdout)
    assert [Path(p["image"]).name for p in found["predictions"]] == ["good.nii.gz"]
    assert [Path(f["image"]).name for f in found["failed"]] == ["flat.nii.gz"]
    assert "flat" in result.stderr
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "good.json",
        "good.nii.gz",
        "good.png",
        "statistics.csv",
    ]


def test_a_list_of_clicks_over_several_formats_and_again(
    tmp_path: Path, write_nifti: Callable[..., Path], run_folder: Path
) -> None:
    source, out, clicks = tmp_path / "in", tmp_path / "out", tmp_path / "clicks.csv"
    write_nifti(source / "a.nii.gz", IMAGE)
    write_nifti(source / "c.nii.gz", IMAGE)
    write_metaimage(source / "b.mha", IMAGE.transpose(2, 1, 0), spacing_xyz_mm=(0.8, 0.8, 2.5))
    clicks.write_text("case,x,y,z\na,5,5,2\na,1,1,1\nb,5,5,2\n")
    command = ["predict", "-i", source, "-o", out, "-m", run_folder, "--clicks", clicks, "-q", "--no-preview"]
    result = segnet(*command, "--voi", "4", "6", "2", "--threads", "1", "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["without_click"] == ["c"]
    assert "1 images without a click left out" in result.stderr
    stems = ["a_lesion_01", "a_lesion_02", "b"]
    assert [Path(p["mask"]).name for p in found["predictions"]] == [f"{stem}.nii.gz" for stem in stems]
    assert found["predictions"][0]["voi_zyx"]["shape"] == [2, 6, 4]
    names = [f"{stem}{ending}" for stem in stems for ending in (".json", ".nii.gz")]
    assert sorted(p.name for p in out.iterdir()) == [*names, "statistics.csv"]
    # LPS in the file, so turned twice
    assert np.allclose(nib.load(out / "b.nii.gz").affine, np.diag([-0.8, -0.8, 2.5, 1]))
    result = segnet(*command, "--voi", "4", "6", "2")
    assert result.stdout == f"3 masks in {out}, 3 of them from before\n"
    refused(*command, "--voi-mm", "9", "9", "9", says="expected the settings.voi_zyx")
    assert segnet(*command, "--click", "1,1,1").returncode == 2
    assert segnet(*command, "--voi", "4", "6", "2", "--voi-mm", "9", "9", "9").returncode == 2


def test_the_challenges_container(tmp_path: Path, run_folder: Path) -> None:
    source, out = tmp_path / "input", tmp_path / "output"
    (source / "images" / "stacked-3d-ct-lesion-volumes").mkdir(parents=True)
    stack = np.random.default_rng(0).normal(-800, 50, (24, 32, 32)).astype(np.int16)
    write_metaimage(source / "images/stacked-3d-ct-lesion-volumes/a.mha", stack, spacing_xyz_mm=(1, 1, 1))
    spacings = source / "stacked-3d-volumetric-spacings.json"
    spacings.write_text("[[1, 1, 1], [1, 1, 2], [1, 1, 3]]")
    command = ["uls23-process", "--input", source, "--output", out, "-m", run_folder, "--voi-slices", "8", "-q"]
    result = segnet(*command, "--json")
    assert result.returncode == 0, result.stderr
    assert len(json.loads(result.stdout)["stacks"][0]["lesion_voxels"]) == 3
    assert read_metaimage(out / "images" / "ct-binary-uls" / "a.mha").array_zyx.shape == stack.shape
    spacings.write_text("[[1, 1, 1]]")
    refused(*command, says="spacings: expected one for each of the 3 volumes")


def test_without_a_model_the_packages_weights_are_used(tmp_path: Path) -> None:
    mask = tmp_path / "mask.nii.gz"
    result = segnet("predict", "-i", "example", "-o", mask, "--click", "centre", "-q", "--json")
    assert result.returncode == 0, result.stderr
    (found,) = json.loads(result.stdout)["predictions"]
    files = packaged()
    assert [model["path"] for model in found["models"]] == [str(file) for file in files]
    assert found["case"] == "example"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mask.json", "mask.nii.gz", "mask.png"]
    told = segnet("predict", "-i", "example", "-o", mask, "--click", "centre", "-q", *(f"-m{file}" for file in files))
    assert "from before" in told.stdout
    scored = segnet("evaluate", "-i", mask, "-t", "example", "-q", "--json")
    assert scored.returncode == 0, scored.stderr
    refused(
        *["predict", "-i", "example", "-o", tmp_path / "other.nii.gz", "--part", "test", "-q"],
        says="part: expected split.json of the training run beside the model",
    )


def test_without_weights_the_way_to_some_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "PACKAGED", tmp_path)
    for command in (
        ["predict", "-i", "example", "-o", tmp_path / "mask.nii.gz"],
        ["uls23-process", "--input", tmp_path, "--output", tmp_path],
        ["info", "--weights"],
    ):
        refused(*command, says="got none; name a run of `segnet train`, or copy released .safetensors files there")


def test_the_container_needs_no_model(tmp_path: Path) -> None:
    source, out = tmp_path / "input", tmp_path / "output"
    (source / "images" / "stacked-3d-ct-lesion-volumes").mkdir(parents=True)
    stack = np.random.default_rng(0).normal(-800, 50, (16, 32, 32)).astype(np.int16)
    write_metaimage(source / "images/stacked-3d-ct-lesion-volumes/a.mha", stack, spacing_xyz_mm=(1, 1, 1))
    (source / "stacked-3d-volumetric-spacings.json").write_text("[[1, 1, 1], [1, 1, 2]]")
    result = segnet("uls23-process", "--input", source, "--output", out, "--voi-slices", "8", "-q")
    assert result.returncode == 0, result.stderr
    assert (out / "images" / "ct-binary-uls" / "a.mha").exists()


def test_info_lists_the_packages_weights() -> None:
    found = json.loads(segnet("info", "--weights", "--json").stdout)["weights"]
    assert [facts["file"] for facts in found] == [file.name for file in packaged()]
    text = segnet("info", "--weights").stdout
    for facts, file in zip(found, packaged(), strict=True):
        assert facts["bytes"] == file.stat().st_size
        assert facts["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
        assert 2 * facts["parameters"] < facts["bytes"]  # half precision, and statistics of the norms
        for name in ("network", "sha256", "licence", "attribution", "sites"):
            assert facts[name] in text


def test_runs_are_released_as_one_ensemble(tmp_path: Path, run_folder: Path) -> None:
    out = tmp_path / "weights"
    facts = ["--licence", "CC-BY-4.0", "--attribution", "phantoms", "--sites", "bright balls", "--commit", "abc"]
    result = segnet("release", run_folder, run_folder, "-o", out, *facts)
    assert result.returncode == 0, result.stderr
    names = ["mamba-ahnet-1.safetensors", "mamba-ahnet-2.safetensors"]
    assert sorted(p.name for p in out.iterdir()) == names
    assert all(str(out / name) in result.stdout for name in names)
    listed = json.loads(segnet("release", run_folder, "-o", tmp_path / "one", *facts, "--json").stdout)["files"]
    (one,) = (tmp_path / "one").iterdir()
    assert listed == [{"file": str(one), "bytes": one.stat().st_size}]
    assert one.name == "mamba-ahnet.safetensors"
    trained = load_file(run_folder / "model.safetensors")
    for name, tensor in load_file(one).items():
        assert torch.equal(tensor, trained[name].to(tensor.dtype))
    refused("release", tmp_path, "-o", out, *facts, says="expected a checkpoint or a training run's folder")
    refused("release", run_folder, "-o", one / "folder", *facts, says="output: expected a writable folder")
    assert segnet("release", run_folder, "-o", out).returncode == 2


def test_from_phantom_to_score(tmp_path: Path) -> None:
    """The whole way, small: every command, exit code 0."""
    data, prepared, run, masks, report = (tmp_path / name for name in ("data", "prepared", "run", "masks", "report"))
    assert segnet("phantom", "-o", data, "-n", "5", "--shape", "64", "64", "16", "-q").returncode == 0
    result = segnet("prepare", "-i", data, "-o", prepared, "-q", "--json")
    assert json.loads(result.stdout)["cases"] == 5
    config = tmp_path / "tiny.yaml"
    config.write_text(
        "model: {base_width: 4, depths: [1, 1, 1, 1], dstate: 4}\ndata: {patch_px: 32, input_px: 32}\n"
        "train: {max_steps: 3, batch_size: 2}\n"
    )
    result = segnet("train", "-i", prepared, "-o", run, "-c", config, "-q", "--json", "--model", "mamba-ahnet-r")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["steps"] == 3
    assert (run / "curves.png").exists()
    result = segnet(
        "predict", "-i", data / "images", "-o", masks, "-m", run, "--part", "test", "--click", "centre", "-q"
    )
    assert result.returncode == 0, result.stderr
    result = segnet("evaluate", "-i", masks, "-t", data, "-m", run, "--part", "test", "-o", report, "-q", "--json")
    assert result.returncode == 0, result.stderr
    scores = json.loads(result.stdout)
    assert json.loads((report / "evaluation.json").read_text()) == scores
    assert "background" in (report / "evaluation.txt").read_text()


def test_info_lists_the_networks() -> None:
    from segnet.models import names

    assert tuple(segnet("info", "--list").stdout.split()) == names()
    assert json.loads(segnet("info", "--list", "--json").stdout) == {"models": list(names())}


def test_every_fold_is_trained_and_a_finished_one_left_alone(prepared: Path, tmp_path: Path) -> None:
    config, run = tmp_path / "c.yaml", tmp_path / "run"
    config.write_text(
        "model: {name: unet, base_width: 4}\ndata: {patch_px: 32, input_px: 32}\n"
        "train: {max_steps: 2, batch_size: 2, validations: 1, tensorboard: false}\n"
    )
    command = ["train", "-i", prepared, "-o", run, "-c", config, "--folds", "2", "--resume"]
    result = segnet(*command, "--json")
    assert result.returncode == 0, result.stderr
    assert "slices/s" in result.stderr
    assert [fold["output"] for fold in json.loads(result.stdout)["folds"]] == [str(run / "fold-0"), str(run / "fold-1")]
    held_out = [json.loads((run / f"fold-{k}" / "split.json").read_text())["test"] for k in range(2)]
    assert not set(held_out[0]) & set(held_out[1])
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file()}
    assert json.loads(segnet(*command, "-q", "--json").stdout)["folds"][1]["steps"] == 2
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_networks_are_compared(prepared: Path, tmp_path: Path) -> None:
    small = ["--max-steps", "1", "--batch-size", "2", "--patch-px", "32", "--input-px", "32", "--validations", "1"]
    out = tmp_path / "out"
    command = [
        "compare",
        "-i",
        prepared,
        "-o",
        out,
        "-m",
        "unet,base_width=4",
        "-m",
        "hunet,base_width=4",
        "--folds",
        "2",
    ]
    result = segnet(*command, "--only-fold", "1", *small, "-q")
    assert result.returncode == 0, result.stderr
    assert "less the first" in result.stdout
    rows = [line.partition("|")[2].strip() for line in (out / "results.md").read_text().splitlines()]
    assert sum(row.startswith("unet,base_width=4 ") for row in rows) == 1
    refused(*command, "--only-fold", "2", *small, "-q", says="only-fold: expected 0 to 1, got (2,)")


def test_info_is_of_the_network_that_the_configuration_names(tmp_path: Path) -> None:
    settings = tmp_path / "mine.yaml"
    settings.write_text("model: {name: ahnet, base_width: 8}\n")
    assert json.loads(segnet("info", "-c", str(settings), "--json").stdout)["parameters"] == 596_986
    assert "name: ahnet\n" in segnet("info", "-c", str(settings), "--show-config").stdout
    assert "name: hunet\n" in segnet("info", "hunet", "-c", str(settings), "--show-config").stdout


def test_info() -> None:
    assert json.loads(segnet("info", "mamba-ahnet", "--json").stdout)["parameters"] == 695_248
    assert "0.70 M" in segnet("info").stdout
    assert json.loads(segnet("info", "ahnet", "--base-width", "8", "--json").stdout)["parameters"] == 596_986
    assert "base_width: 64\n" in segnet("info", "--base-width", "64", "--show-config").stdout
    refused("info", "--base-width", "2", says="config: model.base_width: Input should be greater than or equal to 4")
    assert "patch_px: " in segnet("info", "--show-config").stdout
    refused("info", "resnet", says="segnet: model: expected one of hunet, ahnet")
    refused(
        "info", "mamba-ahnet", "--side-px", "40", says="side-px: x: expected height and width to be multiples of 16"
    )


def test_bench() -> None:
    small = ["--side-px", "32", "--batch-size", "1", "--rounds", "1", "-q", "-m", "hunet"]
    found = json.loads(in_its_own_process("bench", "infer", *small, "--json").stdout)
    assert [row["model"] for row in found["rows"]] == ["hunet"]
    text = segnet("bench", "infer", *small, "--voi").stdout
    assert "s a VOI" in text
    assert segnet("bench", "train", *small, "--voi").returncode == 2
    text = segnet("bench", "train", *small).stdout
    assert "an estimate for its processor" in text
    assert "slices/s" in text
    refused("bench", "train", "-q", "-m", "resnet", says="segnet: model: expected one of hunet")
    assert segnet("bench", "train", "-q", "--side-px", "0").returncode == 2
    small_side = ["bench", "infer", "-q", "-m", "hunet", "--side-px", "40"]
    for more in ([], ["--voi"]):
        refused(*small_side, *more, says="side-px: x: expected height and width")


def test_augment_draws_a_sheet(tmp_path: Path, prepared: Path) -> None:
    out = tmp_path / "sheet.png"
    result = segnet(
        "augment", "-i", prepared, "-o", out, "--case", "bone_00003_lesion_01", "--patch-px", "32", "--input-px", "64"
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"bone_00003_lesion_01 in {out}\n"
    assert out.read_bytes().startswith(b"\x89PNG")
    refused("augment", "-i", prepared, "-o", tmp_path / "other.png", "--case", "nobody", says="got 'nobody'")
    refused(
        "augment", "-i", prepared, "-o", tmp_path / "o.png", "--shapes", tmp_path, says="expected a folder with sets"
    )
    assert segnet("augment", "-i", prepared, "-o", out, "--augment", "weak").returncode == 2
    assert [p.name for p in tmp_path.iterdir()] == ["sheet.png"]
