"""Clicks to masks: the networks, and the images that were clicked last."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from segnet.io.boxes import Box
from segnet.metrics import components
from segnet.prediction.model import Model, load
from segnet.prediction.options import THRESHOLD, Options
from segnet.prediction.predict import Prediction, predict_volume
from segnet.prediction.session import Session
from segnet.serve.lesions import MaskArray, measured, tight
from segnet.serve.store import StoredImage

OPENED = 4
"""Images kept open, with the probabilities of their latest clicks."""
MOST_LESIONS = 50
"""Of a whole scan, the largest ones."""
Point = tuple[float, float, float]
Told = Callable[[int, int], None]


@dataclass(frozen=True)
class Outline:
    """A mask in its box, None for an empty one, and its measurements."""

    box: Box | None
    mask: MaskArray | None
    facts: dict[str, Any]


class Segmenter:
    """The networks of the service.

    Parameters
    ----------
    models : checkpoints; the packaged weights where empty
    """

    def __init__(self, models: Sequence[Path] = ()) -> None:
        self.model: Model = load(list(models) or None)
        self.model.read()
        self._open: OrderedDict[str, Session] = OrderedDict()

    def described(self) -> dict[str, Any]:
        """What clients are told of the networks."""
        return {"names": list(self.model.names), "sites": self.model.sites, "threshold": THRESHOLD}

    def warm_up(self) -> None:
        """Segments an empty volume, so that the first click does not wait for what is made once."""
        empty = np.full((16, 96, 96), -1000, np.float32)
        self.model.open(empty, spacing_mm=(1, 1, 1)).click((8, 48, 48))

    def session(self, image: StoredImage) -> Session:
        if image.sha not in self._open:
            self._open[image.sha] = Session(self.model, image.volume())
            if len(self._open) > OPENED:
                self._open.popitem(last=False)
        self._open.move_to_end(image.sha)
        return self._open[image.sha]

    def outline(
        self, image: StoredImage, clicks: Sequence[Point], threshold: float, progress: Told | None = None
    ) -> Outline:
        """The union of the lesions at some clicks.

        Parameters
        ----------
        clicks : mm in RAS
        threshold : of the lesion probability
        progress : called with clicks done and all of them, also during a click; what it raises ends the work

        Raises
        ------
        InputError
            A click lies outside the image.
        """
        found: list[Prediction] = []
        for number, click in enumerate(clicks):

            def during(done: int, of: int, number: int = number) -> None:
                if progress is not None:
                    progress(number, len(clicks))

            found.append(self.session(image).click(click, "ras", threshold, progress=during))
            if progress is not None:
                progress(number + 1, len(clicks))
        low = [min(part.voi_zyx[axis].start for part in found) for axis in range(3)]
        high = [max(part.voi_zyx[axis].stop for part in found) for axis in range(3)]
        box: Box = tuple(slice(start, stop) for start, stop in zip(low, high, strict=True))
        mask = np.zeros([stop - start for start, stop in zip(low, high, strict=True)], np.bool_)
        for part in found:
            mask |= part.mask[box]
        tight_box, tight_mask = tight(mask, box)
        warnings = list(dict.fromkeys(warning for part in found for warning in part.warnings))
        facts = measured(image, tight_box, tight_mask)
        facts |= {"warnings": warnings, "field_of_view_mm": max((p.field_of_view_mm or 0.0) for p in found) or None}
        return Outline(tight_box, tight_mask, facts)

    def everywhere(self, image: StoredImage, threshold: float, progress: Told | None = None) -> list[Outline]:
        """All lesions that are found without a click, the largest first."""
        found = predict_volume(image.volume(), self.model, Options(threshold=threshold), progress=progress)
        labels = components(found.mask)
        out = []
        for number, box in enumerate(ndimage.find_objects(labels, max_label=MOST_LESIONS), 1):
            mask = labels[box] == number
            out.append(Outline(box, mask, measured(image, box, mask) | {"warnings": list(found.warnings)}))
        return out
