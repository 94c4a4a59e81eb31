"""Lesion shapes: read as packed, refused where they do not fit together, drawn to scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segnet.dataset.shapes import Shape, load_shapes, render
from segnet.errors import InputError


def ellipsoid(shape: tuple[int, int, int]) -> np.ndarray:
    """(X, Y, Z), touching all sides."""
    centre = (np.array(shape) - 1) / 2
    index = np.moveaxis(np.indices(shape), 0, -1)
    return (((index - centre) / (centre + 0.5)) ** 2).sum(-1) <= 1


MASKS = [ellipsoid((9, 5, 3)), ellipsoid((4, 7, 6))]
SPACING = np.array([[0.5, 1.0, 2.0], [1.0, 1.0, 1.0]], np.float32)


def fields(**changes: Any) -> dict[str, Any]:
    packed = [np.packbits(mask) for mask in MASKS]
    return {
        "bits": np.concatenate(packed),
        "nbytes": np.array([len(p) for p in packed], np.int32),
        "shape": np.array([m.shape for m in MASKS], np.int16),
        "spacing": SPACING,
    } | changes


def test_shapes_come_back_as_packed(tmp_path: Path) -> None:
    np.savez(tmp_path / "b.npz", **fields(), names=np.array(["x", "y"]))
    np.savez(tmp_path / "a.npz", **fields())
    library = load_shapes(tmp_path)
    assert len(library) == 4
    for k in range(4):
        shape = library[k]
        assert np.array_equal(shape.mask, MASKS[k % 2].transpose(2, 1, 0))
        assert shape.spacing_zyx_mm == tuple(SPACING[k % 2][::-1].tolist())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"bits": fields()["bits"][:-1]}, "bytes in all"),
        ({"nbytes": fields()["nbytes"] + np.array([1, -1], np.int32)}, "bytes for shape 0, got"),
        ({"shape": np.array([[9, 5, 3], [4, 0, 6]], np.int16)}, r"one voxel or more along each axis, got \[4, 0, 6\]"),
        ({"shape": fields()["shape"][:1]}, "shape for one shape or more"),
        ({"spacing": SPACING * [[1, 1, -1], [1, 1, 1]]}, "positive spacings"),
        ({"spacing": SPACING * [[1, np.nan, 1], [1, 1, 1]]}, "positive spacings"),
        ({"bits": fields()["bits"] * 0}, "a lesion in each mask, got none in shape 0"),
        ({"bits": fields()["bits"].astype(np.uint16)}, "bits of uint8, got uint16"),
        ({"nbytes": np.zeros(0, np.int32)}, "nbytes for one shape or more"),
    ],
)
def test_sets_that_do_not_fit_together_are_refused(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    np.savez(tmp_path / "set.npz", **fields(**changes))
    with pytest.raises(InputError, match=rf"shapes .*set.npz: expected .*{says}.*; pack the set again"):
        load_shapes(tmp_path)


def test_files_that_are_no_sets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a folder with sets \*.npz, got .* without one"):
        load_shapes(tmp_path)
    np.savez(tmp_path / "set.npz", bits=np.zeros(1, np.uint8))
    with pytest.raises(InputError, match="expected the fields bits, nbytes, shape, spacing, got none named nbytes"):
        load_shapes(tmp_path)
    whole = (tmp_path / "set.npz").read_bytes()
    (tmp_path / "set.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="expected a NumPy archive, got BadZipFile"):
        load_shapes(tmp_path)
    np.savez(tmp_path / "set.npz", **fields(bits=np.array([object()])))
    with pytest.raises(InputError, match="expected a NumPy archive, got ValueError"):
        load_shapes(tmp_path)


BLOCK = Shape(np.ones((3, 8, 16), bool), (2.0, 1.0, 0.5))
"""6 x 8 x 8 mm."""


@pytest.mark.parametrize("angle_rad", [0.0, np.pi / 2])
def test_a_shape_is_as_large_as_its_spacing_says(angle_rad: float) -> None:
    """8 x 8 mm at pixels of 0.5 mm high and 1 mm wide: 16 x 8, in the middle."""
    drawn = render(
        BLOCK, size_px=32, pixel_mm=torch.tensor([0.5, 1.0]), offset_mm=torch.zeros(1), at=0.0, angle_rad=angle_rad
    )
    rows, columns = (torch.nonzero(drawn[0].any(d)).flatten() for d in (1, 0))
    assert (int(rows[0]), int(rows[-1]) + 1) == (8, 24)
    assert (int(columns[0]), int(columns[-1]) + 1) == (12, 20)
    assert drawn.sum() == 16 * 8


def test_slices_beyond_a_shape_are_empty() -> None:
    def held(at: float, offsets: list[float]) -> list[bool]:
        drawn = render(BLOCK, size_px=48, pixel_mm=torch.full((2,), 0.5), offset_mm=torch.tensor(offsets), at=at)
        return drawn.flatten(1).any(1).tolist()

    assert held(0.5, [-2.0, 0.0, 2.0]) == [True, True, True]
    assert held(0.0, [-2.0, 0.0, 2.0]) == [False, True, True]
    assert held(0.99, [-5.0, 0.0, 5.0]) == [True, True, False]
    assert held(0.99, [0.0, 0.0, 0.0]) == [True, True, True]


def test_a_shape_too_large_for_the_picture_is_not_drawn() -> None:
    assert not render(BLOCK, size_px=16, pixel_mm=torch.full((2,), 0.5), offset_mm=torch.zeros(1), at=0.0).any()


def test_real_shapes_are_read(shared_data: Path) -> None:
    library = load_shapes(shared_data / "lesion_masks")
    assert len(library) == 4118
    for k in range(0, len(library), 400):
        shape = library[k]
        assert shape.mask.any(axis=(1, 2))[[0, -1]].all()
        assert shape.mask.any(axis=(0, 1))[[0, -1]].all()
        assert max(shape.spacing_zyx_mm[1:]) < 1.1
