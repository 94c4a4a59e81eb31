"""A service with a network whose right answer is known, its worker in a thread of the test's own process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from orthanc import orthanc as orthanc
from service import AFFINE, SHAPE, Running, ball_hu, running

from segnet.config import Config
from segnet.models import build, checkpoint


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    yield from running(tmp_path_factory.mktemp("service"))


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A NIfTI file on an oblique grid whose axes are permuted and flipped: a ball of 20 mm in lung at `BALL_MM`."""
    path = tmp_path_factory.mktemp("picture") / "Müller^Hans scan.nii.gz"
    nib.Nifti1Image(ball_hu(SHAPE, AFFINE).astype(np.int16), AFFINE).to_filename(path)
    return path


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a small network that is told the click."""
    torch.manual_seed(3)
    config = Config.model_validate({"model": {"name": "unet", "base_width": 4}, "data": {"fields": {}, "input_px": 32}})
    path = tmp_path_factory.mktemp("network") / checkpoint.FILE
    checkpoint.save(build(config.model).eval(), config, path)
    return path
