"""One NIfTI file in a zip archive. Nothing is unpacked to disk."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

from segnet.errors import InputError
from segnet.io import nifti
from segnet.io.streams import opened
from segnet.io.volume import MAX_VOXELS, Stored

_MAX_DIRECTORY = 2**20  # bytes, some ten thousand members
_END = b"PK\x05\x06"
_END_BYTES = 22
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError, LookupError)


def load_zipped(path: str | Path, *, max_voxels: int = MAX_VOXELS) -> Stored:
    """Read the one .nii or .nii.gz in a zip archive, as `nifti.load` reads a file.

    Parameters
    ----------
    path : a zip archive below 4 GB; files under ``__MACOSX`` do not count

    Raises
    ------
    InputError
        As `nifti.load`, or the archive is damaged, encrypted, or holds anything else.
    """
    path = Path(path)
    try:
        with opened(path) as (stream, size):
            _check_directory(stream, path, size)
            with zipfile.ZipFile(stream) as archive:
                member = _member(archive, path)
                with archive.open(member) as inside:
                    return nifti.load_stream(inside, path, size, packed=True, max_voxels=max_voxels)
    except InputError:
        raise
    except _DAMAGE as error:
        what = "a wrong checksum" if "CRC" in str(error) else f"a damaged one ({type(error).__name__})"
        raise InputError(
            f"path: expected a sound zip archive, got {what} in {path}; copy or download it again"
        ) from error


def _check_directory(stream: BinaryIO, path: Path, size: int) -> None:
    """Bounds the list of members that `zipfile` will read."""
    stream.seek(max(0, size - _END_BYTES - 2**16))
    tail = stream.read()
    at = len(tail) - _END_BYTES if tail[-_END_BYTES:].startswith(_END) else tail.rfind(_END)
    if at < 0 or len(tail) - at < _END_BYTES:
        raise InputError(
            f"path: expected a zip archive, got {path}, which has no list of members: the file is truncated; "
            "copy or download it again"
        )
    n_bytes, _, n_comment = struct.unpack_from("<IIH", tail, at + 12)
    if n_bytes > _MAX_DIRECTORY or tail[max(0, at - 20) : at].startswith(b"PK\x06\x07"):
        raise InputError(f"path: expected one NIfTI file in {path}, got a list of {n_bytes} bytes; unzip it first")
    if at + _END_BYTES + n_comment != len(tail):
        raise InputError(f"path: expected the end of the zip archive {path}, got other bytes behind it; zip it anew")
    stream.seek(0)


def _member(archive: zipfile.ZipFile, path: Path) -> zipfile.ZipInfo:
    members = [m for m in archive.infolist() if not m.is_dir() and not m.filename.startswith("__MACOSX/")]
    if len(members) != 1 or not members[0].filename.lower().endswith((".nii", ".nii.gz")):
        raise InputError(
            f"path: expected one .nii or .nii.gz in {path}, got {len(members)} files"
            f"{', none of them named so' if len(members) == 1 else ''}; zip each volume alone"
        )
    member = members[0]
    if member.flag_bits & 1:
        raise InputError(f"path: expected a zip archive without a password, got {path}; unzip it first")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(
            f"path: expected a stored or deflated file in {path}, got compression type {member.compress_type}; "
            "zip it anew"
        )
    return member
