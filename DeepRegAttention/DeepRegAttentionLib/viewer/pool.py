"""The processes behind the browser pages: one each, started when a page is opened, ended after it was left."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Optional

SESSION_COMMAND = (sys.executable, "-m", f"{__package__}.page_process")

START_LIMIT_S = 120.0
"""How long a process may take to load its libraries."""

_END_LIMIT_S = 5.0
_LOG_LINES = 40

logger = logging.getLogger(__name__)


class PoolFullError(Exception):
    """As many pages are open as the operator allowed."""


@dataclass
class Session:
    """One browser page and the process that serves it.

    Attributes
    ----------
    id : str
        In the page's address; cannot be guessed.
    owner : str
        The browser that opened it; no other may reach it.
    folder : Path
        Its temporary data: uploads, jobs, downloads.
    secret : str
        What the process demands of whoever connects to it, known to the front process alone.
    ready : asyncio.Future of int
        The port on 127.0.0.1, once the process serves; an error if it ended before.
    task : mapping
        What it is given as it starts; plain values.
    sockets : int
        Open connections of the page.
    left : float
        When the last one was closed (``time.monotonic``).
    """

    id: str
    owner: str
    folder: Path
    secret: str
    ready: asyncio.Future[int]
    task: Mapping[str, Any] = field(default_factory=dict)
    process: Optional[asyncio.subprocess.Process] = None
    sockets: int = 0
    left: float = field(default_factory=time.monotonic)

    def enter(self) -> None:
        """A connection was opened."""
        self.sockets += 1

    def leave(self) -> None:
        """A connection was closed."""
        self.sockets -= 1
        self.left = time.monotonic()

    @property
    def alone_s(self) -> float:
        """Seconds since the page was left; 0 while it is open."""
        return 0.0 if self.sockets else time.monotonic() - self.left


class Pool:
    """All sessions of one server.

    Parameters
    ----------
    limit : int
        How many sessions at once.
    leave_s : float
        A session ends when its page was closed for so long.
    """

    def __init__(self, limit: int, leave_s: float) -> None:
        self._limit = limit
        self._leave_s = leave_s
        self._sessions: dict[str, Session] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to look for sessions that were left."""
        self._tasks.append(asyncio.create_task(self._sweep()))

    async def open(self, owner: str, task: Mapping[str, Any]) -> Session:
        """Start a process for a new page of a browser, with plain values that say what for.

        Raises
        ------
        PoolFullError
            There is no room, and nobody has left.
        """
        if len(self._sessions) >= self._limit:
            await self._make_room()
        folder = Path(tempfile.mkdtemp(prefix="deepreg-view-"))
        ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        session = Session(secrets.token_urlsafe(16), owner, folder, secrets.token_urlsafe(32), ready, task)
        self._sessions[session.id] = session
        self._tasks.append(asyncio.create_task(self._run(session)))
        return session

    def find(self, session_id: str, owner: str) -> Optional[Session]:
        """The session, if it is alive and its owner asks."""
        session = self._sessions.get(session_id)
        return session if session is not None and session.owner == owner else None

    @property
    def count(self) -> int:
        """Sessions that are alive."""
        return len(self._sessions)

    async def close(self) -> None:
        """End everything, and remove all temporary data."""
        await asyncio.gather(*(self._end(session) for session in list(self._sessions.values())))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _make_room(self) -> None:
        left = [session for session in self._sessions.values() if not session.sockets and session.ready.done()]
        if not left:
            raise PoolFullError
        await self._end(max(left, key=lambda session: session.alone_s))

    async def _run(self, session: Session) -> None:
        """Start the process of a session, and tidy up when it has ended, for whatever reason."""
        with tempfile.TemporaryFile() as log:
            try:
                session.process = await asyncio.create_subprocess_exec(
                    *SESSION_COMMAND, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log
                )
                await self._introduce(session, session.process)
                await session.process.wait()
            finally:
                self._forget(session)
                _report(session, log)

    def _forget(self, session: Session) -> None:
        self._sessions.pop(session.id, None)
        if not session.ready.done():
            session.ready.set_exception(RuntimeError("the process ended while it started"))
            session.ready.exception()  # Retrieved: nobody may be waiting for it.
        shutil.rmtree(session.folder, ignore_errors=True)

    async def _introduce(self, session: Session, process: asyncio.subprocess.Process) -> None:
        """Tell a process what it is for, on its input that no other program sees; hear its port."""
        assert process.stdin is not None
        assert process.stdout is not None
        task = {**session.task, "folder": str(session.folder), "secret": session.secret}
        process.stdin.write(json.dumps(task).encode() + b"\n")
        line = await process.stdout.readline()
        if line:
            session.ready.set_result(int(json.loads(line)["port"]))
            session.left = time.monotonic()

    async def _end(self, session: Session) -> None:
        """Ask a process to end by closing its input; make it, if it does not."""
        self._sessions.pop(session.id, None)
        process = session.process
        if process is None or process.returncode is not None:
            return
        assert process.stdin is not None
        process.stdin.close()
        for force in (process.terminate, process.kill):
            try:
                await asyncio.wait_for(process.wait(), _END_LIMIT_S)
                return
            except asyncio.TimeoutError:
                force()
        await process.wait()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(self._leave_s / 4, 15.0))
            for session in list(self._sessions.values()):
                if session.alone_s > self._leave_s and session.ready.done():
                    await self._end(session)


def _report(session: Session, log: IO[bytes]) -> None:
    """Tell the operator if something went wrong in a process, by the last that it wrote to standard error."""
    log.seek(0)
    lines = log.read().decode("utf-8", errors="replace").splitlines()
    code = session.process.returncode if session.process is not None else None
    if code or any(line.startswith("Traceback") for line in lines):
        text = "\n".join(lines[-_LOG_LINES:])
        logger.warning("something went wrong in a viewer process (it ended with code %s):\n%s", code, text)
