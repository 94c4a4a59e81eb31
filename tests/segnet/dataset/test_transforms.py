"""Laws of the transforms: none changes anything where it is told to change nothing, and each does what it says."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from segnet.dataset import transforms
from segnet.dataset.transforms import Paste
from segnet.errors import InputError

SIZE = 32
WINDOW = (-1000.0, 400.0)
BAND = (-25.0, 200.0)


def pictures(count: int = 3, slices: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noise in [0.1, 0.9], a brighter rectangle on it with its mask."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(count, slices, SIZE, SIZE)
    masks[:, :, 10:16, 12:20] = 1
    return 0.1 + 0.6 * torch.rand(masks.shape, generator=generator) + 0.2 * masks, masks


def through(images: Tensor, masks: Tensor, **changes: Tensor | float) -> tuple[Tensor, Tensor]:
    """Resampled by a grid that is the identity but for the changes."""
    count = len(images)
    at = {"angle_rad": 0.0, "scale": 1.0, "flip": 1.0} | {k: v for k, v in changes.items() if k != "displacement_px"}
    each = {name: torch.full((count,), float(value)) for name, value in at.items()}
    grid = transforms.sampling_grid(**each, size_px=SIZE, displacement_px=changes.get("displacement_px"))
    return transforms.resample(images, masks, grid)


def close(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> None:
    # coordinates up to SIZE px are known to SIZE ulp, grey changes by less than 1 a pixel, and there are two axes
    torch.testing.assert_close(a[0], b[0], rtol=0, atol=4 * SIZE * torch.finfo(torch.float32).eps)
    assert torch.equal(a[1], b[1])


def test_a_grid_without_changes_is_the_identity() -> None:
    images, masks = pictures()
    close(through(images, masks), (images, masks))


def test_flipped_twice_and_turned_four_times_is_the_identity() -> None:
    images, masks = pictures()
    once = through(images, masks, flip=-1)
    close(once, (images.flip(-1), masks.flip(-1)))
    close(through(*once, flip=-1), (images, masks))
    turned = (images, masks)
    for _ in range(4):
        turned = through(*turned, angle_rad=math.pi / 2)
        assert (turned[0] - images).abs().max() > 0.1 or _ == 3
    close(turned, (images, masks))
    close(through(images, masks, angle_rad=math.pi / 2), (images.rot90(1, (-2, -1)), masks.rot90(1, (-2, -1))))


def test_a_scale_of_a_half_shows_the_middle() -> None:
    images, masks = pictures()
    shown = through(images, masks, scale=0.5)[1]
    middle = masks[..., SIZE // 4 : -SIZE // 4, SIZE // 4 : -SIZE // 4]
    assert torch.equal(shown, middle.repeat_interleave(2, -1).repeat_interleave(2, -2))


def test_elastic_of_magnitude_0_is_the_identity() -> None:
    images, masks = pictures()
    points = transforms.control_points(SIZE, 8)
    nothing = transforms.elastic_displacement(torch.zeros(3, 2, points, points), SIZE, 8)
    close(through(images, masks, displacement_px=nothing), (images, masks))


def test_equal_displacements_shift_the_picture_by_so_many_pixels() -> None:
    """Before flip and turn: what is shown at x comes from x + 3."""
    images, masks = pictures()
    points = transforms.control_points(SIZE, 8)
    controls = torch.zeros(3, 2, points, points)
    controls[:, 0], controls[:, 1] = 3, 1
    field = transforms.elastic_displacement(controls, SIZE, 8)
    torch.testing.assert_close(field, controls[:, :, :1, :1].expand_as(field))
    shifted = through(images, masks, displacement_px=field)[1]
    assert torch.equal(shifted[..., :-1, :-3], masks[..., 1:, 3:])
    flipped = through(images, masks, flip=-1, displacement_px=field)[1]
    assert torch.equal(flipped[..., :-1, :-3], masks.flip(-1)[..., 1:, 3:])


@pytest.mark.parametrize("spacing_px", [8.0, 10.5])
def test_the_field_is_bounded_and_folds_nothing(spacing_px: float) -> None:
    """With controls of random sign at the largest magnitude that the configuration allows."""
    points, most = transforms.control_points(64, spacing_px), spacing_px / 3
    signs = torch.randint(0, 2, (50, 2, points, points), generator=torch.Generator().manual_seed(1)) * 2 - 1
    field = transforms.elastic_displacement(signs * most, 64, spacing_px)
    assert field.abs().max() <= most * (1 + 1e-5)
    by_x, by_y = field[..., :-1, 1:] - field[..., :-1, :-1], field[..., 1:, :-1] - field[..., :-1, :-1]
    assert torch.stack([by_x, by_y]).abs().max() <= 1.5 * most / spacing_px + 1e-5
    assert torch.stack([by_x, by_y]).abs().max() > 0.7 * 1.5 * most / spacing_px
    assert ((1 + by_x[:, 0]) * (1 + by_y[:, 1]) - by_y[:, 0] * by_x[:, 1]).min() > 0
    with pytest.raises(InputError, match=r"controls: expected .* points for 64 px"):
        transforms.elastic_displacement(torch.zeros(1, 2, points + 1, points + 1), 64, spacing_px)


def test_the_blur_has_the_standard_deviation_asked_for() -> None:
    images = torch.zeros(2, 1, 65, 65)
    images[:, :, 32, 32] = 1
    blurred = transforms.smooth(images, torch.tensor([0.0, 2.0]))
    assert torch.equal(blurred[0], images[0])
    offset = torch.arange(65.0) - 32
    assert float(blurred[1].sum()) == pytest.approx(1, abs=1e-5)
    assert float((blurred[1, 0].sum(0) * offset**2).sum()) == pytest.approx(4, rel=1e-4)
    even = torch.full((1, 1, 9, 9), 0.3)
    torch.testing.assert_close(transforms.smooth(even, torch.tensor([3.0])), even)


def test_low_resolution_takes_fine_detail_and_leaves_the_rest() -> None:
    coarse = torch.full((1, 2, SIZE, SIZE), 0.4)
    fine = coarse + 0.2 * (-1.0) ** torch.add(*torch.meshgrid(*[torch.arange(SIZE)] * 2, indexing="ij"))
    images = torch.cat([coarse, fine, fine])
    lowered = transforms.lower_resolution(images, torch.tensor([2.0, 2.0, 1.0]))
    torch.testing.assert_close(lowered[0], images[0])
    assert (lowered[1] - 0.4).abs().max() < 0.02
    assert torch.equal(lowered[2], images[2])


def test_a_faded_lesion_is_as_much_fainter_as_asked() -> None:
    """A bright square on an even ground: its contrast shrinks, the ground stays, `kept` 1 changes nothing."""
    masks = torch.zeros(3, 1, 32, 32)
    masks[:, :, 10:20, 8:20] = 1
    images = 0.2 + 0.5 * masks
    kept = torch.tensor([1.0, 0.4, 0.0])
    faded = transforms.fade(images, masks, kept)
    assert torch.equal(faded[0], images[0])
    torch.testing.assert_close(faded[:, 0, 12:18, 10:18].mean((1, 2)), 0.2 + 0.5 * kept)
    torch.testing.assert_close(faded[:, 0, :8], images[:, 0, :8])


def agent(hu: Tensor, masks: Tensor, tissue: float, lesion: float) -> Tensor:
    """HU after contrast agent."""
    count, span = len(hu), WINDOW[1] - WINDOW[0]
    shifts = torch.full((count,), tissue), torch.full((count,), lesion)
    changed = transforms.contrast_agent((hu - WINDOW[0]) / span, masks, *shifts, window_hu=WINDOW, band_hu=BAND)
    return changed * span + WINDOW[0]


def test_contrast_agent_goes_where_there_is_soft_tissue() -> None:
    hu = torch.tensor([-900.0, -100.0, 87.5, 380.0])[:, None, None, None].expand(4, 1, 40, 40)
    masks = torch.zeros(4, 1, 40, 40)
    masks[..., 10:30, 10:30] = 1
    shifted = agent(hu, masks, 60.0, -40.0) - hu

    def sigma(x: float) -> float:
        return 1 / (1 + math.exp(-x / transforms.AGENT_EDGE_HU))

    takes = torch.tensor([sigma(h - BAND[0]) * sigma(BAND[1] - h) for h in (-900.0, -100.0, 87.5, 380.0)])
    assert takes[2] > 0.95
    assert takes[[0, 1, 3]].max() < 0.06
    # HU of a thousand in float32, brought to [0, 1] and back
    torch.testing.assert_close(shifted[:, 0, 0, 0], 60 * takes, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(shifted[:, 0, 20, 20], -40 * takes, rtol=1e-4, atol=1e-3)
    assert torch.equal(agent(hu, masks, 0, 0), agent(hu, masks * 0, 0, 0))


@pytest.mark.parametrize("shift", [-99.0, 99.0])
def test_contrast_agent_turns_no_order_of_grey_around(shift: float) -> None:
    """Up to the largest shift that the configuration allows, for the whole range of HU."""
    hu = torch.linspace(-1000, 400, 2801)[None, None, None]
    changed = agent(hu, torch.zeros_like(hu), shift, 0.0)
    assert (changed.diff() > 0).all()


def pasted(images: Tensor, masks: Tensor, **changes: object) -> tuple[Tensor, Tensor]:
    count = len(images)
    plan = {
        "wanted": torch.ones(count, dtype=torch.bool),
        "donor": torch.zeros(count),
        "place": torch.linspace(0, 0.99, count),
        "level": torch.zeros(count),
        "soft_px": torch.zeros(count),
    }
    return transforms.paste_lesions(images, masks, Paste(**(plan | changes)))  # type: ignore[arg-type]


def test_a_pasted_lesion_adds_the_mask_it_claims() -> None:
    images, masks = pictures(4, slices=3)
    masks[1:] = 0
    masks[0, 0, 10:12] = 0  # each slice has its own part of the lesion
    before = images.clone(), masks.clone()
    changed, marked = pasted(images, masks, level=torch.full((4,), 0.05))
    assert torch.equal(images, before[0])
    assert torch.equal(masks, before[1])
    assert torch.equal(changed[0], images[0])
    assert torch.equal(marked[0], masks[0])
    places = set()
    for k in (1, 2, 3):
        rows, columns = (torch.nonzero(marked[k, 1].any(d)).flatten() for d in (1, 0))
        shift = int(rows[0]) - 10, int(columns[0]) - 12
        places.add(shift)
        assert torch.equal(marked[k], masks[0].roll(shift, (1, 2)))
        inside = marked[k] > 0
        assert torch.equal(changed[k][~inside], images[k][~inside])
        torch.testing.assert_close(changed[k][inside], images[0].roll(shift, (1, 2))[inside] + 0.05)
    assert len(places) > 1


def test_a_soft_edge_passes_through_the_middle_at_the_mask() -> None:
    images = torch.full((2, 1, SIZE, SIZE), 0.2)
    masks = torch.zeros_like(images)
    masks[0, :, 8:24, 8:24] = 1
    images[0] += 0.6 * masks[0]
    changed, marked = pasted(images, masks, soft_px=torch.full((2,), 1.0))
    assert set(marked.unique().tolist()) == {0.0, 1.0}
    column = torch.nonzero(marked[1, 0].any(0)).flatten()
    middle = int(torch.nonzero(marked[1, 0].any(1)).flatten().float().mean())
    inner, outer = changed[1, 0, middle, int(column[0])], changed[1, 0, middle, int(column[0]) - 1]
    assert 0.5 < inner < 0.8
    assert 0.2 <= outer < 0.5


def test_nothing_is_pasted_into_a_lesion_from_a_cut_one_or_where_unwanted() -> None:
    images, masks = pictures(3)
    assert torch.equal(pasted(images, masks)[0], images)
    masks[1:] = 0
    assert torch.equal(pasted(images, masks, wanted=torch.zeros(3, dtype=torch.bool))[1], masks)
    cut = masks.roll(-10, 2)
    assert transforms.whole_lesions(masks).tolist() == [True, False, False]
    assert transforms.whole_lesions(cut).tolist() == [False] * 3
    assert torch.equal(pasted(images, cut)[1], cut)
    assert torch.equal(pasted(images, masks * 0)[1], masks * 0)


def test_a_lesion_is_pasted_where_the_ground_is_like_its_own() -> None:
    """From a dark ground into a picture whose right half is dark."""
    images = torch.full((2, 1, SIZE, SIZE), 0.2)
    masks = torch.zeros_like(images)
    masks[0, :, 4:8, 4:8] = 1
    images[0] += 0.6 * masks[0]
    images[1, :, :, : SIZE // 2] = 0.7
    for place in (0.0, 0.5, 0.99):
        marked = pasted(images, masks, place=torch.full((2,), place))[1]
        assert marked[1].sum() == 16
        assert not marked[1, :, :, : SIZE // 2].any()


def test_a_shape_gets_the_grey_and_the_grain_of_a_lesion() -> None:
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(2, 1, 64, 64)
    masks[0, :, 10:40, 10:40] = 1
    images = torch.full_like(masks, 0.2)
    images[0] += masks[0] * (0.5 + 0.05 * torch.randn(1, 64, 64, generator=generator))
    shape = torch.zeros_like(masks)
    shape[1, :, 20:50, 10:30] = 1
    texture = torch.randn(masks.shape, generator=generator)
    changed, marked = pasted(images, masks, shape=shape, texture=texture)
    assert marked[1].sum() == shape[1].sum()
    mean, sd = transforms.core_grey(images[0], masks[0])
    inside = changed[1][marked[1] > 0]
    n = len(inside)
    assert float(inside.mean()) == pytest.approx(float(mean), abs=4 * float(sd) / math.sqrt(n))
    assert float(inside.std()) == pytest.approx(float(sd), rel=4 / math.sqrt(2 * n))
    # a blur of 2 px leaves 1 / (16 pi) of the variance of white noise, and takes that share of the pixel itself twice
    assert float(sd) == pytest.approx(0.05, rel=0.1)
    assert float(mean) == pytest.approx(0.7, abs=0.01)


def test_what_could_not_be_seen_is_not_pasted() -> None:
    """A lesion 0.1 brighter than the even ground, made darker by nearly that."""
    masks = torch.zeros(3, 1, SIZE, SIZE)
    masks[0, :, 8:16, 8:16] = 1
    images = torch.full_like(masks, 0.4)
    images[0] += 0.1 * masks[0]
    level = torch.tensor([0.0, -0.1 + 0.9 * transforms.LEAST_CONTRAST, -0.1 - 1.1 * transforms.LEAST_CONTRAST])
    changed, marked = pasted(images, masks, level=level)
    assert torch.equal(changed[1], images[1])
    assert not marked[1].any()
    assert marked[2].sum() == 64
    assert float(changed[2].min()) == pytest.approx(0.4 - 1.1 * transforms.LEAST_CONTRAST)
