"""Points in lesions: coordinate spaces, voxels, positions in a mask, and lists from CSV."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from segnet.errors import InputError
from segnet.io.csv_table import read_csv
from segnet.io.volumes import Volume
from segnet.prediction.options import ULS23_VOI_ZYX

Point = tuple[float, float, float]
Click = Point | Literal["centre"] | None
ClickSpace = Literal["voxel", "ras", "lps"]

COLUMNS = ("case", "x", "y", "z")
OPTIONAL_COLUMNS = ("space", "lesion")


def click_index(click: Click, space: ClickSpace, volume: Volume) -> tuple[int, int, int] | None:
    """The click as (z, y, x) of the canonical array.

    Parameters
    ----------
    click : voxel indices of the file, from 0 along its own axes; mm in RAS or LPS; "centre", the voxel at index size // 2 of the
        file's own axes, where ULS23 has its lesion; or None
    space : of the numbers

    Raises
    ------
    InputError
        The click lies outside the image.
    """
    if click is None:
        return None
    shape = volume.array.shape
    if click == "centre":
        space = "voxel"
        click = cast(Point, tuple(size // 2 for size in volume.source_shape[:3]))
    point = np.append(np.asarray(click, dtype=np.float64), 1.0)
    if space == "voxel":
        point = volume.source_affine @ point
    elif space == "lps":
        point[:2] *= -1
    index = np.rint(np.linalg.solve(volume.affine, point))[:3].astype(int)
    if np.any(index < 0) or np.any(index >= shape):
        raise InputError(
            f"click: expected a point inside the image of {shape} voxels, got {click} ({space}), which is voxel"
            f" {tuple(int(i) for i in index)} in RAS order; check --click-space"
        )
    x, y, z = (int(i) for i in index)
    return z, y, x


def click_positions(
    mask_zyx: NDArray[np.bool_], spacing_zyx_mm: Sequence[float], n: int, *, case: str = "", seed: int = 0
) -> list[tuple[int, int, int]]:
    """Clicks in a lesion.

    The first is the middle of a volume of the challenge's shape where that is lesion, else the lesion voxel nearest to the
    centre of mass in mm. The others are drawn from the other voxels, without repetition while there are enough.

    Parameters
    ----------
    mask_zyx : bool (Z, Y, X), not empty
    n : how many
    case, seed : of the generator, so that a case gets the same clicks in any cohort
    """
    voxels = np.argwhere(mask_zyx)
    middle = tuple(side // 2 for side in mask_zyx.shape)
    if mask_zyx.shape == ULS23_VOI_ZYX and mask_zyx[middle]:
        first = int(np.flatnonzero((voxels == middle).all(axis=1))[0])
    else:
        away_mm = (voxels - voxels.mean(axis=0)) * np.asarray(spacing_zyx_mm)
        first = int((away_mm**2).sum(axis=1).argmin())
    rng = np.random.default_rng([seed, zlib.crc32(case.encode())])
    others = np.delete(np.arange(len(voxels)), first) if len(voxels) > 1 else np.array([first])
    drawn = rng.choice(others, n - 1, replace=n - 1 > len(others))
    return [(int(z), int(y), int(x)) for z, y, x in voxels[[first, *drawn]]]


@dataclass(frozen=True)
class ListedClick:
    """A row of a list of clicks.

    Attributes
    ----------
    case : name of the image without ending
    lesion : its number within the case, None for an only lesion without a number
    line : of the file, for messages
    """

    case: str
    lesion: int | None
    point: Point
    space: ClickSpace
    line: int


def read_clicks(path: Path, default_space: ClickSpace = "voxel") -> dict[str, list[ListedClick]]:
    """Clicks by case, in order of lesion.

    Parameters
    ----------
    path : CSV with the columns case, x, y, z, and optionally space (voxel, ras or lps) and lesion (a number from 1, once in a case).
        Without the column lesion, several clicks of a case are numbered in order
    default_space : of rows without one

    Raises
    ------
    InputError
        The file is no such CSV. The message names the line.
    """
    columns, rows = read_csv(path, "clicks", COLUMNS, OPTIONAL_COLUMNS)
    found: dict[str, list[ListedClick]] = {}
    for line, row in rows:
        click = _row(row, f"clicks {path}, line {line}", line, default_space)
        others = found.setdefault(click.case, [])
        same = next((o for o in others if click.lesion is not None and o.lesion == click.lesion), None)
        if same is not None:
            raise InputError(
                f"clicks {path}, line {line}: expected each lesion of {click.case} once, got lesion {click.lesion} in line"
                f" {same.line} too; number them 1, 2, ..."
            )
        others.append(click)
    if not found:
        raise InputError(f"clicks {path}, line 2: expected a click in each line, got none; list case,x,y,z")
    if "lesion" not in columns:
        found = {
            case: [replace(c, lesion=n if len(clicks) > 1 else None) for n, c in enumerate(clicks, 1)]
            for case, clicks in found.items()
        }
    return {case: sorted(clicks, key=lambda c: c.lesion or 0) for case, clicks in found.items()}


def _row(row: Mapping[str, str], where: str, line: int, default_space: ClickSpace) -> ListedClick:
    if not row["case"]:
        raise InputError(f"{where}: expected a case, got none; write the image's name without ending")
    numbers = []
    for axis in "xyz":
        try:
            numbers.append(float(row[axis]))
        except ValueError:
            numbers.append(math.nan)
        if not math.isfinite(numbers[-1]):
            raise InputError(f"{where}: expected a number for {axis}, got {row[axis]!r}; write it as 128 or 12.5")
    space = row.get("space", "") or default_space
    if space not in get_args(ClickSpace):
        raise InputError(
            f"{where}: expected space voxel, ras or lps, got {space!r}; leave it empty for {default_space}"
        )
    lesion = None
    if "lesion" in row:
        if not (row["lesion"].isdecimal() and int(row["lesion"]) > 0):
            raise InputError(
                f"{where}: expected a lesion's number from 1, got {row['lesion']!r}; number them 1, 2, ..."
            )
        lesion = int(row["lesion"])
    x, y, z = numbers
    return ListedClick(row["case"], lesion, (x, y, z), cast(ClickSpace, space), line)
