"""NRRD files: one volume, its voxels in the same file, in LPS, RAS or LAS.

A detached header names other files to read its voxels from. That is refused without a look at them.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from segnet.errors import InputError
from segnet.io.fields import Fields, header_text
from segnet.io.streams import Inflated, Readable, check_size, opened, read_body
from segnet.io.volume import MAX_VOXELS, FloatArray, Stored, check_affine, check_shape, header_of

_MAX_HEADER = 2**20
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
_SCALAR_KINDS = {"domain", "space", "none", "???"}
_STUB_KINDS = _SCALAR_KINDS | {"scalar", "stub", "list", "time"}
_SYNONYMS = {
    "datafile": "data file",
    "lineskip": "line skip",
    "byteskip": "byte skip",
    "axismins": "axis mins",
    "axismaxs": "axis maxs",
}
_FIELD = re.compile(r"([A-Za-z][A-Za-z ]*): ?(.*)")
_VECTOR = re.compile(r"none|\([^()]*\)")


def read_nrrd(path: str | Path, *, max_voxels: int = MAX_VOXELS) -> Stored:
    """Read a .nrrd file whose voxels stand behind its header.

    A header that gives spacings but no space is taken as LPS, as ITK takes it.

    Parameters
    ----------
    path : scalar voxels of 8 to 64 bits, raw or gzipped, of shape (X, Y, Z) with at most one further axis of
        length 1, first or last
    max_voxels : larger volumes are refused by their header alone

    Raises
    ------
    InputError
        If the file is missing, damaged, no NRRD, larger than `max_voxels`, keeps its voxels in another file, or
        if its fields cannot describe one volume in mm.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"path: expected a NRRD file, got {path}, which is no file; name one .nrrd")
    with opened(path) as (stream, n_bytes):
        return _read_stream(stream, path, n_bytes, max_voxels)


def _read_stream(stream: Readable, path: Path, file_bytes: int, max_voxels: int) -> Stored:
    fields, rest, n_header = _header(stream, path)
    (ndim,) = fields.integers("dimension", 1)
    if ndim not in (3, 4):
        raise fields.wrong("dimension", "3", "save one volume")
    sizes = fields.integers("sizes", ndim)
    axes = _axes(fields, sizes)
    # Only a last axis can be given back by NIfTI; a first one goes.
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
    dtype = np.dtype(("<" if endian == "little" else ">") + code)
    encoding = fields.text("encoding").lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise fields.wrong("encoding", "raw or gzip", "save it with gzip")
    packed = encoding != "raw"
    n_bytes = int(np.prod(sizes, dtype=np.int64)) * dtype.itemsize
    check_size(n_bytes if packed else n_header + n_bytes, path, file_bytes, packed=packed)
    if packed:
        buffer = read_body(Inflated(stream, path, head=rest), b"", n_bytes, path)
    else:
        buffer = read_body(stream, rest, n_bytes, path)
    array = np.frombuffer(buffer, dtype, n_bytes // dtype.itemsize).reshape(shape[:3], order="F")
    return Stored(array, shape, affine, path, header_of(shape, affine))


def _header(stream: Readable, path: Path) -> tuple[Fields, bytes, int]:
    """The fields, the first bytes behind them, and how many bytes the header has."""
    head = b""
    end = None
    while end is None:
        chunk = stream.read(2**16)
        head += chunk
        if re.match(rb"NRRD000[1-5]\r?\n", head) is None:
            raise InputError(f"path: expected a NRRD, got {path}, which has no such header; convert it to .nii.gz")
        end = re.search(rb"\n\r?\n", head)
        if end is None and (not chunk or len(head) > _MAX_HEADER):
            # only a detached header may end without an empty line
            named = re.search(rb"\n(data ?file: ?[^\r\n]*)", head, re.IGNORECASE)
            got = repr(named[1].decode("latin-1")[:80]) if named else f"none within {len(head)} bytes"
            raise InputError(
                f"header: expected an empty line and the voxels behind it, got {got} in {path}; save it as one .nrrd file"
            )
    values: dict[str, str] = {}
    for number, line in enumerate(header_text(head[: end.start()], path).replace("\r\n", "\n").split("\n")[1:], 2):
        if line.startswith("#") or ":=" in line:  # comments and the users' own keys
            continue
        found = _FIELD.fullmatch(line)
        if found is None:
            raise InputError(f"header: expected `field: value`, got another line {number} in {path}; save it anew")
        name = found[1].lower()
        name = _SYNONYMS.get(name, name)
        if name in values:
            raise InputError(f"{name}: expected this field once, got it twice in {path}; remove one")
        values[name] = found[2].strip()
    fields = Fields(values, path)
    if "data file" in fields:
        raise fields.wrong("data file", "the voxels in the same file", "save it as one .nrrd file")
    for name in ("line skip", "byte skip"):
        if name in fields and fields.integers(name, 1) != (0,):
            raise fields.wrong(name, "0, the voxels right behind the header")
    return fields, head[end.end() :], end.end()


def _axes(fields: Fields, sizes: tuple[int, ...]) -> tuple[int, int, int]:
    """The axes of space among those of the file; a fourth has length 1."""
    axes = (0, 1, 2)
    first = fields.text("space directions", fields.text("spacings", "")).lower()
    if len(sizes) == 4 and sizes[0] == 1 and first.startswith(("none", "nan")):
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
        if name in fields and not set(re.findall(r'"([^"]*)"', fields.text(name))) <= {"mm", "millimeter", ""}:
            raise fields.wrong(name, "mm", "save the volume in millimetres")
    if "space directions" in fields:
        if "spacings" in fields:
            raise fields.wrong("spacings", "no spacings beside space directions", "remove one of them")
        text = fields.text("space directions")
        words = _VECTOR.findall(text)
        if len(words) != ndim or _VECTOR.sub("", text).strip() or any(words[axis].lower() == "none" for axis in axes):
            raise fields.wrong("space directions", "a vector of 3 numbers for each axis of space")
        for column, axis in enumerate(axes):
            affine[:3, column] = fields.finite("space directions", words[axis].strip("()").split(","), 3)
    else:
        words = fields.text("spacings").split()
        if len(words) != ndim:
            raise fields.wrong("spacings", f"{ndim} numbers")
        affine[:3, :3] = np.diag(fields.lengths_mm("spacings", [words[axis] for axis in axes], 3))
    if "space origin" in fields:
        text = fields.text("space origin")
        affine[:3, 3] = fields.finite("space origin", text.removeprefix("(").removesuffix(")").split(","), 3)
    elif "axis mins" in fields and set(fields.text("axis mins").lower().split()) - {"0", "nan"}:
        raise fields.wrong("axis mins", "a position by space origin", "save it with space directions and space origin")
    affine[:3] *= np.array(_TO_RAS[fields.text("space", "lps").lower()])[:, None]
    return affine
