"""A thousand pairs of masks against implementations that share nothing with ours: brute force by cdist, MONAI, counts in Python."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.distance import cdist

from segnet import metrics

N = 1000
KINDS = ("noise", "blob", "empty", "voxel", "full", "border")


def one(rng: np.random.Generator, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    if kind == "noise":
        return rng.random(shape) < rng.uniform(0.05, 0.95)
    if kind == "blob":
        return ndimage.gaussian_filter(rng.standard_normal(shape), 1.2) > rng.uniform(-0.1, 0.2)
    if kind == "voxel":
        mask[tuple(rng.integers(0, n) for n in shape)] = True
    elif kind == "full":
        mask[:] = True
    elif kind == "border":  # touches a face of the array
        axis = int(rng.integers(len(shape)))
        side = [slice(None)] * len(shape)
        side[axis] = slice(0, 1) if rng.random() < 0.5 else slice(-1, None)
        mask[tuple(side)] = rng.random(mask[tuple(side)].shape) < 0.6
    return mask


def pairs(n: int = N) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """Number, prediction, truth, spacing: all kinds against all kinds, lengths of voxels apart by up to sixteen times."""
    rng = np.random.default_rng(44)
    for number in range(n):
        shape = tuple(int(s) for s in rng.integers(1, 10, 3))
        kinds = KINDS[number % 6], KINDS[number // 6 % 6]
        spacing = np.exp(rng.uniform(math.log(0.3), math.log(5.0), 3))
        yield number, one(rng, kinds[0], shape), one(rng, kinds[1], shape), spacing


def surface_points_mm(mask: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Centres of voxels with a neighbour outside, by shifting the padded array."""
    padded = np.pad(mask, 1)
    inner = padded.copy()
    for axis in range(mask.ndim):
        inner &= np.roll(padded, 1, axis) & np.roll(padded, -1, axis)
    return np.argwhere((padded & ~inner)[(slice(1, -1),) * mask.ndim]) * spacing


def brute_force(pred: np.ndarray, truth: np.ndarray, spacing: np.ndarray) -> dict[str, float]:
    p, t = surface_points_mm(pred, spacing), surface_points_mm(truth, spacing)
    if not (len(p) and len(t)):
        value = 0.0 if len(p) == len(t) else math.inf
        return dict.fromkeys(("asd_mm", "assd_mm", "hd_mm", "hd95_mm"), value)
    distances = cdist(p, t)
    there, back = distances.min(axis=1), distances.min(axis=0)
    return {
        "asd_mm": there.sum() / len(p),
        "assd_mm": (there.sum() + back.sum()) / (len(p) + len(t)),
        "hd_mm": max(there.max(), back.max()),
        "hd95_mm": max(np.quantile(there, 0.95), np.quantile(back, 0.95)),
    }


def overlap(pred: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    p, t = ({tuple(i) for i in np.argwhere(m).tolist()} for m in (pred, truth))
    return {
        "dice": 2 * len(p & t) / (len(p) + len(t)) if p or t else math.nan,
        "iou": len(p & t) / len(p | t) if p or t else math.nan,
        "ravd": abs(len(p) - len(t)) / len(t) if t else math.inf if p else 0.0,
    }


def test_a_thousand_pairs_against_brute_force() -> None:
    seen = {"both empty": 0, "one empty": 0, "both": 0}
    for _, pred, truth, spacing in pairs():
        seen["both" if pred.any() and truth.any() else "both empty" if pred.any() == truth.any() else "one empty"] += 1
        scores = metrics.score_lesion(pred, truth, spacing)
        for name, expected in (brute_force(pred, truth, spacing) | overlap(pred, truth)).items():
            assert getattr(scores, name) == pytest.approx(expected, rel=1e-6, abs=1e-6, nan_ok=True), name
    assert min(seen.values()) > 20


@pytest.mark.parametrize("n", [200, pytest.param(N, marks=pytest.mark.slow)])
def test_many_pairs_against_monai(n: int) -> None:
    torch = pytest.importorskip("torch")
    monai = pytest.importorskip("monai.metrics")
    compared = 0
    for number, pred, truth, spacing in pairs(n):
        if not (pred.any() and truth.any()):
            continue  # its values for empty masks are other conventions
        p, t = (torch.from_numpy(m[None, None].astype(np.float32)) for m in (pred, truth))
        # It returns float32: half a unit in the last place, 6e-8, of a value below 1.
        assert metrics.dice(pred, truth) == pytest.approx(float(monai.compute_dice(p, t)), abs=1e-6)
        assert metrics.iou(pred, truth) == pytest.approx(float(monai.compute_iou(p, t)), abs=1e-6)
        if number % 5:
            continue
        common: dict[str, Any] = {"include_background": True, "spacing": spacing.tolist()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            found = {
                "assd_mm": monai.compute_average_surface_distance(p, t, symmetric=True, **common),
                "asd_mm": monai.compute_average_surface_distance(p, t, symmetric=False, **common),
                "hd_mm": monai.compute_hausdorff_distance(p, t, **common),
                "hd95_mm": monai.compute_hausdorff_distance(p, t, percentile=95, **common),
            }
        for name, value in found.items():
            # Distances in float32, and sums of up to some thousand of them: 2^-24 for each step of a pairwise sum.
            assert getattr(metrics, name)(pred, truth, spacing) == pytest.approx(float(value), rel=2e-6, abs=1e-6), name
        compared += 1
    assert compared > n // 15


@pytest.mark.parametrize("seed", range(4))
def test_boxes_exactly(seed: int) -> None:
    """A box moved along one axis, and one grown by a margin: all distances are whole voxels."""
    rng = np.random.default_rng(seed)
    spacing = rng.uniform(0.4, 4.0, 3)
    shape, low = (20, 22, 24), np.array([6, 6, 6])
    size = rng.integers(3, 7, 3)
    truth = np.zeros(shape, bool)
    truth[tuple(slice(a, a + n) for a, n in zip(low, size, strict=True))] = True
    moved = np.roll(truth, 2, axis=1)
    assert metrics.hd_mm(moved, truth, spacing) == pytest.approx(2 * spacing[1], rel=1e-12)
    kept = size[1] - 2
    assert metrics.dice(moved, truth) == pytest.approx(2 * kept / (2 * size[1]), rel=1e-15)
    assert metrics.iou(moved, truth) == pytest.approx(kept / (size[1] + 2), rel=1e-15)
    grown = np.zeros(shape, bool)
    grown[tuple(slice(a - 1, a + n + 1) for a, n in zip(low, size, strict=True))] = True
    # The farthest voxel of the larger surface is its corner; the middle of a face is one voxel away.
    assert metrics.hd_mm(grown, truth, spacing) == pytest.approx(float(np.linalg.norm(spacing)), rel=1e-12)
    assert metrics.volume_ml(grown, spacing) == pytest.approx(float(np.prod((size + 2) * spacing)) / 1000, rel=1e-12)
    assert metrics.ravd(grown, truth) == pytest.approx(np.prod(size + 2) / np.prod(size) - 1, rel=1e-12)
    # A box inside of the other is one voxel away everywhere: along the axis where voxels are shortest.
    there, back = metrics.surface_distances_mm(truth, grown, spacing)
    assert there.min() == pytest.approx(spacing.min(), rel=1e-12)
    assert back.max() == pytest.approx(float(np.linalg.norm(spacing)), rel=1e-12)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.5, 0.7, 0.8), (0.6, 1.9, 1.1)])
def test_spheres_within_what_voxels_allow(spacing: tuple[float, float, float]) -> None:
    """Concentric balls of radius 12 and 9 mm: every voxel of a digital surface lies within one diagonal inside of its sphere."""
    shape = tuple(math.ceil(2 * 13 / s) + 3 for s in spacing)
    offsets = [(np.arange(n) - n // 2) * s for n, s in zip(shape, spacing, strict=True)]
    radius = np.sqrt(sum(o**2 for o in np.meshgrid(*offsets, indexing="ij")))
    outer, inner = radius <= 12.0, radius <= 9.0
    diagonal = math.hypot(*spacing)
    for value in (metrics.asd_mm, metrics.assd_mm, metrics.hd_mm, metrics.hd95_mm):
        assert 3.0 - diagonal <= value(outer, inner, spacing) <= 3.0 + diagonal
    # Voxels whose centres lie in a ball fill one between the radii r ± half a diagonal.
    for mask, r in ((outer, 12.0), (inner, 9.0)):
        low, high = (4 / 3 * math.pi * (r + side * diagonal / 2) ** 3 / 1000 for side in (-1, 1))
        assert low <= metrics.volume_ml(mask, spacing) <= high
        long_mm, short_mm = metrics.recist_axes_mm(mask, spacing)
        in_plane = math.hypot(*spacing[1:])
        assert 2 * r - 2 * in_plane <= short_mm <= long_mm <= 2 * r + in_plane
