"""One volume in every format is one volume, and a mask of it lands on each file's own grid."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dicom_series import write_series
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from segnet.errors import InputError
from segnet.io.metaimage import write_metaimage
from segnet.io.nifti import write_mask
from segnet.io.volume import header_of, spacing_of
from segnet.io.volumes import is_dicom_series, read_image, read_mask

SHAPE = (6, 5, 4)  # (X, Y, Z)
LPS = np.array([[-0.5, 0, 0, 10], [0, -0.5, 0, -20], [0, 0, 2.0, 30], [0, 0, 0, 1]])
"""Affine to RAS of a grid whose axes point left, posterior and superior."""
ARRAY = (np.arange(np.prod(SHAPE)).reshape(SHAPE) - 40).astype(np.int16)


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def nifti_bytes(array: np.ndarray = ARRAY) -> bytes:
    return bytes(nib.Nifti1Image(array, LPS).to_bytes())


def write_all(folder: Path, array: np.ndarray = ARRAY) -> list[Path]:
    """The same volume in every format, the first a plain NIfTI."""
    raw = nifti_bytes(array)
    contents = {
        "a.nii": raw,
        "a.nii.gz": gzip.compress(raw),
        "four.nii.gz": gzip.compress(nifti_bytes(array[..., None])),
        "a.nii.gz.zip": zipped({"a.nii.gz": gzip.compress(raw), "__MACOSX/._a.nii.gz": b"of the system"}),
        "stored.nii.zip": zipped({"folder/a.nii": raw}, zipfile.ZIP_STORED),
        "name_of_another_format.nii.gz": (
            b"NRRD0004\ntype: short\ndimension: 3\nspace: LPS\nsizes: 6 5 4\nendian: little\nencoding: raw\n"
            b"space directions: (0.5,0,0) (0,0.5,0) (0,0,2)\nspace origin: (-10,20,30)\n\n"
            + array.astype("<i2").tobytes(order="F")
        ),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    write_metaimage(folder / "a.mha", array.T, spacing_xyz_mm=(0.5, 0.5, 2), origin_mm=(-10, 20, 30))
    write_series(folder / "series", array.T, spacing_xyz_mm=(0.5, 0.5, 2), origin_mm=(-10, 20, 30))
    return [folder / name for name in (*contents, "a.mha", "series")]


def test_every_format_gives_the_same_volume_and_takes_a_mask_back(tmp_path: Path) -> None:
    first, *others = [read_image(path) for path in write_all(tmp_path)]
    np.testing.assert_array_equal(first.array, ARRAY[::-1, ::-1])
    for volume in [first, *others]:
        name = volume.path.name
        np.testing.assert_array_equal(volume.array, first.array, err_msg=name)
        np.testing.assert_array_equal(volume.affine, first.affine, err_msg=name)
        assert volume.spacing_mm == (0.5, 0.5, 2.0)
        assert volume.array.dtype == np.float32
        assert volume.array_zyx.flags.c_contiguous
        mask = volume.array == ARRAY[1, 2, 3]
        write_mask(tmp_path / "mask.nii.gz", mask, volume)
        written = nib.load(tmp_path / "mask.nii.gz")
        np.testing.assert_array_equal(np.argwhere(written.get_fdata())[:, :3], [[1, 2, 3]], err_msg=name)
        np.testing.assert_array_equal(written.affine, LPS, err_msg=name)
        assert written.shape == (*SHAPE, 1) if name.startswith("four") else SHAPE
        np.testing.assert_array_equal(read_mask(tmp_path / "mask.nii.gz", like=volume).array, mask)


def test_masks_of_every_format_are_read(tmp_path: Path) -> None:
    blob = (ARRAY > 30).astype(np.int16)
    first, *others = write_all(tmp_path, blob)
    image = read_image(first)
    for path in others:
        np.testing.assert_array_equal(read_mask(path, like=image).array, blob[::-1, ::-1], err_msg=path.name)
    for dtype in (np.float32, np.uint8):
        write_metaimage(tmp_path / "b.mha", blob.T.astype(dtype), spacing_xyz_mm=(0.5, 0.5, 2), origin_mm=(-10, 20, 30))
        np.testing.assert_array_equal(read_mask(tmp_path / "b.mha", like=image).array, blob[::-1, ::-1])
        four = nib.Nifti1Image(blob[..., None].astype(dtype), LPS)
        nib.save(four, tmp_path / "four.nii.gz")
        np.testing.assert_array_equal(read_mask(tmp_path / "four.nii.gz", like=image).array, blob[::-1, ::-1])
    write_metaimage(tmp_path / "b.mha", 2 * blob.T, spacing_xyz_mm=(0.5, 0.5, 2))
    with pytest.raises(InputError, match="only 0 and 1, got also 2"):
        read_mask(tmp_path / "b.mha")


def test_a_header_holds_the_grid_as_exactly_as_needed() -> None:
    near = header_of(SHAPE, LPS)
    assert (near["sizeof_hdr"], near["qform_code"], near["sform_code"]) == (348, 1, 1)
    np.testing.assert_array_equal(near.get_best_affine(), LPS)
    far = LPS.copy()
    far[0, 3] = 1e5 + 0.123  # float32 has 1/128 mm there
    np.testing.assert_array_equal(header_of(SHAPE, far).get_best_affine(), far)
    assert header_of((256, 256, 300 * 128), LPS)["sizeof_hdr"] == 540
    sheared = LPS.copy()
    sheared[1, 2] = 0.5
    tilted = header_of((*SHAPE, 1), sheared)
    assert tilted["qform_code"] == 0
    np.testing.assert_allclose(tilted.get_zooms(), (0.5, 0.5, np.sqrt(4.25), 1), rtol=1e-6)
    np.testing.assert_array_equal(tilted.get_best_affine(), sheared)


@given(sheared=hnp.arrays(np.float64, (3, 3), elements=st.floats(-2, 2)), turn=st.sampled_from((0, 1, 2)))
def test_spacings_of_any_grid_multiply_to_the_volume_of_a_voxel(sheared: np.ndarray, turn: int) -> None:
    affine = np.eye(4)
    affine[:3, :3] = np.roll(np.diag([0.7, 0.8, 2.5]), turn, axis=1) + np.tril(sheared, -1) @ np.diag([0.7, 0.8, 2.5])
    assume(abs(np.linalg.det(affine)) > 1e-2)
    assert np.prod(spacing_of(affine)) == pytest.approx(abs(np.linalg.det(affine)), rel=1e-9)


def test_slices_of_a_tilted_gantry_lie_as_far_apart_as_along_their_normal(tmp_path: Path) -> None:
    sheared = np.diag([0.75, 0.75, 3.0, 1.0])
    sheared[1, 2] = 3 * np.tan(np.radians(20))
    path = tmp_path / "tilted.nii"
    image = nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), None)  # type: ignore[no-untyped-call]
    image.set_sform(sheared, 1)  # type: ignore[no-untyped-call]
    nib.save(image, path)
    volume = read_image(path)
    assert volume.spacing_mm == pytest.approx((0.75, 0.75, 3.0), rel=1e-6)  # float32 in the file
    np.testing.assert_allclose(volume.affine, sheared, rtol=1e-6)


REFUSED: dict[str, tuple[bytes, str]] = {
    "two.nii.gz.zip": (zipped({"a.nii.gz": b"", "b.nii.gz": b""}), "got 2 files"),
    "none.nii.gz.zip": (zipped({}), "got 0 files"),
    "text.nii.gz.zip": (zipped({"a.txt": b"hello"}), "none of them named so"),
    "other.nii.zip": (zipped({"a.nii": b"hello" * 200}), "no such header"),
    "nested.nii.zip": (zipped({"a.nii": zipped({"a.nii": nifti_bytes()})}), "the zip archive"),
    "behind.nii.zip": (zipped({"a.nii": nifti_bytes()}) + b"x", "other bytes behind it"),
    "lzma.nii.zip": (zipped({"a.nii": nifti_bytes()}, zipfile.ZIP_LZMA), "compression type 14"),
    "many.nii.zip": (zipped({f"{i:060}.nii": b"" for i in range(10_000)}, zipfile.ZIP_STORED), "a list of 1"),
    "short.nii.zip": (zipped({"a.nii": nifti_bytes()})[:-30], "truncated"),
    "empty.nii": (b"", "no such header"),
    "text.nii": (b"hello" * 100, "no such header"),
    "single.dcm": (bytes(128) + b"DICM", "single DICOM file"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line(tmp_path: Path, name: str) -> None:
    content, message = REFUSED[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_image(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_member_under_a_dangerous_name_is_read_but_never_written(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "a.nii.zip").write_bytes(zipped({"../../out.nii": nifti_bytes()}))
    np.testing.assert_array_equal(read_image(inner / "a.nii.zip").array, ARRAY[::-1, ::-1])
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.nii.zip", "inner"]


def test_an_encrypted_archive_is_refused(tmp_path: Path) -> None:
    content = bytearray(zipped({"a.nii": nifti_bytes()}))
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.nii.zip").write_bytes(content)
    with pytest.raises(InputError, match="without a password"):
        read_image(tmp_path / "a.nii.zip")


def test_a_wrong_checksum_in_an_archive_is_found(tmp_path: Path) -> None:
    content = zipped({"a.nii": nifti_bytes()}, zipfile.ZIP_STORED)
    at = content.index(ARRAY.tobytes(order="F"))
    (tmp_path / "a.nii.zip").write_bytes(content[:at] + b"??" + content[at + 2 :])
    with pytest.raises(InputError, match="wrong checksum"):
        read_image(tmp_path / "a.nii.zip")


def test_missing_files_and_empty_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_image(tmp_path / "none.nii.gz")
    with pytest.raises(InputError, match="no DICOM object among 0 files"):
        read_image(tmp_path)
    assert not is_dicom_series(tmp_path)
    assert not is_dicom_series(tmp_path / "none")


def test_too_little_memory_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*args: object, **kwargs: object) -> None:
        raise MemoryError

    (tmp_path / "a.nii").write_bytes(nifti_bytes())
    monkeypatch.setattr("segnet.io.nifti.read_body", none_left)
    for read in (read_image, read_mask):
        with pytest.raises(InputError, match="fits into memory"):
            read(tmp_path / "a.nii")
