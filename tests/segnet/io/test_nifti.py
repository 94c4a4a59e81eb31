"""Reading and writing of NIfTI: orientations, round trips, and each refusal."""

from __future__ import annotations

import gzip
import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segnet.errors import InputError
from segnet.io.nifti import load, write_like, write_mask
from segnet.io.volumes import Volume, read_image, read_mask

SHAPE = (5, 6, 7)
# Byte positions in a NIfTI-1 header.
DIM, DATATYPE, BITPIX, PIXDIM, VOX_OFFSET, SCL_SLOPE, SCL_INTER, XYZT_UNITS, SROW_X = (
    40,
    70,
    72,
    76,
    108,
    112,
    116,
    123,
    280,
)


def nifti_bytes(array: np.ndarray, affine: np.ndarray | None = None, cls: Any = nib.Nifti1Image) -> bytes:
    return bytes(cls(array, np.diag([0.7, 0.8, 2.5, 1.0]) if affine is None else affine).to_bytes())


def patched(raw: bytes, at: int, fmt: str, *values: float) -> bytes:
    out = bytearray(raw)
    struct.pack_into("<" + fmt, out, at, *values)
    return bytes(out)


def ramp(dtype: Any = np.int16) -> np.ndarray:
    return (np.arange(np.prod(SHAPE)).reshape(SHAPE) - 100).astype(dtype)


def blob(dtype: Any = np.uint8, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    mask = np.zeros(shape, dtype)
    mask[1:3, 2:5, 3] = 1
    return mask


def saved(path: Path, raw: bytes) -> Path:
    path.write_bytes(gzip.compress(raw, 1) if path.name.endswith(".gz") else raw)
    return path


@pytest.fixture
def image(tmp_path: Path) -> Volume:
    return read_image(saved(tmp_path / "image.nii.gz", nifti_bytes(ramp())))


def oriented(codes: str) -> np.ndarray:
    """An affine whose voxel axes point along `codes`, oblique by some degrees."""
    ornt = nib.orientations.axcodes2ornt(codes)
    affine = np.zeros((4, 4))
    for column, (axis, flip) in enumerate(ornt):
        affine[int(axis), column] = flip * (0.7, 0.8, 2.5)[column]
    angle = np.radians(8)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine[:3, :3] = turn @ affine[:3, :3]
    affine[:, 3] = (-31.0, 12.5, 400.0, 1.0)
    return affine


@pytest.mark.parametrize("codes", ["RAS", "LPS", "LAS", "PIR", "SAL", "ASR"])
@pytest.mark.parametrize("cls", [nib.Nifti1Image, nib.Nifti2Image])
def test_canonical_orientation_is_nibabels(tmp_path: Path, codes: str, cls: Any) -> None:
    path = saved(tmp_path / "a.nii.gz", nifti_bytes(ramp(), oriented(codes), cls))
    volume = read_image(path)
    expected = nib.as_closest_canonical(nib.load(path))
    np.testing.assert_array_equal(volume.array, expected.get_fdata())
    np.testing.assert_allclose(volume.affine, expected.affine, rtol=0, atol=1e-9)
    np.testing.assert_allclose(volume.spacing_mm, expected.header.get_zooms()[:3], rtol=1e-6)
    assert volume.spacing_zyx_mm == volume.spacing_mm[::-1]
    assert volume.array.dtype == np.float32
    assert volume.array_zyx.flags.c_contiguous
    assert nib.aff2axcodes(volume.affine) == ("R", "A", "S")


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR"])
@pytest.mark.parametrize("shape", [SHAPE, (*SHAPE, 1)])
def test_a_written_mask_lies_on_the_source(tmp_path: Path, codes: str, shape: tuple[int, ...]) -> None:
    source = nib.Nifti1Image(ramp().reshape(shape), oriented(codes))
    source.header["descrip"] = b"as acquired"
    source.header["cal_max"] = 400
    source.header.set_xyzt_units("mm")
    source.set_qform(source.affine, 1)
    source.set_sform(source.affine, 2)
    source.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"name of the patient"))
    nib.save(source, tmp_path / "image.nii.gz")
    volume = read_image(tmp_path / "image.nii.gz")
    where = np.argwhere(volume.array == ramp()[1, 2, 3])[0]
    mask = np.zeros(volume.array.shape, bool)
    mask[tuple(where)] = True
    write_mask(tmp_path / "mask.nii.gz", mask, volume)

    out, original = nib.load(tmp_path / "mask.nii.gz"), nib.load(tmp_path / "image.nii.gz")
    assert out.shape == shape
    assert out.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.argwhere(out.get_fdata())[:, :3], [[1, 2, 3]])
    for field in (
        "pixdim",
        "qform_code",
        "sform_code",
        "srow_x",
        "srow_y",
        "srow_z",
        "quatern_b",
        "quatern_c",
        "quatern_d",
        "qoffset_x",
        "qoffset_y",
        "qoffset_z",
        "xyzt_units",
        "descrip",
    ):
        np.testing.assert_array_equal(out.header[field], original.header[field], err_msg=field)
    assert out.header["cal_max"] == 0
    assert not out.header.extensions
    raw = gzip.decompress((tmp_path / "mask.nii.gz").read_bytes())
    assert struct.unpack_from("<2f", raw, SCL_SLOPE) == (1.0, 0.0)
    again = read_mask(tmp_path / "mask.nii.gz", like=volume)
    np.testing.assert_array_equal(again.array, mask)


@given(st.permutations(range(3)), st.tuples(*[st.sampled_from((-1, 1))] * 3), st.integers(0, 2**32 - 1))
def test_write_then_read_is_the_identity(
    tmp_path_factory: pytest.TempPathFactory, axes: list[int], flips: tuple[int, int, int], seed: int
) -> None:
    folder = tmp_path_factory.mktemp("round")
    affine = np.eye(4)
    affine[:3, :3] = 0
    for column, (axis, flip) in enumerate(zip(axes, flips, strict=True)):
        affine[axis, column] = flip * (column + 0.5)
    volume = read_image(saved(folder / "a.nii", nifti_bytes(ramp(), affine)))
    probability = np.random.default_rng(seed).random(volume.array.shape, np.float32)
    write_like(folder / "p.nii", probability, volume, np.float32)
    again = read_image(folder / "p.nii")
    np.testing.assert_array_equal(again.array, probability)
    np.testing.assert_array_equal(again.affine, volume.affine)


def test_big_endian_scaled_and_nifti2_files_are_read(tmp_path: Path) -> None:
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int16)
    raw = nib.Nifti1Image(ramp(), np.eye(4), header).to_bytes()
    assert raw[:4] == struct.pack(">i", 348)
    big = read_image(saved(tmp_path / "big.nii", raw))
    np.testing.assert_array_equal(big.array, ramp())
    write_mask(tmp_path / "m.nii", blob(), big)
    np.testing.assert_array_equal(read_mask(tmp_path / "m.nii", like=big).array, blob())

    scaled = patched(patched(nifti_bytes(ramp()), SCL_SLOPE, "f", 0.5), SCL_INTER, "f", -1024)
    np.testing.assert_array_equal(read_image(saved(tmp_path / "s.nii", scaled)).array, ramp() * 0.5 - 1024)
    unscaled = patched(scaled, SCL_SLOPE, "f", 0)  # 0 means: not scaled
    np.testing.assert_array_equal(read_image(saved(tmp_path / "u.nii", unscaled)).array, ramp())


@pytest.mark.parametrize(
    ("at", "value", "warning"),
    [
        (PIXDIM, 0, None),
        (PIXDIM, 2, "qfac (pixdim[0]) is 2.0, read as 1"),
        (PIXDIM, np.nan, "qfac (pixdim[0]) is nan, read as 1"),
        (PIXDIM + 4, -0.7, "pixdim holds negative lengths"),
        (VOX_OFFSET, 0, None),
        (VOX_OFFSET, 100, None),
        (BITPIX, 0, None),
    ],
)
def test_fields_that_the_standard_or_nibabel_repairs(
    tmp_path: Path, at: int, value: float, warning: str | None
) -> None:
    sound = read_image(saved(tmp_path / "sound.nii", qform_alone()))
    volume = read_image(saved(tmp_path / "a.nii", patched(qform_alone(), at, "h" if at == BITPIX else "f", value)))
    np.testing.assert_array_equal(volume.array, sound.array)
    np.testing.assert_array_equal(volume.affine, sound.affine)
    assert [text.startswith(warning or " ") for text in volume.warnings] == [True] * (warning is not None)
    write_mask(tmp_path / "m.nii.gz", volume.array > 0, volume)
    np.testing.assert_array_equal(nib.load(tmp_path / "m.nii.gz").affine, nib.load(tmp_path / "sound.nii").affine)


def test_an_sform_makes_the_lengths_of_a_qform_matter_not(tmp_path: Path) -> None:
    raw = patched(patched(nifti_bytes(ramp(), oriented("LAS")), PIXDIM, "f", -3), PIXDIM + 4, "f", -1)
    volume = read_image(saved(tmp_path / "a.nii", raw))
    np.testing.assert_array_equal(
        volume.affine, read_image(saved(tmp_path / "b.nii", nifti_bytes(ramp(), oriented("LAS")))).affine
    )
    assert volume.warnings == ()


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4"])
@pytest.mark.parametrize("low", [0.0, -1.0])
def test_a_float_mask_under_an_integer_header_is_a_mask(tmp_path: Path, dtype: str, low: float) -> None:
    """nibabel scales it over the whole range of the type; slope and intercept are rounded to float32."""
    header = nib.Nifti1Header()
    header.set_data_dtype(dtype)
    mask = blob(np.float64)
    image = nib.Nifti1Image(mask, np.eye(4), header)
    nib.save(image, tmp_path / "m.nii.gz")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.nii.gz").array, mask)
    image = nib.Nifti1Image(np.where(mask == 0, low, 1.0), np.eye(4), header)
    nib.save(image, tmp_path / "m.nii.gz")
    if low:
        with pytest.raises(InputError, match="expected only 0 and 1, got also -1 in"):
            read_mask(tmp_path / "m.nii.gz")


def test_values_of_a_mask_are_shown_with_the_digits_that_differ(tmp_path: Path) -> None:
    for dtype, value, shown in (
        (np.float32, np.nextafter(np.float32(1), np.float32(2)), r"1\.0000001 in"),
        (np.float64, 1 + 2**-50, r"1\.0000000000000009 in"),
        (np.int16, 2, "2 in"),
    ):
        array = blob(dtype)
        array[0, 0, 0] = value
        with pytest.raises(InputError, match=f"got also {shown} 1 voxels"):
            read_mask(saved(tmp_path / "m.nii", nifti_bytes(array)))
    stepped = patched(patched(nifti_bytes(blob(np.int16) * 2), SCL_SLOPE, "f", 0.4999), SCL_INTER, "f", 0)
    with pytest.raises(InputError, match=r"got also 0\.99980"):
        read_mask(saved(tmp_path / "m.nii", stepped))


def test_zero_padding_and_several_gzip_members_are_no_fault(tmp_path: Path) -> None:
    raw = nifti_bytes(ramp())
    files = {
        "behind_gzip.nii.gz": gzip.compress(raw) + bytes(1000),
        "behind_voxels.nii.gz": gzip.compress(raw + bytes(2**20)),
        "plain.nii": raw + bytes(7),
        "members.nii.gz": gzip.compress(raw[:100]) + gzip.compress(raw[100:400]) + gzip.compress(raw[400:]),
        "empty_member.nii.gz": gzip.compress(raw) + gzip.compress(b""),
        "no_gzip_in_spite_of_the_name.nii.gz": raw,
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        np.testing.assert_array_equal(read_image(tmp_path / name).array, ramp(), err_msg=name)


def test_other_trailing_bytes_are_refused(tmp_path: Path) -> None:
    raw = nifti_bytes(ramp())
    files = {
        "behind_gzip.nii.gz": (gzip.compress(raw) + bytes(1000) + b"garbage", "behind the gzip stream, got other"),
        "behind_voxels.nii.gz": (gzip.compress(raw + b"garbage"), "behind the voxels .* got other"),
        "member.nii.gz": (gzip.compress(raw) + gzip.compress(b"garbage"), "behind the voxels .* got other"),
        "damaged_member.nii.gz": (gzip.compress(raw) + b"\x1f\x8bgarbage", "damaged data"),
        "too_much.nii": (raw + bytes(2**20 + 1), "over 1048576 more"),
        "plain.nii": (raw + b"garbage", "behind the voxels .* got other"),
        "plain_after_zeros.nii": (raw + bytes(2**20 - 1) + b"!", "behind the voxels .* got other"),
    }
    for name, (content, message) in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=message):
            read_image(tmp_path / name)


def affine_with(value: float) -> np.ndarray:
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[0, 1] = value
    return affine


def with_voxel(value: float) -> bytes:
    array = ramp(np.float32)
    array[1, 2, 3] = value
    return nifti_bytes(array)


def qform_alone() -> bytes:
    """A file with a turned qform and no sform."""
    image = nib.Nifti1Image(ramp(), None)
    image.set_qform(oriented("PIR"), 1)
    image.set_sform(None, 0)
    return bytes(image.to_bytes())


RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "not a NIfTI": (lambda: b"NRRD0004\n" * 100, "no such header"),
    "empty": (lambda: b"", "no such header"),
    "truncated": (lambda: nifti_bytes(ramp())[:-1], "truncated"),
    "truncated header": (lambda: nifti_bytes(ramp())[:200], "no such header"),
    "1-D": (lambda: patched(nifti_bytes(ramp()), DIM, "h", 1), "1-D shape"),
    "2-D": (lambda: nifti_bytes(np.zeros((5, 6), np.int16)), "2-D shape"),
    "4-D": (lambda: nifti_bytes(np.zeros((5, 6, 7, 2), np.int16)), r"\(5, 6, 7, 2\)"),
    "8-D": (lambda: patched(nifti_bytes(ramp()), DIM, "h", 8), "got 8"),
    "zero axis": (lambda: patched(nifti_bytes(ramp()), DIM + 4, "h", 0), r"\(5, 0, 7\)"),
    "negative axis": (lambda: patched(nifti_bytes(ramp()), DIM + 4, "h", -6), r"\(5, -6, 7\)"),
    "too large": (lambda: patched(nifti_bytes(ramp()), DIM + 2, "3h", 32767, 32767, 2), "at most 1073741824"),
    "NaN voxel": (lambda: with_voxel(np.nan), r"got 1 NaN .* \(1, 2, 3\)"),
    "infinite voxel": (lambda: with_voxel(np.inf), "NaN or infinite"),
    "beyond float32": (lambda: nifti_bytes(ramp(np.float64) * 1e300), "NaN or infinite"),
    "NaN affine": (lambda: patched(nifti_bytes(ramp(), np.eye(4)), SROW_X, "f", np.nan), "finite numbers"),
    "inf affine": (lambda: patched(nifti_bytes(ramp(), np.eye(4)), SROW_X, "f", np.inf), "finite number"),
    "zero affine": (lambda: patched(nifti_bytes(ramp(), np.eye(4)), SROW_X, "f", 0.0), "independent axes"),
    "singular affine": (
        lambda: patched(nifti_bytes(ramp(), affine_with(1.0)), SROW_X + 16, "4f", 1, 1, 0, 0),
        "independent axes",
    ),
    "NaN slope": (lambda: patched(nifti_bytes(ramp()), SCL_SLOPE, "f", np.nan), "scl_slope"),
    "infinite slope": (lambda: patched(nifti_bytes(ramp()), SCL_SLOPE, "f", -np.inf), "scl_slope"),
    "NaN intercept": (lambda: patched(nifti_bytes(ramp()), SCL_INTER, "f", np.nan), "scl_inter"),
    "complex": (lambda: nifti_bytes(ramp(np.complex64)), "complex64"),
    "RGB": (lambda: nifti_bytes(np.zeros(SHAPE, RGB)), "RGB"),
    "unknown type": (lambda: patched(nifti_bytes(ramp()), DATATYPE, "h", 77), "unknown code 77"),
    "negative offset": (lambda: patched(nifti_bytes(ramp()), VOX_OFFSET, "f", -1), "vox_offset"),
    "qfac of no sign": (lambda: patched(qform_alone(), PIXDIM, "f", -2), r"pixdim\[0\]: expected 1 or -1, got -2"),
    "NaN offset": (lambda: patched(nifti_bytes(ramp()), VOX_OFFSET, "f", np.nan), "vox_offset"),
    "huge offset": (lambda: patched(nifti_bytes(ramp()), VOX_OFFSET, "f", 1e9), "vox_offset"),
    "metres": (lambda: patched(nifti_bytes(ramp()), XYZT_UNITS, "B", 1), "metres"),
    "zip": (lambda: b"PK\x03\x04" + bytes(500), "unzip"),
}


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line(tmp_path: Path, name: str, ending: str) -> None:
    make, message = REFUSED[name]
    if name == "zip" and ending == ".nii.gz":
        message = "no such header"  # a zip inside of a gzip
    path = saved(tmp_path / ("a" + ending), make())
    with pytest.raises(InputError, match=message) as caught:
        (load if name in ("not a NIfTI", "zip") else read_image)(
            path
        )  # others read these two, and refuse them otherwise
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load(tmp_path / "none.nii.gz")
    with pytest.raises(InputError, match="no file"):
        load(tmp_path)


def test_every_truncation_of_a_gzip_stream_is_found(tmp_path: Path) -> None:
    whole = gzip.compress(nifti_bytes(ramp()))
    path = tmp_path / "a.nii.gz"
    for n_bytes in range(2, len(whole), 7):
        path.write_bytes(whole[:n_bytes])
        with pytest.raises(InputError, match=r"truncated|no such header"):
            read_image(path)
    path.write_bytes(whole)
    read_image(path)


@pytest.mark.parametrize("position", range(1, 9))
def test_a_wrong_gzip_trailer_is_found(tmp_path: Path, position: int) -> None:
    whole = bytearray(gzip.compress(nifti_bytes(ramp())))
    whole[-position] ^= 1  # four bytes of checksum, four of length
    (tmp_path / "a.nii.gz").write_bytes(whole)
    with pytest.raises(InputError, match="checksum"):
        read_image(tmp_path / "a.nii.gz")


def test_a_gzip_bomb_is_not_inflated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.nii.gz"
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(nifti_bytes(ramp()))
        for _ in range(64):
            stream.write(bytes(2**20))
    inflated = count_inflated(monkeypatch)
    with pytest.raises(InputError, match="more"):
        read_image(path)
    assert sum(inflated) < 2**22

    header = patched(nifti_bytes(ramp()), DIM + 2, "3h", 30000, 30000, 3)
    inflated.clear()
    with pytest.raises(InputError, match="at most 1000 voxels"):
        read_image(saved(path, header + bytes(2**20)), max_voxels=1000)
    assert sum(inflated) <= 540


def count_inflated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of what zlib gives out from here on."""
    import zlib

    from segnet.io import streams

    sizes: list[int] = []
    real = zlib.decompressobj

    class Counting:
        def __init__(self, wbits: int) -> None:
            self._own = real(wbits=wbits)

        def decompress(self, data: bytes, limit: int) -> bytes:
            out = self._own.decompress(data, limit)
            sizes.append(len(out))
            return out

        def __getattr__(self, name: str) -> Any:
            return getattr(self._own, name)

    class Zlib:
        error = zlib.error
        decompressobj = Counting

    monkeypatch.setattr(streams, "zlib", Zlib)
    return sizes


def test_float_masks_and_a_trailing_axis_are_read(tmp_path: Path, image: Volume) -> None:
    for name, array in {
        "float": blob(np.float32),
        "double": blob(np.float64),
        "signed": blob(np.int16),
        "trailing": blob()[..., None],
    }.items():
        mask = read_mask(saved(tmp_path / f"{name}.nii.gz", nifti_bytes(array)), like=image)
        assert mask.array.dtype == np.uint8
        np.testing.assert_array_equal(mask.array, blob())


def test_a_mask_in_another_orientation_matches_its_image(tmp_path: Path, image: Volume) -> None:
    turned = nib.load(image.path)
    flipped = nib.Nifti1Image(blob(), turned.affine).as_reoriented(np.array([[2, 1], [0, -1], [1, 1]]))
    assert flipped.shape != image.array.shape
    nib.save(flipped, tmp_path / "m.nii.gz")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.nii.gz", like=image).array, blob())


def test_bad_masks_are_refused(tmp_path: Path, image: Volume) -> None:
    def check(message: str, array: np.ndarray, affine: np.ndarray | None = None) -> None:
        with pytest.raises(InputError, match=message) as caught:
            read_mask(saved(tmp_path / "m.nii.gz", nifti_bytes(array, affine)), like=image)
        assert "\n" not in str(caught.value)

    labels = blob()
    labels[0, 0, :3] = (2, 3, 2)
    check("got also 2, 3 in 3 voxels", labels)
    check("got also 0.5 in", blob(np.float32) * 0.5)
    check("got also -1 in", -blob(np.int16))
    check("NaN", np.where(blob(), np.nan, 0))
    check(r"expected shape \(5, 6, 7\).*got \(5, 6, 8\)", blob(shape=(5, 6, 8)))
    # The corner farthest from the origin is 6 voxels away along z: 6 * 0.0002 mm is above 0.001.
    check("0.0012 mm", blob(), np.diag([0.7, 0.8, 2.5002, 1.0]))
    near = np.diag([0.7, 0.8, 2.5001, 1.0])  # 0.0006 mm
    read_mask(saved(tmp_path / "near.nii.gz", nifti_bytes(blob(), near)), like=image)
    moved = np.diag([0.7, 0.8, 2.5, 1.0])
    moved[1, 3] = 3
    check("3 mm", blob(), moved)


def test_writing_checks_its_input(tmp_path: Path, image: Volume) -> None:
    out = tmp_path / "out.nii.gz"
    with pytest.raises(InputError, match="expected shape"):
        write_mask(out, blob().T, image)
    with pytest.raises(InputError, match="only 0 and 1"):
        write_mask(out, blob() * 2, image)
    with pytest.raises(InputError, match="finite"):
        write_like(out, np.full(SHAPE, np.nan), image, np.float32)
    with pytest.raises(InputError, match="holds exactly"):
        write_like(out, np.full(SHAPE, 0.5), image, np.uint8)
    with pytest.raises(InputError, match="real type"):
        write_like(out, blob(), image, np.complex64)
    with pytest.raises(InputError, match="ending"):
        write_mask(tmp_path / "out.png", blob(), image)
    with pytest.raises(InputError, match="existing folder"):
        write_mask(tmp_path / "none" / "out.nii.gz", blob(), image)
    assert [p.name for p in tmp_path.iterdir()] == ["image.nii.gz"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, image: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.nii.gz"
    write_mask(out, blob(), image)
    before = out.read_bytes()

    def full_disk(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nib.Nifti1Image, "to_stream", full_disk)
    with pytest.raises(InputError, match="No space left"):
        write_mask(out, 1 - blob(), image)
    assert out.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["image.nii.gz", "out.nii.gz"]


def test_equal_masks_give_equal_files(tmp_path: Path, image: Volume) -> None:
    write_mask(tmp_path / "a.nii.gz", blob(), image)
    write_mask(tmp_path / "b.nii.gz", blob(bool), image)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    with gzip.open(io.BytesIO((tmp_path / "a.nii.gz").read_bytes())) as stream:
        assert stream.read(4) == struct.pack("<i", 348)


def test_real_files_survive_the_round_trip(tmp_path: Path, shared_data: Path) -> None:
    images = sorted((shared_data / "lidc" / "image").glob("*.nii.gz"))[:3]
    pairs = [(p, shared_data / "lidc" / "nodule_mask" / p.name) for p in images]
    pairs.append(
        (
            shared_data / "sarcoma" / "STS_002" / "CT_image.nii.gz",
            shared_data / "sarcoma" / "STS_002" / "CT_mask.nii.gz",
        )
    )
    for image_path, mask_path in pairs:
        volume = read_image(image_path)
        mask = read_mask(mask_path, like=volume)
        write_mask(tmp_path / "m.nii.gz", mask.array, volume)
        ours, theirs = nib.load(tmp_path / "m.nii.gz"), nib.load(mask_path)
        np.testing.assert_array_equal(np.asarray(ours.dataobj), np.asarray(theirs.dataobj))
        np.testing.assert_array_equal(ours.affine, nib.load(image_path).affine)
