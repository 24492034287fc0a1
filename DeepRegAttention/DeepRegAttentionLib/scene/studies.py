"""A pair of a study as nodes: its images from where they were read, and its result."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, Optional, Union

import slicer

from ..engine.errors import UnreadableFileError
from ..engine.result_folder import read_metrics, recorded_inputs
from .nodes import add_node, copy_window, finish, read_volume, remove_node
from .results import Result, find_results, load_steps

_FILE = "DeepRegAttention.File"
_KINDS = {
    "fixed": "vtkMRMLScalarVolumeNode",
    "moving": "vtkMRMLScalarVolumeNode",
    "fixed_labels": "vtkMRMLLabelMapVolumeNode",
}
"""The inputs that are shown with a result, and their nodes."""


def load_pair(scene: slicer.vtkMRMLScene, folder: Union[str, Path]) -> Result:
    """:func:`pair_steps` in one go: nodes and errors are the same."""
    return finish(pair_steps(scene, Path(folder)))


def pair_steps(scene: slicer.vtkMRMLScene, folder: Path) -> Generator[str, None, Result]:
    """Make the nodes of a pair in steps, one node each, so that a GUI stays alive in between.

    Yields the name of what comes next; the result is the generator's return value. A pair that is loaded already is
    returned as it is; an image that several pairs have in common is loaded once; one that is not where it was any more,
    or that 3D Slicer cannot read, is left out.

    Parameters
    ----------
    scene : vtkMRMLScene
        Where the nodes go.
    folder : Path
        The result folder of the pair.

    Raises
    ------
    UnreadableFileError
        The folder holds no result, or a file of it is damaged; no node stays behind.
    """
    metrics = read_metrics(folder)
    for result in find_results(scene):
        if result.metrics == metrics:
            return result
    images = _Images(scene)
    complete = False
    try:
        for role, path in recorded_inputs(metrics, tuple(_KINDS)).items():
            yield path.name
            images.add(role, path)
        given = images.nodes
        result = yield from load_steps(scene, folder, **given, name=_name(metrics, given))
        complete = True
    finally:
        if not complete:
            images.undo()
    return result


def _name(metrics: Mapping[str, Any], nodes: Mapping[str, slicer.vtkMRMLNode]) -> Optional[str]:
    """Of the result, where an image can no longer give it."""
    paths = recorded_inputs(metrics)
    if ("fixed" in nodes and "moving" in nodes) or len(paths) < 2:
        return None
    return " to ".join(_stem(paths[role]) for role in ("moving", "fixed"))


class _Images:
    """The images of one pair, by their role."""

    def __init__(self, scene: slicer.vtkMRMLScene) -> None:
        self.nodes: dict[str, slicer.vtkMRMLNode] = {}
        self._scene = scene
        self._made: list[slicer.vtkMRMLNode] = []

    def add(self, role: str, path: Path) -> None:
        """Find an image in the scene, or load it; without it if it cannot be read."""
        there = self._loaded(_KINDS[role], _state(path))
        if there is not None:
            self.nodes[role] = there
            return
        node = add_node(self._scene, _KINDS[role], _stem(path))
        try:
            read_volume(node, path)
        except UnreadableFileError:
            remove_node(self._scene, node)
            return
        node.SetAttribute(_FILE, _state(path))
        if role == "fixed_labels":
            node.CreateDefaultDisplayNodes()
        else:
            copy_window(node, None)
        self._made.append(node)
        self.nodes[role] = node

    def undo(self) -> None:
        """Remove those that were loaded."""
        for node in self._made:
            remove_node(self._scene, node)

    def _loaded(self, kind: str, state: str) -> Optional[slicer.vtkMRMLNode]:
        nodes = (self._scene.GetNthNodeByClass(n, kind) for n in range(self._scene.GetNumberOfNodesByClass(kind)))
        # A label map is a scalar volume, too.
        return next((n for n in nodes if n.GetAttribute(_FILE) == state and n.GetClassName() == kind), None)


def _state(path: Path) -> str:
    """A file and when it was written: another content is another image."""
    try:
        return f"{path} {path.stat().st_mtime_ns}"
    except OSError:
        return str(path)


def _stem(path: Path) -> str:
    return path.name.split(".")[0]
