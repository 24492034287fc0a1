"""How good a registration is, as tables and plots of the scene."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from ..engine.errors import OutputError
from ..terms.measures import ABSENT, STRUCTURE_COLUMNS, columns, rows, structures, tables
from ..terms.palettes import PLAIN, rgb
from .nodes import add_node, voxels

Cell = Union[str, float]

_BINS = 60
_LIMIT = 3.0
_RARE_PERCENT = 0.01


def make_tables(
    scene: slicer.vtkMRMLScene,
    metrics: Mapping[str, Any],
    jacobian: Optional[slicer.vtkMRMLScalarVolumeNode] = None,
    label_names: Optional[Mapping[int, str]] = None,
    name: str = "Registration",
    known: Optional[Mapping[str, slicer.vtkMRMLTableNode]] = None,
) -> dict[str, slicer.vtkMRMLTableNode]:
    """Tables of what was measured; one that there is nothing for is left out.

    Parameters
    ----------
    scene : vtkMRMLScene
        Gets the tables.
    metrics : mapping
        Of ``metrics.json``.
    jacobian : vtkMRMLScalarVolumeNode, optional
        For its histogram.
    label_names : mapping of int to str, optional
        Names of the structures.
    name : str
        What the names of the tables begin with.
    known : mapping of str to vtkMRMLTableNode, optional
        Tables of an earlier call, which are filled anew.

    Returns
    -------
    dict
        ``"similarity"`` (measure, before, linear, after), ``"deformation"`` and ``"time"`` (measure, value): texts as
        people read them. ``"structures"`` (structure, Dice and HD95 before and after) and ``"histogram"`` (Jacobian,
        percent of voxels): numbers, to be drawn.
    """
    contents: dict[str, tuple[Sequence[str], list[list[Cell]]]] = {
        section: (columns(found), [[row.label, *row.texts] for row in found])
        for section, found in tables(rows(metrics)).items()
    }
    found = structures(metrics.get("labels"), label_names or {})
    contents["structures"] = (STRUCTURE_COLUMNS, [[structure.name, *structure.rounded] for structure in found])
    contents["histogram"] = (("Jacobian", "% of voxels"), _histogram_rows(jacobian))
    found_tables = {}
    for kind, (head, lines) in contents.items():
        if lines:
            node = (known or {}).get(kind) or add_node(scene, "vtkMRMLTableNode", f"{name} {kind} table")
            found_tables[kind] = _filled(node, head, lines)
    return found_tables


def _histogram_rows(jacobian: Optional[slicer.vtkMRMLScalarVolumeNode]) -> list[list[Cell]]:
    """Percent of the voxels whose Jacobian is near each value; beyond the ends, those at the ends and beyond."""
    if jacobian is None:
        return []
    values, width = voxels(jacobian), _LIMIT / _BINS
    counts, folds = np.zeros(_BINS + 1, int), 0
    # Slice by slice: what is in between fits into the cache.
    for part in values:
        # The middles are multiples of the width: 1 is one of them. Single bytes are counted fastest.
        numbers = np.clip(part * np.float32(1 / width) + np.float32(0.5), 1, _BINS).astype(np.uint8)
        counts += np.bincount(numbers.ravel(), minlength=_BINS + 1)
        folds += np.count_nonzero(part <= 0)
    # Folds, and only they, are counted at 0.
    counts[:2] += (folds, -folds)
    return [[n * width, 100.0 * count / values.size] for n, count in enumerate(counts.tolist())]


def _filled(
    node: slicer.vtkMRMLTableNode, head: Sequence[str], lines: Sequence[Sequence[Cell]]
) -> slicer.vtkMRMLTableNode:
    table = vtk.vtkTable()
    for index, title in enumerate(head):
        array = vtk.vtkStringArray() if isinstance(lines[0][index], str) else vtk.vtkDoubleArray()
        array.SetName(title)
        for line in lines:
            array.InsertNextValue(line[index])
        table.AddColumn(array)
    node.SetAndObserveTable(table)
    node.SetUseColumnTitleAsColumnHeader(True)
    node.SetLocked(True)
    return node


# Plots


def make_plots(
    tables: Mapping[str, slicer.vtkMRMLTableNode], name: str = "Registration"
) -> dict[str, slicer.vtkMRMLPlotChartNode]:
    """Charts of these tables: ``"histogram"`` of the Jacobian and ``"dice"`` of the structures."""
    plots = {}
    if "histogram" in tables:
        plots["histogram"] = _histogram_plot(tables["histogram"], name)
    if "structures" in tables:
        plots["dice"] = _dice_plot(tables["structures"], name)
    return plots


def _histogram_plot(table: slicer.vtkMRMLTableNode, name: str) -> slicer.vtkMRMLPlotChartNode:
    series = _series(table, "Jacobian", "Line", "Jacobian", "% of voxels", rgb(PLAIN))
    chart = _chart(table, f"{name} Jacobian histogram", [series])
    chart.SetTitle("Change of volume")
    chart.SetXAxisTitle("Jacobian (1: none; 0 and less: folded)")
    chart.SetYAxisTitle("% of voxels, logarithmic")
    chart.SetLegendVisibility(False)
    chart.SetXAxisRangeAuto(False)
    chart.SetXAxisRange(*_occurring(table))
    # Most voxels hardly change, such as those around a head; the few that do are what matters.
    chart.SetYAxisLogScale(True)
    chart.SetYAxisRangeAuto(False)
    chart.SetYAxisRange(_RARE_PERCENT, 100.0)
    return chart


def _occurring(table: slicer.vtkMRMLTableNode) -> tuple[float, float]:
    """From the least to the largest Jacobian that is not rare, rounded to quarters; the last row holds all beyond."""
    values, percent = (vtk_to_numpy(table.GetTable().GetColumn(n))[:-1] for n in range(2))
    often = values[percent >= _RARE_PERCENT]
    return math.floor(4 * often.min()) / 4, min(math.ceil(4 * often.max()) / 4, float(values.max()))


def _dice_plot(table: slicer.vtkMRMLTableNode, name: str) -> slicer.vtkMRMLPlotChartNode:
    before, after = [0.7, 0.7, 0.7], rgb(PLAIN)
    series = [
        _series(table, "before", "Bar", "Structure", "Dice before", before),
        _series(table, "after", "Bar", "Structure", "Dice after", after),
    ]
    chart = _chart(table, f"{name} Dice", series)
    # A legend would cover the last bars, which are the highest.
    chart.SetTitle("Overlap before (grey) and after (blue)")
    chart.SetLegendVisibility(False)
    chart.SetXAxisTitle("Structures as in their table, from 0: the worst first")
    chart.SetXAxisRangeAuto(False)
    chart.SetXAxisRange(-0.5, table.GetNumberOfRows() - 0.5)
    chart.SetYAxisTitle("Dice")
    chart.SetYAxisRangeAuto(False)
    chart.SetYAxisRange(0.0, 1.0)
    return chart


def _series(
    table: slicer.vtkMRMLTableNode, name: str, kind: str, x: str, y: str, colour: Sequence[float]
) -> slicer.vtkMRMLPlotSeriesNode:
    node = add_node(table.GetScene(), "vtkMRMLPlotSeriesNode", name)
    node.SetAndObserveTableNodeID(table.GetID())
    node.SetPlotType(getattr(node, f"PlotType{'Scatter' if kind == 'Line' else kind}"))
    if kind == "Bar":
        node.SetLabelColumnName(x)
    else:
        node.SetXColumnName(x)
    node.SetYColumnName(y)
    node.SetColor(*(float(channel) for channel in colour))
    node.SetMarkerStyle(node.MarkerStyleNone)
    node.SetLineWidth(3)
    return node


def _chart(
    table: slicer.vtkMRMLTableNode, name: str, series: Sequence[slicer.vtkMRMLPlotSeriesNode]
) -> slicer.vtkMRMLPlotChartNode:
    chart = add_node(table.GetScene(), "vtkMRMLPlotChartNode", name)
    for node in series:
        chart.AddAndObservePlotSeriesNodeID(node.GetID())
    return chart


def export_csv(table: slicer.vtkMRMLTableNode, path: Union[str, Path]) -> None:
    """Write a table as CSV with a header, UTF-8; what was not measured is empty.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    arrays = [table.GetTable().GetColumn(n) for n in range(table.GetNumberOfColumns())]
    lines = [[array.GetName() for array in arrays]]
    lines += [[_plain(array.GetValue(n)) for array in arrays] for n in range(table.GetNumberOfRows())]
    try:
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(lines)
    except OSError as error:
        raise OutputError(
            f"The table cannot be written to {path}: {(error.strerror or str(error)).lower()}."
        ) from error


def _plain(value: Cell) -> Cell:
    return "" if value == ABSENT or value != value else value
