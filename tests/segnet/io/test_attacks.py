"""Files made to do harm: each is refused in one line, within 2 s, 1 GB of memory, and nothing is written.

The cases run in a few child processes whose address space ends 1 GB above what importing the readers takes.
"""

from __future__ import annotations

import gzip
import json
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dicom_series import deflated, make_series, save, write_series
from hypothesis import given, settings
from hypothesis import strategies as st

from segnet.errors import InputError
from segnet.io.metaimage import write_metaimage
from segnet.io.volumes import read_image

ROOT = Path(__file__).parents[3]
LIMIT_S = 2.0
RAMP = (np.arange(7 * 6 * 5).reshape(7, 6, 5) - 100).astype(np.int16)  # (Z, Y, X)
GB = 2**30
MB = 2**20
# Byte positions in a NIfTI-1 header.
DIM, DATATYPE, SCL_SLOPE, SROW_X = 40, 70, 112, 280

Write = Callable[[Path], object]

CHILD = """
import json, resource, sys, threading, os, time
from pathlib import Path
from segnet.io.volumes import read_image
from segnet.errors import InputError
import pydicom, pydicom.pixels.decoders
limit_s = float(sys.argv[1])
used = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize")) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
for name in sys.argv[2:]:
    watchdog = threading.Timer(10 * limit_s, os._exit, (9,))  # whatever hangs ends here
    watchdog.start()
    start = time.process_time()
    try:
        got = f"read {read_image(name).array.shape}"
    except InputError as error:
        got = f"InputError {error}"
    except BaseException as error:
        got = f"{type(error).__name__} {error}"
    elapsed_s = time.process_time() - start
    watchdog.cancel()
    print(json.dumps([name, got, elapsed_s]), flush=True)
"""


def nifti(at: int = 0, kind: str = "", *values: float) -> bytes:
    """A sound file, or one with numbers of its header changed."""
    raw = bytearray(nib.Nifti1Image(RAMP.T, np.diag([0.5, 0.75, 2.0, 1.0])).to_bytes())
    struct.pack_into("<" + kind, raw, at, *values)
    return bytes(raw)


MHA = (
    b"ObjectType = Image\nNDims = 3\nBinaryData = True\nCompressedData = False\nElementSpacing = 0.5 0.75 2\n"
    b"DimSize = 5 6 7\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
)
NRRD = (
    b"NRRD0004\ntype: short\ndimension: 3\nspace: LPS\nsizes: 5 6 7\nspace directions: (0.5,0,0) (0,0.75,0) (0,0,2)\n"
    b"endian: little\nencoding: raw\n\n"
)
VOXELS = RAMP.tobytes()


def mha(*changes: tuple[bytes, bytes], voxels: bytes = VOXELS) -> bytes:
    return _changed(MHA, changes) + voxels


def nrrd(*changes: tuple[bytes, bytes], voxels: bytes = VOXELS) -> bytes:
    return _changed(NRRD, changes) + voxels


def _changed(header: bytes, changes: tuple[tuple[bytes, bytes], ...]) -> bytes:
    for old, new in changes:
        assert old in header
        header = header.replace(old, new)
    return header


def zeros_bomb(first: bytes, n_zeros: int, wbits: int) -> bytes:
    """`first` and `n_zeros` zeros, deflated by repeating one block; a gzip, zlib or raw stream by `wbits`."""
    packer = zlib.compressobj(9, wbits=wbits)
    out = packer.compress(first) + packer.flush(zlib.Z_FULL_FLUSH)
    raw = zlib.compressobj(9, wbits=-15)
    block = raw.compress(bytes(16 * MB)) + raw.flush(zlib.Z_FULL_FLUSH)
    out += block * (n_zeros // (16 * MB))
    return out + b"\x03\0" + struct.pack("<II", 0, (n_zeros + len(first)) % 2**32)  # an empty last block


def file(content: bytes) -> Write:
    return lambda path: path.write_bytes(content)


def in_zip(content: bytes, name: str = "a.nii.gz") -> Write:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, content)

    return write


def in_zip_damaged(at: int) -> Write:
    """A stored member with one byte changed."""

    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr("a.nii", nifti())
        raw = bytearray(path.read_bytes())
        raw[at] ^= 1
        path.write_bytes(raw)

    return write


def series(change: Callable[[list], list] = lambda slices: slices) -> Write:
    return lambda folder: save(folder, change(make_series(RAMP, intercept=-1024)))


def leaning(slices: list) -> list:
    for i, one in enumerate(slices):
        one.ImagePositionPatient = [0, i, 2 * i]
    return slices


def deflated_bomb(folder: Path) -> None:
    write_series(folder, RAMP)
    for path in folder.iterdir():
        deflated(path, lambda raw: zeros_bomb(raw, 8 * GB, -15))
        break


def far(field: int) -> tuple[int, str, float, float, float]:
    return (field, "3h", 32000, 32000, 32000)


RGB = nib.Nifti1Image(np.zeros((5, 6, 7), [("R", "u1"), ("G", "u1"), ("B", "u1")]), np.eye(4)).to_bytes()
COMPLEX = nib.Nifti1Image(RAMP.T.astype(np.complex64), np.eye(4)).to_bytes()
PACKED_MHA = (b"CompressedData = False", b"CompressedData = True")
PACKED_NRRD = (b"encoding: raw", b"encoding: gzip")
HONEST = (1024, 1024, 1024)  # of float64: 8 GB
GZIP_SUM = bytearray(gzip.compress(nifti()))
GZIP_SUM[-5] ^= 1

ATTACKS: dict[str, dict[str, tuple[Write, str]]] = {
    "nifti": {
        "truncated": (file(nifti()[:-1]), "truncated"),
        "truncated gzip": (file(gzip.compress(nifti())[:-1]), "truncated"),
        "wrong CRC": (file(bytes(GZIP_SUM)), "wrong checksum"),
        "trailing bytes": (file(nifti() + b"garbage"), "other bytes"),
        "trailing bytes inside of gzip": (file(gzip.compress(nifti() + b"garbage")), "other bytes"),
        "trailing bytes behind gzip": (file(gzip.compress(nifti()) + b"garbage"), "other bytes"),
        "a second member of garbage": (file(gzip.compress(nifti()) + gzip.compress(b"garbage")), "other bytes"),
        "a second member damaged": (file(gzip.compress(nifti()) + b"\x1f\x8b" + bytes(30)), "damaged data"),
        "members without end": (file(gzip.compress(nifti()) + gzip.compress(b"") * 400_000), "65536 gzip members"),
        "gzip bomb": (lambda path: path.write_bytes(zeros_bomb(nifti(), 8 * GB, 31)), "over 1048576 more"),
        "gzip bomb with an honest header": (
            lambda path: path.write_bytes(
                zeros_bomb(
                    nifti(DIM + 2, "3h", *HONEST)[:DATATYPE] + struct.pack("<2h", 64, 64) + nifti()[74:352], 8 * GB, 31
                )
            ),
            "more than an image packs",
        ),
        "32000 cubed": (file(nifti(*far(DIM + 2))), "at most 1073741824 voxels"),
        "32000 cubed in gzip": (file(gzip.compress(nifti(*far(DIM + 2)))), "at most 1073741824 voxels"),
        "zero dimension": (file(nifti(DIM + 4, "h", 0)), "at least one voxel"),
        "negative dimension": (file(nifti(DIM + 4, "h", -6)), "at least one voxel"),
        "NaN affine": (file(nifti(SROW_X, "f", np.nan)), "finite"),
        "singular affine": (file(nifti(SROW_X, "4f", 0, 0, 0, 0)), "singular"),
        "NaN slope": (file(nifti(SCL_SLOPE, "f", np.nan)), "scl_slope"),
        "infinite slope": (file(nifti(SCL_SLOPE, "f", np.inf)), "scl_slope"),
        "RGB": (file(RGB), "RGB"),
        "complex": (file(COMPLEX), "complex64"),
    },
    "zip": {
        "truncated": (file(b"PK\x03\x04" + bytes(100)), "truncated"),
        "wrong CRC": (in_zip_damaged(600), "wrong checksum"),
        "trailing bytes": (in_zip(nifti() + b"garbage", "a.nii"), "other bytes"),
        "trailing bytes behind gzip": (in_zip(gzip.compress(nifti()) + b"garbage"), "other bytes"),
        "bomb of bombs": (lambda path: in_zip(zeros_bomb(nifti(), 8 * GB, 31))(path), "over 1048576 more"),
        "bomb": (lambda path: in_zip(nifti() + bytes(64 * MB), "a.nii")(path), "over 1048576 more"),
        "32000 cubed": (in_zip(nifti(*far(DIM + 2)), "a.nii"), "at most 1073741824 voxels"),
        "zero dimension": (in_zip(nifti(DIM + 4, "h", 0), "a.nii"), "at least one voxel"),
        "NaN affine": (in_zip(nifti(SROW_X, "f", np.nan), "a.nii"), "finite"),
        "infinite slope": (in_zip(nifti(SCL_SLOPE, "f", np.inf), "a.nii"), "scl_slope"),
        "RGB": (in_zip(RGB, "a.nii"), "RGB"),
    },
    "mha": {
        "truncated": (file(mha()[:-1]), "truncated"),
        "wrong CRC": (file(mha(PACKED_MHA, voxels=zlib.compress(VOXELS)[:-1] + b"?")), "wrong checksum"),
        "trailing bytes": (file(mha() + b"garbage"), "other bytes"),
        "trailing bytes behind zlib": (file(mha(PACKED_MHA, voxels=zlib.compress(VOXELS) + b"x")), "other bytes"),
        "bomb": (lambda path: path.write_bytes(mha(PACKED_MHA, voxels=zeros_bomb(VOXELS, 8 * GB, 15))), "more"),
        "bomb with an honest header": (
            lambda path: path.write_bytes(
                mha(
                    PACKED_MHA,
                    (b"MET_SHORT", b"MET_DOUBLE"),
                    (b"5 6 7", b"1024 1024 1024"),
                    voxels=zeros_bomb(b"", 8 * GB, 15),
                )
            ),
            "more than an image packs",
        ),
        "32000 cubed": (file(mha((b"5 6 7", b"32000 32000 32000"))), "at most 1073741824 voxels"),
        "zero dimension": (file(mha((b"5 6 7", b"5 0 7"))), "at least one voxel"),
        "negative dimension": (file(mha((b"5 6 7", b"5 -6 7"))), "at least one voxel"),
        "NaN affine": (file(mha((b"NDims", b"Offset = nan 0 0\nNDims"))), "finite"),
        "singular affine": (file(mha((b"NDims", b"Rotation = 1 0 0 1 0 0 0 0 1\nNDims"))), "singular"),
        "NaN slope": (file(mha((b"NDims", b"ElementToIntensityFunctionSlope = nan\nNDims"))), "finite"),
        "infinite slope": (file(mha((b"NDims", b"ElementToIntensityFunctionSlope = inf\nNDims"))), "finite"),
        "RGB": (file(mha((b"NDims", b"ElementNumberOfChannels = 3\nNDims"))), "ElementNumberOfChannels"),
        "array type": (file(mha((b"MET_SHORT", b"MET_SHORT_ARRAY"))), "ElementType"),
        "another file": (file(mha((b"LOCAL", b"/etc/hostname"))), "got '/etc/hostname'"),
        "a device": (file(mha((b"LOCAL", b"/dev/zero"))), "got '/dev/zero'"),
        "list of files": (file(mha((b"LOCAL", b"LIST"))), "got 'LIST'"),
        "header without end": (file(b"ObjectType = Image\n" * 1_000_000), "ElementDataFile"),
    },
    "nrrd": {
        "truncated": (file(nrrd()[:-1]), "truncated"),
        "wrong CRC": (file(nrrd(PACKED_NRRD, voxels=gzip.compress(VOXELS)[:-8] + bytes(8))), "wrong checksum"),
        "trailing bytes": (file(nrrd() + b"garbage"), "other bytes"),
        "trailing bytes behind gzip": (file(nrrd(PACKED_NRRD, voxels=gzip.compress(VOXELS) + b"x")), "other bytes"),
        "bomb": (lambda path: path.write_bytes(nrrd(PACKED_NRRD, voxels=zeros_bomb(VOXELS, 8 * GB, 31))), "more"),
        "bomb with an honest header": (
            lambda path: path.write_bytes(
                nrrd(
                    PACKED_NRRD,
                    (b"short", b"double"),
                    (b"5 6 7", b"1024 1024 1024"),
                    voxels=zeros_bomb(b"", 8 * GB, 31),
                )
            ),
            "more than an image packs",
        ),
        "32000 cubed": (file(nrrd((b"5 6 7", b"32000 32000 32000"))), "at most 1073741824 voxels"),
        "zero dimension": (file(nrrd((b"5 6 7", b"5 0 7"))), "at least one voxel"),
        "negative dimension": (file(nrrd((b"5 6 7", b"5 -6 7"))), "at least one voxel"),
        "NaN affine": (file(nrrd((b"(0.5,", b"(nan,"))), "finite"),
        "singular affine": (file(nrrd((b"(0,0.75,0)", b"(1,0,0)"))), "singular"),
        "RGB": (file(nrrd((b"endian", b"kinds: RGB-color domain domain\nendian"))), "kinds"),
        "complex": (file(nrrd((b"endian", b"kinds: complex domain domain\nendian"))), "kinds"),
        "another file": (file(nrrd((b"endian", b"data file: /dev/zero\nendian"))), "got '/dev/zero'"),
        "header without end": (file(b"NRRD0004\n" + b"# comment\n" * 2_000_000), "an empty line"),
    },
    "dicom": {
        "missing slice": (series(lambda slices: slices[:3] + slices[4:]), "a gap of 4 mm"),
        "duplicate": (series(lambda slices: [*slices, make_series(RAMP, series="1.2.3.4")[3]]), "got 1 more"),
        "tilt": (series(leaning), "gantry tilt"),
        "two series": (series(lambda slices: slices + make_series(RAMP, series="1.9")), "got 2 in"),
        "deflated bomb": (deflated_bomb, "at most 67108864 inflated"),
    },
}


@pytest.mark.parametrize("kind", ATTACKS)
def test_each_attack_is_refused_in_time_and_memory(tmp_path: Path, kind: str) -> None:
    source, empty = tmp_path / "source", tmp_path / "empty"
    source.mkdir()
    empty.mkdir()
    for name, (write, _) in ATTACKS[kind].items():
        write(source / name)
    before = sorted(source.rglob("*"))
    names = [str(source / name) for name in ATTACKS[kind]]
    environment = {**os.environ, "TMPDIR": str(empty), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    run = subprocess.run(
        [sys.executable, "-c", CHILD, str(LIMIT_S), *names], capture_output=True, text=True, cwd=empty, env=environment
    )
    assert run.returncode == 0, run.stderr
    results = [json.loads(line) for line in run.stdout.splitlines()]
    assert [name for name, _, _ in results] == names
    for name, got, elapsed_s in results:
        message = ATTACKS[kind][Path(name).name][1]
        assert got.startswith("InputError"), (name, got)
        assert message in got, (name, got)
        assert name in got
        assert "\n" not in got
        assert len(got) < 1000
        assert elapsed_s < LIMIT_S, (name, elapsed_s)
    assert sorted(source.rglob("*")) == before
    assert not list(empty.iterdir())


def sound_files(folder: Path) -> dict[str, Path]:
    write_metaimage(folder / "packed.mha", RAMP, spacing_xyz_mm=(0.5, 0.75, 2), origin_mm=(1, 2, 3))
    contents: dict[str, Write] = {
        "plain.nii": file(nifti()),
        "packed.nii.gz": file(gzip.compress(nifti())),
        "zipped.nii.gz.zip": in_zip(gzip.compress(nifti())),
        "plain.mha": file(mha()),
        "plain.nrrd": file(nrrd()),
        "packed.nrrd": file(nrrd(PACKED_NRRD, voxels=gzip.compress(VOXELS))),
        "series": series(lambda slices: slices[:3]),
    }
    for name, write in contents.items():
        write(folder / name)
    return {name: folder / name for name in (*contents, "packed.mha")}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return sound_files(tmp_path_factory.mktemp("sound"))


KINDS = (
    "plain.nii",
    "packed.nii.gz",
    "zipped.nii.gz.zip",
    "plain.mha",
    "packed.mha",
    "plain.nrrd",
    "packed.nrrd",
    "series",
)
changes = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.one_of(st.integers(0, 255), st.sampled_from(b"0-. \n=:9"))),
    min_size=1,
    max_size=4,
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(changes=changes, end=st.one_of(st.none(), st.floats(0, 1)))
def test_changed_bytes_are_refused_or_read(
    sound: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    changes: list[tuple[float, int]],
    end: float | None,
) -> None:
    folder = tmp_path_factory.mktemp("changed")
    source = sound[kind]
    sources = sorted(source.iterdir()) if source.is_dir() else [source]
    for path in sources:
        (folder / path.name).write_bytes(path.read_bytes())
    first = folder / sources[0].name
    raw = bytearray(first.read_bytes())
    # Voxels may be anything; what stands before them, and every packed byte, may not.
    n_header = len(raw) - len(VOXELS) if "plain" in kind else len(raw)
    for share, value in changes:
        raw[int(share * n_header)] = value
    first.write_bytes(raw[: None if end is None else int(end * len(raw))])
    try:
        volume = read_image(folder if source.is_dir() else first, max_voxels=10**6)
    except InputError:
        return
    assert volume.array.size <= 10**6
    assert np.isfinite(volume.array).all()
    assert np.isfinite(volume.affine).all()
    assert min(volume.spacing_mm) > 0


def test_sound_files_are_read(sound: dict[str, Path]) -> None:
    assert set(sound) == set(KINDS)
    for path in sound.values():
        array = read_image(path).array
        assert array.shape[:2] == (5, 6)
        assert sorted(np.unique(array)) == sorted(np.unique(RAMP[: array.shape[2]]))
