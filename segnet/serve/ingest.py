"""Uploads to images, in a process of its own: its memory and time are limited, and a damaged file ends nothing but it.

    python -m segnet.serve.ingest UPLOADED READY MAX_BYTES

UPLOADED holds the files as they came. READY gets a folder for each image. The last line of stdout is JSON: {"images": [...], "left_out": [...]}, or
{"error": ...} with exit code 3.
"""

from __future__ import annotations

import json
import re
import resource
import shutil
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
from pydicom.dataset import Dataset

from segnet.errors import InputError, reason
from segnet.io.dicom_slice import is_dicom
from segnet.io.metaimage import is_metaimage
from segnet.io.names import stem_of
from segnet.io.streams import opened
from segnet.io.volumes import Volume, read_image, sha256_of_volume
from segnet.runtime.files import sha256_of
from segnet.serve.store import PICTURE, SOURCE, VOXELS, facts_of

TAGS = (
    *("Modality", "StudyDate", "SeriesDescription", "PatientIdentityRemoved", "PatientID", "StudyInstanceUID"),
    *("SeriesInstanceUID", "SOPInstanceUID"),
)
_nibabel: Any = nib


def ingest(uploaded: Path, ready: Path) -> dict[str, Any]:
    """Reads each image of an upload: one file, or the files of one or more DICOM series.

    Parameters
    ----------
    uploaded : folder of the files
    ready : folder that gets `image-0`, `image-1`, ...

    Returns
    -------
    dict
        "images": folder, sha, name and facts of each; "left_out": a sentence for each series or file that was not read.

    Raises
    ------
    InputError
        Nothing can be read: of one image, why.
    """
    files = sorted(path for path in uploaded.iterdir() if path.is_file() and not path.name.startswith("."))
    if not files:
        raise InputError("files: expected at least one, got none; upload an image")
    slices = [file for file in files if is_dicom(file)]
    if not slices and len(files) > 1:
        raise InputError(
            f"files: expected one image, or the files of a DICOM series, got {len(files)} other files; upload them one by one"
        )
    left_out = [f"{file.name}: not DICOM" for file in files if slices and file not in slices]
    groups = _series(slices, ready) if slices else [(files[0], None)]
    images, errors = [], []
    for number, (source, header) in enumerate(groups):
        try:
            images.append(_image(source, header, ready / f"image-{number}"))
        except InputError as error:
            errors.append(error)
            left_out.append(reason(error))
    if not images:
        raise errors[0]
    return {"images": images, "left_out": left_out}


def _series(slices: list[Path], ready: Path) -> list[tuple[Path, Dataset]]:
    """A folder for each series, the one of most slices first. Files are named by their content, so that a series has one hash."""
    found: dict[str, tuple[Path, Dataset]] = {}
    for file in slices:
        header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(TAGS), force=True)
        folder, _ = found.setdefault(str(header.get("SeriesInstanceUID", "")), (ready / f"series-{len(found)}", header))
        folder.mkdir(exist_ok=True)
        file.rename(folder / f"{sha256_of(file)[:32]}.dcm")
    return sorted(found.values(), key=lambda group: -sum(1 for _ in group[0].iterdir()))


def _image(source: Path, header: Dataset | None, folder: Path) -> dict[str, Any]:
    volume = read_image(source)
    sha = sha256_of_volume(source)
    folder.mkdir()
    np.save(folder / VOXELS, volume.array_zyx)
    _write_picture(volume, folder / PICTURE)
    facts = facts_of(volume) | _origin(source, header)
    kept = folder / SOURCE
    if source.is_dir():
        source.rename(kept)
    else:
        kept.mkdir()
        shutil.move(source, kept / source.name)
    name = (str(header.get("SeriesDescription", "") or "") or "DICOM series") if header is not None else stem_of(source)
    return {"folder": folder.name, "sha": sha, "name": name, "facts": facts}


def _origin(source: Path, header: Dataset | None) -> dict[str, Any]:
    """Where an image comes from, and whether results may go back there."""
    if header is None:
        with opened(source) as (stream, _):
            head = stream.read(352)
        kind = "nrrd" if head.startswith(b"NRRD") else "metaimage" if is_metaimage(head) else "nifti"
        return {
            "source": kind,
            "source_name": source.name,
            "modality": None,
            "study_date": None,
            "deidentified": False,
            "dicom": None,
        }
    date = str(header.get("StudyDate", "") or "")
    identified = all(str(header.get(name, "") or "") for name in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID"))
    removed = str(header.get("PatientIdentityRemoved", "") or "").upper() == "YES"
    return {
        "source": "dicom",
        "source_name": "",
        "modality": str(header.get("Modality", "") or "") or None,
        "study_date": f"{date[:4]}-{date[4:6]}-{date[6:]}" if re.fullmatch(r"\d{8}", date) else None,
        "deidentified": removed or not identified,
        "dicom": {
            name: str(header.get(tag, "") or "")
            for name, tag in (("study", "StudyInstanceUID"), ("series", "SeriesInstanceUID"))
        },
    }


def _write_picture(volume: Volume, path: Path) -> None:
    """The volume for the page: NIfTI in RAS, whole HU. Little time goes into packing it."""
    whole = np.clip(np.rint(volume.array), -32768, 32767).astype(np.int16)
    image = _nibabel.Nifti1Image(whole, volume.affine)
    image.header.set_xyzt_units("mm")
    _nibabel.openers.Opener.default_compresslevel = 1
    image.to_filename(path)


def main() -> None:
    uploaded, ready, most = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    try:
        told: dict[str, Any] = ingest(uploaded, ready)
        code = 0
    except InputError as error:
        told, code = {"error": str(error).replace(f"{uploaded}/", "").replace(f"{ready}/", "")}, 3
    except MemoryError:
        told, code = (
            {
                "error": f"files: expected an image that is read within {most / 2**30:.3g} GiB, got a larger one; crop it"
            },
            3,
        )
    print(json.dumps(told))
    sys.exit(code)


if __name__ == "__main__":
    main()
