"""Lesion segmentation from CT with state space models.

From a file to a mask and its measurements, with the weights and the example that come with the package::

    import segnet

    model = segnet.load()
    found = model.predict("example", click="centre")
    print(found.lesions[0].volume_ml, found.lesions[0].long_axis_mm, found.warnings)
    found.save("mask.nii.gz")

`segnet.load("run")` loads a run of `segnet train`. `model.predict` takes a file, the folder of a DICOM series, or an array, (Z, Y, X) in
HU, with the lengths of its voxels in the same order. `model.open` reads an image once, for many clicks::

    found = model.predict(ct, spacing_mm=(2.5, 0.8, 0.8), click=(3, 18, 20))
    found.mask, found.probability, found.lesions
    opened = model.open("example")
    larger = opened.click("centre", threshold=0.3)

`prepare`, `train` and `evaluate` are the commands of the same name as functions. Nothing is imported before it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segnet.dataset.prepare import prepare
    from segnet.evaluation.evaluate import evaluate
    from segnet.prediction.model import load, predict
    from segnet.training.loop import train

__version__ = "0.1.0"
__all__ = ["__version__", "evaluate", "load", "predict", "prepare", "train"]

_HOMES = {
    "load": "segnet.prediction.model",
    "predict": "segnet.prediction.model",
    "prepare": "segnet.dataset.prepare",
    "train": "segnet.training.loop",
    "evaluate": "segnet.evaluation.evaluate",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'segnet' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
