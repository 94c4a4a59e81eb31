"""Volumes from files of any format that is read here, by what the file is rather than what it is called."""

from __future__ import annotations

from pathlib import Path

from .nifti import Volume, read_image, read_mask

__all__ = ["ENDINGS", "Volume", "is_dicom_series", "read_image", "read_mask", "stem_of"]

ENDINGS = (".nii.gz", ".nii")


def stem_of(path: Path) -> str:
    """Name without ending."""
    return next((path.name.removesuffix(e) for e in ENDINGS if path.name.endswith(e)), path.name)


def is_dicom_series(folder: Path) -> bool:
    return False
