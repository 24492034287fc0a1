"""Combo boxes that show a translated text and hold a value that never changes."""

from __future__ import annotations

from collections.abc import Iterable

import qt
from slicer.i18n import tr as _

from ..terms.choices import Choice


def fill(combo: qt.QComboBox, choices: Iterable[Choice]) -> None:
    """Replace the entries, keeping the chosen one if it is still there; nobody is told."""
    chosen, was = value_of(combo), combo.blockSignals(True)
    combo.clear()
    for index, choice in enumerate(choices):
        combo.addItem(choice.text, choice.value)
        combo.setItemData(index, choice.tip, qt.Qt.ToolTipRole)
    select(combo, chosen)
    combo.blockSignals(was)


def value_of(combo: qt.QComboBox) -> str:
    """The value of the entry that is chosen; empty if there is none."""
    return combo.itemData(combo.currentIndex) or ""


def select(combo: qt.QComboBox, value: str) -> None:
    """Choose the entry of a value; the first one if there is no such entry."""
    index = combo.findData(value)
    combo.setCurrentIndex(max(index, 0))
    combo.toolTip = combo.itemData(combo.currentIndex, qt.Qt.ToolTipRole) or combo.toolTip


def comparison_choices() -> list[Choice]:
    """How fixed and warped are compared."""
    return [
        Choice("blend", _("Blend"), _("Warped over fixed; the amount is its opacity.")),
        Choice("swipe", _("Swipe"), _("Fixed on one side, warped on the other; the amount is where they meet.")),
        Choice("checkerboard", _("Checkerboard"), _("Both in turn; the amount is how many tiles.")),
        Choice("none", _("None"), _("The fixed volume alone.")),
    ]


def deformation_choices() -> list[Choice]:
    """How the deformation is drawn."""
    motion = _("The motion from the moving to the fixed volume, after the linear alignment.")
    drawn = {
        "grid": (_("Grid"), _("A regular grid on the aligned moving volume, taken along.")),
        "arrows": (_("Arrows"), _("From where a place was to where it went.")),
        "contours": (_("Contours"), _("Lines of equal displacement, in mm.")),
    }
    return [
        Choice("none", _("None"), _("No drawing.")),
        *(Choice(style, text, f"{motion} {tip}") for style, (text, tip) in drawn.items()),
        Choice("force", _("Driving force as arrows"), _("What pulled the moving volume, before it was smoothed.")),
    ]
