"""A layout for judging: fixed, moving and warped image and an overlay side by side, moving together."""

from __future__ import annotations

from typing import Optional

import numpy as np
import slicer

from ..engine.errors import ImageError
from ..terms.maps import offered
from .compare import aligned_volume
from .nodes import matrix_array
from .overlays import show_overlay
from .results import Result

COMPARISON_LAYOUT = 9770
"""Its number among the layouts of an application."""

VIEWS: tuple[tuple[str, str], ...] = (
    ("DeepRegFixed", "Fixed"),
    ("DeepRegMoving", "Moving"),
    ("DeepRegWarped", "Warped"),
    ("DeepRegOverlay", "Overlay"),
)
"""Singleton tag and title of each slice view."""

OVERLAY = VIEWS[-1][0]
"""Singleton tag of the view that an overlay is for."""

_COLOURS = ("#4fa3d9", "#d9a24f", "#5fbf77", "#d96a5f")
_MARGIN = 1.06


def layout_xml() -> str:
    """The description of the layout as Slicer's layout manager reads it."""
    views = [_view_xml(tag, title, colour) for (tag, title), colour in zip(VIEWS, _COLOURS)]
    fixed, moving, warped, overlay = views
    # What should look alike is side by side.
    rows = "".join(
        f'<item><layout type="horizontal">{a}{b}</layout></item>' for a, b in ((fixed, warped), (moving, overlay))
    )
    return f'<layout type="vertical">{rows}</layout>'


def _view_xml(tag: str, title: str, colour: str) -> str:
    # The bar over a view has room for a letter.
    properties = (("orientation", "Axial"), ("viewlabel", title[0]), ("viewcolor", colour))
    inside = "".join(f'<property name="{name}" action="default">{value}</property>' for name, value in properties)
    return f'<item><view class="vtkMRMLSliceNode" singletontag="{tag}">{inside}</view></item>'


def register_layout(layout_node: slicer.vtkMRMLLayoutNode) -> int:
    """Make the layout known; returns its number, for ``layoutManager.setLayout``."""
    if layout_node.IsLayoutDescription(COMPARISON_LAYOUT):
        layout_node.SetLayoutDescription(COMPARISON_LAYOUT, layout_xml())
    else:
        layout_node.AddLayoutDescription(COMPARISON_LAYOUT, layout_xml())
    return COMPARISON_LAYOUT


def view_composites(scene: slicer.vtkMRMLScene) -> dict[str, slicer.vtkMRMLSliceCompositeNode]:
    """The composite nodes of the layout's views that exist by now, by singleton tag."""
    return _by_tag(scene, "vtkMRMLSliceCompositeNode")


def view_nodes(scene: slicer.vtkMRMLScene) -> dict[str, slicer.vtkMRMLSliceNode]:
    """The slice nodes of the layout's views that exist by now, by singleton tag."""
    return _by_tag(scene, "vtkMRMLSliceNode")


def _by_tag(scene: slicer.vtkMRMLScene, kind: str) -> dict[str, slicer.vtkMRMLNode]:
    nodes = [scene.GetNthNodeByClass(n, kind) for n in range(scene.GetNumberOfNodesByClass(kind))]
    tags = {tag for tag, _ in VIEWS}
    return {node.GetLayoutName(): node for node in nodes if node.GetLayoutName() in tags}


def fill_layout(
    result: Result, scene: slicer.vtkMRMLScene, overlay: Optional[str] = None, aligned: bool = False
) -> None:
    """Put the images of a result into the views of the layout, linked, on the middle of the fixed image.

    The views must exist: the layout was shown once. Without an overlay, the first one of the result is shown.
    ``aligned``: the moving image as the linear alignment alone shows it, so that all views show the same place.
    """
    composites, reference = view_composites(scene), result.reference
    moving = _aligned(result) if aligned else result.moving
    volumes = dict(zip((tag for tag, _ in VIEWS), (result.fixed, moving, result.warped, reference)))
    for tag, composite in composites.items():
        _show(composite, volumes[tag])
    names = [entry.key for entry in offered(result.maps)]
    if OVERLAY in composites and names:
        show_overlay(result.maps, overlay if overlay in names else names[0], [composites[OVERLAY]])
    if reference is not None:
        for node in view_nodes(scene).values():
            unchanged = node.StartModify()
            _fit(node, reference)
            node.EndModify(unchanged)
    for composite in composites.values():
        composite.SetLinkedControl(True)
        composite.SetHotLinkedControl(True)


def _aligned(result: Result) -> Optional[slicer.vtkMRMLVolumeNode]:
    try:
        return aligned_volume(result)
    except ImageError:
        return result.moving


def _show(composite: slicer.vtkMRMLSliceCompositeNode, volume: Optional[slicer.vtkMRMLVolumeNode]) -> None:
    composite.SetBackgroundVolumeID(volume.GetID() if volume is not None else None)
    composite.SetForegroundVolumeID(None)
    composite.SetLabelVolumeID(None)
    # Until all are filled: linked, each would change all others, and all would be drawn again and again.
    composite.SetLinkedControl(False)


def _fit(view: slicer.vtkMRMLSliceNode, volume: slicer.vtkMRMLVolumeNode) -> None:
    """Centre a slice view on a volume and make all of it visible."""
    bounds: list[float] = [0.0] * 6
    volume.GetRASBounds(bounds)
    low, high = np.array(bounds[::2]), np.array(bounds[1::2])
    width, height = view.GetDimensions()[:2]
    if width > 1 and height > 1:
        axes = np.abs(matrix_array(view.GetSliceToRAS())[:3, :2])
        across, down = axes.T @ (high - low)
        scale = _MARGIN * max(across / width, down / height)
        view.SetFieldOfView(width * scale, height * scale, view.GetFieldOfView()[2])
    view.JumpSliceByCentering(*((low + high) / 2).tolist())
