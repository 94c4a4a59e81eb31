"""Batches: cut, normalised, augmented, reproducible."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segnet.config import AugmentConfig, DataConfig
from segnet.dataset.batches import BatchSource, cut, normalise, stack
from segnet.dataset.store import Cases
from segnet.errors import InputError

CONFIG = DataConfig(patch_px=32, input_px=64)
UNFADED = AugmentConfig(fade_probability=0.0)


def test_cut_pads_beyond_the_edge() -> None:
    plane = np.arange(20).reshape(4, 5)
    assert np.array_equal(cut(plane, (1, 1), 2, -1), plane[0:2, 0:2])
    assert np.array_equal(cut(plane, (0, 4), 4, -1), [[-1] * 4, [-1] * 4, [2, 3, 4, -1], [7, 8, 9, -1]])
    assert (cut(plane, (-50, 2), 4, 7) == 7).all()


def test_normalise_clips_to_the_window() -> None:
    assert normalise(np.array([-2000, -1000, -300, 400, 3000]), (-1000, 400)).tolist() == [0, 0, 0.5, 1, 1]


def test_batches_follow_the_seed(prepared: Path) -> None:
    cases = Cases(prepared)
    first, again, other = (BatchSource(cases, CONFIG, seed).draw(4) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("slices", [1, 3])
def test_parts_of_a_batch_are_loaded_by_themselves(
    slices: int, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes draw the batch of one, and each reads its own slices alone."""
    read: list[tuple[int, int]] = []
    plane = Cases.plane

    def counted(self: Cases, index: int, z: int) -> Any:
        read.append((index, z))
        return plane(self, index, z)

    monkeypatch.setattr(Cases, "plane", counted)
    sources = [BatchSource(Cases(prepared), CONFIG, 4, slices=slices) for _ in range(3)]
    for _ in range(2):
        whole, *parts = (
            source.draw(6, own) for source, own in zip(sources, (slice(None), slice(0, 3), slice(3, 6)), strict=True)
        )
        for of_one, *of_parts in zip(whole, *parts, strict=True):
            torch.testing.assert_close(torch.cat(of_parts), of_one, rtol=0, atol=1e-6)
        n = 3 * slices
        assert len(read) == 4 * n
        assert read[: 2 * n] == read[2 * n :]
        read.clear()


def test_a_lesion_may_be_pasted_from_another_part(prepared: Path) -> None:
    """Both parts are drawn twice: first to collect what processes would exchange, then with it."""
    augment = AugmentConfig.model_validate({"preset": "strong", "paste_probability": 1.0})
    config = CONFIG.model_copy(update={"lesion_fraction": 0.3})

    def draw(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return BatchSource(Cases(prepared), config, 4, augment=augment).draw(8, *arguments)

    def collected(part: slice) -> list[torch.Tensor]:
        given: list[torch.Tensor] = []
        draw(part, lambda own: (given.append(own), own)[1])
        return given

    halves = slice(0, 4), slice(4, 8)
    exchanged = [torch.cat(both) for both in zip(*map(collected, halves), strict=True)]
    parts = []
    for half in halves:
        whole = iter(exchanged)
        parts.append(draw(half, lambda _, whole=whole: next(whole)))
    alone = [draw(half) for half in halves]
    for number, of_one in enumerate(draw()):
        together, apart = (torch.cat([part[number] for part in drawn]) for drawn in (parts, alone))
        torch.testing.assert_close(together, of_one, rtol=0, atol=1e-6)
        assert not torch.equal(apart, of_one)


def test_image_and_mask_stay_together(prepared: Path) -> None:
    """The lesion is bright, so that it must be under its mask after every augmentation."""
    images, masks = BatchSource(Cases(prepared), CONFIG, 3, augment=UNFADED).draw(64)
    assert images.shape == (64, 1, 64, 64)
    assert masks.shape == (64, 64, 64)
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    assert images.min() >= 0
    assert images.max() <= 1
    with_lesion = masks.flatten(1).sum(1) > 50
    assert with_lesion.sum() > 30
    for image, mask in zip(images[with_lesion, 0], masks[with_lesion], strict=True):
        inside, outside = image[mask > 0].mean(), image[mask == 0].mean()
        assert inside > outside + 0.15


def test_lesion_slices_are_drawn_as_often_as_asked(prepared: Path) -> None:
    cases = Cases(prepared)
    assert BatchSource(cases, CONFIG, 0).sampler.background
    for fraction in (0.0, 1.0):
        source = BatchSource(cases, CONFIG.model_copy(update={"lesion_fraction": fraction}), 0)
        _, masks = source.draw(40)
        assert (masks.flatten(1).any(1)).float().mean() == fraction


def test_no_cases_is_an_error(prepared: Path) -> None:
    with pytest.raises(InputError, match="expected at least one training case"):
        BatchSource(Cases(prepared, []), CONFIG, 0)


def test_neighbours_of_a_slice_lie_around_it(prepared: Path) -> None:
    volume = np.arange(4)[:, None, None] * np.ones((1, 2, 2))
    assert stack(volume, 2, 3)[:, 0, 0].tolist() == [1, 2, 3]
    assert stack(volume, 0, 5)[:, 0, 0].tolist() == [0, 0, 0, 1, 2]
    assert stack(volume, 3, 1)[:, 0, 0].tolist() == [3]


def test_several_slices_are_shown_and_the_middle_one_is_asked_for(prepared: Path) -> None:
    cases = Cases(prepared)
    one, three = (BatchSource(cases, CONFIG, 5, slices=n).draw(4)[0].shape for n in (1, 3))
    assert one == (4, 1, 64, 64)
    assert three == (4, 3, 64, 64)
    for fraction in (0.0, 1.0):
        config, no_noise = CONFIG.model_copy(update={"lone_fraction": fraction}), AugmentConfig(noise_sd=0.0)
        shown, _ = BatchSource(cases, config, 5, slices=3, augment=no_noise).draw(4)
        assert torch.equal(shown, shown[:, :1].expand_as(shown)) == (fraction == 1)
    # the mask is the middle slice's: a lesion that only its neighbours hold is not asked for
    z = cases.entries[0].lesion_slices[-1][1] + 1
    if z < len(cases[0].image):
        source = BatchSource(
            cases[:1], CONFIG.model_copy(update={"lone_fraction": 0.0, "lesion_fraction": 0.0}), 5, slices=3
        )
        source.sampler = replace(source.sampler, background=((0, z),))
        assert not source.draw(2)[1].any()
