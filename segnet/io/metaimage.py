"""MetaImage (.mha) in and out: one volume, its voxels in the same file, in LPS.

A MetaImage may name other files to read its voxels from. That is refused without a look at them.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from segnet.errors import InputError
from segnet.io.fields import Fields, header_text
from segnet.io.streams import Inflated, Readable, check_size, opened, read_body
from segnet.io.volume import MAX_VOXELS, FloatArray, Stored, check_affine, check_shape, header_of
from segnet.runtime.files import replacing

_MAX_HEADER = 2**20
_CHUNK = 2**20
_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",  # 4 bytes by the format, whatever the machine's long
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_NAMES = {dtype: name for name, dtype in reversed(_TYPES.items())}
_SYNONYMS = {
    "Position": "Offset",
    "Origin": "Offset",
    "Rotation": "TransformMatrix",
    "Orientation": "TransformMatrix",
    "ElementByteOrderMSB": "BinaryDataByteOrderMSB",
}
_LINE = re.compile(r"([A-Za-z0-9_|]+)[ \t]*=[ \t]*(.*)")
_FIRST = re.compile(rb"\s*(ObjectType|NDims|Comment|Name|ID|AcquisitionDate|TransformType)[ \t]*=")


@dataclass(frozen=True, eq=False)
class MetaImage:
    """A volume as a MetaImage holds it.

    Attributes
    ----------
    array_zyx : (Z, Y, X) in the type of the file, native byte order
    spacing_xyz_mm : lengths of a voxel
    origin_mm : centre of the first voxel in LPS
    direction : (3, 3), the columns point along x, y and z in LPS
    shape_xyz : the file's own shape, trailing axes of length 1 included
    path : the file
    """

    array_zyx: NDArray[Any]
    spacing_xyz_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]
    direction: FloatArray
    shape_xyz: tuple[int, ...]
    path: Path

    @property
    def affine(self) -> FloatArray:
        """(4, 4), voxel index (x, y, z) to mm in RAS+."""
        return _affine(self.spacing_xyz_mm, self.origin_mm, self.direction)

    def stored(self) -> Stored:
        """The same as readers of every format give it."""
        affine = self.affine
        array = self.array_zyx.transpose(2, 1, 0)
        return Stored(array, self.shape_xyz, affine, self.path, header_of(self.shape_xyz, affine))


def is_metaimage(head: bytes) -> bool:
    """Whether the first bytes of a file are those of a MetaImage header."""
    return _FIRST.match(head) is not None


def read_metaimage(path: str | Path, *, max_voxels: int = MAX_VOXELS) -> MetaImage:
    """Read a .mha file whose voxels stand behind its header.

    Parameters
    ----------
    path : scalar voxels of 8 to 64 bits, raw or deflated, of shape (X, Y, Z) or (X, Y, Z, 1)
    max_voxels : larger volumes are refused by their header alone

    Raises
    ------
    InputError
        If the file is missing, damaged, no MetaImage, larger than `max_voxels`, keeps its voxels in another
        file, or if its fields cannot describe one volume in mm.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"path: expected a MetaImage file, got {path}, which is no file; name one .mha")
    with opened(path) as (stream, n_bytes):
        return _read_stream(stream, path, n_bytes, max_voxels)


def write_metaimage(
    path: str | Path,
    array_zyx: ArrayLike,
    *,
    spacing_xyz_mm: tuple[float, float, float],
    origin_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
    direction: ArrayLike | None = None,
    compressed: bool = True,
) -> None:
    """Write a volume as .mha, atomically. Equal volumes give equal bytes.

    Parameters
    ----------
    path : ends in .mha
    array_zyx : (Z, Y, X), bool (written as uint8), integers or floats of at most 64 bits
    spacing_xyz_mm : lengths of a voxel along x, y and z
    origin_mm : centre of the first voxel in LPS
    direction : (3, 3), unit columns along x, y and z in LPS; None is the identity
    compressed : deflate the voxels

    Raises
    ------
    InputError
        If an argument is not as above, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".mha":
        raise InputError(f"path: expected a name ending in .mha, got {path.name}; add the ending")
    array = np.asarray(array_zyx)
    array = array.astype(np.uint8) if array.dtype == np.bool_ else array
    name = _NAMES.get(array.dtype.newbyteorder("=").str[1:])
    if name is None:
        raise InputError(f"array_zyx: expected a type that MetaImage knows, got {array.dtype}; use uint8 or float32")
    if array.ndim != 3 or array.size == 0:
        raise InputError(f"array_zyx: expected shape (Z, Y, X), got {array.shape}; write one volume of it")
    matrix = np.eye(3) if direction is None else np.asarray(direction, dtype=np.float64)
    if matrix.shape != (3, 3):
        raise InputError(f"direction: expected shape (3, 3), got {matrix.shape}; give one column for each axis")
    if len(spacing_xyz_mm) != 3 or not all(np.isfinite(s) and s > 0 for s in spacing_xyz_mm):
        raise InputError(f"spacing_xyz_mm: expected 3 positive lengths, got {spacing_xyz_mm}; give mm along x, y, z")
    if len(origin_mm) != 3:
        raise InputError(f"origin_mm: expected 3 numbers, got {origin_mm}; give x, y, z in LPS")
    _check_direction(matrix, path, "direction")
    check_affine(_affine(spacing_xyz_mm, origin_mm, matrix), path, "origin_mm, direction")

    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    voxels = array.reshape(-1).view(np.uint8).data
    try:
        with replacing(path) as temporary, temporary.open("wb") as stream:
            deflated = list(_deflated(voxels)) if compressed else []
            size = {"CompressedDataSize": str(sum(map(len, deflated)))} if compressed else {}
            fields = {
                "ObjectType": "Image",
                "NDims": "3",
                "BinaryData": "True",
                "BinaryDataByteOrderMSB": "False",
                "CompressedData": str(compressed),
                **size,
                "TransformMatrix": _joined(matrix.T.ravel()),  # a row for each axis
                "Offset": _joined(origin_mm),
                "CenterOfRotation": "0 0 0",
                "ElementSpacing": _joined(spacing_xyz_mm),
                "DimSize": " ".join(map(str, array.shape[::-1])),
                "ElementType": name,
                "ElementDataFile": "LOCAL",
            }
            stream.write("".join(f"{key} = {value}\n" for key, value in fields.items()).encode("ascii"))
            stream.writelines(deflated if compressed else [voxels])
    except OSError as error:
        raise InputError(
            f"path: expected a writable file, got {path} ({error.strerror or error}); check rights and free space"
        ) from error


def _joined(values: Any) -> str:
    return " ".join(repr(float(value)) for value in values)


def _deflated(voxels: memoryview) -> Iterator[bytes]:
    packer = zlib.compressobj(4)
    for start in range(0, len(voxels), _CHUNK):
        yield packer.compress(voxels[start : start + _CHUNK])
    yield packer.flush()


def _affine(
    spacing_xyz_mm: tuple[float, float, float], origin_mm: tuple[float, float, float], direction: FloatArray
) -> FloatArray:
    affine = np.eye(4)
    affine[:3, :3] = direction * np.asarray(spacing_xyz_mm)
    affine[:3, 3] = origin_mm
    affine[:2] *= -1  # LPS to RAS
    return affine


def _read_stream(stream: Readable, path: Path, file_bytes: int, max_voxels: int) -> MetaImage:
    fields, rest, n_header = _header(stream, path)
    for name, expected in (("ObjectType", "Image"), ("BinaryData", "True"), ("DistanceUnits", "mm")):
        if fields.text(name, expected).lower() != expected.lower():
            raise fields.wrong(name, expected, "convert it to a binary image in mm")
    fields.text("ObjectType")
    if "HeaderSize" in fields and fields.integers("HeaderSize", 1) != (0,):
        raise fields.wrong("HeaderSize", "0, the voxels right behind the header")
    for name, only in (
        ("ElementNumberOfChannels", 1.0),
        ("ElementToIntensityFunctionSlope", 1.0),
        ("ElementToIntensityFunctionOffset", 0.0),
    ):
        if name in fields and fields.numbers(name, 1)[0] != only:
            raise fields.wrong(name, f"{only:g}", "save one scalar a voxel, unscaled")

    (ndim,) = fields.integers("NDims", 1)
    if ndim not in (3, 4):
        raise fields.wrong("NDims", "3", "save one volume")
    shape = fields.integers("DimSize", ndim)
    check_shape(shape, path, max_voxels, "DimSize")
    kind = fields.text("ElementType")
    if kind not in _TYPES:
        raise fields.wrong("ElementType", f"one of {', '.join(_TYPES)}", "convert it to MET_SHORT")
    spacing_name = "ElementSpacing" if "ElementSpacing" in fields else "ElementSize"
    spacing_mm = fields.lengths_mm(spacing_name, fields.text(spacing_name).split(), ndim)[:3]
    origin_mm = fields.numbers("Offset", ndim)[:3] if "Offset" in fields else np.zeros(3)
    matrix = np.eye(ndim)
    if "TransformMatrix" in fields:
        matrix = fields.numbers("TransformMatrix", ndim * ndim).reshape(ndim, ndim).T
    direction = np.ascontiguousarray(matrix[:3, :3])
    spacing = (float(spacing_mm[0]), float(spacing_mm[1]), float(spacing_mm[2]))
    origin = (float(origin_mm[0]), float(origin_mm[1]), float(origin_mm[2]))
    _check_direction(direction, path, "TransformMatrix")
    check_affine(_affine(spacing, origin, direction), path, "TransformMatrix")

    big = _flag(fields, "BinaryDataByteOrderMSB")
    dtype = np.dtype((">" if big else "<") + _TYPES[kind])
    n_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    packed = _flag(fields, "CompressedData")
    check_size(n_bytes if packed else n_header + n_bytes, path, file_bytes, packed=packed)
    if packed:
        _check_packed_size(fields, file_bytes - n_header)
        buffer = read_body(Inflated(stream, path, "zlib", head=rest), b"", n_bytes, path)
    else:
        buffer = read_body(stream, rest, n_bytes, path)
    x, y, z = shape[:3]
    array = np.frombuffer(buffer, dtype, x * y * z).reshape(z, y, x)
    return MetaImage(array.astype(dtype.newbyteorder("="), copy=False), spacing, origin, direction, shape, path)


def _header(stream: Readable, path: Path) -> tuple[Fields, bytes, int]:
    """The fields, the first bytes behind them, and how many bytes the header has."""
    head = b""
    end = None
    while end is None:
        chunk = stream.read(2**16)
        head += chunk
        if not is_metaimage(head):
            raise InputError(f"path: expected a MetaImage, got {path}, which has no such header; convert it to .nii.gz")
        # ElementDataFile is the last field by the format: the voxels start behind its line.
        end = re.search(rb"(?:^|\n)ElementDataFile[ \t]*=[^\n]*\n", head)
        if end is None and (not chunk or len(head) > _MAX_HEADER):
            raise InputError(
                f"ElementDataFile: expected this field at the end of the header, got none within {len(head)} bytes "
                f"of {path}; the file is truncated or no MetaImage"
            )
    values: dict[str, str] = {}
    for number, line in enumerate(header_text(head[: end.end()], path).replace("\r\n", "\n").split("\n"), 1):
        if not line.strip():
            continue
        found = _LINE.fullmatch(line.strip())
        if found is None:
            raise InputError(f"header: expected `name = value`, got another line {number} in {path}; save it anew")
        name = _SYNONYMS.get(found[1], found[1])
        if name in values:
            raise InputError(f"{name}: expected this field once, got it again as {found[1]} in {path}; remove one")
        values[name] = found[2].strip()
    fields = Fields(values, path)
    if fields.text("ElementDataFile").upper() != "LOCAL":
        raise fields.wrong("ElementDataFile", "LOCAL, the voxels in the same file", "save it as one .mha file")
    return fields, head[end.end() :], end.end()


def _flag(fields: Fields, name: str) -> bool:
    value = fields.text(name, "False").lower()
    if value not in ("true", "false"):
        raise fields.wrong(name, "True or False")
    return value == "true"


def _check_packed_size(fields: Fields, n_behind: int) -> None:
    """The deflated voxels must fill what the header gives them; zero padding is found behind the stream itself."""
    if "CompressedDataSize" not in fields:
        return
    (declared,) = fields.integers("CompressedDataSize", 1)
    if declared != n_behind:
        raise fields.wrong(
            "CompressedDataSize", f"{n_behind}, the bytes behind the header", "copy or download the file again"
        )


def _check_direction(direction: FloatArray, path: Path, name: str) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.linalg.norm(direction, axis=0)
    # Headers print six digits or more; a column of another length would make the spacing ambiguous.
    if not (np.abs(lengths - 1) < 1e-4).all():
        raise InputError(
            f"{name}: expected unit vectors, got lengths {lengths.tolist()} for {path}; put the lengths into the spacing"
        )
