"""Which image belongs to which mask, and which case to which patient."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import overload

from segnet.errors import InputError
from segnet.io.volumes import ENDINGS, is_dicom_series, stem_of

_FOLDERS = (  # image folder, mask folders that may stand beside it
    ("imagesTr", ("labelsTr",)),
    ("imagesTs", ("labelsTs",)),
    ("images", ("labels", "label", "nodule_mask", "mask", "masks")),
    ("image", ("labels", "label", "nodule_mask", "mask", "masks")),
)
_IMAGE_SUFFIXES = ("_ct", "_image")
_MASK_SUFFIXES = ("_mask", "_label", "_seg")
_IN_FOLDER = (("CT_image", "CT_mask"), ("image", "mask"))
_LAYOUTS = (
    "images/ + labels/ (or masks/, mask/, nodule_mask/, imagesTr/ + labelsTr/) with equal file "
    "names, <case>_ct.nii.gz + <case>_mask.nii.gz, <case>/CT_image.nii.gz + <case>/CT_mask.nii.gz, or folders of these"
)
_DEPTH = 4
"""Folders within folders that are looked into: novel_data/ULS23_DeepLesion3D is two."""
_NOT_A_SET = {"novel_data", "processed_data", "fully_annotated", "partially_annotated"}

_PATIENT_RULES = (re.compile(r"(\d{6})(?!\d)"), re.compile(r"(LIDC-IDRI-\d+)"), re.compile(r"(.+?)_lesion"))


_SET_RULES = (
    (re.compile(r"\d{6}(?!\d)"), "DeepLesion"),
    (re.compile(r"([A-Za-z][A-Za-z0-9]*(?:[-_][A-Za-z][A-Za-z0-9]*)*)[-_]\d"), None),
    (re.compile(r"([A-Za-z]+)\d+(?:[-_]|$)"), None),
)


class NoPairs(InputError):
    """A folder holds no image with a mask."""


@dataclass(frozen=True)
class Pair:
    """One case: an image, the mask of its lesion, the patient both are of, and the set (collection) they come from.

    An image is a file or the folder of a DICOM series.
    """

    case: str
    patient: str
    image: Path
    mask: Path
    set: str = ""


@dataclass(frozen=True)
class PairList(Sequence[Pair]):
    """Pairs sorted by case, and the images that were discarded because no mask belongs to them."""

    pairs: list[Pair]
    unpaired_images: list[Path] = field(default_factory=list)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> list[Pair]: ...
    def __getitem__(self, index: int | slice) -> Pair | list[Pair]:
        return self.pairs[index]

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.pairs)


def patient_id(case: str, regex: str | None = None) -> str:
    """The patient a case is of: what must not be on both sides of a split.

    The leading six digits (ULS23 DeepLesion), ``LIDC-IDRI-`` and its number, the text before ``_lesion``, or
    else the case itself.

    Parameters
    ----------
    case : name of the case, without ending
    regex : searched in `case` instead of these rules; its first group is the patient

    Raises
    ------
    InputError
        If `regex` is no regular expression with a group, or does not match.

    Examples
    --------
    >>> patient_id("000010_02_02_100_lesion_01"), patient_id("bone_00002_lesion_03")
    ('000010', 'bone_00002')
    >>> patient_id("LIDC-IDRI-0001_R_1"), patient_id("STS_002")
    ('LIDC-IDRI-0001', 'STS_002')
    >>> patient_id("siteB-17-scan2", r"(.+)-scan")
    'siteB-17'
    """
    if regex is None:
        for rule in _PATIENT_RULES:
            if match := rule.match(case):
                return match[1]
        return case
    try:
        own = re.compile(regex)
    except re.error as error:
        raise InputError(
            f"patient_regex: expected a regular expression, got {regex!r} ({error}); "
            r"write for instance '(.+)_scan\d+'"
        ) from error
    if own.groups < 1:
        raise InputError(f"patient_regex: expected a group around the patient, got {regex!r}; add parentheses")
    found = own.search(case)
    if not found or not found[1]:
        raise InputError(
            f"patient_regex: expected a match in every case, got none of {regex!r} in {case!r}; widen the expression"
        )
    return found[1]


def set_of(case: str) -> str:
    """The collection a case's name tells of: six digits are DeepLesion's, otherwise the words before the first number, or none.

    Returns
    -------
    str, empty where the name tells nothing.

    Examples
    --------
    >>> [set_of(case) for case in ("LIDC-IDRI-0001_R_1", "STS_002", "000010_02_02_100_lesion_01", "bone_00002_lesion_03", "x")]
    ['LIDC-IDRI', 'STS', 'DeepLesion', 'bone', '']
    """
    for rule, name in _SET_RULES:
        if found := rule.match(case.partition("_lesion")[0]):
            return found[1] if name is None else name
    return ""


def find_pairs(
    root: str | Path | tuple[str | Path, str | Path], *, patient_regex: str | None = None, set_name: str = ""
) -> PairList:
    """Pair the images of a folder with their masks, sorted by case.

    Parameters
    ----------
    root : (image folder, mask folder) with equal file names, or one folder that holds, by preference,

        - images/ beside labels/, masks/, mask/ or nodule_mask/, or imagesTr/ beside labelsTr/, with equal
          file names (the image may end in ``_0000``);
        - ``<case>_ct.nii.gz`` or ``_image`` beside ``<case>_mask.nii.gz``, ``_label`` or ``_seg``; what has none of these is an image without a mask;
        - a folder for each case with CT_image.nii.gz and CT_mask.nii.gz, or image.nii.gz and mask.nii.gz;
        - folders of any of these, as ULS23 is laid out: each is a set, called after its folder; else `set_of` tells it

        Where the image of a case may be a file, it may be the folder of a DICOM series, but for the second.
    patient_regex : see `patient_id`
    set_name : of the cases of a folder that is no folder of sets, instead of what `set_of` tells

    Returns
    -------
    PairList
        A sequence of pairs. Images without a mask are in its `unpaired_images`. A case that two sets have under one name is called
        ``<set>_<case>`` in both.

    Raises
    ------
    InputError
        If a folder is missing, holds no pair, or more than one file could be a case's image or mask.
    """
    if isinstance(root, tuple):
        image_dir, mask_dir = (_folder(part) for part in root)
        found = {set_name: _by_equal_names(image_dir, mask_dir)}
        where = f"{image_dir} and {mask_dir}"
        expected = "equal file names in both"
    else:
        folder = _folder(root)
        found = {set_name: here} if (here := _layout(folder)) else {}
        if not here:
            for name, several in _sets(folder, (), _DEPTH):
                found.setdefault(name, []).extend(several)  # of two folders that the same name is left of
        where, expected = str(folder), _LAYOUTS
    if not any(mask for several in found.values() for _, _, mask in several):
        raise NoPairs(f"root: expected {expected}; got no such pair in {where}; name the folder above the files")
    pairs = [
        Pair(case, patient_id(case, patient_regex), image, mask, name or set_of(case))
        for name, several in found.items()
        for case, image, mask in several
        if mask is not None
    ]
    unpaired = sorted(image for several in found.values() for _, image, mask in several if mask is None)
    return PairList(sorted(_told_apart(pairs), key=lambda pair: pair.case), unpaired)


def is_mask_name(path: Path) -> bool:
    """Whether a file's name says that it is a mask."""
    return stem_of(path).endswith(_MASK_SUFFIXES)


def image_case(image: Path) -> str:
    """The case of an image that has no mask: its name without ending and without what says that it is an image."""
    stem = stem_of(image)
    if stem in {name for name, _ in _IN_FOLDER}:
        return image.parent.name
    for suffix in (*_IMAGE_SUFFIXES, "_0000"):
        if stem.endswith(suffix) and stem != suffix:
            return stem.removesuffix(suffix)
    return stem


def gather(lists: Sequence[PairList]) -> PairList:
    """Several lists as one; cases of one name in several sets are told apart as in one folder."""
    pairs = _told_apart([pair for one in lists for pair in one])
    unpaired = sorted(path for one in lists for path in one.unpaired_images)
    return PairList(sorted(pairs, key=lambda pair: pair.case), unpaired)


def _told_apart(pairs: list[Pair]) -> list[Pair]:
    """Cases of one name in several sets get their set's name; in one set they are an error."""
    first: dict[tuple[str, str], Pair] = {}
    for pair in pairs:
        other = first.get((pair.set, pair.case))
        if other is not None:
            raise InputError(
                f"root: expected one image for each case, got {other.image} and {pair.image} "
                f"for {pair.case}; remove or rename one"
            )
        first[pair.set, pair.case] = pair
    sets_with = Counter(pair.case for pair in pairs)
    return [
        pair if sets_with[pair.case] == 1 else replace(pair, case=f"{pair.set.replace('/', '_')}_{pair.case}")
        for pair in pairs
    ]


_Found = list[tuple[str, Path, "Path | None"]]


def _folder(path: str | Path) -> Path:
    folder = Path(path)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise InputError(f"root: expected a folder, got {folder}, which {what}; check the name")
    return folder


def _layout(folder: Path) -> _Found:
    return _by_folders(folder) or _by_suffixes(folder) or _by_case_folders(folder)


def _sets(folder: Path, above: tuple[str, ...], depth: int) -> Iterator[tuple[str, _Found]]:
    """The sets below a folder by name: each folder that is laid out as one, without looking below it."""
    for below in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        names = (*above, below.name)
        if found := _layout(below):
            yield "/".join(name for name in names if name not in _NOT_A_SET), found
        elif depth > 1:
            yield from _sets(below, names, depth - 1)


def _stems(folder: Path) -> list[tuple[str, Path]]:
    """The visible images of a folder, files and DICOM series, with their names without ending, sorted."""
    out = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if (path.name.lower().endswith(ENDINGS) and path.is_file()) or _is_series(path):
            out.append((unicodedata.normalize("NFC", stem_of(path)), path))
    return out


def _is_series(path: Path) -> bool:
    """Whether a folder is a DICOM series; one that cannot be read is none."""
    try:
        return path.is_dir() and is_dicom_series(path)
    except (InputError, OSError):
        return False


def _one(candidates: list[Path], case: str) -> Path | None:
    if len(candidates) > 1:
        raise InputError(
            f"root: expected one file, got {candidates[0]} and {candidates[1]} for {case}; "
            "remove one, or pass (image folder, mask folder)"
        )
    return candidates[0] if candidates else None


def _by_equal_names(image_dir: Path, mask_dir: Path) -> _Found:
    masks: dict[str, list[Path]] = {}
    for stem, file in _stems(mask_dir):
        masks.setdefault(stem, []).append(file)
    found: _Found = []
    for stem, image in _stems(image_dir):
        case = stem if stem in masks else stem.removesuffix("_0000")
        found.append((case, image, _one(masks.get(case, []), case)))
    return found


def _by_folders(root: Path) -> _Found:
    found: _Found = []
    for image_name, mask_names in _FOLDERS:
        masks = [root / name for name in mask_names if (root / name).is_dir()]
        if masks and (root / image_name).is_dir():
            mask_dir = _one(masks, f"the masks of {image_name}/")
            assert mask_dir is not None
            found += _by_equal_names(root / image_name, mask_dir)
    return found


def _by_suffixes(root: Path) -> _Found:
    files = _stems(root)

    def cases(suffixes: tuple[str, ...]) -> dict[str, list[Path]]:
        out: dict[str, list[Path]] = {}
        for stem, file in files:
            for suffix in suffixes:
                if stem.endswith(suffix) and stem != suffix:
                    out.setdefault(stem.removesuffix(suffix), []).append(file)
        return out

    images, masks = cases(_IMAGE_SUFFIXES), cases(_MASK_SUFFIXES)
    if not images.keys() & masks.keys():
        return []
    found: _Found = [
        (case, image, _one(masks.get(case, []), case))
        for case, several in images.items()
        if (image := _one(several, case))
    ]
    plain = [(stem, file) for stem, file in files if not stem.endswith((*_IMAGE_SUFFIXES, *_MASK_SUFFIXES))]
    return found + [(stem, file, None) for stem, file in plain]


def _by_case_folders(root: Path) -> _Found:
    found: _Found = []
    for folder in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")):
        stems = _stems(folder)
        for image_stem, mask_stem in _IN_FOLDER:
            image = _one([f for s, f in stems if s == image_stem], folder.name)
            if image is not None:
                found.append((folder.name, image, _one([f for s, f in stems if s == mask_stem], folder.name)))
                break
    return found
