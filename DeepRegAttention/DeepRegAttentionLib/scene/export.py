"""Nodes as the files that a registration reads: volumes, masks, label maps, transforms, landmarks.

A parent transform is honoured: what is written lies where the views show it. A volume under a linear transform
is written as if hardened; under any other one it is refused.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from ..engine.errors import DimensionError, ImageError, LabelError, LandmarkError, OutputError
from ..engine.landmarks import Landmarks, require_pairs, write_landmarks
from ..terms.inputs import Inputs
from .nodes import (
    LPS_TO_RAS,
    array_image,
    array_matrix,
    image_array,
    last_change,
    matrix_array,
    remove_node,
    voxel_to_world,
    voxels,
)
from .transforms import parts, ras_to_lps

LabelNode = Union["slicer.vtkMRMLScalarVolumeNode", "slicer.vtkMRMLSegmentationNode"]
"""What structures or a mask may be given as."""

# A displacement field that must be sampled has at most about this many points.
_FIELD_POINTS = 2_000_000


def write_steps(
    folder: Union[str, Path],
    fixed: slicer.vtkMRMLScalarVolumeNode,
    moving: slicer.vtkMRMLScalarVolumeNode,
    fixed_mask: Optional[LabelNode] = None,
    moving_mask: Optional[LabelNode] = None,
    initial_transform: Optional[slicer.vtkMRMLTransformNode] = None,
    regularization_map: Optional[slicer.vtkMRMLScalarVolumeNode] = None,
    fixed_landmarks: Optional[slicer.vtkMRMLMarkupsNode] = None,
    moving_landmarks: Optional[slicer.vtkMRMLMarkupsNode] = None,
    labels: Optional[LabelNode] = None,
    fixed_labels: Optional[LabelNode] = None,
) -> Generator[str, None, Inputs]:
    """Write everything that one registration reads, in steps of one file each, so that a GUI stays alive in between.

    Yields the name of what comes next; the inputs are the generator's return value. Arguments are named as in
    :class:`~..terms.inputs.Inputs`.

    Parameters
    ----------
    folder : str or Path
        Exists and is the job's own.
    fixed, moving
        The two images.
    fixed_mask, moving_mask
        A volume (voxels other than 0 count) or a segmentation (its visible segments together).
    labels, fixed_labels
        Structures of the moving and the fixed image: a label map or a segmentation (all segments).
    initial_transform
        What one would put the moving volume under to bring it to the fixed one, with its parents.
    fixed_landmarks, moving_landmarks
        Control points, paired by name if both lists have the same names, else by order.
    regularization_map
        Local strength of the smoothness.

    Raises
    ------
    ImageError, LabelError, LandmarkError
        A node cannot be used; the sentence says which and why.
    OutputError
        The folder cannot be written.
    """
    folder = Path(folder)
    files: dict[str, str] = {}

    def path(name: str, ending: str = ".nrrd") -> Path:
        files[name] = str(folder / f"{name}{ending}")
        return Path(files[name])

    for name, node in (("fixed", fixed), ("moving", moving), ("regularization_map", regularization_map)):
        if node is not None:
            yield name
            write_volume(node, path(name))
    structures = (
        ("fixed_mask", fixed_mask, fixed),
        ("moving_mask", moving_mask, moving),
        ("labels", labels, moving),
        ("fixed_labels", fixed_labels, fixed),
    )
    for name, node, image in structures:
        if node is not None:
            yield name
            write_labels(node, image, path(name), visible_only=name.endswith("mask"))
    if initial_transform is not None:
        yield "initial_transform"
        write_transform(initial_transform, path("initial_transform", ".h5"), fixed)
    if fixed_landmarks is not None and moving_landmarks is not None:
        pair = require_pairs(landmarks_of(fixed_landmarks), landmarks_of(moving_landmarks))
        for name, landmarks in zip(("fixed_landmarks", "moving_landmarks"), pair):
            write_landmarks(path(name, ".mrk.json"), landmarks)
    return Inputs(**files)


def input_states(nodes: Mapping[str, Optional[slicer.vtkMRMLNode]]) -> dict[str, tuple[Any, ...]]:
    """Of each node, by its name as in :func:`write_steps`, what differs if that may write something else of it now."""
    return {name: _state(node, name.endswith("mask")) for name, node in nodes.items() if node is not None}


def _state(node: slicer.vtkMRMLTransformableNode, visible_only: bool) -> tuple[Any, ...]:
    above, parent = [], node.GetParentTransformNode()
    while parent is not None:
        above.append((parent.GetID(), parent.GetTransformToWorldMTime()))
        parent = parent.GetParentTransformNode()
    return (node.GetID(), *above, *_content(node, visible_only))


def _content(node: slicer.vtkMRMLTransformableNode, visible_only: bool) -> list[Any]:
    """What is written of a node, or when that changed last."""
    if node.IsA("vtkMRMLTransformNode"):
        return [node.GetTransformToWorldMTime()]
    if node.IsA("vtkMRMLMarkupsNode"):
        numbers = range(node.GetNumberOfControlPoints())
        return [(node.GetNthControlPointLabel(n), *node.GetNthControlPointPosition(n)) for n in numbers]
    if node.IsA("vtkMRMLSegmentationNode"):
        segmentation = node.GetSegmentation()
        source = segmentation.GetSourceRepresentationName()
        segments = _segments(node, visible_only)
        return [(name, last_change(segmentation.GetSegment(name).GetRepresentation(source))) for name in segments]
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return [matrix_array(matrix).tolist(), last_change(node.GetImageData())]


# Volumes and structures


def write_volume(node: slicer.vtkMRMLScalarVolumeNode, path: Union[str, Path]) -> None:
    """Write a scalar volume as uncompressed NRRD, in world coordinates.

    Raises
    ------
    EmptyImageError
        It has no voxels.
    ImageError
        It is under a transform that is not linear, or that shears it.
    DimensionError
        It has more than one value per voxel.
    OutputError
        The file cannot be written.
    """
    values = voxels(node)
    if values.ndim != 3:
        raise DimensionError(f"The volume “{node.GetName()}” has {values.shape[3]} values per voxel; one is needed.")
    _write_image(_image(values, voxel_to_world(node), node.GetName()), Path(path))


def _image(values: np.ndarray, to_world: np.ndarray, name: str) -> sitk.Image:
    """An image of values ``(K, J, I)`` on a grid given by its matrix from indices to world RAS mm."""
    to_lps = LPS_TO_RAS @ to_world
    spacing = np.linalg.norm(to_lps[:3, :3], axis=0)
    direction = to_lps[:3, :3] / spacing
    if not np.allclose(direction.T @ direction, np.eye(3), atol=1e-4):
        raise ImageError(f"The volume “{name}” is sheared by the transform that it is under; harden that first.")
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(spacing.tolist())
    image.SetDirection(direction.ravel().tolist())
    image.SetOrigin(to_lps[:3, 3].tolist())
    return image


def _write_image(image: sitk.Image, path: Path) -> None:
    try:
        sitk.WriteImage(image, str(path), useCompression=False)
    except RuntimeError as error:
        raise _not_written(path) from error


def _not_written(path: Path) -> OutputError:
    reason = "the disk may be full" if path.parent.is_dir() else f"the folder {path.parent} does not exist"
    return OutputError(f"{path} cannot be written: {reason}.")


def write_labels(
    node: LabelNode, reference: slicer.vtkMRMLScalarVolumeNode, path: Union[str, Path], visible_only: bool = False
) -> None:
    """Write a label map, or the segments of a segmentation as one label map on the grid of a volume.

    Parameters
    ----------
    node : vtkMRMLLabelMapVolumeNode, vtkMRMLScalarVolumeNode or vtkMRMLSegmentationNode
        Segments are numbered as :func:`label_names` says; where they overlap, the later one wins.
    reference : vtkMRMLScalarVolumeNode
        The image that the structures belong to: its grid is used for a segmentation.
    path : str or Path
        Of the NRRD file.
    visible_only : bool
        Leave out the segments that the views do not show.

    Raises
    ------
    LabelError
        There is no segment, or none that has a voxel inside the image.
    """
    if not node.IsA("vtkMRMLSegmentationNode"):
        write_volume(node, path)
        return
    segments = _segments(node, visible_only)
    if not segments:
        kind = "visible segment" if visible_only else "segment"
        raise LabelError(f"The segmentation “{node.GetName()}” has no {kind}.")
    values = _merged(node, segments, reference)
    if not values.any():
        raise LabelError(
            f"The segments of “{node.GetName()}” are empty or lie outside the volume “{reference.GetName()}”."
        )
    _write_image(_image(values, voxel_to_world(reference), reference.GetName()), Path(path))


def label_names(node: LabelNode, visible_only: bool = False) -> dict[int, str]:
    """The name of each structure by its number in what :func:`write_labels` writes; for tables and reports."""
    if node.IsA("vtkMRMLSegmentationNode"):
        segmentation = node.GetSegmentation()
        segments = _segments(node, visible_only)
        return {n: segmentation.GetSegment(segment).GetName() for n, segment in enumerate(segments, 1)}
    display = node.GetDisplayNode()
    colours = display.GetColorNode() if display is not None else None
    if colours is None or not node.IsA("vtkMRMLLabelMapVolumeNode"):
        return {}
    numbers = [n for n in _numbers(voxels(node)) if 0 < n < colours.GetNumberOfColors()]
    names = {n: colours.GetColorName(n) for n in numbers}
    # Tables that are only colours call them by their numbers.
    return {n: name for n, name in names.items() if name and name not in ("(none)", str(n))}


def _numbers(values: np.ndarray) -> list[int]:
    """Which there are, of whole numbers: counted, which is ten times as fast as sorted."""
    low = int(values.min())
    counts = np.bincount((values.ravel() - low).astype(np.intp, copy=False))
    return [int(n) + low for n in np.flatnonzero(counts)]


def label_array(node: LabelNode, reference: slicer.vtkMRMLScalarVolumeNode) -> tuple[np.ndarray, np.ndarray]:
    """The structures of a label map on its grid, or of a segmentation on that of a volume, as :func:`write_labels`.

    Returns
    -------
    ndarray ``(K, J, I)``, ndarray ``(4, 4)``
        Their numbers, and the matrix from voxels (i, j, k) to RAS mm.
    """
    if node.IsA("vtkMRMLSegmentationNode"):
        return _merged(node, _segments(node, False), reference), voxel_to_world(reference)
    return voxels(node), voxel_to_world(node)


def _segments(node: slicer.vtkMRMLSegmentationNode, visible_only: bool) -> list[str]:
    segmentation, display = node.GetSegmentation(), node.GetDisplayNode()
    segments = [segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments())]
    if not visible_only or display is None:
        return segments
    return [segment for segment in segments if display.GetSegmentVisibility(segment)]


def _merged(
    node: slicer.vtkMRMLSegmentationNode, segments: Sequence[str], reference: slicer.vtkMRMLScalarVolumeNode
) -> np.ndarray:
    """Segments as numbers from 1 on the grid of a volume, ``(K, J, I)``."""
    ids = vtk.vtkStringArray()
    for segment in segments:
        ids.InsertNextValue(segment)
    shape = voxels(reference).shape
    with _hidden_volumes(node.GetScene()) as (grid, merged):
        grid.SetAndObserveImageData(array_image(np.zeros(shape, np.uint8)))
        grid.SetIJKToRASMatrix(array_matrix(voxel_to_world(reference)))
        slicer.vtkSlicerSegmentationsModuleLogic.ExportSegmentsToLabelmapNode(
            node, ids, merged, grid, slicer.vtkSegmentation.EXTENT_REFERENCE_GEOMETRY
        )
        values: np.ndarray = voxels(merged).copy()
    return values


@contextmanager
def _hidden_volumes(scene: slicer.vtkMRMLScene) -> Iterator[Sequence[slicer.vtkMRMLVolumeNode]]:
    """Two label map nodes that no selector shows, for as long as they are needed, and nothing left behind."""
    count = scene.GetNumberOfNodes()
    try:
        nodes = [slicer.vtkMRMLLabelMapVolumeNode() for _ in range(2)]
        for node in nodes:
            node.SetHideFromEditors(True)
            scene.AddNode(node)
        yield nodes
    finally:
        # With the display and the colours that the export makes.
        for node in [scene.GetNthNode(n) for n in reversed(range(count, scene.GetNumberOfNodes()))]:
            remove_node(scene, node)


# Transforms


def write_transform(
    node: slicer.vtkMRMLTransformNode, path: Union[str, Path], reference: slicer.vtkMRMLVolumeNode
) -> None:
    """Write a transform with its parents as ``.h5``, from fixed to moving points (LPS mm), for SimpleITK.

    In Slicer, the moving volume under this node comes to the fixed one: ``ToWorld`` takes moving points to fixed
    points, so what is written is ``FromWorld``, the resampling direction. Linear transforms and displacement grids
    are kept as they are; any other part (a grid that is inverted, a thin-plate or B-spline) makes the whole
    sampled as a displacement field. Beyond a grid Slicer goes on with its border, while ITK displaces nothing.

    Parameters
    ----------
    node : vtkMRMLTransformNode
        Linear, grid, B-spline, thin-plate or a composite of them.
    path : str or Path
        Of the ``.h5`` file.
    reference : vtkMRMLVolumeNode
        The fixed volume: on its grid a transform is sampled, if it must be.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    from_world = vtk.vtkGeneralTransform()
    node.GetTransformFromWorld(from_world)
    chain = [_itk_transform(part) for part in parts(from_world)]
    complete = [part for part in chain if part is not None]
    if len(complete) < len(chain):
        complete = [_sampled(from_world, reference)]
    # ITK applies the last one first.
    _write_chain(sitk.CompositeTransform(complete[::-1] or [sitk.AffineTransform(3)]), Path(path))


def write_deformation(linear: np.ndarray, grid: vtk.vtkAbstractTransform, path: Union[str, Path]) -> None:
    """Write a displacement grid followed by a matrix ``(4, 4)``, both of RAS points, as ``.h5`` of LPS points.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    matrix = ras_to_lps(linear)
    affine = sitk.AffineTransform(matrix[:3, :3].ravel().tolist(), matrix[:3, 3].tolist())
    _write_chain(sitk.CompositeTransform([affine, _field_transform(grid)]), Path(path))


def _write_chain(transform: sitk.Transform, path: Path) -> None:
    try:
        sitk.WriteTransform(transform, str(path))
    except RuntimeError as error:
        raise _not_written(path) from error


def _itk_transform(part: vtk.vtkAbstractTransform) -> Optional[sitk.Transform]:
    """A simple transform of RAS points as one of LPS points; None if ITK's files know none like it."""
    if part.IsA("vtkLinearTransform"):
        matrix = ras_to_lps(matrix_array(part.GetMatrix()))
        return sitk.AffineTransform(matrix[:3, :3].ravel().tolist(), matrix[:3, 3].tolist())
    if part.IsA("vtkGridTransform") and not part.GetInverseFlag():
        return _field_transform(part)
    return None


def _field_transform(grid: vtk.vtkAbstractTransform) -> sitk.Transform:
    image, directions = grid.GetDisplacementGrid(), grid.GetGridDirectionMatrix()
    rotation = matrix_array(directions) if directions is not None else np.eye(4)
    to_world = rotation @ np.diag([*image.GetSpacing(), 1.0])
    to_world[:3, 3] = image.GetOrigin()
    vectors = image_array(image) * grid.GetDisplacementScale() + grid.GetDisplacementShift()
    return _displacements(vectors, to_world)


def _displacements(vectors: np.ndarray, to_world: np.ndarray) -> sitk.Transform:
    """A displacement field of vectors ``(K, J, I, 3)`` in RAS mm on a grid."""
    field = sitk.GetImageFromArray(vectors * np.array([-1.0, -1.0, 1.0]), isVector=True)
    to_lps = LPS_TO_RAS @ to_world
    spacing = np.linalg.norm(to_lps[:3, :3], axis=0)
    field.SetSpacing(spacing.tolist())
    field.SetDirection((to_lps[:3, :3] / spacing).ravel().tolist())
    field.SetOrigin(to_lps[:3, 3].tolist())
    return sitk.DisplacementFieldTransform(field)


def _sampled(transform: vtk.vtkAbstractTransform, reference: slicer.vtkMRMLVolumeNode) -> sitk.Transform:
    """A transform as displacements at every voxel of a volume, or every second, third, ... of a large one."""
    size = np.array(reference.GetImageData().GetDimensions())
    step = max(1, int(np.ceil((size.prod() / _FIELD_POINTS) ** (1 / 3))))
    to_world = voxel_to_world(reference) @ np.diag([step, step, step, 1.0])
    counts = np.ceil((size - 1) / step).astype(int) + 1
    k, j, i = np.meshgrid(*(np.arange(n) for n in counts[::-1]), indexing="ij")
    points = np.stack([i, j, k], axis=-1) @ to_world[:3, :3].T + to_world[:3, 3]
    return _displacements(_transformed(transform, points) - points, to_world)


def _transformed(transform: vtk.vtkAbstractTransform, points: np.ndarray) -> np.ndarray:
    given, moved = vtk.vtkPoints(), vtk.vtkPoints()
    moved.SetDataTypeToDouble()
    given.SetData(numpy_to_vtk(points.reshape(-1, 3), deep=True))
    transform.TransformPoints(given, moved)
    transformed: np.ndarray = vtk_to_numpy(moved.GetData()).reshape(points.shape)
    return transformed


# Landmarks


def landmarks_of(node: slicer.vtkMRMLMarkupsNode) -> Landmarks:
    """The control points of a markups node: LPS mm in world coordinates, with their labels as names.

    Raises
    ------
    LandmarkError
        There is none, or one is not placed yet.
    """
    count = node.GetNumberOfControlPoints()
    if not count:
        raise LandmarkError(f"The point list “{node.GetName()}” is empty.")
    names = tuple(node.GetNthControlPointLabel(n) for n in range(count))
    for n, name in enumerate(names):
        if node.GetNthControlPointPositionStatus(n) != node.PositionDefined:
            raise LandmarkError(f"The point “{name}” of “{node.GetName()}” has no position; place it or delete it.")
    points = [node.GetNthControlPointPositionWorld(n) for n in range(count)]
    return Landmarks(np.array([[*point] for point in points]) * [-1.0, -1.0, 1.0], names)
