"""segnet evaluate: what it writes, prints and returns."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from segnet.cli import app
from segnet.errors import InputError
from segnet.evaluation.click_score import challenge_score, network
from segnet.models import checkpoint
from segnet.prediction.model import Model


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments), "-q"])


@pytest.fixture
def masks(pairs_folder: Path, tmp_path: Path) -> Path:
    """Predictions of the ten pairs, moved by one voxel."""
    out = tmp_path / "masks"
    out.mkdir()
    for path in (pairs_folder / "labels").iterdir():
        image = nib.load(path)
        moved = np.roll(np.asarray(image.dataobj), 1, axis=0)
        nib.Nifti1Image(moved, image.affine).to_filename(out / path.name)
    return out


def test_everything_is_written_and_json_is_what_the_file_holds(masks: Path, pairs_folder: Path, tmp_path: Path) -> None:
    result = run("-i", masks, "-t", pairs_folder, "-o", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text()) == json.loads(result.stdout)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "evaluation.json", "evaluation.csv", "evaluation.txt", "conventions.csv", "worst.png", "median.png", "best.png",
    }  # fmt: skip
    lesion = json.loads(result.stdout)["lesions"][0]
    assert lesion["truth_hu"]["mean"] > -200  # pairs have images
    assert lesion["set"] == "bone"


def test_one_unreadable_prediction_gives_code_4_and_the_others_their_scores(
    masks: Path, pairs_folder: Path, tmp_path: Path
) -> None:
    bad = masks / "bone_00003_lesion_01.nii.gz"
    bad.write_bytes(bad.read_bytes()[:-20])
    result = run("-i", masks, "-t", pairs_folder, "-o", tmp_path / "out", "--json")
    assert result.exit_code == 4
    document = json.loads(result.stdout)
    assert [u["case"] for u in document["unreadable"]] == ["bone_00003_lesion_01"]
    assert document["missing_predictions"] == ["bone_00003_lesion_01"]
    assert document["summary"]["dice"]["n_lesions"] == 10
    assert sum(row["dice"] > 0.5 for row in document["lesions"]) == 9
    assert "segnet: bone_00003_lesion_01: " in result.stderr


def test_what_cannot_be_drawn_does_not_take_the_scores_along(masks: Path, pairs_folder: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs"
    shutil.copytree(pairs_folder, pairs)
    for path in (pairs / "images").iterdir():
        image = nib.load(path)
        array = np.asarray(image.dataobj).astype(np.float32)
        array[0, 0, 0] = np.nan
        nib.Nifti1Image(array, image.affine).to_filename(path)
    result = run("-i", masks, "-t", pairs, "-o", tmp_path / "out", "--json")
    assert result.exit_code == 4
    assert json.loads(result.stdout)["summary"]["dice"]["n_lesions"] == 10
    assert not (tmp_path / "out" / "worst.png").exists()
    told = result.stderr.splitlines()
    assert len(told) == len(set(told)) == 10


def test_a_window_out_of_order_is_told_before_anything_is_scored(
    masks: Path, pairs_folder: Path, tmp_path: Path
) -> None:
    result = run("-i", masks, "-t", pairs_folder, "-o", tmp_path / "out", "--window", "400", "-400")
    assert isinstance(result.exception, InputError | SystemExit)
    assert "window_hu: expected two finite levels" in f"{result.exception} {result.stderr}"
    assert not (tmp_path / "out").exists()


def test_against_another_model(masks: Path, pairs_folder: Path, tmp_path: Path) -> None:
    result = run(
        "-i", pairs_folder / "labels", "-t", pairs_folder, "--against", masks, "-o", tmp_path / "out"
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    comparison = json.loads((tmp_path / "out" / "comparison.json").read_text())
    dice = comparison["metrics"]["dice"]
    assert (dice["better"], dice["n_lesions"], dice["mean_first"]) == (10, 10, 1.0)
    assert dice["p_sign_flip"] == 2 / 2**10
    assert "p sign flip" in result.stdout


def test_clicks_run_the_model(masks: Path, pairs_folder: Path, run_folder: Path, tmp_path: Path) -> None:
    two = tmp_path / "two"
    for sub in ("images", "labels"):
        (two / sub).mkdir(parents=True)
        for case in ("bone_00000_lesion_01", "bone_00001_lesion_01"):
            shutil.copy(pairs_folder / sub / f"{case}.nii.gz", two / sub)
    result = run("-i", masks, "-t", two, "-m", run_folder, "--clicks", "2", "--seed", "3", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["uls23"]
    assert (found["clicks"], found["n_lesions"], found["voi_zyx"]) == (2, 2, [128, 256, 256])
    assert json.loads(result.stdout)["provenance"]["model"] == str(run_folder)
    # The same in memory. Optimised for inference, the network may differ by rounding at a few voxels.
    from segnet.evaluation.evaluate import truths_of

    model = Model.of(*checkpoint.load(run_folder))
    again = challenge_score(truths_of(two), network(model), clicks=2, seed=3)
    assert [row["clicks_zyx"] for row in found["lesions"]] == [
        [list(click) for click in row["clicks_zyx"]] for row in again["lesions"]
    ]
    assert found["score"] == pytest.approx(again["score"], abs=0.02)


def test_what_needs_a_model_says_so(masks: Path, pairs_folder: Path) -> None:
    for option in (("--clicks", "3"), ("--part", "test")):
        result = run("-i", masks, "-t", pairs_folder, *option)
        assert result.exit_code == 2
        assert "expected --model beside it" in result.stderr
    assert run("-i", masks, "-t", pairs_folder, "--clicks", "1").exit_code == 2
    assert run("-i", masks, "-t", pairs_folder, "--workers", "0").exit_code == 2
    assert run("-i", masks, "-t", pairs_folder, "--seed", "-1").exit_code == 2


def test_images_from_elsewhere(masks: Path, pairs_folder: Path, tmp_path: Path) -> None:
    result = run("-i", masks, "-t", pairs_folder / "labels", "--json")
    assert json.loads(result.stdout)["lesions"][0]["truth_hu"] is None
    result = run("-i", masks, "-t", pairs_folder / "labels", "--images", pairs_folder / "images", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["lesions"][0]["truth_hu"]["mean"] > -200


def test_the_index_of_a_prepared_folder_is_read_once(
    masks: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, read_bytes = [], Path.read_bytes

    def counted(path: Path) -> bytes:
        read.append(path.name)
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    result = run("-i", masks, "-t", prepared, "--against", masks, "--json")
    assert result.exit_code == 0, result.output
    assert read.count("dataset.json") == 1
