"""Pairs that a user names himself: by a table, or by patterns of file names."""

from __future__ import annotations

import re
import string
from pathlib import Path

from segnet.errors import InputError
from segnet.io.csv_table import read_csv
from segnet.io.pairs import Pair, PairList, patient_id, set_of
from segnet.io.volumes import stem_of

_COLUMNS, _OPTIONAL_COLUMNS = ("image", "mask"), ("case", "patient", "set")


def pairs_from_csv(path: str | Path, *, patient_regex: str | None = None) -> PairList:
    """Pairs of a CSV file with the columns image and mask, and any of case, patient and set.

    Parameters
    ----------
    path : paths in it are taken from the file's own folder where they are relative. A line without a mask is an image without one
    patient_regex : see `segnet.io.pairs.patient_id`; a patient in the table comes first

    Raises
    ------
    InputError
        The file cannot be read, a column is missing or unknown, a file does not exist, or a case is named twice; with the line's number.

    Examples
    --------
    A table::

        image,mask,case,patient,set
        scans/17_ct.nii.gz,contours/17.nii.gz,17_a,17,ward
    """
    path = Path(path)
    _, rows = read_csv(path, "csv", _COLUMNS, _OPTIONAL_COLUMNS)
    found: dict[str, tuple[int, Pair]] = {}
    unpaired = []
    for line, row in rows:
        image = _existing(path, line, "image", row["image"])
        if not row["mask"]:
            unpaired.append(image)
            continue
        mask = _existing(path, line, "mask", row["mask"])
        case = row.get("case") or stem_of(mask)
        pair = Pair(
            case, row.get("patient") or patient_id(case, patient_regex), image, mask, row.get("set") or set_of(case)
        )
        if case in found:
            raise InputError(
                f"csv: expected each case once, got {case!r} in lines {found[case][0]} and {line} of {path}; add a column case"
            )
        found[case] = (line, pair)
    if not found:
        raise InputError(f"csv: expected at least one line with image and mask, got none in {path}; fill the table")
    return PairList([found[case][1] for case in sorted(found)], unpaired)


def _existing(table: Path, line: int, column: str, name: str) -> Path:
    at = table.parent / name
    if not name or not at.exists():
        raise InputError(
            f"csv: expected an existing {column} in line {line} of {table}, got {name!r}; paths are relative to the table's folder"
        )
    return at


def pairs_from_patterns(root: str | Path, images: str, masks: str, *, patient_regex: str | None = None) -> PairList:
    """Pairs whose paths follow a pattern with fields, such as ``{patient}/ct_{case}.nii.gz`` and ``{patient}/seg/{case}_{lesion}.nii.gz``.

    Parameters
    ----------
    root : the folder the patterns start from
    images, masks : paths below it with ``{field}`` for what may differ, never a ``/``; the mask's pattern has all fields of the image's, and may
        have more, for several masks of one image. `case`, `patient` and `set`, where they are fields, are taken; without `case` a case is
        called after all fields, joined by ``_``
    patient_regex : see `segnet.io.pairs.patient_id`

    Raises
    ------
    InputError
        A pattern cannot be read or lies outside `root`, fields do not fit, nothing matches, or two masks are of one case.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"input: expected a folder, got {root}; check the path")
    image_fields, mask_fields = _fields("images", images), _fields("masks", masks)
    if missing := set(image_fields) - set(mask_fields):
        raise InputError(
            f"masks: expected all fields of the images' pattern {images}, got no {{{min(missing)}}} in {masks}; a mask names its image"
        )
    found: dict[str, Pair] = {}
    for mask in sorted(root.glob(_glob(masks))):
        fields = {} if mask.name.startswith(".") else _match(masks, mask.relative_to(root).as_posix())
        image = root / images.format(**{name: fields[name] for name in image_fields}) if fields else None
        if image is None or not image.exists():
            continue
        lesion = [value for name, value in fields.items() if name not in ("patient", "case", "set")]
        case = "_".join([fields["case"], *lesion] if "case" in fields else fields.values())
        if case in found:
            raise InputError(
                f"masks: expected one mask for each case, got {found[case].mask} and {mask} for {case}; add a field that differs"
            )
        patient = fields.get("patient") or patient_id(case, patient_regex)
        found[case] = Pair(case, patient, image, mask, fields.get("set") or set_of(case))
    if not found:
        raise InputError(
            f"images, masks: expected files like {images} and {masks} below {root}, got no such pair; a field stands for no /"
        )
    used = {pair.image for pair in found.values()}
    unpaired = sorted(
        p
        for p in root.glob(_glob(images))
        if p not in used and not p.name.startswith(".") and _match(images, p.relative_to(root).as_posix())
    )
    return PairList([found[case] for case in sorted(found)], unpaired)


def _fields(argument: str, pattern: str) -> list[str]:
    try:
        names = [name for _, name, spec, conversion in string.Formatter().parse(pattern) if name is not None]
        plain = all(name.isidentifier() for name in names) and pattern.format(**dict.fromkeys(names, "x"))
    except (ValueError, IndexError, KeyError, AttributeError):
        plain = ""
    if not plain or Path(pattern).is_absolute() or ".." in Path(pattern).parts or not names:
        raise InputError(
            f"{argument}: expected a path below the folder with {{fields}}, got {pattern!r}; write for instance {{case}}/ct.nii.gz"
        )
    return list(dict.fromkeys(names))


def _glob(pattern: str) -> str:
    def literal(text: str) -> str:
        return re.sub(r"([*?[])", r"[\1]", text)

    return "".join(
        literal(text) + ("*" if name is not None else "") for text, name, _, _ in string.Formatter().parse(pattern)
    )


def _match(pattern: str, path: str) -> dict[str, str]:
    """Fields of a path, none where one field would have two values."""
    regex, seen = "", set[str]()
    for text, name, _, _ in string.Formatter().parse(pattern):
        regex += re.escape(text)
        if name is not None:
            regex += f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+?)"
            seen.add(name)
    match = re.fullmatch(regex, path)
    return match.groupdict() if match else {}
