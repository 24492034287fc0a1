"""Combo boxes that show a translated text and hold a value that never changes."""

from __future__ import annotations

from collections.abc import Iterable

import qt

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
