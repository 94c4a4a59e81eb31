from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segnet.errors import InputError
from segnet.report import overlay
from segnet.report.overlay import overlay_png

SPACING = (3.0, 0.8, 0.8)
WINDOW = (-1000.0, 400.0)
SHAPE = (10, 80, 90)


def volume() -> np.ndarray:
    return np.full(SHAPE, -900, dtype=np.int16)


def box_mask(z: tuple[int, int] = (3, 7), y: tuple[int, int] = (30, 45), x: tuple[int, int] = (35, 55)) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[slice(*z), slice(*y), slice(*x)] = True
    return mask


def panels(path: Path, n: int, title: bool = False) -> list[np.ndarray]:
    page = np.asarray(Image.open(path))
    top, size, step = (74 if title else 48) * overlay.SCALE, overlay.PANEL, overlay.PANEL + overlay.GAP
    return [page[top : top + size, overlay.MARGIN + i * step :][:, :size] for i in range(n)]


def near(pixels: np.ndarray, rgb: tuple[int, int, int]) -> np.ndarray:
    """Where the colour is `rgb` at full strength, shape (Y, X)."""
    return (np.abs(pixels.astype(int) - rgb) <= 2).all(axis=2)


def test_outlines_have_their_colours_and_no_fill(tmp_path: Path) -> None:
    truth, pred = box_mask(), box_mask(x=(38, 60))
    overlay_png(tmp_path / "o.png", volume(), pred, truth, window_hu=WINDOW, spacing_zyx_mm=SPACING)
    grey = round(255 * 100 / 1400)
    for panel in panels(tmp_path / "o.png", 4):
        for rgb in (overlay.PRED_RGB, overlay.TRUTH_RGB):
            line = near(panel, rgb)
            assert line.any()
            rows, columns = np.nonzero(line)
            middle = panel[int(rows.mean()), int(columns.mean())]
            assert np.abs(middle.astype(int) - grey).max() <= 1
    assert [p.name for p in tmp_path.iterdir()] == ["o.png"]


def test_outline_lies_on_the_edge_of_the_mask(tmp_path: Path) -> None:
    mask = box_mask()
    overlay_png(tmp_path / "o.png", volume(), mask, window_hu=WINDOW, spacing_zyx_mm=SPACING, n_slices=1)
    rows, columns = np.nonzero(near(panels(tmp_path / "o.png", 1)[0], overlay.PRED_RGB))
    px_per_mm = overlay.PANEL / 48.0  # twice the lesion is 32 mm, less than the least field of view
    # The half level is at the edge of the outer pixels; the line is LINE wide; one device pixel of rounding.
    for measured, extent_mm in ((np.ptp(columns) + 1, 20 * 0.8), (np.ptp(rows) + 1, 15 * 0.8)):
        assert abs(measured - (extent_mm * px_per_mm + overlay.LINE)) <= 2


@pytest.mark.parametrize(
    ("y", "x", "direction"),
    [(52, 45, (-1, 0)), (22, 45, (1, 0)), (37, 61, (0, -1)), (37, 28, (0, 1))],
    ids=["anterior is up", "posterior is down", "patient's right is left", "patient's left is right"],
)
def test_display_is_radiological(tmp_path: Path, y: int, x: int, direction: tuple[int, int]) -> None:
    image = volume()
    image[:, y - 1 : y + 2, x - 1 : x + 2] = 400
    overlay_png(tmp_path / "o.png", image, box_mask(), window_hu=WINDOW, spacing_zyx_mm=SPACING, n_slices=1)
    panel = panels(tmp_path / "o.png", 1)[0].astype(int)
    outline = np.argwhere(near(panel, overlay.PRED_RGB)).mean(axis=0)
    bright = (panel.min(axis=2) > 128) & (np.ptp(panel, axis=2) == 0)
    bright[:50], bright[:, :60], bright[:, -60:], bright[-80:] = (False, False, False, False)  # letters, scale bar
    offset = np.argwhere(bright).mean(axis=0) - outline
    # The square is 10 mm or more from the lesion's centre along one axis, at 12.5 device pixels per mm.
    along = offset @ np.array(direction)
    assert along > 120
    assert np.abs(offset - along * np.array(direction)).max() < 20


def test_pixels_keep_their_proportions(tmp_path: Path) -> None:
    mask = box_mask(y=(30, 40), x=(35, 55))  # 10 rows of 1.6 mm, 20 columns of 0.8 mm: a square
    overlay_png(tmp_path / "o.png", volume(), mask, window_hu=WINDOW, spacing_zyx_mm=(3, 1.6, 0.8), n_slices=1)
    rows, columns = np.nonzero(near(panels(tmp_path / "o.png", 1)[0], overlay.PRED_RGB))
    assert abs(np.ptp(rows) - np.ptp(columns)) <= 2


def test_scale_bar_is_ten_mm(tmp_path: Path) -> None:
    overlay_png(tmp_path / "o.png", volume(), box_mask(), window_hu=WINDOW, spacing_zyx_mm=SPACING, n_slices=1)
    panel = panels(tmp_path / "o.png", 1)[0]
    y = overlay.PANEL - 14 * overlay.SCALE
    bar = near(panel[y : y + 1], overlay.INK)
    assert abs(bar.sum() - overlay.PANEL * 10 / 48) <= 1


def test_both_colours_show_where_outlines_coincide(tmp_path: Path) -> None:
    mask = box_mask()
    overlay_png(tmp_path / "o.png", volume(), mask, mask, window_hu=WINDOW, spacing_zyx_mm=SPACING, n_slices=1)
    panel = panels(tmp_path / "o.png", 1)[0]
    shares = [near(panel, rgb).sum() for rgb in (overlay.PRED_RGB, overlay.TRUTH_RGB)]
    assert 0.5 < shares[0] / shares[1] < 2.0


@pytest.mark.parametrize(
    ("z", "n", "expected"),
    [
        ((3, 7), 4, [3, 4, 5, 6]),
        ((4, 5), 4, [3, 4, 5, 6]),
        ((0, 1), 3, [0, 1, 2]),
        ((9, 10), 3, [7, 8, 9]),
        ((0, 10), 40, list(range(10))),
        ((0, 10), 2, [2, 6]),
    ],
)
def test_slices_surround_the_lesion(z: tuple[int, int], n: int, expected: list[int]) -> None:
    mask = box_mask(z=z)
    if n == 2:
        mask[6, :20, :20] = True
    assert overlay.choose_slices(mask, mask, n) == expected


def test_largest_slice_is_always_shown() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        mask = rng.random((60, 6, 6)) < rng.random((60, 1, 1)) * (rng.random((60, 1, 1)) < 0.7)
        mask[30, 0, 0] = True
        chosen = overlay.choose_slices(mask, mask, 4)
        assert int(mask.sum(axis=(1, 2)).argmax()) in chosen
        assert len(set(chosen)) == 4
        assert chosen == sorted(chosen)


@pytest.mark.parametrize("case", ["empty prediction", "both empty", "no truth, empty", "whole image", "tiny image"])
def test_odd_masks(tmp_path: Path, case: str) -> None:
    image, mask = volume(), box_mask()
    truth: np.ndarray | None = mask
    if case == "empty prediction":
        mask = np.zeros_like(mask)
    elif case == "both empty":
        mask = truth = np.zeros_like(mask)
    elif case == "no truth, empty":
        mask, truth = np.zeros_like(mask), None
    elif case == "whole image":
        mask = np.ones_like(mask)
    else:
        image, mask, truth = image[:1, :3, :2], np.ones((1, 3, 2), bool), None
    overlay_png(tmp_path / "o.png", image, mask, truth, window_hu=WINDOW, spacing_zyx_mm=SPACING, title="A title " * 60)
    page = Image.open(tmp_path / "o.png")
    assert page.height == (74 + 34) * overlay.SCALE + overlay.PANEL


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pred_zyx": np.zeros((10, 90, 80), bool)}, r"pred_zyx: expected shape \(10, 80, 90\) like image_zyx"),
        ({"truth_zyx": np.zeros((9, 80, 90), bool)}, "truth_zyx: expected shape"),
        ({"truth_zyx": np.full(SHAPE, 2)}, "truth_zyx: expected booleans or only 0 and 1"),
        ({"image_zyx": np.zeros((80, 90))}, "image_zyx: expected shape"),
        ({"window_hu": (400.0, -1000.0)}, "window_hu: expected two finite levels, low before high"),
        ({"spacing_zyx_mm": (1.0, 0.0, 1.0)}, "spacing_zyx_mm: expected three positive lengths"),
        ({"n_slices": 0}, "n_slices: expected at least 1"),
    ],
)
def test_errors_leave_no_file(tmp_path: Path, change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "image_zyx": volume(),
        "pred_zyx": box_mask(),
        "window_hu": WINDOW,
        "spacing_zyx_mm": SPACING,
    }
    with pytest.raises(InputError, match=message):
        overlay_png(tmp_path / "o.png", **(arguments | change))  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "o.png"
    path.write_bytes(b"old")

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="no space left"):
        overlay_png(path, volume(), box_mask(), window_hu=WINDOW, spacing_zyx_mm=SPACING)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="path: expected a file in an existing folder"):
        overlay_png(tmp_path / "no" / "o.png", volume(), box_mask(), window_hu=WINDOW, spacing_zyx_mm=SPACING)
