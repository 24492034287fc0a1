"""The section Judge: tables, plots, export."""

from __future__ import annotations

from typing import Any, Callable, Optional

import qt
import slicer
from slicer.i18n import tr as _

from ..engine.errors import RegistrationError
from ..scene import judge, results
from ..terms.choices import Choice
from ..terms.measures import summary_text, table_title
from . import choices
from .verdicts import show_verdict

_FEW, _HEAD_LINES = 4, 2
"""So many columns have a head of one line; more of them one of so many lines, and are as wide as that is high."""


class JudgeSection:
    """Shows how good a result is."""

    def __init__(self, ui: Any, fail: Callable[[str], None]) -> None:
        self._ui, self._fail = ui, fail
        self._result: Optional[results.Result] = None
        ui.tableSelector.connect("activated(int)", self._show_table)
        ui.histogramButton.connect("clicked()", lambda: self._show_plot("histogram"))
        ui.diceButton.connect("clicked()", lambda: self._show_plot("dice"))
        ui.exportButton.connect("clicked()", self._ask_for_path)
        # A table that is not seen has no width to fit into.
        ui.tabs.connect("currentChanged(int)", lambda index: qt.QTimer.singleShot(0, self._fit))
        table = ui.measuresTable
        table.verticalHeader().setVisible(False)
        table.horizontalHeader().setDefaultAlignment(qt.Qt.AlignCenter | qt.Qt.TextWordWrap)
        table.horizontalHeader().connect("sectionResized(int,int,int)", lambda *sizes: table.resizeRowsToContents())

    def show(self, result: Optional[results.Result]) -> None:
        """Show the measures of a result; None: there is none."""
        self._result, ui = result, self._ui
        tables = result.tables if result is not None else {}
        plots = result.plots if result is not None else {}
        choices.fill(ui.tableSelector, [Choice(name, table_title(name)) for name in tables])
        show_verdict(ui.judgeVerdict, result, reasons=True)
        ui.judgeText.text = summary_text(result.metrics) if result is not None else _("No result.")
        ui.tableSelector.visible = ui.measuresTable.visible = bool(tables)
        ui.exportButton.enabled = bool(tables)
        ui.histogramButton.enabled, ui.diceButton.enabled = "histogram" in plots, "dice" in plots
        self._show_table()

    def export(self, path: str) -> None:
        """Write the table that is shown."""
        try:
            judge.export_csv(self._table(), path)
        except RegistrationError as error:
            self._fail(str(error))

    def _table(self) -> Optional[slicer.vtkMRMLTableNode]:
        tables = self._result.tables if self._result is not None else {}
        return tables.get(choices.value_of(self._ui.tableSelector))

    def _show_table(self, index: int = 0) -> None:
        view, table = self._ui.measuresTable, self._table()
        view.setMRMLTableNode(table)
        if table is not None:
            view.setFirstRowLocked(True)
            self._fit()

    def _fit(self) -> None:
        # The application may have ended in between.
        if self._ui.measuresTable and self._table() is not None:
            _fit_columns(self._ui.measuresTable)

    def _show_plot(self, name: str) -> None:
        chart = self._result.plots.get(name) if self._result is not None else None
        if chart is not None:
            slicer.modules.plots.logic().ShowChartInLayout(chart)
            _smooth_once()

    def _ask_for_path(self) -> None:
        table = self._table()
        if table is None:
            return
        name = table.GetName() + ".csv"
        path = qt.QFileDialog.getSaveFileName(slicer.util.mainWindow(), _("Export the table"), name, "CSV (*.csv)")
        if path:
            self.export(path)


def _smooth_once() -> None:
    """Have the views of plots draw one sample a pixel: 3D Slicer has VTK smooth the picture anyway (FXAA).

    With many samples that fails where Mesa draws in software, as on virtual machines: the ground of the axes is black.
    """
    manager = slicer.app.layoutManager()
    for number in range(manager.plotViewCount):
        manager.plotWidget(number).plotView().scene().GetRenderer().GetRenderWindow().SetMultiSamples(0)


def _fit_columns(view: slicer.qMRMLTableView) -> None:
    """Names take what the values leave, in several lines if they must; so do the heads of many columns."""
    header, line = view.horizontalHeader(), view.verticalHeader().defaultSectionSize
    narrow = header.count() > _FEW
    header.setFixedHeight(_HEAD_LINES * line if narrow else line)
    header.setSectionResizeMode(qt.QHeaderView.Fixed if narrow else qt.QHeaderView.ResizeToContents)
    for column in range(1, header.count() if narrow else 0):
        header.resizeSection(column, _HEAD_LINES * line)
    header.setSectionResizeMode(0, qt.QHeaderView.Stretch)
    view.resizeRowsToContents()
