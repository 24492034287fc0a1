"""A result folder as nodes of a MRML scene, and back from a scene that was saved."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Callable, Optional, Union

import numpy as np
import slicer

from ..engine.errors import UnreadableFileError
from ..engine.result import EXTENSIONS, UNCORRECTED, map_names
from ..engine.result_folder import read_metrics
from ..terms.maps import described, holds_vectors
from .colors import label_colors
from .export import LabelNode
from .judge import make_plots, make_tables
from .nodes import (
    add_node,
    copy_window,
    finish,
    folder_of,
    new_folder,
    put_into_folder,
    read_volume,
    remove_node,
    remove_unused_folder,
    renew_volume,
    voxels,
)
from .overlays import style_map
from .transforms import followed_by, grid_part, interpolate_linearly, linear_part, read_transform

_MARK = "DeepRegAttention.Result"
_METRICS, _NAME, _LINEAR, _METRICS_BEFORE = "metrics", "name", "linear", "uncorrected_metrics"
_MAP, _TABLE, _PLOT = "map_", "table_", "plot_"
_GIVEN = ("fixed", "moving", "fixed_labels")
_INPUT = "input_"
"""Roles of the nodes that are the user's own."""


@dataclass(frozen=True)
class Wanted:
    """Which nodes to make of a result folder.

    Attributes
    ----------
    warped : bool
        The moving image on the fixed grid.
    transform : str, optional
        ``"full"``: linear part and deformation in one transform node, exact to the last digit;
        ``"grid"``: both as a single grid transform, the total displacement at the points of the grid that the
        deformation lies on; None: no transform.
    inverse : bool
        Also the transform of the other direction, if the result has it.
    maps : bool or tuple of str
        All maps, none, or these (of ``engine.result.map_names``).
    labels : bool
        The warped label map, if there is one.
    measures : bool
        Tables and plots.
    """

    warped: bool = True
    transform: Optional[str] = "full"
    inverse: bool = True
    maps: Union[bool, tuple[str, ...]] = True
    labels: bool = True
    measures: bool = True


@dataclass
class Result:
    """The nodes of one registration; what the registration did not give, or the user deleted, is None or absent.

    Attributes
    ----------
    node : vtkMRMLScriptedModuleNode
        Hidden; holds references to all others, and the metrics: by it the result is found in a loaded scene.
    name : str
        ``"<moving> to <fixed>"``.
    fixed, moving : vtkMRMLScalarVolumeNode, optional
        The user's own volumes.
    warped : vtkMRMLScalarVolumeNode, optional
    transform : vtkMRMLTransformNode, optional
        Takes fixed points to moving points as its ``FromParent``, so that a node put under it moves from the
        moving to the fixed image.
    inverse : vtkMRMLTransformNode, optional
        The other direction: what is put under it moves from the fixed to the moving image.
    maps : dict of str to vtkMRMLVolumeNode
        As ``engine.result.map_names`` has them; ``driving_force`` and its levels are vector volumes (RAS mm).
    labels : vtkMRMLLabelMapVolumeNode, optional
    metrics : dict
        What is in ``metrics.json``.
    tables : dict of str to vtkMRMLTableNode
        ``"similarity"``, ``"deformation"``, ``"structures"``, ``"histogram"``: see :mod:`.judge`.
    plots : dict of str to vtkMRMLPlotChartNode
        ``"histogram"``, ``"dice"``.
    folder : int
        The subject hierarchy item that all of them lie in; 0 without a subject hierarchy.
    fixed_labels : vtkMRMLLabelMapVolumeNode or vtkMRMLSegmentationNode, optional
        The structures of the fixed volume; the user's own, too.
    """

    node: slicer.vtkMRMLScriptedModuleNode
    name: str
    fixed: Optional[slicer.vtkMRMLScalarVolumeNode] = None
    moving: Optional[slicer.vtkMRMLScalarVolumeNode] = None
    warped: Optional[slicer.vtkMRMLScalarVolumeNode] = None
    transform: Optional[slicer.vtkMRMLTransformNode] = None
    inverse: Optional[slicer.vtkMRMLTransformNode] = None
    maps: dict[str, slicer.vtkMRMLVolumeNode] = field(default_factory=dict)
    labels: Optional[slicer.vtkMRMLLabelMapVolumeNode] = None
    metrics: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, slicer.vtkMRMLTableNode] = field(default_factory=dict)
    plots: dict[str, slicer.vtkMRMLPlotChartNode] = field(default_factory=dict)
    folder: int = 0
    fixed_labels: Optional[LabelNode] = None

    @property
    def scene(self) -> slicer.vtkMRMLScene:
        """The scene that the nodes are in."""
        return self.node.GetScene()

    @property
    def linear(self) -> np.ndarray:
        """The linear alignment alone, ``(4, 4)``: from fixed to aligned moving points, RAS mm."""
        return np.array(json.loads(self.node.GetParameter(_LINEAR)))

    @property
    def reference(self) -> Optional[slicer.vtkMRMLVolumeNode]:
        """A volume that shows where the fixed image lies: itself, else the warped one or a map."""
        return next((node for node in (self.fixed, self.warped, *self.maps.values()) if node is not None), None)

    def extra(self, role: str) -> Optional[slicer.vtkMRMLNode]:
        """A node that was made for showing the result, such as its deformation; None if there is none yet."""
        return self.node.GetNodeReference(role)

    def keep(self, role: str, node: slicer.vtkMRMLNode) -> None:
        """File a node with this result, so that it is found again in a loaded scene."""
        self.node.SetNodeReferenceID(role, node.GetID())
        put_into_folder(self.folder, node)


def prepare_scene(scene: slicer.vtkMRMLScene) -> None:
    """Make known what a saved result consists of, before a scene file is read; the application knows it all."""
    scene.RegisterNodeClass(slicer.vtkMRMLColorLegendDisplayNode())


def load_result(*arguments: Any, **named: Any) -> Result:
    """:func:`load_steps` in one go: arguments, errors and nodes are the same."""
    return finish(load_steps(*arguments, **named))


def load_steps(
    scene: slicer.vtkMRMLScene,
    folder: Union[str, Path],
    fixed: Optional[slicer.vtkMRMLScalarVolumeNode] = None,
    moving: Optional[slicer.vtkMRMLScalarVolumeNode] = None,
    wanted: Optional[Wanted] = None,
    name: Optional[str] = None,
    label_names: Optional[Mapping[int, str]] = None,
    fixed_labels: Optional[LabelNode] = None,
) -> Generator[str, None, Result]:
    """Make the nodes of a result folder in steps, one node each, so that a GUI stays alive in between.

    Yields the name of what comes next; the result is the generator's return value: ``result = yield from …``, or
    ``StopIteration.value``. The folder may be deleted afterwards.

    Parameters
    ----------
    scene : vtkMRMLScene
        Where the nodes go.
    folder : str or Path
        As written by ``RegistrationResult.save``, with any of its image formats.
    fixed, moving : vtkMRMLScalarVolumeNode, optional
        The volumes that were registered, in this scene; they give the names and the windows of the display.
    wanted : Wanted, optional
        Which nodes to make; all without it.
    name : str, optional
        Instead of ``"<moving> to <fixed>"``.
    label_names : mapping of int to str, optional
        Names of the structures, for the tables and the colours.
    fixed_labels : vtkMRMLLabelMapVolumeNode or vtkMRMLSegmentationNode, optional
        The structures of the fixed volume, to be shown beside the warped ones.

    Raises
    ------
    UnreadableFileError
        The folder holds no result, or a file of it is damaged; no node stays behind.
    """
    loader = _Loader(scene, Path(folder), fixed, moving, name, label_names or {}, fixed_labels)
    complete = False
    try:
        for title, step in loader.steps(wanted or Wanted()):
            yield title
            step()
        yield "views"
        complete = True
    finally:
        # Also when the caller gives up in between.
        if not complete:
            loader.undo()
    return loader.result


def find_results(scene: slicer.vtkMRMLScene) -> list[Result]:
    """All results in a scene, the oldest first, also after it was saved and loaded again.

    A result of which the user deleted everything is left out, and its hidden node removed.
    """
    results = []
    for node in _nodes(scene, "vtkMRMLScriptedModuleNode"):
        if node.GetAttribute(_MARK) is None:
            continue
        result = _rebuilt(node)
        if result is None:
            scene.RemoveNode(node)
        else:
            results.append(result)
    return results


def remove_result(result: Result) -> None:
    """Take a result out of its scene, with everything that was made to show it; the user's own volumes stay."""
    scene = result.scene
    roles: list[str] = []
    result.node.GetNodeReferenceRoles(roles)
    made = [result.node.GetNodeReference(role) for role in roles if not _is_given(role)]
    for chart in result.plots.values():
        made += [chart.GetNthPlotSeriesNode(n) for n in range(chart.GetNumberOfPlotSeriesNodes())]
    for node in made:
        remove_node(scene, node)
    scene.RemoveNode(result.node)
    remove_unused_folder(scene, result.folder)


def _is_given(role: str) -> bool:
    """Whether a node is the user's own."""
    return role in _GIVEN or role.startswith(_INPUT)


def keep_inputs(result: Result, nodes: Mapping[str, slicer.vtkMRMLNode]) -> None:
    """Note what a result was made of, by the names of the inputs, for what is computed of it later."""
    for name, node in nodes.items():
        result.node.SetNodeReferenceID(_INPUT + name, node.GetID())


def inputs_of_result(result: Result) -> dict[str, slicer.vtkMRMLNode]:
    """What a result was made of, by the names of the inputs, as far as it is in the scene."""
    given = {role: getattr(result, role) for role in ("fixed", "moving") if getattr(result, role) is not None}
    return {**given, **dict(_group(result.node, _INPUT))}


def _nodes(scene: slicer.vtkMRMLScene, kind: str) -> list[slicer.vtkMRMLNode]:
    return [scene.GetNthNodeByClass(n, kind) for n in range(scene.GetNumberOfNodesByClass(kind))]


def _rebuilt(node: slicer.vtkMRMLScriptedModuleNode) -> Optional[Result]:
    """A result from its hidden node; None if nothing is left of it."""
    single = {role: node.GetNodeReference(role) for role in ("warped", "transform", "inverse", "labels")}
    groups = {prefix: dict(_group(node, prefix)) for prefix in (_MAP, _TABLE, _PLOT)}
    if not any(single.values()) and not any(groups.values()):
        return None
    for role in ("transform", "inverse", "deformation", "arrows", UNCORRECTED):
        transform = node.GetNodeReference(role)
        if transform is not None:
            # A scene file does not say how its grids are to be interpolated.
            interpolate_linearly(transform)
    everything = [*single.values(), *(other for group in groups.values() for other in group.values())]
    return Result(
        node=node,
        name=node.GetParameter(_NAME),
        **{role: node.GetNodeReference(role) for role in _GIVEN},
        maps=groups[_MAP],
        tables=groups[_TABLE],
        plots=groups[_PLOT],
        metrics=json.loads(node.GetParameter(_METRICS)),
        folder=next((folder for folder in map(folder_of, everything) if folder), 0),
        **single,
    )


def _group(node: slicer.vtkMRMLScriptedModuleNode, prefix: str) -> Iterator[tuple[str, slicer.vtkMRMLNode]]:
    roles: list[str] = []
    node.GetNodeReferenceRoles(roles)
    for role in roles:
        other = node.GetNodeReference(role)
        if role.startswith(prefix) and other is not None:
            yield role[len(prefix) :], other


def find_image(name: str, folder: Path) -> Optional[Path]:
    """An image of a result folder, in whichever of its formats."""
    paths = [folder / f"{name}{extension}" for extension in (".nrrd", *EXTENSIONS)]
    return next((path for path in paths if path.is_file()), None)


def _add_map(result: Result, name: str, folder: Path) -> slicer.vtkMRMLVolumeNode:
    kind = "vtkMRMLVectorVolumeNode" if holds_vectors(name) else "vtkMRMLScalarVolumeNode"
    node = add_node(result.scene, kind, f"{result.name} {described(name).name}")
    try:
        read_volume(node, find_image(name, folder) or folder / name)
    except UnreadableFileError:
        remove_node(result.scene, node)
        raise
    result.keep(_MAP + name, node)
    node.SetDescription(described(name).meaning)
    result.maps[name] = node
    style_map(node, name)
    return node


def renew_map(result: Result, name: str, folder: Path) -> None:
    """Have a map of a result be what a folder has of it: with the colours that it has, with its own if it is new."""
    path = find_image(name, folder)
    if path is None:
        remove_node(result.scene, result.maps.pop(name, None))
    elif name in result.maps:
        renew_volume(result.maps[name], path)
    else:
        _add_map(result, name, folder)


def keep_uncorrected(result: Result, folder: Path) -> list[slicer.vtkMRMLNode]:
    """Have a result know its transform and metrics from before any correction, as a folder tells; the new nodes.

    They are hidden and saved with the scene.
    """
    before, node = folder / UNCORRECTED, result.extra(UNCORRECTED)
    if not before.is_dir():
        remove_node(result.scene, node)
        result.node.UnsetParameter(_METRICS_BEFORE)
        return []
    if node is not None:
        return []
    node = add_node(result.scene, "vtkMRMLTransformNode", f"{result.name} uncorrected transform")
    node.SetHideFromEditors(True)
    result.node.SetNodeReferenceID(UNCORRECTED, node.GetID())
    read_transform(node, before / "transform.h5")
    result.node.SetParameter(_METRICS_BEFORE, json.dumps(read_metrics(before)))
    return [node]


def metrics_before(result: Result) -> dict[str, Any]:
    """What was measured before any correction."""
    metrics: dict[str, Any] = json.loads(
        result.node.GetParameter(_METRICS_BEFORE) or result.node.GetParameter(_METRICS)
    )
    return metrics


def renew_metrics(result: Result, folder: Path, label_names: Mapping[int, str]) -> None:
    """Have the metrics of a result, and its tables, be what a folder has."""
    result.metrics = read_metrics(folder)
    result.node.SetParameter(_METRICS, json.dumps(result.metrics))
    if result.tables:
        jacobian = result.maps.get("jacobian")
        make_tables(result.scene, result.metrics, jacobian, label_names, result.name, result.tables)


class _Loader:
    """Makes the nodes of one result folder, and takes them away again if that cannot be finished."""

    def __init__(
        self,
        scene: slicer.vtkMRMLScene,
        folder: Path,
        fixed: Optional[slicer.vtkMRMLScalarVolumeNode],
        moving: Optional[slicer.vtkMRMLScalarVolumeNode],
        name: Optional[str],
        label_names: Mapping[int, str],
        fixed_labels: Optional[LabelNode],
    ) -> None:
        self.scene, self.folder, self.label_names = scene, folder, label_names
        self.made: list[slicer.vtkMRMLNode] = []
        ends = [node.GetName() if node is not None else word for node, word in ((moving, "moving"), (fixed, "fixed"))]
        self.base = name or " to ".join(ends)
        self.warped_name = f"{name} warped" if name else " warped to ".join(ends)
        self.result: Result
        self.fixed, self.moving, self.fixed_labels = fixed, moving, fixed_labels

    def steps(self, wanted: Wanted) -> Iterator[tuple[str, Callable[[], None]]]:
        """What is to be done, in order: a name and a function for each."""
        yield "result", self.start
        if wanted.warped:
            yield "warped image", self.load_warped
        yield "transform", partial(self.load_transform, wanted.transform)
        yield "corrections", self.load_uncorrected
        if wanted.inverse and (self.folder / "inverse_transform.h5").is_file():
            yield "inverse transform", self.load_inverse
        for name in self._maps(wanted.maps):
            yield described(name).name, partial(self.load_map, name)
        if wanted.labels and find_image("warped_labels", self.folder) is not None:
            yield "structures", self.load_labels
        if wanted.measures:
            yield "measures", self.measure

    def _maps(self, wanted: Union[bool, tuple[str, ...]]) -> list[str]:
        names = map_names(self.folder) if wanted is True else wanted or ()
        return [name for name in names if find_image(name, self.folder) is not None]

    def start(self) -> None:
        """The hidden node and the folder."""
        metrics = read_metrics(self.folder)
        node = self._add("vtkMRMLScriptedModuleNode", self.base)
        node.SetAttribute(_MARK, "1")
        node.SetHideFromEditors(True)
        node.SetParameter(_NAME, self.base)
        node.SetParameter(_METRICS, json.dumps(metrics))
        node.SetParameter(_LINEAR, json.dumps(np.eye(4).tolist()))
        folder = new_folder(self.scene, self.base)
        self.result = Result(node, self.base, metrics=metrics, folder=folder)
        for role in _GIVEN:
            given = getattr(self, role)
            setattr(self.result, role, given)
            if given is not None:
                node.SetNodeReferenceID(role, given.GetID())

    def load_warped(self) -> None:
        """The moving image on the fixed grid."""
        self.result.warped = self._volume("vtkMRMLScalarVolumeNode", "warped", self.warped_name, "warped")
        copy_window(self.result.warped, self.moving)

    def load_transform(self, kind: Optional[str]) -> None:
        """The transform as it is wanted; what the linear alignment alone is, is noted in any case."""
        node = self._add("vtkMRMLTransformNode", f"{self.base} transform")
        read_transform(node, self.folder / "transform.h5")
        linear, grid = linear_part(node), grid_part(node)
        self.result.node.SetParameter(_LINEAR, json.dumps(linear.tolist()))
        if kind == "grid" and grid is not None:
            # Between its points a grid is linear, as the linear part is everywhere: nothing is lost.
            total = followed_by(grid, linear)
            self._discard(node)
            node = self._add("vtkMRMLGridTransformNode", f"{self.base} transform")
            node.SetAndObserveTransformFromParent(total)
        if kind is None:
            self._discard(node)
        else:
            self._keep_transform("transform", node, self.fixed, self.moving)

    def load_uncorrected(self) -> None:
        """The transform as it was found, if corrections changed it."""
        self.made += keep_uncorrected(self.result, self.folder)

    def load_inverse(self) -> None:
        """The other direction."""
        node = self._add("vtkMRMLTransformNode", f"{self.base} inverse transform")
        read_transform(node, self.folder / "inverse_transform.h5")
        self._keep_transform("inverse", node, self.moving, self.fixed)

    def _keep_transform(
        self,
        role: str,
        node: slicer.vtkMRMLTransformNode,
        fixed: Optional[slicer.vtkMRMLVolumeNode],
        moving: Optional[slicer.vtkMRMLVolumeNode],
    ) -> None:
        setattr(self.result, role, node)
        self.result.keep(role, node)
        roles = node.GetFixedNodeReferenceRole(), node.GetMovingNodeReferenceRole()
        for reference, image in zip(roles, (fixed, moving)):
            if image is not None:
                node.SetNodeReferenceID(reference, image.GetID())

    def load_map(self, name: str) -> None:
        """A map, in its own colours."""
        self.made.append(_add_map(self.result, name, self.folder))

    def load_labels(self) -> None:
        """The warped structures, in colours that tell neighbours apart."""
        node = self._volume("vtkMRMLLabelMapVolumeNode", "warped_labels", f"{self.warped_name} structures", "labels")
        colours = label_colors(self.scene, f"{self.base} structure colours", int(voxels(node).max()), self.label_names)
        self.made.append(colours)
        node.CreateDefaultDisplayNodes()
        node.GetDisplayNode().SetAndObserveColorNodeID(colours.GetID())
        self.result.labels = node

    def measure(self) -> None:
        """Tables and plots of what was measured."""
        result = self.result
        jacobian = result.maps.get("jacobian")
        result.tables = make_tables(self.scene, result.metrics, jacobian, self.label_names, self.base)
        result.plots = make_plots(result.tables, self.base)
        for prefix, group in ((_TABLE, result.tables), (_PLOT, result.plots)):
            for name, node in group.items():
                self.made.append(node)
                result.keep(prefix + name, node)

    def _volume(self, kind: str, file: str, name: str, role: str = "") -> slicer.vtkMRMLVolumeNode:
        """A volume of the folder; filed with the result if it has a role."""
        node = self._add(kind, name)
        read_volume(node, find_image(file, self.folder) or self.folder / f"{file}{EXTENSIONS[0]}")
        if role:
            self.result.keep(role, node)
        return node

    def _add(self, kind: str, name: str) -> slicer.vtkMRMLNode:
        self.made.append(add_node(self.scene, kind, name))
        return self.made[-1]

    def _discard(self, node: slicer.vtkMRMLNode) -> None:
        self.made.remove(node)
        remove_node(self.scene, node)

    def undo(self) -> None:
        """Remove every node that was made."""
        for node in reversed(self.made):
            remove_node(self.scene, node)
        if hasattr(self, "result"):
            remove_unused_folder(self.scene, self.result.folder)
