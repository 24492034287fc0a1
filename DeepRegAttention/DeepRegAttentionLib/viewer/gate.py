"""The front process: lets people in, gives each page a process of its own, and passes on what they say.

Nobody gets anything without the token; no page gets at the session of another browser; a request from a page of
another origin is refused. Uploads and downloads are files in the session's folder and go no further than here.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
import shutil
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any, Callable, Optional
from urllib.parse import urlsplit

import aiohttp
from aiohttp import WSMsgType, web

from ..engine.errors import OutputError, UnreadableFileError
from ..engine.result_folder import read_metrics, recorded_inputs
from ..terms.inputs import INPUTS
from .access import Access, safe_name
from .pool import START_LIMIT_S, Pool, PoolFullError, Session
from .study_pages import StudyPages

SECRET_HEADER = "X-DeepReg-Secret"
_STUDY = "/study/"

_CHUNK = 2**20
_PASSED_HEADERS = ("Content-Type", "ETag", "Last-Modified")
_SECURITY_HEADERS = {
    # Nothing from elsewhere is loaded or told; Vue compiles templates, so "unsafe-eval" is needed.
    "Content-Security-Policy": "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}

_HTML = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">{refresh}<link rel="icon" href="data:,"><title>DeepRegAttention</title>
<style>:root{{color-scheme:light dark}} body{{font:16px sans-serif;margin:20vh auto;max-width:36em;text-align:center}}
</style></head><body><p>{text}</p></body></html>
"""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Service:
    """What an operator decides.

    Attributes
    ----------
    access : Access
        What may be read on this computer.
    result : Path, optional
        The result folder that every page shows at first.
    study : Path, optional
        The study of many pairs that is shown instead.
    host, port
        Where to listen; port 0 takes any that is free.
    sessions : int
        Pages that may be open at once.
    upload_mib : int
        Largest upload of one image.
    leave_s : float
        How long a session outlives its page.
    """

    access: Access
    result: Optional[Path] = None
    study: Optional[Path] = None
    host: str = "127.0.0.1"
    port: int = 0
    sessions: int = 4
    upload_mib: int = 2048
    leave_s: float = 300.0

    def showing(self, result: Path) -> Service:
        """The same with a result, and the images that it was made of: whoever may see it may see them, too.

        Raises UnreadableFileError if the folder holds none.
        """
        shown = Access.to([result], recorded_inputs(read_metrics(result)).values())
        access = Access(self.access.folders + shown.folders, self.access.files + shown.files)
        return replace(self, access=access, result=result)

    def for_session(self) -> dict[str, Any]:
        """What a session's process has to know of it, as plain values."""
        return {
            "result": str(self.result) if self.result else None,
            "folders": [str(path) for path in self.access.folders],
            "files": [str(path) for path in self.access.files],
            "upload_mib": self.upload_mib,
        }


class Gate:
    """The web application of a service."""

    def __init__(self, service: Service) -> None:
        self.token = secrets.token_urlsafe(24)
        self._service = service
        self._pool = Pool(service.sessions, service.leave_s)
        self._owners: set[str] = set()
        self._client: Optional[aiohttp.ClientSession] = None
        self._runner: Optional[web.AppRunner] = None

    async def start(self) -> str:
        """Listen; returns the address to open, with the token.

        Raises
        ------
        OutputError
            The address is taken, or is none of this computer.
        """
        app = web.Application(middlewares=[self._protect])
        app.add_routes(
            [
                web.get("/", self._open_page),
                web.get("/s/{session}/ws", self._relay),
                web.post("/s/{session}/upload/{role}", self._upload),
                web.get("/s/{session}/download/{name}", self._download),
                web.get("/s/{session}/{path:.*}", self._pass_on),
            ]
        )
        if self._service.study is not None:
            app.add_routes(StudyPages(self._service.study, self._open_result).routes(_STUDY))
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=2.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._service.host, self._service.port)
        try:
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            where = f"{self._service.host}:{self._service.port}"
            raise OutputError(f"The viewer cannot listen on {where}: {error.strerror or error}.") from error
        self._client = aiohttp.ClientSession(auto_decompress=False)
        self._pool.start()
        return f"http://{_host_in_address(self._service.host)}:{self.port}/?token={self.token}"

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._runner is not None
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """End all sessions and stop listening."""
        await self._pool.close()
        if self._client is not None:
            await self._client.close()
        if self._runner is not None:
            await self._runner.cleanup()

    # Who may come in

    @web.middleware
    async def _protect(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let in who has the token, or the cookie that was given for it; and no other origin."""
        owner = request.cookies.get(self._cookie)
        if owner not in self._owners:
            return self._admit(request)
        if not _is_own_origin(request):
            return _page("This request came from another page.", 403)
        response = await handler(request)
        if not response.prepared:
            response.headers.update(_SECURITY_HEADERS)
        return response

    def _admit(self, request: web.Request) -> web.Response:
        if not hmac.compare_digest(request.query.get("token", "").encode(), self.token.encode()):
            return _page("Open the address that the viewer printed when it started: it ends with a token.", 403)
        owner = secrets.token_urlsafe(24)
        self._owners.add(owner)
        answer = web.Response(status=302, headers={"Location": "/", **_SECURITY_HEADERS})
        answer.set_cookie(self._cookie, owner, httponly=True, samesite="Lax", path="/")
        return answer

    @property
    def _cookie(self) -> str:
        # Cookies do not know ports: two viewers on one computer must not share a name.
        return f"deepreg-view-{self.port}"

    def _session(self, request: web.Request) -> Session:
        session = self._pool.find(request.match_info["session"], request.cookies[self._cookie])
        if session is None:
            gone = "This session has ended, because its page was closed for a while."
            raise web.HTTPNotFound(text=_html(f'{gone} <a href="/">Open a new one.</a>'), content_type="text/html")
        return session

    # Pages

    async def _open_page(self, request: web.Request) -> web.StreamResponse:
        if "token" in request.query:
            return web.Response(status=302, headers={"Location": "/"})
        if self._service.study is not None:
            return web.Response(status=302, headers={"Location": _STUDY})
        return await self._open_session(request, self._service)

    async def _open_result(self, request: web.Request, result: Path) -> web.StreamResponse:
        try:
            return await self._open_session(request, self._service.showing(result))
        except UnreadableFileError as error:
            return _page(escape(str(error)), 404)

    async def _open_session(self, request: web.Request, service: Service) -> web.StreamResponse:
        try:
            session = await self._pool.open(request.cookies[self._cookie], service.for_session())
        except PoolFullError:
            return _page("As many pages are open as this viewer allows; close one, and reload this one.", 503)
        return web.Response(status=302, headers={"Location": f"/s/{session.id}/"})

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        """A file of the page from the session's process, which may still be starting."""
        session = self._session(request)
        path = request.match_info["path"]
        if not session.ready.done() and path in ("", "index.html"):
            return _page("The viewer is starting …", 200, reload_s=1)
        url = f"http://127.0.0.1:{await _port(session)}/{path or 'index.html'}"
        assert self._client is not None
        try:
            async with self._client.get(url, headers={SECRET_HEADER: session.secret}, allow_redirects=False) as answer:
                headers = {name: answer.headers[name] for name in _PASSED_HEADERS if name in answer.headers}
                return web.Response(status=answer.status, body=await answer.read(), headers=headers)
        except aiohttp.ClientError as error:
            raise _bad_gateway("This session is just ending; reload the page in a moment.") from error

    async def _relay(self, request: web.Request) -> web.StreamResponse:
        """Pass messages between the page and its process, until either hangs up."""
        session = self._session(request)
        page = web.WebSocketResponse(max_msg_size=0, heartbeat=30, compress=False)
        await page.prepare(request)
        url = f"http://127.0.0.1:{await _port(session)}/ws"
        assert self._client is not None
        session.enter()
        try:
            async with self._client.ws_connect(
                url, headers={SECRET_HEADER: session.secret}, max_msg_size=0, compress=0
            ) as process:
                await _until_first(_copy(page, process), _copy(process, page))
        finally:
            session.leave()
            await page.close()
        return page

    # Files

    async def _upload(self, request: web.Request) -> web.Response:
        """Take the files of one input, in place of those before."""
        session = self._session(request)
        role = request.match_info["role"]
        if role not in INPUTS:
            raise web.HTTPNotFound
        folder = session.folder / "uploads" / role
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            await _receive(request, folder, self._service.upload_mib * 2**20)
        except _UploadError as error:
            shutil.rmtree(folder, ignore_errors=True)
            return web.json_response({"error": str(error)}, status=413)
        return web.json_response({"files": len(list(folder.iterdir()))})

    async def _download(self, request: web.Request) -> web.StreamResponse:
        session = self._session(request)
        name = request.match_info["name"]
        path = session.folder / "downloads" / name
        if safe_name(name) != name or not path.is_file():
            raise web.HTTPNotFound
        return web.FileResponse(path, headers={"Content-Disposition": f'attachment; filename="{name}"'})


async def serve(service: Service, announce: Callable[[str], None]) -> None:
    """Run a service until the task is cancelled; ``announce`` is told the address.

    Raises
    ------
    OutputError
        The address cannot be listened on.
    """
    gate = Gate(service)
    try:
        announce(await gate.start())
        await asyncio.Event().wait()
    finally:
        await gate.stop()


class _UploadError(Exception):
    """An upload was refused; the text is the sentence."""


async def _receive(request: web.Request, folder: Path, limit: int) -> None:
    """Write the files of an upload to a folder, no more than ``limit`` bytes of them."""
    too_large = f"This is larger than the {limit // 2**20} MiB that this viewer accepts."
    if (request.content_length or 0) > limit + _CHUNK:
        raise _UploadError(too_large)
    left = limit
    reader = await request.multipart()
    while (part := await reader.next()) is not None:
        if not isinstance(part, aiohttp.BodyPartReader) or not part.filename:
            continue
        with (folder / safe_name(part.filename)).open("wb") as file:
            while chunk := await part.read_chunk(_CHUNK):
                left -= len(chunk)
                if left < 0:
                    raise _UploadError(too_large)
                try:
                    file.write(chunk)
                except OSError as error:
                    raise _UploadError(f"The server cannot keep this: {(error.strerror or '').lower()}.") from error


async def _copy(source: Any, target: Any) -> None:
    async for message in source:
        if message.type == WSMsgType.BINARY:
            await target.send_bytes(message.data)
        elif message.type == WSMsgType.TEXT:
            await target.send_str(message.data)


async def _until_first(*jobs: Awaitable[None]) -> None:
    tasks: list[asyncio.Future[None]] = [asyncio.ensure_future(job) for job in jobs]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _port(session: Session) -> int:
    try:
        return await asyncio.wait_for(asyncio.shield(session.ready), START_LIMIT_S)
    except (RuntimeError, asyncio.TimeoutError) as error:
        raise _bad_gateway("The viewer did not start; the terminal that it was started from says why.") from error


def _bad_gateway(sentence: str) -> web.HTTPBadGateway:
    return web.HTTPBadGateway(text=_html(sentence), content_type="text/html")


def _is_own_origin(request: web.Request) -> bool:
    """Whether a request that can change or read something live comes from our own page."""
    is_socket = request.headers.get("Upgrade", "").lower() == "websocket"
    if request.method == "GET" and not is_socket:
        return True
    return urlsplit(request.headers.get("Origin", "")).netloc == request.host


def _host_in_address(host: str) -> str:
    if host in ("0.0.0.0", "::", ""):
        import socket

        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def _page(text: str, status: int, reload_s: int = 0) -> web.Response:
    return web.Response(
        text=_html(text, reload_s), status=status, content_type="text/html", headers={**_SECURITY_HEADERS}
    )


def _html(text: str, reload_s: int = 0) -> str:
    refresh = f'<meta http-equiv="refresh" content="{reload_s}">' if reload_s else ""
    return _HTML.format(refresh=refresh, text=text)
