"""The sheet of what augmentation does: every transform has its column, and changes what is shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segnet.config import load_config
from segnet.dataset.store import Cases, load_dataset
from segnet.errors import InputError
from segnet.report import augmentation
from segnet.report.augmentation import augmentation_png, augmentation_sheet
from segnet.report.overlay import TRUTH_RGB

CONFIG = load_config(None, {"data": {"patch_px": 32, "input_px": 64}, "augment": {"preset": "strong"}})


def columns(prepared: Path, seed: int = 0) -> list[tuple[str, list[np.ndarray]]]:
    """Label and pictures of each column."""
    dataset = load_dataset(prepared)
    sheet = augmentation_sheet(dataset, dataset.cases[0].case, CONFIG, seed)
    return [(label, [np.asarray(picture) for _, picture in pictures]) for label, pictures in sheet.columns]


def test_every_transform_changes_the_picture_and_each_row_differently(prepared: Path) -> None:
    found = columns(prepared)
    (_, (plain, background)), rest = found[0], found[1:]
    assert (plain == TRUTH_RGB).all(-1).any()
    assert not (background == TRUTH_RGB).all(-1).any()
    assert {label for label, _ in rest} >= {
        "elastic",
        "fading",
        "agent in lesion",
        "noise",
        "lesion pasted",
        "all: strong",
    }
    for label, pictures in rest:
        assert len(pictures) == augmentation.ROWS
        shown = background if "pasted" in label else plain
        changed = [not np.array_equal(picture, shown) for picture in pictures]
        # the first of the flips and quarter turns is none
        assert changed == [label != "flip, quarter turn", True, True, True], label
        if label != "low resolution":
            assert len({picture.tobytes() for picture in pictures}) >= 3, label
        if "pasted" in label:
            assert all((picture == TRUTH_RGB).all(-1).any() for picture in pictures)


def test_a_seed_fixes_the_sheet(prepared: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        case = augmentation_png(tmp_path / f"{name}.png", prepared, CONFIG, seed=seed)
    a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert a == b != c
    assert case in {entry.case for entry in load_dataset(prepared).cases}
    page = Image.open(tmp_path / "a.png")
    assert page.size[0] == 2 * augmentation.MARGIN + 9 * (augmentation.PANEL + augmentation.GAP) - augmentation.GAP
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png", "c.png"]


def test_the_slice_shown_is_the_largest_of_the_case(prepared: Path) -> None:
    dataset = load_dataset(prepared)
    name = dataset.cases[2].case
    sheet = augmentation_sheet(dataset, name, CONFIG)
    area = Cases(prepared, [name])[0].mask.sum((1, 2))
    assert sheet.title == f"{name}, slice {area.argmax() + 1} of {len(area)}"
    (_, ((_, with_lesion), (_, without))), *_ = sheet.columns
    outline = np.argwhere((np.asarray(with_lesion) == TRUTH_RGB).all(-1))
    assert abs(outline.mean(0) - augmentation.PANEL / 2).max() < augmentation.PANEL / 16  # two pixels of the dataset
    assert not (np.asarray(without) == TRUTH_RGB).all(-1).any()


def test_bad_input_writes_nothing(prepared: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    with pytest.raises(InputError, match="got 'nobody'"):
        augmentation_png(out, prepared, CONFIG, case="nobody")
    with pytest.raises(InputError, match=r"data.window_hu: expected \(-1000.0, 400.0\) as the dataset was prepared"):
        augmentation_png(out, prepared, load_config(None, {"data": {"window_hu": (-160.0, 240.0)}}))
    with pytest.raises(InputError, match="segnet prepare"):
        augmentation_png(out, tmp_path, CONFIG)
    assert not list(tmp_path.iterdir())
