"""How much of a job is done, and how long the rest will take."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Callable, NamedTuple, Optional

SECONDS: Mapping[str, float] = {
    "read": 0.3,
    "prealign": 2.5,
    "network": 4.0,
    "refine": 2.0,
    "warp": 0.3,
    "trust": 0.4,
    "maps": 0.7,
    "measure": 4.0,
    "write": 0.5,
}
"""What each stage took for a pair of brains on two cores (``refine``: one step): only their proportions matter."""

CORRECTION_SECONDS: Mapping[str, float] = {"read": 0.3, "correct": 1.2, "measure": 2.0, "write": 0.4}
"""The same of a correction."""

# So many seconds count as measured at the expected pace: the first quick stages alone say little of the others.
_INERTIA_S = 0.5


class Estimate(NamedTuple):
    """How far a job is."""

    fraction: float
    """Of the whole job, 0 to 1; never falls."""
    eta_s: Optional[float]
    """Seconds that are left; None as long as nothing is known of this computer and this pair."""


class Pace:
    """Estimates one job's progress from the stages that it passes.

    Parameters
    ----------
    expected : mapping of str to float
        Seconds of each stage of the job, in their order, as typical or as an earlier job took them.
    clock : callable, optional
        Gives the time in seconds.

    Attributes
    ----------
    seconds : dict of str to float
        Measured, of each stage that is over.
    """

    def __init__(self, expected: Mapping[str, float], clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds: dict[str, float] = {}
        self._expected = dict(expected)
        self._clock = clock
        self._start = self._began = clock()
        self._stage = next(iter(self._expected))
        self._fraction = 0.0

    def at(self, stage: str, fraction: float) -> Estimate:
        """The progress of the whole, where one stage is done to a fraction."""
        now = self._clock()
        if stage != self._stage:
            self.seconds[self._stage] = now - self._began
            self._stage, self._began = stage, now
        rest = self._rest(fraction, now - self._began)
        elapsed = now - self._start
        self._fraction = max(self._fraction, elapsed / (elapsed + rest) if rest else 1.0)
        return Estimate(self._fraction, rest if self.seconds else None)

    def _rest(self, fraction: float, spent: float) -> float:
        """Seconds to the end: of this stage by its own pace, the more of it is done, of the others by theirs."""
        scale = (sum(self.seconds.values()) + _INERTIA_S) / (
            sum(self._expected.get(stage, 0.0) for stage in self.seconds) + _INERTIA_S
        )
        here = (1 - fraction) * (spent + (1 - fraction) * self._expected.get(self._stage, 0.0) * scale)
        names = list(self._expected)
        after = names[names.index(self._stage) + 1 :] if self._stage in names else []
        return here + scale * sum(self._expected[name] for name in after)
