"""The verdict beside a result, and the way from one of its worst places to the next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

from ..terms.verdict import Place, verdict_of, worst_places
from .page import Page

_NO_PLACE = -1


class WorstPlaces:
    """Shows the verdict on a result, and takes the views to where it may be off most.

    The fixed, moving and warped slices go through the place together, with the crosshair on it.
    """

    def __init__(self, page: Page) -> None:
        self._page = page
        self._places: list[Place] = []
        self.clear()
        page.server.trigger("place")(self.step)

    def clear(self) -> None:
        """Know of no result any more."""
        self._places = []
        self._page.set(verdict=None, places=[], place=_NO_PLACE)

    def show(self, metrics: Mapping[str, Any]) -> None:
        """Say the verdict on a result and go to its worst place, if it is known."""
        self.renew(metrics)
        self.step(1)

    def renew(self, metrics: Mapping[str, Any]) -> None:
        """Say the verdict on a result and know its places; the views stay where they are."""
        self._places = worst_places(metrics)
        self._page.set(
            verdict=_entry(metrics),
            places=[f"{place.text}, {place.bounded}." for place in self._places],
            place=_NO_PLACE,
        )

    def step(self, count: int) -> None:
        """Go on by so many places, from the last to the first and back."""
        if self._places:
            self.go((int(self._page.state.place) + int(count)) % len(self._places))

    def go(self, place: int) -> None:
        """Look at one of the places, the worst being 0."""
        left, posterior, superior = self._places[place].point_lps_mm
        self._page.set(place=place, crosshair=True)
        self._page.stage.look_at((-left, -posterior, superior))


def _entry(metrics: Mapping[str, Any]) -> Optional[dict[str, Any]]:
    judged = verdict_of(metrics)
    if judged is None:
        return None
    others = list(judged.reasons[1:])
    return {"title": judged.title, "colour": judged.colour, "sentence": judged.sentence, "others": others}
