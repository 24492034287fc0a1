"""The way from one place that may be off to the next, the worst first."""

from __future__ import annotations

from typing import Any, Callable, Optional

import slicer
from slicer.i18n import tr as _

from ..scene import layouts, places
from ..scene.results import Result
from ..terms.verdict import Place
from .display import slice_nodes
from .verdicts import fixed_names


class PlacesSection:
    """Takes the views to the places of a result, one after the other; those side by side come near."""

    def __init__(self, ui: Any, put_beside: Callable[[], None]) -> None:
        """``put_beside`` brings the fixed and the warped volume side by side; :meth:`go_again` follows."""
        self._ui, self._put_beside = ui, put_beside
        self._result: Optional[Result] = None
        self._places: list[Place] = []
        self._number: Optional[int] = None
        ui.worstButton.connect("clicked()", self._show_worst)
        ui.previousPlaceButton.connect("clicked()", lambda: self._step(-1))
        ui.nextPlaceButton.connect("clicked()", lambda: self._step(1))

    def show(self, result: Optional[Result]) -> None:
        """Know the places of a result; None: there is none."""
        if result is None and self._number is not None:
            places.leave(slicer.mrmlScene)
        self._result, self._number = result, None
        self._places = places.places_of(result, fixed_names(result)) if result is not None else []
        self._say()

    def renew(self, result: Result) -> None:
        """Know the places of a result that has changed; the views stay where they are."""
        self._result, self._number = result, None
        self._places = places.places_of(result, fixed_names(result))
        self._say()

    def go(self, number: int = 0) -> None:
        """Go to a place, the worst one being 0, if there is any."""
        if self._places and self._result is not None:
            self._number = number % len(self._places)
            self.go_again()
        self._say()

    def go_again(self) -> None:
        """Go to the same place, in views that are new."""
        if self._number is None or self._result is None:
            return
        place = self._places[self._number]
        places.go_to(slice_nodes(), place, self._result)
        if self._ui.layoutButton.checked:
            beside = list(layouts.view_nodes(slicer.mrmlScene).values())
            places.go_to(beside, place, self._result, near=True)

    def _show_worst(self) -> None:
        self._put_beside()
        self.go(0)

    def _step(self, by: int) -> None:
        self.go(0 if self._number is None else self._number + by)

    def _say(self) -> None:
        ui = self._ui
        for button in (ui.worstButton, ui.previousPlaceButton, ui.nextPlaceButton):
            button.enabled = bool(self._places)
        ui.placeText.visible = self._number is not None
        if self._number is not None:
            place = self._places[self._number]
            said = ", ".join(part for part in (place.text, place.bounded) if part)
            ui.placeText.text = _("{number} of {count}: {place}").format(
                number=self._number + 1, count=len(self._places), place=said
            )
