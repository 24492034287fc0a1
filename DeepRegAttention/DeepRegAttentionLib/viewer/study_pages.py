"""A study of many pairs in the browser: its wall, the small pictures, one click to a pair, and marks that are saved."""

from __future__ import annotations

import asyncio
import csv
from collections.abc import Awaitable
from functools import lru_cache
from pathlib import Path
from typing import Any, Callable

from aiohttp import web

from ..cohort.marks import Mark, read_marks, save_mark
from ..cohort.study import PAIRS, TABLE, WALL
from ..engine.errors import OptionError, RegistrationError, UnreadableFileError
from ..engine.result_folder import GLANCE_FILE
from .access import Access

Open = Callable[[web.Request, Path], Awaitable[web.StreamResponse]]


class StudyPages:
    """What the gate serves of a study; nothing else of its folder can be read.

    Parameters
    ----------
    study : Path
        Its folder.
    show : callable
        Shows the result in a folder to who made a request.
    """

    def __init__(self, study: Path, show: Open) -> None:
        self._study, self._show = study, show
        self._results = Access.to([study / PAIRS])
        self._saving = asyncio.Lock()

    def routes(self, prefix: str) -> list[web.RouteDef]:
        """Addresses below a prefix that ends with a stroke."""
        return [
            web.get(prefix, self._wall),
            web.get(f"{prefix}pairs/{{name}}/{GLANCE_FILE}", self._picture),
            web.get(f"{prefix}open/{{name}}", self._open),
            web.get(f"{prefix}marks", self._marks),
            web.post(f"{prefix}marks/{{name}}", self._mark),
        ]

    async def _wall(self, request: web.Request) -> web.StreamResponse:
        return _file(self._study / WALL)

    async def _picture(self, request: web.Request) -> web.StreamResponse:
        return _file(self._result(request) / GLANCE_FILE)

    async def _open(self, request: web.Request) -> web.StreamResponse:
        return await self._show(request, self._result(request))

    def _result(self, request: web.Request) -> Path:
        """The folder of a pair; a name that leads anywhere else is not found."""
        name = request.match_info["name"]
        try:
            folder = self._results.path(self._study / PAIRS / name)
        except UnreadableFileError as error:
            raise web.HTTPNotFound from error
        if folder.name != name:
            raise web.HTTPNotFound
        return folder

    async def _marks(self, request: web.Request) -> web.Response:
        try:
            return web.json_response({name: mark.cells for name, mark in read_marks(self._study).items()})
        except UnreadableFileError as error:
            return web.json_response({"error": str(error)}, status=500)

    async def _mark(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in _names(self._study / TABLE):
            raise web.HTTPNotFound
        try:
            mark = _said(await request.json())
            async with self._saving:
                await asyncio.to_thread(save_mark, self._study, name, mark)
        except (ValueError, OptionError) as error:
            return web.json_response({"error": str(error)}, status=400)
        except RegistrationError as error:
            return web.json_response({"error": str(error)}, status=500)
        return web.json_response(mark.cells)


def _said(content: Any) -> Mark:
    if not isinstance(content, dict) or not all(isinstance(content.get(key, ""), str) for key in ("mark", "comment")):
        raise OptionError("A mark is said as {“mark”: …, “comment”: …}.")
    return Mark(content.get("mark", ""), " ".join(content.get("comment", "").replace("\0", " ").split()))


def _file(path: Path) -> web.FileResponse:
    if not path.is_file():
        raise web.HTTPNotFound
    return web.FileResponse(path)


def _names(table: Path) -> frozenset[str]:
    """The pairs in a table."""
    stat = table.stat()
    return _names_at(table, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=1)
def _names_at(table: Path, *state: int) -> frozenset[str]:
    with table.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return frozenset(row["name"] for row in csv.DictReader(file))
