"""Nodes written for a registration and read back by the engine: right place, right direction, clear refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from DeepRegAttentionLib.engine.errors import (
    DimensionError,
    EmptyImageError,
    ImageError,
    LabelError,
    LandmarkError,
    OutputError,
)
from DeepRegAttentionLib.engine.landmarks import read_landmarks
from DeepRegAttentionLib.engine.metrics import require_same_grid
from DeepRegAttentionLib.scene.export import (
    input_states,
    label_names,
    landmarks_of,
    write_labels,
    write_steps,
    write_transform,
    write_volume,
)
from DeepRegAttentionLib.scene.nodes import add_node, array_image, array_matrix, finish, voxel_to_world
from DeepRegAttentionLib.scene.transforms import grid_transform
from helpers.images import rotation
from helpers.scene import FLIP, World, add_volume, points_inside, slicer, synthetic_images, to_lps, voxels, vtk


@pytest.fixture(scope="module")
def images():
    return synthetic_images()


@pytest.fixture
def scene():
    return World().scene


@pytest.fixture
def pair(scene, images, tmp_path):
    return tuple(add_volume(scene, image, name, tmp_path) for image, name in zip(images, ("fixed", "moving")))


def rigid(degrees=(10.0, -25.0, 40.0), shift=(12.0, -7.0, 30.0)) -> np.ndarray:
    """A turn about the images' centre, and a shift; RAS mm."""
    matrix, centre = np.eye(4), np.array([-31.0, 57.0, 112.0])
    matrix[:3, :3] = rotation(degrees)
    matrix[:3, 3] = centre - matrix[:3, :3] @ centre + shift
    return matrix


def linear_node(scene, matrix: np.ndarray):
    node = add_node(scene, "vtkMRMLLinearTransformNode", "linear")
    node.SetMatrixTransformToParent(array_matrix(matrix))
    return node


def grid_node(scene, reference):
    """Displacements of a few mm on the grid of a volume, stored from parent as registrations do."""
    k, j, i = np.indices(voxels(reference).shape)
    field = add_node(scene, "vtkMRMLVectorVolumeNode", "field")
    field.SetAndObserveImageData(array_image(np.stack([np.sin(j / 8), np.cos(i / 9), np.sin(k / 7)], axis=-1) * 3.0))
    field.SetIJKToRASMatrix(array_matrix(voxel_to_world(reference)))
    node = add_node(scene, "vtkMRMLGridTransformNode", "grid")
    node.SetAndObserveTransformFromParent(grid_transform(field))
    return node


def under(node, parent):
    node.SetAndObserveTransformNodeID(parent.GetID())
    return node


# Volumes


@pytest.mark.parametrize("kind", [sitk.sitkUInt8, sitk.sitkInt16, sitk.sitkFloat32, sitk.sitkFloat64])
def test_a_volume_is_written_as_it_was_read(scene, images, tmp_path, kind) -> None:
    image = sitk.Cast(images[0] * 50, kind)
    write_volume(add_volume(scene, image, "v", tmp_path), tmp_path / "out.nrrd")
    back = sitk.ReadImage(str(tmp_path / "out.nrrd"))
    require_same_grid(back, image)
    assert back.GetPixelID() == kind
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back), sitk.GetArrayFromImage(image))
    assert b"encoding: raw" in (tmp_path / "out.nrrd").read_bytes()[:600]


def test_a_volume_under_a_chain_of_linear_transforms_lies_where_it_is_seen(scene, pair, images, tmp_path) -> None:
    outer, inner = linear_node(scene, rigid()), linear_node(scene, rigid((5.0, 0.0, -15.0), (0.0, 3.0, -8.0)))
    node = under(pair[1], under(inner, outer))
    write_volume(node, tmp_path / "out.nrrd")
    back = sitk.ReadImage(str(tmp_path / "out.nrrd"))
    to_world = vtk.vtkGeneralTransform()
    inner.GetTransformToWorld(to_world)
    for index in ((0, 0, 0), (10, 20, 5), (39, 41, 25)):
        local = np.array(images[1].TransformIndexToPhysicalPoint(index))
        expected = to_lps(to_world.TransformPoint(*to_lps(local)))
        np.testing.assert_allclose(back.TransformIndexToPhysicalPoint(index), expected, atol=1e-4)
    assert node.GetParentTransformNode() is inner


def test_what_cannot_be_written_is_refused_with_a_sentence(scene, pair, tmp_path) -> None:
    path = tmp_path / "out.nrrd"
    with pytest.raises(EmptyImageError, match="“hollow” has no voxels"):
        write_volume(add_node(scene, "vtkMRMLScalarVolumeNode", "hollow"), path)
    vectors = add_node(scene, "vtkMRMLVectorVolumeNode", "colours")
    vectors.SetAndObserveImageData(array_image(np.zeros((4, 5, 6, 3), np.uint8)))
    with pytest.raises(DimensionError, match="3 values"):
        write_volume(vectors, path)
    with pytest.raises(OutputError, match="does not exist"):
        write_volume(pair[0], tmp_path / "nowhere" / "out.nrrd")
    under(pair[1], grid_node(scene, pair[0]))
    with pytest.raises(ImageError, match="“moving” is under “grid”"):
        write_volume(pair[1], path)
    shear = np.eye(4)
    shear[0, 1] = 0.4
    under(pair[1], linear_node(scene, shear))
    with pytest.raises(ImageError, match="sheared"):
        write_volume(pair[1], path)
    assert not path.exists()


# Structures


def segmentation_of(scene, reference, boxes: dict[str, tuple]):
    """A segmentation on the grid of a volume; a box is a slice for each of k, j, i."""
    node = add_node(scene, "vtkMRMLSegmentationNode", "segments")
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(reference)
    for name, box in boxes.items():
        values = np.zeros(voxels(reference).shape, np.uint8)
        values[box] = 1
        image = slicer.vtkOrientedImageData()
        image.DeepCopy(array_image(values))
        matrix = vtk.vtkMatrix4x4()
        reference.GetIJKToRASMatrix(matrix)
        image.SetImageToWorldMatrix(matrix)
        node.AddSegmentFromBinaryLabelmapRepresentation(image, name, [1.0, 0.0, 0.0])
    return node


BOXES = {"liver": np.s_[5:12, 6:20, 8:30], "vein": np.s_[10:15, 15:25, 20:35], "cyst": np.s_[2:4, 2:5, 3:6]}


def test_segments_are_merged_in_order_on_the_grid_of_the_image(scene, pair, images, tmp_path) -> None:
    node = segmentation_of(scene, pair[0], BOXES)
    count = scene.GetNumberOfNodes()
    write_labels(node, pair[0], tmp_path / "labels.nrrd")
    back = sitk.ReadImage(str(tmp_path / "labels.nrrd"))
    require_same_grid(back, images[0])
    expected = np.zeros(voxels(pair[0]).shape, int)
    for number, box in enumerate(BOXES.values(), 1):
        expected[box] = number
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back), expected)
    assert label_names(node) == {1: "liver", 2: "vein", 3: "cyst"}
    assert scene.GetNumberOfNodes() == count


def test_a_mask_is_the_visible_segments(scene, pair, tmp_path) -> None:
    node = segmentation_of(scene, pair[0], BOXES)
    node.GetDisplayNode().SetSegmentVisibility(node.GetSegmentation().GetNthSegmentID(1), False)
    write_labels(node, pair[0], tmp_path / "mask.nrrd", visible_only=True)
    expected = np.zeros(voxels(pair[0]).shape, bool)
    expected[BOXES["liver"]] = expected[BOXES["cyst"]] = True
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "mask.nrrd"))) > 0
    np.testing.assert_array_equal(found, expected)
    assert label_names(node, visible_only=True) == {1: "liver", 2: "cyst"}


def test_segments_and_image_under_one_transform_stay_together(scene, pair, tmp_path) -> None:
    node = segmentation_of(scene, pair[0], BOXES)
    parent = linear_node(scene, rigid())
    under(node, parent)
    under(pair[0], parent)
    write_labels(node, pair[0], tmp_path / "labels.nrrd")
    write_volume(pair[0], tmp_path / "fixed.nrrd")
    labels = sitk.ReadImage(str(tmp_path / "labels.nrrd"))
    require_same_grid(labels, sitk.ReadImage(str(tmp_path / "fixed.nrrd")))
    expected = np.zeros(voxels(pair[0]).shape, bool)
    for box in BOXES.values():
        expected[box] = True
    # Both are resampled to the same grid, up to rounding at the rims.
    assert np.mean((sitk.GetArrayFromImage(labels) > 0) != expected) < 2e-3


def test_structures_that_are_not_there_are_refused(scene, pair, tmp_path) -> None:
    empty = segmentation_of(scene, pair[0], {})
    with pytest.raises(LabelError, match="has no segment"):
        write_labels(empty, pair[0], tmp_path / "l.nrrd")
    node = segmentation_of(scene, pair[0], {"one": BOXES["liver"]})
    node.GetDisplayNode().SetSegmentVisibility(node.GetSegmentation().GetNthSegmentID(0), False)
    with pytest.raises(LabelError, match="no visible segment"):
        write_labels(node, pair[0], tmp_path / "l.nrrd", visible_only=True)
    far = np.eye(4)
    far[:3, 3] = 500
    under(node, linear_node(scene, far))
    with pytest.raises(LabelError, match="outside the volume “fixed”"):
        write_labels(node, pair[0], tmp_path / "l.nrrd")


def test_a_label_map_keeps_numbers_and_names(scene, pair, images, tmp_path) -> None:
    numbers = sitk.Cast(images[0] > 0.5, sitk.sitkUInt8) * 2
    sitk.WriteImage(numbers, str(tmp_path / "in.nrrd"))
    node = add_node(scene, "vtkMRMLLabelMapVolumeNode", "labels")
    from DeepRegAttentionLib.scene.nodes import read_volume

    read_volume(node, tmp_path / "in.nrrd")
    node.CreateDefaultDisplayNodes()
    colours = add_node(scene, "vtkMRMLColorTableNode", "anatomy")
    colours.SetTypeToUser()
    colours.SetNumberOfColors(3)
    for number, name in enumerate(("background", "left", "right")):
        colours.SetColor(number, name, 1.0, 0.0, 0.0, 1.0)
    node.GetDisplayNode().SetAndObserveColorNodeID(colours.GetID())
    write_labels(node, pair[0], tmp_path / "out.nrrd")
    assert label_names(node) == {2: "right"}
    back = sitk.ReadImage(str(tmp_path / "out.nrrd"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back), sitk.GetArrayFromImage(numbers))


# Transforms


def from_world(node):
    transform = vtk.vtkGeneralTransform()
    node.GetTransformFromWorld(transform)
    return transform


def assert_same(node, path: Path, image: sitk.Image, atol: float) -> None:
    written, expected = sitk.ReadTransform(str(path)), from_world(node)
    for point in points_inside(image, 40):
        there = to_lps(expected.TransformPoint(*to_lps(point)))
        np.testing.assert_allclose(written.TransformPoint(point.tolist()), there, atol=atol)


def test_a_linear_transform_is_written_from_fixed_to_moving(scene, pair, images, tmp_path) -> None:
    """Moving the moving volume 10 mm to the right by hand means: look for it 10 mm to the left."""
    shift = np.eye(4)
    shift[0, 3] = 10
    node = linear_node(scene, shift)
    write_transform(node, tmp_path / "t.h5", pair[0])
    written = sitk.ReadTransform(str(tmp_path / "t.h5"))
    # Right is -x in LPS: the fixed point is found 10 mm further left, at +x.
    assert written.TransformPoint((0.0, 0.0, 0.0)) == pytest.approx((10.0, 0.0, 0.0))
    assert_same(node, tmp_path / "t.h5", images[0], 1e-5)


def test_the_written_transform_resamples_to_what_the_views_show(scene, pair, images, tmp_path) -> None:
    """A volume put under the transform and hardened is the same as the engine's resampling through the file."""
    node = linear_node(scene, rigid((4.0, -3.0, 6.0), (3.0, -2.0, 1.0)))
    write_transform(node, tmp_path / "t.h5", pair[0])
    under(pair[1], node)
    write_volume(pair[1], tmp_path / "hardened.nrrd")
    seen = sitk.Resample(sitk.ReadImage(str(tmp_path / "hardened.nrrd")), images[0])
    resampled = sitk.Resample(images[1], images[0], sitk.ReadTransform(str(tmp_path / "t.h5")))
    difference = np.abs(sitk.GetArrayFromImage(seen) - sitk.GetArrayFromImage(resampled))
    assert np.mean(difference > 1e-3) < 2e-3


@pytest.mark.parametrize("order", ["linear in grid", "grid in linear", "three"])
def test_chains_of_linear_and_grid_keep_their_parts(scene, pair, images, tmp_path, order) -> None:
    linear, grid = linear_node(scene, rigid((1.0, -2.0, 1.5), (1.0, 2.0, -1.0))), grid_node(scene, pair[0])
    if order == "linear in grid":
        node = under(linear, grid)
    elif order == "grid in linear":
        node = under(grid, linear)
    else:
        node = under(linear_node(scene, rigid((0.0, 0.0, 1.0), (-1.0, 0.0, 1.0))), under(grid, linear))
    write_transform(node, tmp_path / "t.h5", pair[0])
    written = sitk.CompositeTransform(sitk.ReadTransform(str(tmp_path / "t.h5")))
    assert written.GetNumberOfTransforms() == (3 if order == "three" else 2)
    assert_same(node, tmp_path / "t.h5", images[0], 1e-4)


def test_an_inverted_grid_is_sampled_on_the_fixed_image(scene, pair, images, tmp_path) -> None:
    node = grid_node(scene, pair[0])
    node.Inverse()
    write_transform(node, tmp_path / "t.h5", pair[0])
    assert_same(node, tmp_path / "t.h5", images[0], 0.05)


def test_a_thin_plate_spline_is_sampled(scene, pair, images, tmp_path) -> None:
    spline, sources, targets = vtk.vtkThinPlateSplineTransform(), vtk.vtkPoints(), vtk.vtkPoints()
    for n, point in enumerate(points_inside(images[0], 8)):
        sources.InsertNextPoint(to_lps(point))
        targets.InsertNextPoint(np.add(to_lps(point), [0.5 * np.sin(n), 0.5 * np.cos(n), 1]))
    spline.SetSourceLandmarks(sources)
    spline.SetTargetLandmarks(targets)
    spline.SetBasisToR()
    node = add_node(scene, "vtkMRMLTransformNode", "spline")
    node.SetAndObserveTransformFromParent(spline)
    write_transform(node, tmp_path / "t.h5", pair[0])
    assert_same(node, tmp_path / "t.h5", images[0], 0.1)


def test_no_transform_at_all_is_the_identity(scene, pair, images, tmp_path) -> None:
    write_transform(add_node(scene, "vtkMRMLTransformNode", "nothing"), tmp_path / "t.h5", pair[0])
    assert sitk.ReadTransform(str(tmp_path / "t.h5")).TransformPoint((1.0, 2.0, 3.0)) == (1.0, 2.0, 3.0)


# Landmarks


def points_node(scene, name: str, points: np.ndarray, labels):
    node = add_node(scene, "vtkMRMLMarkupsFiducialNode", name)
    for point, label in zip(points, labels):
        node.AddControlPoint(vtk.vtkVector3d(*point), label)
    return node


def test_landmarks_are_written_in_lps_where_they_are_seen(scene) -> None:
    ras = np.array([[1.0, 2.0, 3.0], [-4.0, 5.5, -6.0]])
    node = points_node(scene, "F", ras, ("apex", "base"))
    landmarks = landmarks_of(node)
    np.testing.assert_allclose(landmarks.points, ras * FLIP)
    assert landmarks.names == ("apex", "base")
    matrix = rigid()
    under(node, linear_node(scene, matrix))
    expected = (ras @ matrix[:3, :3].T + matrix[:3, 3]) * FLIP
    np.testing.assert_allclose(landmarks_of(node).points, expected, atol=1e-9)


def test_points_that_are_not_placed_are_refused(scene) -> None:
    with pytest.raises(LandmarkError, match="“F” is empty"):
        landmarks_of(points_node(scene, "F", np.zeros((0, 3)), ()))
    node = points_node(scene, "G", np.zeros((2, 3)), ("a", "b"))
    node.UnsetNthControlPointPosition(1)
    with pytest.raises(LandmarkError, match="“b” of “G” has no position"):
        landmarks_of(node)


# All of it


def test_everything_is_written_for_one_registration(scene, pair, tmp_path) -> None:
    fixed, moving = pair
    masks = segmentation_of(scene, fixed, BOXES)
    labels = segmentation_of(scene, moving, {"a": np.s_[5:9, 5:9, 5:9]})
    points = np.array([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]])
    inputs = finish(
        write_steps(
            tmp_path,
            fixed,
            moving,
            fixed_mask=masks,
            initial_transform=linear_node(scene, rigid()),
            regularization_map=fixed,
            fixed_landmarks=points_node(scene, "F", points, ("a", "b")),
            moving_landmarks=points_node(scene, "M", points[::-1], ("b", "a")),
            labels=labels,
        )
    )
    given = inputs.to_dict()
    assert {"fixed_mask", "labels", "initial_transform", "regularization_map"} < set(given)
    assert not {"moving_mask", "fixed_labels"} & set(given)
    assert all(Path(path).parent == tmp_path and Path(path).is_file() for path in given.values())
    # Paired by name, not by the order in which they were placed.
    fixed_points, moving_points = (read_landmarks(given[f"{side}_landmarks"]) for side in ("fixed", "moving"))
    np.testing.assert_allclose(fixed_points.points, moving_points.points)


def test_a_change_of_what_was_written_is_noticed_and_nothing_else_is(scene, pair, tmp_path) -> None:
    fixed, moving = pair
    mask, labels = segmentation_of(scene, fixed, BOXES), segmentation_of(scene, moving, BOXES)
    points = points_node(scene, "F", np.array([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]), ("a", "b"))
    parent, grandparent = linear_node(scene, rigid()), linear_node(scene, rigid())
    under(moving, parent)
    initial = linear_node(scene, rigid())
    nodes = {"fixed": fixed, "moving": moving, "fixed_mask": mask, "labels": labels, "moving_mask": None}
    nodes.update(fixed_landmarks=points, moving_landmarks=points, initial_transform=initial)
    as_written = input_states(nodes)
    finish(write_steps(tmp_path, **nodes))
    fixed.GetDisplayNode().SetWindowLevelMinMax(0, 7)
    fixed.SetName("another name")
    labels.GetDisplayNode().SetAllSegmentsVisibility(False)
    mask.GetDisplayNode().SetOpacity2DFill(0.3)
    points.GetDisplayNode().SetSelectedColor(1, 0, 0)
    assert input_states(nodes) == as_written
    segment, hidden = labels.GetSegmentation().GetNthSegment(0), mask.GetSegmentation().GetNthSegmentID(1)
    changes = (
        ("fixed", lambda: fixed.GetImageData().GetPointData().GetScalars().Modified()),
        ("fixed", lambda: fixed.SetSpacing(1, 2, 3)),
        ("moving", lambda: moving.SetAndObserveImageData(array_image(voxels(moving) + 1))),
        ("moving", lambda: parent.SetMatrixTransformToParent(vtk.vtkMatrix4x4())),
        ("moving", lambda: under(parent, grandparent)),
        ("moving", lambda: parent.SetAndObserveTransformNodeID(None)),
        (
            "fixed_mask",
            lambda: mask.GetDisplayNode().SetSegmentVisibility(hidden, False),
        ),
        ("labels", lambda: segment.GetRepresentation("Binary labelmap").Modified()),
        ("labels", lambda: labels.GetSegmentation().RemoveSegment(segment)),
        ("fixed_landmarks", lambda: points.SetNthControlPointPosition(1, 3, 4, 6)),
        ("fixed_landmarks", lambda: points.SetNthControlPointLabel(0, "c")),
        ("initial_transform", lambda: initial.SetMatrixTransformToParent(array_matrix(rigid((1, 2, 3))))),
    )
    for name, change in changes:
        before = input_states(nodes)
        change()
        now = input_states(nodes)
        assert now[name] != before[name], name
        others = {other for other in now if nodes[other] is not nodes[name]}
        assert all(now[other] == before[other] for other in others), name


def test_steps_write_one_file_each(pair, tmp_path) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    steps = write_steps(folder, *pair, fixed_mask=pair[0])
    for name in ("fixed", "moving", "fixed_mask"):
        assert next(steps) == name
        assert not (folder / f"{name}.nrrd").exists()
    with pytest.raises(StopIteration) as end:
        next(steps)
    assert {Path(path).name for path in end.value.value.to_dict().values()} == {path.name for path in folder.iterdir()}


def test_landmarks_that_do_not_pair_are_refused(scene, pair, tmp_path) -> None:
    one = points_node(scene, "F", np.zeros((1, 3)), ("a",))
    two = points_node(scene, "M", np.zeros((2, 3)), ("a", "b"))
    with pytest.raises(LandmarkError, match="pairs"):
        finish(write_steps(tmp_path, *pair, fixed_landmarks=one, moving_landmarks=two))
