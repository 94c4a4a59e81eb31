"""The files of predictions, truths and images, and how they belong together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segnet.config import PrepareConfig
from segnet.dataset.store import INDEX, PatientFile, PreparedDataset, load_dataset
from segnet.errors import InputError
from segnet.io.names import ENDINGS, PROBABILITY, beside, case_of, files_in, nfc, readings, role_of, stem_of
from segnet.io.pairs import NoPairs, Pair, find_pairs, patient_id, set_of
from segnet.io.volumes import read_image, read_mask

GRID_TOLERANCE_MM = 1e-3


@dataclass(frozen=True, eq=False)
class Grid:
    """A mask on its grid: bool (Z, Y, X), affine of the canonical (X, Y, Z) volume, mm of (Z, Y, X)."""

    mask: NDArray[np.bool_]
    affine: NDArray[np.float64]
    spacing_zyx_mm: tuple[float, float, float]


@dataclass(frozen=True)
class Truth:
    """One lesion's true mask, a file or a case of a prepared dataset, and its image if that is known.

    Attributes
    ----------
    collection : the set of the case (`segnet.io.pairs.set_of`)
    prepared : how the dataset was prepared, if `mask` is one of its HDF5 files
    image : its file; None for a prepared case, which has its own
    """

    case: str
    patient: str
    collection: str
    mask: Path
    prepared: PrepareConfig | None = None
    image: Path | None = None

    def load(self) -> Grid:
        """Reads the mask; InputError if that fails."""
        if self.prepared is None:
            return read_grid(self.mask)
        with PatientFile(self.mask, self.prepared) as file:
            mask = file.mask(self.case).astype(bool)
            return Grid(mask, file.affine(self.case), file.spacing_zyx_mm(self.case))

    def load_image(self, grid: Grid) -> NDArray[np.float32] | None:
        """The image in HU (Z, Y, X), or None; that of a prepared case is clipped to its window.

        Raises
        ------
        InputError
            It cannot be read or lies on another grid than the mask.
        """
        if self.prepared is not None:
            with PatientFile(self.mask, self.prepared) as file:
                image: NDArray[np.float32] = file.image(self.case).astype(np.float32)
                return image
        return None if self.image is None else read_map(self.image, grid, self.case)


def require_text(argument: str, names: Iterable[str]) -> None:
    """Raises InputError for a name that is not UTF-8 on disk, and so cannot be written into a file."""
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise InputError(f"{argument}: expected names in UTF-8, got {name!r}; rename the file") from None


def read_grid(path: Path) -> Grid:
    """A mask file with its grid."""
    volume = read_mask(path)
    return Grid(np.ascontiguousarray(volume.array_zyx).astype(bool), volume.affine, volume.spacing_zyx_mm)


def read_map(path: Path, like: Grid, case: str) -> NDArray[np.float32]:
    """An image or a map of probabilities on the grid of a mask, (Z, Y, X) float32; InputError on another grid."""
    volume = read_image(path)
    require_same_grid(volume.array_zyx.shape, volume.affine, like, path, case)
    found: NDArray[np.float32] = volume.array_zyx
    return found


def require_same_grid(
    shape_zyx: tuple[int, ...], affine: NDArray[np.float64], truth: Grid, path: Path, case: str
) -> None:
    """Raises InputError unless a file's voxels lie on the truth's."""
    if shape_zyx != truth.mask.shape:
        raise InputError(
            f"{path}: expected shape {truth.mask.shape[::-1]} like the truth of {case}, "
            f"got {shape_zyx[::-1]}; resample it onto the truth's grid"
        )
    corners = np.array([[x, y, z, 1.0] for z in (0, 1) for y in (0, 1) for x in (0, 1)])
    corners[:, :3] *= np.array(truth.mask.shape[::-1]) - 1
    offset_mm = float(np.abs(corners @ (affine - truth.affine).T).max())
    if not offset_mm <= GRID_TOLERANCE_MM:
        raise InputError(
            f"{path}: expected the grid of the truth of {case} within {GRID_TOLERANCE_MM} mm, "
            f"got corners {offset_mm:.4g} mm away; resample it onto the truth's grid"
        )


def find_truths(truths: Path | str | PreparedDataset | Sequence[Pair], patient_regex: str | None) -> list[Truth]:
    """The truths in order of case, each case once."""
    if isinstance(truths, PreparedDataset):
        found = _from_prepared(truths, patient_regex)
    else:
        found = _truths_at(Path(truths), patient_regex) if isinstance(truths, str | Path) else _from_pairs(truths)
    require_text("truths", (f"{t.case} {t.patient} {t.mask} {t.image}" for t in found))
    found.sort(key=lambda t: t.case)
    twice = sorted(case for case, n in Counter(t.case for t in found).items() if n > 1)
    if twice:
        raise InputError(f"truths: expected each case once, got {few(twice)} more than once; rename the files")
    if not found:
        raise InputError(f"truths: expected at least one truth mask, got none in {truths}; see `evaluate` for layouts")
    return found


def _from_pairs(pairs: Sequence[Pair]) -> list[Truth]:
    return [Truth(nfc(p.case), p.patient, p.set or set_of(p.case), Path(p.mask), image=Path(p.image)) for p in pairs]


def _truths_at(root: Path, patient_regex: str | None) -> list[Truth]:
    if not root.exists():
        raise InputError(f"truths: expected a file or folder, got {root}, which does not exist; check the path")
    if (root / INDEX).is_file():
        return _from_prepared(load_dataset(root), patient_regex)
    masks = [root] if root.is_file() else files_in(root)
    roles = set() if root.is_file() else {role_of(p) for p in masks}
    if not masks or "image" in roles or roles == {"mask", "plain"}:
        try:
            return _from_pairs(find_pairs(root, patient_regex=patient_regex))
        except NoPairs:
            if not masks or "image" in roles:
                raise
    named = [(case_of(p, "mask"), p) for p in masks]
    return [Truth(case, patient_id(case, patient_regex), set_of(case), p) for case, p in named]


def _from_prepared(dataset: PreparedDataset, patient_regex: str | None) -> list[Truth]:
    if dataset.config.route != "hu":
        raise InputError(
            f"truths: expected a dataset prepared by the route hu, whose grid is the image's, got {dataset.config.route} in {dataset.root};"
            " give the folder of the true masks"
        )
    return [
        Truth(
            c.case,
            c.patient if patient_regex is None else patient_id(c.case, patient_regex),
            c.set or set_of(c.case),
            dataset.path_of(c),
            prepared=dataset.config,
        )
        for c in dataset.cases
    ]


def match(predictions: Path, truths: Sequence[Truth], *, single: bool) -> tuple[dict[str, Path], list[str]]:
    """Prediction file of each case, and the names of the files that belong to none."""
    if not predictions.exists():
        raise InputError(
            f"predictions: expected a file or folder, got {predictions}, which does not exist; check the path"
        )
    if predictions.is_file() and single and len(truths) == 1:
        return {truths[0].case: predictions}, []
    files = [predictions] if predictions.is_file() else files_in(predictions)
    require_text("predictions", map(str, files))
    known = {t.case for t in truths}
    claims: dict[str, dict[int, list[Path]]] = {}
    unmatched = []
    for path in files:
        rank, case = next(((k, case) for k, case in enumerate(readings(path)) if case in known), (0, None))
        if case is None:
            unmatched.append(path.name)
        else:
            claims.setdefault(case, {}).setdefault(rank, []).append(path)
    matched = {}
    for case, by_rank in claims.items():
        best, *others = (by_rank[rank] for rank in sorted(by_rank))
        if len(best) > 1:
            raise InputError(
                f"predictions: expected one file for case {case}, got {few([p.name for p in best])}; keep one of them"
            )
        matched[case] = best[0]
        unmatched += [p.name for group in others for p in group]
    return matched, sorted(unmatched)


def map_beside(mask: Path, suffix: str = PROBABILITY) -> Path | None:
    """The map that `segnet predict` writes beside a mask, such as of probabilities, None where there is none."""
    found = [beside(mask, f"{suffix}{ending}") for ending in ENDINGS]
    return next((path for path in found if path.is_file()), None)


def images_of(folder: Path, cases: Sequence[str]) -> dict[str, Path]:
    """Images by case in a folder of files named after the cases, also with `_ct`, `_image` and the like after them.

    Raises
    ------
    InputError
        There is no such folder, or two files are one case's.
    """
    if not folder.is_dir():
        raise InputError(f"images: expected a folder, got {folder}; check the path")
    known = set(cases)
    found: dict[str, Path] = {}
    files = files_in(folder)
    require_text("images", map(str, files))
    for path in files:
        case = next((case for case in readings(path) if case in known), None)
        if case is None or (role_of(path) == "mask" and case != stem_of(path)):
            continue
        if case in found:
            raise InputError(
                f"images: expected one file for case {case}, got {found[case].name} and {path.name}; keep one of them"
            )
        found[case] = path
    return found


def few(names: Sequence[str], n: int = 4) -> str:
    """The first of some names, and how many more there are."""
    shown = ", ".join(names[:n]) if names else "none"
    return f"{shown} and {len(names) - n:,} more" if len(names) > n else shown
