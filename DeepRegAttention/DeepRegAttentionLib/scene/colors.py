"""Colours of maps and deformations, the same as in the report: made as nodes of a scene when first needed."""

from __future__ import annotations

import math
from colorsys import hsv_to_rgb
from typing import Dict, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np
import slicer

from .nodes import add_node

FOLD = "#ffd500"
"""Colour of voxels whose Jacobian is 0 or less."""

_BINS = 256
_GOLDEN = (math.sqrt(5) - 1) / 2
# The part of the colours next to that of no change, on each side, which is transparent.
_QUIET = 0.07
_KEY = "DeepRegAttention.Colours"
# Evenly spaced; the perceptual ones are matplotlib's.
_STOPS: Dict[str, str] = {
    "inferno": "000004 0b0724 210c4a 3d0965 57106e 71196e 8a226a a32c61 bc3754 d24644 e45a31 f1731d f98e09 fcac11 "
    "f9cb35 f2ea69 fcffa4",
    "magma": "000004 0a0822 1d1147 36106b 51127c 6a1c81 832681 9c2e7f b73779 d0416f e75263 f56b5c fc8961 fea772 "
    "fec488 fde2a3 fcfdbf",
    "viridis": "440154 48186a 472d7b 424086 3b528b 33638d 2c728e 26828e 21918c 1fa088 28ae80 3fbc73 5ec962 84d44b "
    "addc30 d8e219 fde725",
    "cividis": "00224e 002e6a 1a386f 32436d 434e6c 535a6d 61656f 6f7073 7d7c78 8c8878 9b9476 aba072 bcae6c cdbb63 "
    "dec958 f0d846 fee838",
    "jacobian": "053061 2065ab 4393c3 90c4dd d1e5f0 f7f6f6 fddbc7 f3a481 d6604d b1182b 67001f",
    # Black where both images agree, so that what glows is what does not match.
    "difference": "9fe0ff 2f86c8 0b1f33 000000 33150a cf5a22 ffd0a0",
    # Pale where little moves, so that quiet lines are as easy to see as others.
    "length": "8fd3ff fff3a8 ffb03a ff4747",
}
_FACTORS = (1.25, 1.5, 2.0, 3.0, 4.0, 8.0)


def colours(name: str, where: Union[Sequence[float], np.ndarray]) -> np.ndarray:
    """The colours ``(N, 3)``, 0 to 1, of a named colour map at places from 0 to 1."""
    stops = np.array([_rgb(code) for code in _STOPS[name].split()])
    places = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(where, places, stops[:, channel]) for channel in range(3)], axis=1)


def _rgb(code: str) -> List[float]:
    return [int(code.lstrip("#")[n : n + 2], 16) / 255 for n in (0, 2, 4)]


def map_colors(scene: slicer.vtkMRMLScene, name: str) -> slicer.vtkMRMLColorTableNode:
    """A named colour map as a table that any range of values can be shown with.

    Parameters
    ----------
    scene : vtkMRMLScene
        Gets the node, unless it has it.
    name : str
        ``"inferno"``, ``"magma"``, ``"viridis"``, ``"cividis"`` or ``"difference"``.
    """
    where = np.linspace(0, 1, _BINS)
    return _table(scene, name, f"Registration {name}", colours(name, where))


def jacobian_factor(values: np.ndarray) -> float:
    """The factor of volume change at which the colours of a Jacobian end: one that reads well, above 1."""
    positive = values[values > 0]
    largest = float(np.percentile(np.abs(np.log(positive)), 99.8)) if positive.size else 0.0
    return next((factor for factor in _FACTORS if math.log(factor) >= largest), _FACTORS[-1])


def jacobian_step(factor: float) -> float:
    """The step between the numbers of a Jacobian's legend."""
    return {3.0: 1.0, 4.0: 1.0, 8.0: 2.0}.get(factor, 0.5)


def jacobian_colors(
    scene: slicer.vtkMRMLScene, factor: float
) -> Tuple[slicer.vtkMRMLColorTableNode, Tuple[float, float]]:
    """Colours of the Jacobian: folds (0 and less) yellow, blue shrinks, white at 1, red grows, even in log J.

    Parameters
    ----------
    scene : vtkMRMLScene
        Gets the node, unless it has it.
    factor : float
        The strongest red stands for this factor, the strongest blue for one over it.

    Returns
    -------
    vtkMRMLColorTableNode, (float, float)
        The table, and the range of values that it is made for: from one step of the legend below 0 (see
        :func:`jacobian_step`), so that the colour of folds has its place there.
    """
    high, step, parts = max(2.0, factor), jacobian_step(factor), _BINS - 1
    folds = math.ceil(parts * step / (step + high)) - 1
    # Views divide the range into 255 equal parts; 0 must be the last value of those that are folds.
    low = -folds * high / (parts - folds) * (1 - 1e-6)
    values = low + (np.arange(_BINS) + 0.5) * (high - low) / parts
    where = 0.5 + np.log(np.maximum(values, 1e-9)) / math.log(factor) / 2
    table = colours("jacobian", np.clip(where, 0, 1))
    table[:folds] = _rgb(FOLD)
    # What hardly changes is left out, so that the anatomy is seen there; at least the part that holds 1.
    quiet = np.abs(where - 0.5) < max(_QUIET, np.diff(where)[np.argmin(np.abs(where - 0.5))])
    name = f"Registration Jacobian to {factor:g}"
    return _table(scene, f"jacobian {factor:g}", name, table, quiet), (low, high)


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
        # Multiples of the golden ratio, modulo 1, keep far apart.
        red, green, blue = hsv_to_rgb(number * _GOLDEN % 1, 0.65 + 0.35 * (number % 2), 0.95)
        node.SetColor(number, names.get(number, f"Structure {number}"), red, green, blue, 1.0)
    node.EndModify(unchanged)
    return node


def length_colors(scene: slicer.vtkMRMLScene, longest: float) -> slicer.vtkMRMLProceduralColorNode:
    """Colours of lengths in mm, from 0 to the longest, for deformations and arrows."""
    key = f"length {longest:g}"
    node = _existing(scene, "vtkMRMLProceduralColorNode", key)
    if node is None:
        node = _new(scene, "vtkMRMLProceduralColorNode", key, f"Displacement to {longest:g} mm")
        where = np.linspace(0, 1, 13)
        function = node.GetColorTransferFunction()
        for place, (red, green, blue) in zip(where.tolist(), colours("length", where).tolist()):
            function.AddRGBPoint(place * longest, red, green, blue)
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
