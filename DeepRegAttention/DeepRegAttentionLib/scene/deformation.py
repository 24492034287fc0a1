"""The deformation drawn: as a grid, as arrows, as contours, in slices and in 3D; and the force behind it.

Everything is drawn in the fixed image's space and in the direction of the motion, moving to fixed, as Slicer draws
any transform: a grid line or an arrow's tip is where the registration takes what it started from. Outside the fixed
image nothing moves, and there are arrows where the images show something alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Optional

import numpy as np
import slicer
import vtk

from ..terms.maps import SHORTEST_ARROW, is_seen_through, length_scale
from .colors import length_colors
from .nodes import add_node, image_array, matrix_array, voxel_to_world, voxels
from .results import Result
from .transforms import at_rest_outside, deformation_part, grid_part, grid_transform, longest_displacement, parts

STYLES = ("none", "grid", "arrows", "contours")
"""Ways to draw a deformation."""

_MODES = {
    "grid": slicer.vtkMRMLTransformDisplayNode.VIS_MODE_GRID,
    "arrows": slicer.vtkMRMLTransformDisplayNode.VIS_MODE_GLYPH,
    "contours": slicer.vtkMRMLTransformDisplayNode.VIS_MODE_CONTOUR,
}
_ROUND = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
_LINES = 20
_LEVELS = 6
_FORCE_GRID_MM = 2.0
_VECTORS = "vtkMRMLVectorVolumeNode"


def show_deformation(
    result: Result,
    style: str = "grid",
    spacing_mm: Optional[float] = None,
    scale_percent: float = 100.0,
    slices: bool = True,
    threed: bool = False,
    views: Sequence[slicer.vtkMRMLAbstractViewNode] = (),
) -> Optional[slicer.vtkMRMLTransformDisplayNode]:
    """Draw how the linearly aligned moving image was deformed to the fixed one; the colour is the length in mm.

    A grid is regular on the aligned moving image and drawn where the registration takes it; arrows point from there
    to where a place went.

    Parameters
    ----------
    result : Result
        With a transform; without one nothing is drawn.
    style : str
        One of ``STYLES``; ``"none"`` takes away what was drawn.
    spacing_mm : float, optional
        Between grid lines or arrows, or four times the resolution of contours; None: :func:`default_spacing`.
        In 3D the time to draw grows with the cube of how fine it is.
    scale_percent : float
        100 draws displacements at their true length; more exaggerates. Contours do not depend on it.
    slices, threed : bool
        Where it is drawn.
    views : sequence of vtkMRMLAbstractViewNode
        The only views that draw it, decided when it is first drawn; none given: all.

    Returns
    -------
    vtkMRMLTransformDisplayNode or None
        For finer settings.
    """
    role = "arrows" if style == "arrows" else "deformation"
    for other in {"arrows", "deformation"} - ({role} if style != "none" else set()):
        _hide(result.extra(other))
    node = _deformation_node(result, role) if style != "none" else None
    if node is None:
        return None
    return _draw(result, node, style, spacing_mm, scale_percent, slices, threed, _longest(node), views)


def default_spacing(result: Result, style: str = "grid", threed: bool = False) -> float:
    """A spacing in mm that reads well: 1, 2, 5, 10, ...

    About 20 grid lines across the fixed image, twice as many arrows, half as many of both in 3D, where there are
    lines behind lines, and each is computed.
    """
    bounds = [0.0] * 6
    reference = result.reference
    if reference is None:
        return _ROUND[0]
    reference.GetRASBounds(bounds)
    lines = _LINES * (2 if style == "arrows" else 1) / (2 if threed else 1)
    wanted = max(high - low for low, high in zip(bounds[::2], bounds[1::2])) / lines
    return min(_ROUND, key=lambda step: abs(math.log(step / wanted)))


def show_force_arrows(
    result: Result,
    visible: bool = True,
    spacing_mm: Optional[float] = None,
    scale_percent: float = 100.0,
    slices: bool = True,
    threed: bool = False,
    views: Sequence[slicer.vtkMRMLAbstractViewNode] = (),
) -> Optional[slicer.vtkMRMLTransformDisplayNode]:
    """Draw the driving force as arrows: where and how strongly each place of the moving image was pulled.

    The arrows point in the direction of the motion (as those of :func:`show_deformation`), their colour is the
    length of the force in mm. Arguments as there; None if the result has no driving force.
    """
    if not visible or "driving_force" not in result.maps:
        _hide(result.extra("force_arrows"))
        return None
    node = result.extra("force_arrows") or _new_force_node(result)
    return _draw(result, node, "arrows", spacing_mm, scale_percent, slices, threed, _longest(node), views)


def _longest(node: slicer.vtkMRMLTransformNode) -> float:
    """In mm, of a node with a displacement grid in one of the two directions."""
    grids = [parts(transform)[0] for transform in (node.GetTransformToParent(), node.GetTransformFromParent())]
    return longest_displacement(next(grid for grid in grids if grid.GetDisplacementGrid() is not None))


def _hide(node: Optional[slicer.vtkMRMLTransformNode]) -> None:
    if node is not None and node.GetDisplayNode() is not None:
        node.GetDisplayNode().SetVisibility(False)


def _deformation_node(result: Result, role: str) -> Optional[slicer.vtkMRMLTransformNode]:
    """What is drawn of the transform, without its linear part: a large shift would hide the small motions."""
    node = result.extra(role)
    if node is not None or deformation_grid(result) is None:
        return node
    node = add_node(result.scene, "vtkMRMLGridTransformNode", f"{result.name} {role}")
    node.SetDescription("Made to be drawn: the linear part of the registration is not in it.")
    _set_motion(result, role, node)
    result.keep(role, node)
    return node


def renew_deformation(result: Result) -> None:
    """Have what is drawn of the deformation be what it is now."""
    for role in ("deformation", "arrows"):
        node = result.extra(role)
        if node is not None:
            _set_motion(result, role, node)


def _set_motion(result: Result, role: str, node: slicer.vtkMRMLTransformNode) -> None:
    back = grid_part(result.inverse) if result.inverse is not None else None
    if back is not None:
        # Drawn the way it is: where motion begins and ends at once, no transform could be inverted.
        where = _something(result, back) if role == "arrows" else None
        node.SetAndObserveTransformToParent(at_rest_outside(back, where))
    else:
        node.SetAndObserveTransformFromParent(at_rest_outside(deformation_grid(result)))


def deformation_grid(result: Result) -> Optional[vtk.vtkAbstractTransform]:
    """The displacement grid of the deformation alone, from fixed to aligned moving points; None without a transform."""
    return None if result.transform is None else deformation_part(result.transform, result.linear)


def _something(result: Result, grid: vtk.vtkAbstractTransform) -> Optional[np.ndarray]:
    """At which points of a grid ``(K, J, I)`` the images show something, as far as a map says so."""
    maps = [node for name, node in result.maps.items() if is_seen_through(name) and not node.IsA(_VECTORS)]
    if not maps:
        return None
    image, directions = grid.GetDisplacementGrid(), grid.GetGridDirectionMatrix() or vtk.vtkMatrix4x4()
    to_world = matrix_array(directions)
    to_world[:3, :3] *= image.GetSpacing()
    to_world[:3, 3] = image.GetOrigin()
    to_map = np.linalg.inv(voxel_to_world(maps[0])) @ to_world
    return _nearest(voxels(maps[0]) != 0, to_map, image_array(image).shape[:3])


def _nearest(values: np.ndarray, to_index: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The values ``(K, J, I)`` at the points of a grid of another shape with parallel axes; False outside."""
    found = values
    for axis, size in enumerate(shape):
        numbers = np.rint(np.arange(size) * to_index[2 - axis, 2 - axis] + to_index[2 - axis, 3]).astype(int)
        inside = (numbers >= 0) & (numbers < values.shape[axis])
        found = found.take(numbers.clip(0, values.shape[axis] - 1), axis)
        found &= inside.reshape([-1 if n == axis else 1 for n in range(3)])
    return found


def _new_force_node(result: Result) -> slicer.vtkMRMLTransformNode:
    """A transform that is only there to be drawn: from each place to where the force pulls it.

    The force is in the resampling direction, fixed to moving, as all vectors of a result; the motion is opposite.
    """
    force = result.maps["driving_force"]
    steps = [max(1, int(_FORCE_GRID_MM / spacing)) for spacing in force.GetSpacing()]
    node = add_node(result.scene, "vtkMRMLGridTransformNode", f"{result.name} driving force arrows")
    node.SetAndObserveTransformToParent(at_rest_outside(grid_transform(force, -1.0, steps)))
    node.SetDescription("Made to be drawn: not a registration.")
    result.keep("force_arrows", node)
    return node


def _draw(
    result: Result,
    node: slicer.vtkMRMLTransformNode,
    style: str,
    spacing_mm: Optional[float],
    scale_percent: float,
    slices: bool,
    threed: bool,
    longest: float,
    views: Sequence[slicer.vtkMRMLAbstractViewNode],
) -> slicer.vtkMRMLTransformDisplayNode:
    display, spacing = _display_node(node, views), spacing_mm or default_spacing(result, style, threed)
    seen = length_scale(longest)
    unchanged = display.StartModify()
    display.SetAndObserveColorNodeID(length_colors(node.GetScene(), seen).GetID())
    display.SetAndObserveRegionNode(result.reference)
    display.SetVisualizationMode(_MODES[style])
    display.SetVisibility(True)
    display.SetVisibility2D(slices)
    display.SetVisibility3D(threed)
    display.SetSliceIntersectionThickness(1 if style == "grid" else 2)
    display.SetAmbient(0.25)
    _set_grid(display, spacing, scale_percent)
    _set_arrows(display, spacing, scale_percent, seen.high)
    _set_contours(display, spacing, seen.high, threed)
    display.EndModify(unchanged)
    return display


def _display_node(
    node: slicer.vtkMRMLTransformNode, views: Sequence[slicer.vtkMRMLAbstractViewNode]
) -> slicer.vtkMRMLTransformDisplayNode:
    """The node's display; made with its views, as a slice view asks for them only when it meets the display."""
    if node.GetDisplayNode() is None and views:
        display = slicer.vtkMRMLTransformDisplayNode()
        display.SetVisibility(False)
        display.SetViewNodeIDs([view.GetID() for view in views])
        node.GetScene().AddNode(display)
        node.AddAndObserveDisplayNodeID(display.GetID())
    node.CreateDefaultDisplayNodes()
    return node.GetDisplayNode()


def _set_grid(display: slicer.vtkMRMLTransformDisplayNode, spacing: float, scale_percent: float) -> None:
    display.SetGridSpacingMm(spacing)
    display.SetGridScalePercent(scale_percent)
    # Slicer samples the whole plane or space this finely, not only the lines: twice as fine takes 4 or 8 times as long.
    display.SetGridResolutionMm(spacing / 4)
    display.SetGridLineDiameterMm(spacing / 16)
    display.SetGridShowNonWarped(False)


def _set_arrows(
    display: slicer.vtkMRMLTransformDisplayNode, spacing: float, scale_percent: float, longest: float
) -> None:
    display.SetGlyphType(display.GLYPH_TYPE_ARROW)
    display.SetGlyphSpacingMm(spacing)
    display.SetGlyphScalePercent(scale_percent)
    display.SetGlyphDisplayRangeMinMm(SHORTEST_ARROW * longest)
    display.SetGlyphDisplayRangeMaxMm(100 * longest)
    display.SetGlyphDiameterMm(spacing / 3)
    display.SetGlyphShaftDiameterPercent(35)
    display.SetGlyphTipLengthPercent(35)


def _set_contours(display: slicer.vtkMRMLTransformDisplayNode, spacing: float, longest: float, threed: bool) -> None:
    # In 3D the surfaces of small displacements would hide the others; not every view can draw them translucent.
    first = 3 if threed else 1
    levels = [longest * n / (_LEVELS + 1) for n in range(first, _LEVELS + 1)]
    display.SetContourLevelsMmFromString(" ".join(f"{level:.3g}" for level in levels))
    display.SetContourResolutionMm(spacing / 4)
    display.SetContourOpacity(1.0)
