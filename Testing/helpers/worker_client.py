"""A client of the worker on three kinds of ground: played in the test, a process under asyncio, one under Qt."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
import time
import types
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable, Optional
from unittest import mock

from DeepRegAttentionLib.jobs import client as jobs_client
from DeepRegAttentionLib.jobs.client import Process, WorkerClient
from DeepRegAttentionLib.jobs.messages import ENDINGS, Event, Job
from DeepRegAttentionLib.viewer.worker_process import AsyncioProcess, later

from helpers.puppet_worker import LOG, Puppet

PUPPET = str(Path(__file__).with_name("puppet_worker.py"))
LIMIT_S = 90.0


class Ground:
    """A client, what it heard, and the event loop that it needs.

    Parameters
    ----------
    command : sequence of str
        What follows the name of the Python interpreter to start the worker.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self.command, self.interpreter = command, sys.executable
        self.processes: list[Any] = []
        self.heard: list[Event] = []
        self.client = WorkerClient(self._new, self._later)

    def do(self, call: Callable[[], Any]) -> Any:
        """Call a function in the event loop."""
        return call()

    def submit(self, job: Job) -> None:
        self.do(lambda: self.client.submit(job, self.heard.append))

    def until(self, condition: Callable[[], Any]) -> None:
        """Let things happen until something is the case."""
        end = time.monotonic() + LIMIT_S
        while not condition():
            assert time.monotonic() < end, "waited in vain"
            self._let_happen()

    def finish(self, job: Job) -> list[Event]:
        """Have a job done; all that was said of it."""
        self.submit(job)
        self.until(lambda: not self.client.busy)
        said = [event for event in self.heard if event.id == job.id]
        assert [event.event in ENDINGS for event in said].index(True) == len(said) - 1
        return said

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            assert process.wait(10_000)

    def _new(self) -> Process:
        self.processes.append(self._make())
        return self.processes[-1]

    def _make(self) -> Process:
        raise NotImplementedError

    def _later(self, milliseconds: int, call: Callable[[], None]) -> None:
        raise NotImplementedError

    def _let_happen(self) -> None:
        raise NotImplementedError


class PuppetProcess:
    """The puppet within this process."""

    on_output: Callable[[bytes], None]
    on_log: Callable[[bytes], None]
    on_ended: Callable[[int, bool], None]

    def __init__(self, events: deque[Callable[[], None]], command: Sequence[str]) -> None:
        self._events, self._command = events, command
        self._puppet = Puppet(self._say, self._end)
        self._has_ended = False

    def start(self) -> None:
        if self._command[0] != PUPPET:
            self._end(-1, crashed=True)
            return
        self._events.append(lambda: self.on_log(LOG))
        self._puppet.start("".join(self._command[1:]))

    def _say(self, data: bytes) -> None:
        if not self._has_ended:
            self._events.extend(lambda part=part: self.on_output(part) for part in (data[:5], data[5:]))

    def _end(self, code: Optional[int], crashed: bool = False) -> None:
        if not self._has_ended:
            self._has_ended = True
            self._events.append(lambda: self.on_ended(9 if code is None else code, code is None or crashed))

    def write(self, data: bytes) -> None:
        self._puppet.take(data)

    def close_input(self) -> None:
        self.terminate()

    def terminate(self) -> None:
        if not self._puppet.deaf:
            self._end(1)

    def kill(self) -> None:
        self._end(None)

    def wait(self, milliseconds: int) -> bool:
        return self._has_ended


class PlayedGround(Ground):
    """No process and no time: what is due happens one after the other."""

    def __init__(self, command: Sequence[str]) -> None:
        super().__init__(command)
        self._events: deque[Callable[[], None]] = deque()
        self._timers: deque[Callable[[], None]] = deque()

    def _make(self) -> Process:
        return PuppetProcess(self._events, self.command)

    def _later(self, milliseconds: int, call: Callable[[], None]) -> None:
        self._timers.append(call)

    def _let_happen(self) -> None:
        due = self._events or self._timers
        assert due, "nothing can happen any more"
        due.popleft()()


class AsyncioGround(Ground):
    """As in the viewer."""

    def __init__(self, command: Sequence[str]) -> None:
        super().__init__(command)
        self._loop = asyncio.new_event_loop()

    def do(self, call: Callable[[], Any]) -> Any:
        async def called() -> Any:
            return call()

        return self._loop.run_until_complete(called())

    def close(self) -> None:
        super().close()
        self._loop.close()

    def _make(self) -> Process:
        return AsyncioProcess((self.interpreter, *self.command))

    def _later(self, milliseconds: int, call: Callable[[], None]) -> None:
        later(milliseconds, call)

    def _let_happen(self) -> None:
        self._loop.run_until_complete(asyncio.sleep(0.005))


class QtGround(Ground):
    """As in the panel."""

    def __init__(self, command: Sequence[str]) -> None:
        super().__init__(command)
        self._qt, self._module = with_qt()
        self._module.interpreter = lambda: self.interpreter

    def _make(self) -> Process:
        self._module.WORKER_ARGUMENTS = self.command
        return self._module.QtProcess()

    def _later(self, milliseconds: int, call: Callable[[], None]) -> None:
        self._qt.QTimer.singleShot(milliseconds, call)

    def _let_happen(self) -> None:
        self._qt.application.processEvents()
        time.sleep(0.005)


def with_qt() -> tuple[Any, Any]:
    """The module ``qt`` of 3D Slicer, as far as the panel's process needs it, and that process's module anew."""
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    from PySide6 import QtCore, QtWidgets

    class QProcess(QtCore.QProcess):
        # In 3D Slicer, the values of an enumeration come as numbers.
        NormalExit, FailedToStart, NotRunning = 0, 0, 0

        def state(self) -> int:
            return super().state().value

        def connect(self, signal: str, slot: Callable[..., None]) -> bool:
            name = signal.partition("(")[0]
            getattr(self, name).connect(lambda *values: slot(*(getattr(value, "value", value) for value in values)))
            return True

    qt: Any = types.ModuleType("qt")
    qt.application = QtWidgets.QApplication.instance() or QtWidgets.QApplication([])
    qt.QProcess, qt.QProcessEnvironment, qt.QTimer = QProcess, QtCore.QProcessEnvironment, QtCore.QTimer
    name = "DeepRegAttentionLib.panel.worker_process"
    with mock.patch.dict(sys.modules, qt=qt):
        sys.modules.pop(name, None)
        return qt, importlib.import_module(name)


def hurry() -> Any:
    """A client that loses its patience soon."""
    return mock.patch.object(jobs_client, "PATIENCE_MS", 200)
