"""The page against the service itself: a file is dropped, clicked, drawn on and accepted, and both sides hold the same mask."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from service import TOKEN, Running, running

pytest.importorskip("playwright.sync_api", reason="the browser's driver is in the extra dev")
from test_page import CHROMIUM, GRIDS, MARKS, SHAPE, Tab, check_tint, launch, scan

from segnet.io.volumes import read_image

__all__ = ["launch"]  # a fixture
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    yield from running(tmp_path_factory.mktemp("hospital"))


@pytest.fixture
def shown(hospital: Running, launch: Callable[..., Any]) -> Iterator[Tab]:
    page = launch().new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(20_000)
    tab = Tab(page, f"{hospital.address}/?token={TOKEN}", [])
    page.on("console", lambda message: tab.wrong.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: tab.wrong.append(f"error: {error}"))
    page.on(
        "request",
        lambda request: request.url.startswith((hospital.address, "data:", "blob:")) or tab.wrong.append(request.url),
    )
    yield tab
    page.close()
    assert tab.wrong == []


def whole(hospital: Running, lesion: str) -> np.ndarray:
    """The server's mask on the canonical grid, (x, y, z)."""
    (x, y, z, nx, ny, nz), mask = hospital.client.mask(lesion)
    out = np.zeros(SHAPE, bool)
    out[x : x + nx, y : y + ny, z : z + nz] = mask.T
    return out


@pytest.mark.parametrize(
    "grid", ["oblique", *(pytest.param(name, marks=pytest.mark.slow) for name in GRIDS if name != "oblique")]
)
def test_both_sides_hold_the_same_mask(hospital: Running, shown: Tab, tmp_path: Path, grid: str) -> None:
    data, affine = scan(**GRIDS[grid])  # type: ignore[arg-type]
    path = tmp_path / f"{grid}.nii.gz"
    stored = nib.Nifti1Image.from_bytes(gzip.decompress(data))
    hu = np.where(np.asarray(stored.dataobj) > 0, 400, -900).astype(np.int16)
    nib.Nifti1Image(hu, stored.affine, stored.header).to_filename(path)
    shown.open()
    shown.page.set_input_files("#choose-file", path)
    shown.page.wait_for_selector("#pane-main[data-image]:not([data-image=preview])")
    shown.page.wait_for_selector("#loading", state="hidden")
    image = hospital.client.images()[0]["image"]  # the newest
    shown.slice(MARKS[0][2])
    shown.press("h")
    where = shown.marks()
    shown.click(where(MARKS[0]))
    shown.card()
    (lesion,) = hospital.client.image(image)["lesions"]
    np.testing.assert_allclose(lesion["clicks"], [(affine @ [*MARKS[0], 1])[:3]], atol=1e-3)

    # the mask and its numbers are those of the command line on the file
    found = hospital.worker.segmenter.model.predict(str(path), click=tuple(lesion["clicks"][0]), click_space="ras")
    assert found.mask.any()
    np.testing.assert_array_equal(whole(hospital, lesion["lesion"]), found.mask.transpose(2, 1, 0))
    assert lesion["long_axis_mm"] == found.whole.long_axis_mm
    assert shown.page.locator(".card .measures").inner_text().count(f"{found.whole.long_axis_mm:.1f} mm")
    shown.page.mouse.move(5, 5)
    check_tint(shown.pixels(), where, whole(hospital, lesion["lesion"])[:, :, MARKS[0][2]])

    # a stroke, undone, and another one; then it is accepted
    before = whole(hospital, lesion["lesion"])
    shown.press("b", "]", "]")
    for stroke in ((where((30, 20)), where((38, 26))), (where((26, 30)), where((34, 34)))):
        shown.drag(*stroke)
        shown.page.wait_for_selector(".saved:text-is('Saved')")
        assert (whole(hospital, lesion["lesion"]) & ~before).any()
        if stroke[0][1] == where((30, 20))[1]:
            shown.press("Control+z")
            shown.page.wait_for_selector(".saved:text-is('Not saved yet')")
            shown.page.wait_for_selector(".saved:text-is('Saved')")
            np.testing.assert_array_equal(whole(hospital, lesion["lesion"]), before)
    drawn = whole(hospital, lesion["lesion"])
    shown.page.mouse.move(5, 5)
    shown.press("v")
    check_tint(shown.pixels(), where, drawn[:, :, MARKS[0][2]])
    shown.page.click(".accept")
    shown.page.wait_for_selector(".badge.ok")
    assert hospital.client.lesion(lesion["lesion"])["accepted"]

    # the file that a reader downloads lies on the grid of the file that was dropped
    hospital.client.save_mask(lesion["lesion"], tmp_path / "mask.nii.gz")
    saved = nib.Nifti1Image.from_bytes(gzip.decompress((tmp_path / "mask.nii.gz").read_bytes()))
    assert saved.shape == nib.load(path).shape
    np.testing.assert_allclose(saved.affine, nib.load(path).affine, atol=1e-5)
    np.testing.assert_array_equal(read_image(tmp_path / "mask.nii.gz").array > 0, drawn)
    shown.open(f"&image={image}")
    shown.page.wait_for_selector(".badge.ok")
