"""Maps over the images: which there are, how they are coloured, and how they are shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Dict, List, Optional, Sequence, Tuple

import numpy as np
import slicer

from ..engine.result import MAP_MEANINGS
from .colors import jacobian_colors, jacobian_factor, jacobian_step, map_colors
from .nodes import show_range, voxels

if TYPE_CHECKING:
    from .results import Result


@dataclass(frozen=True)
class Overlay:
    """One map that can be laid over an image.

    Attributes
    ----------
    name : str
        Key of ``MAP_MEANINGS`` and of ``Result.maps``.
    label : str
        For menus.
    unit : str
        What stands over the legend.
    colours : str
        Name of a colour map in :mod:`.colors`.
    """

    name: str
    label: str
    unit: str
    colours: str

    @property
    def tooltip(self) -> str:
        """What it means."""
        return MAP_MEANINGS[self.name]


OVERLAYS: Dict[str, Overlay] = {
    overlay.name: overlay
    for overlay in (
        Overlay("jacobian", "Jacobian", "Jacobian", "jacobian"),
        Overlay("driving_force_magnitude", "Driving force", "Force (mm)", "inferno"),
        Overlay("attention", "Attention", "Attention", "magma"),
        Overlay("certainty", "Certainty of the match", "Certainty", "viridis"),
        Overlay("attention_forward", "Attention, fixed to moving", "Attention", "magma"),
        Overlay("attention_backward", "Attention, moving to fixed", "Attention", "magma"),
        Overlay("regularization", "Strength of the regularization", "Strength", "cividis"),
        Overlay("difference_before", "Difference before", "Difference", "difference"),
        Overlay("difference_after", "Difference after", "Difference", "difference"),
    )
}
"""By name, in the order of a menu; :func:`available_overlays` says which of them a result has."""

_SAMPLES = 64
_LABELS = 5


def available_overlays(result: Result) -> List[Overlay]:
    """The overlays that a result has a map for, in the order of a menu."""
    return [overlay for name, overlay in OVERLAYS.items() if name in result.maps]


def map_label(name: str) -> str:
    """What a map is called within the name of its node, such as ``"Jacobian"``."""
    return OVERLAYS[name].label if name in OVERLAYS else name.replace("_", " ")


def value_range(result: Result, name: str) -> Tuple[float, float]:
    """Least and largest value of a map: the ends of a threshold slider."""
    low, high = result.maps[name].GetImageData().GetScalarRange()
    return float(low), float(high)


def style_map(node: slicer.vtkMRMLVolumeNode, name: str) -> None:
    """Give the volume of a map its colours, over the range of its values; vectors are shown by their lengths."""
    sample = _sample(node)
    if name not in OVERLAYS:
        show_range(node, 0.0, float(np.percentile(np.linalg.norm(sample, axis=-1), 99.5)), None)
        return
    scene, colours = node.GetScene(), OVERLAYS[name].colours
    if colours == "jacobian":
        table, (low, high) = jacobian_colors(scene, jacobian_factor(sample))
    else:
        table, (low, high) = map_colors(scene, colours), _robust_range(sample, name)
    show_range(node, low, high, table)
    # Not a single fold may vanish between its neighbours.
    node.GetDisplayNode().SetInterpolate(colours != "jacobian")


def _sample(node: slicer.vtkMRMLVolumeNode) -> np.ndarray:
    values = voxels(node)
    return values[tuple(slice(None, None, max(1, n // _SAMPLES)) for n in values.shape)]


def _robust_range(sample: np.ndarray, name: str) -> Tuple[float, float]:
    """From the least to the largest value that is worth a colour: symmetric for differences, from 0 for lengths."""
    low, high = (float(value) for value in np.percentile(sample, (0.5, 99.5)))
    if name.startswith("difference"):
        # Before and after by the same measure, so that the eye can compare them.
        return -0.5, 0.5
    if name == "driving_force_magnitude":
        # Not quite 0, which a display turns into window and level and back, and a legend calls -0.
        low = 1e-6 * high
    return low, high if high > low else low + 1.0


def show_overlay(
    result: Result,
    name: Optional[str],
    composites: Sequence[slicer.vtkMRMLSliceCompositeNode],
    opacity: float = 0.5,
    threshold: Optional[Tuple[float, float]] = None,
    legend: bool = True,
) -> None:
    """Lay one map over what slice views show, in their foreground layer; None takes it away.

    Parameters
    ----------
    result : Result
        Must have the map.
    name : str, optional
        Key of ``OVERLAYS``.
    composites : sequence of vtkMRMLSliceCompositeNode
        Of the slice views.
    opacity : float
        0 (invisible) to 1.
    threshold : (float, float), optional
        Only values from low to high are shown; None shows all.
    legend : bool
        Whether a colour bar is shown in the views.
    """
    node = result.maps[name] if name is not None else None
    if node is not None and name is not None:
        _limit(node.GetDisplayNode(), threshold)
    for composite in composites:
        composite.SetForegroundVolumeID(node.GetID() if node is not None else None)
        composite.SetForegroundOpacity(opacity if node is not None else 0.0)
    # After the volume is in the views: a legend looks for its volume only when it is changed itself.
    for other in OVERLAYS:
        if other in result.maps:
            _show_legend(result.maps[other], OVERLAYS[other], visible=legend and other == name)


def forget_legends(result: Result) -> None:
    """Have legends made anew when they are next shown: a view that is newer than a legend does not know it."""
    for node in result.maps.values():
        legend = _legend(node)
        if legend is not None:
            displays = [node.GetNthDisplayNode(n) for n in range(node.GetNumberOfDisplayNodes())]
            node.RemoveNthDisplayNodeID(displays.index(legend))
            node.GetScene().RemoveNode(legend)


def _limit(display: slicer.vtkMRMLScalarVolumeDisplayNode, threshold: Optional[Tuple[float, float]]) -> None:
    display.SetApplyThreshold(threshold is not None)
    if threshold is not None:
        display.SetAutoThreshold(False)
        display.SetThreshold(*threshold)


def _show_legend(node: slicer.vtkMRMLVolumeNode, overlay: Overlay, visible: bool) -> None:
    legend = _legend(node)
    if legend is None and visible:
        legend = _new_legend(node, overlay)
    if legend is not None:
        legend.SetVisibility(visible)
        legend.Modified()


def _legend(node: slicer.vtkMRMLVolumeNode) -> Optional[slicer.vtkMRMLColorLegendDisplayNode]:
    displays = [node.GetNthDisplayNode(n) for n in range(node.GetNumberOfDisplayNodes())]
    return next((d for d in displays if d is not None and d.IsA("vtkMRMLColorLegendDisplayNode")), None)


def _new_legend(node: slicer.vtkMRMLVolumeNode, overlay: Overlay) -> slicer.vtkMRMLColorLegendDisplayNode:
    display = node.GetDisplayNode()
    legend = slicer.vtkMRMLColorLegendDisplayNode()
    legend.SetName(f"{node.GetName()} legend")
    legend.SetTitleText(overlay.unit)
    legend.SetSize(0.09, 0.4)
    legend.SetPosition(0.98, 0.9)
    _write_labels(legend, display, overlay.name == "jacobian")
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
