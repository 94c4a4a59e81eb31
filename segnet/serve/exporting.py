"""Lesions to files: masks, tables, a report page, DICOM objects; and from there to the PACS."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segnet import __version__
from segnet.errors import InputError
from segnet.io.dicom import read_series
from segnet.metrics import recist
from segnet.report.export import export_page
from segnet.runtime.files import write_text
from segnet.serve.archive import Archive
from segnet.serve.dicom_objects import Algorithm, Finding, report, segmentation
from segnet.serve.lesions import StoredLesion, save_mask
from segnet.serve.settings import PacsSettings
from segnet.serve.store import StoredImage

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

COLUMNS = (
    *("lesion", "name", "site", "role", "accepted", "edited", "volume_ml", "long_axis_mm", "short_axis_mm", "mean_hu"),
    *("click_right_mm", "click_anterior_mm", "click_superior_mm", "threshold", "tracking_uid", "mask"),
)
Told = Callable[[int, int], None]


def export(
    image: StoredImage,
    lesions: Sequence[StoredLesion],
    formats: Sequence[str],
    folder: Path,
    told: Told,
    pacs: PacsSettings | None = None,
) -> dict[str, Any] | None:
    """Writes the files asked for into an empty folder.

    Parameters
    ----------
    lesions : with masks
    formats : of nifti, csv, json, report, seg, sr
    told : called before each file; what it raises ends the export
    pacs : store the DICOM objects there; None: do not

    Returns
    -------
    UIDs stored in the PACS, after they were read back; None without a PACS.

    Raises
    ------
    InputError
        A lesion has no mask, or DICOM objects cannot be made of the image or stored.
    """
    if not lesions or any(lesion.mask is None for lesion in lesions):
        raise InputError("lesions: expected lesions with masks, got an empty one; click again or draw it")
    steps, done = len(formats) + (pacs is not None), 0
    names = {lesion.id: f"lesion_{number:02d}" for number, lesion in enumerate(lesions, 1)}
    objects: list[Dataset] = []
    stored = None
    for kind in formats:
        told(done, steps)
        done += 1
        if kind == "nifti":
            for lesion in lesions:
                save_mask(folder / f"{names[lesion.id]}.nii.gz", image, lesion)
        elif kind == "csv":
            write_text(folder / "lesions.csv", _table(lesions, names))
        elif kind == "json":
            write_text(folder / "lesions.json", json.dumps(_described(image, lesions, names), indent=1))
        elif kind == "report":
            pictures = [(names[lesion.id], lesion.as_dict(), lesion.box, lesion.mask) for lesion in lesions]
            write_text(
                folder / "report.html",
                export_page(image.name, image.voxels, image.spacing_zyx_mm, image.window_hu, image.facts, pictures),
            )
        else:
            objects = objects or _dicom_objects(image, lesions)
            objects[0 if kind == "seg" else 1].save_as(folder / f"{kind}.dcm", enforce_file_format=True)
    if pacs is not None:
        told(done, steps)
        objects = objects or _dicom_objects(image, lesions)
        stored = {"stored": Archive(pacs).store(objects), "verified": True}
    return stored


def _table(lesions: Sequence[StoredLesion], names: dict[str, str]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    for lesion in lesions:
        row = {name: value for name, value in lesion.as_dict().items() if name in COLUMNS and value is not None}
        if lesion.facts["clicks"]:
            row |= dict(zip(COLUMNS[10:13], lesion.facts["clicks"][-1], strict=True))
        writer.writerow(row | {"lesion": names[lesion.id], "mask": f"{names[lesion.id]}.nii.gz"})
    return text.getvalue()


def _described(image: StoredImage, lesions: Sequence[StoredLesion], names: dict[str, str]) -> dict[str, Any]:
    facts = {name: image.facts[name] for name in ("shape", "spacing_mm", "affine", "modality", "study_date")}
    return {
        "version": __version__,
        "research_only": True,
        "image": {"sha256": image.sha, "name": image.name, **facts},
        "lesions": [{**lesion.as_dict(), "mask": f"{names[lesion.id]}.nii.gz"} for lesion in lesions],
    }


def _dicom_objects(image: StoredImage, lesions: Sequence[StoredLesion]) -> list[Dataset]:
    """SEG and SR. The same lesions give the same bytes: their date is that of the newest lesion."""
    series, volume = read_series(image.source), image.volume()
    algorithm = Algorithm("segnet", __version__)
    how: dict[str, Any] = {
        "algorithm": algorithm,
        "made_at": datetime.fromtimestamp(max(lesion.created for lesion in lesions), UTC).replace(tzinfo=None),
        "deidentified": image.facts["deidentified"],
    }
    findings = [_finding(image, lesion, number) for number, lesion in enumerate(lesions, 1)]
    masks = segmentation(series, volume, findings, **how)
    return [masks, report(series, volume, masks, findings, **how)]


def _finding(image: StoredImage, lesion: StoredLesion, number: int) -> Finding:
    assert lesion.box is not None
    assert lesion.mask is not None
    axes = recist(lesion.mask, image.spacing_zyx_mm)
    facts = lesion.facts
    name = "".join(letter for letter in facts["name"] or "" if letter.isprintable() and letter != "\\")[:64].strip()
    return Finding(
        lesion.mask,
        lesion.box,
        name or f"Lesion {number}",
        facts["tracking_uid"],
        None if axes is None else axes.moved([part.start for part in lesion.box]),
        facts["volume_ml"],
        facts["mean_hu"],
        facts["site"],
        facts["role"],
        lesion.accepted,
    )
