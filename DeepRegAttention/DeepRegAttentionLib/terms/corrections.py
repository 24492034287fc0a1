"""Corrections in words: what is asked of a person, and what a correction did."""

from __future__ import annotations

from .translation import translator

_ = translator(__name__)


def placing_text(placed: int) -> str:
    """What to click next, given how many of the two ends of a correction are placed."""
    if placed == 0:
        return _("Click where you see it in the warped volume (Esc gives up).")
    return _("Now click where it belongs, in the fixed volume.")


def correction_cells(length_mm: float, before_mm: float, after_mm: float) -> tuple[str, ...]:
    """A row of the list: how long the line is, and how far its landmark was off before and is after, in mm."""
    return tuple(f"{value:.1f}" for value in (length_mm, before_mm, after_mm))


def correction_tip(reach_mm: float) -> str:
    """What else a correction says."""
    return _("Felt up to {reach} mm around. Drag the end of its line to change it.").format(reach=f"{reach_mm:.0f}")
