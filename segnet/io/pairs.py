"""Which image belongs to which mask, and which case to which patient."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from segnet.errors import InputError
from segnet.io.dicom import is_dicom_series
from segnet.io.names import case_of, files_in, nfc, readings, role_of, says_only_its_role, stem_of

_MASK_FOLDERS = ("labels", "label", "nodule_mask", "mask", "masks")
_FOLDERS = (  # image folder, mask folders that may stand beside it
    ("imagesTr", ("labelsTr",)),
    ("imagesTs", ("labelsTs",)),
    ("images", _MASK_FOLDERS),
    ("image", _MASK_FOLDERS),
)
_LAYOUTS = (
    "images/ + labels/ (or masks/, mask/, nodule_mask/, imagesTr/ + labelsTr/) with equal file "
    "names, <case>_ct.nii.gz + <case>_mask.nii.gz, <case>/CT_image.nii.gz + <case>/CT_mask.nii.gz, or folders of these"
)
_DEPTH = 4
"""Levels of folders that are searched: novel_data/ULS23_DeepLesion3D is two."""
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
    """One case: image (a file or the folder of a DICOM series), mask of its lesion, patient, and set (collection)."""

    case: str
    patient: str
    image: Path
    mask: Path
    set: str = ""


class PairList(list[Pair]):
    """Pairs sorted by case.

    Attributes
    ----------
    unpaired_images : images that no mask belongs to, sorted
    """

    def __init__(self, pairs: Iterable[Pair], unpaired_images: Iterable[Path] = ()) -> None:
        super().__init__(sorted(pairs, key=lambda pair: pair.case))
        self.unpaired_images = sorted(unpaired_images)


def patient_id(case: str, regex: str | None = None) -> str:
    """The patient of a case, who must not be on both sides of a split.

    Six leading digits (ULS23 DeepLesion), ``LIDC-IDRI-`` and its number, the text before ``_lesion``, or else the case itself.

    Parameters
    ----------
    regex : searched in `case` instead; its first group is the patient

    Raises
    ------
    InputError
        `regex` is no regular expression with a group, or does not match.

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
        own = re.compile(nfc(regex))
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
    """The collection by a case's name: DeepLesion for six digits, otherwise the words before the first number; may be empty.

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
    """Pair the images of a folder with their masks, sorted by case. Names are read by `segnet.io.names`.

    Parameters
    ----------
    root : (image folder, mask folder), or one folder that holds, by preference,

        - images/ beside labels/, masks/, mask/ or nodule_mask/, or imagesTr/ beside labelsTr/, with equal names
          but for suffixes (`_ct`, `_0000`, `_mask`, `-label`, `.seg`, ...);
        - ``<case>_ct.nii.gz`` or ``<case>.nii.gz`` beside ``<case>_mask.nii.gz``, any suffix of an image or mask in their place;
        - a folder for each case with an image and a mask that are called so: CT_image.nii.gz and CT_mask.nii.gz,
          image.nii.gz and mask.nii.gz, or one image of any name and Segmentation.seg.nrrd;
        - folders of any of these, as ULS23 is laid out: each is a set, called after its folder

        An image may be a file or the folder of a DICOM series.
    patient_regex : see `patient_id`
    set_name : set of all cases if `root` is no folder of sets; empty takes `set_of`

    Returns
    -------
    Pairs, and images without a mask. A case that two sets share is called ``<set>_<case>`` in both.

    Raises
    ------
    NoPairs
        There is no pair.
    InputError
        A folder is missing, or several files could be a case's image or mask.
    """
    if isinstance(root, tuple):
        image_dir, mask_dir = (_folder(part) for part in root)
        found = {set_name: _matched(volumes_in(image_dir), volumes_in(mask_dir))}
        where = f"{image_dir} and {mask_dir}"
        expected = "equal file names in both"
    else:
        folder = _folder(root)
        found = {set_name: here} if (here := _layout(folder)) else {}
        if not here:
            for name, several in _sets(folder, (), _DEPTH):
                found.setdefault(name, []).extend(several)  # two folders may belong to one set
        where, expected = str(folder), _LAYOUTS
    if not any(mask for several in found.values() for _, _, mask in several):
        raise NoPairs(f"root: expected {expected}; got no such pair in {where}; name the folder above the files")
    pairs = [
        Pair(case, patient_id(case, patient_regex), image, mask, name or set_of(case))
        for name, several in found.items()
        for case, image, mask in several
        if mask is not None
    ]
    return PairList(
        _told_apart(pairs), (image for several in found.values() for _, image, mask in several if mask is None)
    )


def image_case(image: Path) -> str:
    """The case of an image without a mask: its name without suffixes, or its folder's if the name is only ``image`` or the like."""
    return nfc(image.parent.name) if says_only_its_role(image) else case_of(image, "image")


def gather(lists: Sequence[PairList]) -> PairList:
    """Several lists as one. A case that two sets share is called ``<set>_<case>`` in both."""
    pairs = _told_apart([pair for one in lists for pair in one])
    return PairList(pairs, (path for one in lists for path in one.unpaired_images))


def volumes_in(folder: Path) -> list[Path]:
    """The volumes that lie in a folder itself, files by name and DICOM series by content; not maps beside masks."""
    series = [path for path in folder.iterdir() if not path.name.startswith(".") and _is_series(path)]
    return sorted([*files_in(folder), *series])


def _told_apart(pairs: list[Pair]) -> list[Pair]:
    """Puts the set's name before a case that several sets share; refuses a case that one set has twice."""
    first: dict[tuple[str, str], Pair] = {}
    for pair in pairs:
        other = first.setdefault((pair.set, pair.case), pair)
        if other is not pair:
            raise InputError(
                f"root: expected one image for each case, got {other.image} and {pair.image} "
                f"for {pair.case}; remove or rename one"
            )
    sets_with = Counter(pair.case for pair in pairs)
    return [
        pair if sets_with[pair.case] == 1 else replace(pair, case=f"{pair.set.replace('/', '_')}_{pair.case}")
        for pair in pairs
    ]


_Found = list[tuple[str, Path, "Path | None"]]


def _folder(path: str | Path) -> Path:
    folder = Path(path)
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else "does not exist"
        raise InputError(f"root: expected a folder, got {folder}, which {problem}; check the name")
    return folder


def _folders_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _layout(folder: Path) -> _Found:
    return _by_folders(folder) or _by_suffixes(folder) or _by_case_folders(folder)


def _sets(folder: Path, above: tuple[str, ...], depth: int) -> Iterator[tuple[str, _Found]]:
    """The sets below a folder by name: each folder that is laid out as one, without looking below it."""
    for below in _folders_in(folder):
        names = (*above, nfc(below.name))
        if found := _layout(below):
            yield "/".join(name for name in names if name not in _NOT_A_SET), found
        elif depth > 1:
            yield from _sets(below, names, depth - 1)


def _is_series(path: Path) -> bool:
    """Whether a folder is a DICOM series; one that cannot be read is none."""
    try:
        return is_dicom_series(path)
    except (InputError, OSError):
        return False


def _one(candidates: list[Path], case: str) -> Path | None:
    if len(candidates) > 1:
        raise InputError(
            f"root: expected one file, got {candidates[0]} and {candidates[1]} for {case}; "
            "remove one, or pass (image folder, mask folder)"
        )
    return candidates[0] if candidates else None


def _matched(images: list[Path], masks: list[Path]) -> _Found:
    """Each image with its case and mask. A mask of exactly that name comes before one with suffixes."""
    exact, named = defaultdict[str, list[Path]](list), defaultdict[str, list[Path]](list)
    for mask in masks:
        exact[stem_of(mask)].append(mask)
        named[case_of(mask, "mask")].append(mask)
    found: _Found = []
    for image in images:
        claims = ((case, exact.get(case) or named.get(case)) for case in readings(image))
        case, mine = next(((case, some) for case, some in claims if some), (image_case(image), []))
        found.append((case, image, _one(mine, case)))
    return found


def _by_folders(root: Path) -> _Found:
    folders = defaultdict[str, list[Path]](list)
    for path in _folders_in(root):
        folders[path.name.lower()].append(path)
    found: _Found = []
    for image_name, mask_names in _FOLDERS:
        image_dir = _one(folders[image_name.lower()], f"{image_name}/")
        mask_dir = image_dir and _one(
            [path for name in mask_names for path in folders[name.lower()]], f"the masks of {image_name}/"
        )
        if image_dir and mask_dir:
            found += _matched(volumes_in(image_dir), volumes_in(mask_dir))
    return found


def _by_suffixes(root: Path) -> _Found:
    files = volumes_in(root)
    found = _matched([p for p in files if role_of(p) != "mask"], [p for p in files if role_of(p) == "mask"])
    return found if any(mask for _, _, mask in found) else []


def _by_case_folders(root: Path) -> _Found:
    found: _Found = []
    for folder in _folders_in(root):
        files = volumes_in(folder)
        masks = _of_ct([p for p in files if role_of(p) == "mask" and says_only_its_role(p)])
        images = [p for p in files if role_of(p) != "mask"]
        image = _one(_of_ct([p for p in images if says_only_its_role(p)]), folder.name)
        if image is None and len(images) == 1:
            image = images[0]
        if image is not None:
            found.append((nfc(folder.name), image, _one(masks, folder.name)))
    return found if any(mask for _, _, mask in found) else []


def _of_ct(paths: list[Path]) -> list[Path]:
    """Those of a CT beside other scans, if any is called so."""
    return [path for path in paths if stem_of(path).lower().startswith("ct")] or paths
