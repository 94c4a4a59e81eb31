"""The images of a file or folder, by case."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from segnet.errors import InputError
from segnet.io.names import ENDINGS, nfc, role_of, stem_of
from segnet.io.pairs import NoPairs, find_pairs, image_case, volumes_in
from segnet.io.volumes import is_dicom_series


def images_in(source: Path, cases: Sequence[str] | None = None) -> dict[str, Path]:
    """Images by case: of one file or DICOM series, of a folder of image and mask pairs, or of a folder of images.

    Parameters
    ----------
    source : a file; a folder with one DICOM series; or a folder of files and DICOM series. Masks are left out: those of
        pairs (`segnet.io.pairs`), and files whose name says so (`segnet.io.names`). An image needs no mask
    cases : limit to these

    Raises
    ------
    InputError
        There is no image, none of a case asked for, two of one case, or a file beside pairs that may be an image.
    """
    if not source.exists():
        raise InputError(f"input: expected an image or a folder of images, got {source}; check the path")
    if is_one_image(source):
        found = {stem_of(source): source}
    else:
        try:
            found = _images_of_pairs(source)
        except NoPairs:
            plain = [path for path in volumes_in(source) if role_of(path) != "mask"]
            found = _one_for_each_case(source, [(stem_of(path), path) for path in plain])
    if not found:
        masks = [path.name for path in volumes_in(source)]
        got, remedy = (
            (f"only {masks[0]}, a mask by its name", "rename it, or name the file itself")
            if masks
            else ("none", "check the folder")
        )
        raise InputError(
            f"input {source}: expected at least one file ending in {', '.join(ENDINGS)} or DICOM series, got {got}; {remedy}"
        )
    wanted = sorted(found) if cases is None else sorted(map(nfc, cases))
    missing = [case for case in wanted if case not in found]
    if missing:
        raise InputError(
            f"input {source}: expected an image of case {missing[0]}, got none; check the folder or the part"
        )
    return {case: found[case] for case in wanted}


def is_one_image(source: Path) -> bool:
    """Whether a path is one image: a file, or a folder with one DICOM series."""
    return source.is_file() or (source.is_dir() and is_dicom_series(source))


def _images_of_pairs(folder: Path) -> dict[str, Path]:
    pairs = find_pairs(folder)
    known = {path for pair in pairs for path in (pair.image, pair.mask)} | set(pairs.unpaired_images)
    for path in volumes_in(folder):
        if path not in known and role_of(path) != "mask":
            raise InputError(
                f"input {folder}: expected images and masks in one layout, got {path.name} beside them; move it, or name it as they are"
            )
    named = [(pair.case, pair.image) for pair in pairs] + [(image_case(path), path) for path in pairs.unpaired_images]
    return _one_for_each_case(folder, named)


def _one_for_each_case(folder: Path, named: Sequence[tuple[str, Path]]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for case, path in named:
        if case in found:
            raise InputError(
                f"input {folder}: expected one image for each case, got {found[case]} and {path}; rename one, or take their folders one by one"
            )
        found[case] = path
    return found
