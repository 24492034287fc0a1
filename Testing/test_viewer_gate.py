"""The viewer's door: who comes in, how many, what they may leave and take; with real sessions behind it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

pytest.importorskip("trame_slicer", reason="the viewer is not installed (extra “viewer”)")
aiohttp = pytest.importorskip("aiohttp")

from DeepRegAttentionLib.cli import app  # noqa: E402
from DeepRegAttentionLib.engine.errors import OutputError, UnreadableFileError  # noqa: E402
from DeepRegAttentionLib.viewer import pool as pool_module  # noqa: E402
from DeepRegAttentionLib.viewer.access import Access  # noqa: E402
from DeepRegAttentionLib.viewer.gate import Gate, Service  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

Visit = Callable[[Gate, str, aiohttp.ClientSession], Awaitable[None]]
START_S = 120.0


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    module = Path(pool_module.__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", str(module))
    return tmp_path


def visit(what: Visit, **service: Any) -> None:
    """Start a server, do something with it as a browser without a cookie, stop it."""

    async def run() -> None:
        gate = Gate(Service(Access(), **service))
        address = await gate.start()
        jar = aiohttp.CookieJar(unsafe=True)
        try:
            async with aiohttp.ClientSession(cookie_jar=jar) as browser:
                await what(gate, address, browser)
        finally:
            await gate.stop()

    asyncio.run(run())


def origin(address: str) -> dict[str, str]:
    return {"Origin": address.split("/?")[0]}


def test_nobody_comes_in_without_the_token() -> None:
    async def check(gate: Gate, address: str, browser: aiohttp.ClientSession) -> None:
        base = address.split("?")[0]
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", base)
        for path in ("", "?token=", f"?token={gate.token[:-1]}", "s/anything/", "s/anything/ws"):
            async with browser.get(base + path, allow_redirects=False) as answer:
                assert answer.status == 403
                assert not answer.cookies
        async with browser.post(base + "s/anything/upload/fixed", headers=origin(address)) as answer:
            assert answer.status == 403
        assert gate._pool.count == 0
        async with browser.get(address, allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"]) == (302, "/")
            cookie = next(iter(answer.cookies.values()))
            assert cookie["httponly"]
            assert gate.token not in cookie.value

    visit(check)


async def open_session(address: str, browser: aiohttp.ClientSession, wait: bool = True) -> str:
    """Open a page; returns its address, once the process behind it serves."""
    async with browser.get(address) as answer:
        page = str(answer.url)
        assert "/s/" in page, await answer.text()
    end = time.monotonic() + START_S
    while wait and time.monotonic() < end:
        async with browser.get(page) as answer:
            if 'id="app"' in await answer.text():
                return page
        await asyncio.sleep(0.3)
    assert not wait, "the session did not start"
    return page


@pytest.mark.slow
def test_a_session_is_for_its_browser_and_its_origin(own_temporary_folder: Path) -> None:
    async def check(gate: Gate, address: str, browser: aiohttp.ClientSession) -> None:
        page = await open_session(address, browser)
        async with browser.get(page) as answer:
            assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
        async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as other:
            await other.get(address, allow_redirects=False)
            for path in ("", "ws", "download/x.zip"):
                async with other.get(page + path, headers=origin(address)) as answer:
                    assert answer.status == 404
        for stranger in ("http://127.0.0.1:1", "http://example.org", "null", ""):
            with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
                await browser.ws_connect(page + "ws", headers={"Origin": stranger})
            async with browser.post(page + "upload/fixed", headers={"Origin": stranger}) as answer:
                assert answer.status == 403
        await files_are_left_and_taken(page, address, browser, own_temporary_folder)
        await the_process_answers_the_gate_alone(own_temporary_folder)

    visit(check, upload_mib=1)
    assert not list(own_temporary_folder.glob("deepreg-view-*"))


async def files_are_left_and_taken(page: str, address: str, browser: aiohttp.ClientSession, temporary: Path) -> None:
    (session,) = temporary.glob("deepreg-view-*")
    form = aiohttp.FormData(quote_fields=False)
    form.add_field("file", b"content", filename="../../../evil/..\\\\name;.nii.gz")
    async with browser.post(page + "upload/fixed", data=form, headers=origin(address)) as answer:
        assert await answer.json() == {"files": 1}
    (uploaded,) = (session / "uploads" / "fixed").iterdir()
    assert uploaded.name == "name_.nii.gz"
    form = aiohttp.FormData()
    form.add_field("file", b"x" * 2**19, filename="a.nii.gz")
    form.add_field("file", b"x" * 2**19 + b"x", filename="b.nii.gz")
    async with browser.post(page + "upload/fixed", data=form, headers=origin(address)) as answer:
        assert answer.status == 413
        assert "1 MiB" in (await answer.json())["error"]
    assert not (session / "uploads" / "fixed").exists(), "nothing of it stays"
    async with browser.post(page + "upload/elsewhere", headers=origin(address)) as answer:
        assert answer.status == 404
    (session / "downloads").mkdir()
    (session / "downloads" / "a.zip").write_bytes(b"zip")
    async with browser.get(page + "download/a.zip") as answer:
        assert await answer.read() == b"zip"
        assert answer.headers["Content-Disposition"] == 'attachment; filename="a.zip"'
    (session / "private.txt").write_text("not for the browser", encoding="utf-8")
    for name in ("private.txt", "..%2Fprivate.txt", "%2e%2e%2fprivate.txt", "%2Fetc%2Fpasswd"):
        async with browser.get(f"{page}download/{name}") as answer:
            assert answer.status == 404, name


async def the_process_answers_the_gate_alone(temporary: Path) -> None:
    """Other users of the computer reach its port, too."""
    ports = listening_ports()
    assert ports
    async with aiohttp.ClientSession() as stranger:
        for port in ports:
            async with stranger.get(f"http://127.0.0.1:{port}/index.html") as answer:
                assert answer.status == 403
            with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
                await stranger.ws_connect(f"http://127.0.0.1:{port}/ws", headers={"X-DeepReg-Secret": "guess"})


def listening_ports() -> list[int]:
    """Ports on which children of this process listen."""
    found = []
    for child in children():
        links = [link for link in Path(f"/proc/{child}/fd").iterdir() if link.is_symlink()]
        inodes = {str(link.readlink()) for link in links}
        for line in Path(f"/proc/{child}/net/tcp").read_text(encoding="utf-8").splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                found.append(int(fields[1].split(":")[1], 16))
    return found


def children() -> list[int]:
    me = os.getpid()
    return [int(pid) for pid in Path(f"/proc/{me}/task/{me}/children").read_text(encoding="utf-8").split()]


@pytest.mark.slow
def test_no_more_pages_than_allowed_and_room_is_made_of_those_left(own_temporary_folder: Path) -> None:
    async def check(gate: Gate, address: str, browser: aiohttp.ClientSession) -> None:
        first = await open_session(address, browser)
        async with browser.ws_connect(first + "ws", headers=origin(address)), browser.get(address) as answer:
            assert answer.status == 503
            assert "As many pages are open" in await answer.text()
        await open_session(address, browser, wait=False)
        async with browser.get(first) as answer:
            assert answer.status == 404
            assert "This session has ended" in await answer.text()
        assert len(list(own_temporary_folder.glob("deepreg-view-*"))) == 1

    visit(check, sessions=1)


@pytest.mark.slow
def test_a_session_that_was_left_ends_and_leaves_nothing(own_temporary_folder: Path) -> None:
    async def check(gate: Gate, address: str, browser: aiohttp.ClientSession) -> None:
        await open_session(address, browser)
        end = time.monotonic() + 30
        while gate._pool.count and time.monotonic() < end:
            await asyncio.sleep(0.2)
        assert gate._pool.count == 0
        for _ in range(50):
            if not list(own_temporary_folder.glob("deepreg-view-*")):
                return
            await asyncio.sleep(0.2)
        raise AssertionError("temporary data stayed")

    visit(check, leave_s=1.0)


def test_a_process_that_cannot_start_is_said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(pool_module, "SESSION_COMMAND", (sys.executable, "-c", "import sys; sys.exit('no libraries')"))

    async def check(gate: Gate, address: str, browser: aiohttp.ClientSession) -> None:
        page = await open_session(address, browser, wait=False)
        for _ in range(100):
            async with browser.get(page) as answer:
                if answer.status != 200:
                    break
            await asyncio.sleep(0.1)
        assert answer.status in (404, 502)

    visit(check)
    assert "no libraries" in caplog.text


@pytest.mark.slow
def test_sessions_end_with_the_front_process(own_temporary_folder: Path) -> None:
    """Also when it is killed and can tell nobody."""
    code = (
        "import asyncio, sys\n"
        "from DeepRegAttentionLib.viewer.access import Access\n"
        "from DeepRegAttentionLib.viewer.gate import Service, serve\n"
        "asyncio.run(serve(Service(Access()), lambda address: print(address, flush=True)))\n"
    )

    async def check() -> None:
        environment = {**os.environ, "TMPDIR": str(own_temporary_folder)}
        front = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=-1, env=environment)
        assert front.stdout is not None
        address = (await front.stdout.readline()).decode().strip()
        async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:
            await open_session(address, browser)
        assert list(own_temporary_folder.glob("deepreg-view-*"))
        front.send_signal(signal.SIGKILL)
        await front.wait()
        for _ in range(100):
            if not list(own_temporary_folder.glob("deepreg-view-*")):
                return
            await asyncio.sleep(0.2)
        raise AssertionError("the session outlived the front process")

    asyncio.run(check())


# A study of many pairs


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two pairs with results, one of them a link that leads out, and one without; something private beside them."""
    study = tmp_path / "study"
    (study / "pairs" / "b_to_a").mkdir(parents=True)
    (study / "pairs" / "b_to_a" / "glance.jpg").write_bytes(b"picture")
    (study / "pairs" / "b_to_a" / "metrics.json").write_text("{}", encoding="utf-8")
    private = tmp_path / "private"
    private.mkdir()
    (private / "glance.jpg").write_bytes(b"private")
    (study / "glance.jpg").write_bytes(b"private")
    (study / "pairs" / "link").symlink_to(private)
    (study / "cohort.csv").write_text("name,state\nb_to_a,done\nc_to_a,failed\nlink,done\n", encoding="utf-8")
    (study / "index.html").write_text("the wall", encoding="utf-8")
    return study


def test_a_study_is_shown_with_its_pictures_and_nothing_else_of_the_disk(study: Path) -> None:
    async def check(gate: Gate, address: str, browser: aiohttp.ClientSession) -> None:
        base = address.split("?")[0] + "study/"
        async with browser.get(base, allow_redirects=False) as answer:
            assert answer.status == 403
        async with browser.get(address) as answer:
            assert str(answer.url) == base
            assert await answer.text() == "the wall"
            assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
        async with browser.get(f"{base}pairs/b_to_a/glance.jpg") as answer:
            assert (await answer.read(), answer.headers["Content-Type"]) == (b"picture", "image/jpeg")
        for path in ("pairs/c_to_a/glance.jpg", "pairs/link/glance.jpg", "pairs/%2e%2e/glance.jpg",
                     "pairs/..%2f/glance.jpg", "pairs/b_to_a%2f../glance.jpg", "pairs/b_to_a/metrics.json",
                     "pairs/..%2f..%2fprivate/glance.jpg", "cohort.csv", "open/link", "open/c_to_a", "open/..%2f..",
                     "open/%2Fetc"):  # fmt: skip
            async with browser.get(base + path) as answer:
                assert answer.status == 404, path
        assert gate._pool.count == 0

    visit(check, study=study)


def test_marks_are_saved_for_pairs_of_the_study_and_from_its_page_alone(study: Path) -> None:
    async def check(gate: Gate, address: str, browser: aiohttp.ClientSession) -> None:
        base = address.split("?")[0] + "study/"
        await browser.get(address)

        async def say(name: str, content: Any, headers: dict[str, str]) -> tuple[int, dict[str, str]]:
            async with browser.post(f"{base}marks/{name}", json=content, headers=headers) as answer:
                return answer.status, await answer.json() if answer.content_type == "application/json" else {}

        own = origin(address)
        said = await say("b_to_a", {"mark": "bad", "comment": " two\nlines \0"}, own)
        assert said == (200, {"mark": "bad", "comment": "two lines"})
        assert (await say("c_to_a", {"comment": "no result"}, own))[0] == 200
        for stranger in ({}, {"Origin": "http://example.org"}, {"Origin": "null"}):
            assert (await say("b_to_a", {"mark": "good"}, stranger))[0] == 403
        for name in ("nobody", "..%2f..", "%2Fetc%2Fpasswd"):
            assert (await say(name, {"mark": "good"}, own))[0] == 404
        for content in ({"mark": "great"}, {"mark": 3}, [], "good", {"comment": "x" * 3000}):
            status, answer = await say("b_to_a", content, own)
            assert status == 400
            assert answer["error"].endswith(".")
        async with browser.post(f"{base}marks/b_to_a", data=b"{", headers=own) as answer:
            assert answer.status == 400
        async with browser.get(f"{base}marks") as answer:
            assert await answer.json() == {
                "b_to_a": {"mark": "bad", "comment": "two lines"},
                "c_to_a": {"mark": "", "comment": "no result"},
            }
        assert not list(study.glob(".*"))

    visit(check, study=study)


def test_a_result_of_a_study_brings_the_images_that_it_was_made_of(study: Path, tmp_path: Path) -> None:
    (tmp_path / "fixed.nii.gz").touch()
    result = study / "pairs" / "b_to_a"
    result.joinpath("metrics.json").write_text(
        json.dumps({"inputs": {"fixed": str(tmp_path / "fixed.nii.gz")}}), encoding="utf-8"
    )
    task = Service(Access(), study=study).showing(result).for_session()
    assert task["result"] == str(result)
    assert (task["folders"], task["files"]) == ([str(result)], [str(tmp_path / "fixed.nii.gz")])
    with pytest.raises(UnreadableFileError, match="holds no result"):
        Service(Access(), study=study).showing(study / "pairs")


def test_an_address_that_is_taken_is_said_in_one_sentence() -> None:
    async def check(gate: Gate, address: str, browser: aiohttp.ClientSession) -> None:
        with pytest.raises(OutputError, match=r"cannot listen on 127\.0\.0\.1"):
            await Gate(Service(Access(), port=gate.port)).start()

    visit(check)


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["{folder}"], 3, "holds no result"),
        (["{folder}/missing"], 3, "holds no result"),
        (["--folder", "{folder}/missing"], 2, "--folder needs a folder"),
        (["--host", "192.0.2.1"], 6, "cannot listen on 192.0.2.1"),
    ],
)
def test_the_command_says_what_is_wrong(tmp_path: Path, arguments: list[str], code: int, sentence: str) -> None:
    given = [argument.format(folder=tmp_path) for argument in arguments]
    done = CliRunner().invoke(app, ["view", "--no-browser", *given])
    assert done.exit_code == code
    assert sentence in " ".join((done.output + _stderr(done)).split())


def _stderr(done: Any) -> str:
    error: Optional[str] = getattr(done, "stderr", None)
    return error or ""
