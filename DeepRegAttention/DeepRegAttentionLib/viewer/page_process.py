"""The process behind one browser page: ``python -m DeepRegAttentionLib.viewer.page_process``.

The front process writes one line of JSON on its input and keeps that open; it answers with the port that it
serves on, and ends, removing its folder, when the input closes.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import shutil
import sys
import threading
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, Callable

# The port is all that the front process expects to hear.
os.environ["WSLINK_READY_MSG"] = ""

from aiohttp import web
from trame.app import get_server

from ..engine.threads import wait_passively
from . import layout, web_module
from .access import Access
from .corrections import Corrections
from .gate import SECRET_HEADER
from .inputs import ChosenImages
from .inspection import Inspection, Slices
from .page import Page
from .register_tab import RegisterTab
from .results import Results
from .worst_places import WorstPlaces


class Viewer:
    """All parts of one page, and how they belong together.

    Parameters
    ----------
    task : dict
        What the front process wrote: ``folder``, ``secret``, ``result``, ``folders``, ``files``.
    """

    def __init__(self, task: dict[str, Any]) -> None:
        self._task = task
        self._server = get_server(client_type="vue3")
        self._server.enable_module(web_module)
        access = Access.to(task["folders"], task["files"])
        self._page = Page(self._server, access, Path(task["folder"]))
        self._slices = Slices(self._page)
        self._inputs = ChosenImages(self._page)
        self._inspection = Inspection(self._page, self._slices)
        self._worst_places = WorstPlaces(self._page)
        self._results = Results(self._page, self._inputs, self._inspection, self._worst_places)
        self._register_tab = RegisterTab(self._page, self._inputs, self._results.show)
        self._corrections = Corrections(self._page, self._inputs, self._register_tab.client, self._results.renew)
        self._results.on_show, self._results.on_clear = self._corrections.show, self._corrections.clear
        self._server.trigger("key")(self._press)
        self._server.trigger("open")(self._page.telling(self._open))
        self._inputs.on_choice = self._chosen
        layout.build(self._server, upload_mib=task["upload_mib"])
        self._server.controller.on_server_bind.add(self._demand_secret)
        self._server.controller.on_server_ready.add(self._announce)
        self._server.controller.on_exception.add(self._page.unexpected)

    def _press(self, key: str) -> None:
        """A key that was pressed on the page."""
        steps = {"n": 1, "p": -1}
        if key in steps:
            self._worst_places.step(steps[key])
        elif key == "c":
            self._corrections.toggle()
        elif key == "escape":
            self._corrections.give_up()
        else:
            self._inspection.press(key)

    def _chosen(self) -> None:
        self._register_tab.chosen()
        self._slices.tell_windows()

    def _open(self, text: str) -> None:
        self._page.set(browsing="")
        self._page.task(self._results.open(self._page.access.path(text)))

    def _announce(self, **_: Any) -> None:
        print(json.dumps({"port": self._server.port}), flush=True)
        if self._task["result"]:
            self._page.telling(self._open)(self._task["result"])

    def _demand_secret(self, bound: Any) -> None:
        """Answer the front process alone: other users of this computer can reach the port, too."""
        secret = self._task["secret"].encode()

        @web.middleware
        async def demand(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            if not hmac.compare_digest(request.headers.get(SECRET_HEADER, "").encode(), secret):
                raise web.HTTPForbidden
            return await handler(request)

        bound.app.middlewares.append(demand)

    async def serve(self) -> None:
        """Serve until the input closes."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._page.uncaught)
        ended = asyncio.Event()
        threading.Thread(target=_wait_for_end, args=(loop, ended), daemon=True).start()
        serving = asyncio.ensure_future(
            self._server.start(
                host="127.0.0.1", port=0, open_browser=False, show_connection_info=False, exec_mode="coroutine"
            )
        )
        await ended.wait()
        serving.cancel()
        await self._page.close()
        self._register_tab.close()


def _wait_for_end(loop: asyncio.AbstractEventLoop, ended: asyncio.Event) -> None:
    sys.stdin.buffer.read()
    loop.call_soon_threadsafe(ended.set)


def main() -> None:
    """Serve one page."""
    wait_passively()
    task = json.loads(sys.stdin.buffer.readline())
    asyncio.run(_serve(task))
    shutil.rmtree(task["folder"], ignore_errors=True)
    sys.stderr.flush()
    # Slicer's libraries are not made to be taken down in any order.
    os._exit(0)


async def _serve(task: dict[str, Any]) -> None:
    await Viewer(task).serve()


if __name__ == "__main__":
    main()
