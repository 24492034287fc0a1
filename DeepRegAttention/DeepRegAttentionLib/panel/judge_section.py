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


class JudgeSection:
    """Shows how good a result is."""

    def __init__(self, ui: Any, fail: Callable[[str], None]) -> None:
        self._ui, self._fail = ui, fail
        self._result: Optional[results.Result] = None
        ui.tableSelector.connect("activated(int)", self._show_table)
        ui.histogramButton.connect("clicked()", lambda: self._show_plot("histogram"))
        ui.diceButton.connect("clicked()", lambda: self._show_plot("dice"))
        ui.exportButton.connect("clicked()", self._ask_for_path)
        table = ui.measuresTable
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
            _fit_columns(view)

    def _show_plot(self, name: str) -> None:
        chart = self._result.plots.get(name) if self._result is not None else None
        if chart is not None:
            slicer.modules.plots.logic().ShowChartInLayout(chart)

    def _ask_for_path(self) -> None:
        table = self._table()
        if table is None:
            return
        name = table.GetName() + ".csv"
        path = qt.QFileDialog.getSaveFileName(slicer.util.mainWindow(), _("Export the table"), name, "CSV (*.csv)")
        if path:
            self.export(path)


def _fit_columns(view: slicer.qMRMLTableView) -> None:
    """Names take what the values leave, in several lines if they must."""
    header = view.horizontalHeader()
    header.setSectionResizeMode(qt.QHeaderView.ResizeToContents)
    header.setSectionResizeMode(0, qt.QHeaderView.Stretch)
    view.resizeRowsToContents()
