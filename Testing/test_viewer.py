"""The viewer as people meet it: in a real browser, with real images, to the end."""

from __future__ import annotations

import io
import json
import re
import shutil
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from DeepRegAttentionLib.engine.images import read_image
from DeepRegAttentionLib.engine.options import RegistrationOptions
from DeepRegAttentionLib.engine.registration import register
from helpers.browser import CHROMIUM, FLAGS, Server, require_browser
from helpers.places import real_data
from PIL import Image

require_browser()
playwright = pytest.importorskip("playwright.sync_api")

pytestmark = pytest.mark.slow
FIXED, MOVING = "hippocampus_001.nii.gz", "hippocampus_003.nii.gz"
START_MS, WAIT_MS, REGISTER_MS = 120_000, 45_000, 240_000
UPLOAD_MIB = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the browser may read: a pair of images, and a link that leads out of it."""
    folder = tmp_path_factory.mktemp("allowed")
    for name in (FIXED, MOVING):
        shutil.copy(real_data("hippocampus") / "images" / name, folder)
    secret = tmp_path_factory.mktemp("secret")
    shutil.copy(folder / FIXED, secret / "secret.nii.gz")
    (folder / "link.nii.gz").symlink_to(secret / "secret.nii.gz")
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("log") / "server.txt"
    server = Server(log, "--folder", str(folder), "--upload-limit", str(UPLOAD_MIB), "--leave", "0.5")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with playwright.sync_playwright() as instance:
        browser = instance.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Any, server: Server) -> Iterator[Any]:
    """A page of a browser of its own, which has asked nobody but the server for anything."""
    yield from open_page(chromium, server)


def open_page(chromium: Any, server: Server) -> Iterator[Any]:
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    asked: list[str] = []
    wrong: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(server.url)
    page.wait_for_selector(".views", timeout=START_MS)
    yield page
    context.close()
    origin = server.url.split("/?")[0]
    assert not [url for url in asked if not url.startswith((origin, "data:", "blob:", origin.replace("http", "ws")))]
    assert not wrong


def choose(page: Any, role: str, name: str) -> None:
    page.click(f"#browse-{role}")
    page.click(f"#browser >> text={name}", timeout=WAIT_MS)
    page.wait_for_selector(f"#chosen-{role}:has-text('{name}')", timeout=WAIT_MS)


def upload(page: Any, role: str, path: Path) -> None:
    page.set_input_files(f"#upload-{role}", str(path))


def pick(page: Any, name: str, text: str) -> None:
    page.locator(f".v-select:has(#{name})").click()
    page.locator(".v-overlay--active .v-list-item", has_text=text).first.click()


def picture(page: Any, view: str) -> np.ndarray:
    image = Image.open(io.BytesIO(page.locator(f"#view-{view}").screenshot()))
    return np.asarray(image.convert("RGB"), dtype=float)


def changed(page: Any, view: str, before: np.ndarray) -> np.ndarray:
    """The picture of a view once it differs from what it was."""
    end = time.monotonic() + WAIT_MS / 1000
    while time.monotonic() < end:
        time.sleep(0.3)
        now = picture(page, view)
        if now.shape != before.shape or np.abs(now - before).mean() > 0.5:
            return now
    raise AssertionError(f"the view {view} did not change")


def settled(page: Any, view: str) -> np.ndarray:
    """The picture of a view once it stays as it is."""
    last = picture(page, view)
    for _ in range(60):
        time.sleep(0.7)
        now = picture(page, view)
        if now.shape == last.shape and np.abs(now - last).mean() < 0.05:
            return now
        last = now
    raise AssertionError(f"the view {view} does not come to rest")


def error(page: Any) -> str:
    page.wait_for_selector("#error", timeout=WAIT_MS)
    assert page.locator("#error").count() == 1
    return page.inner_text("#error").strip()


def close_error(page: Any) -> None:
    page.click("#error .v-alert__close button")
    page.wait_for_selector("#error", state="detached", timeout=WAIT_MS)


def download(page: Any, kind: str, path: Path) -> None:
    page.click(f"#prepare-{kind}")
    page.wait_for_selector(f"#download:has-text('{path.suffix}')", timeout=REGISTER_MS)
    with page.expect_download() as begun:
        page.click("#download")
    begun.value.save_as(path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What the first test leaves for the later ones."""
    return {}


def test_the_whole_job_in_the_browser(page: Any, folder: Path, tmp_path: Path, made: dict[str, Path]) -> None:
    assert "fixed" in page.inner_text("#register").lower()
    choose(page, "fixed", FIXED)
    assert "moving" in page.inner_text("#register").lower()
    upload(page, "moving", folder / MOVING)
    page.wait_for_selector("#register:has-text('Register')", timeout=WAIT_MS)
    page.click("#register")
    page.wait_for_selector("#progress:has-text('%')", timeout=REGISTER_MS)
    page.wait_for_selector("#result-name:has-text('hippocampus_003 to hippocampus_001')", timeout=REGISTER_MS)
    assert re.search(r"correlation 0\.\d+ → 0\.\d+", page.inner_text("#summary"))

    assert page.inner_text("#verdict .grade") in ("Pass", "Review", "Fail")
    assert "may be off by" in page.inner_text("#verdict")
    page.wait_for_selector("#places:has-text('Worst place 1 of')", timeout=WAIT_MS)
    worst, said = settled(page, "DeepRegFixed"), page.inner_text("#place")
    page.click("#place-after")
    page.wait_for_selector("#places:has-text('Worst place 2 of')", timeout=WAIT_MS)
    changed(page, "DeepRegFixed", worst)
    assert page.inner_text("#place") != said
    page.keyboard.press("p")
    page.wait_for_selector("#places:has-text('Worst place 1 of')", timeout=WAIT_MS)

    page.click("#crosshair")
    plain = settled(page, "DeepRegWarped")
    assert plain.std() > 20, "an image is shown"
    pick(page, "overlay", "Jacobian")
    with_overlay = changed(page, "DeepRegWarped", plain)
    colour = np.ptp(with_overlay, axis=-1)
    assert (colour > 30).mean() > 0.01, "the overlay brings colour"
    assert (np.ptp(plain, axis=-1) > 30).mean() < 0.001

    fixed, moving = picture(page, "DeepRegFixed"), picture(page, "DeepRegMoving")
    page.locator("#view-DeepRegFixed").click()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    changed(page, "DeepRegFixed", fixed)
    changed(page, "DeepRegMoving", moving)

    pick(page, "overlay", "None")
    after = settled(page, "DeepRegWarped")
    page.keyboard.press("b")
    page.wait_for_selector("#before-after:has-text('Before')", timeout=WAIT_MS)
    changed(page, "DeepRegWarped", after)
    page.keyboard.press("b")
    pick(page, "comparison", "Checkerboard")
    changed(page, "DeepRegWarped", after)
    pick(page, "comparison", "Warped")
    calm, other = settled(page, "DeepRegWarped"), settled(page, "DeepRegFixed")
    pick(page, "style", "Grid")
    changed(page, "DeepRegWarped", calm)
    assert np.abs(picture(page, "DeepRegFixed") - other).mean() < 1, "the grid lies on the warped image alone"
    page.click("#orientation-coronal")
    changed(page, "DeepRegFixed", other)
    pick(page, "style", "None")
    small = settled(page, "DeepRegWarped")
    page.click("#maximize-DeepRegWarped")
    page.click("#orientation-axial")
    assert settled(page, "DeepRegWarped").std() > 20, "fitted as large as it is shown"
    page.click("#orientation-coronal")
    settled(page, "DeepRegWarped")
    page.click("#maximize-DeepRegWarped")
    assert np.abs(settled(page, "DeepRegWarped") - small).mean() < 5, "as before it was enlarged"

    page.click("#tab-measures")
    assert page.locator(".measures tbody tr").count() >= 8
    assert page.locator("#histogram rect").count() >= 10
    download(page, "results", tmp_path / "registration.zip")
    download(page, "scene", tmp_path / "registration.mrb")
    with zipfile.ZipFile(tmp_path / "registration.mrb") as scene:
        assert scene.testzip() is None
        assert any(name.endswith(".mrml") for name in scene.namelist())
    result = folder / "a result"
    with zipfile.ZipFile(tmp_path / "registration.zip") as archive:
        assert {"metrics.json", "transform.h5"} <= set(archive.namelist())
        archive.extractall(result)
    metrics = json.loads((result / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["inputs"]["fixed"] == str(folder / FIXED)
    assert metrics["similarity"]["after"]["ncc"] > metrics["similarity"]["before"]["ncc"]
    made["result"] = result


def test_a_registration_is_cancelled(page: Any) -> None:
    choose(page, "fixed", FIXED)
    choose(page, "moving", MOVING)
    page.click("text=Advanced")
    page.fill("#refine", "10000")
    page.click("#register")
    page.wait_for_selector("#progress:has-text('Refining')", timeout=REGISTER_MS)
    page.click("#register")
    page.wait_for_selector("#register:has-text('Register')", timeout=WAIT_MS)
    assert page.locator("#error").count() == 0
    assert page.inner_text("#result-name").strip() == ""


def test_what_cannot_be_used_is_said_in_one_sentence(page: Any, server: Server, folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes((folder / FIXED).read_bytes()[:9000])
    upload(page, "fixed", broken)
    sentence = error(page)
    assert "broken.nii.gz cannot be read" in sentence
    assert "deepreg-view" not in sentence, "the server's own folders are nobody's business"
    assert page.inner_text("#chosen-fixed").strip() == "None chosen"
    close_error(page)

    large = tmp_path / "large.nii.gz"
    large.write_bytes(bytes((UPLOAD_MIB + 1) * 2**20))
    upload(page, "fixed", large)
    assert f"larger than the {UPLOAD_MIB} MiB" in error(page)
    close_error(page)

    (tmp_path / "text.pdf").write_text("no image", encoding="utf-8")
    upload(page, "moving", tmp_path / "text.pdf")
    assert "not of a format" in error(page)


def test_no_path_typed_leads_out_of_the_folders(page: Any, folder: Path) -> None:
    page.click("#browse-fixed")
    for path in ("/etc/passwd", f"{folder}/../", f"{folder}/link.nii.gz", "~"):
        page.fill("#browse-text", path)
        page.keyboard.press("Enter")
        page.wait_for_selector(f"#error:has-text('{path} lies outside the folders')", timeout=WAIT_MS)
    assert page.inner_text("#chosen-fixed").strip() == "None chosen"


def test_two_browsers_do_not_see_each_other(page: Any, chromium: Any, server: Server) -> None:
    choose(page, "fixed", FIXED)
    for other in open_page(chromium, server):
        assert other.inner_text("#chosen-fixed").strip() == "None chosen"
        assert other.url != page.url
        stolen = other.context.request.get(page.url)
        assert stolen.status == 404
        choose(other, "fixed", MOVING)
    assert page.inner_text("#chosen-fixed").strip() == FIXED


def test_a_result_is_opened_from_its_folder(page: Any, folder: Path, made: dict[str, Path]) -> None:
    if "result" not in made:
        pytest.skip("the registration before this failed")
    page.click("#browse-fixed")
    page.click("#browser >> text=a result", timeout=WAIT_MS)
    page.wait_for_selector("#result-name:has-text('to')", timeout=WAIT_MS)
    # The moving image was an upload, and is gone.
    page.wait_for_selector("#notice", timeout=WAIT_MS)
    assert "The moving image of this result is not shown" in page.inner_text("#notice")
    assert settled(page, "DeepRegWarped").std() > 20
    assert settled(page, "DeepRegFixed").std() > 20


def test_a_place_is_corrected_with_two_clicks_and_a_drag(page: Any, folder: Path) -> None:
    images = [read_image(folder / name) for name in (FIXED, MOVING)]
    result = register(*images, RegistrationOptions(model="none", prealign="rigid", refine=1, spacing=2.0, threads=1))
    result.metrics["inputs"] = {"fixed": str(folder / FIXED), "moving": str(folder / MOVING)}
    result.save(folder / "to be corrected", ".nrrd")
    page.click("#browse-fixed")
    page.click("#browser >> text=to be corrected", timeout=WAIT_MS)
    page.wait_for_selector("#result-name:has-text('hippocampus_003 to')", timeout=WAIT_MS)
    before = settled(page, "DeepRegWarped")

    page.click("#correct")
    page.wait_for_selector("#correction-text:has-text('warped')", timeout=WAIT_MS)
    press(page, *point_in(page, "DeepRegWarped", 0.5, 0.5))
    page.wait_for_selector("#correction-text:has-text('fixed')", timeout=WAIT_MS)
    x, y = point_in(page, "DeepRegFixed", 0.53, 0.46)
    press(page, x, y)
    page.wait_for_selector("#take-back-1", timeout=REGISTER_MS)
    first = page.inner_text("#corrections tbody")
    assert re.search(r"0\.0 mm\s*$", first), first
    changed(page, "DeepRegWarped", before)

    drag(page, (x, y), (x + 12, y + 9))
    page.wait_for_function(f"document.querySelector('#corrections tbody').innerText !== {first!r}", timeout=REGISTER_MS)
    page.wait_for_selector("#correction-text", state="detached", timeout=REGISTER_MS)
    assert page.locator("#corrections tbody tr").count() == 1
    pick(page, "overlay", "Correction")
    page.wait_for_selector("text=How far corrections that a person made", timeout=WAIT_MS)
    pick(page, "overlay", "None")

    page.click("#take-back-1")
    page.wait_for_selector("#take-back-1", state="detached", timeout=REGISTER_MS)
    assert page.locator("#error").count() == 0
    x, y = point_in(page, "DeepRegWarped", 0.5, 0.5)
    press(page, x, y)
    assert np.abs(settled(page, "DeepRegWarped") - before).mean() < 2, "as it was found"


def point_in(page: Any, view: str, across: float, down: float) -> tuple[float, float]:
    """A point of the window by its place in a view, from 0 to 1."""
    box = page.locator(f"#view-{view}").bounding_box()
    return box["x"] + across * box["width"], box["y"] + down * box["height"]


def press(page: Any, x: float, y: float) -> None:
    """Click as a person does, who moves there first: the view must have heard of it."""
    drag(page, (x, y), (x, y))


def drag(page: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    page.mouse.move(*start)
    time.sleep(0.5)
    page.mouse.down()
    time.sleep(0.3)
    if end != start:
        page.mouse.move(*end, steps=8)
        time.sleep(0.5)
    page.mouse.up()


def test_view_with_a_folder_shows_it_at_once(chromium: Any, tmp_path: Path, made: dict[str, Path]) -> None:
    if "result" not in made:
        pytest.skip("the registration before this failed")
    server = Server(tmp_path / "server.txt", str(made["result"]))
    for page in open_page(chromium, server):
        page.wait_for_selector("#result-name:has-text('to hippocampus_001')", timeout=START_MS)
        assert settled(page, "DeepRegWarped").std() > 20
        assert len(server.sessions()) == 1
    server.stop()
    assert server.process.returncode in (0, 130)
    assert not server.sessions(), "temporary data is removed"
