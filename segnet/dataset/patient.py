"""One patient's images and masks into his file of a prepared dataset."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segnet.config import PrepareConfig
from segnet.dataset.routes import grey_slices, mask_slices, paper_affine, windowed, write_pngs
from segnet.dataset.store import LeftOut, PatientWriter, PreparedCase, Record, Source, new_patient_file
from segnet.errors import InputError, reason
from segnet.io.pairs import Pair
from segnet.io.volume import spacing_of
from segnet.io.volumes import files_of, read_image, read_mask, sha256_of_volume

PNG_FOLDER = "png"


def source_of(path: Path) -> Source:
    """Name, size, time and hash of a file or of the files of a series."""
    n_bytes, changed = _size_and_time(path)
    return Source(name=path.name, n_bytes=n_bytes, changed=changed, sha256=sha256_of_volume(path))


def unchanged(source: Source, path: Path) -> bool:
    """Whether `path` still holds the same. Size and time decide; where only the time differs, the hash."""
    n_bytes, changed = _size_and_time(path)
    if (path.name, n_bytes) != (source.name, source.n_bytes):
        return False
    return changed == source.changed or sha256_of_volume(path) == source.sha256


def made_from(record: Record, pairs: Sequence[Pair], config: PrepareConfig, out: Path) -> bool:
    """Whether preparing `pairs` into `out` would give the same file again. A patient with a case left out is prepared anew."""
    if record.left_out or record.config != config or len(record.cases) != len(pairs):
        return False
    if config.keep_png and not all((out / PNG_FOLDER / pair.case).is_dir() for pair in pairs):
        return False
    return all(
        (row.case, row.set, row.image, row.mask) == (pair.case, pair.set, str(pair.image), str(pair.mask))
        and unchanged(image, Path(pair.image))
        and unchanged(mask, Path(pair.mask))
        for row, (image, mask), pair in zip(record.cases, record.sources, pairs, strict=True)
    )


def write_patient(out: Path, pairs: Sequence[Pair], config: PrepareConfig) -> Record:
    """Writes ``<out>/<patient>.h5`` from the cases of one patient, with one case in memory at a time.

    A bad case is left out, with its reason. Where all are bad, no file is left.
    """
    patient = pairs[0].patient
    path = out / f"{patient}.h5"
    cases, sources, bad = [], [], []
    with new_patient_file(path) as writer:
        for pair in pairs:
            try:
                both = source_of(Path(pair.image)), source_of(Path(pair.mask))
                cases.append(_write_case(writer, pair, both, out, config))
                sources.append(both)
            except Exception as error:  # the other cases go on, whatever a library raises
                bad.append(left_out(pair, error))
        record = Record(config=config, patient=patient, cases=tuple(cases), sources=tuple(sources), left_out=tuple(bad))
        writer.finish(record)
    if not cases:
        path.unlink()
    return record


def left_out(pair: Pair, error: BaseException) -> LeftOut:
    """A case that is left out, with the reason in one line."""
    return LeftOut(case=pair.case, patient=pair.patient, set=pair.set, reason=" ".join(reason(error).split()))


def _write_case(
    writer: PatientWriter, pair: Pair, sources: tuple[Source, Source], out: Path, config: PrepareConfig
) -> PreparedCase:
    image = read_image(pair.image)
    mask = read_mask(pair.mask, like=image)
    if not mask.array_zyx.view(np.bool_).any():
        raise InputError(f"mask: expected at least one lesion voxel, got none in {pair.mask}; leave the case out")
    if config.route == "hu":
        stored, stored_mask, affine = windowed(image.array_zyx, config), mask.array_zyx, image.affine
    else:
        stored, stored_mask = grey_slices(image.array_zyx), mask_slices(mask.array_zyx)
        affine = paper_affine(image.affine, image.array_zyx.shape)
    lesion = lesion_voxels(stored_mask)
    if not len(lesion):
        raise InputError(
            f"mask: expected a lesion that 256 x 256 slices can show, got one that they lose in {pair.mask}; use the route hu"
        )
    if config.keep_png:
        shutil.rmtree(out / PNG_FOLDER / pair.case, ignore_errors=True)
        write_pngs(out / PNG_FOLDER / pair.case, stored, stored_mask)
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
        warnings=(*(f"image: {w}" for w in image.warnings), *(f"mask: {w}" for w in mask.warnings)),
    )
    writer.add(row, stored, stored_mask, lesion, affine)
    return row


def lesion_voxels(mask: NDArray[np.uint8]) -> NDArray[np.uint16 | np.uint32]:
    """(n, 3): z, y, x of every voxel of a mask (Z, Y, X). Only slices with lesion are searched."""
    held = mask.view(np.bool_)
    slices = np.flatnonzero(held.reshape(len(held), -1).any(axis=1))
    voxels = np.argwhere(held[slices])
    voxels[:, 0] = slices[voxels[:, 0]]
    return voxels.astype(np.uint16 if max(mask.shape) < 2**16 else np.uint32)


def runs(held: NDArray[np.bool_]) -> tuple[tuple[int, int], ...]:
    """Runs of true values as (first, last).

    Examples
    --------
    >>> runs(np.array([False, True, True, False, True]))
    ((1, 2), (4, 4))
    """
    edges = np.flatnonzero(np.diff(np.r_[False, held, False].astype(np.int8)))
    return tuple((int(a), int(b) - 1) for a, b in edges.reshape(-1, 2))


def _size_and_time(path: Path) -> tuple[int, str]:
    if not path.is_dir():
        state = path.stat()
        return state.st_size, str(state.st_mtime_ns)
    states = [(file.name, file.stat()) for file in files_of(path)]
    listing = repr([(name, state.st_size, state.st_mtime_ns) for name, state in states])
    return sum(state.st_size for _, state in states), hashlib.sha256(listing.encode()).hexdigest()
