"""Colours of maps, deformations and structures as nodes of a scene, made when first needed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Optional

import numpy as np
import slicer

from ..terms.maps import ColourScale
from ..terms.measures import structure_name
from ..terms.palettes import colours, label_colour
from .nodes import add_node

_BINS = 256
# The part of the colours next to that of no change, on each side, which is transparent.
_QUIET = 0.07
_KEY = "DeepRegAttention.Colours"


def map_colors(scene: slicer.vtkMRMLScene, palette: str) -> slicer.vtkMRMLColorTableNode:
    """A palette as a table that any range of values can be shown with.

    Parameters
    ----------
    scene : vtkMRMLScene
        Gets the node, unless it has it.
    palette : str
        One of ``palettes.PALETTES``.
    """
    where = np.linspace(0, 1, _BINS)
    return _table(scene, palette, f"Registration {palette}", colours(palette, where))


def jacobian_step(factor: float) -> float:
    """The step between the numbers of a Jacobian's legend."""
    return {3.0: 1.0, 4.0: 1.0, 8.0: 2.0}.get(factor, 0.5)


def jacobian_colors(
    scene: slicer.vtkMRMLScene, scale: ColourScale
) -> tuple[slicer.vtkMRMLColorTableNode, tuple[float, float]]:
    """Colours of the Jacobian as a table over its values, which are not even: what the scale says of each.

    Parameters
    ----------
    scene : vtkMRMLScene
        Gets the node, unless it has it.
    scale : ColourScale
        Of the Jacobian: logarithmic, and symmetric there.

    Returns
    -------
    vtkMRMLColorTableNode, (float, float)
        The table, and the range of values that it is made for: from one step of the legend below 0 (see
        :func:`jacobian_step`), so that the colour of folds has its place there.
    """
    high, step, parts = max(2.0, scale.high), jacobian_step(scale.high), _BINS - 1
    folds = math.ceil(parts * step / (step + high)) - 1
    # Views divide the range into 255 equal parts; 0 must be the last value of those that are folds.
    low = -folds * high / (parts - folds) * (1 - 1e-6)
    values = low + (np.arange(_BINS) + 0.5) * (high - low) / parts
    values[:folds], values[folds:] = 0.0, np.maximum(values[folds:], 1e-9)
    where = scale.places(values)
    # What hardly changes is left out, so that the anatomy is seen there; at least the part that holds 1.
    away = np.abs(where - 0.5)
    middle = int(np.argmin(away))
    quiet = away < max(_QUIET, where[middle + 1] - where[middle])
    key, name = f"jacobian {scale.high:g}", f"Registration Jacobian to {scale.high:g}"
    return _table(scene, key, name, scale.colours(values), quiet), (low, high)


def _table(
    scene: slicer.vtkMRMLScene, key: str, name: str, rgb: np.ndarray, clear: Optional[np.ndarray] = None
) -> slicer.vtkMRMLColorTableNode:
    """A table of colours ``(N, 3)``, those that are ``clear`` fully transparent."""
    node = _existing(scene, "vtkMRMLColorTableNode", key)
    if node is not None:
        return node
    node = _new(scene, "vtkMRMLColorTableNode", key, name)
    node.SetTypeToUser()
    unchanged = node.StartModify()
    node.SetNumberOfColors(len(rgb))
    alphas = np.ones(len(rgb)) if clear is None else np.where(clear, 0.0, 1.0)
    for index, (red, green, blue, alpha) in enumerate(np.column_stack([rgb, alphas]).tolist()):
        node.SetColor(index, str(index), red, green, blue, alpha)
    node.EndModify(unchanged)
    return node


def label_colors(
    scene: slicer.vtkMRMLScene, name: str, largest: int, names: Mapping[int, str]
) -> slicer.vtkMRMLColorTableNode:
    """Colours of structures 0 (transparent) to the largest, such that numbers next to each other differ much.

    Parameters
    ----------
    scene : vtkMRMLScene
        Gets the node.
    name : str
        Of the node.
    largest : int
        The last structure.
    names : mapping of int to str
        Of the structures; those without one are called by their number.
    """
    node = _new(scene, "vtkMRMLColorTableNode", f"labels {name}", name)
    node.SetTypeToUser()
    unchanged = node.StartModify()
    node.SetNumberOfColors(largest + 1)
    node.SetColor(0, "background", 0.0, 0.0, 0.0, 0.0)
    for number in range(1, largest + 1):
        node.SetColor(number, structure_name(number, names), *label_colour(number), 1.0)
    node.EndModify(unchanged)
    return node


def length_colors(scene: slicer.vtkMRMLScene, scale: ColourScale) -> slicer.vtkMRMLProceduralColorNode:
    """Colours of lengths in mm, for deformations and arrows."""
    key = f"length {scale.high:g}"
    node = _existing(scene, "vtkMRMLProceduralColorNode", key)
    if node is None:
        node = _new(scene, "vtkMRMLProceduralColorNode", key, f"Displacement to {scale.high:g} mm")
        lengths = np.linspace(scale.low, scale.high, 13)
        function = node.GetColorTransferFunction()
        for length, (red, green, blue) in zip(lengths.tolist(), scale.colours(lengths).tolist()):
            function.AddRGBPoint(length, red, green, blue)
    return node


def _existing(scene: slicer.vtkMRMLScene, kind: str, key: str) -> slicer.vtkMRMLColorNode:
    nodes = (scene.GetNthNodeByClass(n, kind) for n in range(scene.GetNumberOfNodesByClass(kind)))
    return next((node for node in nodes if node.GetAttribute(_KEY) == key), None)


def _new(scene: slicer.vtkMRMLScene, kind: str, key: str, name: str) -> slicer.vtkMRMLColorNode:
    node = add_node(scene, kind, name)
    node.SetAttribute(_KEY, key)
    node.SetAttribute("Category", "Registration")
    # Nodes that are hidden from editors are not saved with a scene.
    node.SetHideFromEditors(False)
    return node
