"""MetaImage: what was written is read back, files of others mean what they say, and each refusal."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segnet.errors import InputError
from segnet.io.metaimage import read_metaimage, write_metaimage

TYPES = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")
HEADER = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "False",
    "CompressedData": "False",
    "TransformMatrix": "1 0 0 0 1 0 0 0 1",
    "Offset": "-10 20 30.5",
    "ElementSpacing": "0.5 0.75 2",
    "DimSize": "4 3 2",
    "ElementType": "MET_SHORT",
    "ElementDataFile": "LOCAL",
}
RAMP = np.arange(24, dtype="<i2").reshape(2, 3, 4) - 5  # (Z, Y, X)


def header(**changed: str | None) -> bytes:
    """The header of RAMP with fields changed, added before the last or, by None, left out."""
    last = changed.pop("ElementDataFile", "LOCAL")
    fields = {**HEADER, **changed}
    fields.pop("ElementDataFile")
    if last is not None:
        fields["ElementDataFile"] = last
    return "".join(f"{name} = {value}\n" for name, value in fields.items() if value is not None).encode()


def saved(folder: Path, content: bytes) -> Path:
    path = folder / "a.mha"
    path.write_bytes(content)
    return path


def turn(a: float, b: float, c: float) -> np.ndarray:
    """A rotation by three angles."""
    out = np.eye(3)
    for axis, angle in enumerate((a, b, c)):
        i, j = (k for k in range(3) if k != axis)
        step = np.eye(3)
        step[i, i] = step[j, j] = np.cos(angle)
        step[i, j], step[j, i] = -np.sin(angle), np.sin(angle)
        out = out @ step
    return out


angle = st.floats(-3.1, 3.1)
position = st.floats(-1e4, 1e4)
length = st.floats(1e-3, 1e3)


@given(
    dtype=st.sampled_from(TYPES),
    order=st.sampled_from("<>"),
    shape=st.tuples(*[st.integers(1, 5)] * 3),
    spacing=st.tuples(length, length, length),
    origin=st.tuples(position, position, position),
    angles=st.tuples(angle, angle, angle),
    mirrored=st.booleans(),
    compressed=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_write_then_read_is_the_identity(
    tmp_path_factory: pytest.TempPathFactory,
    dtype: str,
    order: str,
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    origin: tuple[float, float, float],
    angles: tuple[float, float, float],
    mirrored: bool,
    compressed: bool,
    seed: int,
) -> None:
    path = tmp_path_factory.mktemp("round") / "a.mha"
    raw = np.random.default_rng(seed).integers(0, 256, (*shape, np.dtype(dtype).itemsize), np.uint8)
    array = raw.view(order + dtype)[..., 0]
    direction = turn(*angles) * (1, 1, -1 if mirrored else 1)
    write_metaimage(path, array, spacing_xyz_mm=spacing, origin_mm=origin, direction=direction, compressed=compressed)
    again = read_metaimage(path)
    np.testing.assert_array_equal(again.array_zyx, array)  # NaN equals NaN
    assert again.array_zyx.dtype == np.dtype(dtype)
    # repr of a float is exact
    assert again.spacing_xyz_mm == spacing
    assert again.origin_mm == origin
    np.testing.assert_array_equal(again.direction, direction)


def test_a_file_of_another_program_means_what_it_says(tmp_path: Path) -> None:
    image = read_metaimage(saved(tmp_path, header() + RAMP.tobytes()))
    np.testing.assert_array_equal(image.array_zyx, RAMP)
    assert image.spacing_xyz_mm == (0.5, 0.75, 2)
    assert image.origin_mm == (-10, 20, 30.5)
    # voxel (x, y, z) = (1, 1, 1) lies at (-9.5, 20.75, 32.5) in LPS, and in RAS:
    np.testing.assert_array_equal(image.affine @ (1, 1, 1, 1), (9.5, -20.75, 32.5, 1))


def test_a_row_of_the_matrix_is_the_direction_of_an_axis(tmp_path: Path) -> None:
    # x runs along +posterior, y along +superior, z along +left
    image = read_metaimage(saved(tmp_path, header(TransformMatrix="0 1 0 0 0 1 1 0 0", Offset=None) + RAMP.tobytes()))
    np.testing.assert_array_equal(image.affine @ (1, 0, 0, 1), (0, -0.5, 0, 1))
    np.testing.assert_array_equal(image.affine @ (0, 1, 0, 1), (0, 0, 0.75, 1))
    np.testing.assert_array_equal(image.affine @ (0, 0, 1, 1), (-2, 0, 0, 1))


@pytest.mark.parametrize(
    ("changed", "content"),
    [
        ({"BinaryDataByteOrderMSB": None, "ElementByteOrderMSB": "True"}, RAMP.astype(">i2").tobytes()),
        ({"ElementSpacing": None, "ElementSize": "0.5 0.75 2"}, RAMP.tobytes()),
        ({"Offset": None, "Position": "-10 20 30.5"}, RAMP.tobytes()),
        ({"Offset": None, "Origin": "-10 20 30.5"}, RAMP.tobytes()),
        ({"TransformMatrix": None, "Rotation": "1 0 0 0 1 0 0 0 1"}, RAMP.tobytes()),
        ({"TransformMatrix": None, "Orientation": "1 0 0 0 1 0 0 0 1"}, RAMP.tobytes()),
        ({"HeaderSize": "0", "ElementNumberOfChannels": "1", "Comment": "as = acquired"}, RAMP.tobytes()),
        ({"Comment": "Århus"}, RAMP.tobytes()),  # whose UTF-8 holds a byte that other encodings end a line by
        ({"CompressedData": "True"}, zlib.compress(RAMP.tobytes())),
        ({"ElementDataFile": "Local"}, RAMP.tobytes() + bytes(9)),
        (
            {
                "NDims": "4",
                "DimSize": "4 3 2 1",
                "ElementSpacing": "0.5 0.75 2 1",
                "Offset": "-10 20 30.5 0",
                "TransformMatrix": "1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1",
            },
            RAMP.tobytes(),
        ),
    ],
)
def test_other_ways_to_say_the_same(tmp_path: Path, changed: dict[str, str | None], content: bytes) -> None:
    image = read_metaimage(saved(tmp_path, header(**changed) + content))
    plain = read_metaimage(saved(tmp_path, header() + RAMP.tobytes()))
    np.testing.assert_array_equal(image.array_zyx, RAMP)
    np.testing.assert_array_equal(image.affine, plain.affine)


ITK = {
    "ObjectSubType": "x",
    "Comment": "as = acquired",
    "AcquisitionDate": "20200101",
    "Name": "x",
    "ID": "1",
    "ParentID": "-1",
    "Color": "1 1 1 1",
    "CenterOfRotation": "0 0 0",
    "AnatomicalOrientation": "RAI",
    "DistanceUnits": "?",
    "Modality": "MET_MOD_CT",
    "SequenceID": "0 0 0",
    "ElementMin": "-5",
    "ElementMax": "18",
    "ElementNBits": "16",
    "ElementNumberOfChannels": "1",
    "ElementToIntensityFunctionSlope": "1",
    "ElementToIntensityFunctionOffset": "0",
    "ElementSize": "1 1 1",  # ElementSpacing comes first
    # metadata, as SimpleITK 2.5 writes the tags of a DICOM series and the fields of a NRRD
    "0008|0005": "ISO_IR 100",
    "0010|0010": "\x1b$B;3ED\x1b(B",
    "0010|4000": "two\r\nlines\n and = more: text",
    "ITK_InputFilterName": "MetaImageIO",
    "NRRD_kinds[0]": "domain",
    "NRRD_measurement frame": "x",
    "Segment0_Name": "lesion",
    "my key: with a colon": "x",
    "long": "x" * 100_000,
}


def test_every_key_that_itk_writes_is_read(tmp_path: Path) -> None:
    plain = read_metaimage(saved(tmp_path, header() + RAMP.tobytes()))
    for name, value in ITK.items():
        image = read_metaimage(saved(tmp_path, header(**{name: value}) + RAMP.tobytes()))
        np.testing.assert_array_equal(image.array_zyx, RAMP, err_msg=name)
        np.testing.assert_array_equal(image.affine, plain.affine, err_msg=name)
    image = read_metaimage(saved(tmp_path, header(**ITK) + RAMP.tobytes()))
    np.testing.assert_array_equal(image.affine, plain.affine)


def test_flags_are_read_as_metaio_reads_them(tmp_path: Path) -> None:
    for true, false in (("True", "False"), ("T", "F"), ("true", "0"), ("1", "false")):
        flags = {"BinaryData": true, "BinaryDataByteOrderMSB": true, "CompressedData": false}
        image = read_metaimage(saved(tmp_path, header(**flags) + RAMP.astype(">i2").tobytes()))
        np.testing.assert_array_equal(image.array_zyx, RAMP)


def test_the_second_version_of_the_format_has_fields_of_its_own_for_the_place(tmp_path: Path) -> None:
    moved = {"ElementOrigin": "1 2 3", "ElementDirection": "0 1 0 0 0 1 1 0 0"}
    new = read_metaimage(saved(tmp_path, header(FileFormatVersion="1", **moved) + RAMP.tobytes()))
    assert new.origin_mm == (1, 2, 3)
    np.testing.assert_array_equal(new.direction, [[0, 0, 1], [1, 0, 0], [0, 1, 0]])
    old = read_metaimage(saved(tmp_path, header(**moved) + RAMP.tobytes()))
    assert old.origin_mm == (-10, 20, 30.5)


PACKED = zlib.compress(RAMP.tobytes())
REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no such header"),
    "another format": (b"NRRD0004\n", "no such header"),
    "no end of the header": (header(ElementDataFile=None), "ElementDataFile: expected this field at the end"),
    "a list of files": (header(ElementDataFile="LIST") + b"one.raw\n", "LOCAL.*got 'LIST'"),
    "a pattern of files": (header(ElementDataFile="a%03d.raw 1 9 1"), "LOCAL"),
    "a field twice": (header(Origin="0 0 0") + RAMP.tobytes(), "Offset: expected this field once, got it again as Or"),
    "no image": (header(ObjectType="Tube") + RAMP.tobytes(), "ObjectType: expected Image"),
    "text voxels": (header(BinaryData="False") + b"1 2 3", "BinaryData: expected True"),
    "other units": (header(DistanceUnits="cm") + RAMP.tobytes(), "DistanceUnits: expected mm"),
    "voxels after a gap": (header(HeaderSize="10") + RAMP.tobytes(), "HeaderSize"),
    "voxels at the end": (header(HeaderSize="-1") + RAMP.tobytes(), "HeaderSize"),
    "RGB": (header(ElementNumberOfChannels="3") + RAMP.tobytes(), "ElementNumberOfChannels: expected 1, got '3'"),
    "array type": (header(ElementType="MET_UCHAR_ARRAY") + RAMP.tobytes(), "ElementType: expected one of"),
    "scaled": (header(ElementToIntensityFunctionSlope="2") + RAMP.tobytes(), "Slope: expected 1"),
    "NaN slope": (header(ElementToIntensityFunctionSlope="nan") + RAMP.tobytes(), "Slope: expected finite"),
    "2-D": (header(NDims="2") + RAMP.tobytes(), "NDims: expected 3"),
    "two volumes": (
        header(NDims="4", DimSize="4 3 1 2", ElementSpacing="1 1 1 1") + RAMP.tobytes(),
        r"DimSize: .* got \(4, 3, 1, 2\)",
    ),
    "too few sizes": (header(DimSize="4 3") + RAMP.tobytes(), "DimSize: expected 3 whole numbers"),
    "endless size": (header(DimSize="4 3 " + "9" * 5000) + RAMP.tobytes(), "DimSize: expected 3 whole"),
    "zero size": (header(DimSize="4 0 2") + RAMP.tobytes(), r"at least one voxel, got \(4, 0, 2\)"),
    "negative size": (header(DimSize="4 -3 2") + RAMP.tobytes(), "at least one voxel"),
    "zero spacing": (header(ElementSpacing="1 0 1") + RAMP.tobytes(), "positive lengths"),
    "no spacing": (header(ElementSpacing=None) + RAMP.tobytes(), "ElementSize: expected such a field"),
    "NaN offset": (header(Offset="nan 0 0") + RAMP.tobytes(), "Offset: expected finite"),
    "singular": (header(TransformMatrix="1 0 0 1 0 0 0 0 1") + RAMP.tobytes(), "independent axes"),
    "long columns": (header(TransformMatrix="2 0 0 0 1 0 0 0 1") + RAMP.tobytes(), "unit vectors"),
    "no flag": (header(CompressedData="Perhaps") + RAMP.tobytes(), "True or False"),
    "truncated": (header() + RAMP.tobytes()[:-1], "truncated"),
    "bytes behind": (header() + RAMP.tobytes() + b"x", "zero padding .* other bytes"),
    "truncated and packed": (header(CompressedData="True") + PACKED[:-1], "truncated"),
    "too little packed": (header(CompressedData="True") + zlib.compress(bytes(9)), "expected 48 bytes .* got 9"),
    "too much packed": (header(CompressedData="True") + zlib.compress(RAMP.tobytes() + b"x"), "other bytes"),
    "bytes behind the stream": (header(CompressedData="True") + PACKED + b"x", "behind the zlib stream"),
    "wrong checksum": (header(CompressedData="True") + PACKED[:-1] + b"?", "wrong checksum"),
    "not packed": (header(CompressedData="True") + RAMP.tobytes(), "damaged data"),
    "packed size": (header(CompressedData="True", CompressedDataSize="9") + PACKED, "CompressedDataSize: expected"),
    "no field": (header(Offset="0 0 0\nwhatever") + RAMP.tobytes(), "another line 8"),
    "control characters": (header(Comment="\0") + RAMP.tobytes(), "control characters"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line(tmp_path: Path, name: str) -> None:
    content, message = REFUSED[name]
    path = saved(tmp_path, content)
    with pytest.raises(InputError, match=message) as caught:
        read_metaimage(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_another_file_is_refused_unseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "voxels.raw").write_bytes(RAMP.tobytes())
    path = saved(tmp_path, header(ElementDataFile="voxels.raw"))
    opened: list[Path] = []
    real = Path.open

    def watched(self: Path, *args: Any, **kwargs: Any) -> Any:
        opened.append(self)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", watched)
    with pytest.raises(InputError, match=r"got 'voxels\.raw'"):
        read_metaimage(path)
    assert opened == [path]


def test_writing_checks_its_input(tmp_path: Path) -> None:
    def refused(message: str, array: Any = RAMP, name: str = "a.mha", **changed: Any) -> None:
        arguments = {"spacing_xyz_mm": (1.0, 1.0, 1.0), **changed}
        with pytest.raises(InputError, match=message):
            write_metaimage(tmp_path / name, array, **arguments)

    refused("ending in .mha", name="a.mhd")
    refused("type that MetaImage knows", RAMP.astype(np.complex64))
    refused(r"expected shape \(Z, Y, X\)", RAMP[0])
    refused(r"expected shape \(Z, Y, X\)", RAMP[:0])
    refused("3 positive lengths", spacing_xyz_mm=(1, 0, 1))
    refused("3 positive lengths", spacing_xyz_mm=(1, np.nan, 1))
    refused("3 numbers", origin_mm=(0, 0))
    refused("finite", origin_mm=(0, 0, np.inf))
    refused(r"expected shape \(3, 3\)", direction=np.eye(4))
    refused("unit vectors", direction=2 * np.eye(3))
    refused("unit vectors", direction=np.nan * np.eye(3))
    refused("existing folder", name="none/a.mha")
    assert not list(tmp_path.iterdir())


def test_masks_are_bytes_and_equal_masks_give_equal_files(tmp_path: Path) -> None:
    for name, mask in (("a.mha", RAMP > 3), ("b.mha", (RAMP > 3).astype(np.uint8))):
        write_metaimage(tmp_path / name, mask, spacing_xyz_mm=(1, 1, 1))
    assert read_metaimage(tmp_path / "a.mha").array_zyx.dtype == np.uint8
    assert (tmp_path / "a.mha").read_bytes() == (tmp_path / "b.mha").read_bytes()
