"""The corrections of one result: all of them together, in the background, the newest wish last."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Mapping, Sequence
from typing import Callable, Optional

import slicer

from ..engine.errors import RegistrationError
from ..jobs.messages import ENDINGS, CorrectionJob, Event
from ..jobs.signals import Signal
from ..scene import export
from ..scene.corrections import refresh_steps, to_lps, write_result
from ..scene.results import Result
from .files import PairFiles
from .registration import Registrations, message_of
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
    registrations : Registrations
        What is under way there is waited for.

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

    def __init__(self, result: Result, nodes: Mapping[str, slicer.vtkMRMLNode], registrations: Registrations) -> None:
        self.result, self._nodes = result, nodes
        self._client, self._kept = registrations.client, registrations.kept
        self.changed, self.progressed, self.renewed, self.failed = Signal(), Signal(), Signal(), Signal()
        self._wish: Optional[tuple[Pair, ...]] = None
        self._files: Optional[PairFiles] = None
        self._busy = self._job_runs = self._dropped = False
        self._outcome: Optional[Callable[[], None]] = None
        self._client.changed.connect(self._go_on)

    @property
    def busy(self) -> bool:
        """Whether something is under way or waits for its turn."""
        return self._busy or self._wish is not None

    def prepare(self) -> None:
        """Have the files that the worker needs, before it needs them."""
        if not self.busy:
            self._in_turns(self._get_files())

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
        if self._files is None:
            self._in_turns(self._get_files())
        elif not self._client.busy:
            wish, self._wish = self._wish, None
            self._busy = self._job_runs = True
            points = tuple((_lps(fixed), _lps(moving)) for fixed, moving in wish)
            files, name = self._files, f"correction-{next(_NUMBERS)}"
            job = CorrectionJob(name, files.inputs, str(files.result_folder), points)
            self._client.submit(job, self._heard)
            self.changed.emit()

    def _get_files(self) -> Generator[str, None, None]:
        """Those that are kept, or new ones."""
        yield "files"
        self._files = self._kept.take(self.result, self._nodes)
        if self._files is None:
            files = self._files = PairFiles(slicer.app.temporaryPath)
            files.know(self.result)
            files.result_folder.mkdir()
            write_result(self.result, files.result_folder)
            yield from files.write_steps(self._nodes)

    def _heard(self, event: Event) -> None:
        if event.event not in ENDINGS:
            self.progressed.emit(event)
            return
        self._job_runs = False
        if self._dropped:
            self._remove_files()
        elif event.event == "done" and self._files is not None:
            self._in_turns(self._renew(self._files))
        else:
            self._outcome = lambda: self.failed.emit(message_of(event))
            self._rest()

    def _renew(self, files: PairFiles) -> Generator[str, None, None]:
        labels = self._nodes.get("labels")
        names = None if labels is None else export.label_names(labels)
        yield from refresh_steps(self.result, files.result_folder, names)
        files.know(self.result)
        self._outcome = self.renewed.emit

    def _in_turns(self, steps: Generator[str, None, None]) -> None:
        self._busy = True
        in_turns(self._carefully(steps), self._is_wanted, self._rest)

    def _carefully(self, steps: Generator[str, None, None]) -> Generator[str, None, None]:
        try:
            yield from steps
        except RegistrationError as error:
            # Files of which some are missing or damaged are of no use.
            self._remove_files()
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
        if not self.busy:
            self._keep_files()
        self.changed.emit()

    def _keep_files(self) -> None:
        """Have them for the next correction of this result, whoever makes it."""
        files, self._files = self._files, None
        if files is not None:
            self._kept.keep(files)

    def _remove_files(self) -> None:
        files, self._files = self._files, None
        if files is not None:
            files.remove()


def _lps(point: Point) -> tuple[float, float, float]:
    x, y, z = to_lps(point)
    return x, y, z
