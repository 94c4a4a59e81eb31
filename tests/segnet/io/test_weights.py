"""The weights of the package: small, half precision, with licence and origin; and the error where there are none."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors import safe_open

import segnet
from segnet.errors import InputError
from segnet.io import weights
from segnet.io.weights import packaged, read_metadata, release_of


def test_the_package_holds_one_small_ensemble_in_half_precision() -> None:
    files = packaged()
    assert files
    assert sum(file.stat().st_size for file in files) <= 10 * 10**6
    for file in files:
        facts = release_of(read_metadata(file))
        assert facts is not None
        assert all(vars(facts).values())
        with safe_open(file, framework="numpy") as opened:
            names = [name for name in opened.keys() if not name.endswith(("running_mean", "running_var"))]  # noqa: SIM118
            dtypes = {str(opened.get_slice(name).get_dtype()) for name in names}
        assert "F16" in dtypes
        assert not dtypes & {"F32", "F64"}
    assert segnet.load().paths == tuple(files)


def test_the_card_beside_them_has_its_headings() -> None:
    card = (weights.PACKAGED / "README.md").read_text()
    for word in (
        "Data",
        "Patients",
        "Licence",
        "LIDC-IDRI",
        "RIDER",
        "Command",
        "Commit",
        "Scores",
        "Calibration",
        "Known failures",
    ):
        assert word in card


def test_a_package_without_weights_says_how_to_get_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "PACKAGED", tmp_path)
    with pytest.raises(
        InputError, match=r"model: expected weights in .* got none; name a run of `segnet train`, or copy"
    ):
        segnet.load()


def test_sites_are_taken_from_the_packages_own_files_alone(tmp_path: Path) -> None:
    """The rule of the warnings fits them, and perhaps no other release."""
    (file, *_) = packaged()
    assert segnet.load(file).sites
    assert segnet.load(shutil.copy(file, tmp_path)).sites is None


def test_a_checkpoint_of_a_run_is_no_release(run_folder: Path) -> None:
    assert release_of(read_metadata(run_folder)) is None
    assert segnet.load(run_folder).sites is None
