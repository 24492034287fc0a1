"""The tabs Register, Inspect, Judge and Batch, and the sections of the first, which make room for each other."""

from __future__ import annotations

from typing import Any, Optional


class Tabs:
    """One way through: what is chosen, how the result looks, what it is worth; each is seen without scrolling."""

    def __init__(self, ui: Any) -> None:
        self._ui, self._title = ui, ui.tabs.tabText(0)
        self._sections = (ui.guidanceSection, ui.advancedSection, ui.outputsSection, ui.logSection)
        for section in self._sections:
            section.connect(
                "contentsCollapsed(bool)", lambda collapsed, section=section: self._make_room(section, collapsed)
            )

    def show_inspect(self) -> None:
        """Bring the tab Inspect to the front."""
        self._ui.tabs.setCurrentWidget(self._ui.inspectPage)

    def show_progress(self, fraction: Optional[float]) -> None:
        """Say on the first tab how much is done, for those who look at another one; None: nothing is under way."""
        done = "" if fraction is None else f" {100 * fraction:.0f} %"
        self._ui.tabs.setTabText(0, self._title + done)

    def _make_room(self, opened: Any, collapsed: bool) -> None:
        """Close the other sections when one is opened, and leave out what the model is about: there is no room."""
        for section in self._sections:
            if not collapsed and section is not opened:
                section.collapsed = True
        self._ui.modelText.visible = all(section.collapsed for section in self._sections)
