"""The worst, the median and the best case of an evaluation, prediction and truth outlined together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from segnet.data.pairs import Pair
from segnet.data.volumes import read_image, read_mask
from segnet.evaluation.sources import find_truths, match
from segnet.report.overlay import overlay_png


def telling_cases(dice_by_case: Mapping[str, float]) -> dict[str, str]:
    """The "worst", the "median" and the "best" of them; none of none."""
    ranked = sorted(dice_by_case, key=dice_by_case.__getitem__)
    return {"worst": ranked[0], "median": ranked[len(ranked) // 2], "best": ranked[-1]} if ranked else {}


def overlay_cases(
    dice_by_case: Mapping[str, float],
    predictions: Path,
    pairs: Mapping[str, Pair],
    out: Path,
    *,
    window_hu: tuple[float, float],
) -> list[Path]:
    """Writes `worst.png`, `median.png` and `best.png` into `out`, those whose files are there; returns their paths.

    Parameters
    ----------
    dice_by_case : Dice of each case
    predictions : folder of masks named after the cases
    pairs : image and true mask by case
    """
    written = []
    masks, _ = match(predictions, find_truths(list(pairs.values()), None), single=False)
    for rank, case in telling_cases({case: score for case, score in dice_by_case.items() if case in pairs}).items():
        if case not in masks:
            continue
        pair = pairs[case]
        image = read_image(pair.image)
        path = out / f"{rank}.png"
        overlay_png(
            path,
            image.array_zyx,
            read_mask(masks[case], image).array_zyx > 0,
            read_mask(pair.mask, image).array_zyx > 0,
            window_hu=window_hu,
            spacing_zyx_mm=image.spacing_zyx_mm,
            title=f"{pair.case} ({rank})",
        )
        written.append(path)
    return written
