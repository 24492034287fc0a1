"""The worker as a subprocess whose output comes to the event loop of :mod:`asyncio`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import IO, Any, Callable, Optional

from ..jobs.client import WORKER_ARGUMENTS

_CHUNK = 2**16


class AsyncioProcess:
    """The client's ``Process``, for the event loop that runs when it is started.

    Threads wait for the output, so that it works on every system and ``wait`` can block while the loop stands still.

    Parameters
    ----------
    command : sequence of str
        How it is started.
    """

    on_output: Callable[[bytes], None]
    on_log: Callable[[bytes], None]
    on_ended: Callable[[int, bool], None]

    def __init__(self, command: Sequence[str] = (sys.executable, *WORKER_ARGUMENTS)) -> None:
        self._command = command
        self._process: Optional[subprocess.Popen[bytes]] = None

    def start(self) -> None:
        """Start the worker; a failure comes as ``on_ended``."""
        self._loop = asyncio.get_running_loop()
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0)
        except OSError:
            self._loop.call_soon(self.on_ended, -1, True)
            return
        threading.Thread(target=self._follow, args=(self._process,), daemon=True).start()

    def write(self, data: bytes) -> None:
        """Send bytes to its standard input: a pipe takes a command whole, without waiting."""
        if self._process is not None and self._process.stdin is not None:
            # If it has ended, on_ended says so.
            with contextlib.suppress(OSError):
                self._process.stdin.write(data)

    def close_input(self) -> None:
        """End its standard input."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def terminate(self) -> None:
        """Ask the system to end it."""
        if self._process is not None:
            self._process.terminate()

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()

    def wait(self, milliseconds: int) -> bool:
        """Block until it has ended; False if it has not by then."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self._process is not None:
                self._process.wait(milliseconds / 1000)
            return True
        return False

    # In threads of their own

    def _follow(self, process: subprocess.Popen[bytes]) -> None:
        log = threading.Thread(target=self._pass_on, args=(process.stderr, self.on_log), daemon=True)
        log.start()
        self._pass_on(process.stdout, self.on_output)
        log.join()
        code = process.wait()
        self._tell(self.on_ended, abs(code), code < 0)

    def _pass_on(self, stream: Optional[IO[bytes]], hand_over: Callable[[bytes], None]) -> None:
        assert stream is not None
        with stream:
            while chunk := os.read(stream.fileno(), _CHUNK):
                self._tell(hand_over, chunk)

    def _tell(self, listener: Callable[..., None], *said: Any) -> None:
        # A loop that has ended has no more use for it.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(listener, *said)


def later(milliseconds: int, call: Callable[[], None]) -> None:
    """The client's ``Later``, by the event loop that runs."""
    asyncio.get_running_loop().call_later(milliseconds / 1000, call)
