"""bfloat16, where a check on the volume finds no difference that matters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from segnet.config import DataConfig
from segnet.metrics import dice
from segnet.prediction.options import THRESHOLD, Progress
from segnet.prediction.windows import segment

LEAST_DICE = 0.99
"""Of the masks in both precisions. Two readers of one lesion reach 0.8 to 0.9, so they differ ten times as much."""
LARGEST_DIFFERENCE = 0.1
"""Of a voxel's lesion probability: below 0.4 and above 0.6 a voxel stays on its side of one half. Small networks have shown 0.02 to
0.14 at steep edges: a twentieth of a step in the logits, the rounding of eight bits after some tens of layers."""
SLICES_CHECKED = 8
"""Half of them hold most voxels in doubt. Half are spread over the volume, to find lesions that bfloat16 misses altogether."""
IN_DOUBT = 0.25
"""Distance of a probability from the threshold below which a voxel is in doubt."""


@dataclass(frozen=True)
class BFloat16Difference:
    """Difference of bfloat16 from float32 in the slices that both segmented.

    Attributes
    ----------
    slices : their number
    probability : the largest difference of a voxel's lesion probability
    dice : of the two masks, 1 for two empty ones
    """

    slices: int
    probability: float
    dice: float

    @property
    def tolerable(self) -> bool:
        return self.dice >= LEAST_DICE and self.probability <= LARGEST_DIFFERENCE


def difference_of(found: NDArray[np.float32], wanted: NDArray[np.float32], threshold: float) -> BFloat16Difference:
    """Difference of probabilities (slices, height, width) in bfloat16 from those in float32."""
    return BFloat16Difference(
        len(found), float(np.abs(found - wanted).max()), dice(found > threshold, wanted > threshold, empty="one")
    )


def slices_to_check(probability_zyx: NDArray[np.float32], threshold: float) -> list[int]:
    """Slices with most voxels in doubt, or without any with the highest probability, and others at even distances."""
    depth = len(probability_zyx)
    in_doubt = [int((np.abs(plane - threshold) < IN_DOUBT).sum()) for plane in probability_zyx]
    ranked = np.lexsort((-probability_zyx.max(axis=(1, 2)), -np.asarray(in_doubt)))
    half = SLICES_CHECKED // 2
    spread = np.linspace(0, depth - 1, SLICES_CHECKED - half).round().astype(int)
    return sorted({int(z) for z in (*ranked[:half], *spread)})


def segment_in_bfloat16(
    model: nn.Module | Sequence[nn.Module],
    half: nn.Module | Sequence[nn.Module],
    image_zyx: NDArray[Any],
    config: DataConfig,
    *,
    threshold: float = THRESHOLD,
    at: Sequence[int] | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> tuple[NDArray[np.float32], BFloat16Difference]:
    """Lesion probability in bfloat16, checked in some slices against float32; in float32 throughout if the check fails.

    Parameters
    ----------
    model, half : the same networks in float32 and bfloat16
    threshold : of the masks compared
    at : slices to segment, and to check some of; all unless given
    image_zyx, config, progress, options : as in `segnet.prediction.windows.segment`

    Returns
    -------
    probability : (Z, Y, X) float32, of `half` if the difference is `tolerable`, else of `model`
    difference : as measured
    """
    segmented = np.arange(len(image_zyx)) if at is None else np.asarray(at)
    depth = len(segmented)

    def part(before: int, slices: int, total: int) -> Progress | None:
        """Progress in slices; the end is reported only when no more work can follow."""
        if progress is None:
            return None
        return lambda done, of: progress(min(before + slices * done // of, total - 1), total)

    checking = min(depth, SLICES_CHECKED)
    expected = depth + checking
    options["at"] = segmented.tolist()
    probability = segment(half, image_zyx, config, progress=part(0, depth, expected), **options)
    checked = segmented[slices_to_check(probability[segmented], threshold)]
    only = {**options, "at": checked.tolist(), "deviation": None}
    wanted = segment(model, image_zyx, config, progress=part(depth, checking, expected), **only)[checked]
    difference = difference_of(probability[checked], wanted, threshold)
    if not difference.tolerable:
        again = part(expected, depth, expected + depth)
        probability, expected = segment(model, image_zyx, config, progress=again, **options), expected + depth
    if progress is not None:
        progress(expected, expected)
    return probability, difference
