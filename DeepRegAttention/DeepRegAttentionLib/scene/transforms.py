"""Transforms of a result: read exactly as SimpleITK evaluates them, taken apart, and put together.

Slicer's ``FromParent`` is the resampling direction, fixed to moving, as in ITK's files. Slicer reads displacement
grids with cubic interpolation, while ITK (and so the registration) interpolates linearly: between the points of a
coarse grid the two differ by tenths of a millimetre, so the grids of a result are set to linear.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import numpy as np
import slicer
import vtk

from ..engine.errors import UnreadableFileError
from .nodes import LPS_TO_RAS, array_image, array_matrix, image_array, matrix_array


def read_transform(node: slicer.vtkMRMLTransformNode, path: Path) -> None:
    """Fill a transform node of a scene from an ITK transform file, without keeping a tie to the file.

    Raises
    ------
    UnreadableFileError
        The file is missing or damaged.
    """
    storage = slicer.vtkMRMLTransformStorageNode()
    storage.SetFileName(str(path))
    if not path.is_file() or not storage.ReadData(node):
        raise UnreadableFileError(f"{path} cannot be read: it is missing or damaged.")
    interpolate_linearly(node)


def interpolate_linearly(node: slicer.vtkMRMLTransformNode) -> None:
    """Make a transform read from a file evaluate its displacement grids as ITK does."""
    for part in parts(node.GetTransformFromParent()):
        if part.IsA("vtkGridTransform") and part.GetInterpolationModeAsString() != "Linear":
            part.SetInterpolationModeToLinear()


def parts(transform: vtk.vtkAbstractTransform) -> list[vtk.vtkAbstractTransform]:
    """The simple transforms of a chain, in the order in which they are applied to a point."""
    found = vtk.vtkCollection()
    slicer.vtkMRMLTransformNode.FlattenGeneralTransform(found, transform)
    return [found.GetItemAsObject(n) for n in range(found.GetNumberOfItems())]


def linear_part(node: slicer.vtkMRMLTransformNode) -> np.ndarray:
    """The linear parts of a transform from fixed to moving points together, ``(4, 4)``, RAS mm."""
    matrix = np.eye(4)
    for part in parts(node.GetTransformFromParent()):
        if part.IsA("vtkLinearTransform"):
            matrix = matrix_array(part.GetMatrix()) @ matrix
    return matrix


def grid_part(node: slicer.vtkMRMLTransformNode) -> Optional[vtk.vtkAbstractTransform]:
    """The displacement grid of a transform from fixed to moving points; None if it is linear."""
    grids = [part for part in parts(node.GetTransformFromParent()) if part.IsA("vtkGridTransform")]
    return grids[0] if grids else None


def deformation_part(node: slicer.vtkMRMLTransformNode, linear: np.ndarray) -> Optional[vtk.vtkAbstractTransform]:
    """The displacement grid of a transform without its linear part, ``(4, 4)``, RAS mm; None if it is linear alone."""
    grid = grid_part(node)
    if grid is None:
        return None
    alone = len(parts(node.GetTransformFromParent())) == 1
    return without_linear(grid, linear) if alone and not np.allclose(linear, np.eye(4)) else grid


def grid_transform(
    field: slicer.vtkMRMLVectorVolumeNode, sign: float = 1.0, steps: Sequence[int] = (1, 1, 1)
) -> slicer.vtkOrientedGridTransform:
    """A transform by the vectors of a volume (RAS mm) on its grid, interpolated linearly.

    Parameters
    ----------
    field : vtkMRMLVectorVolumeNode
        Displacements; copied.
    sign : float
        -1 turns them round.
    steps : sequence of int
        Along i, j, k: every how many voxels are kept.
    """
    values = image_array(field.GetImageData())[tuple(slice(None, None, step) for step in reversed(steps))]
    spacing = [step * length for step, length in zip(steps, field.GetSpacing())]
    directions = vtk.vtkMatrix4x4()
    field.GetIJKToRASDirectionMatrix(directions)
    return _grid(values * np.float32(sign), field.GetOrigin(), spacing, directions)


def at_rest_outside(
    grid: vtk.vtkAbstractTransform, where: Optional[np.ndarray] = None
) -> slicer.vtkOrientedGridTransform:
    """The transform of a displacement grid within it, and none a step outside, where VTK goes on as at its border.

    Parameters
    ----------
    grid : vtkOrientedGridTransform
        Any.
    where : np.ndarray, optional
        ``(K, J, I)``, bool, of its points: those where it moves; without it all do.
    """
    image, directions = grid.GetDisplacementGrid(), grid.GetGridDirectionMatrix() or vtk.vtkMatrix4x4()
    values = image_array(image)
    framed = np.zeros((*(n + 2 for n in values.shape[:3]), 3), np.float32)
    framed[1:-1, 1:-1, 1:-1] = values if where is None else values * where[..., None]
    step = matrix_array(directions)[:3, :3] @ np.array(image.GetSpacing())
    return _grid(framed, np.array(image.GetOrigin()) - step, image.GetSpacing(), directions)


def without_linear(grid: vtk.vtkAbstractTransform, linear: np.ndarray) -> slicer.vtkOrientedGridTransform:
    """The deformation D of a grid transform T that includes a linear part A: T(x) = A(D(x)).

    Parameters
    ----------
    grid : vtkOrientedGridTransform
        From fixed to moving points.
    linear : np.ndarray
        ``(4, 4)``, RAS mm.
    """
    return followed_by(grid, np.linalg.inv(linear))


def followed_by(grid: vtk.vtkAbstractTransform, linear: np.ndarray) -> slicer.vtkOrientedGridTransform:
    """The transform x -> A(T(x)) of a grid transform T and a linear one A ``(4, 4)``, RAS mm, on the same grid.

    Exact wherever the grid lies, as a linear transform is between its points what it is at them.
    """
    image, directions = grid.GetDisplacementGrid(), grid.GetGridDirectionMatrix() or vtk.vtkMatrix4x4()
    values = image_array(image)
    if not np.allclose(linear, np.eye(4)):
        to_world = matrix_array(directions)[:3, :3] @ np.diag(image.GetSpacing())
        # A(x + u(x)) - x = (A - 1) x + A u(x): the first is linear in the indices.
        along = (linear[:3, :3] - np.eye(3)) @ to_world
        offset = (linear[:3, :3] - np.eye(3)) @ np.array(image.GetOrigin()) + linear[:3, 3]
        k, j, i = (np.arange(n)[..., None] for n in values.shape[:3])
        shift = (k * along[:, 2])[:, None, None] + (j * along[:, 1])[:, None] + i * along[:, 0] + offset
        values = values @ linear[:3, :3].T + shift
    return _grid(values, image.GetOrigin(), image.GetSpacing(), directions)


def _grid(
    values: np.ndarray, origin: Sequence[float], spacing: Sequence[float], directions: vtk.vtkMatrix4x4
) -> slicer.vtkOrientedGridTransform:
    # Half the memory and half the file of double precision, exact to a millionth of a millimetre.
    image = array_image(values.astype(np.float32, copy=False))
    image.SetOrigin(*origin)
    image.SetSpacing(*spacing)
    transform = slicer.vtkOrientedGridTransform()
    transform.SetDisplacementGridData(image)
    transform.SetGridDirectionMatrix(directions)
    transform.SetInterpolationModeToLinear()
    return transform


def longest_displacement(grid: vtk.vtkAbstractTransform) -> float:
    """The length in mm that hardly any displacement of a grid exceeds (one in 500 does)."""
    values = image_array(grid.GetDisplacementGrid())
    strides = tuple(slice(None, None, max(1, n // 64)) for n in values.shape[:3])
    return float(np.percentile(np.linalg.norm(values[strides], axis=-1), 99.8))


def ras_to_lps(matrix: np.ndarray) -> np.ndarray:
    """A matrix between RAS points as one between LPS points, and the other way round."""
    flipped: np.ndarray = LPS_TO_RAS @ matrix @ LPS_TO_RAS
    return flipped


def linear_transform(matrix: np.ndarray) -> vtk.vtkTransform:
    """A VTK transform of a ``(4, 4)`` matrix."""
    transform = vtk.vtkTransform()
    transform.SetMatrix(array_matrix(matrix))
    return transform
