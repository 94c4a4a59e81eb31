"""Names of files: the one rule for what a name says. No other module cuts an ending or a suffix off a name.

- `case_of` gives the case that an image or a mask is called after; `readings` gives every case that a name may stand for, the likeliest first.
- `role_of` tells a mask from an image and from a map that `segnet predict` wrote beside a mask.
- `files_in` lists the volumes of a folder by name, without those maps.
- `beside` names a file next to another; `on_disk` finds a path whatever its Unicode normalisation.

A case is always in Unicode NFC: macOS writes the same name in NFD. Text that is compared with a case goes through `nfc`.
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Literal

Role = Literal["image", "mask", "map", "plain"]

ENDINGS = (".nii.gz.zip", ".nii.zip", ".nii.gz", ".nii", ".mha", ".nrrd")
"""Endings of the files read here, the longer before the shorter. A DICOM series is a folder, of any name."""
PROBABILITY, UNCERTAINTY = "_probability", "_uncertainty"
"""Suffixes of the maps that `segnet predict` writes beside a mask."""

_BREAK = "[-_. ]"
# 3D Slicer: -label, .seg, -segmentation; ITK-SNAP: _segmentation; MONAI: _seg, _pred, _trans.
_MASK = "masks?|labels?|labelmap|seg|segmentations?|pred|predictions?|trans|gt"
_IMAGE = "ct|images?|img|imaging|volume"
_CHANNEL = "0000"  # nnU-Net's first channel; other data sets number their cases so
_MAP = f"{PROBABILITY[1:]}|{UNCERTAINTY[1:]}"


def _before_all(words: str) -> re.Pattern[str]:
    return re.compile(rf"(.+?)(?:{_BREAK}(?:{words}))*", re.IGNORECASE | re.DOTALL)


def _ending(words: str) -> re.Pattern[str]:
    return re.compile(rf"(?:^|{_BREAK})(?:{words})$", re.IGNORECASE)


_BEFORE_MASK = _before_all(_MASK)
_BEFORE_ANY = _before_all(f"{_MASK}|{_IMAGE}|{_CHANNEL}")
_ROLES: dict[Role, re.Pattern[str]] = {"map": _ending(_MAP), "mask": _ending(_MASK), "image": _ending(_IMAGE)}
_SLICER = re.compile(rf"segmentation(?:{_BREAK}|$)", re.IGNORECASE)  # Segmentation_1, Segmentation-Segment_1
_ONLY_A_ROLE = re.compile(rf"(?:{_MASK}|{_IMAGE})(?:_\d+)?", re.IGNORECASE)


def nfc(text: str) -> str:
    """Text in Unicode NFC, as cases are compared."""
    return unicodedata.normalize("NFC", text)


def stem_of(path: str | Path) -> str:
    """The name of a file or folder in NFC, without any of `ENDINGS`.

    >>> stem_of("labels/bone_00002_lesion_03.nii.gz.zip")
    'bone_00002_lesion_03'
    """
    return nfc(_cut(Path(path).name))


def _cut(name: str) -> str:
    ending = next((e for e in ENDINGS if name.lower().endswith(e)), "")
    return name[: len(name) - len(ending)]


def beside(path: Path, tail: str) -> Path:
    """The path of a file next to another: its name with `tail` in place of the ending.

    >>> beside(Path("out/a.nii.gz"), "_probability.nii.gz").name
    'a_probability.nii.gz'
    """
    return path.with_name(_cut(path.name) + tail)


def role_of(path: str | Path) -> Role:
    """The role that a name gives its file, in any case of letters, after ``-``, ``_``, ``.`` or a space.

    "plain" says nothing: an image where masks have suffixes, either of them in a folder of its own.

    >>> [role_of(f"p1{name}") for name in ("_ct.nii", "-label.nrrd", ".seg.nrrd", "_Pred.nii.gz", "_probability.nii.gz", ".nii", "_0000.nii")]
    ['image', 'mask', 'mask', 'mask', 'map', 'plain', 'plain']
    """
    stem = stem_of(path)
    if _SLICER.match(stem):
        return "mask"
    return next((role for role, pattern in _ROLES.items() if pattern.search(stem)), "plain")


def readings(path: str | Path) -> tuple[str, str, str]:
    """Cases that a name may stand for, the likeliest first: the stem, without suffixes of a mask, without any suffix.

    >>> readings("p1_ct_pred.nii.gz"), readings("p1_0000.nii.gz")
    (('p1_ct_pred', 'p1_ct', 'p1'), ('p1_0000', 'p1_0000', 'p1'))
    """
    stem = stem_of(path)
    return stem, _before(_BEFORE_MASK, stem), _before(_BEFORE_ANY, stem)


def _before(pattern: re.Pattern[str], stem: str) -> str:
    found = pattern.fullmatch(stem)
    return found[1] if found else stem


def case_of(path: str | Path, role: Role | None = None) -> str:
    """The case that a volume is called after: a mask's name without its suffixes, an image's without any.

    Parameters
    ----------
    role : of the file, where its folder gives it; None takes the name's

    >>> case_of("p1_ct.nii"), case_of("p1_ct-label.nrrd"), case_of("labelsTr/lung_0000.nii", "mask")
    ('p1', 'p1_ct', 'lung_0000')
    """
    return readings(path)[1 if (role or role_of(path)) == "mask" else 2]


def says_only_its_role(path: str | Path) -> bool:
    """Whether a name has no case in it: ``image``, ``CT_mask``, ``Segmentation``. Its folder is the case."""
    stem = stem_of(path)
    return bool(_SLICER.match(stem) or _ONLY_A_ROLE.fullmatch(_before(_BEFORE_ANY, stem)))


def files_in(folder: Path) -> list[Path]:
    """The files of a folder that are volumes by name, sorted; not hidden ones, not maps."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.name.lower().endswith(ENDINGS)
        and not path.name.startswith(".")
        and role_of(path) != "map"
        and path.is_file()
    )


def on_disk(path: Path) -> Path:
    """`path` in the Unicode normalisation that the disk spells it in; `path` itself if there is no such file."""
    if path.exists() or path == path.parent:
        return path
    folder = on_disk(path.parent)
    others = sorted(folder.iterdir()) if folder.is_dir() else []
    return next((other for other in others if nfc(other.name) == nfc(path.name)), folder / path.name)
