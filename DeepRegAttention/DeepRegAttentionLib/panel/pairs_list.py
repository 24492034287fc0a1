"""The list of the pairs of a study, the worst first."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import Any, Callable

import qt

from ..terms.cohorts import outcome_of, outcome_title, place_in_list
from ..terms.palettes import GRADE_COLOURS

Row = Mapping[str, str]


class PairsList:
    """A table of verdict and name, whose rows stay sorted while pairs end.

    Parameters
    ----------
    table : QTableWidget
        With two columns.
    chosen : callable
        Called with the row of a pair on which somebody double-clicked.
    """

    def __init__(self, table: Any, chosen: Callable[[Row], None]) -> None:
        self._table, self._chosen = table, chosen
        self._rows: dict[str, Row] = {}
        self._places: list[tuple[int, str]] = []
        table.verticalHeader().setVisible(False)
        table.horizontalHeader().setSectionResizeMode(0, qt.QHeaderView.ResizeToContents)
        table.horizontalHeader().setSectionResizeMode(1, qt.QHeaderView.Stretch)
        table.connect("cellDoubleClicked(int,int)", lambda number, column: self._choose(number))

    def fill(self, rows: Iterable[Row]) -> None:
        """Show these pairs alone."""
        self._table.setRowCount(0)
        self._rows, self._places = {}, []
        for row in sorted(rows, key=place_in_list):
            self.put(row)

    def put(self, row: Row) -> None:
        """Show a pair, in place of what was known of it."""
        before = self._rows.get(row["name"])
        if before is not None:
            number = bisect_left(self._places, place_in_list(before))
            del self._places[number]
            self._table.removeRow(number)
        self._rows[row["name"]] = row
        place = place_in_list(row)
        number = bisect_left(self._places, place)
        self._places.insert(number, place)
        self._table.insertRow(number)
        for column, text in enumerate((outcome_title(row), row["name"])):
            self._table.setItem(number, column, _item(text, row))

    def _choose(self, number: int) -> None:
        self._chosen(self._rows[self._places[number][1]])


def _item(text: str, row: Row) -> qt.QTableWidgetItem:
    item = qt.QTableWidgetItem(text)
    item.setToolTip(row.get("sentence", ""))
    colour = GRADE_COLOURS.get(outcome_of(row))
    if colour is not None:
        item.setForeground(qt.QBrush(qt.QColor(colour)))
    return item
