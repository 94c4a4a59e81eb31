"""`import segnet` as a researcher uses it: files, volumes and arrays in, masks and measurements out."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from command import segnet as run_command
from networks import Threshold

import segnet
from segnet.config import Config
from segnet.errors import InputError
from segnet.io.volumes import read_image
from segnet.prediction.model import Model

CONFIG = Config.model_validate({"data": {"patch_px": 32, "input_px": 32}})


def array() -> np.ndarray:
    """(Z, Y, X): a box of 2 x 4 x 6 voxels and one of 2 x 2 x 2."""
    image = np.full((5, 36, 40), -900, np.int16)
    image[1:3, 20:24, 10:16], image[2:4, 5:7, 30:32] = 300, 200
    return image


@pytest.fixture
def model() -> Model:
    return Model.of(Threshold(), CONFIG)


def test_an_array_gives_a_mask_and_its_measurements(model: Model, tmp_path: Path) -> None:
    found = segnet.predict(array(), model, spacing_mm=(2.5, 0.8, 0.7))
    assert found.mask.dtype == bool
    assert np.array_equal(found.mask, array() > 0)
    large, small = found.lesions
    assert (large.voxels, small.voxels) == (48, 8)
    assert large.volume_ml == pytest.approx(48 * 2.5 * 0.8 * 0.7 / 1000)
    assert abs(large.long_axis_mm - np.hypot(6 * 0.7, 4 * 0.8)) < 0.8
    assert large.short_axis_mm < large.long_axis_mm
    assert found.warnings == ()
    found.save(tmp_path / "mask.nii.gz", probability=tmp_path / "p.nii.gz")
    image = nib.load(tmp_path / "mask.nii.gz")
    assert np.allclose(image.header.get_zooms(), (0.7, 0.8, 2.5))
    assert np.array_equal(np.asarray(image.dataobj).transpose(2, 1, 0) > 0, found.mask)


def test_a_click_counts_in_the_order_of_the_images_own_axes(
    model: Model, tmp_path: Path, write_nifti: Callable[..., Path]
) -> None:
    clicked = model.predict(array(), spacing_mm=(2.5, 0.8, 0.8), click=(2, 5, 30))
    assert clicked.mask.sum() == 8
    assert [lesion.lesion for lesion in clicked.lesions] == [1]
    path = write_nifti(tmp_path / "scan.nii.gz", array().transpose(2, 1, 0))
    for image in (path, str(path), read_image(path)):
        assert model.predict(image, click=(30, 5, 2)).mask.sum() == 8


def test_what_an_array_needs_is_told(model: Model, tmp_path: Path, write_nifti: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match=r"spacing_mm.*pass spacing_mm=\(z, y, x\) in mm"):
        model.predict(array())
    with pytest.raises(
        InputError, match=r"image: expected numbers of shape \(Z, Y, X\), got float64 of shape \(4, 4\)"
    ):
        model.predict(np.zeros((4, 4)), spacing_mm=(1, 1, 1))
    with pytest.raises(InputError, match="spacing_mm: expected three lengths above 0 mm"):
        model.predict(array(), spacing_mm=(1, 0, 1))
    with pytest.raises(InputError, match="expected finite values"):
        model.predict(np.full((2, 4, 4), np.nan), spacing_mm=(1, 1, 1))
    with pytest.raises(InputError, match="spacing_mm: expected none for an image with its own"):
        model.predict(write_nifti(tmp_path / "a.nii.gz", np.zeros((4, 4, 4), np.int16)), spacing_mm=(1, 1, 1))


def test_the_example_of_the_package_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"ct": array()}
    code = [line for line in (inspect.getdoc(segnet) or "").splitlines() if line.startswith("    ")]
    exec(textwrap.dedent("\n".join(code)), names)
    assert names["found"].mask.shape == array().shape
    assert names["larger"].mask.sum() >= segnet.predict("example", click="centre").mask.sum()
    assert (tmp_path / "mask.nii.gz").exists()


def test_the_readmes_first_lines_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    commands, lines = re.findall(r"```(?:sh|py)\n(.*?)```", readme, re.DOTALL)[:2]
    (command,) = [line for line in commands.splitlines() if line.startswith("segnet ")]
    result = run_command(*command.partition("#")[0].split()[1:])
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "mask.nii.gz").exists()
    exec(lines, {})


def loaded_by(statement: str) -> set[str]:
    """Modules in a fresh interpreter after a statement."""
    program = f"import sys, json\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=gettempdir())
    assert run.returncode == 0, run.stderr
    return set(json.loads(run.stdout.splitlines()[-1]))


def test_importing_segnet_loads_nothing() -> None:
    assert not loaded_by("import segnet; dir(segnet)") & {"numpy", "torch", "scipy", "pydantic", "nibabel"}
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        segnet.nonsense  # noqa: B018
    assert {"load", "predict", "prepare", "train", "evaluate"} <= set(dir(segnet))


def test_a_prediction_loads_neither_torchs_compiler_nor_libraries_of_training() -> None:
    """Each takes a second or more, before the first slice."""
    statement = (
        "import segnet\n"
        "from segnet.config import Config\n"
        "from segnet.models import build, checkpoint\n"
        "from segnet.prediction.model import Model\n"
        "import tempfile, pathlib\n"
        "config = Config.model_validate({'model': {'name': 'mamba-ahnet-r', 'base_width': 4}, 'data': {'fields': {}, 'input_px': 32}})\n"
        "path = pathlib.Path(tempfile.mkdtemp()) / 'model.safetensors'\n"
        "checkpoint.save(build(config.model), config, path)\n"
        "segnet.predict('example', path, click='centre').as_dict()"
    )
    assert not loaded_by(statement) & {"torch._dynamo", "sympy", "monai", "h5py", "matplotlib"}


def test_a_finished_batch_run_again_loads_no_network_library(
    run_folder: Path, tmp_path: Path, write_nifti: Callable[..., Path]
) -> None:
    for name in "ab":
        write_nifti(tmp_path / "in" / f"{name}.nii.gz", array().transpose(2, 1, 0))
    command = ["predict", "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-m", str(run_folder), "-q"]
    statement = f"import sys; sys.argv = ['segnet', *{command}]\nfrom segnet.cli import app\napp(standalone_mode=False)"
    assert {"torch", "scipy.ndimage"} <= loaded_by(statement)
    masks = {path: path.read_bytes() for path in (tmp_path / "out").glob("*.nii.gz")}
    # nibabel itself loads a part of scipy
    assert not loaded_by(statement) & {"torch", "scipy.ndimage", "scipy.spatial", "monai", "h5py", "ssmcore"}
    assert masks == {path: path.read_bytes() for path in (tmp_path / "out").glob("*.nii.gz")}
