"""Seconds per stage, and word of the progress to whoever waits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Callable, Optional

Progress = Callable[[str, float], None]
"""Called with a stage (prealign, network, refine, warp, trust, maps; one that is not needed is left out) and the
fraction of it that is done; what it raises stops the registration."""

Report = Callable[[float], None]
"""Called with the fraction done of one stage or one part of it; what it raises stops the work."""


@dataclass
class Clock:
    """Measures the stages of one registration.

    Attributes
    ----------
    progress : callable, optional
        Told at the start, during and at the end of each stage.
    seconds : dict of str to float
        Of each finished stage, all its turns together.
    """

    progress: Optional[Progress] = None
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[Report]:
        """Measure one stage; yields a function that takes the fraction done."""
        start = time.perf_counter()
        self._report(name, 0.0)
        yield lambda fraction: self._report(name, fraction)
        # Again for each network that is tried.
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        self._report(name, 1.0)

    def _report(self, name: str, fraction: float) -> None:
        if self.progress is not None:
            self.progress(name, fraction)


def share(report: Report, start: float, end: float) -> Report:
    """The report for a part of a stage, which takes it from one fraction to another."""
    return lambda fraction: report(start + fraction * (end - start))
