"""Watching a registration: the warped image as it becomes better."""

from __future__ import annotations

from pathlib import Path
from typing import Optional, Union

import slicer

from .nodes import copy_window, renew_volume


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
    if node is not None and node.GetScene() is scene:
        renew_volume(node, Path(path))
        return node
    new = slicer.vtkMRMLScalarVolumeNode()
    renew_volume(new, Path(path))
    new.SetName(scene.GenerateUniqueName(name))
    new.SetSaveWithScene(False)
    scene.AddNode(new)
    copy_window(new, like)
    return new
