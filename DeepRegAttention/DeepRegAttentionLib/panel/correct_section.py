"""The part of Inspect that corrects: two clicks say where something is seen and where it belongs."""

from __future__ import annotations

from typing import Any, Callable, Optional

import qt
import slicer
from slicer.i18n import tr as _

from ..jobs.messages import Event
from ..scene import correction_lines as lines
from ..scene.corrections import corrections_of
from ..scene.results import Result, inputs_of_result
from ..terms.corrections import correction_cells, correction_tip, placing_text
from ..terms.wording import progress_text
from .corrections import Corrections
from .placing import Placing
from .registration import Registrations

_SAME_MM = 0.01


class CorrectSection:
    """Places lines, lists them, takes them back, and has the result follow.

    Parameters
    ----------
    ui : object
        The widgets of the panel.
    registrations : Registrations
        Corrections take turns with them.
    renewed : callable
        Called with the result when its nodes have changed.
    """

    def __init__(self, ui: Any, registrations: Registrations, renewed: Callable[[Result], None]) -> None:
        self._ui, self._registrations, self._renewed = ui, registrations, renewed
        self._corrections: Optional[Corrections] = None
        self._watched: list[tuple[Any, int]] = []
        self._placing = Placing(self._placed, self._say_where)
        ui.correctButton.connect("clicked()", self._toggle)
        ui.takeBackButton.connect("clicked()", self._take_back)
        table = ui.correctionsTable
        table.verticalHeader().setVisible(False)
        table.horizontalHeader().setSectionResizeMode(qt.QHeaderView.Stretch)
        self.show(None)

    def show(self, result: Optional[Result]) -> None:
        """Correct this result from now on; None: there is none."""
        self._placing.give_up()
        self._watch([])
        if self._corrections is not None:
            self._corrections.drop()
            self._corrections = None
        nodes = inputs_of_result(result) if result is not None and result.transform is not None else {}
        if result is not None and {"fixed", "moving"} <= set(nodes):
            corrections = Corrections(result, nodes, self._registrations)
            corrections.changed.connect(self._enable)
            corrections.progressed.connect(self._heard)
            corrections.renewed.connect(self._on_renewed)
            corrections.failed.connect(self._on_failure)
            self._corrections = corrections
        self._say("")
        self._list()

    # What the person does

    def _toggle(self) -> None:
        """Begin to place a line, or give it up."""
        if self._placing.line is not None:
            self._placing.give_up()
        elif self._corrections is not None:
            self._corrections.prepare()
            self._placing.begin(lines.new_line(self._corrections.result))
        self._enable()

    def _say_where(self, placed: int) -> None:
        self._say(placing_text(placed))

    def _placed(self, line: Optional[slicer.vtkMRMLMarkupsLineNode]) -> None:
        """A line has both its ends; None: it was given up."""
        self._say("")
        if line is not None and self._corrections is not None:
            if lines.length_mm(line) < _SAME_MM:
                lines.remove_line(line)
            else:
                lines.complete(self._corrections.result, line)
                self._apply()
        self._enable()

    def _take_back(self) -> None:
        """Take the chosen correction back, or the last one."""
        if self._corrections is None:
            return
        placed = lines.lines_of(self._corrections.result)
        row = self._ui.correctionsTable.currentRow()
        if placed:
            lines.remove_line(placed[row if 0 <= row < len(placed) else -1])
            self._apply()

    def _apply(self) -> None:
        """Have the result follow the lines."""
        if self._corrections is not None:
            placed = lines.lines_of(self._corrections.result)
            self._say(_("Correcting …"))
            self._corrections.apply([lines.pair_of(line) for line in placed])
            self._watch(placed)

    def _watch(self, placed: list[Any]) -> None:
        """Hear of ends that are dragged."""
        for line, observation in self._watched:
            line.RemoveObserver(observation)
        event = slicer.vtkMRMLMarkupsNode.PointEndInteractionEvent
        self._watched = [(line, line.AddObserver(event, lambda *caller: self._apply())) for line in placed]

    # What came of it

    def _heard(self, event: Event) -> None:
        if event.event == "progress":
            self._say(progress_text(event.stage, event.fraction, event.eta_s))

    def _on_renewed(self) -> None:
        if self._corrections is not None:
            self._say("")
            self._list()
            self._renewed(self._corrections.result)

    def _on_failure(self, sentence: str) -> None:
        """The lines are those of the result again."""
        self._list()
        self._say(sentence)

    def _list(self) -> None:
        """The corrections of the result, unless newer ones are on their way."""
        table, corrections = self._ui.correctionsTable, self._corrections
        if corrections is None or not corrections.busy:
            table.setRowCount(0)
        if corrections is not None and not corrections.busy:
            lines.fit_lines(corrections.result, self._placing.line)
            placed = lines.lines_of(corrections.result)
            self._watch(placed)
            for line, found in zip(placed, corrections_of(corrections.result)):
                length = lines.length_mm(line)
                self._add_row(correction_cells(length, found.before_mm, found.after_mm), correction_tip(found.reach_mm))
        self._enable()

    def _add_row(self, cells: tuple[str, ...], tip: str) -> None:
        table = self._ui.correctionsTable
        number = table.rowCount
        table.insertRow(number)
        for column, text in enumerate(cells):
            item = qt.QTableWidgetItem(text)
            item.setTextAlignment(qt.Qt.AlignCenter)
            item.setToolTip(tip)
            table.setItem(number, column, item)

    def _enable(self) -> None:
        ui, corrections = self._ui, self._corrections
        placed = lines.lines_of(corrections.result) if corrections is not None else []
        ui.correctButton.enabled = corrections is not None
        ui.correctButton.checked = self._placing.line is not None
        ui.takeBackButton.enabled = bool(placed)
        ui.correctionsTable.visible = bool(placed)

    def _say(self, text: str) -> None:
        self._ui.correctionText.text = text
        self._ui.correctionText.visible = bool(text)
