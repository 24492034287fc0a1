"""The corrections of one result: all of them together, in the background, the newest wish last."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Callable, Optional

import slicer

from ..engine.errors import RegistrationError
from ..jobs.client import WorkerClient
from ..jobs.messages import ENDINGS, CorrectionJob, Event
from ..jobs.signals import Signal
from ..scene import export
from ..scene.corrections import refresh_steps, to_lps, write_result
from ..scene.results import Result
from ..terms.inputs import Inputs
from .registration import message_of, new_folder
from .turns import in_turns

_NUMBERS = itertools.count(1)
Point = Sequence[float]
Pair = tuple[Point, Point]


class Corrections:
    """Brings one result to what is wished for, one job of the worker at a time; nothing of it blocks.

    Parameters
    ----------
    result : Result
        Its nodes change in place.
    nodes : mapping of str to vtkMRMLNode
        What it was made of, by the fields of ``Inputs``; ``fixed`` and ``moving`` at least.
    client : WorkerClient
        Takes turns with registrations.

    Attributes
    ----------
    changed : Signal
        Emitted when something begins or has ended.
    progressed : Signal
        Emitted with each event of the worker that is not the last.
    renewed : Signal
        Emitted when the nodes have changed.
    failed : Signal
        Emitted with a sentence; the result is as it was, and so is the wish.
    """

    def __init__(self, result: Result, nodes: Mapping[str, slicer.vtkMRMLNode], client: WorkerClient) -> None:
        self.result, self._nodes, self._client = result, nodes, client
        self.changed, self.progressed, self.renewed, self.failed = Signal(), Signal(), Signal(), Signal()
        self._wish: Optional[tuple[Pair, ...]] = None
        self._folder: Optional[Path] = None
        self._inputs: Optional[Inputs] = None
        self._busy = self._job_runs = self._dropped = False
        self._outcome: Optional[Callable[[], None]] = None
        client.changed.connect(self._go_on)

    @property
    def busy(self) -> bool:
        """Whether something is under way or waits for its turn."""
        return self._busy or self._wish is not None

    def prepare(self) -> None:
        """Write the files that the worker needs, before it needs them."""
        if self._inputs is None and not self._busy:
            self._in_turns(self._write())

    def apply(self, corrections: Sequence[Pair]) -> None:
        """Wish for these corrections, and no others; with none the result is as it was found.

        Parameters
        ----------
        corrections : sequence of (point, point)
            A point of the fixed volume, and where the same anatomy lies in the moving one, world RAS mm.
        """
        self._wish = tuple(corrections)
        self._go_on()
        self.changed.emit()

    def drop(self) -> None:
        """Touch no node any more, and leave no file behind."""
        self._dropped, self._wish = True, None
        self._client.changed.disconnect(self._go_on)
        if self._job_runs:
            self._client.cancel()
        else:
            self._remove_files()

    # Steps

    def _go_on(self) -> None:
        """Do what is to be done next, as soon as nothing else is under way."""
        if self._busy or self._wish is None or self._dropped:
            return
        if self._inputs is None:
            self._in_turns(self._write())
        elif not self._client.busy:
            wish, self._wish = self._wish, None
            self._busy = self._job_runs = True
            points = tuple((_lps(fixed), _lps(moving)) for fixed, moving in wish)
            job = CorrectionJob(f"correction-{next(_NUMBERS)}", self._inputs, str(self._result_folder), points)
            self._client.submit(job, self._heard)
            self.changed.emit()

    @property
    def _result_folder(self) -> Path:
        return Path(str(self._folder)) / "result"

    def _write(self) -> Generator[str, None, None]:
        self._folder = new_folder(slicer.app.temporaryPath)
        self._result_folder.mkdir()
        yield "result"
        write_result(self.result, self._result_folder)
        self._inputs = yield from export.write_steps(self._folder, **self._nodes)

    def _heard(self, event: Event) -> None:
        if event.event not in ENDINGS:
            self.progressed.emit(event)
            return
        self._job_runs = False
        if self._dropped:
            self._remove_files()
        elif event.event == "done":
            self._in_turns(self._renew())
        else:
            self._outcome = lambda: self.failed.emit(message_of(event))
            self._rest()

    def _renew(self) -> Generator[str, None, None]:
        labels = self._nodes.get("labels")
        names = None if labels is None else export.label_names(labels)
        yield from refresh_steps(self.result, self._result_folder, names)
        self._outcome = self.renewed.emit

    def _in_turns(self, steps: Generator[str, None, None]) -> None:
        self._busy = True
        in_turns(self._carefully(steps), self._is_wanted, self._rest)

    def _carefully(self, steps: Generator[str, None, None]) -> Generator[str, None, None]:
        try:
            yield from steps
        except RegistrationError as error:
            self._wish, sentence = None, str(error)
            self._outcome = lambda: self.failed.emit(sentence)

    def _is_wanted(self) -> bool:
        """Not once it was dropped, nor when somebody deleted the result."""
        there = not self._dropped and bool(slicer.mrmlScene.IsNodePresent(self.result.node))
        if not there:
            self._remove_files()
        return there

    def _rest(self) -> None:
        """Tell what came of it, once the next may begin, and begin it."""
        self._busy = False
        outcome, self._outcome = self._outcome, None
        if outcome is not None:
            outcome()
        self._go_on()
        self.changed.emit()

    def _remove_files(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _lps(point: Point) -> tuple[float, float, float]:
    x, y, z = to_lps(point)
    return x, y, z
