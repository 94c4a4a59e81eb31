"""NRRD files: one volume, its voxels in the same file, in LPS, RAS or LAS.

A detached header, which names other files for its voxels, is refused, and those files are not opened.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from segnet.errors import InputError
from segnet.io.streams import Readable, opened
from segnet.io.text_header import Fields, TextHeader
from segnet.io.volume import MAX_VOXELS, FloatArray, Stored, check_affine, check_shape, header_of

_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_DTYPES = {name: dtype for dtype, names in _TYPES.items() for name in names}
_TO_RAS = {
    "left-posterior-superior": (-1.0, -1.0, 1.0),
    "lps": (-1.0, -1.0, 1.0),
    "right-anterior-superior": (1.0, 1.0, 1.0),
    "ras": (1.0, 1.0, 1.0),
    "left-anterior-superior": (-1.0, 1.0, 1.0),
    "las": (-1.0, 1.0, 1.0),
}
_MM = {"mm", "millimeter", "millimeters", "millimetre", "millimetres", "", "?", "???"}
_SCALAR_KINDS = {"domain", "space", "none", "???"}
_STUB_KINDS = _SCALAR_KINDS | {"scalar", "stub", "list", "time"}
_SYNONYMS = {
    "datafile": "data file",
    "lineskip": "line skip",
    "byteskip": "byte skip",
    "axismins": "axis mins",
    "axismaxs": "axis maxs",
}
_FIELD = re.compile(r"([A-Za-z][A-Za-z ]*):(?!=) ?(.*)", re.DOTALL)
_BEGINS = re.compile(rb"NRRD(00\.01|000[1-5])\r?\n")
_END = re.compile(rb"\n\r?\n")
_VECTOR = re.compile(r"none|\([^()]*\)")


def read_nrrd(path: str | Path, *, max_voxels: int = MAX_VOXELS) -> Stored:
    """Read a .nrrd file with its voxels behind its header.

    A header with spacings but no space is read as LPS, like in ITK.

    Parameters
    ----------
    path : scalar voxels of 8 to 64 bits, raw or gzipped, of shape (X, Y, Z) with at most one further axis, of length 1, first or last
    max_voxels : larger volumes are refused by their header alone

    Raises
    ------
    InputError
        The file is missing, damaged, no NRRD, or larger than `max_voxels`; its voxels are in another file; or its fields do not
        describe one volume in mm.
    """
    path = Path(path)
    with opened(path) as (stream, n_bytes):
        return _read_stream(stream, path, n_bytes, max_voxels)


def _read_stream(stream: Readable, path: Path, file_bytes: int, max_voxels: int) -> Stored:
    header = TextHeader(stream, path, file_bytes, "NRRD", _BEGINS, _END, lambda head: _no_end(head, path))
    fields = _fields(header)
    (ndim,) = fields.integers("dimension", 1)
    if ndim not in (3, 4):
        raise fields.wrong("dimension", "3", "save one volume")
    sizes = fields.integers("sizes", ndim)
    axes = _axes(fields, sizes)
    # NIfTI can give back a last axis of length 1, but not a first one.
    shape = tuple(sizes[axis] for axis in axes) + sizes[3:] * (axes[0] == 0)
    check_shape(shape, path, max_voxels, "sizes")
    affine = _affine(fields, ndim, axes)
    check_affine(affine, path, "space directions")

    code = _DTYPES.get(fields.text("type").lower())
    if code is None:
        raise fields.wrong("type", "integers or floats of at most 64 bits", "convert it to short")
    endian = fields.text("endian").lower() if code[1] != "1" else "little"
    if endian not in ("little", "big"):
        raise fields.wrong("endian", "little or big")
    encoding = fields.text("encoding").lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise fields.wrong("encoding", "raw or gzip", "save it with gzip")
    dtype = np.dtype(("<" if endian == "little" else ">") + code)
    array = header.voxels(dtype, shape, None if encoding == "raw" else "gzip")
    return Stored(array, shape, affine, path, header_of(shape, affine))


def _no_end(head: bytes, path: Path) -> str:
    named = re.search(rb"\n(data ?file: ?[^\r\n]*)", head, re.IGNORECASE)  # a detached header needs no empty line
    got = repr(named[1].decode("latin-1")[:80]) if named else f"none within {len(head)} bytes"
    return f"header: expected an empty line and the voxels behind it, got {got} in {path}; save it as one .nrrd file"


def _fields(header: TextHeader) -> Fields:
    """The fields, without comments and the users' own keys, which may hold anything."""
    fields = Fields(header.path)
    for number, line in enumerate(header.lines[1:-2], 2):
        found = None if line.startswith("#") else _FIELD.fullmatch(line)
        if found is not None:
            name = found[1].lower()
            header.check_text(found[2])
            fields.add(_SYNONYMS.get(name, name), found[2], found[1])
        elif not line.startswith("#") and ":=" not in line:
            raise InputError(
                f"header: expected `field: value`, got another line {number} in {header.path}; save it anew"
            )
    if "data file" in fields:
        raise fields.wrong("data file", "the voxels in the same file", "save it as one .nrrd file")
    for name in ("line skip", "byte skip"):
        if name in fields and fields.integers(name, 1) != (0,):
            raise fields.wrong(name, "0, the voxels right behind the header")
    return fields


def _axes(fields: Fields, sizes: tuple[int, ...]) -> tuple[int, int, int]:
    """The axes of space among those of the file; a fourth has length 1."""
    axes = (0, 1, 2)
    first = fields.text("space directions", fields.text("spacings", "")).lower()
    if len(sizes) == 4 and sizes[0] == 1 and first.startswith(("none", "nan", "(nan")):
        axes = (1, 2, 3)
    if "kinds" in fields:
        kinds = fields.text("kinds").lower().split()
        allowed = [_SCALAR_KINDS if axis in axes else _STUB_KINDS for axis in range(len(sizes))]
        if len(kinds) != len(sizes) or any(k not in some for k, some in zip(kinds, allowed, strict=True)):
            raise fields.wrong("kinds", "axes of space and one scalar a voxel", "save one channel")
    return axes


def _affine(fields: Fields, ndim: int, axes: tuple[int, int, int]) -> FloatArray:
    """(4, 4), voxel index to mm in RAS+."""
    affine = np.eye(4)
    if "space" in fields and fields.text("space").lower() not in _TO_RAS:
        raise fields.wrong("space", "left-posterior-superior or right-anterior-superior")
    if "space dimension" in fields and fields.integers("space dimension", 1) != (3,):
        raise fields.wrong("space dimension", "3")
    for name in ("space units", "units"):
        units = re.findall(r'"([^"]*)"', fields.text(name, ""))
        of_space = [units[axis] for axis in axes] if name == "units" and len(units) == ndim else units
        if not set(of_space) <= _MM:
            raise fields.wrong(name, "mm", "save the volume in millimetres")
    if "space directions" in fields:
        if "spacings" in fields:
            raise fields.wrong("spacings", "no spacings beside space directions", "remove one of them")
        text = fields.text("space directions")
        words = _VECTOR.findall(text)
        if len(words) != ndim or _VECTOR.sub("", text).strip() or any(words[axis].lower() == "none" for axis in axes):
            raise fields.wrong("space directions", "a vector of 3 numbers for each axis of space")
        for column, axis in enumerate(axes):
            affine[:3, column] = fields.numbers("space directions", 3, words[axis].strip("()").split(","))
    else:
        words = fields.text("spacings").split()
        if len(words) != ndim:
            raise fields.wrong("spacings", f"{ndim} numbers")
        affine[:3, :3] = np.diag(fields.numbers("spacings", 3, [words[axis] for axis in axes], positive=True))
    if "space origin" in fields:
        text = fields.text("space origin")
        affine[:3, 3] = fields.numbers("space origin", 3, text.removeprefix("(").removesuffix(")").split(","))
    elif "axis mins" in fields and set(fields.text("axis mins").lower().split()) - {"0", "nan"}:
        raise fields.wrong("axis mins", "a position by space origin", "save it with space directions and space origin")
    affine[:3] *= np.array(_TO_RAS[fields.text("space", "lps").lower()])[:, None]
    return affine
