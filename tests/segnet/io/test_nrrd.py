"""NRRD: the ways to say where a volume lies, and each refusal."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from segnet.errors import InputError
from segnet.io.nrrd import read_nrrd
from segnet.io.volumes import read_image, read_mask

HEADER = {
    "type": "short",
    "dimension": "3",
    "space": "left-posterior-superior",
    "sizes": "4 3 2",
    "space directions": "(0.5,0,0) (0,0.75,0) (0,0,2)",
    "kinds": "domain domain domain",
    "endian": "little",
    "encoding": "raw",
    "space origin": "(-10,20,30.5)",
}
RAMP = np.arange(24, dtype="<i2").reshape(4, 3, 2, order="F") - 5  # (X, Y, Z)
RAW = RAMP.tobytes(order="F")
AFFINE = np.array([[-0.5, 0, 0, 10], [0, -0.75, 0, -20], [0, 0, 2, 30.5], [0, 0, 0, 1]])


def header(magic: str = "NRRD0004", **changed: str | None) -> bytes:
    """The header of RAMP with fields changed (`_` for a space), added or, by None, left out."""
    fields = {**HEADER, **{name.replace("_", " "): value for name, value in changed.items()}}
    lines = [magic, "# a comment", *(f"{k}: {v}" for k, v in fields.items() if v is not None)]
    return ("\n".join([*lines, "a user's key:=its value"]) + "\n\n").encode()


def saved(folder: Path, content: bytes) -> Path:
    path = folder / "a.nrrd"
    path.write_bytes(content)
    return path


FOUR = "none (0.5,0,0) (0,0.75,0) (0,0,2)"
SAME: dict[str, bytes] = {
    "as it is": header() + RAW,
    "padded": header() + RAW + bytes(100),
    "gzip": header(encoding="gzip") + gzip.compress(RAW),
    "gz": header(encoding="gz") + gzip.compress(RAW),
    "big endian": header(endian="big") + RAMP.astype(">i2").tobytes(order="F"),
    "type by another name": header(type="int16_t") + RAW,
    "units": header(space_units='"mm" "mm" "mm"') + RAW,
    "LPS": header(space="LPS") + RAW,
    "RAS": header(space="RAS", space_directions="(-0.5,0,0) (0,-0.75,0) (0,0,2)", space_origin="(10,-20,30.5)") + RAW,
    "LAS": header(
        space="left-anterior-superior", space_directions="(0.5,0,0) (0,-0.75,0) (0,0,2)", space_origin="(-10,-20,30.5)"
    )
    + RAW,
    "no space": header(space=None, space_dimension="3") + RAW,
    "first axis of 1": header(dimension="4", sizes="1 4 3 2", kinds="list domain domain domain", space_directions=FOUR)
    + RAW,
    "last axis of 1": header(
        dimension="4", sizes="4 3 2 1", kinds="domain domain domain none", space_directions=FOUR[5:] + " none"
    )
    + RAW,
    "first axis of 1, of NaN": header(
        dimension="4",
        sizes="1 4 3 2",
        kinds="list domain domain domain",
        space_directions="(nan,nan,nan) (0.5, 0, 0) (0, 0.75, 0) (0, 0, 2)",
    )
    + RAW,
    "a unit of time": header(
        dimension="4",
        sizes="4 3 2 1",
        kinds="domain domain domain time",
        units='"mm" "mm" "mm" "s"',
        space_directions=FOUR[5:] + " none",
    )
    + RAW,
    "every field of the format": header(
        content="a:=b: c",
        block_size="2",
        thicknesses="nan nan 2",
        centerings="cell cell cell",
        labels='"x" "y" "z"',
        axis_mins="0 0 nan",
        axis_maxs="4 3 2",
        min="-5",
        max="18",
        old_min="0",
        oldmax="255",
        sample_units='"HU"',
        number="24",
        line_skip="0",
        byteskip="0",
        measurement_frame="(1,0,0) (0,1,0) (0,0,1)",
    )
    + RAW,
    "keys of 3D Slicer and of DICOM": header().replace(
        b"a user's key:=its value",
        b"Segment0_ID:=Segment_1\nSegment0_Layer:=0\nSegment0_LabelValue:=1\nSegmentation_ReferenceImageExtentOffset:=0 0 0\n"
        b"Segmentation_ConversionParameters:=Collapse labelmaps|1|Merge the labelmaps: as few as possible&\n"
        b"0010|0010:=\x1b$B;3ED\x1b(B\n0010|4000:=two \\nlines\nModality:=MET_MOD_CT\nempty:=",
    )
    + RAW,
    "an old version": header("NRRD00.01") + RAW,
    "a comment with control characters": header().replace(b"# a comment", b"# \x1b") + RAW,
    "a comment in UTF-8": header().replace(b"# a comment", "# Århus".encode()) + RAW,
    "line ends of another system": header().replace(b"\n", b"\r\n") + RAW,
}


@pytest.mark.parametrize("name", SAME)
def test_ways_to_say_the_same(tmp_path: Path, name: str) -> None:
    stored = read_nrrd(saved(tmp_path, SAME[name]))
    np.testing.assert_array_equal(stored.array, RAMP)
    np.testing.assert_array_equal(stored.affine, AFFINE)
    assert stored.shape == ((4, 3, 2, 1) if name in ("last axis of 1", "a unit of time") else (4, 3, 2))


def test_spacings_alone_are_a_straight_grid_at_the_origin(tmp_path: Path) -> None:
    content = header(space=None, space_directions=None, space_origin=None, spacings="0.5 0.75 2") + RAW
    np.testing.assert_array_equal(read_nrrd(saved(tmp_path, content)).affine, np.diag([-0.5, -0.75, 2, 1]))


def test_columns_of_directions_may_turn(tmp_path: Path) -> None:
    stored = read_nrrd(saved(tmp_path, header(space="RAS", space_directions="(0,0.5,0) (0,0,0.75) (2,0,0)") + RAW))
    np.testing.assert_array_equal(stored.affine @ (1, 0, 0, 0), (0, 0.5, 0, 0))
    np.testing.assert_array_equal(stored.affine @ (0, 0, 1, 0), (2, 0, 0, 0))


@pytest.mark.parametrize(
    ("names", "dtype"),
    [
        ("signed char, int8, int8_t", "i1"),
        ("uchar, unsigned char, uint8", "u1"),
        ("ushort, uint16", "u2"),
        ("int, int32", "i4"),
        ("uint, unsigned int", "u4"),
        ("longlong, int64", "i8"),
        ("unsigned long long int, uint64_t", "u8"),
        ("float", "f4"),
        ("double", "f8"),
    ],
)
def test_types(tmp_path: Path, names: str, dtype: str) -> None:
    array = np.arange(24).astype(dtype)
    for name in names.split(", "):
        stored = read_nrrd(saved(tmp_path, header(type=name) + array.tobytes()))
        np.testing.assert_array_equal(stored.array.ravel(order="F"), array)
        assert stored.array.dtype == array.dtype


PACKED = gzip.compress(RAW)
REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no such header"),
    "another version": (header("NRRD0009") + RAW, "no such header"),
    "no empty line": (header()[:-1], "an empty line and the voxels behind it, got none"),
    "a detached header": (header(data_file="voxels.raw")[:-1], "got 'data file: voxels.raw'"),
    "another file": (header(data_file="voxels.raw") + RAW, "data file: .* got 'voxels.raw'"),
    "a list of files": (header(datafile="LIST") + b"a.raw\n", "data file: .* got 'LIST'"),
    "a field twice": (header(Type="short") + RAW, "type: expected this field once"),
    "no field": (header().replace(b"# a", b"a") + RAW, "another line 2"),
    "skipped lines": (header(line_skip="1") + RAW, "line skip: expected 0"),
    "skipped bytes": (header(byte_skip="-1") + RAW, "byte skip: expected 0"),
    "text": (header(encoding="ascii") + b"1 2 3", "encoding: expected raw or gzip"),
    "bzip2": (header(encoding="bzip2") + RAW, "encoding: expected raw or gzip"),
    "blocks": (header(type="block") + RAW, "type: expected integers"),
    "no endian": (header(endian=None) + RAW, "endian: expected such a field"),
    "2-D": (header(dimension="2", sizes="4 6") + RAW, "dimension: expected 3"),
    "RGB": (header(sizes="3 4 2", kinds="RGB-color domain domain") + RAW, "kinds: .* got 'RGB-color"),
    "vectors": (header(sizes="3 4 2", kinds="vector domain domain") + RAW, "kinds: "),
    "four channels": (
        header(dimension="4", sizes="3 4 2 1", kinds="3-color domain domain domain", space_directions=FOUR) + RAW,
        "kinds: ",
    ),
    "four volumes": (
        header(dimension="4", sizes="2 2 2 3", kinds=None, space_directions=FOUR[5:] + " none") + RAW,
        r"sizes: .* got \(2, 2, 2, 3\)",
    ),
    "zero size": (header(sizes="4 0 2") + RAW, "at least one voxel"),
    "negative size": (header(sizes="4 -3 2") + RAW, "at least one voxel"),
    "too large": (header(sizes="32000 32000 32000") + RAW, "at most 1073741824 voxels"),
    "unknown space": (header(space="scanner-xyz") + RAW, "space: expected left-posterior"),
    "metres": (header(space_units='"m" "m" "m"') + RAW, "space units: expected mm"),
    "no grid": (header(space_directions=None) + RAW, "spacings: expected such a field"),
    "two grids": (header(spacings="1 1 1") + RAW, "no spacings beside space directions"),
    "NaN direction": (header(space_directions="(nan,0,0) (0,1,0) (0,0,1)") + RAW, "finite numbers"),
    "short vector": (header(space_directions="(1,0) (0,1,0) (0,0,1)") + RAW, "expected 3 numbers"),
    "two vectors": (header(space_directions="(1,0,0) (0,1,0)") + RAW, "a vector of 3 numbers"),
    "no vector": (header(space_directions="(1,0,0) (0,1,0) none") + RAW, "a vector of 3 numbers"),
    "singular": (header(space_directions="(1,0,0) (1,0,0) (0,0,1)") + RAW, "independent axes"),
    "NaN origin": (header(space_origin="(nan,0,0)") + RAW, "space origin: expected finite"),
    "zero spacing": (header(space_directions=None, spacings="1 0 1") + RAW, "positive lengths"),
    "position by axis": (
        header(space_directions=None, space_origin=None, spacings="1 1 1", axis_mins="5 0 0") + RAW,
        "axis mins",
    ),
    "truncated": (header() + RAW[:-1], "truncated"),
    "bytes behind": (header() + RAW + b"x", "other bytes"),
    "truncated and packed": (header(encoding="gzip") + PACKED[:-1], "truncated"),
    "too little packed": (header(encoding="gzip") + gzip.compress(RAW[:-1]), "expected 48 bytes .* got 47"),
    "too much packed": (header(encoding="gzip") + gzip.compress(RAW + b"x"), "other bytes"),
    "wrong checksum": (header(encoding="gzip") + PACKED[:-8] + b"?" + PACKED[-7:], "wrong checksum"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line(tmp_path: Path, name: str) -> None:
    content, message = REFUSED[name]
    path = saved(tmp_path, content)
    with pytest.raises(InputError, match=message) as caught:
        read_nrrd(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_mask_is_written_on_the_grid_of_a_nrrd(tmp_path: Path) -> None:
    from segnet.io.nifti import write_mask

    image = read_image(saved(tmp_path, SAME["RAS"]))
    mask = image.array == RAMP[1, 2, 1]
    write_mask(tmp_path / "m.nii.gz", mask, image)
    out = nib.load(tmp_path / "m.nii.gz")
    np.testing.assert_array_equal(np.argwhere(out.get_fdata()), [[1, 2, 1]])
    np.testing.assert_array_equal(out.affine, AFFINE)
    np.testing.assert_array_equal(read_mask(tmp_path / "m.nii.gz", like=image).array, mask)


def test_real_pairs_are_read(shared_data: Path) -> None:
    for name, shape, spacing in (("brain1", (256, 256, 25), (0.78125, 0.78125, 6.5)), ("breast1", (45, 120, 21), None)):
        image = read_image(shared_data / "mri" / f"{name}_image.nrrd")
        mask = read_mask(shared_data / "mri" / f"{name}_label.nrrd", like=image)
        assert image.array.shape == shape
        assert mask.array.any()
        if spacing is not None:
            np.testing.assert_allclose(image.spacing_mm, spacing, rtol=1e-12)
