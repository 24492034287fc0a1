"""A cohort under way in a worker of its own, and what is known of its pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Optional

from ..terms.cohorts import cohort_progress_text, counts_text, outcome_of
from .client import Later, State, WorkerClient
from .messages import ENDINGS, CohortJob, Event
from .signals import Signal

PATIENCE_MS = 30_000
"""How long the worker of a cohort may take to stop: workers of its own end first, and what is unfinished is removed."""

Row = Mapping[str, str]


class Batch:
    """One cohort at a time; the worker ends with it, so that nothing of it is kept in memory.

    Parameters
    ----------
    client : WorkerClient
        With no other jobs, and the patience that a cohort needs.
    later : callable
        Calls a function later; see :data:`.client.Later`.

    Attributes
    ----------
    rows : dict of str to Row
        The pairs of which something is known, by name: their rows in the study's table.
    fraction : float, optional
        How much is done, 0 to 1; None while nothing is under way or nothing is known.
    changed : Signal
        Emitted whenever it starts, goes on, or ended.
    added : Signal
        Emitted with each row that is new.
    ended : Signal
        Emitted with how it ended, one of ``ENDINGS``.
    """

    def __init__(self, client: WorkerClient, later: Later) -> None:
        self.rows: dict[str, Row] = {}
        self.fraction: Optional[float] = None
        self.changed, self.added, self.ended = Signal(), Signal(), Signal()
        self._client, self._later = client, later
        self._count, self._ended = 0, 0
        self._eta_s: Optional[float] = None
        client.changed.connect(self.changed.emit)

    @property
    def running(self) -> bool:
        """Whether a cohort is under way."""
        return self._client.busy

    @property
    def stopping(self) -> bool:
        """Whether it is about to stop."""
        return self._client.state is State.CANCELLING

    @property
    def text(self) -> str:
        """How far it is, and the time left; empty while that is not known."""
        return cohort_progress_text(self._ended, self._count, self._eta_s) if self._count else ""

    @property
    def counts(self) -> str:
        """How many of the pairs went how."""
        return counts_text(Counter(map(outcome_of, self.rows.values())))

    def know(self, rows: Iterable[Row]) -> None:
        """What is known of the pairs of a study, in place of all that was."""
        self.rows = {row["name"]: row for row in rows}

    def start(self, job: CohortJob) -> None:
        """Begin, or go on with, a study; BusyError while one is under way."""
        self._client.submit(job, self._heard)
        self.fraction = self._eta_s = None
        self._count = self._ended = 0
        self.changed.emit()

    def stop(self) -> None:
        """Stop; what is complete stays."""
        self._client.cancel()

    def end(self) -> None:
        """Stop, and wait until nothing unfinished is left."""
        self._client.shutdown()

    def _heard(self, event: Event) -> None:
        if event.count is not None:
            self._count = event.count
        if event.event in ("progress", "pair"):
            self.fraction, self._eta_s = event.fraction, event.eta_s
            if event.pair is not None:
                self._ended += 1
                self.rows[event.pair["name"]] = event.pair
                self.added.emit(event.pair)
        elif event.event in ENDINGS:
            self.fraction = None
            self._later(0, self._release)
            self.ended.emit(event)
        self.changed.emit()

    def _release(self) -> None:
        if not self.running:
            self._client.shutdown()
