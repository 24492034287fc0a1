"""A cohort in the worker: the pairs of a source into a study, told pair by pair."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Callable

from ..cohort.time_left import TimeLeft
from ..jobs.messages import CohortJob, Event
from ..terms.cohorts import ALL_PAIRS, TO_ATLAS, WITHIN_SUBJECT
from .packages import load_package

if TYPE_CHECKING:
    from ..cohort.pairs import Pair
    from ..cohort.work import Outcome

# Dask's workers are in the middle of a registration when they are ended.
_TIDYING_S = 60.0


class CohortRun:
    """One cohort, from the moment it was asked for until it has ended.

    Parameters
    ----------
    job : CohortJob
        What was asked for.
    say : callable
        Sends an event.

    Attributes
    ----------
    cancelled : threading.Event
        Set by whoever wants the cohort to stop; what is complete stays.
    """

    def __init__(self, job: CohortJob, say: Callable[[Event], None]) -> None:
        self.job = job
        self.cancelled = threading.Event()
        self._ended = threading.Event()
        self._say = say

    def execute(self, seconds: dict[str, float]) -> Event:
        """Do what is missing of the study; `seconds` is for single registrations.

        Returns
        -------
        Event
            ``done``.

        Raises
        ------
        RegistrationError
            One of its kinds, also CancelledError and MissingPackageError (Dask).
        """
        try:
            return self._execute()
        finally:
            self._ended.set()

    def abandon(self) -> None:
        """Stop, and wait until nothing unfinished is left: the process ends."""
        self.cancelled.set()
        self._ended.wait(_TIDYING_S)

    def _execute(self) -> Event:
        load_package("distributed")
        from ..cohort.pairs import Settings
        from ..cohort.run import Cohort
        from ..engine.options import RegistrationOptions

        settings = Settings(RegistrationOptions.from_mapping(self.job.options))
        pairs = pairs_of(self.job)
        self._say(Event("progress", self.job.id, fraction=0.0, count=len(pairs)))
        left = TimeLeft(len(pairs))
        for outcome in Cohort(pairs, settings, Path(self.job.folder), stopped=self.cancelled.is_set):
            self._tell(outcome, left)
        return Event("done", self.job.id, folder=self.job.folder)

    def _tell(self, outcome: Outcome, left: TimeLeft) -> None:
        from ..cohort.ledger import ABOUT
        from ..cohort.run import row_of
        from ..cohort.work import KEPT

        row = row_of(outcome)
        eta_s = left.after(outcome.state == KEPT)
        pair = {column: str(row[column]) for column in ABOUT}
        fraction = round(left.fraction, 4)
        self._say(Event("pair", self.job.id, pair=pair, count=left.count, fraction=fraction, eta_s=eta_s))


def pairs_of(job: CohortJob) -> Sequence[Pair]:
    """The pairs of a job's source.

    Raises
    ------
    OptionError
        The table or the atlas is not valid, or there are no pairs.
    ImageError
        The source cannot be read.
    """
    from ..cohort.source import planned, says_pairs

    source, way = Path(job.source), job.pairing
    if says_pairs(source):
        way = ""
    atlas = job.atlas if way == TO_ATLAS else None
    labels = Path(job.atlas_labels) if atlas and job.atlas_labels else None
    return planned(source, job.images or None, atlas, (labels, None), way == WITHIN_SUBJECT, way == ALL_PAIRS, False)
