"""The worker as a ``qt.QProcess``, with the Python that comes with 3D Slicer."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Callable, Optional

import qt

from ..engine.threads import passive_waiting
from ..jobs.client import WORKER_ARGUMENTS, WorkerClient

MODULE_FOLDER = Path(__file__).resolve().parents[2]

_shared: Optional[WorkerClient] = None


class QtProcess:
    """The client's ``Process`` by ``qt.QProcess``."""

    on_output: Callable[[bytes], None]
    on_log: Callable[[bytes], None]
    on_ended: Callable[[int, bool], None]

    def __init__(self) -> None:
        self._process = qt.QProcess()
        self._process.setProcessEnvironment(_environment())
        connected = [
            self._process.connect("readyReadStandardOutput()", self._on_output),
            self._process.connect("readyReadStandardError()", self._on_log),
            self._process.connect("finished(int,QProcess::ExitStatus)", self._on_finished),
            self._process.connect("errorOccurred(QProcess::ProcessError)", self._on_error),
        ]
        assert all(connected), "a signal of QProcess has another name"

    def start(self) -> None:
        """Start the worker; a failure comes as ``on_ended``."""
        self._process.start(interpreter(), list(WORKER_ARGUMENTS))

    def write(self, data: bytes) -> None:
        """Queue bytes for its standard input."""
        self._process.write(data)

    def close_input(self) -> None:
        """Send what is queued, then the end."""
        self._process.closeWriteChannel()

    def terminate(self) -> None:
        """Ask politely; on Windows this has no effect on a console program."""
        self._process.terminate()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def wait(self, milliseconds: int) -> bool:
        """Block until it has ended; False if it has not by then."""
        # Of one that has ended before, Qt says that it did not end now.
        ended = int(self._process.state()) == int(qt.QProcess.NotRunning)
        return ended or bool(self._process.waitForFinished(milliseconds))

    def _on_output(self) -> None:
        self.on_output(_bytes(self._process.readAllStandardOutput()))

    def _on_log(self) -> None:
        self.on_log(_bytes(self._process.readAllStandardError()))

    def _on_finished(self, code: int, status: int) -> None:
        self._on_output()
        self._on_log()
        self.on_ended(int(code), int(status) != int(qt.QProcess.NormalExit))

    def _on_error(self, error: int) -> None:
        # Of all errors, only this one is not followed by finished().
        if int(error) == int(qt.QProcess.FailedToStart):
            self.on_ended(-1, True)


def shared_client() -> WorkerClient:
    """The one client of this application, so that the worker stays warm for everyone; ended with it."""
    global _shared
    if _shared is None:
        import slicer

        _shared = WorkerClient(QtProcess, qt.QTimer.singleShot)
        slicer.app.connect("aboutToQuit()", _shared.shutdown)
    return _shared


def end_shared_client() -> None:
    """End it before the application does."""
    global _shared
    if _shared is not None:
        import slicer

        slicer.app.disconnect("aboutToQuit()", _shared.shutdown)
        _shared.shutdown()
        _shared = None


def interpreter() -> str:
    """The Python that runs the worker: 3D Slicer's own."""
    return shutil.which("PythonSlicer") or sys.executable


def _environment() -> qt.QProcessEnvironment:
    environment = qt.QProcessEnvironment.systemEnvironment()
    paths = [str(MODULE_FOLDER), environment.value("PYTHONPATH", "")]
    environment.insert("PYTHONPATH", os.pathsep.join(path for path in paths if path))
    for name, value in passive_waiting(os.environ).items():
        environment.insert(name, value)
    return environment


def _bytes(array: qt.QByteArray) -> bytes:
    return bytes(array.data())
