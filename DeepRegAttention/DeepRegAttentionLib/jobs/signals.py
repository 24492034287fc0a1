"""A signal in plain Python: Qt's own cannot be declared from Python inside 3D Slicer."""

from __future__ import annotations

from typing import Any, Callable


class Signal:
    """Calls everyone who connected, in the order of their connection."""

    def __init__(self) -> None:
        self._slots: list[Callable[..., None]] = []

    def connect(self, slot: Callable[..., None]) -> None:
        """Have a function called from now on; connecting it again changes nothing."""
        if slot not in self._slots:
            self._slots.append(slot)

    def disconnect(self, slot: Callable[..., None]) -> None:
        """Have a function called no longer."""
        if slot in self._slots:
            self._slots.remove(slot)

    def emit(self, *arguments: Any) -> None:
        """Call them; one that disconnects meanwhile is not called any more."""
        for slot in list(self._slots):
            if slot in self._slots:
                slot(*arguments)
