"""The constant border of volumes cut beyond a scan's edge."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from segnet.errors import InputError
from segnet.io.boxes import constant_border
from segnet.io.volumes import read_image


@pytest.mark.parametrize("value", [-2000.0, -1024.0, 0.0, 3071.0])
@pytest.mark.parametrize("widths", [((2, 0), (0, 3), (1, 4)), ((0, 0), (0, 0), (0, 0)), ((5, 5), (0, 0), (0, 1))])
def test_any_value_on_any_side_is_found(value: float, widths: tuple[tuple[int, int], ...]) -> None:
    content = np.random.default_rng(0).normal(0, 100, (4, 5, 6))
    content[0, 0, 0] = content[2] = value  # a scan may hold the same value at its edge and in a whole plane inside
    found = constant_border(np.pad(content, widths, constant_values=value))
    assert found == tuple(slice(a, a + n) for (a, _), n in zip(widths, content.shape, strict=True))


def test_a_plane_of_another_value_is_content() -> None:
    image = np.pad(np.random.default_rng(0).normal(0, 1, (3, 3, 3)), ((1, 0), (0, 0), (0, 0)), constant_values=5.0)
    image = np.pad(image, ((2, 0), (0, 0), (0, 0)), constant_values=7.0)
    assert constant_border(image)[0] == slice(2, 6)


def test_one_value_has_no_content_and_one_other_voxel_is_all_of_it() -> None:
    image = np.full((3, 4, 5), -1024)
    assert constant_border(image) == (slice(0, 0),) * 3
    image[1, 3, 0] = 0
    assert constant_border(image) == (slice(1, 2), slice(3, 4), slice(0, 1))


def test_other_shapes_are_refused() -> None:
    for shape in ((3, 4), (2, 0, 2)):
        with pytest.raises(InputError, match="image: expected three axes with voxels"):
            constant_border(np.zeros(shape))


def test_a_real_volume_that_was_filled_up(shared_data: Path) -> None:
    image = read_image(shared_data / "voi" / "4DLung-113_HM10395_Tumor_ct.nii.gz").array_zyx
    z, y, x = constant_border(image)
    assert (y, x) == (slice(0, 256), slice(0, 256))
    for outside in (image[: z.start], image[z.stop :]):
        assert outside.size
        assert np.ptp(outside) == 0
    assert np.ptp(image[z.start]) > 0
    assert np.ptp(image[z.stop - 1]) > 0
