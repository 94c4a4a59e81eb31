"""A prepared dataset on disk: one HDF5 file for each patient, an index, a manifest.

``<patient>.h5`` holds a group for each case: ``image`` (Z, Y, X), chunked by slice; ``mask`` uint8 of 0 and 1; ``lesion`` uint16 (n, 3), the
(z, y, x) of the lesion's voxels; and beside the groups ``.record``, JSON of what the file was made from. ``dataset.json`` lists all cases and
is written last: a folder without it is unfinished. ``manifest.csv`` says the same for a spreadsheet, with the cases left out and why.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from segnet.config import DataConfig, PrepareConfig
from segnet.errors import InputError

FORMAT = "segnet-prepare/2"
INDEX, MANIFEST = "dataset.json", "manifest.csv"


class PreparedCase(BaseModel):
    """One case of a prepared dataset, as dataset.json lists it.

    `lesion_slices` are runs of slices with lesion, (first, last) each. `image` and `mask` are the paths they were read from, as given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    case: str = Field(min_length=1)
    patient: str = Field(min_length=1)
    set: str
    file: str = Field(pattern=r"^[^./\\][^/\\]*\.h5$")
    shape_zyx: tuple[int, int, int]
    spacing_zyx_mm: tuple[float, float, float]
    lesion_voxels: int = Field(ge=1)
    lesion_ml: float = Field(gt=0)
    lesion_slices: tuple[tuple[int, int], ...] = Field(min_length=1)
    image: str
    mask: str
    image_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    mask_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    @property
    def lesion_z(self) -> list[int]:
        """The slices with lesion."""
        return [z for first, last in self.lesion_slices for z in range(first, last + 1)]


class LeftOut(BaseModel):
    """A case that is not in the dataset, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    case: str
    patient: str
    set: str
    reason: str


class Index(BaseModel):
    """The content of dataset.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["segnet-prepare/2"] = "segnet-prepare/2"
    segnet: str
    config: PrepareConfig
    cases: tuple[PreparedCase, ...] = Field(min_length=1)
    left_out: tuple[LeftOut, ...] = ()
    images_without_mask: int = 0


@dataclass(frozen=True)
class PreparedDataset:
    """A folder that `segnet.dataset.prepare.prepare` wrote.

    Attributes
    ----------
    root : the folder
    config : how it was prepared
    cases : sorted by patient, then case
    """

    root: Path
    config: PrepareConfig
    cases: tuple[PreparedCase, ...]

    @property
    def patients(self) -> list[str]:
        """The patients, sorted."""
        return sorted({case.patient for case in self.cases})

    def check(self, data: DataConfig) -> None:
        """Whether images will be brought to a network the way these were prepared.

        Raises
        ------
        InputError
            Route or window differ.
        """
        for name in ("route", "window_hu"):
            was, given = getattr(self.config, name), getattr(data, name)
            if was != given and not (name == "window_hu" and self.config.route == "paper"):
                raise InputError(
                    f"data.{name}: expected {was} as the dataset was prepared, got {given}; change it, or prepare the dataset again"
                )

    def path_of(self, case: PreparedCase) -> Path:
        """The HDF5 file whose group ``/<case>`` holds `case`."""
        return self.root / case.file


def runs(held: NDArray[np.bool_]) -> tuple[tuple[int, int], ...]:
    """Runs of true values as (first, last).

    Examples
    --------
    >>> runs(np.array([False, True, True, False, True]))
    ((1, 2), (4, 4))
    """
    edges = np.flatnonzero(np.diff(np.r_[False, held, False].astype(np.int8)))
    return tuple((int(a), int(b) - 1) for a, b in edges.reshape(-1, 2))


def load_dataset(path: str | Path) -> PreparedDataset:
    """Read the index of a folder that `segnet prepare` wrote.

    Parameters
    ----------
    path : the folder, or its dataset.json

    Raises
    ------
    InputError
        If there is no index, it is not of this format, names a case twice, or a file it names is missing.
    """
    path = Path(path)
    file = path / INDEX if path.is_dir() else path
    index = _read_index(file, path)
    names = [case.case for case in index.cases]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"dataset: expected each case once, got {twice} twice in {file}; run `segnet prepare` again")
    for name in {case.file for case in index.cases}:
        if not (file.parent / name).is_file():
            raise InputError(f"dataset: expected {name} beside {file}, got no such file; run `segnet prepare` again")
    return PreparedDataset(file.parent, index.config, index.cases)


def _read_index(file: Path, path: Path) -> Index:
    try:
        return Index.model_validate_json(file.read_bytes())
    except OSError as error:
        raise InputError(
            f"dataset: expected a folder that `segnet prepare` wrote, got {path} without a "
            f"readable {INDEX} ({error.strerror}); run `segnet prepare`, to its end"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InputError(
            f"dataset: expected an index of format {FORMAT}, got {file} with a fault at {at} "
            f"({first['msg']}); run `segnet prepare` again"
        ) from error
