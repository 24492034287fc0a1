"""The corrections of a result as lines in the views: from where something was seen to where it belongs.

A line is a node of the scene, so it is saved with it, found again, and can be dragged; it keeps where its anatomy lies
in the moving volume, which no later correction changes.
"""

from __future__ import annotations

import json
from typing import Optional

import numpy as np
import slicer

from ..engine.result import UNCORRECTED
from .corrections import PlacedCorrection, corrections_of, moving_point
from .nodes import add_node, put_into_folder, remove_node
from .results import Result

_ROLE = "correction_line_"
_MOVING = "DeepRegAttention.MovingPoint"
_SAME_MM = 1e-3
_COLOUR, _GLYPH_PERCENT = (1.0, 0.85, 0.1), 2.0

Pair = tuple[tuple[float, ...], tuple[float, ...]]


def lines_of(result: Result) -> list[slicer.vtkMRMLMarkupsLineNode]:
    """The complete lines of a result, the oldest first."""
    return [line for line in _filed(result) if line.GetAttribute(_MOVING)]


def new_line(result: Result) -> slicer.vtkMRMLMarkupsLineNode:
    """A line without points, to be placed by a person; :func:`complete` makes a correction of it."""
    line = add_node(result.scene, "vtkMRMLMarkupsLineNode", "Correction")
    line.CreateDefaultDisplayNodes()
    display = line.GetDisplayNode()
    for colour in (display.SetColor, display.SetSelectedColor):
        colour(*_COLOUR)
    display.SetGlyphScale(_GLYPH_PERCENT)
    display.SetPropertiesLabelVisibility(False)
    display.SetPointLabelsVisibility(False)
    numbers = [int(role[len(_ROLE) :]) for role in _roles(result)]
    result.node.SetNodeReferenceID(f"{_ROLE}{max(numbers, default=0) + 1}", line.GetID())
    put_into_folder(result.folder, line)
    return line


def is_placed(line: slicer.vtkMRMLMarkupsLineNode) -> bool:
    """Whether both ends are where somebody put them."""
    return bool(line.GetNumberOfDefinedControlPoints() == 2)


def complete(result: Result, line: slicer.vtkMRMLMarkupsLineNode) -> None:
    """Note where what is at the start of a line lies in the moving volume; from now on its end alone can be dragged."""
    _complete(line, moving_point(result, _end(line, 0)))


def pair_of(line: slicer.vtkMRMLMarkupsLineNode) -> Pair:
    """The correction that a line stands for: the point of the fixed volume and that of the moving one, RAS mm."""
    return tuple(_end(line, 1).tolist()), tuple(json.loads(line.GetAttribute(_MOVING)))


def length_mm(line: slicer.vtkMRMLMarkupsLineNode) -> float:
    """From where something was seen to where it belongs."""
    return float(np.linalg.norm(_end(line, 1) - _end(line, 0)))


def remove_line(line: slicer.vtkMRMLMarkupsLineNode) -> None:
    """Take a line out of its scene."""
    remove_node(line.GetScene(), line)


def fit_lines(result: Result, but: Optional[slicer.vtkMRMLMarkupsLineNode] = None) -> None:
    """Have the lines stand for the corrections of the result: others go, missing ones come, dragged ones go back.

    The line `but` is left alone: it is being placed.
    """
    missing = list(corrections_of(result))
    for line in _filed(result):
        if line is but:
            continue
        own = _take(missing, line)
        if own is None:
            remove_line(line)
        else:
            line.SetNthControlPointPositionWorld(1, *own.fixed)
    for placed in missing:
        line = new_line(result)
        for point in (_seen_at(result, placed.moving), placed.fixed):
            line.AddControlPointWorld(*point)
        _complete(line, placed.moving)


def _take(corrections: list[PlacedCorrection], line: slicer.vtkMRMLMarkupsLineNode) -> Optional[PlacedCorrection]:
    """The correction that a line stands for, out of a list."""
    if not line.GetAttribute(_MOVING):
        return None
    moving = np.asarray(pair_of(line)[1])
    for number, placed in enumerate(corrections):
        if np.linalg.norm(moving - placed.moving) < _SAME_MM:
            return corrections.pop(number)
    return None


def _complete(line: slicer.vtkMRMLMarkupsLineNode, moving: np.ndarray) -> None:
    line.SetAttribute(_MOVING, json.dumps(moving.tolist()))
    line.SetNthControlPointLocked(0, True)


def _seen_at(result: Result, moving: np.ndarray) -> np.ndarray:
    """Where a point of the moving volume was seen before any correction."""
    found = result.extra(UNCORRECTED)
    return moving if found is None else np.array(found.GetTransformToParent().TransformPoint(moving.tolist()))


def _filed(result: Result) -> list[slicer.vtkMRMLMarkupsLineNode]:
    roles = sorted(_roles(result), key=lambda role: int(role[len(_ROLE) :]))
    return [node for node in map(result.node.GetNodeReference, roles) if node is not None]


def _roles(result: Result) -> list[str]:
    roles: list[str] = []
    result.node.GetNodeReferenceRoles(roles)
    return [role for role in roles if role.startswith(_ROLE)]


def _end(line: slicer.vtkMRMLMarkupsLineNode, number: int) -> np.ndarray:
    return np.array(line.GetNthControlPointPositionWorld(number))
