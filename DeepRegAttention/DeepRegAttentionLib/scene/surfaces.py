"""The structures of a result as surfaces in 3D: those of the moving image before and after, and those of the fixed one.

A surface before is the one after, each point of it taken back by the deformation: where the linear alignment alone
shows it. So both are known from the result, and nothing else is needed of the moving image.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Optional

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk

from ..terms.palettes import label_colour
from .deformation import deformation_grid
from .export import label_array
from .nodes import add_node, array_image, array_matrix, remove_node, voxel_to_world, voxels
from .results import Result

SURFACES = ("before", "after", "fixed")
"""Which surfaces there are: of the warped structures before and after the deformation, and of the fixed ones."""

# Along its longest side a label map is looked at in so many voxels; all structures together have so many triangles, so
# that a 3D view without a graphics card stays alive, and one of them no fewer than the last number.
_VOXELS, _TRIANGLES, _LEAST = 110, 60_000, 400
_SMOOTHING, _PASS_BAND = 15, 0.08
_FIXED_COLOUR, _FIXED_OPACITY = (1.0, 1.0, 1.0), 0.25


def surface_steps(result: Result) -> Generator[str, None, None]:
    """Make the surfaces in steps, one structure each, so that a GUI stays alive in between; hidden at first.

    Those that the result has already are left as they are; without warped structures nothing is made.
    """
    if result.labels is None:
        return
    if result.extra(_role("after")) is None:
        yield "structures"
        yield from _moving_surfaces(result, result.labels)
    if result.fixed_labels is not None and result.reference is not None and result.extra(_role("fixed")) is None:
        yield "fixed structures"
        parts = vtk.vtkAppendPolyData()
        for number, surface in _structures(*label_array(result.fixed_labels, result.reference)):
            parts.AddInputData(surface)
            yield f"fixed structure {number}"
        _add_model(result, "fixed", parts)


def _moving_surfaces(result: Result, labels: slicer.vtkMRMLLabelMapVolumeNode) -> Generator[str, None, None]:
    grid = deformation_grid(result)
    after, before = vtk.vtkAppendPolyData(), vtk.vtkAppendPolyData()
    for number, surface in _structures(voxels(labels), voxel_to_world(labels)):
        _paint(surface, label_colour(number))
        after.AddInputData(surface)
        if grid is not None:
            before.AddInputData(_transformed(surface, grid))
        yield f"structure {number}"
    _add_model(result, "after", after)
    yield "surfaces before"
    if grid is not None:
        _add_model(result, "before", before)


def show_surfaces(result: Result, state: Optional[str]) -> None:
    """Show the warped structures ``"before"`` or ``"after"``, within the fixed ones; None hides all."""
    for name in SURFACES:
        node = result.extra(_role(name))
        if node is not None:
            node.GetDisplayNode().SetVisibility(state is not None and name in (state, "fixed"))


def remove_surfaces(result: Result) -> None:
    """Take them out of the scene: the structures have changed."""
    for name in SURFACES:
        remove_node(result.scene, result.extra(_role(name)))


def _role(name: str) -> str:
    return f"surface_{name}"


def _structures(values: np.ndarray, to_world: np.ndarray) -> Generator[tuple[int, vtk.vtkPolyData], None, None]:
    """The number and the surface, RAS mm, of each structure of labels ``(K, J, I)``."""
    step = max(1, round(max(values.shape) / _VOXELS))
    values, to_world = values[::step, ::step, ::step], to_world @ np.diag([step, step, step, 1.0])
    boxes = _boxes(values)
    most = max(_LEAST, _TRIANGLES // max(1, len(boxes)))
    for number, (low, high) in boxes.items():
        box = tuple(slice(a, b) for a, b in zip(low, high))
        inside = np.pad((values[box] == number).astype(np.float32), 1)
        yield number, _surface(inside, to_world @ _shift(low[::-1] - 1), most)


def _boxes(values: np.ndarray) -> Mapping[int, tuple[np.ndarray, np.ndarray]]:
    """First and last voxel and one (k, j, i) of each structure, found in one pass."""
    where = np.argwhere(values)
    numbers = values[tuple(where.T)].astype(int)
    order = np.argsort(numbers, kind="stable")
    found, starts = np.unique(numbers[order], return_index=True)
    parts = np.split(where[order], starts[1:])
    return {int(n): (part.min(axis=0), part.max(axis=0) + 1) for n, part in zip(found, parts)}


def _shift(offset: np.ndarray) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = offset
    return matrix


def _surface(inside: np.ndarray, to_world: np.ndarray, most: int) -> vtk.vtkPolyData:
    """A smooth surface around what is 1 of ``(K, J, I)``, of so many triangles at most."""
    contour = vtk.vtkFlyingEdges3D()
    contour.SetInputData(array_image(inside))
    contour.SetValue(0, 0.5)
    contour.ComputeNormalsOff()
    contour.ComputeScalarsOff()
    smooth = vtk.vtkWindowedSincPolyDataFilter()
    smooth.SetInputConnection(contour.GetOutputPort())
    smooth.SetNumberOfIterations(_SMOOTHING)
    smooth.SetPassBand(_PASS_BAND)
    smooth.NormalizeCoordinatesOn()
    smooth.Update()
    transform = vtk.vtkTransform()
    transform.SetMatrix(array_matrix(to_world))
    return _transformed(_fewer(smooth.GetOutput(), most), transform)


def _fewer(surface: vtk.vtkPolyData, most: int) -> vtk.vtkPolyData:
    count = surface.GetNumberOfPolys()
    if count <= most:
        return surface
    decimate = vtk.vtkQuadricDecimation()
    decimate.SetInputData(surface)
    decimate.SetTargetReduction(1 - most / count)
    decimate.Update()
    return decimate.GetOutput()


def _transformed(surface: vtk.vtkPolyData, transform: vtk.vtkAbstractTransform) -> vtk.vtkPolyData:
    """A moved surface, with normals, so that it is drawn smooth."""
    mover = vtk.vtkTransformPolyDataFilter()
    mover.SetInputData(surface)
    mover.SetTransform(transform)
    normals = vtk.vtkPolyDataNormals()
    normals.SetInputConnection(mover.GetOutputPort())
    normals.SplittingOff()
    normals.Update()
    moved = vtk.vtkPolyData()
    moved.ShallowCopy(normals.GetOutput())
    return moved


def _paint(surface: vtk.vtkPolyData, colour: tuple[float, float, float]) -> None:
    """Give every point a colour of its own, so that all structures are one node."""
    rgb = np.round(255 * np.array(colour)).astype(np.uint8)
    array = numpy_to_vtk(np.tile(rgb, (surface.GetNumberOfPoints(), 1)), deep=True)
    array.SetName("colour")
    surface.GetPointData().SetScalars(array)


def _add_model(result: Result, name: str, parts: vtk.vtkAppendPolyData) -> None:
    """A model of the structures that is not saved: it is made again from the label map."""
    parts.Update()
    node = add_node(result.scene, "vtkMRMLModelNode", f"{result.name} structures {name}")
    node.SetAndObservePolyData(parts.GetOutput())
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetVisibility(False)
    if name == "fixed":
        display.SetColor(*_FIXED_COLOUR)
        display.SetOpacity(_FIXED_OPACITY)
    else:
        display.SetScalarVisibility(True)
        display.SetActiveScalarName("colour")
        display.SetScalarRangeFlag(display.UseDirectMapping)
    for made in (node, display):
        made.SetSaveWithScene(False)
    result.keep(_role(name), node)
