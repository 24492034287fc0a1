"""Two clicks in the views for the two ends of a line."""

from __future__ import annotations

from typing import Any, Callable, Optional

import qt
import slicer

from ..scene.correction_lines import is_placed, remove_line


class Placing:
    """Has a person place one line at a time.

    Parameters
    ----------
    ended : callable
        Called with the line once both its ends are placed, with None when it was given up and removed.
    goes_on : callable
        Called with the number of ends that are placed, while some are missing.

    Attributes
    ----------
    line : vtkMRMLMarkupsLineNode, optional
        What is being placed.
    """

    def __init__(
        self, ended: Callable[[Optional[slicer.vtkMRMLMarkupsLineNode]], None], goes_on: Callable[[int], None]
    ) -> None:
        self.line: Optional[slicer.vtkMRMLMarkupsLineNode] = None
        self._ended, self._goes_on = ended, goes_on
        self._observations: list[tuple[Any, int]] = []

    def begin(self, line: slicer.vtkMRMLMarkupsLineNode) -> None:
        """Let the next two clicks in any view place the ends of a line."""
        self.line = line
        selection, interaction = _singleton("Selection"), _singleton("Interaction")
        placed, mode = slicer.vtkMRMLMarkupsNode.PointPositionDefinedEvent, interaction.InteractionModeChangedEvent
        selection.SetReferenceActivePlaceNodeClassName("vtkMRMLMarkupsLineNode")
        selection.SetActivePlaceNodeID(line.GetID())
        interaction.SetPlaceModePersistence(0)
        interaction.SetCurrentInteractionMode(interaction.Place)
        self._observations = [
            (line, line.AddObserver(placed, lambda *caller: self._on_click())),
            # What follows may remove the node that has just called.
            (interaction, interaction.AddObserver(mode, lambda *caller: qt.QTimer.singleShot(0, self._on_mode))),
        ]
        self._goes_on(0)

    def give_up(self) -> None:
        """Place it no more, and remove it."""
        line = self._end()
        if line is not None:
            remove_line(line)
            self._ended(None)

    def _on_click(self) -> None:
        if self.line is None:
            return
        if is_placed(self.line):
            qt.QTimer.singleShot(0, self._finish)
        else:
            self._goes_on(self.line.GetNumberOfDefinedControlPoints())

    def _finish(self) -> None:
        line = self._end()
        if line is not None:
            self._ended(line)

    def _on_mode(self) -> None:
        """Somebody pressed Esc, or chose another mode."""
        interaction = _singleton("Interaction")
        if self.line is not None and interaction.GetCurrentInteractionMode() != interaction.Place:
            self._finish() if is_placed(self.line) else self.give_up()

    def _end(self) -> Optional[slicer.vtkMRMLMarkupsLineNode]:
        line, self.line = self.line, None
        for node, observation in self._observations:
            node.RemoveObserver(observation)
        self._observations = []
        interaction = _singleton("Interaction")
        if line is not None and interaction.GetCurrentInteractionMode() == interaction.Place:
            interaction.SetCurrentInteractionMode(interaction.ViewTransform)
        there = line is not None and slicer.mrmlScene.IsNodePresent(line)
        return line if there else None


def _singleton(kind: str) -> Any:
    return slicer.mrmlScene.GetNodeByID(f"vtkMRML{kind}NodeSingleton")
