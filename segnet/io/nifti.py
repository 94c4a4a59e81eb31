"""NIfTI files in and out.

nibabel accepts a wrong gzip checksum, axes of length zero, NaN affines and voxels, and infinite slopes. Each is refused here, in one line.
The header is judged before the voxels are inflated, and inflation is bounded. nifti1.h and nibabel's own repairs decide what a header means.
"""

from __future__ import annotations

import gzip
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import ArrayLike, DTypeLike

from segnet.errors import InputError
from segnet.io.streams import Inflated, Readable, check_size, opened, read_body, writing
from segnet.io.volume import MAX_VOXELS, FloatArray, Stored, Volume, check_affine, check_binary, check_shape

__all__ = [
    "MAX_VOXELS",
    "Volume",
    "is_nifti",
    "load",
    "load_stream",
    "save_nifti",
    "write_like",
    "write_mask",
]


_MAX_OFFSET = 2**24  # bytes of header extensions
_HEADER_BYTES = 540  # NIfTI-2; NIfTI-1 has 348
_DTYPES: dict[int, str] = {
    2: "u1",
    4: "i2",
    8: "i4",
    16: "f4",
    64: "f8",
    256: "i1",
    512: "u2",
    768: "u4",
    1024: "i8",
    1280: "u8",
}
_REFUSED_TYPES = {
    1: "1-bit",
    32: "complex64",
    128: "RGB",
    1536: "float128",
    1792: "complex128",
    2048: "complex256",
    2304: "RGBA",
}
_FORMATS: tuple[tuple[Any, int, bytes], ...] = ((nib.Nifti1Header, 344, b"n+1\0"), (nib.Nifti2Header, 4, b"n+2\0"))
_FOREIGN_UNITS = {1: "metres", 3: "micrometres"}


@dataclass(frozen=True)
class _Layout:
    """Place of the voxels in the inflated file, and their meaning."""

    header: Any
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    slope: float
    inter: float
    affine: FloatArray
    warnings: tuple[str, ...]

    @property
    def n_voxels(self) -> int:
        return math.prod(self.shape)

    @property
    def end(self) -> int:
        return self.offset + self.n_voxels * self.dtype.itemsize


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
    """As `load`, from a stream that stands at the start of a NIfTI file, plain or gzipped.

    Parameters
    ----------
    path : named in errors
    file_bytes : size on disk, which bounds what is inflated
    packed : the stream itself comes out of an archive
    """
    head = stream.read(4)
    if head.startswith(b"PK"):
        raise InputError(f"path: expected a NIfTI file, got the zip archive {path}; unzip it first")
    if head.startswith(b"\x1f\x8b"):
        stream, head, packed = Inflated(stream, path, head=head), b"", True
    head += stream.read(_HEADER_BYTES - len(head))
    layout = _layout(head, path, max_voxels)
    check_size(layout.end, path, file_bytes, packed=packed)
    buffer = read_body(stream, head, layout.end, path)
    raw = np.frombuffer(buffer, layout.dtype, layout.n_voxels, layout.offset).reshape(layout.shape[:3], order="F")
    return Stored(raw, layout.shape, layout.affine, path, layout.header, layout.slope, layout.inter, layout.warnings)


def write_mask(path: str | Path, mask_xyz: ArrayLike, like: Volume) -> None:
    """Write a mask as uint8 on the grid of the file that `like` was read from, atomically.

    The file gets the source's own shape, orientation, affine codes, zooms, units and description. Slope,
    display range and header extensions (which may hold DICOM tags of the patient) are not carried over.

    Parameters
    ----------
    path : ends in .nii or .nii.gz
    mask_xyz : (X, Y, Z) like ``like.array``, bool or only 0 and 1
    like : the volume that was segmented

    Raises
    ------
    InputError
        If shape, values or path are not as above, or the file cannot be written.
    """
    mask = np.asarray(mask_xyz)
    check_binary(mask, "mask_xyz", "compare with a threshold first")
    write_like(path, mask, like, np.uint8)


def write_like(path: str | Path, array_xyz: ArrayLike, like: Volume, dtype: DTypeLike) -> None:
    """Write an array, say of probabilities, on the grid of the file that `like` was read from, atomically.

    Parameters
    ----------
    path : ends in .nii or .nii.gz
    array_xyz : (X, Y, Z) like ``like.array``, finite
    like : the volume the array belongs to
    dtype : type in the file; an integer type must hold every value exactly

    Raises
    ------
    InputError
        If shape, values, type or path are not as above, or the file cannot be written.
    """
    array = np.asarray(array_xyz)
    if array.shape != like.array.shape:
        raise InputError(
            f"array: expected shape {like.array.shape} (X, Y, Z) like {like.path.name}, got "
            f"{array.shape}; transpose it, or resample it onto that grid"
        )
    kind = np.dtype(dtype)
    if kind.newbyteorder("=").str[1:] not in _DTYPES.values():
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
    # affine=None leaves qform, sform and their codes in the header as they are.
    save_nifti(_image_class(header)(like.to_source(out), None, header), path)


def save_nifti(image: Any, path: str | Path) -> None:
    """Write a nibabel image atomically: a failure leaves neither half a file nor a temporary one.

    Equal images give equal bytes, also when gzipped.

    Raises
    ------
    InputError
        If `path` does not end in .nii or .nii.gz, or cannot be written.
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


def _layout(head: bytes, path: Path, max_voxels: int) -> _Layout:
    """Judges the header alone: nothing behind it is inflated yet."""
    header = _header(head, path)
    shape = _shape(header, path, max_voxels)
    code = int(header["datatype"])
    if code not in _DTYPES:
        name = _REFUSED_TYPES.get(code, f"the unknown code {code}")
        raise InputError(
            f"datatype: expected integers or floats of at most 64 bits, got {name} in {path}; convert it to int16"
        )
    start = float(header["vox_offset"])
    if not 0 <= start <= _MAX_OFFSET:
        raise InputError(f"vox_offset: expected 0 to {_MAX_OFFSET} bytes, got {start} in {path}; save the volume anew")
    start = max(int(start), int(header.single_vox_offset))  # by nifti1.h, smaller offsets are equivalent
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
    dtype = np.dtype(header.endianness + _DTYPES[code])
    affine, warnings = _affine(header, path)
    return _Layout(header, shape, dtype, start, slope, inter, affine, warnings)


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
