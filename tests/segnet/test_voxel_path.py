"""The way of a voxel from `segnet predict` to the mask: at most twelve files, the network being one, and no call back into a file above."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import segnet
from segnet.prediction.batch import plan, predict_batch
from segnet.prediction.model import load

BOOKS = (
    *("runtime/", "prediction/results.py", "prediction/clicks.py", "prediction/options.py", "prediction/model.py"),
    *("io/names.py", "io/boxes.py", "io/weights.py", "config.py"),
)
"""Names, locks, clicks and boxes: no voxels pass here."""
OTHER_FORMATS = ("io/dicom", "io/metaimage.py", "io/nrrd.py", "io/zipped.py")
MEASURES = ("metrics/", "prediction/lesions.py")


def test_a_voxel_passes_twelve_files_and_turns_back_nowhere(
    run_folder: Path, tmp_path: Path, write_nifti: Callable[..., Path]
) -> None:
    root = str(Path(segnet.__file__).parent) + "/"
    image = write_nifti(tmp_path / "a.nii.gz", np.random.default_rng(0).normal(-700, 99, (40, 36, 5)).astype(np.int16))
    model = load(run_folder)
    model.read()
    stack: list[str] = []
    entered: list[str] = []
    back: list[str] = []

    def follow(frame: Any, event: str, _: Any) -> None:
        file = frame.f_code.co_filename
        if not file.startswith(root):
            return
        file = file.removeprefix(root)
        if event == "return":
            stack.pop()
        elif event == "call":
            if file in stack and stack[-1] != file:
                back.append(f"{stack[-1]} calls {frame.f_code.co_name} of {file}")
            if file not in entered:
                entered.append(file)
            stack.append(file)

    predict_batch(plan({"a": image}, tmp_path / "first")[0], model, table=False)  # imports all
    tasks, _ = plan({"a": image}, tmp_path / "out")
    before = sys.getprofile()
    sys.setprofile(follow)
    try:
        predict_batch(tasks, model, table=False, stop_on_failure=True)
    finally:
        sys.setprofile(before)
    assert back == []
    way = [file for file in entered if not file.startswith((*BOOKS, *OTHER_FORMATS, *MEASURES))]
    within_network = [file for file in way if file.startswith("models/")]
    assert within_network[0] == "models/network.py"
    assert len(["cli/predict.py", *way]) - len(within_network[1:]) <= 12, way
