"""The order of a series' slices and the way between its frames and the canonical array, against the headers' own positions."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_series import PATIENT, make_series, save

from segnet.errors import InputError
from segnet.io.boxes import bounding_box
from segnet.io.dicom import load_series, read_series, series_of
from segnet.io.dicom_frames import FrameMap
from segnet.io.volumes import Volume, read_image

RAMP = np.arange(6 * 5 * 4).reshape(6, 5, 4) - 1000
SPACING = (0.5, 0.75, 2.5)


def directions() -> list[tuple[float, ...]]:
    """All 24 right-handed frames along the patient's axes, and two oblique ones."""
    unit = np.eye(3)
    straight = [
        tuple((a * unit[i]).tolist() + (b * unit[j]).tolist())
        for i, j in permutations(range(3), 2)
        for a, b in product((1, -1), repeat=2)
    ]
    turn = np.linalg.qr(np.array([[1, 0.2, 0.1], [-0.3, 1, 0.15], [0.1, -0.2, 1]]))[0]
    oblique = [np.round(turn.T[:2], 12), np.round(turn.T[[2, 0]], 12)]
    return straight + [tuple(pair.ravel().tolist()) for pair in oblique]


def folder_of(tmp_path: Path, orientation: tuple[float, ...], **more: Any) -> Path:
    slices = make_series(RAMP, spacing_xyz_mm=SPACING, origin_mm=(-120.5, 33, 4), orientation=orientation, **more)
    return save(tmp_path / "a", [slices[i] for i in (3, 0, 5, 1, 4, 2)])


@pytest.mark.parametrize("orientation", directions())
def test_voxels_of_the_canonical_array_are_pixels_of_the_headers(
    tmp_path: Path, orientation: tuple[float, ...], rng: np.random.Generator
) -> None:
    folder = folder_of(tmp_path, orientation)
    volume, series = read_image(folder), read_series(folder)
    way = series.frame_map(volume)
    frames = way.frames(volume.array_zyx)
    assert frames.shape == series.shape == (6, 5, 4)
    for path in folder.iterdir():
        one = pydicom.dcmread(path)
        (number,) = [n for n, header in enumerate(series.headers) if header.SOPInstanceUID == one.SOPInstanceUID]
        np.testing.assert_array_equal(frames[number], one.pixel_array * 1.0 - 1024)
    np.testing.assert_array_equal(way.array_zyx(frames), volume.array_zyx)

    # points: the position of a pixel by the equation of DICOM PS3.3 C.7.6.2.1, from the slice's own header
    points = rng.random((20, 3)) * (np.array(volume.array_zyx.shape) - 1)
    points[0] = np.round(points[0])
    there = way.points(points)
    ras = points[:, ::-1] @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    np.testing.assert_allclose(series.to_lps(there), ras * (-1, -1, 1), atol=1e-9)
    for (depth, row, column), lps in zip(there, ras * (-1, -1, 1), strict=True):
        header = series.headers[int(depth)]
        along_row, along_column = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
        row_mm, column_mm = header.PixelSpacing
        expected = np.array(header.ImagePositionPatient, float) + along_row * column * column_mm
        expected += along_column * row * row_mm + np.cross(along_row, along_column) * (depth % 1) * SPACING[2]
        np.testing.assert_allclose(lps, expected, atol=1e-5)  # positions have nine digits

    # a crop turned by itself lies in the turned box
    mask = np.zeros(volume.array_zyx.shape, bool)
    mask[tuple(slice(1, n - 1) for n in mask.shape)] = rng.random([n - 2 for n in mask.shape]) < 0.5
    box = bounding_box(mask)
    moved = np.zeros(series.shape, bool)
    moved[way.box(box)] = way.frames(mask[box])
    np.testing.assert_array_equal(moved, way.frames(mask))


def test_headers_in_memory_come_in_the_order_of_the_volume(tmp_path: Path) -> None:
    slices = make_series(RAMP, orientation=(1, 0, 0, 0, -1, 0))
    shuffled = [slices[i] for i in (3, 0, 5, 1, 4, 2)]
    series = series_of(shuffled)
    assert [header.SOPInstanceUID for header in series.headers] == [one.SOPInstanceUID for one in slices]
    stored = load_series(save(tmp_path / "a", shuffled))
    np.testing.assert_array_equal(series.affine, stored.affine)
    assert series.shape == stored.shape[::-1]
    assert all("PixelData" in one for one in slices)
    with pytest.raises(InputError, match="headers: expected one DICOM series, got 2"):
        series_of(shuffled + make_series(RAMP, series="1.2.5"))
    with pytest.raises(InputError, match="at least 2 slices, got 0 in headers"):
        series_of([])
    with pytest.raises(InputError, match="a gap of 4 mm"):
        series_of(slices[:2] + slices[3:])


def test_headers_are_kept_without_pixels(tmp_path: Path) -> None:
    slices = make_series(RAMP)
    for one in slices:
        one.SpecificCharacterSet, one.PatientName = "ISO_IR 100", "Zebediah^Jörg"
        part = pydicom.Dataset()
        part.CodeMeaning = "Schädel"
        one.ProcedureCodeSequence = [part]
    series = read_series(save(tmp_path / "a", slices))
    paths = series.write(tmp_path / "headers")
    assert len(paths) == 6
    assert max(path.stat().st_size for path in paths) < 2000
    again = read_series(tmp_path / "headers")
    for one, other in zip(series.headers, again.headers, strict=True):
        assert one == other
        assert "PixelData" not in other
        assert str(other.PatientName) == "Zebediah^Jörg"
        assert other.ProcedureCodeSequence[0].CodeMeaning == "Schädel"
    np.testing.assert_array_equal(series.affine, again.affine)
    with pytest.raises(InputError, match="expected an empty folder"):
        series.write(tmp_path / "headers")
    with pytest.raises(InputError, match="PixelData"):
        load_series(tmp_path / "headers")
    kept = series_of(slices)
    kept.write(tmp_path / "more")
    assert all("PixelData" in one for one in slices)


@pytest.mark.parametrize("implicit", [True, False])
@pytest.mark.parametrize("little", [True, False])
def test_headers_of_any_byte_order_are_kept(tmp_path: Path, implicit: bool, little: bool) -> None:
    """Elements in sequences are not read before they are written."""
    if implicit and not little:
        pytest.skip("there is no such transfer syntax")
    slices = make_series(RAMP)
    (tmp_path / "a").mkdir()
    for number, one in enumerate(slices):
        inner, part = pydicom.Dataset(), pydicom.Dataset()
        inner.CodeMeaning, inner.Rows, inner.RecommendedDisplayCIELabValue = "Schädel", 258, [1, 2, 515]
        part.ProcedureCodeSequence = [inner]
        one.SpecificCharacterSet = "ISO_IR 100"
        one.ReferencedStudySequence = [part]
        one.PixelData = np.frombuffer(one.PixelData, "<u2").astype("<u2" if little else ">u2").tobytes()
        syntax = ("1.2.840.10008.1.2" if implicit else "1.2.840.10008.1.2.1") if little else "1.2.840.10008.1.2.2"
        one.file_meta.TransferSyntaxUID = syntax
        pydicom.dcmwrite(
            tmp_path / "a" / str(number), one, implicit_vr=implicit, little_endian=little, enforce_file_format=True
        )
    read_series(tmp_path / "a").write(tmp_path / "headers")
    for one, path in zip(slices, sorted((tmp_path / "headers").iterdir()), strict=True):
        kept = pydicom.dcmread(path)
        (inner,) = kept.ReferencedStudySequence[0].ProcedureCodeSequence
        assert (inner.CodeMeaning, inner.Rows) == ("Schädel", 258)
        assert list(inner.RecommendedDisplayCIELabValue) == [1, 2, 515]
        assert kept.SOPInstanceUID == one.SOPInstanceUID


def changed(volume: Volume, name: str) -> Volume:
    affine = volume.affine.copy()
    if name == "moved":
        affine[0, 3] += 0.002
    elif name == "mirrored":
        affine[:3, 0] *= -1  # the shape is the same, and the turn is one of 90 degrees
    elif name == "stretched":
        affine[:3, 2] *= 1.001
    elif name == "coarser":
        affine[:3, :3] *= 2
    elif name == "turned":
        c, s = np.cos(0.001), np.sin(0.001)
        affine[:2, :3] = np.array([[c, -s], [s, c]]) @ affine[:2, :3]
    else:
        return replace(volume, array=volume.array[:, :, 1:])
    return replace(volume, affine=affine)


@pytest.mark.parametrize("name", ["moved", "mirrored", "stretched", "coarser", "turned", "cut"])
def test_headers_of_another_volume_are_refused(tmp_path: Path, name: str) -> None:
    folder = folder_of(tmp_path, (1, 0, 0, 0, 1, 0))
    volume, series = read_image(folder), read_series(folder)
    series.frame_map(volume)
    with pytest.raises(InputError, match=r"series: expected .* got .*; pass the headers of the series") as caught:
        series.frame_map(changed(volume, name))
    assert PATIENT not in str(caught.value)


def test_a_map_is_its_own_proof() -> None:
    way = FrameMap((1, 2, 0), (True, False, True), (4, 5, 6))
    array = np.arange(6 * 4 * 5).reshape(6, 4, 5)
    frames = way.frames(array)
    for index in np.ndindex(array.shape):
        there = way.points([index])[0].astype(int)
        assert frames[tuple(there)] == array[index]
