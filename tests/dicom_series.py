"""DICOM series made for tests, sound ones and others."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CT = "1.2.840.10008.5.1.4.1.1.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
PATIENT = "Secret^Zebediah"
Change = Callable[[list[Dataset]], Iterable[Dataset] | None]


def make_series(
    array_zyx: Any,
    *,
    spacing_xyz_mm: tuple[float, float, float] = (1.0, 1.0, 2.0),
    origin_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
    orientation: tuple[float, ...] = (1, 0, 0, 0, 1, 0),
    intercept: float = -1024,
    slope: float = 1,
    series: str = "1.2.3.4",
) -> list[Dataset]:
    """One data set for each slice of HU, numbered in an order of no meaning; positions in LPS."""
    array = np.asarray(array_zyx)
    normal = np.cross(orientation[:3], orientation[3:])
    out = []
    for i, plane in enumerate(array):
        one = Dataset()
        one.file_meta = FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = CT
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[series, str(i)])
        one.PatientName, one.PatientID = PATIENT, PATIENT
        one.SeriesDescription = PATIENT
        one.Modality, one.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
        one.SeriesInstanceUID, one.SeriesNumber = series, 4
        one.StudyInstanceUID, one.FrameOfReferenceUID = "1.2.3", "1.2.3.1"
        one.InstanceNumber = (7 * i) % len(array) + 1
        one.Rows, one.Columns = plane.shape
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 0
        one.PixelSpacing = [spacing_xyz_mm[1], spacing_xyz_mm[0]]
        one.ImageOrientationPatient = list(orientation)
        position = np.asarray(origin_mm) + i * spacing_xyz_mm[2] * normal
        one.ImagePositionPatient = [f"{value:.9g}" for value in position]
        one.RescaleSlope, one.RescaleIntercept = slope, intercept
        one.PixelData = np.round((plane - intercept) / slope).astype("<u2").tobytes()
        out.append(one)
    return out


def save(folder: Path, slices: Iterable[Dataset]) -> Path:
    """Files without endings, named against the order of the slices."""
    folder.mkdir(parents=True, exist_ok=True)
    slices = list(slices)
    for i, one in enumerate(slices):
        dcmwrite(folder / f"I{len(slices) - i:04}", one, enforce_file_format=True)
    return folder


def write_series(folder: Path, array_zyx: Any, **arguments: Any) -> Path:
    return save(folder, make_series(array_zyx, **arguments))


def deflated(path: Path, content: Callable[[bytes], bytes]) -> None:
    """Turns a file of explicit little endian into a deflated one, its data set packed by `content`."""
    raw = path.read_bytes()
    group = 144 + int.from_bytes(raw[140:144], "little")
    meta = raw[:group]
    old = b"1.2.840.10008.1.2.1\0"
    at = meta.index(old)
    new = DEFLATED.encode()  # of 22 characters, an even number
    meta = meta[: at - 2] + len(new).to_bytes(2, "little") + new + meta[at + len(old) :]
    meta = meta[:140] + (len(meta) - 144).to_bytes(4, "little") + meta[144:]
    path.write_bytes(meta + content(raw[group:]))


def deflate(raw: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(raw) + packer.flush()
