"""The tabs Register, Inspect, Judge and Batch, and the sections of the first, which make room for each other."""

from __future__ import annotations

from typing import Any, Optional

import qt


class Tabs:
    """One way through: what is chosen, how the result looks, what it is worth; each is seen without scrolling."""

    def __init__(self, ui: Any) -> None:
        self._ui, self._title = ui, ui.tabs.tabText(0)
        self._sections = (ui.guidanceSection, ui.advancedSection, ui.outputsSection, ui.logSection)
        for section in self._sections:
            section.connect(
                "contentsCollapsed(bool)", lambda collapsed, section=section: self._make_room(section, collapsed)
            )
        ui.tabs.connect("currentChanged(int)", self._give_room)
        self._give_room(ui.tabs.currentIndex)

    def show_inspect(self) -> None:
        """Bring the tab Inspect to the front."""
        self._leave_out()
        self._ui.tabs.setCurrentWidget(self._ui.inspectPage)

    def show_progress(self, fraction: Optional[float]) -> None:
        """Say on the first tab how much is done, for those who look at another one; None: nothing is under way."""
        done = "" if fraction is None else f" {100 * fraction:.0f} %"
        self._ui.tabs.setTabText(0, self._title + done)

    def _make_room(self, opened: Any, collapsed: bool) -> None:
        """Close the other sections when one is opened, and leave out what can be done without: there is no room."""
        for section in self._sections:
            if not collapsed and section is not opened:
                section.collapsed = True
        self._leave_out()

    def _leave_out(self) -> None:
        """What is said of the model, and of the result on its own tab, only while no section is open."""
        ui, closed = self._ui, all(section.collapsed for section in self._sections)
        ui.modelText.visible = ui.sampleButton.visible = closed
        ui.verdictText.visible = closed and bool(ui.verdictText.text)

    def _give_room(self, current: int) -> None:
        """Have the tab that is seen alone say how high it must be, and not the highest of them."""
        for number in range(self._ui.tabs.count):
            height = qt.QSizePolicy.Preferred if number == current else qt.QSizePolicy.Ignored
            self._ui.tabs.widget(number).setSizePolicy(qt.QSizePolicy.Preferred, height)
