"""How often slices are drawn, by what volumes hold."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from segnet.config import DataConfig
from segnet.dataset.sampling import Contents, SliceSampler, diameter_mm, size_class, slice_weights
from segnet.errors import InputError

DRAWS = 20_000


def ball_ml(diameter: float) -> float:
    return math.pi / 6 * (diameter / 10) ** 3


CONTENTS = [
    Contents("a1", "a", range(10), (2, 3, 4, 5, 6, 7), ball_ml(25)),
    Contents("a2", "a", range(4), (1,), ball_ml(25)),
    Contents("b1", "b", range(6), (2, 3), ball_ml(25)),
    Contents("b2", "b", range(12), (5,), ball_ml(5), slice_mm=3.0),
    Contents("c1", "c", range(3), (0, 1, 2), ball_ml(40)),
]
LESION = [(k, z) for k, c in enumerate(CONTENTS) for z in c.lesion_slices]


def config(**values: float) -> DataConfig:
    return DataConfig(**values)  # type: ignore[arg-type]


def near(count: int, probability: float) -> bool:
    """Within five binomial standard errors."""
    return abs(count - DRAWS * probability) <= 5 * math.sqrt(DRAWS * probability * (1 - probability))


def test_classes_of_size_go_by_the_diameter_of_a_ball() -> None:
    for diameter in (5.0, 6.1, 9.9, 10.1, 20.1, 30.1, 100.0):
        assert diameter_mm(ball_ml(diameter)) == pytest.approx(diameter)
    assert [size_class(ball_ml(d)) for d in (1, 5.9, 6.1, 9.9, 10.1, 19.9, 20.1, 29.9, 30.1, 90)] == [
        *(0, 0, 1, 1, 2, 2, 3, 3, 4, 4)
    ]


def test_without_balance_the_draws_are_those_of_old() -> None:
    sampler = SliceSampler.of(CONTENTS, config(lesion_fraction=0.8))
    ours, theirs = np.random.default_rng(3), np.random.default_rng(3)
    held = set(LESION)
    other = [(k, z) for k, c in enumerate(CONTENTS) for z in c.slices if (k, z) not in held]
    for _ in range(500):
        pool = LESION if theirs.random() < 0.8 else other
        assert sampler.draw(ours) == pool[int(theirs.integers(len(pool)))]
    full = [Contents("c", "c", range(3), (0, 1, 2), 1.0)]
    sampler = SliceSampler.of(full, config(lesion_fraction=0.0))
    for _ in range(20):
        assert sampler.draw(ours) == (0, int(theirs.integers(3)))


def test_weights_by_hand() -> None:
    """Balanced: three classes a third each; of 21 to 30 mm patients a and b share, and a's volumes share its half."""
    assert slice_weights(CONTENTS, 0.0) == pytest.approx([1 / 13] * 13)
    third = 1 / 3
    balanced = [third / 4 / 6] * 6 + [third / 4] + [third / 2 / 2] * 2 + [third] + [third / 3] * 3
    assert slice_weights(CONTENTS, 1.0) == pytest.approx(balanced)
    # between: n^(1 - balance) of the slices
    classes = {0: math.sqrt(1), 3: math.sqrt(9), 4: math.sqrt(3)}
    assert slice_weights(CONTENTS, 0.5)[9] == pytest.approx(classes[0] / sum(classes.values()))
    assert slice_weights(CONTENTS, 0.5).sum() == pytest.approx(1)


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_slices_are_drawn_as_often_as_their_weight_says(balance: float) -> None:
    sampler = SliceSampler.of(CONTENTS, config(lesion_fraction=1.0, balance=balance))
    rng = np.random.default_rng(1)
    counts = Counter(sampler.draw(rng) for _ in range(DRAWS))
    assert set(counts) == set(LESION)
    for at, weight in zip(LESION, slice_weights(CONTENTS, balance), strict=True):
        assert near(counts[at], weight), at


def test_background_close_beside_a_lesion_can_be_preferred() -> None:
    fractions = config(lesion_fraction=0.25, beside_fraction=0.6)
    sampler = SliceSampler.of(CONTENTS, fractions)
    # 1 mm slices: up to 5 beside; 3 mm slices: one
    assert set(sampler.beside) == {
        *((0, z) for z in (0, 1, 8, 9)),
        *((1, z) for z in (0, 2, 3)),
        *((2, z) for z in (0, 1, 4, 5)),
        *((3, z) for z in (4, 6)),
    }
    rng = np.random.default_rng(5)
    counts = Counter(sampler.draw(rng) for _ in range(DRAWS))
    assert near(sum(counts[at] for at in LESION), 0.25)
    share = 0.6 + 0.4 * len(sampler.beside) / len(sampler.background)
    assert near(sum(counts[at] for at in sampler.beside), 0.75 * share)
    thick = [Contents("t", "t", range(4), (0,), 1.0, slice_mm=8.0)]
    assert list(SliceSampler.of(thick, fractions).beside) == [(0, 1)]


def test_only_slices_that_may_be_drawn_are() -> None:
    """Those of a volume that are for training: its other slices still say what lies beside a lesion, and how large that is."""
    part = [Contents("a", "a", (1, 4, 5, 9), (4, 5, 6), ball_ml(25)), Contents("b", "b", (0,), (3,), ball_ml(8))]
    sampler = SliceSampler.of(part, config(balance=1.0, beside_fraction=0.5))
    assert list(sampler.lesion) == [(0, 4), (0, 5)]
    assert list(sampler.background) == [(0, 1), (0, 9), (1, 0)]
    assert list(sampler.beside) == [(0, 1), (0, 9), (1, 0)]
    assert slice_weights(part, 1.0).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("balance", [0.0, 1.0])
def test_a_seed_fixes_the_slices(balance: float) -> None:
    sampler = SliceSampler.of(CONTENTS, config(balance=balance, beside_fraction=balance))
    first, again, other = ([sampler.draw(rng) for _ in range(50)] for rng in map(np.random.default_rng, (1, 1, 2)))
    assert first == again != other


class Fixed(np.random.Generator):
    """Draws one number again and again."""

    def __init__(self, number: float) -> None:
        super().__init__(np.random.PCG64(0))
        self.number = number

    def random(self, *_: object) -> float:  # type: ignore[override]
        return self.number


def test_the_smallest_and_the_largest_number_draw_the_first_and_the_last_slice() -> None:
    sampler = SliceSampler.of(CONTENTS, config(lesion_fraction=1.0, balance=0.7))
    assert [sampler.draw(Fixed(number)) for number in (0.0, 1 - 2**-53)] == [LESION[0], LESION[-1]]


@pytest.mark.parametrize(
    ("contents", "says"),
    [
        ([], "expected at least one training case with a slice of lesion, got none in 0"),
        ([Contents("a", "a", range(3), (), 1.0)], "got none in 1; prepare more patients"),
        ([Contents("a", "a", range(3), (1,), 0.0)], "volume of the lesion of a in ml above 0, got 0.0"),
        ([Contents("a", "a", range(3), (1,), math.nan)], "above 0, got nan; measure its mask"),
    ],
)
def test_what_cannot_be_drawn_from_is_named(contents: list[Contents], says: str) -> None:
    with pytest.raises(InputError, match=says):
        SliceSampler.of(contents, DataConfig())
