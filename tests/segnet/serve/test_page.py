"""The page in a real browser against the API in memory: click, see, correct, accept, export, follow up."""

from __future__ import annotations

import gzip
import importlib.util
import io
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

nib = pytest.importorskip("nibabel")
pytest.importorskip("fastapi", reason="no FastAPI here")
playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright here")


def neighbour(name: str) -> Any:
    """A module of this folder, which is no package: its name would hide segnet's."""
    spec = importlib.util.spec_from_file_location(f"serve_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


stub_module = neighbour("stub")
Stub, served = stub_module.Stub, stub_module.served

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")

SHAPE = (64, 48, 20)  # of the canonical grid
SPACING = (2.0, 1.5, 3.0)
ORIGIN = np.array([-63.0, -40.5, 17.25])
MARKS = ((22, 14, 8), (41, 33, 8))  # centres of bright cubes, in one axial slice
FLAGS = (
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--no-first-run",
)


def oblique(degrees: float) -> np.ndarray:
    """A turn about two axes, small enough that the nearest axes stay the same."""
    a, b = np.radians([degrees, degrees / 2])
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    return about_z @ about_x


def scan(
    order: tuple[int, int, int] = (0, 1, 2), flips: tuple[int, ...] = (), degrees: float = 0
) -> tuple[bytes, np.ndarray]:
    """A NIfTI file whose axes are stored in this order and flipped so, and its canonical affine."""
    voxels = np.zeros(SHAPE, np.int16)
    for x, y, z in MARKS:
        voxels[x - 1 : x + 2, y - 1 : y + 2, z - 1 : z + 2] = 1000
    affine = np.eye(4)
    affine[:3, :3] = oblique(degrees) @ np.diag(SPACING)
    affine[:3, 3] = ORIGIN
    image = nib.Nifti1Image(voxels, affine)
    stored = np.stack([order, [-1 if axis in flips else 1 for axis in range(3)]], -1)
    turned = image.as_reoriented(np.stack([np.argsort(order), stored[:, 1]], -1))
    canonical = nib.as_closest_canonical(turned)
    assert np.array_equal(np.asarray(canonical.dataobj), voxels)
    return gzip.compress(turned.to_bytes()), canonical.affine


GRIDS = {
    "plain": {},
    "flipped": {"flips": (0, 1)},
    "permuted": {"order": (2, 0, 1)},
    "oblique": {"order": (1, 2, 0), "flips": (1,), "degrees": 7.0},
}


@pytest.fixture(scope="module")
def launch() -> Iterator[Callable[..., Any]]:
    """Browsers by their flags, each started once."""
    with playwright.sync_playwright() as driver:
        browsers: dict[tuple[str, ...], Any] = {}

        def start(*flags: str) -> Any:
            if flags not in browsers:
                browsers[flags] = driver.chromium.launch(
                    executable_path=CHROMIUM, chromium_sandbox=False, args=[*FLAGS, *flags]
                )
            return browsers[flags]

        yield start
        for browser in browsers.values():
            browser.close()


@dataclass
class Tab:
    """A page, what it did wrong, and the marks that it shows."""

    page: Any
    url: str
    wrong: list[str]

    def open(self, query: str = "") -> None:
        self.page.goto(self.url + query)
        self.page.wait_for_selector("html[data-ready]", timeout=60_000)
        if "image=" in query:
            self.page.wait_for_selector("#pane-main[data-image]", timeout=30_000)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def card(self, state: str = "done") -> Any:
        return self.page.wait_for_selector(f".card.selected[data-state={state}]", timeout=15_000)

    @property
    def overlay(self) -> Any:
        return self.page.locator("#pane-main .overlay")

    def crosshair(self) -> tuple[int, ...]:
        self.settle()
        return tuple(map(int, self.overlay.get_attribute("data-crosshair").split(",")))

    def settle(self) -> None:
        """Waits for two more frames, in which whatever was asked for is drawn."""
        self.page.evaluate(
            "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 60))))"
        )

    def pixels(self) -> np.ndarray:
        self.settle()
        return np.asarray(Image.open(io.BytesIO(self.overlay.screenshot())).convert("RGB")).astype(int)

    def slice(self, k: int) -> None:
        """Goes to an axial slice with the keyboard."""
        self.overlay.focus()
        steps = k - self.crosshair()[2]
        self.press(*["PageUp" if steps > 0 else "PageDown"] * abs(steps))
        self.settle()
        assert self.crosshair()[2] == k

    def marks(self) -> Callable[[np.ndarray], np.ndarray]:
        """The map from voxels (x, y) of the axial plane to pixels of the viewer, by where the two bright cubes are seen."""
        seen = self.pixels()
        bright = (seen.min(-1) > 235) & (np.arange(seen.shape[1]) < 0.6 * seen.shape[1])
        labels, count = ndimage.label(bright)
        large = [label for label in range(1, count + 1) if (labels == label).sum() > 60]
        assert len(large) == 2, f"{len(large)} bright areas in the axial plane"
        centres = sorted(tuple(np.add(ndimage.center_of_mass(labels == label), 0.5)[::-1]) for label in large)
        right, left = np.array(centres)  # the patient's right is on the left of the screen
        near, far = np.array(MARKS)[:, :2]
        assert left[1] > right[1], "the front of the patient belongs at the top"
        scale = (right - left) / (far - near)
        return lambda voxel: left + (np.asarray(voxel)[..., :2] - near) * scale

    def at(self, pixel: np.ndarray) -> tuple[float, float]:
        box = self.overlay.bounding_box()
        return box["x"] + float(pixel[0]), box["y"] + float(pixel[1])

    def click(self, pixel: np.ndarray, shift: bool = False) -> None:
        if shift:
            self.page.keyboard.down("Shift")
        self.page.mouse.click(*self.at(pixel))
        if shift:
            self.page.keyboard.up("Shift")

    def drag(self, *pixels: np.ndarray, button: str = "left") -> None:
        self.page.mouse.move(*self.at(pixels[0]))
        self.page.mouse.down(button=button)
        for pixel in pixels[1:]:
            self.page.mouse.move(*self.at(pixel), steps=8)
        self.page.mouse.up(button=button)

    def notice(self, text: str) -> None:
        self.page.wait_for_selector(f"#notices :text('{text}')", timeout=5_000)


@pytest.fixture
def stub() -> Any:
    return Stub()


@pytest.fixture
def tab(stub: Any, launch: Callable[..., Any]) -> Iterator[Callable[..., Tab]]:
    """Opens a page of this stub; afterwards nothing may have gone wrong in it."""
    with served(stub) as url:
        tabs: list[Tab] = []

        def visit(*flags: str, **context: Any) -> Tab:
            page = launch(*flags).new_page(**{"viewport": {"width": 1280, "height": 800}, **context})
            page.set_default_timeout(15_000)
            tab = Tab(page, url, [])
            page.on("console", lambda message: tab.wrong.append(f"{message.type}: {message.text}"))
            page.on("pageerror", lambda error: tab.wrong.append(f"error: {error}"))
            page.on(
                "request",
                lambda request: (
                    request.url.startswith((url, "data:", "blob:")) or tab.wrong.append(f"left: {request.url}")
                ),
            )
            tabs.append(tab)
            return tab

        yield visit
        for opened in tabs:
            opened.page.close()
            assert opened.wrong == []


@pytest.fixture
def opened(stub: Any, tab: Callable[..., Tab]) -> Tab:
    """The plain scan, open at the marks' slice."""
    sha = stub.add("scan.nii.gz", scan()[0])
    shown = tab()
    shown.open(f"?image={sha}")
    shown.slice(MARKS[0][2])
    return shown


def coloured(pixels: np.ndarray) -> np.ndarray:
    """Pixels of the first lesion's colour, and of its tint."""
    red, _, blue = np.moveaxis(pixels, -1, 0)
    return red - blue > 45


def sent_mask(stub: Any) -> np.ndarray:
    headers, body = stub.sent("PUT", "/mask")[-1]
    x, y, z, nx, ny, nz = map(int, headers["x-box"].split(","))
    whole = np.zeros(SHAPE, bool)
    whole[x : x + nx, y : y + ny, z : z + nz] = np.frombuffer(gzip.decompress(body), np.uint8).reshape(nz, ny, nx).T
    return whole


@pytest.mark.parametrize("renderer", ["webgl2", "canvas"])
@pytest.mark.parametrize(
    "grid", ["plain", *(pytest.param(name, marks=pytest.mark.slow) for name in GRIDS if name != "plain")]
)
def test_a_click_gives_the_millimetres_of_what_was_clicked(
    stub: Any, tab: Callable[..., Tab], grid: str, renderer: str
) -> None:
    data, affine = scan(**GRIDS[grid])  # type: ignore[arg-type]
    shown = tab(*["--disable-3d-apis"] * (renderer == "canvas"))
    shown.open(f"?image={stub.add('scan.nii.gz', data)}")
    assert shown.page.locator("#pane-main").get_attribute("data-renderer") == renderer
    shown.slice(MARKS[1][2])
    shown.press("h")
    where = shown.marks()
    shown.click(where(MARKS[1]))
    shown.card()
    (lesion,) = stub.lesions.values()
    np.testing.assert_allclose(lesion["clicks"], [(affine @ [*MARKS[1], 1])[:3]], atol=1e-3)

    # the overlay: each voxel of the slice is tinted or not, as the mask says
    shown.page.mouse.move(5, 5)
    k = lesion["axes"]["slice"]
    shown.slice(k)
    seen = shown.pixels()
    check_tint(seen, where, stub.masks[lesion["lesion"]][:, :, k])

    # the axes: white along the lines between their ends
    for ends in (lesion["axes"]["long"], lesion["axes"]["short"]):
        voxels = (np.c_[ends, [1, 1]] @ np.linalg.inv(affine).T)[:, :3]
        a, b = where(voxels)
        steps = np.linspace(0.05, 0.95, 41)[:, None]
        line = np.round(a + (b - a) * steps - 0.5).astype(int)
        around = [seen[line[:, 1] + dy, line[:, 0] + dx].min(-1) for dx in (-1, 0, 1) for dy in (-1, 0, 1)]
        assert (np.max(around, 0) > 215).mean() > (
            0.9 if ends is lesion["axes"]["long"] else 0.5
        )  # the short one is dashed
    assert shown.page.locator(".card .measures").inner_text().count(f"{lesion['long_axis_mm']:.1f} mm")


def check_tint(seen: np.ndarray, where: Callable[[np.ndarray], np.ndarray], mask: np.ndarray) -> None:
    """Each voxel's middle is tinted exactly where the mask is set. White lines, labels and their shadows hide some."""
    voxels = np.stack(np.meshgrid(*map(np.arange, mask.shape), indexing="ij"), -1)
    columns, rows = np.moveaxis(np.floor(where(voxels)).astype(int), -1, 0)
    covered = ndimage.maximum_filter((seen.min(-1) > 215) | (seen.max(-1) < 70), 9)
    colours, plain = seen[rows, columns], ~covered[rows, columns]
    assert plain[mask].mean() > 0.4
    np.testing.assert_array_equal(coloured(colours)[plain], mask[plain])


@pytest.mark.slow
def test_slices_of_the_server_take_over_where_graphics_fail(stub: Any, opened: Tab) -> None:
    pane = opened.page.locator("#pane-main")
    where = opened.marks()
    assert pane.get_attribute("data-renderer") == "webgl2"
    opened.page.evaluate(
        "document.querySelector('#pane-main .base').getContext('webgl2').getExtension('WEBGL_lose_context').loseContext()"
    )
    opened.page.wait_for_selector("#pane-main[data-renderer=canvas]")
    opened.page.wait_for_timeout(500)
    np.testing.assert_allclose(opened.marks()(MARKS[1]), where(MARKS[1]), atol=1)
    opened.click(where(MARKS[1]))
    opened.card()

    # a large scan without a graphics card goes there at once
    large = gzip.compress(nib.Nifti1Image(np.zeros((256, 256, 128), np.int16), np.eye(4)).to_bytes(), 1)
    opened.open(f"?image={stub.add('large.nii.gz', large)}")
    assert pane.get_attribute("data-renderer") == "canvas"
    assert len(stub.sent("GET", "/volume.nii.gz")) == 1


def test_open_click_draw_undo_accept(stub: Any, tab: Callable[..., Tab], tmp_path: Path) -> None:
    shown = tab()
    shown.open()
    assert shown.page.locator("#steps [aria-current]").get_attribute("data-step") == "open"
    (tmp_path / "chest.nii.gz").write_bytes(scan()[0])
    stub.job_s = 60.0
    shown.page.set_input_files("#choose-file", tmp_path / "chest.nii.gz")
    shown.page.wait_for_selector("#pane-main[data-image=preview]")
    shown.click(np.array([200, 250]))
    shown.notice("still reading this image")
    stub.job_s = 0.0
    for job in stub.jobs.values():
        job["ends"] = 0.0
    shown.page.wait_for_selector("#pane-main[data-image]:not([data-image=preview])")
    shown.page.wait_for_selector("#loading", state="hidden")
    assert shown.page.locator("#image-name").inner_text() == "chest.nii.gz · 64 × 48 × 20"
    (sha,) = stub.images
    assert shown.page.url.endswith(f"?image={sha}")
    assert shown.page.locator("#steps [aria-current]").get_attribute("data-step") == "click"
    shown.slice(8)
    shown.press("h")
    where = shown.marks()
    assert not coloured(shown.pixels()).any()
    shown.click(where(MARKS[0]))
    shown.card()
    assert shown.page.locator("#steps").is_hidden()
    (lesion,) = stub.lesions.values()
    before = stub.masks[lesion["lesion"]].copy()

    # a stroke of 9 mm away from the ball
    shown.slice(9)
    shown.press("b", "]", "]", "]")
    assert shown.page.locator("#brush-value").inner_text() == "9 mm"
    shown.drag(where((30, 20)), where((38, 26)), where((38, 30)))
    shown.page.wait_for_selector(".saved:text-is('Saved')")
    drawn = sent_mask(stub)
    added = drawn & ~before
    assert not (before & ~drawn).any()
    assert added.any((0, 1)).nonzero()[0].tolist() == [9]
    u, v = np.indices(SHAPE[:2])
    near = np.zeros(SHAPE[:2], bool)
    for a, b in (((30, 20), (38, 26)), ((38, 26), (38, 30))):
        for step in np.linspace(0, 1, 400):
            x, y = np.add(a, step * np.subtract(b, a))
            near |= np.hypot((u - x) * SPACING[0], (v - y) * SPACING[1]) <= 4.5
    rim = ndimage.binary_dilation(near) ^ ndimage.binary_erosion(near)  # a pixel's worth of doubt
    np.testing.assert_array_equal((added[:, :, 9] ^ (near & ~before[:, :, 9])) & ~rim, False)
    shown.page.mouse.move(5, 5)
    shown.press("v")
    seen = shown.pixels()
    check_tint(seen, where, drawn[:, :, 9])
    assert shown.page.locator(".badge", has_text="Edited").is_visible()

    # the eraser takes away, undo brings back, twice
    shown.press("e")
    shown.drag(where((34, 23)), where((40, 30)))
    shown.page.wait_for_selector(".saved:text-is('Not saved yet')")
    shown.page.wait_for_selector(".saved:text-is('Saved')")
    erased = sent_mask(stub)
    assert erased.sum() < drawn.sum()
    assert not (erased & ~drawn).any()
    for expected in (drawn, before):
        shown.press("Control+z")
        shown.page.wait_for_selector(".saved:text-is('Not saved yet')")
        shown.page.wait_for_selector(".saved:text-is('Saved')")
        np.testing.assert_array_equal(sent_mask(stub), expected)
    shown.press("Control+z")
    shown.notice("no stroke to undo")
    revisions = [headers["if-match"] for headers, _ in stub.sent("PUT", "/mask")]
    assert revisions == [f'"{n}"' for n in (1, 2, 3, 4)]

    # fields, then accept: locked until reopened
    shown.page.fill(".card input[type=text]", "Segment 6")
    shown.page.select_option(".card select >> nth=0", "lung")
    shown.page.select_option(".card select >> nth=1", "target")
    shown.page.click(".accept")
    shown.page.wait_for_selector(".badge.ok")
    (lesion,) = stub.lesions.values()
    assert (lesion["name"], lesion["site"], lesion["role"], lesion["accepted"]) == ("Segment 6", "lung", "target", True)
    assert shown.page.locator(".card input[type=text]").is_disabled()
    shown.press("b")
    writes = len(stub.sent("PUT", "/mask"))
    shown.drag(where((30, 20)), where((38, 26)))
    shown.notice("Reopen it to draw on it")
    assert len(stub.sent("PUT", "/mask")) == writes


@pytest.mark.slow
def test_a_drag_is_no_click_and_shift_adds(stub: Any, opened: Tab) -> None:
    where = opened.marks()
    opened.drag(where(MARKS[0]), where(MARKS[1]))
    opened.settle()
    assert not stub.lesions
    assert opened.crosshair() == MARKS[1]
    opened.click(where(MARKS[0]))
    opened.card()
    opened.click(where((30, 20, 8)), shift=True)
    opened.page.wait_for_selector(".card.selected[data-state=done] .measures:has-text('ml')")
    opened.settle()
    assert [path.rpartition("/")[2] for verb, path, _, _ in stub.requests if verb == "POST"] == ["lesions", "clicks"]
    (lesion,) = stub.lesions.values()
    assert len(lesion["clicks"]) == 2
    mask = stub.masks[lesion["lesion"]]
    assert mask[MARKS[0]]
    assert mask[30, 20, 8]
    opened.click(where((50, 20, 8)))  # replaces
    opened.page.wait_for_selector(".card.selected[data-state=done]")
    opened.settle()
    assert len(stub.lesions) == 1
    assert not stub.masks[lesion["lesion"]][MARKS[0]]
    opened.press("n")
    opened.click(where(MARKS[1]))
    opened.page.wait_for_selector(".card >> nth=1")
    opened.card()
    assert len(stub.lesions) == 2
    opened.click(where((50, 20, 8)))  # on the first one's mask: selects it
    opened.page.wait_for_selector(f".card.selected[data-lesion={lesion['lesion']}]")
    assert len(stub.sent("POST", "/clicks")) == 2
    headers, _ = stub.sent("POST", "/lesions")[0]
    assert headers["prefer"] == "wait=10"
    assert headers["idempotency-key"] != stub.sent("POST", "/lesions")[1][0]["idempotency-key"]


@pytest.mark.slow
def test_threshold_moves_the_mask(stub: Any, opened: Tab) -> None:
    where = opened.marks()
    opened.click(where(MARKS[0]))
    opened.card()
    first = coloured(opened.pixels()).sum()
    opened.page.locator(".card .threshold input").evaluate(
        "slider => { slider.value = 0.1; slider.dispatchEvent(new Event('input')); }"
    )
    opened.page.wait_for_selector(".threshold output:text-is('0.10')")
    with opened.page.expect_response(re.compile(r"/mask$")):
        pass
    assert coloured(opened.pixels()).sum() > 1.5 * first
    (lesion,) = stub.lesions.values()
    assert lesion["threshold"] == 0.1
    assert len(stub.sent("PATCH", lesion["lesion"])) == 1


@pytest.mark.slow
def test_a_conflict_is_told_and_the_newer_lesion_shown(stub: Any, opened: Tab) -> None:
    where = opened.marks()
    opened.click(where(MARKS[0]))
    opened.card()
    (lesion,) = stub.lesions.values()
    stub.masks[lesion["lesion"]][:] = False
    stub.masks[lesion["lesion"]][17:29, 8:20, 8] = True
    stub.measure(lesion)
    lesion["name"] = "Renamed elsewhere"
    opened.press("b")
    opened.drag(where((30, 20)), where((34, 20)))
    opened.notice("changed in another window")
    opened.page.wait_for_selector(".title:has-text('Renamed elsewhere')")
    opened.page.mouse.move(5, 5)
    opened.press("v", "h")
    opened.wrong.remove(next(text for text in opened.wrong if "412" in text))  # the browser logs refused requests
    check_tint(opened.pixels(), where, stub.masks[lesion["lesion"]][:, :, 8])


@pytest.mark.slow
def test_a_stroke_is_sent_until_it_is_saved(stub: Any, opened: Tab) -> None:
    where = opened.marks()
    opened.click(where(MARKS[0]))
    opened.card()
    stub.fail = {"/mask": (503, "The store is busy; try again in a minute.")}
    opened.press("b")
    opened.drag(where((30, 20)), where((34, 20)))
    opened.notice("is not saved: The store is busy")
    assert opened.page.locator(".saved").inner_text() == "Not saved yet"
    opened.page.wait_for_selector(".saved:text-is('Saved')")
    assert sent_mask(stub)[30, 20, 8]
    assert len(stub.sent("PUT", "/mask")) == 2
    opened.wrong.remove(next(text for text in opened.wrong if "503" in text))


@pytest.mark.slow
def test_a_slow_job_shows_its_progress_and_can_be_cancelled(stub: Any, opened: Tab) -> None:
    where, stub.job_s = opened.marks(), 2.0
    opened.click(where(MARKS[0]))
    opened.page.wait_for_selector(".card .message:has-text('of 16')")
    opened.click(where(MARKS[1]))
    opened.notice("still being segmented")
    opened.card()
    assert len(stub.lesions) == 1
    assert opened.page.locator("#live").text_content() != ""
    stub.job_s = 30.0
    opened.press("n")
    opened.click(where(MARKS[1]))
    opened.page.click(".card.selected .progress button")
    opened.card("cancelled")
    opened.page.wait_for_selector(".card.selected .error:has-text('Cancelled')")


@pytest.mark.slow
def test_keyboard_alone(stub: Any, opened: Tab) -> None:
    opened.overlay.focus()
    opened.press("c", "ArrowRight", "ArrowDown", "PageUp")
    x, y, z = opened.crosshair()
    assert (x, y, z) == (31, 23, 9)
    opened.press("Enter")
    opened.card()
    (lesion,) = stub.lesions.values()
    np.testing.assert_allclose(lesion["clicks"][0], np.multiply((x, y, z), SPACING) + ORIGIN, atol=1e-3)
    opened.press("b", "Shift+ArrowLeft", "Enter")
    opened.page.wait_for_selector(".saved:text-is('Saved')")
    assert sent_mask(stub)[41, 23, 9]
    opened.press("Control+z")
    opened.page.wait_for_selector(".saved:text-is('Not saved yet')")
    opened.page.wait_for_selector(".saved:text-is('Saved')")
    assert not sent_mask(stub)[41, 23, 9]
    opened.press("a")
    opened.page.wait_for_selector(".badge.ok")
    opened.press("a")
    opened.page.wait_for_selector(".badge.ok", state="detached")
    opened.press("w")
    opened.settle()
    assert opened.overlay.get_attribute("data-window") == "-1350,150"
    opened.press("2", "+")
    opened.settle()
    assert opened.page.locator("#layout").input_value() == "z"
    assert float(opened.overlay.get_attribute("data-zoom")) == pytest.approx(1.25)
    opened.press("1", "0", "?")
    assert opened.page.locator("#help").is_visible()
    opened.press("v", "Escape")
    assert opened.page.locator("#help").is_hidden()
    assert (
        opened.page.locator("#toolbar [data-tool=brush]").get_attribute("aria-pressed") == "true"
    )  # a dialog takes all keys
    opened.press("x")
    assert opened.page.locator("#export").is_visible()
    opened.press("Escape", "Delete")
    opened.page.click("dialog.ask button[value=yes]")
    opened.page.wait_for_selector(".card", state="detached")
    assert not stub.lesions
    opened.page.keyboard.press("Tab")
    assert opened.page.evaluate("document.activeElement.matches(':focus-visible')")


@pytest.mark.slow
def test_pointer_moves_window_zoom_and_pan(stub: Any, opened: Tab) -> None:
    where = opened.marks()
    centre = where((31.5, 23.5))
    opened.drag(centre, centre + np.array([20, 0]), button="right")
    opened.settle()
    assert opened.overlay.get_attribute("data-window") == "-190,270"
    assert opened.page.locator("#preset").input_value() == "manual"
    opened.page.mouse.move(*opened.at(centre))
    opened.page.mouse.wheel(0, -100)
    opened.settle()
    assert opened.crosshair()[2] == 9
    x, y = opened.page.locator("#probe").inner_text().partition("voxel ")[2].split(", ")[:2]
    assert opened.page.locator("#probe").inner_text() == (
        f"{-63 + 2 * int(x):.1f}, {-40.5 + 1.5 * int(y):.1f}, 44.3 mm RAS · voxel {x}, {y}, 9 · 0 HU"
    )
    opened.page.mouse.wheel(0, 100)
    opened.page.keyboard.down("Control")
    opened.page.mouse.move(*opened.at(where(MARKS[0])))
    opened.page.mouse.wheel(0, -100)
    opened.page.keyboard.up("Control")
    moved = opened.marks()
    np.testing.assert_allclose(moved(MARKS[0]), where(MARKS[0]), atol=2)
    grown = (moved(MARKS[1]) - moved(MARKS[0])) / (where(MARKS[1]) - where(MARKS[0]))
    np.testing.assert_allclose(grown, np.exp(1 / 3), rtol=0.03)
    opened.drag(moved(MARKS[0]), moved(MARKS[0]) + np.array([30, 12]), button="middle")
    np.testing.assert_allclose(opened.marks()(MARKS[0]), moved(MARKS[0]) + np.array([30, 12]), atol=2)
    opened.click(opened.marks()(MARKS[0]))
    opened.card()
    (lesion,) = stub.lesions.values()
    np.testing.assert_allclose(lesion["clicks"][0], np.multiply(MARKS[0], SPACING) + ORIGIN, atol=1e-3)


@pytest.mark.slow
def test_errors_are_told_in_place(stub: Any, tab: Callable[..., Tab], tmp_path: Path) -> None:
    shown = tab()
    shown.open()
    assert "64 MB" in shown.page.locator("#limits").inner_text()
    for name, content in {"a.nii": b"a", "b.nii": b"b", "bad.nii.gz": b"no image"}.items():
        (tmp_path / name).write_bytes(content)
    error = shown.page.locator("#upload-error")

    def told(*names: str) -> str:
        shown.page.set_input_files("#choose-file", [])
        shown.page.locator("#choose-file").evaluate("input => { input.multiple = true; }")
        shown.page.set_input_files("#choose-file", [tmp_path / name for name in names])
        shown.page.wait_for_selector("#upload-error:visible")
        return str(error.inner_text())

    assert told("a.nii", "b.nii").startswith("Expected one image, got 2")
    with (tmp_path / "large.nii").open("wb") as large:
        large.truncate((64 << 20) + 1)
    assert told("large.nii").startswith("Expected at most 64 MB")
    assert not stub.uploads
    assert told("bad.nii.gz") == "bad.nii.gz: expected a NIfTI file, got other bytes; export it again"
    assert shown.page.locator("#upload-retry").is_visible()
    shown.wrong.remove(next(text for text in shown.wrong if "422" in text))


@pytest.mark.slow
def test_an_upload_goes_on_where_it_stopped(stub: Any, tab: Callable[..., Tab], tmp_path: Path) -> None:
    shown = tab()
    shown.open()
    folder = tmp_path / "series"
    folder.mkdir()
    (folder / "a0.dcm").write_bytes(scan()[0])
    for n in range(1, 6):
        (folder / f"a{n}.dcm").write_bytes(bytes([n]) * 100)
    (folder / ".DS_Store").write_bytes(b"x")
    stub.fail = {"/files/3": (413, "file 3: expected less")}
    shown.page.set_input_files("#choose-folder", folder)
    shown.page.wait_for_selector("#upload-error:has-text('file 3')")
    assert len(next(iter(stub.uploads.values()))["files"]) == 6
    shown.page.reload()
    shown.page.wait_for_selector("html[data-ready]")
    stub.fail = {"/files/3": (503, "busy")}  # tried again without asking
    received = {n for n in range(6) if next(iter(stub.uploads.values()))["files"][n]["received"]}
    stub.requests.clear()
    shown.page.set_input_files("#choose-folder", folder)
    shown.page.wait_for_selector("#pane-main[data-image]")
    assert len(stub.uploads) == 1
    resent = [int(path.rpartition("/")[2]) for verb, path, _, _ in stub.requests if verb == "PUT"]
    assert not received & set(resent)
    assert resent.count(3) == 2
    shown.wrong[:] = [text for text in shown.wrong if "413" not in text and "503" not in text]


@pytest.mark.slow
def test_a_folder_and_a_file_can_be_dropped(stub: Any, tab: Callable[..., Tab], tmp_path: Path) -> None:
    shown = tab()
    shown.open()
    (tmp_path / "series" / "inner").mkdir(parents=True)
    (tmp_path / "series" / "inner" / "0.dcm").write_bytes(scan()[0])
    (tmp_path / "series" / "1.dcm").write_bytes(b"small")
    (tmp_path / "scan.nii.gz").write_bytes(scan()[0])
    devices = shown.page.context.new_cdp_session(shown.page)
    for dropped, count in ((tmp_path / "series", 2), (tmp_path / "scan.nii.gz", 1)):
        for kind in ("dragEnter", "dragOver", "drop"):
            data = {"items": [], "files": [str(dropped)], "dragOperationsMask": 1}
            devices.send("Input.dispatchDragEvent", {"type": kind, "x": 400, "y": 300, "data": data})
        shown.page.wait_for_selector(f"#image-name:has-text('{dropped.name if count == 1 else 'DICOM series'} · 64')")
        shown.page.wait_for_selector("#pane-main[data-image]:not([data-image=preview])")
        assert len(list(stub.uploads.values())[-1]["files"]) == count


@pytest.mark.slow
def test_phone_width_has_no_horizontal_scroll(stub: Any, tab: Callable[..., Tab]) -> None:
    sha = stub.add(
        "a-rather-long-name-of-a-scan-without-any-space-2026-12-01.nii.gz", scan()[0], warnings=["A warning."]
    )
    shown = tab(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True, color_scheme="light")
    width = "() => Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)"
    shown.open()
    assert shown.page.evaluate(width) == 360
    shown.open(f"?image={sha}")
    shown.settle()
    assert shown.page.evaluate(width) == 360
    box = shown.overlay.bounding_box()
    shown.page.touchscreen.tap(box["x"] + 0.3 * box["width"], box["y"] + 0.4 * box["height"])
    shown.card()
    assert shown.page.evaluate(width) == 360
    assert shown.page.locator("#side").bounding_box()["y"] > box["y"] + box["height"] - 1
    shown.page.click("#export-button")
    assert shown.page.evaluate(width) == 360
    shown.press("Escape", "f")
    shown.settle()
    assert shown.page.evaluate(width) == 360
    assert "Research software. Not a medical device." in shown.page.locator("footer").inner_text()


@pytest.mark.slow
def test_fingers_scroll_zoom_pan_click_and_add(stub: Any, tab: Callable[..., Tab]) -> None:
    sha = stub.add("scan.nii.gz", scan()[0])
    shown = tab(viewport={"width": 600, "height": 900}, has_touch=True, is_mobile=True)
    shown.open(f"?image={sha}")
    shown.slice(8)
    shown.press("2")  # the axial plane fills the viewer
    shown.settle()
    devices = shown.page.context.new_cdp_session(shown.page)

    def touch(kind: str, *points: np.ndarray) -> None:
        at = [dict(zip("xy", shown.at(point), strict=True), id=n) for n, point in enumerate(points)]
        devices.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": at})

    def marks() -> np.ndarray:
        """Where the bright cubes are seen, the one nearer to the patient's right first."""
        labels, count = ndimage.label(shown.pixels().min(-1) > 245)
        large = [n for n in range(1, count + 1) if (labels == n).sum() > 60]
        return np.array(sorted(tuple(np.add(ndimage.center_of_mass(labels == n), 0.5)[::-1]) for n in large))

    right, left = marks()
    middle = (left + right) / 2
    touch("Start", middle)
    for step in range(1, 7):
        touch("Move", middle - np.array([0, 10 * step]))
    touch("End")
    assert shown.crosshair()[2] > 8
    assert not stub.lesions
    shown.slice(8)
    shown.press("h")
    touch("Start", middle, middle + np.array([40, 0]))
    touch("Move", middle, middle + np.array([60, 0]))
    touch("Move", middle, middle + np.array([80, 0]))
    touch("End")
    wider = marks()
    assert float(shown.overlay.get_attribute("data-zoom")) > 1.5
    assert np.linalg.norm(np.subtract(*wider)) > 1.5 * np.linalg.norm(right - left)
    shown.press("0")
    touch("Start", left)
    touch("End")
    shown.card()
    touch("Start", right)
    shown.page.wait_for_timeout(650)
    touch("End")
    shown.page.wait_for_selector(".card.selected[data-state=done] .measures:has-text('ml')")
    shown.settle()
    assert len(stub.sent("POST", "/clicks")) == 1
    (lesion,) = stub.lesions.values()
    np.testing.assert_allclose(lesion["clicks"], [np.multiply(mark, SPACING) + ORIGIN for mark in MARKS], atol=1e-3)
    assert all(stub.masks[lesion["lesion"]][mark] for mark in MARKS)


@pytest.mark.slow
def test_export_offers_what_the_image_allows(stub: Any, tab: Callable[..., Tab]) -> None:
    shown = tab()
    plain = stub.add("plain.nii.gz", scan()[0])
    hidden = stub.add("hidden", scan()[0], source="dicom", deidentified=True)
    full = stub.add("full", scan()[0], source="dicom", pacs_export=True)

    def offer(sha: str) -> dict[str, str]:
        shown.open(f"?image={sha}")
        shown.slice(8)
        shown.click(shown.marks()(MARKS[0]))
        shown.card()
        shown.press("a")
        shown.page.wait_for_selector(".badge.ok")
        shown.press("x")
        return {
            name: shown.page.locator(f"#export-{name}-reason").inner_text()
            for name in ("seg", "sr", "pacs")
            if shown.page.locator(f"#export-{name}").is_disabled()
        }

    assert list(offer(plain)) == ["seg", "sr", "pacs"]
    refused = offer(hidden)
    assert list(refused) == ["pacs"]
    assert "de-identified" in refused["pacs"]
    assert offer(full) == {}
    shown.page.check("#export-pacs")
    assert shown.page.locator("#export-run").is_disabled()
    shown.page.check("#export-seg")
    shown.page.click("#export-run")
    links = shown.page.wait_for_selector("#export-result a")
    assert links.get_attribute("href") == "v1/exports/e/lesions.nifti"
    assert "stored 2 objects" in shown.page.locator("#export-result").inner_text()
    with shown.page.expect_download() as download:
        links.click()
    assert Path(download.value.path()).read_bytes() == b"content"


@pytest.mark.slow
def test_follow_up_pairs_and_response(stub: Any, tab: Callable[..., Tab]) -> None:
    shown = tab()
    before = stub.add("before.nii.gz", scan()[0], study_date="2026-01-01")
    after = stub.add("after.nii.gz", scan()[0], study_date="2026-06-01")
    for sha in (before, after):
        shown.open(f"?image={sha}")
        shown.slice(8)
        shown.click(shown.marks()(MARKS[0]))
        shown.card()
    shown.press("f")
    shown.page.select_option("#followup-other", before)
    shown.page.wait_for_selector("#pane-other[data-image]")
    shown.page.wait_for_selector("#pairs select")
    assert shown.page.locator("#pane-main-text").inner_text().startswith("Follow-up · after")
    assert shown.page.locator("#pane-other-text").inner_text().startswith("Baseline · before")
    assert shown.page.locator("#followup-run").is_disabled()
    assert "counted as new" in shown.page.locator("#new-lesions").inner_text()
    shown.page.select_option("#pairs select", index=2)  # after "Choose…" and "Not visible any more"
    assert shown.page.locator("#new-lesions").inner_text() == ""
    shown.page.click("#followup-run")
    shown.page.wait_for_selector(".response.SD")
    shown.page.select_option("#pairs select", "gone")
    assert shown.page.locator(".response").count() == 0  # of other pairs
    shown.page.fill("#nadir", "12.5")
    shown.page.click("#followup-run")
    shown.page.wait_for_selector(".response.CR")
    _, body = stub.sent("POST", "/comparisons")[-1]
    old, new = (
        next(lesion["lesion"] for lesion in stub.lesions.values() if lesion["image"] == sha) for sha in (before, after)
    )
    assert json.loads(body) == {
        "baseline": before,
        "followup": after,
        "pairs": [{"baseline": old, "followup": None}, {"baseline": None, "followup": new}],
        "nadir_mm": 12.5,
    }
    assert "12.5 mm" in shown.page.locator("#followup-answer").inner_text()
    assert shown.page.locator("#followup-answer details li").count() == 1
    shown.page.click("#followup-swap")
    assert shown.page.locator("#pane-main-text").inner_text().startswith("Baseline · after")
    shown.press("Escape")
    assert shown.page.locator("#pane-other").is_hidden()
    assert shown.page.locator("#pane-other canvas").count() == 0


@pytest.mark.slow
def test_series_from_the_pacs(stub: Any, tab: Callable[..., Tab]) -> None:
    sha = stub.add("from the archive", scan()[0])
    shown = tab()
    shown.open("?study=1.2&series=1.2.1")
    shown.page.wait_for_selector(f"#pane-main[data-image='{sha}']")
    shown.open("?study=1.2")
    shown.page.wait_for_selector("#pacs-found button")
    assert shown.page.locator("#pacs-found button").nth(1).is_disabled()
    shown.press("Escape")
    shown.page.click("#pacs-open")
    shown.page.fill("#pacs-name", "Test*")
    shown.page.fill("#pacs-date", "2026-01-02")
    shown.page.click("#pacs-form .primary")
    shown.page.click("#pacs-found button")
    shown.page.click("#pacs-found .series button")
    shown.page.wait_for_selector(f"#pane-main[data-image='{sha}']")
    stub.pacs = False
    shown.open()
    assert shown.page.locator("#pacs-open").is_hidden()


@pytest.mark.slow
def test_masks_grow_trim_and_undo(opened: Tab) -> None:
    """The drawing's arithmetic against numpy, with strokes in all three planes and over the edges of the grid."""
    found = opened.page.evaluate(
        """async shape => {
            const { Mask } = await import("./static/mask.js");
            const mask = new Mask(shape), crops = [];
            for (const [value, axis, k, from, to, r] of [[1, "z", 3, [2, 2], [9, 6], 2.2], [1, "x", 60, [-3, 5], [50, 19], 3],
                                                         [0, "y", 4, [0, 0], [63, 19], 2], [1, "y", 47, [30.4, 7.6], [30.4, 7.6], 0.1]]) {
                mask.startStroke(value);
                mask.disc(axis, k, ...from, r, r);
                mask.line(axis, k, from, to, r, r);
                mask.endStroke();
                crops.push(mask.crop());
            }
            while (mask.undo()) crops.push(mask.crop());
            return crops.map(({ box, data }) => ({ box, data: [...data] }));
        }""",
        SHAPE,
    )

    def whole(crop: dict[str, Any]) -> np.ndarray:
        (x, y, z, nx, ny, nz), out = crop["box"], np.zeros(SHAPE, bool)
        out[x : x + nx, y : y + ny, z : z + nz] = np.reshape(crop["data"], (nz, ny, nx)).T
        return out

    states = [whole(crop) for crop in found]
    for state, crop in zip(states[:4], found[:4], strict=True):
        where = np.argwhere(state)
        assert crop["box"] == [*where.min(0), *(np.ptp(where, 0) + 1)]
    assert set(np.argwhere(states[1] & ~states[0])[:, 0]) == {60}
    assert (states[3] & ~states[2]).nonzero() == ([30], [47], [8])
    for undone, state in zip(states[4:], [*states[2::-1], np.zeros(SHAPE, bool)], strict=True):
        np.testing.assert_array_equal(undone, state)
