"""The worst, the median and the best case of an evaluation, prediction and truth outlined together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from segnet.data.nifti import read_image, read_mask
from segnet.data.pairs import Pair
from segnet.report.overlay import overlay_png


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
    predictions : folder of `<case>.nii.gz`
    pairs : image and true mask by case
    """
    ranked = [case for case in sorted(dice_by_case, key=dice_by_case.__getitem__) if case in pairs]
    written = []
    for rank, position in (("worst", 0), ("median", len(ranked) // 2), ("best", len(ranked) - 1)):
        mask = predictions / f"{ranked[position]}.nii.gz" if ranked else predictions
        if not mask.is_file():
            continue
        pair = pairs[ranked[position]]
        image = read_image(pair.image)
        path = out / f"{rank}.png"
        overlay_png(
            path,
            image.array_zyx,
            read_mask(mask, image).array_zyx > 0,
            read_mask(pair.mask, image).array_zyx > 0,
            window_hu=window_hu,
            spacing_zyx_mm=image.spacing_zyx_mm,
            title=f"{pair.case} ({rank})",
        )
        written.append(path)
    return written
