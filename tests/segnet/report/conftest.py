"""Evaluations of two models on ten small lesions, as `segnet evaluate` writes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from segnet.evaluation.evaluate import evaluate


@dataclass(frozen=True)
class Material:
    """Folders of one report: pairs, and by model the predictions and the evaluation."""

    pairs: Path
    predictions: dict[str, Path]
    evaluations: dict[str, Path]


def predict(labels: Path, out: Path, shift: Callable[[int], int], empty: int) -> None:
    """Labels moved along X by shift(k) voxels; the one numbered `empty` is predicted empty."""
    out.mkdir()
    for k, file in enumerate(sorted(labels.glob("*.nii.gz"))):
        image = nib.load(file)
        mask = np.roll(np.asarray(image.dataobj), shift(k), axis=0) * (k != empty)
        nib.Nifti1Image(mask.astype(np.uint8), image.affine).to_filename(out / file.name)


@pytest.fixture(scope="session")
def material(pairs_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Material:
    root = tmp_path_factory.mktemp("report")
    predictions, evaluations = {}, {}
    for name, shift, empty in (("first", lambda k: k % 5, 3), ("second", lambda k: (k + 1) % 4, -1)):
        predict(pairs_folder / "labels", root / f"masks-{name}", shift, empty)
        evaluate(root / f"masks-{name}", pairs_folder).write(root / name)
        predictions[name], evaluations[name] = root / f"masks-{name}", root / name
    return Material(pairs_folder, predictions, evaluations)


@pytest.fixture
def document(material: Material) -> Any:
    """The first evaluation's JSON, to change."""
    return json.loads((material.evaluations["first"] / "evaluation.json").read_text())
