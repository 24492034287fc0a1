"""Maps over the images: how their volumes are coloured, and how they are shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Optional

import numpy as np
import slicer

from ..terms.maps import Map, Rule, described, holds_vectors, is_seen_through, scale
from .colors import jacobian_colors, jacobian_step, map_colors
from .nodes import show_range, voxels

_LABELS = 5
_SAMPLES = 64


def value_range(node: slicer.vtkMRMLVolumeNode) -> tuple[float, float]:
    """Least and largest value of a map: the ends of a threshold slider."""
    low, high = node.GetImageData().GetScalarRange()
    return float(low), float(high)


def style_map(node: slicer.vtkMRMLVolumeNode, name: str) -> None:
    """Give the volume of a map its colours over their range; vectors are shown by their lengths, in grey."""
    scene, seen = node.GetScene(), scale(name, voxels(node))
    if described(name).rule is Rule.VOLUME:
        table, (low, high) = jacobian_colors(scene, seen)
    else:
        table, low, high = None if holds_vectors(name) else map_colors(scene, seen.palette), seen.low, seen.high
    # Not quite 0, which a display turns into window and level and back, and a legend calls -0.
    show_range(node, low if abs(low) > 1e-5 * high else 1e-6 * high, high, table)
    # Not a single fold may vanish between its neighbours.
    folded = described(name).rule is Rule.VOLUME and value_range(node)[0] <= 0
    node.GetDisplayNode().SetInterpolate(not folded)


def show_overlay(
    maps: Mapping[str, slicer.vtkMRMLVolumeNode],
    name: Optional[str],
    composites: Sequence[slicer.vtkMRMLSliceCompositeNode],
    opacity: float = 0.5,
    threshold: Optional[tuple[float, float]] = None,
    legend: bool = True,
) -> None:
    """Lay one map over what slice views show, in their foreground layer; None takes it away.

    Where a map is 0 because neither image shows anything, what lies below it is seen.

    Parameters
    ----------
    maps : mapping of str to vtkMRMLVolumeNode
        All maps of a result.
    name : str, optional
        Key of the one to show.
    composites : sequence of vtkMRMLSliceCompositeNode
        Of the slice views.
    opacity : float
        0 (invisible) to 1.
    threshold : (float, float), optional
        Only values from low to high are shown; None shows all there are.
    legend : bool
        Whether a colour bar is shown in the views.
    """
    node = maps[name] if name is not None else None
    if node is not None and name is not None:
        _limit(node, threshold, _least(node) if is_seen_through(name) else None)
    for composite in composites:
        unchanged = composite.StartModify()
        composite.SetForegroundVolumeID(node.GetID() if node is not None else None)
        composite.SetForegroundOpacity(opacity if node is not None else 0.0)
        composite.EndModify(unchanged)
    # After the volume is in the views: a legend looks for its volume only when it is changed itself.
    for other, volume in maps.items():
        _show_legend(volume, described(other), visible=legend and other == name)


def forget_legends(maps: Iterable[slicer.vtkMRMLVolumeNode]) -> None:
    """Have legends made anew when they are next shown: a view that is newer than a legend does not know it."""
    for node in maps:
        legend = _legend(node)
        if legend is not None:
            displays = [node.GetNthDisplayNode(n) for n in range(node.GetNumberOfDisplayNodes())]
            node.RemoveNthDisplayNodeID(displays.index(legend))
            node.GetScene().RemoveNode(legend)


def _least(node: slicer.vtkMRMLVolumeNode) -> float:
    """Half of the least value of what is not nothing: what is between it and nothing was interpolated."""
    values = voxels(node)
    some = values[tuple(slice(None, None, max(1, n // _SAMPLES)) for n in values.shape)]
    return float(some.min(initial=np.inf, where=some > 0)) / 2 if (some > 0).any() else 0.0


def _limit(node: slicer.vtkMRMLVolumeNode, threshold: Optional[tuple[float, float]], least: Optional[float]) -> None:
    """Show the values within a threshold, and not below the least that is shown at all."""
    display = node.GetDisplayNode()
    display.SetApplyThreshold(threshold is not None or least is not None)
    if display.GetApplyThreshold():
        low, high = threshold or value_range(node)
        display.SetAutoThreshold(False)
        display.SetThreshold(low if least is None else max(low, least), high)


def _show_legend(node: slicer.vtkMRMLVolumeNode, entry: Map, visible: bool) -> None:
    legend = _legend(node)
    if legend is None and visible:
        legend = _new_legend(node, entry)
    # Each change makes all views draw again.
    if legend is not None and (visible or legend.GetVisibility()):
        legend.SetVisibility(visible)
        legend.Modified()


def _legend(node: slicer.vtkMRMLVolumeNode) -> Optional[slicer.vtkMRMLColorLegendDisplayNode]:
    displays = [node.GetNthDisplayNode(n) for n in range(node.GetNumberOfDisplayNodes())]
    return next((d for d in displays if d is not None and d.IsA("vtkMRMLColorLegendDisplayNode")), None)


def _new_legend(node: slicer.vtkMRMLVolumeNode, entry: Map) -> slicer.vtkMRMLColorLegendDisplayNode:
    display = node.GetDisplayNode()
    legend = slicer.vtkMRMLColorLegendDisplayNode()
    legend.SetName(f"{node.GetName()} legend")
    legend.SetTitleText(entry.bar)
    legend.SetSize(0.09, 0.4)
    legend.SetPosition(0.98, 0.9)
    _write_labels(legend, display, entry.rule is Rule.VOLUME)
    # Complete when it comes into the scene: views draw it again after every change.
    legend = node.GetScene().AddNode(legend)
    legend.SetAndObserveColorNodeID(display.GetColorNodeID())
    legend.SetAndObservePrimaryDisplayNode(display)
    node.AddAndObserveDisplayNodeID(legend.GetID())
    return legend


def _write_labels(
    legend: slicer.vtkMRMLColorLegendDisplayNode, display: slicer.vtkMRMLScalarVolumeDisplayNode, jacobian: bool
) -> None:
    """Numbers that people can count with."""
    high = display.GetWindowLevelMax()
    legend.SetNumberOfLabels(round(high / jacobian_step(round(high, 2))) + 2 if jacobian else _LABELS)
    # Wide, as Slicer makes the font as large as the longest label can be.
    legend.SetLabelFormat("%6.1f" if jacobian else "%6.2f")
    for text in (legend.GetTitleTextProperty(), legend.GetLabelTextProperty()):
        text.SetFontFamilyToArial()
        text.SetBold(False)
        # Lines of a grid would make it unreadable.
        text.SetBackgroundColor(0.0, 0.0, 0.0)
        text.SetBackgroundOpacity(1.0)
