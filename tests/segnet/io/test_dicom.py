"""DICOM series: the grid and the values against pydicom and highdicom, and each refusal with its reason."""

from __future__ import annotations

import struct
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from dicom_series import PATIENT, deflate, deflated, make_series, save, write_series
from pydicom import dcmwrite
from pydicom.dataset import Dataset
from pydicom.uid import JPEGLSLossless, RLELossless

from segnet.errors import InputError
from segnet.io.dicom import is_dicom_series, load_series, series_files
from segnet.io.dicom_slice import frame_size
from segnet.io.volumes import read_image

RAMP = np.arange(6 * 5 * 4).reshape(6, 5, 4) - 1000  # (Z, Y, X) in HU
OBLIQUE = tuple(np.round([np.cos(0.3), np.sin(0.3), 0, 0, 0, -1], 12))
"""Rows turned about the patient's axis, columns running down: a coronal reformat."""


@pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 1, 0), (-1, 0, 0, 0, -1, 0), (0, 1, 0, 0, 0, -1), OBLIQUE])
def test_the_grid_is_highdicoms(tmp_path: Path, orientation: tuple[float, ...]) -> None:
    arguments: dict[str, Any] = {
        "spacing_xyz_mm": (0.5, 0.75, 2.5),
        "origin_mm": (-120.5, 33, 4),
        "orientation": orientation,
    }
    folder = write_series(tmp_path / "a", RAMP, **arguments)
    stored = load_series(folder)
    np.testing.assert_array_equal(stored.array.transpose(2, 1, 0), RAMP)
    for path in folder.iterdir():
        one = pydicom.dcmread(path)
        corner = np.linalg.solve(stored.affine, (*np.array(one.ImagePositionPatient) * (-1, -1, 1), 1))
        np.testing.assert_allclose(corner[:2], 0, atol=1e-6)  # positions have nine digits
        plane = stored.array[:, :, round(corner[2])]
        np.testing.assert_array_equal(plane.T, one.pixel_array * 1.0 - 1024)

    reference = highdicom.get_volume_from_series([pydicom.dcmread(p) for p in folder.iterdir()])
    reference = reference.to_patient_orientation("RAS")
    affine = np.diag([-1, -1, 1, 1]) @ reference.affine
    volume = read_image(folder)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-6)
    assert volume.array.dtype == np.float32


def test_slope_and_intercept_belong_to_each_slice(tmp_path: Path) -> None:
    slices = make_series(RAMP)
    for i, one in enumerate(slices):
        one.RescaleSlope, one.RescaleIntercept = 0.5 + i, 10 * i
    array = load_series(save(tmp_path / "a", slices)).array
    for i, one in enumerate(slices):
        stored = np.frombuffer(one.PixelData, "<u2").reshape(5, 4)
        np.testing.assert_array_equal(array[:, :, i].T, stored * (0.5 + i) + 10 * i)


def test_bits_above_the_value_are_no_value(tmp_path: Path) -> None:
    slices = make_series(RAMP[:, :, :] * 0 + 5, intercept=0)
    for one in slices:
        one.BitsStored, one.HighBit, one.PixelRepresentation = 12, 11, 1
        one.PixelData = np.full((5, 4), 0x3FFE, "<u2").tobytes()  # overlay bits 0011 above -2 in 12 bits
    np.testing.assert_array_equal(load_series(save(tmp_path / "a", slices)).array, -2)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, "deflated"])
def test_packed_pixels_are_the_same(tmp_path: Path, syntax: str) -> None:
    slices = make_series(RAMP)
    if syntax != "deflated":
        for one in slices:
            one.compress(syntax, generate_instance_uid=False)
    folder = save(tmp_path / "a", slices)
    if syntax == "deflated":
        for path in folder.iterdir():
            deflated(path, deflate)
    np.testing.assert_array_equal(load_series(folder).array.transpose(2, 1, 0), RAMP)


def test_mr_needs_no_slope(tmp_path: Path) -> None:
    slices = make_series(RAMP - RAMP.min(), intercept=0)
    for one in slices:
        one.Modality = "MR"
        del one.RescaleSlope, one.RescaleIntercept
    np.testing.assert_array_equal(load_series(save(tmp_path / "a", slices)).array.transpose(2, 1, 0), RAMP - RAMP.min())


def contour() -> Dataset:
    one = make_series(RAMP, series="1.2.9")[0]
    one.Modality = "RTSTRUCT"
    for keyword in ("Rows", "Columns", "PixelData"):
        delattr(one, keyword)
    return one


def segmentation() -> Dataset:
    one = make_series(RAMP, series="1.2.8")[0]
    one.Modality = "SEG"
    return one


def test_other_objects_and_files_are_ignored(tmp_path: Path) -> None:
    folder = save(tmp_path / "a", [*make_series(RAMP), contour(), segmentation()])
    (folder / "notes.txt").write_text("hello")
    (folder / ".hidden").write_bytes(bytes(128) + b"DICM")
    (folder / "sub").mkdir()
    assert is_dicom_series(folder)
    np.testing.assert_array_equal(load_series(folder).array.transpose(2, 1, 0), RAMP)
    assert not is_dicom_series(folder / "sub")
    assert not is_dicom_series(folder / "notes.txt")


def test_rounded_positions_are_one_grid(tmp_path: Path) -> None:
    slices = make_series(RAMP, spacing_xyz_mm=(0.7, 0.7, 0.625))
    for one in slices:
        one.ImagePositionPatient = [0, 0, f"{one.ImagePositionPatient[2]:.2f}"]
    affine = load_series(save(tmp_path / "a", slices)).affine
    assert affine[2, 2] == pytest.approx(3.12 / 5, abs=1e-12)  # 5 * 0.625 rounded to even


def plain(one: Dataset, syntax: str) -> bytes:
    """A data set without preamble and file meta information."""
    one = Dataset(one)
    if syntax == BIG_ENDIAN:
        one.PixelData = np.frombuffer(one.PixelData, "<u2").byteswap().tobytes()
    out = BytesIO()
    dcmwrite(out, one, implicit_vr=syntax == IMPLICIT, little_endian=syntax != BIG_ENDIAN)
    return out.getvalue()


IMPLICIT, EXPLICIT, BIG_ENDIAN = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
COMMAND = struct.pack("<HHIIHHIH", 0, 0, 4, 10, 0, 0x100, 2, 1)  # group length, C-STORE-RQ
HEADLESS: dict[str, tuple[Callable[[Dataset, bytes], bytes], str]] = {
    "no preamble": (lambda one, raw: raw[132:], "no DICOM preamble"),
    "implicit": (lambda one, raw: plain(one, IMPLICIT), "no transfer syntax, read as Implicit VR Little Endian"),
    "explicit": (lambda one, raw: plain(one, EXPLICIT), "no transfer syntax, read as Explicit VR Little Endian"),
    "big endian": (lambda one, raw: plain(one, BIG_ENDIAN), "no transfer syntax, read as Explicit VR Big Endian"),
    "a preamble alone": (lambda one, raw: raw[:132] + plain(one, IMPLICIT), "no transfer syntax, read as Implicit"),
    "a command before": (
        lambda one, raw: raw[:132] + COMMAND + plain(one, EXPLICIT),
        "no transfer syntax, read as Explicit",
    ),
}


@pytest.mark.parametrize("name", HEADLESS)
@pytest.mark.parametrize("every", [1, 2])
def test_slices_without_preamble_or_meta_information_are_read(tmp_path: Path, name: str, every: int) -> None:
    """Were every second one left out, the volume would have half its slices, twice as far apart."""
    change, oddity = HEADLESS[name]
    slices = make_series(RAMP)
    folder = save(tmp_path / "a", slices)
    for path in sorted(folder.iterdir())[::every]:
        path.write_bytes(change(pydicom.dcmread(path), path.read_bytes()))
    assert is_dicom_series(folder)
    assert len(series_files(folder)) == len(RAMP)
    volume = read_image(folder)
    np.testing.assert_array_equal(load_series(folder).array.transpose(2, 1, 0), RAMP)
    assert volume.spacing_mm == (1.0, 1.0, 2.0)
    (warning,) = volume.warnings
    assert warning.startswith(f"{len(RAMP) // every} of {len(RAMP)} files have {oddity}")


def test_a_sound_series_has_no_warning(tmp_path: Path) -> None:
    folder = save(tmp_path / "a", [*make_series(RAMP), contour(), segmentation()])
    assert read_image(folder).warnings == ()


def test_files_that_are_left_out_are_told(tmp_path: Path) -> None:
    odd = contour()
    odd.Modality = "OT"
    folder = save(tmp_path / "a", [*make_series(RAMP), odd])
    for name, content in (("zeros", bytes(500)), ("notes.txt", b"hello"), ("short", b"\x08\0")):
        (folder / name).write_bytes(content)
    (warning,) = read_image(folder).warnings
    assert warning == "left out as no image of the DICOM series: I0001, notes.txt, short, zeros"


def test_a_deflated_slice_without_preamble_is_read(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "a", RAMP)
    for path in folder.iterdir():
        deflated(path, deflate)
        path.write_bytes(path.read_bytes()[132:])
    np.testing.assert_array_equal(load_series(folder).array.transpose(2, 1, 0), RAMP)


def test_compressed_pixels_without_a_transfer_syntax_are_refused(tmp_path: Path) -> None:
    slices = make_series(RAMP)
    for one in slices:
        one.compress(RLELossless, generate_instance_uid=False)
    folder = save(tmp_path / "a", slices)
    for path in folder.iterdir():
        raw = path.read_bytes()
        path.write_bytes(raw[144 + int.from_bytes(raw[140:144], "little") :])
    with pytest.raises(InputError, match="TransferSyntaxUID: expected the name of the compression, got none"):
        read_image(folder)


def without(index: int) -> Callable[[list[Dataset]], list[Dataset]]:
    return lambda slices: slices[:index] + slices[index + 1 :]


def each(**values: Any) -> Callable[[list[Dataset]], list[Dataset]]:
    """Attributes of every slice."""

    def change(slices: list[Dataset]) -> list[Dataset]:
        for one in slices:
            for keyword, value in values.items():
                if value is None:
                    delattr(one, keyword)
                else:
                    setattr(one, keyword, value)
        return slices

    return change


def third(**values: Any) -> Callable[[list[Dataset]], list[Dataset]]:
    return lambda slices: slices[:2] + each(**values)(slices[2:3]) + slices[3:]


def moved(x: Callable[[int], float], z: Callable[[int], float]) -> Callable[[list[Dataset]], list[Dataset]]:
    """Positions of slice i."""

    def change(slices: list[Dataset]) -> list[Dataset]:
        for i, one in enumerate(slices):
            one.ImagePositionPatient = [f"{x(i):.6g}", 0, f"{z(i):.6g}"]
        return slices

    return change


def two_series(slices: list[Dataset]) -> list[Dataset]:
    return slices + make_series(RAMP[:2], series="1.2.5", origin_mm=(0, 0, 50))


def damaged(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


REFUSED: dict[str, tuple[Callable[[list[Dataset]], Any], str]] = {
    "missing": (
        without(2),
        r"every 2 mm, got a gap of 4 mm between \(0, 0, 2\) mm LPS and \(0, 0, 6\) mm LPS, 1 missing",
    ),
    "two missing": (lambda slices: [slices[i] for i in (0, 1, 4, 5)], "a gap of 6 mm .* 2 missing"),
    "duplicate": (third(ImagePositionPatient=[0, 0, 2]), r"got 1 more, the first at \(0, 0, 2\) mm LPS"),
    "tilt": (moved(lambda i: 2 * i * np.tan(np.radians(15)), lambda i: 2 * i), "a gantry tilt of 15.00 degrees"),
    "sideways": (moved(lambda i: 3.0 * (i == 2), lambda i: 2 * i), "slice 2 .* moved sideways by 3 mm"),
    "uneven": (moved(lambda i: 0, lambda i: 2 * i + 0.25 * i * i / 5), "evenly spaced slices, got steps of 2.05 to"),
    "two series": (
        two_series,
        r"got 2 in .*: 6 CT slices of 5 x 4, series 4, UID 1\.2\.3\.4; 2 CT slices of 5 x 4, series 4, UID 1\.2\.5;",
    ),
    "one slice": (lambda slices: slices[:1], "at least 2 slices"),
    "no image": (lambda slices: [contour(), segmentation()], "got 1 of RTSTRUCT, 1 of SEG among 2 files"),
    "size": (third(Rows=4, Columns=5), "one size, got 5 of 5 x 4, 1 of 4 x 5"),
    "spacing": (third(PixelSpacing=[1, 1.5]), r"PixelSpacing: .* got \[1.0, 1.5\] in 1 of 6"),
    "orientation": (third(ImageOrientationPatient=[0, 1, 0, 1, 0, 0]), "ImageOrientationPatient: expected the same"),
    "frame of reference": (third(FrameOfReferenceUID="1.9"), "one frame of reference, got 2"),
    "skewed": (each(ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "perpendicular unit vectors"),
    "no orientation": (each(ImageOrientationPatient=None), "ImageOrientationPatient: expected 6"),
    "no position": (third(ImagePositionPatient=None), "ImagePositionPatient: expected 3 finite"),
    "zero spacing": (each(PixelSpacing=[1, 0]), "PixelSpacing: expected positive"),
    "NaN slope": (third(RescaleSlope="nan"), "RescaleSlope: expected 1 finite"),
    "infinite slope": (third(RescaleSlope="inf"), "RescaleSlope: expected 1 finite"),
    "no slope": (third(RescaleSlope=None), r"RescaleSlope: expected 1 finite numbers, got \[\]"),
    "localizer": (third(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "got a localizer"),
    "secondary capture": (each(SOPClassUID="1.2.840.10008.5.1.4.1.1.7"), "got a secondary capture"),
    "another modality": (each(Modality="US"), "expected CT or MR, got US"),
    "colour": (each(PhotometricInterpretation="RGB", SamplesPerPixel=3), "gray slices, got RGB with 3 samples"),
    "frames": (each(NumberOfFrames=3), "one slice a file, got 3 frames"),
    "zero rows": (each(Rows=0), "expected pixels, got"),
    "bits": (each(BitsAllocated=64), "BitsAllocated"),
    "short pixels": (third(PixelData=bytes(38)), "expected 40 bytes, got 38"),
    "long pixels": (third(PixelData=bytes(42)), "expected 40 bytes, got 42"),
    "no rows": (third(Rows=None), "Rows: expected 1 finite"),
    "no pixels": (third(PixelData=None), "PixelData: "),
    "empty pixels": (third(PixelData=b""), "expected 40 bytes, got 0"),
    "claims": (each(Rows=65000, Columns=65000), "at most 1073741824 voxels"),
    "claims less": (each(Rows=10000, Columns=10000), "truncated"),
}


@pytest.mark.filterwarnings("ignore:Invalid value")  # pydicom's, as the test writes it
@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line_that_names_no_patient(tmp_path: Path, name: str) -> None:
    change, message = REFUSED[name]
    slices = make_series(RAMP)
    folder = save(tmp_path / "a", change(slices))
    with pytest.raises(InputError, match=message) as caught:
        read_image(folder)
    text = str(caught.value)
    assert "\n" not in text
    assert str(folder) in text
    assert not any(word.lower() in text.lower() for word in PATIENT.split("^"))


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "a", RAMP)
    path = sorted(folder.iterdir())[3]
    whole = path.read_bytes()
    for n_bytes in (132, 140, 200, len(whole) // 2, len(whole) - 60, len(whole) - 1):
        path.write_bytes(whole[:n_bytes])
        with pytest.raises(InputError) as caught:
            read_image(folder)
        assert "Secret" not in str(caught.value)
    path.write_bytes(whole)
    read_image(folder)


def test_a_damaged_slice_is_not_taken_for_another_file(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "a", RAMP)
    for name, content, got in (
        ("empty", b"", "the empty file"),
        ("a.dcm", b"hello", "other content"),
        ("b.DCM", bytes(200), "neither a preamble nor an element"),
    ):
        (folder / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name}.*{got}|{got}.*{name}"):
            read_image(folder)
        (folder / name).unlink()
    read_image(folder)


def test_a_syntax_without_decoder_is_refused(tmp_path: Path) -> None:
    slices = make_series(RAMP)
    folder = save(tmp_path / "a", slices)
    for path in folder.iterdir():
        raw = path.read_bytes()
        # a syntax that nobody registered, of as many characters
        path.write_bytes(raw.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.77", 1))
    with pytest.raises(InputError, match=r"can be decoded here, got 1\.2\.840\.10008\.1\.2\.77 in"):
        read_image(folder)


def test_a_frame_of_another_size_is_not_decoded(tmp_path: Path) -> None:
    slices = make_series(RAMP)
    for one in slices:
        one.compress(JPEGLSLossless, generate_instance_uid=False)
    frame = slices[2].PixelData
    at = frame.index(b"\xff\xf7")
    slices[2].PixelData = frame[: at + 5] + b"\xff\xff\xff\xff" + frame[at + 9 :]  # 65535 x 65535
    with pytest.raises(InputError, match=r"one frame of 5 x 4 gray pixels, got .* \(65535, 65535, 1\)"):
        read_image(save(tmp_path / "a", slices))


def test_frame_sizes_are_read_from_the_stream() -> None:
    import io

    from PIL import Image

    for kind, mode, samples in (("JPEG", "L", 1), ("JPEG", "RGB", 3), ("JPEG2000", "L", 1)):
        out = io.BytesIO()
        Image.new(mode, (23, 17)).save(out, kind, **({"no_jp2": True} if kind == "JPEG2000" else {}))
        assert frame_size(out.getvalue()) == (17, 23, samples)
        for n_bytes in range(60):  # no truncation is an error of another kind
            frame_size(out.getvalue()[:n_bytes])
    assert frame_size(b"") is None
    assert frame_size(b"\xff\xd8\xff\xda" + bytes(20)) is None


def test_a_real_series_is_read(shared_data: Path) -> None:
    folder = shared_data / "no_lesion" / "example_ct_dicom"
    assert is_dicom_series(folder)
    volume = read_image(folder)
    assert volume.array.shape == (512, 512, 20)
    assert volume.spacing_mm == (0.9765625, 0.9765625, 2.0)
    for path in folder.iterdir():
        one = pydicom.dcmread(path)
        index = np.linalg.solve(volume.affine, (*np.array(one.ImagePositionPatient) * (-1, -1, 1), 1))[:3]
        x, y, z = (round(i) for i in index)
        np.testing.assert_allclose(index, (x, y, z), atol=1e-9)
        assert (x, y) == (511, 511)
        hu = one.pixel_array.astype(np.float64) * one.RescaleSlope + one.RescaleIntercept
        np.testing.assert_array_equal(volume.array[::-1, ::-1, z].T, hu)
