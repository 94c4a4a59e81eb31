"""One image and many clicks: the image is read once, and a click seen before costs no new network pass."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

from segnet.io.volumes import Volume
from segnet.prediction.clicked import Looks
from segnet.prediction.clicks import ClickSpace, Point
from segnet.prediction.model import Model, voxel_of
from segnet.prediction.options import THRESHOLD, Options, Progress
from segnet.prediction.predict import Prediction, predict_volume

KEPT = 8
"""Clicks whose slices are kept, the latest ones. One takes some ten MB in a large field of view."""


class Session:
    """An opened image. `Model.open` makes it.

    Parameters
    ----------
    model, volume : networks and image
    reversed_clicks : the image was an array, whose clicks are (z, y, x)

    Attributes
    ----------
    volume : the image

    Examples
    --------
    >>> import numpy as np
    >>> from segnet.config import Config
    >>> from segnet.models import build
    >>> config = Config.model_validate({"model": {"name": "unet", "base_width": 4}, "data": {"fields": {}, "input_px": 32}})
    >>> model = Model.of(build(config.model).eval(), config)
    >>> ct = np.random.default_rng(0).normal(-700, 50, (12, 40, 48)).astype(np.float32)
    >>> session = model.open(ct, spacing_mm=(2.5, 0.8, 0.8))
    >>> found = session.click((6, 20, 24), threshold=0.3)
    >>> alone = model.predict(ct, spacing_mm=(2.5, 0.8, 0.8), click=(6, 20, 24), threshold=0.3)
    >>> bool((found.probability == alone.probability).all())
    True
    """

    def __init__(self, model: Model, volume: Volume, *, reversed_clicks: bool = False) -> None:
        self.model, self.volume, self._reversed = model, volume, reversed_clicks
        self._looks: OrderedDict[tuple[tuple[int, int, int], bool], Looks] = OrderedDict()

    def click(
        self,
        point: Point | Literal["centre"],
        space: ClickSpace = "voxel",
        threshold: float = THRESHOLD,
        tta: bool = False,
        progress: Progress | None = None,
    ) -> Prediction:
        """The lesion at a click, equal to that of `Model.predict` bit for bit.

        A network that is told the click is not run again for another threshold, except on slices and fields of view that only this
        threshold needs. Other networks segment anew at every call.

        Parameters
        ----------
        point : as `click` of `Model.predict`
        space : of its numbers: "voxel", "ras" or "lps"
        threshold : of the lesion probability
        tta : mean over eight views of each slice
        progress : as in `segnet.prediction.predict.predict_volume`

        Raises
        ------
        InputError
            The click lies outside the image.
        """
        at = voxel_of(point, space, self.volume, reversed_clicks=self._reversed)
        assert at is not None
        looks = self._looks.setdefault((at, tta), Looks())
        self._looks.move_to_end((at, tta))
        if len(self._looks) > KEPT:
            self._looks.popitem(last=False)
        options = Options(tta=tta, threshold=threshold)
        return predict_volume(self.volume, self.model, options, click_zyx=at, looks=looks, progress=progress)
