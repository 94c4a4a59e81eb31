"""One patient's HDF5 file: written whole or not at all, with a record of what it was made from."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from segnet.config import PrepareConfig
from segnet.dataset.prepared import LeftOut, PreparedCase, runs
from segnet.dataset.routes import grey_slices, mask_slices, paper_affine, windowed, write_pngs
from segnet.errors import InputError, reason
from segnet.io.pairs import Pair
from segnet.io.volume import spacing_of
from segnet.io.volumes import Volume, files_of, read_image, read_mask, sha256_of_volume
from segnet.runtime.files import replacing

PNG_FOLDER = "png"
_RECORD = ".record"  # no case begins with a dot
_LESION_ROWS = 4096  # of the list of voxels that one chunk holds


class Source(BaseModel):
    """A file, or all files of a series, as they were when they were read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    n_bytes: int
    changed: str
    """When: the file's time in nanoseconds, or a hash of all names, sizes and times."""
    sha256: str

    def unchanged(self, path: Path) -> bool:
        """Whether `path` still holds the same. Size and time of change decide; where only the time differs, the hash."""
        n_bytes, changed = _size_and_time(path)
        if (path.name, n_bytes) != (self.name, self.n_bytes):
            return False
        return changed == self.changed or sha256_of_volume(path) == self.sha256


class Record(BaseModel):
    """What a patient's file was made from, and its rows of the index."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["segnet-prepare/2"] = "segnet-prepare/2"
    config: PrepareConfig
    patient: str
    cases: tuple[PreparedCase, ...]
    sources: tuple[tuple[Source, Source], ...]
    """Image and mask of each of `cases`."""
    left_out: tuple[LeftOut, ...] = ()

    def made_from(self, pairs: Sequence[Pair], config: PrepareConfig, out: Path) -> bool:
        """Whether preparing `pairs` into `out` would give the same again. A patient with a case left out is tried anew."""
        if self.left_out or self.config != config or len(self.cases) != len(pairs):
            return False
        if config.keep_png and not all((out / PNG_FOLDER / pair.case).is_dir() for pair in pairs):
            return False
        return all(
            (row.case, row.set, row.image, row.mask) == (pair.case, pair.set, str(pair.image), str(pair.mask))
            and image.unchanged(Path(pair.image))
            and mask.unchanged(Path(pair.mask))
            for row, (image, mask), pair in zip(self.cases, self.sources, pairs, strict=True)
        )


def read_record(path: Path) -> Record | None:
    """The record of a patient's file; None where there is no such file, or one of another kind."""
    try:
        with h5py.File(path, "r") as file:
            return Record.model_validate_json(bytes(file[_RECORD][()]))
    except (OSError, KeyError, ValueError, TypeError, AttributeError, ValidationError):
        return None


def write_patient(out: Path, pairs: Sequence[Pair], config: PrepareConfig) -> Record:
    """Writes ``<out>/<patient>.h5`` from the cases of one patient, one case in memory at a time.

    A bad case is left out, with its reason; where all are, no file is left.
    """
    patient = pairs[0].patient
    path = out / f"{patient}.h5"
    cases, sources, bad = [], [], []
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        for pair in pairs:
            try:
                sources.append((_source(Path(pair.image)), _source(Path(pair.mask))))
                cases.append(_write_case(file, pair, sources[-1], out, config))
            except Exception as error:  # whatever a file does to a library, the other cases go on
                del sources[len(cases) :]
                file.pop(pair.case, None)
                bad.append(left_out(pair, error))
        record = Record(config=config, patient=patient, cases=tuple(cases), sources=tuple(sources), left_out=tuple(bad))
        file[_RECORD] = np.void(record.model_dump_json().encode())
    if not cases:
        path.unlink()
    return record


def left_out(pair: Pair, error: BaseException) -> LeftOut:
    """A case that is not taken in, with the reason in one line."""
    return LeftOut(case=pair.case, patient=pair.patient, set=pair.set, reason=" ".join(reason(error).split()))


def _write_case(
    file: Any, pair: Pair, sources: tuple[Source, Source], out: Path, config: PrepareConfig
) -> PreparedCase:
    image = read_image(pair.image)
    mask = read_mask(pair.mask, like=image)
    if not mask.array_zyx.view(np.bool_).any():
        raise InputError(f"mask: expected at least one lesion voxel, got none in {pair.mask}; leave the case out")
    stored, stored_mask, affine = _by_route(image, mask, config)
    if not stored_mask.view(np.bool_).any():
        raise InputError(
            f"mask: expected a lesion that 256 x 256 slices can show, got one that they lose in {pair.mask}; use the route hu"
        )
    if config.keep_png:
        shutil.rmtree(out / PNG_FOLDER / pair.case, ignore_errors=True)
        write_pngs(out / PNG_FOLDER / pair.case, stored, stored_mask)
    lesion = _voxels(stored_mask)
    spacing = np.array(spacing_of(affine)[::-1])
    row = PreparedCase(
        case=pair.case,
        patient=pair.patient,
        set=pair.set,
        file=f"{pair.patient}.h5",
        shape_zyx=stored.shape,
        spacing_zyx_mm=tuple(spacing.tolist()),
        lesion_voxels=len(lesion),
        lesion_ml=len(lesion) * float(spacing.prod()) / 1000,
        lesion_slices=runs(np.bincount(lesion[:, 0], minlength=len(stored)) > 0),
        image=str(pair.image),
        mask=str(pair.mask),
        image_sha256=sources[0].sha256,
        mask_sha256=sources[1].sha256,
    )
    group = file.create_group(pair.case)
    by_slice: dict[str, Any] = {"chunks": (1, *stored.shape[1:]), "compression": "lzf"}
    group.create_dataset("image", data=stored, shuffle=stored.itemsize > 1, **by_slice)
    group.create_dataset("mask", data=stored_mask, **by_slice)
    group.create_dataset(
        "lesion", data=lesion, chunks=(min(_LESION_ROWS, len(lesion)), 3), compression="lzf", shuffle=True
    )
    group.attrs.update({"affine": affine, "spacing_zyx_mm": row.spacing_zyx_mm})
    return row


def _voxels(mask: NDArray[np.uint8]) -> NDArray[np.uint16 | np.uint32]:
    """(n, 3): z, y, x of every voxel. Looked for in the slices that hold some: a lesion is a small part of a volume."""
    held = mask.view(np.bool_)
    slices = np.flatnonzero(held.reshape(len(held), -1).any(axis=1))
    found = np.argwhere(held[slices])
    found[:, 0] = slices[found[:, 0]]
    return found.astype(np.uint16 if max(mask.shape) < 2**16 else np.uint32)


def _by_route(
    image: Volume, mask: Volume, config: PrepareConfig
) -> tuple[NDArray[Any], NDArray[np.uint8], NDArray[np.float64]]:
    """Image and mask as they are stored, and the affine of (x, y, z) on their grid."""
    if config.route == "hu":
        return windowed(image.array_zyx, config), mask.array_zyx, image.affine
    affine = paper_affine(image.affine, image.array_zyx.shape)
    return grey_slices(image.array_zyx), mask_slices(mask.array_zyx), affine


def _size_and_time(path: Path) -> tuple[int, str]:
    if not path.is_dir():
        state = path.stat()
        return state.st_size, str(state.st_mtime_ns)
    states = [(file.name, file.stat()) for file in files_of(path)]
    listing = repr([(name, state.st_size, state.st_mtime_ns) for name, state in states])
    return sum(state.st_size for _, state in states), hashlib.sha256(listing.encode()).hexdigest()


def _source(path: Path) -> Source:
    n_bytes, changed = _size_and_time(path)
    return Source(name=path.name, n_bytes=n_bytes, changed=changed, sha256=sha256_of_volume(path))
