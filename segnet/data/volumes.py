"""Volumes from files of any format that is read here, by what the file is rather than what it is called."""

from __future__ import annotations

from .nifti import Volume, read_image, read_mask

__all__ = ["Volume", "read_image", "read_mask"]
