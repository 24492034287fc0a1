"""Keeps the worker warm and gives it one job at a time: one state machine for the panel and the viewer.

It knows no event loop: the process and the way to be called later are handed in. Nothing of it blocks but
``shutdown``.
"""

from __future__ import annotations

import enum
import signal
from dataclasses import replace
from typing import Callable, Optional, Protocol

from .messages import (
    ENDINGS,
    AnyJob,
    Cancel,
    Command,
    DeviceQuestion,
    Event,
    LineBuffer,
    Shutdown,
    decode_event,
    encode,
)
from .signals import Signal

Listener = Callable[[Event], None]
Later = Callable[[int, Callable[[], None]], object]
"""Calls a function after so many milliseconds, without blocking."""

WORKER_ARGUMENTS = ("-m", "DeepRegAttentionLib.worker")
"""With these, a Python interpreter is the worker."""

PATIENCE_MS = 2000
"""How long a worker may take to obey, and then to terminate, before it is killed."""


class Process(Protocol):
    """A worker process and its three streams, as an event loop hands them over.

    The client sets the three callbacks before it calls ``start``; they are called in the thread of the event loop.
    ``on_ended`` is called once, after all output, with the exit code (of a crash, where the system has signals, the
    signal's number) and whether the process crashed or could not be started.
    """

    on_output: Callable[[bytes], None]
    on_log: Callable[[bytes], None]
    on_ended: Callable[[int, bool], None]

    def start(self) -> None:
        """Start, without waiting."""

    def write(self, data: bytes) -> None:
        """Queue bytes for its standard input."""

    def close_input(self) -> None:
        """End its standard input; the worker then ends by itself."""

    def terminate(self) -> None:
        """Ask the system to end it."""

    def kill(self) -> None:
        """End it at once."""

    def wait(self, milliseconds: int) -> bool:
        """Block until it has ended; False if it has not by then."""


class State(enum.Enum):
    """Where the worker is."""

    OFF = "off"
    STARTING = "starting"
    READY = "ready"
    RUNNING = "running"
    CANCELLING = "cancelling"


class BusyError(RuntimeError):
    """A job was submitted while another one runs."""

    def __init__(self) -> None:
        super().__init__("Another registration is under way; wait until it ends, or cancel it.")


class WorkerClient:
    """One worker process, started when it is first needed, kept warm, started again after a crash.

    Every job and every question ends with exactly one event of ``ENDINGS``, whatever happens to the process.

    Parameters
    ----------
    new_process, later : callable
        How the event loop starts processes and calls functions later.
    patience_ms : int, optional
        Instead of ``PATIENCE_MS``, where jobs take longer to stop.

    Attributes
    ----------
    state : State
    trouble : Event, optional
        Why the worker could not start, such as a missing package (its ``name``); None once it could.
    changed : Signal
        Emitted without arguments whenever ``state`` or ``trouble`` changed.
    logged : Signal
        Emitted with each line that the worker wrote to its log.
    """

    def __init__(self, new_process: Callable[[], Process], later: Later, patience_ms: Optional[int] = None) -> None:
        self.state = State.OFF
        self.trouble: Optional[Event] = None
        self.changed, self.logged = Signal(), Signal()
        self._new_process, self._later, self._patience_ms = new_process, later, patience_ms
        self._process: Optional[Process] = None
        self._job: Optional[AnyJob] = None
        self._listener: Listener = _ignore
        self._questions: dict[str, tuple[DeviceQuestion, Listener]] = {}
        self._stopping: Optional[Process] = None

    # What others ask of it

    @property
    def _patience(self) -> int:
        return self._patience_ms or PATIENCE_MS

    @property
    def busy(self) -> bool:
        """Whether a job is under way, waiting for the worker to start included."""
        return self._job is not None

    def warm_up(self) -> None:
        """Start the worker, if it does not run."""
        if self._process is not None:
            return
        process = self._new_process()
        lines, log = LineBuffer(), LineBuffer()
        process.on_output = lambda chunk: self._read(process, lines.feed(chunk))
        process.on_log = lambda chunk: self._log(log.feed(chunk))
        process.on_ended = lambda code, crashed: self._ended(process, code, crashed)
        self._process, self.trouble = process, None
        self._enter(State.STARTING)
        process.start()

    def submit(self, job: AnyJob, listener: Listener) -> None:
        """Have a job done; the listener gets its events, the last of which is one of ``ENDINGS``.

        Raises BusyError if another job is under way.
        """
        if self.busy:
            raise BusyError
        self._job, self._listener = job, listener
        if self.state is State.READY:
            self._send_job()
        else:
            self.warm_up()
            self.changed.emit()

    def ask(self, question: DeviceQuestion, listener: Listener) -> None:
        """Put a question; the listener gets the answer, or the ``error`` or ``cancelled`` that came of it."""
        self._questions[question.id] = question, listener
        if self._process is None:
            self.warm_up()
        elif self.state is not State.STARTING:
            self._write(question)

    def cancel(self) -> None:
        """Stop the job: ask, then terminate, then kill, with patience between; its ending event says ``cancelled``."""
        if self._job is None or self.state is State.CANCELLING:
            return
        if self.state is State.STARTING or self._process is None:
            self._finish(Event("cancelled", self._job.id))
            return
        job, process = self._job, self._process
        self._write(Cancel(job.id))
        self._enter(State.CANCELLING)
        self._later(self._patience, lambda: self._insist(job, process))

    def shutdown(self) -> None:
        """End the worker, and wait until it touches no file any more; a job that runs ends as ``cancelled``."""
        process, self._process = self._process, None
        if process is not None:
            process.write(encode(Shutdown()))
            process.close_input()
            if not process.wait(self._patience):
                process.kill()
                process.wait(self._patience)
        self._enter(State.OFF)
        self._end_all(Event("cancelled"))

    # What the process does

    def _read(self, process: Process, lines: list[bytes]) -> None:
        for line in lines:
            event = decode_event(line)
            # One that was told to terminate has no say any more: the next job must not go to it.
            if event is not None and process is self._process and process is not self._stopping:
                self._heard(event)

    def _heard(self, event: Event) -> None:
        if event.event == "ready":
            self._ready()
        elif event.id is None:
            self._heard_without_id(event)
        elif event.id in self._questions:
            _, listener = self._questions.pop(event.id)
            listener(event)
        elif self._job is not None and event.id == self._job.id:
            self._finish(event) if event.event in ENDINGS else self._listener(event)

    def _ready(self) -> None:
        # Whoever hears of the change may ask, or submit, at once.
        waiting = [question for question, _ in self._questions.values()]
        self._enter(State.READY)
        for question in waiting:
            self._write(question)
        if self._job is not None and self.state is State.READY:
            self._send_job()

    def _heard_without_id(self, event: Event) -> None:
        """Why the worker cannot start, or a note for the log."""
        if event.event == "error" and self.state is State.STARTING:
            self.trouble = event
            self.changed.emit()
        elif event.message:
            self.logged.emit(event.message)

    def _ended(self, process: Process, code: int, crashed: bool) -> None:
        if process is not self._process:
            return
        self._process, was = None, self.state
        if self.trouble is None and was is not State.CANCELLING:
            self.trouble = _ended_event(was, code, crashed)
        self._enter(State.OFF)
        self._end_all(self.trouble or Event("cancelled"))
        # Not after a failed start: it would fail again, and again.
        if was in (State.RUNNING, State.CANCELLING):
            self.warm_up()

    def _log(self, lines: list[bytes]) -> None:
        for line in lines:
            self.logged.emit(line.decode("utf-8", errors="replace").rstrip("\r"))

    # Steps

    def _send_job(self) -> None:
        assert self._job is not None
        self._write(self._job)
        self._enter(State.RUNNING)

    def _write(self, command: Command) -> None:
        assert self._process is not None
        self._process.write(encode(command))

    def _end_all(self, last: Event) -> None:
        """Answer every question and end the job: the process that had them is gone."""
        questions, self._questions = self._questions, {}
        for name, (_, listener) in questions.items():
            listener(replace(last, id=name))
        if self._job is not None:
            self._finish(replace(last, id=self._job.id))

    def _finish(self, event: Event) -> None:
        """Forget the job before its listener hears the end, so that it may submit the next one."""
        listener, self._job, self._listener = self._listener, None, _ignore
        if self.state in (State.RUNNING, State.CANCELLING):
            self._enter(State.READY)
        listener(event)
        self.changed.emit()

    def _insist(self, job: AnyJob, process: Process) -> None:
        if self._job is not job or self._process is not process:
            return
        if self._stopping is process:
            process.kill()
            return
        self._stopping = process
        process.terminate()
        self._later(self._patience, lambda: self._insist(job, process))

    def _enter(self, state: State) -> None:
        self.state = state
        self.changed.emit()


def _ignore(event: Event) -> None:
    """Nobody listens."""


def _ended_event(was: State, code: int, crashed: bool) -> Event:
    how = _how_it_ended(code, crashed)
    if was is State.STARTING:
        message = f"The process that registers could not start: it {how}. The log says more."
        return Event("error", code="no-worker", message=message)
    message = f"The process that registers {how}; it is started again. The log says more."
    return Event("error", code="worker-ended", message=message)


def _how_it_ended(code: int, crashed: bool) -> str:
    if not crashed:
        return f"ended with exit code {code}"
    # Linux ends a process so when there is no memory left.
    killed = code == getattr(signal, "SIGKILL", None)
    return "crashed, perhaps because no memory was left" if killed else "crashed"
