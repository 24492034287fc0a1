"""The places of a result that a person should look at, and how all views are taken to one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import slicer

from ..terms.verdict import Place, most_moved, worst_places
from .deformation import deformation_grid
from .nodes import LPS_TO_RAS, image_array, matrix_array
from .results import Result

_PLACES = 5
# The part of an image's extent that is seen around a place, and its least size.
_AROUND, _LEAST_MM = 0.35, 30.0


def places_of(result: Result, names: Mapping[int, str]) -> list[Place]:
    """Where the error is expected to be largest, the worst first; where most motion is, if nobody predicted an error.

    Parameters
    ----------
    result : Result
        Of which there may be no transform: then no place is known.
    names : mapping of int to str
        Of the structures of the fixed image.
    """
    return worst_places(result.metrics, names) or _most_moved(result)


def _most_moved(result: Result) -> list[Place]:
    """The largest displacements, each the largest in its neighbourhood: an eighth of the grid in each direction."""
    grid = deformation_grid(result)
    if grid is None:
        return []
    image, directions = grid.GetDisplacementGrid(), grid.GetGridDirectionMatrix()
    lengths = np.linalg.norm(image_array(image), axis=-1)
    to_world = (np.eye(3) if directions is None else matrix_array(directions)[:3, :3]) * image.GetSpacing()
    found = []
    for _ in range(_PLACES):
        index = np.unravel_index(int(lengths.argmax()), lengths.shape)
        if not lengths[index]:
            break
        point = to_world @ index[::-1] + image.GetOrigin()
        found.append(most_moved((LPS_TO_RAS[:3, :3] @ point).tolist(), float(lengths[index])))
        around = [slice(max(0, n - size // 8), n + size // 8 + 1) for n, size in zip(index, lengths.shape)]
        lengths[tuple(around)] = 0
    return found


def point_of(place: Place) -> np.ndarray:
    """Where a place is, RAS mm."""
    point: np.ndarray = LPS_TO_RAS[:3, :3] @ np.array(place.point_lps_mm)
    return point


def go_to(views: Sequence[slicer.vtkMRMLSliceNode], place: Place, result: Result, near: bool = False) -> None:
    """Have slice views go through a place, with the crosshair on it.

    Parameters
    ----------
    views : sequence of vtkMRMLSliceNode
        Linked views need not all be given.
    place : Place
        Of this result.
    result : Result
        Its fixed image says how much is seen around a place.
    near : bool
        Whether the views are centred and enlarged; otherwise only their slices change.
    """
    point = point_of(place)
    crosshair = result.scene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    if crosshair is not None:
        crosshair.SetCrosshairRAS(*point)
        crosshair.SetCrosshairMode(crosshair.ShowSmallBasic)
    for view in views:
        unchanged = view.StartModify()
        if near:
            _enlarge(view, _width_around(result))
            view.JumpSliceByCentering(*point)
        else:
            view.JumpSliceByOffsetting(*point)
        view.EndModify(unchanged)


def leave(scene: slicer.vtkMRMLScene) -> None:
    """Take the crosshair away; what it pointed at may have gone from the scene."""
    crosshair = scene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    if crosshair is not None:
        crosshair.SetCrosshairMode(crosshair.NoCrosshair)


def _width_around(result: Result) -> float:
    bounds = [0.0] * 6
    if result.reference is not None:
        result.reference.GetRASBounds(bounds)
    return max(_LEAST_MM, _AROUND * max(high - low for low, high in zip(bounds[::2], bounds[1::2])))


def _enlarge(view: slicer.vtkMRMLSliceNode, width_mm: float) -> None:
    """Show so many mm along the shorter side of a view."""
    width, height = view.GetDimensions()[:2]
    if width > 1 and height > 1:
        scale = width_mm / min(width, height)
        view.SetFieldOfView(width * scale, height * scale, view.GetFieldOfView()[2])
