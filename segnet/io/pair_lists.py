"""Pairs that a user names by a table, or by patterns of file names."""

from __future__ import annotations

import glob
import re
import string
from collections.abc import Iterator, Mapping
from pathlib import Path

from segnet.errors import InputError
from segnet.io.csv_table import read_csv
from segnet.io.names import case_of, nfc, on_disk
from segnet.io.pairs import Pair, PairList, patient_id, set_of

_COLUMNS, _OPTIONAL_COLUMNS = ("image", "mask"), ("case", "patient", "set")


def pairs_from_csv(path: str | Path, *, patient_regex: str | None = None) -> PairList:
    """Pairs of a CSV file with the columns image and mask, and any of case, patient and set.

    Parameters
    ----------
    path : paths in it are absolute or relative to the file's folder. A line without a mask is an image without one
    patient_regex : see `segnet.io.pairs.patient_id`; a patient in the table comes first

    Raises
    ------
    InputError
        The file cannot be read, a column is missing or unknown, a file does not exist, or a case stands twice; with the line's number.

    Examples
    --------
    A table::

        image,mask,case,patient,set
        scans/17_ct.nii.gz,contours/17.nii.gz,17_a,17,ward
    """
    path = Path(path)
    _, rows = read_csv(path, "csv", _COLUMNS, _OPTIONAL_COLUMNS)
    pairs: dict[str, Pair] = {}
    lines: dict[str, int] = {}
    unpaired = []
    for line, row in rows:
        image = _existing(path, line, "image", row["image"])
        if not row["mask"]:
            unpaired.append(image)
            continue
        mask = _existing(path, line, "mask", row["mask"])
        case = row.get("case") or case_of(mask, "mask")
        if case in pairs:
            raise InputError(
                f"csv: expected each case once, got {case!r} in lines {lines[case]} and {line} of {path}; add a column case"
            )
        pairs[case] = _pair(case, image, mask, row, patient_regex)
        lines[case] = line
    if not pairs:
        raise InputError(f"csv: expected at least one line with image and mask, got none in {path}; fill the table")
    return PairList(pairs.values(), unpaired)


def _pair(case: str, image: Path, mask: Path, given: Mapping[str, str], patient_regex: str | None) -> Pair:
    return Pair(
        case, given.get("patient") or patient_id(case, patient_regex), image, mask, given.get("set") or set_of(case)
    )


def _existing(table: Path, line: int, column: str, name: str) -> Path:
    at = on_disk(table.parent / name)
    if not name or not at.exists():
        raise InputError(
            f"csv: expected an existing {column} in line {line} of {table}, got {name!r}; paths are relative to the table's folder"
        )
    return at


def pairs_from_patterns(root: str | Path, images: str, masks: str, *, patient_regex: str | None = None) -> PairList:
    """Pairs whose paths follow a pattern with fields, such as ``{patient}/ct_{case}.nii.gz`` and ``{patient}/seg/{case}_{lesion}.nii.gz``.

    Parameters
    ----------
    root : folder that the patterns start from
    images, masks : paths below it with ``{field}`` for the parts that differ, never a ``/``. The mask's pattern has all fields of the image's,
        and may have more, for several masks of one image. The fields `case`, `patient` and `set` are taken; without `case`, all fields joined
        by ``_`` are the case
    patient_regex : see `segnet.io.pairs.patient_id`

    Raises
    ------
    InputError
        A pattern cannot be read or leaves `root`, fields do not fit, nothing matches, or a case has two images or masks.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"input: expected a folder, got {root}; check the path")
    if missing := _fields("images", images) - _fields("masks", masks):
        raise InputError(
            f"masks: expected all fields of the images' pattern {images}, got no {{{min(missing)}}} in {masks}; a mask names its image"
        )
    image_at: dict[str, Path] = {}
    for path, _ in _matches(root, images):
        name = nfc(path.relative_to(root).as_posix())
        if name in image_at:
            raise InputError(
                f"images: expected one image for each mask, got {image_at[name]} and {path}, equal but for Unicode; remove one"
            )
        image_at[name] = path
    pairs: dict[str, Pair] = {}
    for mask, fields in _matches(root, masks):
        image = image_at.get(nfc(images).format(**fields))
        if image is None:
            continue
        lesion = [value for name, value in fields.items() if name not in ("patient", "case", "set")]
        case = "_".join([fields["case"], *lesion] if "case" in fields else fields.values())
        if case in pairs:
            raise InputError(
                f"masks: expected one mask for each case, got {pairs[case].mask} and {mask} for {case}; add a field that differs"
            )
        pairs[case] = _pair(case, image, mask, fields, patient_regex)
    if not pairs:
        raise InputError(
            f"images, masks: expected files like {images} and {masks} below {root}, got no such pair; a field stands for no /"
        )
    return PairList(pairs.values(), set(image_at.values()) - {pair.image for pair in pairs.values()})


def _fields(argument: str, pattern: str) -> set[str]:
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(pattern) if name is not None]
        plain = all(name.isidentifier() for name in names) and pattern.format(**dict.fromkeys(names, "x"))
    except (ValueError, IndexError, KeyError, AttributeError):
        plain = ""
    if not plain or Path(pattern).is_absolute() or ".." in Path(pattern).parts or not names:
        raise InputError(
            f"{argument}: expected a path below the folder with {{fields}}, got {pattern!r}; write for instance {{case}}/ct.nii.gz"
        )
    return set(names)


def _matches(root: Path, pattern: str) -> Iterator[tuple[Path, dict[str, str]]]:
    """Visible paths below `root` that follow a pattern, and their fields in NFC. A field that stands twice has one value."""
    regex = ""
    for text, name, _, _ in string.Formatter().parse(nfc(pattern)):
        regex += re.escape(text)
        if name is not None:
            regex += f"(?P={name})" if f"(?P<{name}>" in regex else f"(?P<{name}>[^/]+?)"
    parts = ("*" if "{" in part or not part.isascii() else glob.escape(part) for part in Path(pattern).parts)
    for path in sorted(root.glob("/".join(parts))):
        match = re.fullmatch(regex, nfc(path.relative_to(root).as_posix()))
        if match and not path.name.startswith("."):
            yield path, match.groupdict()
