"""Watching a registration: the warped image as it becomes better."""

from __future__ import annotations

from pathlib import Path
from typing import Optional, Union

import slicer

from .nodes import add_node, copy_window, read_volume


def refresh_warped(
    scene: slicer.vtkMRMLScene,
    node: Optional[slicer.vtkMRMLScalarVolumeNode],
    path: Union[str, Path],
    like: Optional[slicer.vtkMRMLScalarVolumeNode] = None,
    name: str = "Warped (in progress)",
) -> slicer.vtkMRMLScalarVolumeNode:
    """Show the newest image of a running registration.

    Parameters
    ----------
    scene : vtkMRMLScene
        Of the node.
    node : vtkMRMLScalarVolumeNode, optional
        What an earlier call returned; None (or one that the user deleted) makes a new one.
    path : str or Path
        Of a ``map`` event.
    like : vtkMRMLScalarVolumeNode, optional
        Its window (brightness, contrast) is taken over by a new node: the moving volume.
    name : str
        Of a new node.

    Raises
    ------
    UnreadableFileError
        The file is gone or damaged: the registration may have ended meanwhile. A given node stays as it was.
    """
    newest = slicer.vtkMRMLScalarVolumeNode()
    read_volume(newest, Path(path))
    if node is None or node.GetScene() is not scene:
        node = add_node(scene, "vtkMRMLScalarVolumeNode", name)
        node.SetSaveWithScene(False)
        _take_over(node, newest)
        copy_window(node, like)
    else:
        _take_over(node, newest)
    return node


def _take_over(node: slicer.vtkMRMLScalarVolumeNode, newest: slicer.vtkMRMLScalarVolumeNode) -> None:
    """Voxels and grid in one change, so that the views are drawn once."""
    unchanged = node.StartModify()
    node.CopyOrientation(newest)
    node.SetAndObserveImageData(newest.GetImageData())
    node.EndModify(unchanged)
