"""What every part of a page shares: its state in the browser, its one place for errors, its temporary folder."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Coroutine
from pathlib import Path
from typing import Any, Callable, Optional, TypeVar

from ..engine.errors import RegistrationError
from .access import Access
from .stage import Stage

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")


class Page:
    """One browser page on the server's side.

    Attributes
    ----------
    server : trame_server.Server
        Holds the page's state and pushes it to the browser.
    stage : Stage
        What is shown.
    access : Access
        What may be read.
    folder : Path
        For temporary files; removed when the session ends.
    """

    def __init__(self, server: Any, access: Access, folder: Path) -> None:
        self.server = server
        self.access = access
        self.folder = folder
        self.stage = Stage(server)
        self._tasks: set[asyncio.Task[Any]] = set()
        self.set(error="", notice="")

    @property
    def state(self) -> Any:
        """The variables that the browser sees."""
        return self.server.state

    def set(self, **values: Any) -> None:
        """Give variables values, and send them to the browser at once."""
        with self.state:
            self.state.update(values)

    def fail(self, sentence: str) -> None:
        """Show an error where all errors are shown."""
        self.set(error=sentence)

    def on_change(self, *names: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
        """Decorator: call a function after one of these variables has changed, errors told to the user."""

        def connect(function: Callable[[], None]) -> Callable[[], None]:
            self.server.state.change(*names)(lambda **_: self.telling(function)())
            return function

        return connect

    def telling(self, function: Callable[..., Optional[Answer]]) -> Callable[..., Optional[Answer]]:
        """The function, with the errors that are meant for people shown to them."""

        @functools.wraps(function)
        def call(*args: Any) -> Optional[Answer]:
            try:
                return function(*args)
            except RegistrationError as error:
                self.fail(str(error))
                return None

        return call

    def task(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Run something beside the page's other work; its errors are told to the user."""
        task = asyncio.ensure_future(self._told(coroutine))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _told(self, work: Awaitable[Any]) -> None:
        try:
            await work
        except RegistrationError as error:
            self.fail(str(error))

    def uncaught(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """For the event loop: log what nobody caught, and tell the user that it happened."""
        loop.default_exception_handler(context)
        self.unexpected()

    def unexpected(self, *errors: Any, **_: Any) -> None:
        """Log what went wrong by a mistake in the program, and tell the user that it happened."""
        for error in errors:
            if isinstance(error, BaseException):
                logger.error("unexpected", exc_info=error)
        self.fail("Something went wrong that should not have; the terminal of the viewer says what.")

    async def close(self) -> None:
        """Stop what runs beside."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
