"""One DICOM object of a series: its grid and its pixels.

Only the attributes named here are read; none of them names the patient. `read_header` alone reads the others too. Messages of pydicom may quote the file, so they are not repeated.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segnet.errors import InputError
from segnet.io.streams import opened
from segnet.io.volume import FloatArray

MAX_INFLATED_BYTES = 2**26
"""Of one deflated object: twice a slice of 4096 x 4096 pixels of 16 bits."""

_IMPLICIT, _EXPLICIT, _BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
_DEFLATED = "1.2.840.10008.1.2.1.99"
_NATIVE = (_IMPLICIT, _EXPLICIT, _BIG_ENDIAN, _DEFLATED)
_RLE = "1.2.840.10008.1.2.5"
_FRAMED = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70, 80, 81, 90, 91, 201, 202, 203))
_TAGS = [
    "SOPClassUID",
    "Modality",
    "ImageType",
    "SeriesInstanceUID",
    "SeriesNumber",
    "FrameOfReferenceUID",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelSpacing",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "RescaleSlope",
    "RescaleIntercept",
]
_NO_IMAGE = ("SEG", "RTSTRUCT", "RTDOSE", "RTPLAN", "SR", "PR", "KO", "REG", "FID")
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_DICOMDIR = "1.2.840.10008.1.3.10"
_HEAD_BYTES = 256
_ITEM = b"\xfe\xff\x00\xe0"


@dataclass(frozen=True, eq=False)
class Slice:
    """One object without its pixels.

    Attributes
    ----------
    n_bytes : size of the file
    syntax : UID of the transfer syntax; a guess from the first element if the file names none
    header : pydicom's data set of the attributes that are read here
    oddity : a deviation from the DICOM file format, empty if there is none
    """

    path: Path
    n_bytes: int
    syntax: str
    header: Any
    oddity: str = ""

    @property
    def modality(self) -> str:
        return self.text("Modality") or "no modality"

    @property
    def series(self) -> str:
        return self.text("SeriesInstanceUID")

    @property
    def is_image(self) -> bool:
        return self.modality in ("CT", "MR") or ("Rows" in self.header and self.modality not in _NO_IMAGE)

    @property
    def is_known_other(self) -> bool:
        """Whether this is an object of a kind that lies beside images, such as a contour or a DICOMDIR."""
        return self.modality in _NO_IMAGE or self.text("SOPClassUID") == _DICOMDIR

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self._integer("Rows"), self._integer("Columns")

    @property
    def bits(self) -> tuple[int, int]:
        """Bits allocated for a pixel, and bits that hold its value."""
        return self._integer("BitsAllocated"), self._integer("BitsStored")

    @property
    def is_native(self) -> bool:
        return self.syntax in _NATIVE

    def text(self, keyword: str) -> str:
        """An attribute's printable text; empty if there is none."""
        with _parsing(self.path, keyword):
            return _printable(self.header.get(keyword))

    def numbers(self, keyword: str, count: int, default: float | None = None) -> FloatArray:
        """(count,) finite numbers."""
        with _parsing(self.path, keyword):
            value = self.header.get(keyword)
            if value is None and default is not None:
                value = default
            values = [] if value is None else [value] if isinstance(value, (int, float)) else list(value)
            out = np.array([float(v) for v in values], dtype=np.float64)
        if out.size != count or not np.isfinite(out).all():
            raise InputError(
                f"{keyword}: expected {count} finite numbers, got {out.tolist()} in {self.path}; export the series anew"
            )
        return out

    def check_kind(self) -> None:
        """Raises `InputError` unless this is one gray slice of CT or MR, no localizer."""
        where = f"in {self.path}"
        if "LOCALIZER" in self.text("ImageType"):
            raise InputError(f"ImageType: expected slices of a volume, got a localizer {where}; take it out")
        sop_class = self.text("SOPClassUID")
        if sop_class.startswith(_SECONDARY_CAPTURE):
            raise InputError(
                f"SOPClassUID: expected CT or MR images, got a secondary capture {where}; export the original series"
            )
        if self.modality not in ("CT", "MR"):
            raise InputError(f"Modality: expected CT or MR, got {self.modality} {where}; name the folder of a CT")
        if "NumberOfFrames" in self.header and self._integer("NumberOfFrames") != 1:
            raise InputError(
                f"NumberOfFrames: expected one slice a file, got {self.text('NumberOfFrames')} frames {where}; "
                "convert the object to NIfTI"
            )
        color = self.text("PhotometricInterpretation")
        samples = self._integer("SamplesPerPixel") if "SamplesPerPixel" in self.header else 1
        if samples != 1 or color not in ("MONOCHROME1", "MONOCHROME2"):
            raise InputError(
                f"PhotometricInterpretation: expected gray slices, got {color} with {samples} samples {where}; "
                "export the original series"
            )
        allocated, stored = self.bits
        if allocated not in (8, 16, 32) or not 1 <= stored <= allocated or self._integer("HighBit") != stored - 1:
            raise InputError(
                f"BitsAllocated: expected 8, 16 or 32 bits with the value in the lowest, got {allocated} and {stored} "
                f"stored {where}; export the series anew"
            )
        if min(self.shape) < 1:
            raise InputError(f"Rows, Columns: expected pixels, got {self.shape} {where}; export the series anew")

    def check_decoder(self) -> None:
        """Raises `InputError` unless the pixels can be decoded by what is installed."""
        from pydicom.pixels.decoders.base import get_decoder

        known = self.is_native or self.syntax == _RLE or self.syntax in _FRAMED
        if not known or not get_decoder(self.syntax).is_available:
            raise InputError(
                f"TransferSyntaxUID: expected pixels that can be decoded here, got {_name_of(self.syntax)} in "
                f"{self.path}; decompress the series with gdcmconv --raw, or install pylibjpeg with its plugins"
            )

    def values(self) -> NDArray[np.float32]:
        """(rows, columns) in HU for CT, in the scanner's units for MR.

        Raises
        ------
        InputError
            The pixels are truncated, damaged or of another size than the header says.
        """
        from pydicom.pixels.decoders.base import get_decoder

        # MR has no Hounsfield units and may leave these out.
        default = None if self.modality == "CT" else 1.0
        slope = float(self.numbers("RescaleSlope", 1, default)[0])
        inter = float(self.numbers("RescaleIntercept", 1, None if default is None else 0.0)[0])
        whole = _open(self.path, pixels=True)
        with _parsing(self.path, "PixelData"):
            pixel_bytes: bytes = whole.header.PixelData or b""
        self._check_length(pixel_bytes)
        with _parsing(self.path, "PixelData"):
            raw, _ = get_decoder(self.syntax).as_array(whole.header, raw=True, index=0)
        if raw.shape != self.shape:
            raise InputError(
                f"PixelData: expected {self.shape} pixels, got {raw.shape} in {self.path}; export the series anew"
            )
        allocated, stored = self.bits
        if raw.dtype.kind in "iu" and stored < allocated:
            # bits above the value may hold an overlay; a signed value is extended into them
            unused = raw.dtype.itemsize * 8 - stored
            raw = (raw << unused) >> unused
        with np.errstate(over="ignore"):
            return (raw * np.float64(slope) + inter).astype(np.float32)

    def _check_length(self, pixel_bytes: bytes) -> None:
        rows, columns = self.shape
        expected = rows * columns * self.bits[0] // 8
        if self.is_native:
            if self.oddity and pixel_bytes.startswith(_ITEM):
                raise InputError(
                    f"TransferSyntaxUID: expected the name of the compression, got none in {self.path}; "
                    "export the series anew with file meta information"
                )
            if len(pixel_bytes) != expected + expected % 2:
                raise InputError(
                    f"PixelData: expected {expected} bytes, got {len(pixel_bytes)} in {self.path}: the file is "
                    "truncated or damaged; copy or download it again"
                )
            return
        from pydicom.encaps import get_frame

        with _parsing(self.path, "PixelData"):
            frame = get_frame(pixel_bytes, 0, number_of_frames=1)
        if len(frame) > 2 * expected + 2**16:
            raise InputError(
                f"PixelData: expected at most {2 * expected + 2**16} packed bytes, got {len(frame)} in {self.path}; "
                "export the series anew"
            )
        if self.syntax in _FRAMED and frame_size(frame) != (rows, columns, 1):
            raise InputError(
                f"PixelData: expected one frame of {rows} x {columns} gray pixels, got (rows, columns, samples) "
                f"{frame_size(frame)} in {self.path}; export the series anew"
            )

    def _integer(self, keyword: str) -> int:
        value = self.numbers(keyword, 1)[0]
        if not float(value).is_integer():
            raise InputError(f"{keyword}: expected a whole number, got {value} in {self.path}; export the series anew")
        return int(value)


def read_slice(path: Path) -> Slice | None:
    """An object's header; None for a file that is no DICOM object by its content and name.

    Raises
    ------
    InputError
        The file is empty, is called .dcm but holds something else, has a damaged header, or inflates to more than `MAX_INFLATED_BYTES`.
    """
    if is_dicom(path):
        return _open(path, pixels=False)
    # It may be the last slice of a series, and nothing else would miss that.
    if path.stat().st_size == 0:
        raise InputError(f"path: expected a DICOM object, got the empty file {path}; copy it again, or take it out")
    if path.suffix.lower() == ".dcm":
        raise InputError(
            f"path: expected a DICOM object, got other content in {path}: neither a preamble nor an element of group 0002 or "
            "0008 at its start; copy it again, or take it out"
        )
    return None


def read_header(path: Path) -> Any:
    """All attributes of an object but its pixels, as pydicom's data set; the patient's are among them.

    Raises
    ------
    InputError
        The header is damaged, or inflates to more than `MAX_INFLATED_BYTES`.
    """
    return _open(path, pixels=False, tags=None).header


def slice_of(header: Any, path: Path) -> Slice:
    """A header in memory as a slice without pixels; messages name `path`."""
    meta = getattr(header, "file_meta", None)
    syntax = "" if meta is None else _printable(meta.get("TransferSyntaxUID"))
    return Slice(path, 0, syntax or _EXPLICIT, header)


def is_dicom(path: Path) -> bool:
    """Whether a file's content is a DICOM object, with or without preamble and file meta information."""
    with opened(path) as (stream, _):
        head = stream.read(_HEAD_BYTES)
    return head[128:132] == b"DICM" or _guessed_syntax(head) is not None


def _guessed_syntax(head: bytes) -> str | None:
    """The transfer syntax of a data set by its first elements, of group 0002 or 0008; None if it does not start so."""
    if len(head) < 8:
        return None
    little, big = (struct.unpack_from(f"{order}HH", head) for order in "<>")
    vr = head[4:6]
    if vr.isalpha() and vr.isupper():
        return _EXPLICIT if little[0] in (2, 8) else _BIG_ENDIAN if big[0] in (2, 8) else None
    (length,) = struct.unpack_from("<I", head, 4)
    if little[0] not in (2, 8) or length % 2 or length > 2**16:
        return None
    if len(head) < 12 + length:
        return _IMPLICIT
    following = struct.unpack_from("<HH", head, 8 + length)
    return _IMPLICIT if little < following < (0x1000, 0) else None


def frame_size(frame: bytes) -> tuple[int, int, int] | None:
    """Rows, columns and samples that a JPEG, JPEG-LS or JPEG 2000 stream declares; None if it is none of them."""
    if frame.startswith(b"\xff\x4f\xff\x51"):  # JPEG 2000, SIZ first
        if len(frame) < 42:
            return None
        right, bottom, left, top = struct.unpack_from(">4I", frame, 8)
        return bottom - top, right - left, struct.unpack_from(">H", frame, 40)[0]
    at = 2
    while frame.startswith(b"\xff\xd8") and at + 10 <= len(frame) and frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            rows, columns, samples = struct.unpack_from(">HHB", frame, at + 5)
            return rows, columns, samples
        elif marker == 0xDA:  # scan before any frame
            return None
        else:
            at += 2 + struct.unpack_from(">H", frame, at + 2)[0]
    return None


def _open(path: Path, *, pixels: bool, tags: Sequence[str] | None = _TAGS) -> Slice:
    """An object with the attributes `tags`, None for all; and its pixels, if they are asked for."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.filereader import read_dataset
    from pydicom.tag import BaseTag, Tag

    wanted: list[BaseTag | int] | None = None
    if tags is not None:
        wanted = [Tag(keyword) for keyword in (*tags, *(["PixelData"] if pixels else []))]
    with _parsing(path, "header"), path.open("rb") as stream:
        has_preamble = stream.read(132)[128:] == b"DICM"
        stream.seek(132 if has_preamble else 0)
        meta = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
        read_dataset(stream, True, True, stop_when=lambda tag, vr, length: tag >> 16 != 0)  # a network's command
        named = _printable(meta.get("TransferSyntaxUID", ""))
        start = stream.tell()
        syntax = named or _guessed_syntax(stream.read(_HEAD_BYTES)) or _IMPLICIT
        stream.seek(start)
        source = stream if syntax != _DEFLATED else io.BytesIO(_inflated(path, stream.read()))
        header: Any = read_dataset(
            source,
            syntax == _IMPLICIT,
            syntax != _BIG_ENDIAN,
            stop_when=None if pixels else lambda tag, vr, length: tag >> 16 == 0x7FE0,
            specific_tags=wanted,
        )
        meta.TransferSyntaxUID = syntax
        header.file_meta = FileMetaDataset(meta)
        if not header.get("SOPClassUID"):
            header.SOPClassUID = meta.get("MediaStorageSOPClassUID", "")
    oddity = "" if has_preamble else "no DICOM preamble"
    if not named:
        oddity = f"no transfer syntax, read as {_name_of(syntax)}"
    return Slice(path, path.stat().st_size, syntax, header, oddity)


def _printable(value: object) -> str:
    return "" if value is None else "".join(c for c in str(value) if c.isprintable())[:64]


def _inflated(path: Path, packed: bytes) -> bytes:
    """The deflated data set behind a file's meta information."""
    member = zlib.decompressobj(wbits=-15)
    try:
        out = member.decompress(packed, MAX_INFLATED_BYTES)
    except zlib.error as error:
        raise InputError(
            f"path: expected a sound deflated DICOM object, got damaged data in {path}; copy or download it again"
        ) from error
    if not member.eof:
        if len(out) < MAX_INFLATED_BYTES:
            raise InputError(f"path: expected a whole DICOM object, got {path}, which is truncated; copy it again")
        raise InputError(
            f"path: expected at most {MAX_INFLATED_BYTES} inflated bytes in one DICOM object, got more in {path}; "
            "export the series uncompressed"
        )
    return out


@contextmanager
def _parsing(path: Path, what: str) -> Iterator[None]:
    """Turns every exception of pydicom or a decoder into an `InputError`, without its words."""
    from pydicom import config

    try:
        with config.disable_value_validation(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they may quote the file
            yield
    except (InputError, MemoryError):
        raise
    except OSError as error:
        raise InputError(
            f"path: expected a readable file, got {path} ({type(error).__name__}); check its rights and the disk"
        ) from error
    except Exception as error:  # as many types as there are ways to damage a file
        raise InputError(
            f"{what}: expected a sound DICOM object, got a truncated or damaged one ({type(error).__name__}) in "
            f"{path}; copy or download it again"
        ) from None


def _name_of(syntax: str) -> str:
    from pydicom import config
    from pydicom.uid import UID

    name = UID(syntax, validation_mode=config.IGNORE).name
    return f"{name} ({syntax})" if name != syntax else syntax or "none"
