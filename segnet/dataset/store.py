"""A prepared dataset on disk. No other module reads or writes its HDF5 files.

``<patient>.h5`` holds a group for each case: ``image`` (Z, Y, X), chunked by slice; ``mask`` uint8 of 0 and 1; ``lesion`` uint16 (n, 3),
the (z, y, x) of the lesion's voxels. ``.record`` beside the groups is JSON of the sources. ``dataset.json`` lists all cases and is written
last: a folder without it is unfinished. ``manifest.csv`` lists the same for a spreadsheet, with the cases left out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, overload

import h5py
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from segnet.config import DataConfig, PrepareConfig
from segnet.errors import InputError
from segnet.runtime.files import replacing

FORMAT = "segnet-prepare/2"
INDEX, MANIFEST = "dataset.json", "manifest.csv"
OPEN_FILES = 64
CACHE_BYTES = 2**30
"""Slices kept in memory, the most recently used."""
_RECORD = ".record"  # no case begins with a dot
_LESION_ROWS = 4096  # voxels of the list in one chunk
_DAMAGE = (OSError, KeyError, ValueError, TypeError, AttributeError, IndexError, RuntimeError)
"""What h5py raises for a missing or damaged file."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PreparedCase(_Frozen):
    """One case of a prepared dataset, as dataset.json lists it.

    `lesion_slices` are runs of slices with lesion, as (first, last). `image` and `mask` are the source paths as given,
    `warnings` the oddities of their files.
    """

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
    warnings: tuple[str, ...] = ()

    @property
    def lesion_z(self) -> list[int]:
        """The slices with lesion."""
        return [z for first, last in self.lesion_slices for z in range(first, last + 1)]


class LeftOut(_Frozen):
    """A case that is not in the dataset, and the reason."""

    case: str
    patient: str
    set: str
    reason: str


class Source(_Frozen):
    """An image or mask file, or the files of a series, at the time of reading.

    `changed` is the file's time in nanoseconds, or a hash of all names, sizes and times of a series.
    """

    name: str
    n_bytes: int
    changed: str
    sha256: str


class Record(_Frozen):
    """Sources of a patient's file, and its rows of the index. `sources` holds image and mask of each of `cases`."""

    format: Literal["segnet-prepare/2"] = "segnet-prepare/2"
    config: PrepareConfig
    patient: str
    cases: tuple[PreparedCase, ...]
    sources: tuple[tuple[Source, Source], ...]
    left_out: tuple[LeftOut, ...] = ()


class Index(_Frozen):
    """The content of dataset.json."""

    format: Literal["segnet-prepare/2"] = "segnet-prepare/2"
    segnet: str
    config: PrepareConfig
    cases: tuple[PreparedCase, ...] = Field(min_length=1)
    left_out: tuple[LeftOut, ...] = ()
    images_without_mask: int = 0


@dataclass(frozen=True)
class PreparedDataset:
    """A folder written by `segnet.dataset.prepare.prepare`.

    Attributes
    ----------
    root : the folder
    config : how it was prepared
    cases : sorted by patient, then case
    """

    root: Path
    config: PrepareConfig
    cases: tuple[PreparedCase, ...]

    @cached_property
    def by_name(self) -> dict[str, PreparedCase]:
        return {entry.case: entry for entry in self.cases}

    @property
    def patients(self) -> list[str]:
        """The patients, sorted."""
        return sorted({case.patient for case in self.cases})

    def check(self, data: DataConfig) -> None:
        """Raises InputError unless a network is shown images the way these were prepared: same route, same window."""
        for name in ("route", "window_hu"):
            was, given = getattr(self.config, name), getattr(data, name)
            if was != given and not (name == "window_hu" and self.config.route == "paper"):
                raise InputError(
                    f"data.{name}: expected {was} as the dataset was prepared, got {given}; change it, or prepare the dataset again"
                )

    def path_of(self, case: PreparedCase) -> Path:
        """The HDF5 file whose group ``/<case>`` holds `case`."""
        return self.root / case.file


def load_dataset(path: str | Path | PreparedDataset) -> PreparedDataset:
    """Reads the index of a prepared dataset. A dataset already read is returned as it is.

    Parameters
    ----------
    path : the folder, or its dataset.json

    Raises
    ------
    InputError
        There is no index, it has another format, it names a case twice, or a file is missing.
    """
    if isinstance(path, PreparedDataset):
        return path
    path = Path(path)
    file = path / INDEX if path.is_dir() else path
    index = _read_index(file, path)
    dataset = PreparedDataset(file.parent, index.config, index.cases)
    if len(dataset.by_name) < len(index.cases):
        names = [case.case for case in index.cases]
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"dataset: expected each case once, got {twice} twice in {file}; run `segnet prepare` again")
    for name in {case.file for case in index.cases}:
        if not (file.parent / name).is_file():
            raise InputError(f"dataset: expected {name} beside {file}, got no such file; run `segnet prepare` again")
    return dataset


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


def read_record(path: Path) -> Record | None:
    """The record of a patient's file; None without such a file, or if it is of another kind."""
    try:
        with h5py.File(path, "r") as file:
            return Record.model_validate_json(bytes(file[_RECORD][()]))
    except (*_DAMAGE, ValidationError):
        return None


class PatientWriter:
    """Writes the cases of one patient into a new file."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def add(
        self,
        row: PreparedCase,
        image: NDArray[Any],
        mask: NDArray[np.uint8],
        lesion: NDArray[Any],
        affine: NDArray[Any],
    ) -> None:
        """One case, as the module's docstring lays it out; `affine` is of (x, y, z) on the stored grid."""
        group = self._file.create_group(row.case)
        try:
            by_slice: dict[str, Any] = {"chunks": (1, *image.shape[1:]), "compression": "lzf"}
            group.create_dataset("image", data=image, shuffle=image.itemsize > 1, **by_slice)
            group.create_dataset("mask", data=mask, **by_slice)
            rows = (min(_LESION_ROWS, len(lesion)), 3)
            group.create_dataset("lesion", data=lesion, chunks=rows, compression="lzf", shuffle=True)
            group.attrs.update({"affine": affine, "spacing_zyx_mm": row.spacing_zyx_mm})
        except BaseException:
            del self._file[row.case]
            raise

    def finish(self, record: Record) -> None:
        self._file[_RECORD] = np.void(record.model_dump_json().encode())


@contextmanager
def new_patient_file(path: Path) -> Iterator[PatientWriter]:
    """A writer whose file appears at `path` when the block ends without an error."""
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        yield PatientWriter(file)


class PatientFile:
    """One patient's HDF5 file, open for reading.

    Parameters
    ----------
    config : how the dataset was prepared

    Raises
    ------
    InputError
        The file is missing or damaged, lacks the case, or stores z-scores where HU are asked for. All methods raise it.
    """

    def __init__(self, path: Path, config: PrepareConfig) -> None:
        self.path, self.config = path, config
        self._groups: dict[str, Any] = {}
        self._lesions: dict[str, NDArray[np.integer[Any]]] = {}
        with self._reading("the patient's cases"):
            self._file = h5py.File(path, "r", rdcc_nbytes=0)  # a slice is a chunk, so no chunk is read twice

    def __enter__(self) -> PatientFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def require(self, entry: PreparedCase) -> None:
        """Raises InputError unless the file holds the case in the size that the index says."""
        if entry.case in self._groups:
            return
        with self._reading(f"case {entry.case}"):
            group = self._group(entry.case)
            shapes = tuple(group[name].shape for name in ("image", "mask", "lesion"))
            if shapes != (entry.shape_zyx, entry.shape_zyx, (entry.lesion_voxels, 3)):
                del self._groups[entry.case]
                raise ValueError(f"image, mask and lesion of shapes {shapes}, not {entry.shape_zyx} as the index says")

    def image(self, case: str, z: int | slice = slice(None)) -> NDArray[Any]:
        """Stored values of slices `z`: HU within the window, or the paper's 8-bit grey. Values from 0 to 1 are converted to HU."""
        require_hu(self.config, self.path)
        with self._reading(f"case {case}"):
            stored: NDArray[Any] = self._group(case)["image"][z]
        if self.config.values != "unit":
            return stored
        low, high = self.config.window_hu
        return stored.astype(np.float32) * (high - low) + low

    def mask(self, case: str, z: int | slice = slice(None)) -> NDArray[np.uint8]:
        """0 and 1 of slices `z`."""
        with self._reading(f"case {case}"):
            mask: NDArray[np.uint8] = self._group(case)["mask"][z]
            return mask

    def lesion(self, case: str) -> NDArray[np.integer[Any]]:
        """(n, 3), the (z, y, x) of the lesion's voxels; kept in memory."""
        if case not in self._lesions:
            with self._reading(f"case {case}"):
                self._lesions[case] = self._group(case)["lesion"][:]
        return self._lesions[case]

    def affine(self, case: str) -> NDArray[np.float64]:
        """Voxel index (x, y, z) to mm."""
        with self._reading(f"case {case}"):
            return np.asarray(self._group(case)["attributes"]["affine"], dtype=np.float64)

    def spacing_zyx_mm(self, case: str) -> tuple[float, float, float]:
        with self._reading(f"case {case}"):
            z, y, x = (float(s) for s in self._group(case)["attributes"]["spacing_zyx_mm"])
            return z, y, x

    def close(self) -> None:
        self._groups.clear()
        self._file.close()

    def _group(self, case: str) -> Any:
        """Arrays and attributes of a case, each looked up once."""
        if case not in self._groups:
            group = self._file[case]
            arrays = {name: group[name] for name in ("image", "mask", "lesion")}
            self._groups[case] = {**arrays, "attributes": group.attrs}
        return self._groups[case]

    @contextmanager
    def _reading(self, part: str) -> Iterator[None]:
        try:
            yield
        except _DAMAGE as error:
            remedy = "remove that file and run" if self.path.exists() else "run"
            raise InputError(
                f"dataset: expected {part} in {self.path}, got {error}; {remedy} `segnet prepare` again"
            ) from error


def require_hu(config: PrepareConfig, path: Path) -> None:
    """Raises InputError for a dataset of z-scores, from which HU cannot be restored."""
    if config.values == "zscore":
        raise InputError(
            f"values: expected a dataset of hu or unit, got zscore in {path}; prepare it again without --values"
        )


@dataclass(frozen=True)
class Case:
    """One prepared volume, (Z, Y, X). `image` is HU within the window, or the paper's 8-bit grey."""

    name: str
    patient: str
    image: NDArray[Any]
    mask: NDArray[np.uint8]
    spacing_zyx_mm: tuple[float, float, float]
    affine: NDArray[np.float64]


class Cases(Sequence[Case]):
    """Cases of a prepared dataset, whole or slice by slice. Each is read on demand, so memory does not grow with their number.

    Parameters
    ----------
    dataset : a folder written by `segnet prepare`, or the result of `load_dataset`
    names : of the cases, in this order; default: all, sorted
    cache_bytes : of slices kept in memory

    Raises
    ------
    InputError
        The folder is no prepared dataset, lacks a named case, or stores z-scores. Reading a missing or damaged file raises it too.
    """

    def __init__(
        self, dataset: Path | PreparedDataset, names: Sequence[str] | None = None, *, cache_bytes: int = CACHE_BYTES
    ) -> None:
        self.dataset = load_dataset(dataset)
        require_hu(self.dataset.config, self.dataset.root)
        known = self.dataset.by_name
        names = sorted(known) if names is None else names
        if unknown := next((name for name in names if name not in known), None):
            raise InputError(
                f"cases: expected cases of {self.dataset.root}, got {unknown!r}; prepare the data again or use its own split"
            )
        self.entries: list[PreparedCase] = [known[name] for name in names]
        self._files: OrderedDict[str, PatientFile] = OrderedDict()
        self._planes: OrderedDict[tuple[int, int], tuple[NDArray[Any], NDArray[np.uint8]]] = OrderedDict()
        self._images: OrderedDict[int, NDArray[Any]] = OrderedDict()
        self._room = cache_bytes

    def __len__(self) -> int:
        return len(self.entries)

    @overload
    def __getitem__(self, index: int) -> Case: ...
    @overload
    def __getitem__(self, index: slice) -> Cases: ...
    def __getitem__(self, index: int | slice) -> Case | Cases:
        if isinstance(index, slice):
            return Cases(self.dataset, [entry.case for entry in self.entries[index]])
        entry = self.entries[index]
        file = self._file_of(entry)
        image, mask = file.image(entry.case), file.mask(entry.case)
        return Case(entry.case, entry.patient, image, mask, entry.spacing_zyx_mm, file.affine(entry.case))

    def named(self, name: str) -> Case:
        """The case of that name; KeyError if it is none of these."""
        for index, entry in enumerate(self.entries):
            if entry.case == name:
                return self[index]
        raise KeyError(name)

    def plane(self, index: int, z: int) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        """Image and mask, (Y, X), of one slice."""
        key = (index, z)
        if key in self._planes:
            self._planes.move_to_end(key)
            return self._planes[key]
        entry = self.entries[index]
        file = self._file_of(entry)
        read = self._planes[key] = file.image(entry.case, z), file.mask(entry.case, z)
        self._room -= read[0].nbytes + read[1].nbytes
        while self._room < 0 and len(self._planes) > 1:
            self._room += sum(plane.nbytes for plane in self._planes.popitem(last=False)[1])
        return read

    def image(self, index: int) -> NDArray[Any]:
        """Image of a case, (Z, Y, X), kept in memory while there is room for it."""
        if index in self._images:
            self._images.move_to_end(index)
            return self._images[index]
        entry = self.entries[index]
        read = self._images[index] = self._file_of(entry).image(entry.case)
        self._room -= read.nbytes
        while self._room < 0 and len(self._images) > 1:
            self._room += self._images.popitem(last=False)[1].nbytes
        return read

    def lesion(self, index: int) -> NDArray[np.integer[Any]]:
        """(n, 3), the (z, y, x) of all lesion voxels of a case, rising in z."""
        entry = self.entries[index]
        return self._file_of(entry).lesion(entry.case)

    def lesion_voxel(self, index: int, number: int) -> tuple[int, int, int]:
        """(z, y, x) of one of the `lesion_voxels` of a case."""
        entry = self.entries[index]
        z, y, x = self._file_of(entry).lesion(entry.case)[number].tolist()
        return z, y, x

    def close(self) -> None:
        """Closes the files. Reading a case opens them again."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _file_of(self, entry: PreparedCase) -> PatientFile:
        """The open file of a case."""
        if entry.file not in self._files:
            self._files[entry.file] = PatientFile(self.dataset.path_of(entry), self.dataset.config)
            if len(self._files) > OPEN_FILES:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(entry.file)
        self._files[entry.file].require(entry)
        return self._files[entry.file]
