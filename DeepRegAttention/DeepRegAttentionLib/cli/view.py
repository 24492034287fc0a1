"""``deepreg-attention view``: a result, or the whole job, in the browser."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import sys
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Optional

import typer

from ..engine.errors import OptionError, OutputError
from .console import ReadableErrors, messages, results, say

_NEEDED = ("aiohttp", "slicer", "trame", "trame_slicer")
_SECURITY = "Security"


@ReadableErrors()
def view(
    folder: Annotated[
        Optional[Path], typer.Argument(metavar="[DIR]", help="Result or study to show; without it, start by choosing.")
    ] = None,
    allow: Annotated[
        Optional[list[Path]],
        typer.Option(
            "--folder",
            help="Folder on this computer that the browser may choose images from; may be given several times.",
            show_default="the current folder, if the host is this computer",
            rich_help_panel=_SECURITY,
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on; any but this computer's own lets others in, who need the printed token.",
            rich_help_panel=_SECURITY,
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 0,
    sessions: Annotated[int, typer.Option(min=1, max=64, help="Browser pages at once, each with a process.")] = 4,
    upload_limit: Annotated[
        int, typer.Option(min=1, help="Largest upload of one image, in MiB.", rich_help_panel=_SECURITY)
    ] = 2048,
    leave: Annotated[
        float, typer.Option(min=0.05, help="Minutes for which a page that was closed keeps its session.")
    ] = 5.0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Whether to open the browser.")] = True,
) -> None:
    """Show a result, or all pairs of a study, in the browser, or register there.

    Of a study the pairs that need looking at come first; a click opens one, and what you mark is saved.
    """
    _require_libraries()
    from ..viewer.access import Access
    from ..viewer.gate import Service, serve

    folders = _allowed(allow, host)
    shown = folder.resolve() if folder else None
    study = shown if shown and is_study(shown) else None
    service = Service(Access.to(folders), None, study, host, port, sessions, upload_limit, 60 * leave)
    if shown and not study:
        service = service.showing(shown)

    def announce(address: str) -> None:
        say("viewer", address, "bold", results)
        if folders:
            messages.print("readable in the browser: " + ", ".join(map(str, folders)), highlight=False)
        messages.print("Ctrl+C ends it.")
        if browser and _has_browser(host):
            webbrowser.open(address)

    with in_step(study) if study else nullcontext():
        asyncio.run(serve(service, announce))


def _require_libraries() -> None:
    lacking = [name for name in _NEEDED if find_spec(name) is None]
    if lacking:
        raise OptionError(
            "The viewer needs Python 3.10 or newer and the extra “viewer”: pip install 'deepreg-attention[viewer]'"
            f" ({', '.join(lacking)} is missing)."
        )


def is_study(folder: Path) -> bool:
    """Whether a folder is a study of many pairs."""
    from ..cohort.study import TABLE

    return (folder / TABLE).is_file()


@contextmanager
def in_step(study: Path) -> Iterator[None]:
    """Have page and table of a study say what its marks do, before and after the block.

    A study that can only be read is shown as it is.
    """
    from ..cohort.study import WALL
    from ..cohort.wall import settle_marks

    try:
        settle_marks(study)
    except OutputError:
        if not (study / WALL).is_file():
            raise
    try:
        yield
    finally:
        with suppress(OutputError):
            settle_marks(study)


def _allowed(folders: Optional[list[Path]], host: str) -> list[Path]:
    for folder in folders or []:
        if not folder.is_dir():
            raise OptionError(f"--folder needs a folder; {folder} is none.")
    if folders:
        return [folder.resolve() for folder in folders]
    return [Path.cwd()] if _is_this_computer(host) else []


def _is_this_computer(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _has_browser(host: str) -> bool:
    """Whether a window can be opened: on a server, a browser in the terminal would be in the way."""
    screen = sys.platform in ("darwin", "win32") or "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ
    return screen and _is_this_computer(host)
