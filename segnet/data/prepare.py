"""Pairs of NIfTI files into HDF5, one file for each patient, with an index written last."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from segnet.data.pairs import Pair
from segnet.data.volumes import Volume, read_image, read_mask
from segnet.errors import InputError

FORMAT = "segnet-prepare/1"
INDEX = "dataset.json"
CT_WINDOW_HU = (-1000.0, 400.0)

Progress = Callable[[int, int], None]


class PreparedCase(BaseModel):
    """One case of a prepared dataset, as dataset.json lists it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    case: str = Field(min_length=1)
    patient: str = Field(min_length=1)
    file: str = Field(pattern=r"^[^./\\][^/\\]*\.h5$")
    shape_zyx: tuple[int, int, int]
    spacing_zyx_mm: tuple[float, float, float]
    lesion_voxels: int = Field(ge=1)
    image_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    mask_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class _Index(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["segnet-prepare/1"]
    window_hu: tuple[float, float]
    cases: tuple[PreparedCase, ...] = Field(min_length=1)


@dataclass(frozen=True)
class PreparedDataset:
    """A folder that `prepare` wrote.

    Attributes
    ----------
    root : the folder
    window_hu : the CT window the images were clipped to, in HU
    cases : sorted by patient, then case
    """

    root: Path
    window_hu: tuple[float, float]
    cases: tuple[PreparedCase, ...]

    @property
    def patients(self) -> list[str]:
        """The patients, sorted."""
        return sorted({case.patient for case in self.cases})

    def path_of(self, case: PreparedCase) -> Path:
        """The HDF5 file whose group ``/<case>`` holds `case`."""
        return self.root / case.file


@dataclass(frozen=True)
class PrepareResult:
    """What `prepare` wrote, and what it left out: (case, reason)."""

    cases: list[PreparedCase]
    skipped: list[tuple[str, str]] = field(default_factory=list)


def prepare(
    pairs: Iterable[Pair],
    out: str | Path,
    *,
    window_hu: tuple[float, float] = CT_WINDOW_HU,
    on_error: Literal["raise", "skip"] = "raise",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> PrepareResult:
    """Write images and masks as HDF5, one file ``<out>/<patient>.h5`` for each patient.

    Each case is a group with ``image``, int16 (Z, Y, X) in HU clipped to the window, and ``mask``, uint8
    (Z, Y, X) of 0 and 1, both in canonical orientation and chunked by slice. ``<out>/dataset.json`` lists the
    cases and is written last. All is built beside `out` and then moved, so that a failure leaves nothing
    half-written. Where `out` holds a prepared dataset it is replaced; other files in it are left alone. One
    case is in memory at a time.

    Parameters
    ----------
    pairs : the cases
    out : a new or empty folder, or one that an earlier run wrote
    window_hu : lowest and highest value kept, within int16
    on_error : "raise" stops at the first bad case; "skip" lists it in the result and goes on
    overwrite : write also into a folder that holds other files
    progress : called with (cases done, cases in all) after each case

    Raises
    ------
    InputError
        If there is no pair, a case is bad (and `on_error` is "raise") or all are, two cases share a name,
        `out` holds other files, or the window is none.
    """
    ordered = _checked(pairs)
    low, high = _window(window_hu)
    if on_error not in ("raise", "skip"):
        raise InputError(f"on_error: expected 'raise' or 'skip', got {on_error!r}; name one of them")
    out = Path(os.path.abspath(out))
    _check_out(out, overwrite)
    out.parent.mkdir(parents=True, exist_ok=True)
    result = PrepareResult([], [])
    building = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name[:100]}.", suffix=".tmp"))
    try:
        for done, pair in enumerate(ordered, 1):
            try:
                result.cases.append(_write_case(building, pair, (low, high)))
            except InputError as error:
                if on_error == "raise":
                    raise
                result.skipped.append((pair.case, str(error)))
            if progress is not None:
                progress(done, len(ordered))
        if not result.cases:
            case, reason = result.skipped[0]
            raise InputError(
                f"pairs: expected at least one sound case, got none of {len(ordered)}; the first, {case}: {reason}"
            )
        index = _Index(format="segnet-prepare/1", window_hu=(low, high), cases=tuple(result.cases))
        (building / INDEX).write_text(json.dumps(index.model_dump(), indent=1) + "\n", encoding="utf-8")
        _move_into_place(building, out)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return result


def load_dataset(path: str | Path) -> PreparedDataset:
    """Read the index of a folder that `prepare` wrote.

    Parameters
    ----------
    path : the folder, or its dataset.json

    Raises
    ------
    InputError
        If there is no index, it is not of this format, names a case twice, or a file it names is missing.
    """
    path = Path(path)
    file = path / INDEX if path.is_dir() else path
    try:
        index = _Index.model_validate_json(file.read_bytes())
    except OSError as error:
        raise InputError(
            f"dataset: expected a folder that `segnet prepare` wrote, got {path} without a "
            f"readable {INDEX} ({error.strerror}); run `segnet prepare` first"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InputError(
            f"dataset: expected an index of format {FORMAT}, got {file} with a fault at {at} "
            f"({first['msg']}); run `segnet prepare` again"
        ) from error
    _window(index.window_hu)
    names = [case.case for case in index.cases]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"dataset: expected each case once, got {twice} twice in {file}; run `segnet prepare` again")
    for case in index.cases:
        if not (file.parent / case.file).is_file():
            raise InputError(
                f"dataset: expected {case.file} beside {file}, got no such file; run `segnet prepare` again"
            )
    return PreparedDataset(file.parent, index.window_hu, index.cases)


def _checked(pairs: Iterable[Pair]) -> list[Pair]:
    ordered = sorted(pairs, key=lambda pair: (pair.patient, pair.case))
    if not ordered:
        raise InputError("pairs: expected at least one pair of image and mask, got none; check the folder")
    seen: set[str] = set()
    for pair in ordered:
        for what, name in (("patient", pair.patient), ("case", pair.case)):
            # Both become names: of a file and of an HDF5 group.
            if not name or name.startswith(".") or set(name) & set("/\\\0"):
                raise InputError(
                    f"{what}: expected a name without / and \\ that starts with no dot, got "
                    f"{name!r}; rename it, or change patient_regex"
                )
        if pair.case in seen:
            raise InputError(f"pairs: expected each case once, got {pair.case} twice; rename one")
        seen.add(pair.case)
    return ordered


def _window(window_hu: tuple[float, float]) -> tuple[float, float]:
    low, high = (float(v) for v in window_hu)
    if not (math.isfinite(low) and math.isfinite(high) and -32768 <= low < high <= 32767):
        raise InputError(
            f"window_hu: expected lowest < highest within int16, got ({low:g}, {high:g}); use (-1000, 400)"
        )
    return low, high


def _check_out(out: Path, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"out: expected a folder, got the file {out}; choose another")
    if overwrite or not out.exists() or not any(out.iterdir()) or _is_ours(out):
        return
    raise InputError(
        f"out: expected a new or empty folder or a prepared dataset, got {out} with other "
        "files; choose another, or pass --overwrite"
    )


def _is_ours(out: Path) -> bool:
    try:
        content = json.loads((out / INDEX).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT


def _write_case(folder: Path, pair: Pair, window_hu: tuple[float, float]) -> PreparedCase:
    image = read_image(pair.image)
    mask = read_mask(pair.mask, like=image)
    lesion_voxels = int(np.count_nonzero(mask.array))
    if lesion_voxels == 0:
        raise InputError(f"mask: expected at least one lesion voxel, got none in {pair.mask}; leave the case out")
    listed = PreparedCase(
        case=pair.case,
        patient=pair.patient,
        file=f"{pair.patient}.h5",
        shape_zyx=image.array_zyx.shape,
        spacing_zyx_mm=image.spacing_zyx_mm,
        lesion_voxels=lesion_voxels,
        image_sha256=_sha256(pair.image),
        mask_sha256=_sha256(pair.mask),
    )
    with h5py.File(folder / listed.file, "a") as file:
        if "format" not in file.attrs:
            file.attrs.update({"format": FORMAT, "patient": pair.patient, "window_hu": window_hu})
        _fill(file.create_group(pair.case), image, mask, listed, window_hu)
    return listed


def _fill(group: Any, image: Volume, mask: Volume, listed: PreparedCase, window_hu: tuple[float, float]) -> None:
    hu = np.clip(image.array_zyx, *window_hu)
    layout: dict[str, Any] = {"chunks": (1, *hu.shape[1:]), "compression": "lzf", "shuffle": True}
    group.create_dataset("image", data=np.rint(hu, out=hu).astype(np.int16), **layout)
    group.create_dataset("mask", data=mask.array_zyx, **layout)
    group.attrs.update(
        {
            "spacing_zyx_mm": listed.spacing_zyx_mm,
            "affine": image.affine,
            "source_image": image.path.name,
            "source_mask": mask.path.name,
            "image_sha256": listed.image_sha256,
            "mask_sha256": listed.mask_sha256,
        }
    )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def _move_into_place(building: Path, out: Path) -> None:
    mask = os.umask(0)
    os.umask(mask)
    building.chmod(0o777 & ~mask)  # mkdtemp's 0700 would hide the data from colleagues
    if not out.exists() or not any(out.iterdir()):
        os.replace(building, out)
        return
    stale = _listed_files(out)
    (out / INDEX).unlink(missing_ok=True)  # without an index the folder is visibly unfinished
    files = sorted(building.glob("*.h5"))
    for file in files:
        os.replace(file, out / file.name)
    for name in stale - {file.name for file in files}:
        (out / name).unlink(missing_ok=True)
    os.replace(building / INDEX, out / INDEX)


def _listed_files(out: Path) -> set[str]:
    """The files that the index in `out` names; none where it is not ours."""
    try:
        return {case.file for case in load_dataset(out).cases}
    except InputError:
        return set()
