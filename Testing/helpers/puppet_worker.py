"""A worker that does what the options of its jobs say: run as a program, or played within the test's own process.

Options of a job: ``say``, events of it; then ``exit``, with this code, or ``crash``; ``deaf``, to obey nothing from
then on, neither a cancel, nor the end of the input, nor a polite signal. With the argument ``lacking`` it starts as
without torch.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any, Callable, Optional

LOG = b"one\r\ntwo \xff\n"
NOISE = b"a library says hello\n\xff\xfe\n" + b"x" * 100_000 + b'\n{"event": "done", "id": "another"}\n'


class Puppet:
    """What the program does, whatever its streams are.

    Parameters
    ----------
    write : callable
        Given what it says.
    end : callable
        Given the code with which it ends; None is a crash.
    """

    def __init__(self, write: Callable[[bytes], None], end: Callable[[Optional[int]], None]) -> None:
        self._write, self._end = write, end
        self._job: Optional[str] = None
        self.deaf = False

    def start(self, mishap: str) -> None:
        if mishap == "lacking":
            self._say(event="error", code="missing-package", name="torch", message="PyTorch is missing.")
            self._end(1)
        else:
            self._say(event="ready")

    def take(self, line: bytes) -> None:
        command: dict[str, Any] = json.loads(line)
        if not self.deaf:
            getattr(self, f"_{command['command']}")(command)

    def _register(self, command: dict[str, Any]) -> None:
        self._job, options = command["id"], command["options"]
        self.deaf = options.get("deaf", False)
        for event in options.get("say", []):
            self._write(NOISE)
            self._say(id=self._job, **event)
        if "exit" in options:
            self._end(options["exit"])
        if "crash" in options:
            self._end(None)

    _cohort = _register

    def _cancel(self, command: dict[str, Any]) -> None:
        assert command["id"] == self._job
        self._say(event="cancelled", id=self._job)

    def _device(self, command: dict[str, Any]) -> None:
        self._say(event="done", id=command["id"], devices={"asked": command})

    def _shutdown(self, command: dict[str, Any]) -> None:
        self._end(0)

    def _say(self, **event: Any) -> None:
        self._write(json.dumps(event).encode() + b"\n")


def main(mishap: str = "") -> None:
    """Read and write as the worker does."""

    def write(data: bytes) -> None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    def end(code: Optional[int]) -> None:
        if code is None:
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(code or 0)

    puppet = Puppet(write, end)
    signal.signal(signal.SIGTERM, lambda *_: None if puppet.deaf else os._exit(1))
    os.write(2, LOG)
    puppet.start(mishap)
    for line in sys.stdin.buffer:
        puppet.take(line)
    while puppet.deaf:
        time.sleep(0.1)


if __name__ == "__main__":
    main(*sys.argv[1:])
