"""NIfTI files in and out.

nibabel accepts a wrong gzip checksum, axes of length zero, NaN affines and voxels, and infinite slopes. Each is refused here, in one line.
The header is judged before the voxels are inflated, and inflation is bounded. nifti1.h and nibabel's own repairs decide what a header means.
"""

from __future__ import annotations

import gzip
import math
import struct
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import ArrayLike, DTypeLike

from segnet.errors import InputError
from segnet.io.streams import Inflated, Readable, check_size, opened, read_body, writing
from segnet.io.volume import MAX_VOXELS, FloatArray, Stored, Volume, check_affine, check_binary, check_shape

_MAX_OFFSET = 2**24  # bytes of header extensions
_HEADER_BYTES = 540  # NIfTI-2; NIfTI-1 has 348
_CODES: Any = nib.nifti1.data_type_codes
_FORMATS: tuple[tuple[Any, int, bytes], ...] = ((nib.Nifti1Header, 344, b"n+1\0"), (nib.Nifti2Header, 4, b"n+2\0"))
_FOREIGN_UNITS = {1: "metres", 3: "micrometres"}


def load(path: str | Path, *, max_voxels: int = MAX_VOXELS) -> Stored:
    """Read a NIfTI file's voxels as they are stored, with their scale and grid.

    Raises
    ------
    InputError
        As `read_image`, except for the values of voxels.
    """
    path = Path(path)
    with opened(path) as (stream, n_bytes):
        return load_stream(stream, path, n_bytes, max_voxels=max_voxels)


def load_stream(
    stream: Readable, path: Path, file_bytes: int, *, packed: bool = False, max_voxels: int = MAX_VOXELS
) -> Stored:
    """As `load`, from a stream at the start of a NIfTI file, plain or gzipped.

    Parameters
    ----------
    path : for errors
    file_bytes : size on disk, which bounds inflation
    packed : the stream itself comes out of an archive
    """
    head = stream.read(4)
    if head.startswith(b"PK"):
        raise InputError(f"path: expected a NIfTI file, got the zip archive {path}; unzip it first")
    if head.startswith(b"\x1f\x8b"):
        stream, head, packed = Inflated(stream, path, head=head), b"", True
    head += stream.read(_HEADER_BYTES - len(head))
    # The header is judged alone: nothing behind it is inflated yet.
    header = _header(head, path)
    shape, dtype = _shape(header, path, max_voxels), _dtype(header, path)
    start = float(header["vox_offset"])
    if not 0 <= start <= _MAX_OFFSET:
        raise InputError(f"vox_offset: expected 0 to {_MAX_OFFSET} bytes, got {start} in {path}; save the volume anew")
    offset = max(int(start), int(header.single_vox_offset))  # by nifti1.h, smaller offsets are equivalent
    unit = int(header["xyzt_units"]) & 7
    if unit in _FOREIGN_UNITS:
        raise InputError(
            f"xyzt_units: expected millimetres or none, got {_FOREIGN_UNITS[unit]} in {path}; "
            "save the volume in millimetres"
        )
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if not math.isfinite(slope):
        raise InputError(f"scl_slope: expected a finite number, got {slope} in {path}; save it with slope 1")
    if slope == 0.0:  # by the standard: not scaled
        slope, inter = 1.0, 0.0
    if not math.isfinite(inter):
        raise InputError(f"scl_inter: expected a finite number, got {inter} in {path}; save it with intercept 0")
    affine, warnings = _affine(header, path)
    end = offset + math.prod(shape) * dtype.itemsize
    check_size(end, path, file_bytes, packed=packed)
    buffer = read_body(stream, head, end, path)
    raw = np.frombuffer(buffer, dtype, math.prod(shape), offset).reshape(shape[:3], order="F")
    return Stored(raw, shape, affine, path, header, slope, inter, warnings)


def write_mask(path: str | Path, mask_xyz: ArrayLike, like: Volume) -> None:
    """Write a mask as uint8 on the grid of the file that `like` was read from, atomically.

    The file gets the source's own shape, orientation, affine codes, zooms, units and description. Slope, display range and header
    extensions, which may hold DICOM tags of the patient, are left out.

    Parameters
    ----------
    path : ends in .nii or .nii.gz
    mask_xyz : (X, Y, Z) like ``like.array``, bool or only 0 and 1
    like : the volume that was segmented

    Raises
    ------
    InputError
        Shape, values or path are not as above, or the file cannot be written.
    """
    mask = np.asarray(mask_xyz)
    check_binary(mask, "mask_xyz", "compare with a threshold first")
    write_like(path, mask, like, np.uint8)


def write_like(path: str | Path, array_xyz: ArrayLike, like: Volume, dtype: DTypeLike) -> None:
    """Write an array, such as probabilities, on the grid of the file that `like` was read from, atomically.

    Parameters
    ----------
    path : ends in .nii or .nii.gz
    array_xyz : (X, Y, Z) like ``like.array``, finite
    like : the volume the array belongs to
    dtype : type in the file; an integer type must hold every value exactly

    Raises
    ------
    InputError
        Shape, values, type or path are not as above, or the file cannot be written.
    """
    array = np.asarray(array_xyz)
    if array.shape != like.array.shape:
        raise InputError(
            f"array: expected shape {like.array.shape} (X, Y, Z) like {like.path.name}, got "
            f"{array.shape}; transpose it, or resample it onto that grid"
        )
    kind = np.dtype(dtype)
    if not _is_real(kind.newbyteorder("=")):
        raise InputError(f"dtype: expected a real type that NIfTI knows, got {kind}; use float32 or uint8")
    with np.errstate(invalid="ignore", over="ignore"):
        out = array.astype(kind)
    if kind.kind == "f":
        if not np.isfinite(out).all():
            raise InputError(
                f"array: expected finite values within {kind}, got NaN or infinity; look for a division by zero"
            )
    elif not np.array_equal(out, array):
        raise InputError(
            f"array: expected values that {kind} holds exactly, got {array.dtype} from "
            f"{array.min()} to {array.max()}; round them, or write float32"
        )

    header = like.header.copy()
    header.set_data_dtype(kind)
    header.set_data_offset(0)
    header["cal_min"], header["cal_max"] = 0, 0
    # affine=None keeps qform, sform and their codes in the header.
    save_nifti(_image_class(header)(like.to_source(out), None, header), path)


def save_nifti(image: Any, path: str | Path) -> None:
    """Write a nibabel image atomically. Equal images give equal bytes, also gzipped.

    Raises
    ------
    InputError
        `path` does not end in .nii or .nii.gz, or cannot be written.
    """
    path = Path(path)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise InputError(f"path: expected a name ending in .nii or .nii.gz, got {path.name}; add the ending")
    with writing(path) as stream:
        if path.name.endswith(".gz"):
            with gzip.GzipFile("", "wb", compresslevel=4, fileobj=stream, mtime=0) as zipped:
                image.to_stream(zipped)
        else:
            image.to_stream(stream)


def _image_class(header: Any) -> Any:
    return nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image


def is_nifti(head: bytes) -> bool:
    """Whether the first 352 bytes of a file are those of a single-file NIfTI, not packed."""
    return any(head[at : at + 4] == magic for _, at, magic in _FORMATS)


def _header(head: bytes, path: Path) -> Any:
    for cls, magic_at, magic in _FORMATS:
        n_bytes = cls.sizeof_hdr
        if len(head) >= n_bytes and head[magic_at : magic_at + 4] == magic:
            for endianness in "<>":
                if struct.unpack(endianness + "i", head[:4]) == (n_bytes,):
                    return cls(head[:n_bytes], endianness, check=False)
    raise InputError(
        f"path: expected a single-file NIfTI-1 or NIfTI-2, got {path}, which has no such header; convert it to .nii.gz"
    )


def _dtype(header: Any, path: Path) -> np.dtype[Any]:
    code = int(header["datatype"])
    known = code in _CODES.value_set()
    if not known or not _is_real(_CODES.dtype[code]):
        name = _CODES.label[code] if known else f"the unknown code {code}"
        raise InputError(
            f"datatype: expected integers or floats of at most 64 bits, got {name} in {path}; convert it to int16"
        )
    dtype: np.dtype[Any] = _CODES.dtype[code].newbyteorder(header.endianness)
    return dtype


def _is_real(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "iuf" and dtype.itemsize <= 8 and dtype in _CODES.dtype.values()


def _shape(header: Any, path: Path, max_voxels: int) -> tuple[int, ...]:
    ndim = int(header["dim"][0])
    if not 1 <= ndim <= 7:
        raise InputError(f"dim: expected 3 axes, got {ndim} in {path}; save the volume anew")
    shape = tuple(int(n) for n in header["dim"][1 : 1 + ndim])
    check_shape(shape, path, max_voxels, "dim")
    return shape


def _affine(header: Any, path: Path) -> tuple[FloatArray, tuple[str, ...]]:
    """The affine, and warnings of the fields of a qform that were repaired."""
    warnings = []
    qfac, lengths = header["pixdim"][0], header["pixdim"][1:4]
    if header["sform_code"] <= 0:  # an sform does not need these fields
        if header["qform_code"] > 0 and (qfac < 0) != (qfac == -1):
            raise InputError(f"pixdim[0]: expected 1 or -1, got {qfac} in {path}; save the volume with an sform")
        if header["qform_code"] > 0 and qfac not in (-1, 0, 1):
            warnings.append(f"qfac (pixdim[0]) is {qfac}, read as 1")
        if (lengths < 0).any():
            warnings.append(f"pixdim holds negative lengths {lengths.tolist()}, read as positive")
    if qfac != -1:
        header["pixdim"][0] = 1  # by nifti1.h, 0 means 1
    header["pixdim"][1:4] = np.abs(lengths)
    try:
        with np.errstate(all="ignore"):
            affine = np.asarray(header.get_best_affine(), dtype=np.float64)
    except (HeaderDataError, ValueError, np.linalg.LinAlgError) as error:
        raise InputError(
            f"affine: expected a rotation in qform, got none in {path} ({error}); save the volume with an sform"
        ) from error
    check_affine(affine, path)
    return affine, tuple(warnings)
