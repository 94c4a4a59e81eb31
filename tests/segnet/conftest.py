"""Small cases for segnet: files, prepared data, a network that takes milliseconds."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from lesion_case import OBLIQUE, lesion_case

TINY = {
    "model": {"base_width": 4, "depths": (1, 1, 1, 1), "dstate": 4},
    "data": {"patch_px": 32, "input_px": 32},
    # workers share the run, whose bits depend on torch's threads
    "train": {"max_steps": 4, "batch_size": 2, "threads": 1},
}


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """torch's number of threads is afterwards as it was."""
    torch: Any = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else None
    yield
    if torch:
        torch.set_num_threads(before)


@pytest.fixture
def write_nifti() -> Callable[..., Path]:
    def write(path: Path, array: Any, affine: Any = OBLIQUE) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.Nifti1Image(np.asarray(array), affine).to_filename(path)
        return path

    return write


@pytest.fixture(scope="session")
def pairs_folder(shared_folder: Callable[..., Path]) -> Path:
    """Ten patients' image and mask pairs."""

    def fill(root: Path) -> None:
        for sub in ("images", "labels"):
            (root / sub).mkdir()
        for i in range(10):
            image, mask = lesion_case(i)
            for sub, array in (("images", image), ("labels", mask)):
                nib.Nifti1Image(array, OBLIQUE).to_filename(root / sub / f"bone_{i:05d}_lesion_01.nii.gz")

    return shared_folder("pairs", fill)


@pytest.fixture(scope="session")
def prepared(pairs_folder: Path, shared_folder: Callable[..., Path]) -> Path:
    from segnet.dataset.prepare import prepare
    from segnet.io.pairs import find_pairs

    return shared_folder("prepared", lambda root: prepare(find_pairs(pairs_folder), root / "data", workers=1)) / "data"


@pytest.fixture
def tiny_config() -> Any:
    """A network of b = 4 on 32 x 32."""
    from segnet.config import Config

    return Config.model_validate(TINY)


@pytest.fixture(scope="session")
def run_folder(prepared: Path, shared_folder: Callable[..., Path]) -> Path:
    """A trained run, by four steps."""
    from segnet.config import Config
    from segnet.report.run import draw_run
    from segnet.training.loop import train

    def fill(root: Path) -> None:
        train(prepared, root / "run", Config.model_validate(TINY), on_end=draw_run)

    return shared_folder("run", fill) / "run"
