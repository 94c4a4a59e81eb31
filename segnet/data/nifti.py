"""NIfTI files in and out, checked where nibabel is silent.

nibabel accepts a wrong gzip checksum, axes of length zero, NaN affines and voxels and infinite slopes. Here
each is refused in one line, the header is judged before the voxels are inflated, and inflation is bounded.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import ArrayLike, DTypeLike, NDArray

from segnet.errors import InputError
from segnet.files import replacing

FloatArray = NDArray[np.float64]

_orientations: Any = nib.orientations

MAX_VOXELS = 2**30
AFFINE_TOLERANCE_MM = 1e-3

_CHUNK = 2**20
_SLACK = 2**20  # bytes a file may hold behind its voxels
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
_FOREIGN_UNITS = {1: "metres", 3: "micrometres"}


@dataclass(frozen=True, eq=False)
class Volume:
    """A volume in canonical RAS+ orientation, with what is needed to return to its file's own.

    Attributes
    ----------
    array : (X, Y, Z), float32 for an image, uint8 for a mask; in Fortran order, so (Z, Y, X) is C-contiguous
    affine : (4, 4) float64, voxel index of `array` to mm in RAS+
    spacing_mm : lengths of a voxel along the axes of `array`
    path : the file it was read from
    header : the file's own nibabel header, without its extensions
    source_shape : the file's own shape, trailing axes of length 1 included
    source_affine : (4, 4) float64, voxel index in the file to mm
    orientation : (3, 2) float64, nibabel's orientation of the file's axes
    """

    array: NDArray[Any]
    affine: FloatArray
    spacing_mm: tuple[float, float, float]
    path: Path
    header: Any
    source_shape: tuple[int, ...]
    source_affine: FloatArray
    orientation: FloatArray

    @property
    def array_zyx(self) -> NDArray[Any]:
        """View of `array` as (Z, Y, X)."""
        return self.array.transpose(2, 1, 0)

    @property
    def spacing_zyx_mm(self) -> tuple[float, float, float]:
        """`spacing_mm` in the order of `array_zyx`."""
        x, y, z = self.spacing_mm
        return (z, y, x)


@dataclass(frozen=True)
class _Layout:
    """Where the voxels lie in the inflated file, and what they mean."""

    header: Any
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    slope: float
    inter: float
    affine: FloatArray

    @property
    def n_voxels(self) -> int:
        return math.prod(self.shape)

    @property
    def end(self) -> int:
        return self.offset + self.n_voxels * self.dtype.itemsize


def read_image(path: str | Path, *, max_voxels: int = MAX_VOXELS) -> Volume:
    """Read a CT volume as float32 in canonical orientation.

    Parameters
    ----------
    path : a single-file NIfTI-1 or NIfTI-2, plain or gzipped, of shape (X, Y, Z) or (X, Y, Z, 1)
    max_voxels : larger volumes are refused by their header alone

    Raises
    ------
    InputError
        If the file is missing, damaged, no NIfTI, not three-dimensional, larger than `max_voxels`, or if its
        type, affine, slope or voxels cannot be an image in mm.
    """
    path = Path(path)
    layout, raw = _read(path, max_voxels)
    scaled = _scaled(raw, layout)
    with np.errstate(over="ignore"):
        array = scaled.astype(np.float32)
    _check_finite(array, path)
    return _canonical(array, layout, path)


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
        As `read_image`, and if the mask holds other values or lies on another grid than `like`.
    """
    path = Path(path)
    layout, raw = _read(path, max_voxels)
    scaled = _scaled(raw, layout)
    _check_finite(scaled, path)
    _check_binary(scaled, f"mask {path}", "choose one label and save it as 0 and 1")
    mask = _canonical(scaled.astype(np.uint8), layout, path)
    if like is not None:
        _check_same_grid(mask, like)
    return mask


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
    _check_binary(mask, "mask_xyz", "compare with a threshold first")
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

    identity = np.array([[0, 1], [1, 1], [2, 1]], dtype=np.float64)
    back = _orientations.ornt_transform(identity, like.orientation)
    own = _orientations.apply_orientation(out, back).reshape(like.source_shape)
    header = like.header.copy()
    header.set_data_dtype(kind)
    header.set_data_offset(0)
    header["cal_min"], header["cal_max"] = 0, 0
    # affine=None leaves qform, sform and their codes in the header as they are.
    save_nifti(_image_class(header)(own, None, header), path)


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
    try:
        with replacing(path) as temporary, open(temporary, "wb") as stream:
            if path.name.endswith(".gz"):
                with gzip.GzipFile("", "wb", compresslevel=4, fileobj=stream, mtime=0) as zipped:
                    image.to_stream(zipped)
            else:
                image.to_stream(stream)
    except OSError as error:
        raise InputError(
            f"path: expected a writable file, got {path} ({error.strerror or error}); check rights and free space"
        ) from error


def _image_class(header: Any) -> Any:
    return nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image


def _read(path: Path, max_voxels: int) -> tuple[_Layout, NDArray[Any]]:
    """The file's layout and its unscaled voxels, in the file's own shape without trailing axes."""
    if not path.exists():
        raise InputError(f"path: expected a NIfTI file, got {path}, which does not exist; check the name")
    if not path.is_file():
        raise InputError(f"path: expected a NIfTI file, got {path}, which is no file; name one .nii or .nii.gz")
    try:
        with path.open("rb") as stream:
            return _read_stream(stream, path, max_voxels)
    except OSError as error:
        raise InputError(
            f"path: expected a readable file, got {path} ({error.strerror or error}); check its rights and the disk"
        ) from error


def _read_stream(stream: BinaryIO, path: Path, max_voxels: int) -> tuple[_Layout, NDArray[Any]]:
    magic = stream.read(4)
    stream.seek(0)
    if magic.startswith(b"PK"):
        raise InputError(f"path: expected a NIfTI file, got the zip archive {path}; unzip it first")
    zipped = magic.startswith(b"\x1f\x8b")
    source: BinaryIO | _Gunzip = _Gunzip(stream, path) if zipped else stream
    buffer = bytearray(source.read(_HEADER_BYTES))
    layout = _layout(bytes(buffer), path, max_voxels)
    # A gzip stream is read to its end, where its checksum stands; a plain file only as far as its voxels.
    limit = layout.end + _SLACK + 1 if zipped else layout.end
    while len(buffer) < limit and (chunk := source.read(min(_CHUNK, limit - len(buffer)))):
        buffer += chunk
    if len(buffer) > layout.end + _SLACK:
        raise InputError(
            f"path: expected {layout.end} bytes as the header of {path} declares, got over "
            f"{_SLACK} bytes more; save the volume anew"
        )
    if len(buffer) < layout.end:
        raise InputError(
            f"path: expected {layout.end} bytes as the header of {path} declares, got "
            f"{len(buffer)}: the file is truncated; copy or download it again"
        )
    raw = np.frombuffer(buffer, layout.dtype, layout.n_voxels, layout.offset)
    return layout, raw.reshape(layout.shape[:3], order="F")


class _Gunzip:
    """Reads a gzip stream member by member, holding no more than was asked for, and checks its checksums."""

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self._stream = stream
        self._path = path
        self._pending = b""
        self._member = zlib.decompressobj(wbits=31)
        self._done = False

    def read(self, n_bytes: int) -> bytes:
        """Up to `n_bytes` inflated bytes; fewer only at the end of the stream."""
        out = bytearray()
        while len(out) < n_bytes and not self._done:
            self._pending = self._pending or self._stream.read(2**16)
            if not self._pending:
                raise InputError(
                    f"path: expected a whole gzip stream, got {self._path}, which is truncated; "
                    "copy or download it again"
                )
            try:
                out += self._member.decompress(self._pending, n_bytes - len(out))
            except zlib.error as error:
                what = (
                    "a wrong checksum" if "data check" in str(error) or "length check" in str(error) else "damaged data"
                )
                raise InputError(
                    f"path: expected a sound gzip stream, got {what} in {self._path}; copy or download it again"
                ) from error
            self._pending = self._member.unconsumed_tail
            if self._member.eof:
                self._next_member()
        return bytes(out)

    def _next_member(self) -> None:
        rest = self._member.unused_data
        rest += self._stream.read(2**16) if len(rest) < 2 else b""
        # What follows a member and is no other member is padding, which gzip tools ignore too.
        self._done = not rest.startswith(b"\x1f\x8b")
        self._pending = rest
        self._member = zlib.decompressobj(wbits=31)


def _layout(head: bytes, path: Path, max_voxels: int) -> _Layout:
    """Judge the header alone: nothing behind it has been inflated yet."""
    header = _header(head, path)
    shape = _shape(header, path, max_voxels)
    code = int(header["datatype"])
    if code not in _DTYPES:
        name = _REFUSED_TYPES.get(code, f"the unknown code {code}")
        raise InputError(
            f"datatype: expected integers or floats of at most 64 bits, got {name} in {path}; convert it to int16"
        )
    single = int(header.single_vox_offset)
    start = float(header["vox_offset"])
    if not single <= start <= _MAX_OFFSET:
        raise InputError(
            f"vox_offset: expected {single} to {_MAX_OFFSET} bytes, got {start} in {path}; save the volume anew"
        )
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
    return _Layout(header, shape, dtype, int(start), slope, inter, _affine(header, path))


def _header(head: bytes, path: Path) -> Any:
    formats: tuple[tuple[Any, int, bytes], ...] = ((nib.Nifti1Header, 344, b"n+1\0"), (nib.Nifti2Header, 4, b"n+2\0"))
    for cls, magic_at, magic in formats:
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
    if min(shape) < 1:
        raise InputError(f"dim: expected axes of at least one voxel, got {shape} in {path}; save the volume anew")
    if ndim < 3:
        raise InputError(
            f"dim: expected shape (X, Y, Z), got the {ndim}-D shape {shape} in {path}; stack the slices to a volume"
        )
    if any(n > 1 for n in shape[3:]):
        raise InputError(
            f"dim: expected shape (X, Y, Z) or (X, Y, Z, 1), got {shape} in {path}; save one volume of the series"
        )
    if math.prod(shape) > max_voxels:
        raise InputError(
            f"dim: expected at most {max_voxels} voxels, got {math.prod(shape)} from shape "
            f"{shape} in {path}; crop it, or raise max_voxels"
        )
    return shape


def _affine(header: Any, path: Path) -> FloatArray:
    try:
        with np.errstate(all="ignore"):
            affine = np.asarray(header.get_best_affine(), dtype=np.float64)
    except (HeaderDataError, ValueError, np.linalg.LinAlgError) as error:
        raise InputError(
            f"affine: expected a rotation in qform, got none in {path} ({error}); save the volume with an sform"
        ) from error
    if not np.isfinite(affine).all():
        raise InputError(
            f"affine: expected finite numbers, got NaN or infinity in {path}; save the volume with its true affine"
        )
    columns = np.linalg.norm(affine[:3, :3], axis=0)
    # Between 1e-6 and 1e6 mm the arithmetic below is safe; the directions must span space.
    if columns.min() < 1e-6 or columns.max() > 1e6 or abs(np.linalg.det(affine[:3, :3] / columns)) < 1e-4:
        raise InputError(
            f"affine: expected three independent axes, got the singular "
            f"{affine[:3, :3].tolist()} in {path}; save the volume with its true affine"
        )
    return affine


def _scaled(raw: NDArray[Any], layout: _Layout) -> NDArray[Any]:
    if layout.slope == 1.0 and layout.inter == 0.0:
        return raw
    with np.errstate(all="ignore"):
        return raw.astype(np.float64) * layout.slope + layout.inter


def _check_finite(array: NDArray[Any], path: Path) -> None:
    if array.dtype.kind != "f":
        return
    finite = np.isfinite(array)
    if not finite.all():
        first = tuple(int(i) for i in np.argwhere(~finite)[0])
        n_bad = finite.size - int(finite.sum())
        raise InputError(
            f"voxels: expected finite values, got {n_bad} NaN or infinite in {path}, the first "
            f"at {first} of the file's grid; repair or replace the file"
        )


def _check_binary(array: NDArray[Any], name: str, remedy: str) -> None:
    if array.dtype == np.bool_:
        return
    other = (array != 0) & (array != 1)
    if other.any():
        values = np.unique(array[other])
        shown = ", ".join(f"{v:g}" for v in values[:5]) + (", ..." if len(values) > 5 else "")
        raise InputError(f"{name}: expected only 0 and 1, got also {shown} in {int(other.sum())} voxels; {remedy}")


def _canonical(array: NDArray[Any], layout: _Layout, path: Path) -> Volume:
    orientation = _orientations.io_orientation(layout.affine)
    if not np.isfinite(orientation).all():
        raise InputError(
            "affine: expected axes that point right, anterior and superior, got "
            f"{layout.affine.tolist()} in {path}; save the volume with its true affine"
        )
    affine = layout.affine @ _orientations.inv_ornt_aff(orientation, array.shape)
    x, y, z = (float(s) for s in np.linalg.norm(affine[:3, :3], axis=0))
    # Fortran order makes (Z, Y, X) contiguous, which is what slices are cut from.
    turned = np.asfortranarray(_orientations.apply_orientation(array, orientation))
    return Volume(turned, affine, (x, y, z), path, layout.header, layout.shape, layout.affine, orientation)


def _check_same_grid(mask: Volume, image: Volume) -> None:
    if mask.array.shape != image.array.shape:
        raise InputError(
            f"mask: expected shape {image.array.shape} (X, Y, Z in RAS+) like {image.path}, got "
            f"{mask.array.shape} in {mask.path}; resample the mask onto the image"
        )
    corners = np.array(list(product(*((0, n - 1) for n in image.array.shape), (1,))), dtype=np.float64)
    apart_mm = float(np.linalg.norm((corners @ (mask.affine - image.affine).T)[:, :3], axis=1).max())
    if apart_mm > AFFINE_TOLERANCE_MM:
        raise InputError(
            f"mask: expected voxels within {AFFINE_TOLERANCE_MM:g} mm of those of {image.path}, "
            f"got {apart_mm:.4g} mm in {mask.path}; resample the mask onto the image"
        )
