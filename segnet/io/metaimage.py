"""MetaImage (.mha) in and out: one volume, its voxels in the same file, in LPS.

Every field that ITK's MetaIO knows is read as it reads it; others are metadata and pass. A header that names another file for its voxels is
refused, and that file is not opened.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from segnet.errors import InputError
from segnet.io.streams import Readable, opened, writing
from segnet.io.text_header import Fields, TextHeader
from segnet.io.volume import MAX_VOXELS, FloatArray, Stored, check_affine, check_shape, header_of

_Triple = tuple[float, float, float]
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
    "ImagePosition": "Offset",
    "Rotation": "TransformMatrix",
    "Orientation": "TransformMatrix",
    "ElementByteOrderMSB": "BinaryDataByteOrderMSB",
}
_READ = frozenset(
    [
        "ObjectType",
        "FileFormatVersion",
        "NDims",
        "CompressedData",
        "CompressedDataSize",
        "BinaryData",
        "BinaryDataByteOrderMSB",
        "Offset",
        "ElementOrigin",
        "TransformMatrix",
        "ElementDirection",
        "DistanceUnits",
        "ElementSpacing",
        "DimSize",
        "HeaderSize",
        "ElementNumberOfChannels",
        "ElementSize",
        "ElementToIntensityFunctionSlope",
        "ElementToIntensityFunctionOffset",
        "ElementType",
        "ElementDataFile",
    ]
)
_IGNORED = frozenset(
    [
        "ObjectSubType",
        "Comment",
        "AcquisitionDate",
        "Name",
        "ID",
        "ParentID",
        "Color",
        "CenterOfRotation",
        "AnatomicalOrientation",
        "Modality",
        "SequenceID",
        "ElementMin",
        "ElementMax",
        "ElementNBits",
        "TransformType",
    ]
)
_LINE = re.compile(r"\s*([^=:\s][^=:]*?)[ \t]*[=:][=: \t]*(.*)", re.DOTALL)
_BEGINS = re.compile(rf"\s*({'|'.join(sorted({*_READ, *_IGNORED, *_SYNONYMS}))})[ \t]*[=:]".encode())
_END = re.compile(rb"(?:^|\n)ElementDataFile[ \t]*[=:][^\n]*\n")  # the last field by the format


@dataclass(frozen=True, eq=False)
class MetaImage:
    """A volume as a MetaImage holds it.

    Attributes
    ----------
    array_zyx : (Z, Y, X) in the type of the file, native byte order
    spacing_xyz_mm : lengths of a voxel
    origin_mm : centre of the first voxel in LPS
    direction : (3, 3), unit columns along x, y and z in LPS
    shape_xyz : the file's own shape, trailing axes of length 1 included
    """

    array_zyx: NDArray[Any]
    spacing_xyz_mm: _Triple
    origin_mm: _Triple
    direction: FloatArray
    shape_xyz: tuple[int, ...]
    path: Path

    @property
    def affine(self) -> FloatArray:
        """(4, 4), voxel index (x, y, z) to mm in RAS+."""
        return _affine(self.spacing_xyz_mm, self.origin_mm, self.direction)

    def stored(self) -> Stored:
        """The same in the form of every reader."""
        affine, array = self.affine, self.array_zyx.transpose(2, 1, 0)
        return Stored(array, self.shape_xyz, affine, self.path, header_of(self.shape_xyz, affine))


def is_metaimage(head: bytes) -> bool:
    """Whether a file starts with a MetaImage header."""
    return _BEGINS.match(head) is not None


def read_metaimage(path: str | Path, *, max_voxels: int = MAX_VOXELS) -> MetaImage:
    """Read a .mha file with its voxels behind its header.

    Parameters
    ----------
    path : scalar voxels of 8 to 64 bits, raw or deflated, of shape (X, Y, Z) or (X, Y, Z, 1)
    max_voxels : larger volumes are refused by their header alone

    Raises
    ------
    InputError
        The file is missing, damaged, no MetaImage, or larger than `max_voxels`; its voxels are in another file; or its fields do not
        describe one volume in mm.
    """
    path = Path(path)
    with opened(path) as (stream, n_bytes):
        return _read_stream(stream, path, n_bytes, max_voxels)


def write_metaimage(
    path: str | Path,
    array_zyx: ArrayLike,
    *,
    spacing_xyz_mm: _Triple,
    origin_mm: _Triple = (0.0, 0.0, 0.0),
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
        An argument is not as above, or the file cannot be written.
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
    voxels: Any = array.reshape(-1).view(np.uint8).data
    voxels = zlib.compress(voxels, 4) if compressed else voxels
    header = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": str(compressed),
        **({"CompressedDataSize": str(len(voxels))} if compressed else {}),
        "TransformMatrix": _joined(matrix.T.ravel()),  # a row for each axis
        "Offset": _joined(origin_mm),
        "CenterOfRotation": "0 0 0",
        "ElementSpacing": _joined(spacing_xyz_mm),
        "DimSize": " ".join(map(str, array.shape[::-1])),
        "ElementType": name,
        "ElementDataFile": "LOCAL",
    }
    with writing(path) as stream:
        stream.write("".join(f"{key} = {value}\n" for key, value in header.items()).encode("ascii"))
        stream.write(voxels)


def _joined(values: Any) -> str:
    return " ".join(repr(float(value)) for value in values)


def _affine(spacing_xyz_mm: _Triple, origin_mm: _Triple, direction: FloatArray) -> FloatArray:
    affine = np.eye(4)
    affine[:3, :3] = direction * np.asarray(spacing_xyz_mm)
    affine[:3, 3] = origin_mm
    affine[:2] *= -1  # LPS to RAS
    return affine


def _read_stream(stream: Readable, path: Path, file_bytes: int, max_voxels: int) -> MetaImage:
    header = TextHeader(
        stream,
        path,
        file_bytes,
        "MetaImage",
        _BEGINS,
        _END,
        lambda head: (
            f"ElementDataFile: expected this field at the end of the header, got none within {len(head)} bytes "
            f"of {path}; the file is truncated or no MetaImage"
        ),
    )
    fields = _fields(header)
    if fields.text("ElementDataFile").upper() != "LOCAL":
        raise fields.wrong("ElementDataFile", "LOCAL, the voxels in the same file", "save it as one .mha file")
    if fields.text("ObjectType").lower() != "image":
        raise fields.wrong("ObjectType", "Image")
    if not _flag(fields, "BinaryData", "True"):
        raise fields.wrong("BinaryData", "True", "convert it to a binary image")
    if fields.text("DistanceUnits", "mm").lower() not in ("mm", "?", ""):
        raise fields.wrong("DistanceUnits", "mm", "convert it to an image in mm")
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
    spacing, origin, direction = _geometry(fields, ndim)

    dtype = np.dtype((">" if _flag(fields, "BinaryDataByteOrderMSB") else "<") + _TYPES[kind])
    packed = _flag(fields, "CompressedData")
    if packed and "CompressedDataSize" in fields and fields.integers("CompressedDataSize", 1) != (header.n_behind,):
        raise fields.wrong(
            "CompressedDataSize", f"{header.n_behind}, the bytes behind the header", "copy or download the file again"
        )
    array = header.voxels(dtype, shape, "zlib" if packed else None).transpose(2, 1, 0)
    return MetaImage(array.astype(dtype.newbyteorder("="), copy=False), spacing, origin, direction, shape, path)


def _fields(header: TextHeader) -> Fields:
    """The fields that are read. Metadata may hold anything, over several lines."""
    fields, is_metadata = Fields(header.path), False
    for number, line in enumerate(header.lines, 1):
        if not line.strip():
            continue
        found = _LINE.fullmatch(line)
        if found is None:
            if is_metadata:
                continue
            raise InputError(
                f"header: expected `name = value`, got another line {number} in {header.path}; save it anew"
            )
        name = _SYNONYMS.get(found[1], found[1])
        is_metadata = name not in _READ and name not in _IGNORED
        if not is_metadata:
            header.check_text(found[2])
        if name in _READ:
            fields.add(name, found[2], found[1])
    return fields


def _geometry(fields: Fields, ndim: int) -> tuple[_Triple, _Triple, FloatArray]:
    """Spacing (x, y, z) in mm, origin in LPS, and (3, 3) direction."""
    is_new = fields.text("FileFormatVersion", "0") != "0"  # then two fields of their own place the voxels
    name = "ElementSpacing" if "ElementSpacing" in fields else "ElementSize"
    sx, sy, sz = (float(v) for v in fields.numbers(name, ndim, positive=True)[:3])
    name = "ElementOrigin" if is_new and "ElementOrigin" in fields else "Offset"
    x, y, z = (float(v) for v in fields.numbers(name, ndim)[:3]) if name in fields else (0.0, 0.0, 0.0)
    name = "ElementDirection" if is_new and "ElementDirection" in fields else "TransformMatrix"
    rows = fields.numbers(name, ndim * ndim).reshape(ndim, ndim) if name in fields else np.eye(ndim)
    direction = np.ascontiguousarray(rows.T[:3, :3])  # a row for each axis
    _check_direction(direction, fields.path, name)
    check_affine(_affine((sx, sy, sz), (x, y, z), direction), fields.path, name)
    return (sx, sy, sz), (x, y, z), direction


def _flag(fields: Fields, name: str, default: str = "False") -> bool:
    first = fields.text(name, default)[:1].lower()
    if first not in ("t", "1", "f", "0"):
        raise fields.wrong(name, "True or False")
    return first in ("t", "1")


def _check_direction(direction: FloatArray, path: Path, name: str) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.linalg.norm(direction, axis=0)
    # Headers have six digits or more. A column of another length would make the spacing ambiguous.
    if not (np.abs(lengths - 1) < 1e-4).all():
        raise InputError(
            f"{name}: expected unit vectors, got lengths {lengths.tolist()} for {path}; put the lengths into the spacing"
        )
