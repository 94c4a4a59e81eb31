"""Images unlike the packaged weights' training data get a warning, and those like it get none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from networks import Threshold
from numpy.typing import NDArray

import segnet
from segnet.config import Config
from segnet.io.pairs import find_pairs
from segnet.io.volumes import read_image, read_mask
from segnet.prediction.clicks import click_positions
from segnet.prediction.model import Model
from segnet.prediction.sites import NOT_CT, UNSEEN, site_warnings

SPACING = (5.0, 2.0, 2.0)
SITES = "lung nodules; limbs"
AT = (6, 100, 100)


def body(radius_mm: float, inside: float = 40) -> NDArray[np.float32]:
    """A cylinder in air, 400 mm square."""
    _, y, x = np.mgrid[:12, :200, :200]
    distance = np.hypot((y - 100) * 2, (x - 100) * 2)
    noise = np.random.default_rng(0).normal(0, 10, distance.shape)
    return (np.where(distance < radius_mm, inside, -1000) + noise).astype(np.float32)


def warned(image: NDArray[np.float32], click: tuple[int, int, int] | None = AT) -> list[str]:
    return site_warnings(image, SPACING, click, SITES)


def test_lung_and_limb_are_known_and_a_trunk_is_not() -> None:
    unseen = [UNSEEN.format(sites=SITES)]
    assert warned(body(80)) == []  # 200 cm2
    assert warned(body(150)) == unseen  # 700 cm2, as an abdomen
    assert warned(body(115)) == unseen  # 415 cm2
    assert warned(body(95)) == []  # 284 cm2
    chest = body(150)
    chest[:, 60:140, 110:140] = -850
    assert warned(chest) == []
    assert warned(chest, (6, 100, 40)) == unseen
    assert warned(body(150), None) == []
    assert SITES in unseen[0]


def test_a_limb_without_air_around_it_is_not_told_apart() -> None:
    """A crop inside of an organ may be of anywhere."""
    inner = body(150)[:, 70:130, 70:130]
    inner[:, :3, :20] = -100  # some fat
    assert warned(inner, (6, 30, 30)) == [UNSEEN.format(sites=SITES)]


def test_values_that_are_no_hu() -> None:
    rng = np.random.default_rng(0)
    for image in (
        rng.gamma(2, 150, (12, 40, 40)),  # MR
        body(80)[:, ::2, ::2] + 1024,  # stored values without their intercept
        rng.normal(0, 1, (12, 40, 40)),  # z-scores
        (body(80)[:, ::2, ::2] + 1000) / 1400,  # a window as 0 to 1
    ):
        assert site_warnings(image, SPACING, (6, 20, 20), SITES) == [NOT_CT]
        assert site_warnings(image, SPACING, None, SITES) == [NOT_CT]


def test_the_warnings_are_of_the_packages_weights_alone() -> None:
    config = Config.model_validate({"data": {"patch_px": 32, "input_px": 32}})
    own = Model.of(Threshold(), config)
    assert own.predict(body(150), spacing_mm=SPACING, click=AT).warnings.count(UNSEEN.format(sites=SITES)) == 0
    own.sites = SITES
    assert UNSEEN.format(sites=SITES) in own.predict(body(150), spacing_mm=SPACING, click=AT).warnings
    packaged = segnet.load()
    assert packaged.sites
    for found in (
        packaged.predict(body(150), spacing_mm=SPACING, click=AT),
        packaged.open(body(150), spacing_mm=SPACING).click(AT),
    ):
        assert UNSEEN.format(sites=packaged.sites) in found.warnings
    assert not {NOT_CT, UNSEEN.format(sites=packaged.sites)} & set(packaged.predict("example", click="centre").warnings)


@pytest.mark.parametrize("folder", ["lidc", "context", "whole", "sarcoma"])
def test_lesions_of_the_training_sites_get_no_warning(folder: str, shared_data: Path) -> None:
    pairs = list(find_pairs(shared_data / folder))
    for pair in pairs[:: max(1, len(pairs) // 10)]:
        image = read_image(pair.image)
        mask = read_mask(pair.mask, like=image)
        for click in click_positions(mask.array_zyx > 0, image.spacing_zyx_mm, 3):
            assert site_warnings(image.array_zyx, image.spacing_zyx_mm, click, SITES) == [], pair.case


def test_mr_does_not_look_like_ct_and_an_abdomen_is_no_known_site(shared_data: Path) -> None:
    mr = [*shared_data.glob("mri/*_image.nrrd"), *shared_data.glob("sarcoma/*/MR_T1_image.nii.gz")]
    mr.append(shared_data / "no_lesion" / "example_mr_sm.nii.gz")
    assert len(mr) == 6
    for path in mr:
        image = read_image(path)
        assert site_warnings(image.array_zyx, image.spacing_zyx_mm, None, SITES) == [NOT_CT], path.name
    image = read_image(shared_data / "no_lesion" / "example_ct_sm.nii.gz")
    organs = read_image(shared_data / "no_lesion" / "example_seg.nii.gz").array_zyx.round()
    pancreas, aorta = 7, 52
    for organ in (pancreas, aorta):
        for click in click_positions(organs == organ, image.spacing_zyx_mm, 4):
            assert site_warnings(image.array_zyx, image.spacing_zyx_mm, click, SITES) == [UNSEEN.format(sites=SITES)]
