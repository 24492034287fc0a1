"""The process that registers: started once, kept warm, spoken to in the JSON lines of :mod:`.messages`.

``python -m DeepRegAttentionLib.worker`` reads commands from standard input and writes events to standard output;
what anything else prints goes to standard error. It ends when its input does.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Optional, Union

from ..engine.errors import CancelledError, LicenceError, RegistrationError, RegistrationWarning
from ..engine.threads import wait_passively
from ..jobs.messages import (
    AnyJob,
    Cancel,
    CohortJob,
    Command,
    CorrectionJob,
    DeviceQuestion,
    Event,
    Job,
    LineBuffer,
    MessageError,
    PairJob,
    Shutdown,
    decode_command,
    encode,
)
from .cohort_run import CohortRun
from .memory import Memory
from .pace import CORRECTION_SECONDS, SECONDS, Pace
from .packages import MissingPackageError, load_libraries

if TYPE_CHECKING:
    import SimpleITK as sitk

PREVIEW = "preview.nrrd"
"""In the folder of a job that is watched, while it runs."""

_PROGRESS_INTERVAL_S = 0.1
_IDLE_S = 60.0


class Channel:
    """The process's standard input and output, kept for messages alone.

    Anything that a library prints, in Python or below it, comes out on standard error instead.
    """

    def __init__(self) -> None:
        self._input, self._output = os.dup(0), os.dup(1)
        self._lock = threading.Lock()
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)

    def lines(self) -> Iterator[bytes]:
        """What comes in, line by line, until it ends."""
        buffer = LineBuffer()
        while chunk := os.read(self._input, 2**16):
            yield from buffer.feed(chunk)

    def say(self, event: Event) -> None:
        """Send an event; OSError if nobody listens any more."""
        rest = memoryview(encode(event))
        with self._lock:
            while rest:
                rest = rest[os.write(self._output, rest) :]


class Run:
    """One job, from the moment it was asked for until it has ended.

    Parameters
    ----------
    job : Job or CorrectionJob
        What was asked for.
    say : callable
        Sends an event.
    memory : Memory
        Of what was registered last.

    Attributes
    ----------
    cancelled : threading.Event
        Set by whoever wants the job to stop; it does at its next word of progress.
    """

    def __init__(self, job: PairJob, say: Callable[[Event], None], memory: Memory) -> None:
        self.job = job
        self._memory = memory
        self.folder = Path(job.folder)
        self.cancelled = threading.Event()
        self.pace = Pace(SECONDS)
        self._say = say
        self._said = ("", 0.0)

    def execute(self, seconds: dict[str, float]) -> Event:
        """Do the job, and tidy up after it.

        Parameters
        ----------
        seconds : dict of str to float
            Expected of each stage, of ``refine`` for one step; replaced by what this job took.

        Returns
        -------
        Event
            ``done``.

        Raises
        ------
        RegistrationError
            One of its kinds, also CancelledError.
        """
        try:
            if isinstance(self.job, Job):
                return self._register(self.job, seconds)
            return self._correct(self.job)
        finally:
            self.tidy()

    def _register(self, job: Job, seconds: dict[str, float]) -> Event:
        from ..case import read_case, register_case
        from ..engine.method import likely_steps
        from ..engine.options import RegistrationOptions
        from ..engine.result import require_writable

        options = RegistrationOptions.from_mapping(job.options)
        require_writable(self.folder)
        self.pace = Pace(expected_seconds(job, likely_steps(options), options.model, seconds))
        self._memory.forget()
        case = read_case(job.inputs.to_dict(), options, progress=self.progress)
        result = register_case(case, options, self.progress, self.show if job.watch else None)
        result.save(self.folder, ".nrrd", compress=False, progress=lambda part: self.progress("write", part))
        self._memory.keep(job, case, result)
        if job.report:
            from ..report.page import write_report

            write_report(result, case.fixed, case.moving, self.folder / "report.html")
        learn(seconds, self.pace.seconds, result.metrics["refinement_steps"])
        return Event("done", job.id, folder=str(self.folder), metrics=result.plain_metrics())

    def _correct(self, job: CorrectionJob) -> Event:
        from ..case import CaseCorrector, read_case, read_result
        from ..engine.corrections import Correction
        from ..engine.result import require_writable

        left_out = {"measure"} if job.inputs.labels is None else set()
        self.pace = Pace({stage: value for stage, value in CORRECTION_SECONDS.items() if stage not in left_out})
        corrections = [Correction(fixed, moving) for fixed, moving in job.corrections]
        require_writable(self.folder)
        corrector = self._memory.corrector(job)
        if corrector is None:
            case = read_case(job.inputs.to_dict(), progress=self.progress)
            corrector = CaseCorrector(case, read_result(self.folder, case))
        result = corrector.correct(corrections, self.progress)
        self.progress("write", 0.0)
        result.renew(self.folder, ".nrrd", compress=False)
        self._memory.keep_corrector(job, corrector)
        return Event("done", job.id, folder=str(self.folder), metrics=result.plain_metrics())

    def progress(self, stage: str, fraction: float) -> None:
        """Tell how far the job is, now and then; raises CancelledError once it was cancelled."""
        if self.cancelled.is_set():
            raise CancelledError("The registration was cancelled.")
        whole = self.pace.at(stage, fraction)
        before, when = self._said
        if stage == before and fraction < 1 and time.monotonic() < when + _PROGRESS_INTERVAL_S:
            return
        self._said = stage, time.monotonic()
        left = None if whole.eta_s is None else round(whole.eta_s, 1)
        self._say(Event("progress", self.job.id, stage=stage, fraction=round(whole.fraction, 4), eta_s=left))

    def show(self, image: sitk.Image) -> None:
        """Renew the picture of the warped image; if it cannot be written, the registration goes on without."""
        from ..engine.images import write_complete

        path, partial = self.folder / PREVIEW, self.folder / f".writing-{PREVIEW}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_complete(image, partial, compress=False)
            partial.replace(path)
        except (OSError, RuntimeError) as error:
            print(f"No picture of the progress: {error}", file=sys.stderr)
            return
        self._say(Event("map", self.job.id, name="warped", path=str(path)))

    def abandon(self) -> None:
        """Leave nothing unfinished behind: the process ends at once."""
        self.tidy()

    def tidy(self) -> None:
        """Remove the picture, and what a save that was interrupted left."""
        from ..engine.result import remove_partial

        if self.folder.is_dir():
            # On Windows a file that the client is reading stays.
            with suppress(PermissionError):
                (self.folder / PREVIEW).unlink(missing_ok=True)
            remove_partial(self.folder)


def expected_seconds(job: Job, steps: int, model: str, seconds: dict[str, float]) -> dict[str, float]:
    """Seconds of each stage that this job will have, in their order."""
    left_out = {"measure"} if job.inputs.labels is None else set()
    if model == "none":
        left_out.add("network")
    return {
        stage: value * (steps if stage == "refine" else 1) for stage, value in seconds.items() if stage not in left_out
    }


def learn(seconds: dict[str, float], measured: dict[str, float], steps: int) -> None:
    """Expect of the next job what this one took."""
    steps_took = measured.get("refine", 0.0)
    seconds.update(measured, refine=steps_took / steps if steps else seconds["refine"])


AnyRun = Union[Run, CohortRun]


class Worker:
    """Takes commands in a thread of their own, and does one job after the other in the main thread."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._lock = threading.Lock()
        self._waiting: queue.Queue[Union[AnyJob, DeviceQuestion]] = queue.Queue()
        self._memory = Memory()
        self._runs: dict[str, AnyRun] = {}
        self._current: Optional[AnyRun] = None
        self._ready = threading.Event()
        self._seconds = dict(SECONDS)

    def run(self) -> int:
        """Work until the input ends; returns the exit status of a start that failed."""
        threading.Thread(target=self._listen, name="listener", daemon=True).start()
        try:
            load_libraries()
        except MissingPackageError as error:
            detail = "".join(traceback.format_exception_only(type(error.__cause__), error.__cause__))
            self._say(Event("error", code=error.code, name=error.name, message=str(error), detail=detail.strip()))
            return error.exit_code
        from ..engine.hardware import prepare_process, release_memory

        prepare_process()
        self._forward_warnings()
        self._ready.set()
        self._say(Event("ready"))
        while True:
            try:
                asked = self._waiting.get(timeout=_IDLE_S)
            except queue.Empty:
                release_memory()
                continue
            if isinstance(asked, DeviceQuestion):
                self._answer(asked)
            else:
                self._do(asked)

    # In the listening thread

    def _listen(self) -> None:
        for line in self._channel.lines():
            try:
                self._take(decode_command(line))
            except MessageError as error:
                self._say(Event("error", error.id, code="protocol", message=str(error)))
        self._end()

    def _take(self, command: Command) -> None:
        if isinstance(command, Shutdown):
            self._end()
        elif isinstance(command, Cancel):
            self._cancel(command.id)
        elif not isinstance(command, DeviceQuestion):
            self._enqueue(command)
        elif self._ready.is_set():
            self._answer(command)
        else:
            self._waiting.put(command)

    def _enqueue(self, job: AnyJob) -> None:
        with self._lock:
            if job.id in self._runs:
                # Without the id: it would end the other job for whoever listens.
                raise MessageError(f"There is already a job with the id “{job.id}”.")
            self._runs[job.id] = self._run(job)
        self._waiting.put(job)

    def _run(self, job: AnyJob) -> AnyRun:
        if isinstance(job, CohortJob):
            return CohortRun(job, self._say)
        return Run(job, self._say, self._memory)

    def _cancel(self, id: str) -> None:
        with self._lock:
            run = self._runs.get(id)
            waits = run is not None and run is not self._current
            if waits:
                del self._runs[id]
        if run is None:
            print(f"Nothing to cancel: the job {id} has ended or never was.", file=sys.stderr)
        elif waits:
            self._say(Event("cancelled", id))
        else:
            run.cancelled.set()

    def _end(self) -> None:
        """End, even in the middle of a job: nobody waits for it any more."""
        run = self._current
        if run is not None:
            run.abandon()
        os._exit(0)

    # In the main thread

    def _do(self, job: AnyJob) -> None:
        with self._lock:
            run = self._current = self._runs.get(job.id)
        if run is None:
            return  # cancelled while it waited
        event = self._outcome(job.id, lambda: run.execute(self._seconds))
        with self._lock:
            self._current = None
            del self._runs[job.id]
        self._say(event)

    # In either

    def _say(self, event: Event) -> None:
        run = self._current
        try:
            self._channel.say(event)
        except OSError:
            if run is None:
                self._end()
            else:
                # It stops at its next word of progress, and leaves nothing behind.
                run.cancelled.set()

    def _answer(self, question: DeviceQuestion) -> None:
        self._say(self._outcome(question.id, lambda: devices(question)))

    def _outcome(self, id: str, work: Callable[[], Event]) -> Event:
        """What came of it, as an event: whatever goes wrong, the worker lives on."""
        from ..engine.hardware import memory_errors

        try:
            with memory_errors():
                return work()
        except CancelledError:
            return Event("cancelled", id)
        except LicenceError as error:
            return Event("error", id, code=error.code, name=error.model, message=str(error))
        except MissingPackageError as error:
            return Event("error", id, code=error.code, name=error.name, message=str(error))
        except RegistrationError as error:
            cause = None if error.__cause__ is None else f"{type(error.__cause__).__name__}: {error.__cause__}"
            return Event("error", id, code=error.code, message=str(error), detail=cause)
        except Exception as error:  # noqa: BLE001 (a mistake in the program must not end the process)
            traceback.print_exc()
            message = f"The program has an error ({type(error).__name__}: {error}); please report it with the details."
            return Event("error", id, code="internal", message=message, detail=traceback.format_exc())

    def _forward_warnings(self) -> None:
        """Send each RegistrationWarning as an event; those of libraries are for the log."""
        others = warnings.showwarning

        def show(message: Any, category: Any, *rest: Any, **more: Any) -> None:
            if issubclass(category, RegistrationWarning):
                id = None if self._current is None else self._current.job.id
                self._say(Event("warning", id, message=str(message)))
            else:
                others(message, category, *rest, **more)

        warnings.simplefilter("always", RegistrationWarning)
        warnings.showwarning = show


def devices(question: DeviceQuestion) -> Event:
    """The answer to ``device``."""
    from ..engine.hardware import list_devices
    from ..engine.memory import memory_needed
    from ..engine.options import RegistrationOptions

    found = {name: asdict(device) for name, device in list_devices().items()}
    if question.size is not None and question.spacing is not None:
        options = RegistrationOptions.from_mapping(question.options)
        found["cpu"]["needed_gib"] = round(memory_needed(question.size, question.spacing, options), 2)
    return Event("done", question.id, devices=found)


def main() -> int:
    """Work until the input ends."""
    wait_passively()
    return Worker(Channel()).run()
