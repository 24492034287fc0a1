"""Small things done with MRML nodes: make, name, file, and look at them as numpy arrays."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any, Optional, TypeVar

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from ..engine.errors import EmptyImageError, ImageError, UnreadableFileError

_SPATIAL = slicer.vtkMRMLVolumeNode.VoxelVectorTypeSpatial
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Turns points from the one system to the other; its own inverse."""


_Value = TypeVar("_Value")


def finish(steps: Generator[Any, None, _Value]) -> _Value:
    """Go through all steps at once; returns what they return."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            value: _Value = end.value
            return value


def add_node(scene: slicer.vtkMRMLScene, kind: str, name: str) -> slicer.vtkMRMLNode:
    """A new node of a class, such as ``"vtkMRMLTableNode"``, with a name that the scene does not have yet."""
    return scene.AddNewNodeByClass(kind, scene.GenerateUniqueName(name))


def remove_node(scene: slicer.vtkMRMLScene, node: Optional[slicer.vtkMRMLNode]) -> None:
    """Remove a node with what exists only for it: its display and storage nodes, its place in the hierarchy."""
    if node is None or node.GetScene() is not scene:
        return
    if node.IsA("vtkMRMLDisplayableNode"):
        for n in reversed(range(node.GetNumberOfDisplayNodes())):
            display = node.GetNthDisplayNode(n)
            if display is not None:
                scene.RemoveNode(display)
    if node.IsA("vtkMRMLStorableNode") and node.GetStorageNode() is not None:
        scene.RemoveNode(node.GetStorageNode())
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    item = hierarchy.GetItemByDataNode(node) if hierarchy is not None else 0
    if item:
        # An application does so by itself; without one, the item would stay behind and keep its folder in use.
        hierarchy.RemoveItem(item, False, False)
    scene.RemoveNode(node)


def last_change(data: Optional[vtk.vtkObject]) -> int:
    """When something changed last, by VTK's own count; 0 if there is none."""
    return 0 if data is None else int(data.GetMTime())


# The subject hierarchy


def new_folder(scene: slicer.vtkMRMLScene, name: str) -> int:
    """A folder of the subject hierarchy; 0 if the scene has none."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    return hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), name) if hierarchy is not None else 0


def put_into_folder(folder: int, node: slicer.vtkMRMLNode) -> None:
    """Move a node into a folder; an application has already made an item for it, plain Python has not."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    if hierarchy is None or not folder:
        return
    item = hierarchy.GetItemByDataNode(node)
    if item:
        hierarchy.SetItemParent(item, folder)
    else:
        hierarchy.CreateItem(folder, node)


def folder_of(node: Optional[slicer.vtkMRMLNode]) -> int:
    """The folder that a node lies in; 0 if there is none."""
    if node is None:
        return 0
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    item = hierarchy.GetItemByDataNode(node) if hierarchy is not None else 0
    parent = hierarchy.GetItemParent(item) if item else 0
    return 0 if not parent or parent == hierarchy.GetSceneItemID() else parent


def remove_unused_folder(scene: slicer.vtkMRMLScene, folder: int) -> None:
    """Remove a folder that nothing lies in."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    if hierarchy is not None and folder and not hierarchy.GetNumberOfItemChildren(folder):
        hierarchy.RemoveItem(folder)


# Volumes


def read_volume(node: slicer.vtkMRMLVolumeNode, path: Path) -> None:
    """Fill a volume node of a scene from a file, without keeping a tie to the file.

    Vectors become RAS, so that they point where they should in the views.

    Raises
    ------
    UnreadableFileError
        The file is missing or damaged.
    """
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(path))
    storage.SetSingleFile(1)
    storage.SetCenterImage(0)
    if not path.is_file() or not storage.ReadData(node) or node.GetImageData() is None:
        raise UnreadableFileError(f"{path} cannot be read: it is missing or damaged.")
    if node.IsA("vtkMRMLVectorVolumeNode") and node.GetVoxelVectorType() != _SPATIAL:
        vectors = voxels(node)
        vectors[..., :2] *= -1
        # From now on it is Slicer that turns them to LPS and back when it writes and reads a scene.
        node.SetVoxelVectorType(_SPATIAL)


def renew_volume(node: slicer.vtkMRMLVolumeNode, path: Path) -> None:
    """Give a volume the voxels and the grid of a file in one change, so that views never see it without any.

    Raises
    ------
    UnreadableFileError
        The file is missing or damaged; the volume stays as it was.
    """
    newest = node.CreateNodeInstance()
    read_volume(newest, path)
    unchanged = node.StartModify()
    node.CopyOrientation(newest)
    node.SetAndObserveImageData(newest.GetImageData())
    node.EndModify(unchanged)


def voxels(node: slicer.vtkMRMLVolumeNode) -> np.ndarray:
    """The values of a volume, ``(K, J, I)`` or ``(K, J, I, C)``; a view of the node's memory.

    Raises
    ------
    EmptyImageError
        The volume has no voxels.
    """
    image = node.GetImageData()
    if image is None or not image.GetNumberOfPoints() or image.GetPointData().GetScalars() is None:
        raise EmptyImageError(f"The volume “{node.GetName()}” has no voxels.")
    return image_array(image)


def image_array(image: vtk.vtkImageData) -> np.ndarray:
    """The values of an image, ``(K, J, I)`` or ``(K, J, I, C)``, as a view."""
    shape = tuple(reversed(image.GetDimensions()))
    count = image.GetNumberOfScalarComponents()
    array: np.ndarray = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(
        shape if count == 1 else (*shape, count)
    )
    return array


def array_image(values: np.ndarray) -> vtk.vtkImageData:
    """An image with its own copy of values ``(K, J, I)`` or ``(K, J, I, 3)``, spacing 1 and origin 0."""
    image = vtk.vtkImageData()
    image.SetDimensions(*reversed(values.shape[:3]))
    flat = np.ascontiguousarray(values).reshape(-1, *values.shape[3:])
    image.GetPointData().SetScalars(numpy_to_vtk(flat, deep=True))
    return image


def set_grid(node: slicer.vtkMRMLVolumeNode, reference: slicer.vtkMRMLVolumeNode) -> None:
    """Give a volume the grid of another one."""
    matrix = vtk.vtkMatrix4x4()
    reference.GetIJKToRASMatrix(matrix)
    node.SetIJKToRASMatrix(matrix)


# Geometry


def matrix_array(matrix: vtk.vtkMatrix4x4) -> np.ndarray:
    """A VTK matrix as ``(4, 4)``."""
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def array_matrix(values: np.ndarray) -> vtk.vtkMatrix4x4:
    """A ``(4, 4)`` array as a VTK matrix."""
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(np.asarray(values, dtype=float).ravel().tolist())
    return matrix


def voxel_to_world(node: slicer.vtkMRMLVolumeNode) -> np.ndarray:
    """From voxel indices (i, j, k) to world RAS mm, ``(4, 4)``, parent transforms included.

    Raises
    ------
    ImageError
        The volume is under a transform that is not linear.
    """
    matrix, parent = vtk.vtkMatrix4x4(), node.GetParentTransformNode()
    node.GetIJKToRASMatrix(matrix)
    if parent is None:
        return matrix_array(matrix)
    to_world = vtk.vtkMatrix4x4()
    if not parent.IsTransformToWorldLinear() or not parent.GetMatrixTransformToWorld(to_world):
        raise ImageError(
            f"The volume “{node.GetName()}” is under “{parent.GetName()}”, a transform that is not linear; "
            "harden it or take the volume out of it."
        )
    total: np.ndarray = matrix_array(to_world) @ matrix_array(matrix)
    return total


# Display


def copy_window(node: slicer.vtkMRMLScalarVolumeNode, like: Optional[slicer.vtkMRMLScalarVolumeNode]) -> None:
    """Show a volume with the brightness, contrast and colours of another one, or with automatic ones."""
    other = like.GetDisplayNode() if like is not None else None
    if other is None:
        node.CreateDefaultDisplayNodes()
        node.GetDisplayNode().SetAndObserveColorNodeID("vtkMRMLColorTableNodeGrey")
    else:
        half = other.GetWindow() / 2
        show_range(node, other.GetLevel() - half, other.GetLevel() + half, other.GetColorNode())


def show_range(
    node: slicer.vtkMRMLVolumeNode, low: float, high: float, colours: Optional[slicer.vtkMRMLColorNode]
) -> None:
    """Show the values from low to high of a volume with these colours."""
    display = node.GetDisplayNode()
    new = display is None
    if new:
        # A default display would go through all voxels for an automatic window.
        vectors = node.IsA("vtkMRMLVectorVolumeNode")
        display = slicer.vtkMRMLVectorVolumeDisplayNode() if vectors else slicer.vtkMRMLScalarVolumeDisplayNode()
    display.SetAutoWindowLevel(False)
    display.SetWindowLevelMinMax(low, high)
    if new:
        node.GetScene().AddNode(display)
        node.SetAndObserveDisplayNodeID(display.GetID())
    if colours is not None:
        display.SetAndObserveColorNodeID(colours.GetID())
