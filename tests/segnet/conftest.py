"""Small cases for segnet: files, prepared data, a network that takes milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from lesion_case import OBLIQUE, lesion_case


@pytest.fixture
def write_nifti() -> Callable[..., Path]:
    def write(path: Path, array: Any, affine: Any = OBLIQUE) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.Nifti1Image(np.asarray(array), affine).to_filename(path)
        return path

    return write


@pytest.fixture(scope="session")
def pairs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten patients' image and mask pairs."""
    root = tmp_path_factory.mktemp("pairs")
    for sub in ("images", "labels"):
        (root / sub).mkdir()
    for i in range(10):
        image, mask = lesion_case(i)
        for sub, array in (("images", image), ("labels", mask)):
            nib.Nifti1Image(array, OBLIQUE).to_filename(root / sub / f"bone_{i:05d}_lesion_01.nii.gz")
    return root


@pytest.fixture(scope="session")
def prepared(pairs_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from segnet.dataset.prepare import prepare as run
    from segnet.io.pairs import find_pairs

    out = tmp_path_factory.mktemp("prepared") / "data"
    run(find_pairs(pairs_folder), out, workers=1)
    return out


@pytest.fixture
def tiny_config() -> Any:
    """A network of b = 4 on 32 x 32."""
    from segnet.config import Config

    return Config.model_validate(
        {
            "model": {"base_width": 4, "depths": (1, 1, 1, 1), "dstate": 4},
            "data": {"patch_px": 32, "input_px": 32},
            "train": {"max_steps": 4, "batch_size": 2},
        }
    )


@pytest.fixture(scope="session")
def run_folder(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run, by four steps."""
    from segnet.config import Config
    from segnet.report.run import draw_run
    from segnet.training.loop import train

    config = Config.model_validate(
        {
            "model": {"base_width": 4, "depths": (1, 1, 1, 1), "dstate": 4},
            "data": {"patch_px": 32, "input_px": 32},
            "train": {"max_steps": 4, "batch_size": 2},
        }
    )
    out = tmp_path_factory.mktemp("run") / "run"
    train(prepared, out, config, on_end=draw_run)
    return out
