"""The wall of a cohort in a real browser: sorted, filtered, marked, opened; and read as a file."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from DeepRegAttentionLib.cohort.ledger import Ledger
from DeepRegAttentionLib.cohort.wall import write_wall
from helpers.browser import CHROMIUM, FLAGS, Server, require_browser
from PIL import Image

require_browser()
playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.slow

WAIT_MS = 60_000
ODD = "it's <b>odd</b> & “quoted”"
VERDICTS = ["pass"] * 12 + ["review", "review", "fail", ""]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen pairs: one cannot be read, one fails, two are to be looked at, one of those that passed is an outlier."""
    folder = tmp_path_factory.mktemp("cohorts") / "a study's"
    (folder / ".partial").mkdir(parents=True)
    ledger = Ledger(folder / "cohort.csv", folder / ".partial")
    ledger.publish()
    for number, verdict in enumerate(VERDICTS):
        name = f"pair-{number:02}"
        row: dict[str, Any] = {"name": name, "group": f"s{number % 2}", "state": "done" if verdict else "failed"}
        row |= {
            "verdict": verdict,
            "sentence": f"{ODD} {number}",
            "fixed": f"/images/{ODD}.nii",
            "moving": "/images/m.nii",
        }
        if verdict:
            row["similarity_ncc_after"] = 0.5 if number == 5 else 0.9 + 0.001 * number
            result = folder / "pairs" / name
            result.mkdir(parents=True)
            Image.new("RGB", (582, 144), (10 * number, 80, 120)).save(result / "glance.jpg")
            (result / "metrics.json").write_text("{}", encoding="utf-8")
        ledger.append(row)
    ledger.close()
    shutil.rmtree(folder / ".partial")
    write_wall(folder)
    return folder


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as instance:
        browser = instance.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def context(chromium: Any) -> Iterator[Any]:
    context = chromium.new_context(
        viewport={"width": 1300, "height": 900}, permissions=["clipboard-read", "clipboard-write"]
    )
    wrong: list[str] = []
    context.on("weberror", lambda error: wrong.append(str(error.error)))
    yield context
    context.close()
    assert not wrong


def open_page(context: Any, address: str) -> Any:
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector(".card", timeout=WAIT_MS)
    return page


def names(page: Any) -> list[str]:
    return [card.get_attribute("data-name") for card in page.query_selector_all(".card")]


def marks(study: Path) -> dict[str, tuple[str, str]]:
    with (study / "marks.csv").open(newline="", encoding="utf-8") as file:
        return {row["name"]: (row["mark"], row["comment"]) for row in csv.DictReader(file)}


def test_a_file_is_sorted_filtered_and_gives_the_lines_to_copy(study: Path, context: Any) -> None:
    page = open_page(context, (study / "index.html").as_uri())
    assert names(page)[:5] == ["pair-15", "pair-14", "pair-12", "pair-13", "pair-05"], "what needs looking at first"
    assert ODD in page.inner_text(".card >> nth=1")
    assert page.evaluate("document.querySelector('[data-name=pair-14] img').naturalWidth") == 582
    page.click("[data-grade=review]")
    assert names(page) == ["pair-12", "pair-13"]
    page.select_option("#group", "s1")
    assert names(page) == ["pair-13"]
    page.click("#reset")
    page.fill("#text", "05")
    assert names(page) == ["pair-05"]
    page.click("#reset")
    bars = page.locator(".chart svg").bounding_box()
    page.mouse.click(bars["x"] + 2, bars["y"] + 20)
    assert names(page) == ["pair-05"], "the lowest bar"
    page.mouse.click(bars["x"] + 2, bars["y"] + 20)
    assert len(names(page)) == len(VERDICTS)
    page.click("#outliers summary")
    page.click("#outliers a")
    assert names(page) == ["pair-05"]
    page.click("#reset")
    page.select_option("#sort", label="Cross-correlation (NCC), worst first")
    assert names(page)[:3] == ["pair-05", "pair-00", "pair-01"]
    lines_are_copied(page, study)
    assert not page.query_selector(".comment"), "a file cannot save marks"
    assert "deepreg-attention view" in page.inner_text(".notice")


def lines_are_copied(page: Any, study: Path) -> None:
    page.click("[data-name=pair-05] >> text=Copy viewer command")
    assert os.popen(f"printf %s {copied(page).split('view ')[1]}").read() == str(study / "pairs" / "pair-05")
    page.click("[data-name=pair-05] >> text=Copy line for 3D Slicer")
    (call,) = [line for line in copied(page).split("; ") if line.startswith("load_pair")]
    found: list[Any] = []
    slicer = SimpleNamespace(mrmlScene="scene")
    eval(call, {"slicer": slicer, "load_pair": lambda *given: found.extend(given)})
    assert found == ["scene", str(study / "pairs" / "pair-05")]


def copied(page: Any) -> str:
    text: str = page.evaluate("navigator.clipboard.readText()")
    return text


def test_marks_are_saved_in_the_viewer_and_stay_in_page_and_table(study: Path, context: Any, tmp_path: Path) -> None:
    server = Server(tmp_path / "server.txt", str(study))
    try:
        page = open_page(context, server.url)
        page.fill("[data-name=pair-14] .comment", f"{ODD}")
        # Leaving the field saves the comment; the click that leaves it must not get lost.
        page.click("[data-name=pair-14] .mark-bad")
        page.focus("[data-name=pair-05]")
        page.keyboard.press("g")
        page.wait_for_function("document.getElementById('marked').textContent === '· 2 marked'")
        page.reload()
        page.wait_for_selector(".card", timeout=WAIT_MS)
        assert marks(study) == {"pair-14": ("bad", ODD), "pair-05": ("good", "")}
        assert names(page)[-2:] == ["pair-14", "pair-05"], "what was looked at comes last"
        page.select_option("#mark", "bad")
        assert names(page) == ["pair-14"]
        assert page.input_value(".comment") == ODD
        the_pair_is_opened(page, server)
        (study / "marks.csv").write_text("damaged\nx\n", encoding="utf-8")
        page.click("[data-name=pair-14] .mark-good")
        page.wait_for_selector("#toast:has-text('mend the file')", timeout=WAIT_MS)
        assert page.get_attribute("[data-name=pair-14] .mark-bad", "aria-pressed") == "true"
        (study / "marks.csv").write_text(f"name,mark,comment\npair-14,bad,{ODD}\npair-05,good,\n", encoding="utf-8")
    finally:
        server.stop()
    with (study / "cohort.csv").open(newline="", encoding="utf-8") as file:
        found = {row["name"]: (row["mark"], row["comment"]) for row in csv.DictReader(file)}
    assert (found["pair-14"], found["pair-05"], found["pair-00"]) == (("bad", ODD), ("good", ""), ("", ""))
    page = open_page(context, (study / "index.html").as_uri())
    assert f"bad: {ODD}" in page.inner_text("[data-name=pair-14]")


def the_pair_is_opened(page: Any, server: Server) -> None:
    with page.context.expect_page() as opened:
        page.click("[data-name=pair-14] .picture")
    pair = opened.value
    pair.wait_for_url("**/s/**", timeout=WAIT_MS)
    assert len(server.sessions()) == 1
    assert pair.url.startswith(server.url.split("/?")[0])


def test_thousands_of_pairs_are_shown_page_by_page(context: Any, tmp_path: Path) -> None:
    from DeepRegAttentionLib.report.wall import wall_page

    rows = [{"name": f"p{n:04}", "state": "done", "verdict": "pass", "seconds_all": str(n % 97)} for n in range(5000)]
    (tmp_path / "index.html").write_text(wall_page(tmp_path, rows), encoding="utf-8")
    page = open_page(context, (tmp_path / "index.html").as_uri())
    first = len(names(page))
    assert 0 < first < 500
    page.keyboard.press("End")
    page.wait_for_function(f"document.querySelectorAll('.card').length > {first}", timeout=WAIT_MS)
    assert page.inner_text("#count") == "5000 pairs"
    page.fill("#text", "p4999")
    assert names(page) == ["p4999"]
