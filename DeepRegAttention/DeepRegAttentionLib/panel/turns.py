"""Work that takes long, a step each time that the event loop comes by, so that the window answers in between."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Callable

import qt


def in_turns(steps: Generator[Any, None, Any], goes_on: Callable[[], bool], then: Callable[[], None]) -> None:
    """Take the steps, as long as they are wanted; ``then`` is called after the last one."""

    def turn() -> None:
        if not goes_on():
            steps.close()
            return
        try:
            next(steps)
        except StopIteration:
            then()
        else:
            qt.QTimer.singleShot(0, turn)

    qt.QTimer.singleShot(0, turn)
