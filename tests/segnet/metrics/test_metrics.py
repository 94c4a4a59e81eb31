"""Metrics against hand counts, MONAI, and laws that any pair of masks must obey."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from segnet import metrics
from segnet.errors import InputError

EMPTY = np.zeros((2, 4, 5), dtype=bool)
masks = hnp.arrays(bool, (4, 5, 6))
spacings = st.tuples(*[st.floats(0.3, 5.0)] * 3)


def box(shape: tuple[int, ...], *bounds: tuple[int, int]) -> np.ndarray:
    out = np.zeros(shape, dtype=bool)
    out[tuple(slice(a, b) for a, b in bounds)] = True
    return out


def disc(radius_px: float, centre: tuple[float, float], size: int) -> np.ndarray:
    y, x = np.indices((size, size))
    return ((y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius_px**2)[None]


def random_blobs(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two overlapping random masks of shape (9, 11, 13) that touch the border of the array."""
    rng = np.random.default_rng(seed)
    base = rng.random((9, 11, 13))
    return base > 0.6, (base + 0.15 * rng.standard_normal(base.shape)) > 0.6


def test_overlap_counts_by_hand() -> None:
    pred, truth = np.array([1, 1, 1, 0, 0], bool), np.array([0, 1, 1, 1, 0], bool)
    assert metrics.dice(pred, truth) == pytest.approx(2 * 2 / 6, abs=0)
    assert metrics.iou(pred, truth) == pytest.approx(2 / 4, abs=0)
    assert metrics.ravd(pred, truth) == 0.0
    assert metrics.ravd(np.ones(5, bool), truth) == pytest.approx(2 / 3, rel=1e-15)


@pytest.mark.parametrize("score", [metrics.dice, metrics.iou])
def test_empty_masks_follow_the_named_convention(score: Callable[..., float]) -> None:
    some = box(EMPTY.shape, (0, 1), (0, 2), (0, 2))
    assert math.isnan(score(EMPTY, EMPTY))
    assert math.isnan(score(EMPTY, EMPTY, empty="skip"))
    assert score(EMPTY, EMPTY, empty="one") == 1.0
    assert score(EMPTY, EMPTY, empty="zero") == 0.0
    for convention in ("skip", "one", "zero"):
        assert score(some, EMPTY, empty=convention) == 0.0
        assert score(EMPTY, some, empty=convention) == 0.0
    with pytest.raises(InputError, match="empty: expected one of skip, one, zero, got 'nan'"):
        score(some, some, empty="nan")


def test_empty_masks_have_decided_volumes_and_distances() -> None:
    some, spacing = box(EMPTY.shape, (0, 1), (0, 2), (0, 2)), (1.0, 1.0, 1.0)
    assert metrics.ravd(EMPTY, EMPTY) == 0.0
    assert metrics.ravd(some, EMPTY) == math.inf
    assert metrics.ravd(EMPTY, some) == 1.0
    for distance in (metrics.assd_mm, metrics.hd95_mm):
        assert distance(EMPTY, EMPTY, spacing) == 0.0
        assert distance(some, EMPTY, spacing) == math.inf
        assert distance(EMPTY, some, spacing) == math.inf
    there, back = metrics.surface_distances_mm(EMPTY, some, spacing)
    assert there.size == 0
    assert np.array_equal(back, np.full(4, np.inf))


@pytest.mark.parametrize(
    "call",
    [
        metrics.dice,
        metrics.iou,
        metrics.ravd,
        metrics.paper_slice_scores,
        lambda p, t: metrics.assd_mm(p, t, (1, 1, 1)),
        lambda p, t: metrics.hd95_mm(p, t, (1, 1, 1)),
        lambda p, t: metrics.score_lesion(p, t, (1, 1, 1)),
    ],
)
def test_shapes_and_values_are_refused(call: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match=r"pred: expected shape \(2, 4, 5\) like truth, got \(2, 5, 4\)"):
        call(np.zeros((2, 5, 4), bool), EMPTY)
    with pytest.raises(InputError, match="truth: expected booleans or only 0 and 1, got int64 from 0 to 2"):
        call(EMPTY, np.where(box(EMPTY.shape, (0, 1), (0, 1), (0, 1)), 2, 0))
    with pytest.raises(InputError, match="pred: expected booleans"):
        call(np.full(EMPTY.shape, np.nan), EMPTY)


@pytest.mark.parametrize("spacing", [(1, 1), (1, 1, 0), (1, 1, -1), (1, 1, np.nan), (1, 1, np.inf)])
def test_spacing_is_checked(spacing: tuple[float, ...]) -> None:
    for call in (
        lambda: metrics.assd_mm(EMPTY, ~EMPTY, spacing),
        lambda: metrics.volume_ml(~EMPTY, spacing),
        lambda: metrics.recist_axes_mm(~EMPTY, spacing),
    ):
        with pytest.raises(InputError, match="spacing_mm: expected 3 positive lengths"):
            call()


def test_volume_in_millilitres() -> None:
    assert metrics.volume_ml(box((4, 20, 20), (0, 2), (0, 10), (0, 10)), (5.0, 1.0, 1.0)) == 1.0
    with pytest.raises(InputError, match="three axes"):
        metrics.volume_ml(np.ones((3, 3), bool), (1, 1, 1))


def test_distances_of_two_plates_by_hand() -> None:
    # Plates one voxel thick, 3 slices of 2.5 mm apart: every voxel is 7.5 mm from the other plate.
    pred, truth = box((6, 5, 5), (1, 2), (0, 5), (0, 5)), box((6, 5, 5), (4, 5), (0, 5), (0, 5))
    assert metrics.assd_mm(pred, truth, (2.5, 0.8, 0.8)) == 7.5
    assert metrics.hd95_mm(pred, truth, (2.5, 0.8, 0.8)) == 7.5
    # A line of 21 pixels against its first pixel: distances 0 … 20 one way, 0 the other.
    line, point = box((21,), (0, 21)), box((21,), (0, 1))
    assert metrics.hd95_mm(line[None], point[None], (1.0, 1.0)) == pytest.approx(19.0, rel=1e-15)
    assert metrics.assd_mm(line[None], point[None], (1.0, 1.0)) == pytest.approx(210 / 22, rel=1e-15)


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_monai(seed: int) -> None:
    torch = pytest.importorskip("torch")
    monai = pytest.importorskip("monai.metrics")
    pred, truth = random_blobs(seed)
    spacing = (2.5, 0.7, 0.8)
    p, t = (torch.from_numpy(m[None, None].astype(np.float32)) for m in (pred, truth))
    assert metrics.dice(pred, truth) == pytest.approx(float(monai.compute_dice(p, t)), rel=1e-6)
    assert metrics.iou(pred, truth) == pytest.approx(float(monai.compute_iou(p, t)), rel=1e-6)
    common = {"include_background": True, "spacing": spacing}
    assd = monai.compute_average_surface_distance(p, t, symmetric=True, **common)
    hd95 = monai.compute_hausdorff_distance(p, t, percentile=95, **common)
    # MONAI holds distances in float32: 2^-24 each, and a sum of some hundred of them.
    assert metrics.assd_mm(pred, truth, spacing) == pytest.approx(float(assd), rel=1e-5)
    assert metrics.hd95_mm(pred, truth, spacing) == pytest.approx(float(hd95), rel=1e-5)


@settings(max_examples=40, deadline=None)
@given(masks, masks, spacings)
def test_laws(pred: np.ndarray, truth: np.ndarray, spacing: tuple[float, float, float]) -> None:
    d, j = metrics.dice(pred, truth, empty="one"), metrics.iou(pred, truth, empty="one")
    assert j == pytest.approx(d / (2 - d), rel=1e-14)
    assert d == metrics.dice(truth, pred, empty="one")
    assert metrics.assd_mm(pred, pred, spacing) == metrics.hd95_mm(pred, pred, spacing) == 0.0
    assert metrics.hd95_mm(pred, truth, spacing) == metrics.hd95_mm(truth, pred, spacing)
    doubled = metrics.assd_mm(pred, truth, [2 * s for s in spacing])
    assert doubled == pytest.approx(2 * metrics.assd_mm(pred, truth, spacing), rel=1e-12)
    # The box around both masks changes nothing: background on every side leaves all distances as they are.
    padded = metrics.assd_mm(np.pad(pred, 3), np.pad(truth, 3), spacing)
    assert padded == pytest.approx(metrics.assd_mm(pred, truth, spacing), rel=1e-12)


def test_score_lesion_gathers_the_single_functions() -> None:
    pred, truth = random_blobs(7)
    spacing = (3.0, 0.9, 1.1)
    scores = metrics.score_lesion(pred, truth, spacing)
    assert scores == metrics.LesionScores(
        dice=metrics.dice(pred, truth),
        iou=metrics.iou(pred, truth),
        ravd=metrics.ravd(pred, truth),
        asd_mm=metrics.asd_mm(pred, truth, spacing),
        assd_mm=metrics.assd_mm(pred, truth, spacing),
        hd_mm=metrics.hd_mm(pred, truth, spacing),
        hd95_mm=metrics.hd95_mm(pred, truth, spacing),
        pred_volume_ml=metrics.volume_ml(pred, spacing),
        truth_volume_ml=metrics.volume_ml(truth, spacing),
    )


def test_bootstrap_mean_is_over_lesions_and_seeded() -> None:
    values = {"a": [0.2, 0.4, 0.6], "b": [1.0], "c": [math.nan], "d": []}
    mean, lo, hi = metrics.bootstrap_ci(values, seed=3)
    assert mean == pytest.approx(2.2 / 4, rel=1e-15)
    # Draws of two patients: both a (mean 0.4), both b (1.0), one of each (0.55).
    assert (lo, hi) == (pytest.approx(0.4), pytest.approx(1.0))
    assert metrics.bootstrap_ci(dict(reversed(values.items())), seed=3) == (mean, lo, hi)
    _, low, high = metrics.bootstrap_ci({"a": [0.2, 0.4, 0.6], "b": [1.0]}, level=0.2)
    assert low == high == pytest.approx(0.55)


def test_bootstrap_interval_covers_at_its_level() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        effects = rng.normal(0.7, 0.1, 40)
        sample = {f"p{i}": rng.normal(e, 0.02, 2).tolist() for i, e in enumerate(effects)}
        _, lo, hi = metrics.bootstrap_ci(sample, n=400, seed=trial)
        hits += lo <= 0.7 <= hi
    # 95 % of 200 with a standard deviation of 3.1; drawing lesions instead of patients covers near 83 %.
    assert 180 <= hits <= 200


def test_bootstrap_edges() -> None:
    mean, lo, hi = metrics.bootstrap_ci({"a": [0.5, 0.7]})
    assert mean == pytest.approx(0.6)
    assert math.isnan(lo)
    assert math.isnan(hi)
    mean, lo, hi = metrics.bootstrap_ci({"a": [1.0], "b": [math.inf], "c": [2.0]})
    assert (mean, lo, hi) == (math.inf, 1.0, math.inf)
    for bad in ({}, {"a": [math.nan]}):
        with pytest.raises(InputError, match="values_by_patient: expected at least one value"):
            metrics.bootstrap_ci(bad)
    with pytest.raises(InputError, match="level: expected a coverage between 0 and 1, got 95"):
        metrics.bootstrap_ci({"a": [1.0]}, level=95)
    with pytest.raises(InputError, match="n: expected at least 1 draw"):
        metrics.bootstrap_ci({"a": [1.0]}, n=0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_any_sample_is_consistent(dices: list[float]) -> None:
    assert metrics.check_consistency(float(np.mean(dices)), float(np.mean([d / (2 - d) for d in dices])))


def test_impossible_pairs_are_flagged() -> None:
    assert metrics.iou_bounds(1.0) == (1.0, 1.0)
    assert metrics.iou_bounds(0.0) == (0.0, 0.0)
    # The published pair: 0.9896 needs an IoU of at least 0.9794.
    assert metrics.iou_bounds(0.9896)[0] == pytest.approx(0.97941, abs=1e-5)
    assert not metrics.check_consistency(0.9896, 0.8265, tolerance=5e-5)
    assert not metrics.check_consistency(0.8, 0.81)
    with pytest.raises(InputError, match="mean_dice"):
        metrics.iou_bounds(98.96)


def test_all_background_baseline() -> None:
    lesion = box((8, 4, 4), (3, 5), (1, 3), (1, 3))
    baseline = metrics.all_background_baseline([lesion, np.zeros((4, 4, 4), bool)])
    assert baseline == metrics.Baseline(lesion_dice=0.0, slice_dice=10 / 12, n_lesions=1, n_slices=12)
    reduced = [lesion.any(axis=(1, 2), keepdims=True), np.zeros((4, 1, 1), bool)]
    assert metrics.all_background_baseline(reduced) == baseline
    # The same numbers by scoring an empty prediction under each convention.
    assert metrics.dice(np.zeros_like(lesion), lesion, empty="skip") == 0.0
    slices = [metrics.dice(np.zeros_like(s), s, empty="one") for s in lesion]
    assert np.mean(slices) == metrics.all_background_baseline([lesion]).slice_dice
    assert metrics.all_background_baseline([]) == metrics.Baseline(None, None, 0, 0)
    with pytest.raises(InputError, match="slice axis first"):
        metrics.all_background_baseline([np.ones(3, bool)])


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (6, 6), (3, 14), (20, 11)])
def test_axes_of_boxes(height: int, width: int) -> None:
    spacing = (3.0, 0.9, 0.6)
    mask = box((3, 30, 30), (1, 2), (4, 4 + height), (7, 7 + width))
    long_mm, short_mm = metrics.recist_axes_mm(mask, spacing)
    h, w, dy, dx = height * 0.9, width * 0.6, 0.9, 0.6
    assert long_mm == pytest.approx(max(math.hypot(h - dy, w), math.hypot(h, w - dx)), rel=1e-12)
    # The documented tolerance: one pixel below the rectangle's diagonal.
    assert math.hypot(h, w) - math.hypot(dy, dx) <= long_mm <= math.hypot(h, w) + 1e-9
    # Perpendicular to the diagonal, a chord between the long sides has length h diagonal / w.
    ideal = min(h, w) * math.hypot(h, w) / max(h, w)
    assert abs(short_mm - ideal) <= math.hypot(dy, dx)


@pytest.mark.parametrize("radius_px", [3.0, 6.5, 15.0])
def test_axes_of_discs(radius_px: float) -> None:
    rng = np.random.default_rng(1)
    for _ in range(10):
        size = int(2 * radius_px) + 8
        mask = disc(radius_px, tuple(size / 2 + rng.uniform(-0.5, 0.5, 2)), size)
        long_mm, short_mm = metrics.recist_axes_mm(mask, (1.0, 0.7, 0.7))
        assert 0.0 <= long_mm - 2 * radius_px * 0.7 <= 0.7
        assert abs(short_mm - 2 * radius_px * 0.7) <= 0.7
        assert short_mm <= long_mm


def test_axes_of_a_turned_ellipse() -> None:
    y, x = np.indices((80, 80)) - 40.0
    along, across = (x + y) / math.sqrt(2), (x - y) / math.sqrt(2)
    mask = ((along / 30) ** 2 + (across / 12) ** 2 <= 1)[None]
    long_mm, short_mm = metrics.recist_axes_mm(mask, (1, 1, 1))
    assert abs(long_mm - 60) <= 1
    assert abs(short_mm - 24) <= 1


def test_axes_take_the_slice_and_part_of_the_longest_diameter() -> None:
    mask = box((4, 40, 40), (1, 2), (2, 12), (2, 4)) | box((4, 40, 40), (2, 3), (2, 6), (2, 6))
    one_slice = mask[1:2]
    assert metrics.recist_axes_mm(mask, (1, 1, 1)) == metrics.recist_axes_mm(one_slice, (1, 1, 1))
    # A speck far away does not stretch the axis.
    speck = mask | box((4, 40, 40), (1, 2), (39, 40), (39, 40))
    assert metrics.recist_axes_mm(speck, (1, 1, 1)) == metrics.recist_axes_mm(mask, (1, 1, 1))
    assert metrics.recist_axes_mm(np.zeros((2, 3, 4), bool), (1, 1, 1)) == (0.0, 0.0)
    assert metrics.recist_axes_mm(box((1, 3, 3), (0, 1), (1, 2), (1, 2)), (1, 1, 1)) == (1.0, 1.0)
    with pytest.raises(InputError, match=r"mask_zyx: expected shape \(Z, Y, X\)"):
        metrics.recist_axes_mm(np.ones((3, 3), bool), (1, 1, 1))


def test_axes_against_all_pairs_of_directions() -> None:
    """The diameter is the largest width of the hull over all directions."""
    rng = np.random.default_rng(5)
    mask = np.zeros((1, 24, 24), bool)
    walk = np.cumsum(rng.integers(-1, 2, (120, 2)), axis=0) % 12 + 6
    mask[0, walk[:, 0], walk[:, 1]] = True
    mask[0, 6:18, 12] = True
    mask[0, 12, 6:18] = True
    labels, n = ndimage.label(mask[0], structure=np.ones((3, 3)))
    spacing = np.array([0.8, 1.3])
    widest = 0.0
    for part in range(1, n + 1):
        points = np.argwhere(labels == part)[:, None] + np.array([[0.5, 0], [-0.5, 0], [0, 0.5], [0, -0.5]])
        points = points.reshape(-1, 2) * spacing
        angles = np.linspace(0, math.pi, 20001)
        spread = points @ np.stack([np.cos(angles), np.sin(angles)])
        widest = max(widest, float(np.ptp(spread, axis=0).max()))
    # An angle off by pi / 40000 shortens a width by less than 1 - cos(8e-5) = 3e-9.
    assert metrics.recist_axes_mm(mask, (1, *spacing))[0] == pytest.approx(widest, rel=1e-8)


def test_uls23_score() -> None:
    assert metrics.uls23_score(1.0, 0.0, 0.0, 1.0) == pytest.approx(1.0, rel=1e-15)
    assert metrics.uls23_score(0.5, 0.2, 0.4, 0.9) == pytest.approx(0.4 + 0.04 + 0.03 + 0.09, rel=1e-15)
    assert metrics.axis_error(0.0, 0.0) == 0.0
    assert metrics.axis_error(0.0, 12.0) == 1.0
    with pytest.raises(InputError, match="consistency: expected a value in"):
        metrics.uls23_score(0.5, 0.2, 0.4, 1.2)


def test_paper_convention_is_directed_and_by_slice() -> None:
    truth = box((4, 9, 9), (1, 3), (2, 7), (2, 7))
    inside = box((4, 9, 9), (1, 2), (4, 5), (4, 5))
    scores = metrics.paper_slice_scores(inside, truth)
    assert scores.dice == [1.0, pytest.approx(2 / 26), 0.0, 1.0]
    assert scores.ravd == [pytest.approx(24 / 25), 1.0]
    # One pixel inside of the lesion has perfect distances in this convention.
    assert scores.asd_px == [0.0]
    assert scores.mhd_px == [0.0]
    outside = metrics.paper_slice_scores(box((4, 9, 9), (1, 2), (4, 5), (4, 9)), truth)
    assert outside.asd_px == [pytest.approx(3 / 5)]
    assert outside.mhd_px == [2.0]
