"""Work in steps, with room for the page in between."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Callable, TypeVar

_Value = TypeVar("_Value")


async def in_steps(steps: Generator[str, None, _Value], say: Callable[[str], None]) -> _Value:
    """Run the steps of a generator, telling what comes next; its return value."""
    while True:
        try:
            say(next(steps))
        except StopIteration as end:
            value: _Value = end.value
            return value
        await asyncio.sleep(0)
