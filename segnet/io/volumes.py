"""Volumes from files of any format, which is told from their content and not from their names."""

from __future__ import annotations

import hashlib
from pathlib import Path

from segnet.errors import InputError
from segnet.io import metaimage, nifti, nrrd, zipped
from segnet.io.dicom import is_dicom_series, load_series, series_files
from segnet.io.dicom_slice import is_dicom
from segnet.io.streams import opened
from segnet.io.volume import MAX_VOXELS, Stored, Volume, as_image, as_mask
from segnet.runtime.files import sha256_of

__all__ = ["MAX_VOXELS", "Volume", "files_of", "is_dicom_series", "read_image", "read_mask", "sha256_of_volume"]


def read_image(path: str | Path, *, max_voxels: int = MAX_VOXELS) -> Volume:
    """Read a volume as float32 in canonical orientation.

    Parameters
    ----------
    path : NIfTI, plain, gzipped or zipped; .mha; .nrrd; or a folder with one DICOM series
    max_voxels : larger volumes are refused by their header alone

    Raises
    ------
    InputError
        The file is missing, damaged, of another format, not three-dimensional, larger than `max_voxels` or the memory; or its type,
        grid, slope or voxels are not those of an image in mm.
    """
    path = Path(path)
    try:
        return as_image(_load(path, max_voxels))
    except MemoryError as error:
        raise _too_large(path) from error


def read_mask(path: str | Path, like: Volume | None = None, *, max_voxels: int = MAX_VOXELS) -> Volume:
    """Read a lesion mask as uint8 with values 0 and 1, in canonical orientation.

    Parameters
    ----------
    path : as in `read_image`; any real type whose voxels are exactly 0 or 1
    like : the image the mask must lie on: same canonical shape, voxel positions within 1e-3 mm
    max_voxels : larger volumes are refused by their header alone

    Raises
    ------
    InputError
        As `read_image`, or the mask holds other values or lies on another grid than `like`.
    """
    path = Path(path)
    try:
        return as_mask(_load(path, max_voxels), like)
    except MemoryError as error:
        raise _too_large(path) from error


def files_of(path: Path) -> list[Path]:
    """The files of a volume: itself, or those of a DICOM series, without others in its folder."""
    return series_files(path) if path.is_dir() else [path]


def sha256_of_volume(path: Path) -> str:
    """SHA-256 of a volume's file, or of the names and hashes of its series' files.

    Raises
    ------
    InputError
        A file cannot be read.
    """
    if not path.is_dir():
        return sha256_of(path)
    listing = "".join(f"{file.name}\0{sha256_of(file)}\0" for file in files_of(path))
    return hashlib.sha256(listing.encode()).hexdigest()


def _load(path: Path, max_voxels: int) -> Stored:
    if path.is_dir():
        return load_series(path, max_voxels=max_voxels)
    with opened(path) as (stream, _):
        head = stream.read(352)
    if head.startswith(b"PK"):
        return zipped.load_zipped(path, max_voxels=max_voxels)
    if head.startswith(b"NRRD"):
        return nrrd.read_nrrd(path, max_voxels=max_voxels)
    if metaimage.is_metaimage(head):
        return metaimage.read_metaimage(path, max_voxels=max_voxels).stored()
    if is_dicom(path):
        raise InputError(f"path: expected a volume, got the single DICOM file {path}; name the folder of its series")
    if head.startswith(b"\x1f\x8b") or nifti.is_nifti(head):
        return nifti.load(path, max_voxels=max_voxels)
    raise InputError(
        f"path: expected NIfTI, .mha, .nrrd or a DICOM folder, got {path}, which has no such header; "
        "convert it to .nii.gz"
    )


def _too_large(path: Path) -> InputError:
    return InputError(f"path: expected a volume that fits into memory, got {path}; crop it, or use a larger machine")
