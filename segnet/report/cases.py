"""The worst, the median and the best case, and pictures of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from segnet.errors import InputError
from segnet.evaluation.sources import find_truths, match
from segnet.io.pairs import Pair
from segnet.io.volumes import read_image, read_mask
from segnet.report.overlay import overlay_png


def telling_cases(dice_by_case: Mapping[str, float]) -> dict[str, str]:
    """The "worst", "median" and "best" case of finite Dice, each another case: of two no median, of one the "only"."""
    ranked = sorted((case for case, dice in dice_by_case.items() if math.isfinite(dice)), key=dice_by_case.__getitem__)
    if len(ranked) < 2:
        return {"only": ranked[0]} if ranked else {}
    middle = {"median": ranked[len(ranked) // 2]} if len(ranked) > 2 else {}
    return {"worst": ranked[0], **middle, "best": ranked[-1]}


def overlay_cases(
    dice_by_case: Mapping[str, float],
    predictions: Path,
    pairs: Mapping[str, Pair],
    out: Path,
    *,
    window_hu: tuple[float, float],
) -> list[tuple[str, str]]:
    """Write a picture such as `worst.png` into `out` for each of `telling_cases` whose files exist.

    Returns (case, reason) of each case that could not be drawn.

    Parameters
    ----------
    dice_by_case : Dice of each case
    predictions : folder of masks named after the cases
    pairs : image and true mask by case
    """
    failed: list[tuple[str, str]] = []
    masks, _ = match(predictions, find_truths(list(pairs.values()), None), single=False)
    for rank, case in telling_cases({case: score for case, score in dice_by_case.items() if case in pairs}).items():
        if case not in masks:
            continue
        pair = pairs[case]
        try:
            image = read_image(pair.image)
            overlay_png(
                out / f"{rank}.png",
                image.array_zyx,
                read_mask(masks[case], image).array_zyx > 0,
                read_mask(pair.mask, image).array_zyx > 0,
                window_hu=window_hu,
                spacing_zyx_mm=image.spacing_zyx_mm,
                title=f"{pair.case} ({rank})",
            )
        except InputError as error:
            failed.append((case, str(error)))
    return failed
