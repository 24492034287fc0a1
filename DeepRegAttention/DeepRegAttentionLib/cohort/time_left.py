"""How long the rest of a cohort will take."""

from __future__ import annotations

import time
from typing import Callable, Optional


class TimeLeft:
    """How long the rest of a cohort will take, by the pace at which pairs are registered.

    Parameters
    ----------
    count : int
        Pairs in all.
    clock : callable, optional
        Gives the time in seconds.
    """

    def __init__(self, count: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.count, self._clock = count, clock
        self._ended = self._since = 0
        self._first: Optional[float] = None

    @property
    def fraction(self) -> float:
        """Of the pairs that have ended, 0 to 1."""
        return self._ended / self.count

    def after(self, kept: bool) -> Optional[float]:
        """Seconds that are left after one more pair has ended; None before the second that was registered.

        Until the first one, the workers start, which says nothing of the others.
        """
        self._ended += 1
        if kept:
            return None
        if self._first is None:
            self._first = self._clock()
            return None
        self._since += 1
        return round((self._clock() - self._first) / self._since * (self.count - self._ended), 1)
