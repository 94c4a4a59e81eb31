"""Cases of a prepared dataset, read when they are asked for: memory does not grow with their number."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import h5py
import numpy as np
from numpy.typing import NDArray

from segnet.dataset.prepared import PreparedCase, PreparedDataset, load_dataset
from segnet.errors import InputError

OPEN_FILES = 64
CACHE_BYTES = 2**30
"""Slices kept in memory, the ones used last."""


@dataclass(frozen=True)
class Case:
    """One prepared volume, (Z, Y, X). image is what the route stored: HU within the window, or the paper's 8-bit grey."""

    name: str
    patient: str
    image: NDArray[Any]
    mask: NDArray[np.uint8]
    spacing_zyx_mm: tuple[float, float, float]
    affine: NDArray[np.float64]


class Cases(Sequence[Case]):
    """Cases of a prepared dataset in the order named, whole or slice by slice.

    Parameters
    ----------
    dataset : a folder that `segnet prepare` wrote, or what `load_dataset` made of it
    names : of the cases; all, sorted, unless given
    cache_bytes : of slices kept in memory

    Raises
    ------
    InputError
        The folder is not a prepared dataset; a named case is not in it; or its values are for other people's code (z-scores).
    """

    def __init__(
        self, dataset: Path | PreparedDataset, names: Sequence[str] | None = None, *, cache_bytes: int = CACHE_BYTES
    ) -> None:
        self.dataset = load_dataset(dataset) if isinstance(dataset, Path) else dataset
        if self.dataset.config.values == "zscore":
            raise InputError(
                f"values: expected a dataset of hu or unit, got zscore in {self.dataset.root}; prepare it again without --values"
            )
        entries = {entry.case: entry for entry in self.dataset.cases}
        if unknown := sorted(set(names or ()) - set(entries)):
            raise InputError(
                f"cases: expected cases of {self.dataset.root}, got {unknown[0]!r}; prepare the data again or use its own split"
            )
        self.entries: list[PreparedCase] = [entries[name] for name in (sorted(entries) if names is None else names)]
        self._files: OrderedDict[str, _PatientFile] = OrderedDict()
        self._planes: OrderedDict[tuple[int, int], tuple[NDArray[Any], NDArray[np.uint8]]] = OrderedDict()
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
        stored, image, mask = self._read(entry, slice(None))
        return Case(entry.case, entry.patient, image, mask, entry.spacing_zyx_mm, stored.affine)

    def __iter__(self) -> Iterator[Case]:
        return (self[index] for index in range(len(self)))

    def named(self, name: str) -> Case:
        """The case of that name.

        Raises
        ------
        KeyError
            It is none of these.
        """
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
        found = self._read(self.entries[index], z)[1:]
        self._planes[key] = found
        self._room -= _bytes(found)
        while self._room < 0 and len(self._planes) > 1:
            self._room += _bytes(self._planes.popitem(last=False)[1])
        return found

    def lesion_voxel(self, index: int, number: int) -> tuple[int, int, int]:
        """(z, y, x) of one of the `lesion_voxels` of a case."""
        z, y, x = (int(v) for v in self._stored(self.entries[index]).lesion[number])
        return z, y, x

    def close(self) -> None:
        """Closes the files; asking for a case opens them again."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _read(self, entry: PreparedCase, z: int | slice) -> tuple[_StoredCase, NDArray[Any], NDArray[np.uint8]]:
        try:
            stored = self._stored(entry)
            return stored, self._values(stored.image[z]), stored.mask[z]
        except (OSError, KeyError) as error:
            path = self.dataset.path_of(entry)
            raise InputError(
                f"dataset: expected case {entry.case} in {path}, got {error}; remove that file and run `segnet prepare` again"
            ) from error

    def _stored(self, entry: PreparedCase) -> _StoredCase:
        if entry.file not in self._files:
            self._files[entry.file] = _PatientFile(self.dataset.path_of(entry))
            if len(self._files) > OPEN_FILES:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(entry.file)
        return self._files[entry.file][entry.case]

    def _values(self, stored: NDArray[Any]) -> NDArray[Any]:
        """HU of what is stored from 0 to 1."""
        if self.dataset.config.values != "unit":
            return stored
        low, high = self.dataset.config.window_hu
        return stored.astype(np.float32) * (high - low) + low


@dataclass(frozen=True)
class _StoredCase:
    """A case in its open file: image and mask are read when they are indexed, the lesion's voxels are in memory."""

    image: Any
    mask: Any
    lesion: NDArray[np.integer[Any]]
    affine: NDArray[np.float64]


class _PatientFile:
    """An open file and its cases, each looked up once."""

    def __init__(self, path: Path) -> None:
        self._file = h5py.File(path, "r", rdcc_nbytes=0)  # a slice is a chunk, so no chunk is asked for twice
        self._cases: dict[str, _StoredCase] = {}

    def __getitem__(self, case: str) -> _StoredCase:
        if case not in self._cases:
            group = self._file[case]
            affine = np.asarray(group.attrs["affine"], dtype=np.float64)
            self._cases[case] = _StoredCase(group["image"], group["mask"], group["lesion"][:], affine)
        return self._cases[case]

    def close(self) -> None:
        self._cases.clear()
        self._file.close()


def _bytes(planes: tuple[NDArray[Any], NDArray[Any]]) -> int:
    return planes[0].nbytes + planes[1].nbytes
