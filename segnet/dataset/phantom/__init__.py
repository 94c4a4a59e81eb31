"""Phantom CT volumes with one lesion each, for trials and tests where no patient data may go.

One torso is modelled in mm about its middle, x to the right, y to the front and z to the head of the patient,
with the domes of the diaphragm at z = 0. A volume is a window into it with the lesion in the middle, as in
ULS23: body wall with ribs, spine, lungs or abdominal organs, branching vessels as bright as lesions, texture
and correlated noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from segnet.dataset.phantom.scene import Scene
from segnet.errors import InputError
from segnet.io.nifti import save_nifti
from segnet.io.pairs import Pair, patient_id, set_of

SITES = ("lung", "lung", "liver", "liver", "kidney", "node", "spleen", "bone")
_nifti1_image: Any = nib.Nifti1Image


def make_phantom(
    seed: int,
    *,
    shape: tuple[int, int, int] = (256, 256, 128),
    spacing_mm: tuple[float, float, float] = (0.8, 0.8, 1.5),
    sites: tuple[str, ...] = SITES,
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """A CT volume in HU and the mask of its one lesion.

    The lesion lies in a lung (solid, spiculated or ground glass), the liver (hypodense or with a necrotic
    core), a kidney, the spleen, beside the aorta (a node) or in a vertebra (lytic). The middle voxel belongs
    to it. Its diameter is about 8 to 50 mm, less where the volume is small. Three volumes in ten have a
    constant border, one below the lowest value inside, as ULS23 has where its window leaves the scan.

    Parameters
    ----------
    seed : equal seeds give equal volumes
    shape : (X, Y, Z), at least 16 voxels each
    spacing_mm : along X, Y, Z
    sites : where the lesion may lie, one drawn at even odds; a site named twice is twice as likely

    Returns
    -------
    image : int16 (X, Y, Z), HU, axes to the right, front and head
    mask : uint8 (X, Y, Z), 0 and 1, one component

    Raises
    ------
    InputError
        If the shape or the spacing is none, the seed is negative, or a site is unknown.
    """
    _check(seed, shape, spacing_mm, sites)
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    return Scene(rng, shape, spacing_mm, sites).render()


def write_phantoms(
    out: str | Path,
    n_cases: int,
    *,
    n_patients: int | None = None,
    seed: int = 0,
    shape: tuple[int, int, int] = (256, 256, 128),
    spacing_mm: tuple[float, float, float] = (0.8, 0.8, 1.5),
    sites: tuple[str, ...] = SITES,
    progress: Callable[[int, int], None] | None = None,
) -> list[Pair]:
    """Write phantoms as ``<out>/images/phantom_0001_lesion_01.nii.gz`` and so on, masks in ``<out>/labels``.

    Parameters
    ----------
    out : a new folder, or one whose images/ and labels/ are empty
    n_cases : number of volumes
    n_patients : number of patient names the cases are dealt to in turn; a patient for each case if None. The
        anatomy is drawn anew for each case.
    seed : equal seeds give equal files
    shape, spacing_mm, sites : see `make_phantom`
    progress : called with (cases done, cases in all) after each case

    Returns
    -------
    list of Pair
        In the order written.

    Raises
    ------
    InputError
        If a number is below 1, `n_patients` exceeds `n_cases`, or `out` already holds images.
    """
    n_patients = n_cases if n_patients is None else n_patients
    if n_cases < 1:
        raise InputError(f"n_cases: expected at least 1, got {n_cases}; ask for more")
    if not 1 <= n_patients <= n_cases:
        raise InputError(f"n_patients: expected 1 to {n_cases}, got {n_patients}; every patient has a case")
    _check(seed, shape, spacing_mm, sites)
    folders = Path(out) / "images", Path(out) / "labels"
    for folder in folders:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"out: expected a new or empty folder, got {folder} with content; choose another")
        folder.mkdir(parents=True, exist_ok=True)
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = [-0.5 * n * s for n, s in zip(shape, spacing_mm, strict=True)]
    pairs = []
    for i, child in enumerate(np.random.SeedSequence(seed).generate_state(n_cases, np.uint32)):
        case = f"phantom_{i % n_patients + 1:04d}_lesion_{i // n_patients + 1:02d}"
        files = [folder / f"{case}.nii.gz" for folder in folders]
        arrays = make_phantom(int(child), shape=shape, spacing_mm=spacing_mm, sites=sites)
        for array, file in zip(arrays, files, strict=True):
            image = _nifti1_image(array, affine)
            image.header.set_xyzt_units("mm")
            save_nifti(image, file)
        pairs.append(Pair(case, patient_id(case), files[0], files[1], set_of(case)))
        if progress is not None:
            progress(i + 1, n_cases)
    return pairs


def _check(
    seed: int, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], sites: tuple[str, ...]
) -> None:
    if seed < 0:
        raise InputError(f"seed: expected a number from 0, got {seed}; drop the sign")
    if len(shape) != 3 or min(shape) < 16:
        raise InputError(f"shape: expected (X, Y, Z) of at least 16 voxels each, got {shape}; enlarge it")
    if len(spacing_mm) != 3 or not all(math.isfinite(s) and 0.1 <= s <= 10 for s in spacing_mm):
        raise InputError(f"spacing_mm: expected three lengths from 0.1 to 10 mm, got {spacing_mm}; give X, Y, Z in mm")
    unknown = sorted(set(sites) - set(SITES))
    if unknown or not sites:
        raise InputError(
            f"sites: expected some of {', '.join(dict.fromkeys(SITES))}, got {', '.join(unknown) or 'none'}; check the spelling"
        )
