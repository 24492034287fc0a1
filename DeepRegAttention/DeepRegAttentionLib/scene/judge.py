"""How good a registration is, as tables and plots of the scene."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from ..engine.errors import OutputError
from .colors import colours
from .nodes import add_node, voxels

Cell = Union[str, float]

_STAGES = ("before", "linear", "after")
_SIMILARITIES = (
    ("ncc", "Cross-correlation (NCC), more is better"),
    ("ssim", "Structural similarity (SSIM), more is better"),
    ("nmi", "Mutual information (NMI), more is better"),
    ("mse", "Mean squared difference (MSE), less is better"),
)
_OVERLAPS = (
    ("mean_dice", "Structures, mean Dice, more is better"),
    ("mean_hd95_mm", "Structures, mean HD95 (mm), less is better"),
)
_JACOBIAN = (
    ("mean", "Jacobian, mean"),
    ("std", "Jacobian, standard deviation"),
    ("min", "Jacobian, least"),
    ("p01", "Jacobian, 1st percentile"),
    ("p99", "Jacobian, 99th percentile"),
    ("max", "Jacobian, largest"),
    ("sd_log", "Jacobian, standard deviation of the logarithm"),
    ("fold_percent", "Folds (% of voxels)"),
    ("fold_volume_cm3", "Folds (cm³)"),
)
_BINS = 60
_LIMIT = 3.0
_RARE_PERCENT = 0.01


def make_tables(
    scene: slicer.vtkMRMLScene,
    metrics: Mapping[str, Any],
    jacobian: Optional[slicer.vtkMRMLScalarVolumeNode] = None,
    label_names: Optional[Mapping[int, str]] = None,
    name: str = "Registration",
) -> Dict[str, slicer.vtkMRMLTableNode]:
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

    Returns
    -------
    dict
        ``"similarity"`` (measure, before, linear, after), ``"deformation"`` (measure, value),
        ``"structures"`` (structure, Dice and HD95 before and after), ``"histogram"`` (Jacobian, percent of voxels).
    """
    contents: Dict[str, Tuple[Sequence[str], List[List[Cell]]]] = {
        "similarity": (("Measure", "Before", "Linear", "After"), _similarity_rows(metrics)),
        "deformation": (("Measure", "Value"), _deformation_rows(metrics)),
        "structures": (_STRUCTURE_COLUMNS, _structure_rows(metrics.get("labels"), label_names or {})),
        "histogram": (("Jacobian", "% of voxels"), _histogram_rows(jacobian)),
    }
    return {
        kind: _table(scene, f"{name} {kind} table", columns, rows) for kind, (columns, rows) in contents.items() if rows
    }


_STRUCTURE_COLUMNS = ("Structure", "Dice before", "Dice after", "HD95 before (mm)", "HD95 after (mm)")


def _similarity_rows(metrics: Mapping[str, Any]) -> List[List[Cell]]:
    similarity, labels = metrics.get("similarity") or {}, metrics.get("labels") or {}
    rows: List[List[Cell]] = []
    for source, measures in ((similarity, _SIMILARITIES), (labels, _OVERLAPS)):
        if source:
            rows += [
                [title, *(_number((source.get(stage) or {}).get(key)) for stage in _STAGES)] for key, title in measures
            ]
    landmarks = metrics.get("landmarks")
    if landmarks:
        for word in ("mean", "median", "max"):
            before, after = (_number(landmarks[stage].get(word)) for stage in ("before_mm", "after_mm"))
            rows.append([f"Landmarks, {word} distance (mm), less is better", before, math.nan, after])
    return rows


def _deformation_rows(metrics: Mapping[str, Any]) -> List[List[Cell]]:
    jacobian, consistency = metrics.get("jacobian") or {}, metrics.get("inverse_consistency_mm") or {}
    force, seconds = metrics.get("driving_force") or {}, metrics.get("seconds") or {}
    rows: List[List[Cell]] = [[title, _number(jacobian[key])] for key, title in _JACOBIAN if key in jacobian]
    rows += [[f"There and back, {word} error (mm)", _number(value)] for word, value in consistency.items()]
    rows += [[f"Driving force and motion, {word}", _number(value)] for word, value in force.items()]
    rows += [[f"Seconds, {stage}", _number(value)] for stage, value in seconds.items()]
    return rows


def _structure_rows(labels: Optional[Mapping[str, Any]], names: Mapping[int, str]) -> List[List[Cell]]:
    """Every structure, the worst overlap first."""
    if not labels:
        return []
    columns = [
        {int(number): _number(value) for number, value in labels[stage][key].items()}
        for key in ("dice", "hd95_mm")
        for stage in ("before", "after")
    ]
    after = columns[1]
    order = sorted(after, key=lambda n: (after[n] if math.isfinite(after[n]) else -1.0, n))
    return [[names.get(n, f"Structure {n}"), *(column.get(n, math.nan) for column in columns)] for n in order]


def _histogram_rows(jacobian: Optional[slicer.vtkMRMLScalarVolumeNode]) -> List[List[Cell]]:
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


def _number(value: Any) -> float:
    """NaN for what could not be measured, which a file of metrics has as null."""
    return math.nan if value is None else float(value)


def _table(
    scene: slicer.vtkMRMLScene, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]
) -> slicer.vtkMRMLTableNode:
    node = add_node(scene, "vtkMRMLTableNode", name)
    table = vtk.vtkTable()
    for index, title in enumerate(columns):
        array = vtk.vtkStringArray() if isinstance(rows[0][index], str) else vtk.vtkDoubleArray()
        array.SetName(title)
        for row in rows:
            array.InsertNextValue(row[index])
        table.AddColumn(array)
    node.SetAndObserveTable(table)
    node.SetUseColumnTitleAsColumnHeader(True)
    node.SetLocked(True)
    return node


# Plots


def make_plots(
    tables: Mapping[str, slicer.vtkMRMLTableNode], name: str = "Registration"
) -> Dict[str, slicer.vtkMRMLPlotChartNode]:
    """Charts of these tables: ``"histogram"`` of the Jacobian and ``"dice"`` of the structures."""
    plots = {}
    if "histogram" in tables:
        plots["histogram"] = _histogram_plot(tables["histogram"], name)
    if "structures" in tables:
        plots["dice"] = _dice_plot(tables["structures"], name)
    return plots


def _histogram_plot(table: slicer.vtkMRMLTableNode, name: str) -> slicer.vtkMRMLPlotChartNode:
    series = _series(table, "Jacobian", "Line", "Jacobian", "% of voxels", colours("jacobian", [0.15])[0])
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


def _occurring(table: slicer.vtkMRMLTableNode) -> Tuple[float, float]:
    """From the least to the largest Jacobian that is not rare, rounded to quarters; the last row holds all beyond."""
    values, percent = (vtk_to_numpy(table.GetTable().GetColumn(n))[:-1] for n in range(2))
    often = values[percent >= _RARE_PERCENT]
    return math.floor(4 * often.min()) / 4, min(math.ceil(4 * often.max()) / 4, float(values.max()))


def _dice_plot(table: slicer.vtkMRMLTableNode, name: str) -> slicer.vtkMRMLPlotChartNode:
    before, after = colours("jacobian", [0.5, 0.15]) * [[0.7], [1.0]]
    series = [
        _series(table, "before", "Bar", "", "Dice before", before),
        _series(table, "after", "Bar", "", "Dice after", after),
    ]
    chart = _chart(table, f"{name} Dice", series)
    chart.SetTitle("Overlap of each structure")
    chart.SetXAxisTitle("Row of the table of structures: the worst first")
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
    if x:
        node.SetXColumnName(x)
    elif "Structure" in _STRUCTURE_COLUMNS:
        node.SetLabelColumnName("Structure")
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
    """Write a table as CSV with a header, UTF-8.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    columns = [table.GetTable().GetColumn(n) for n in range(table.GetNumberOfColumns())]
    rows = [[column.GetName() for column in columns]]
    rows += [[column.GetValue(n) for column in columns] for n in range(table.GetNumberOfRows())]
    try:
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
    except OSError as error:
        raise OutputError(
            f"The table cannot be written to {path}: {(error.strerror or str(error)).lower()}."
        ) from error
