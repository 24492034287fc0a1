"""A result folder as nodes: right geometry, right direction, and the same after a scene was saved and loaded."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from DeepRegAttentionLib.engine.errors import UnreadableFileError
from DeepRegAttentionLib.engine.geometry import working_grid
from DeepRegAttentionLib.engine.result import MAP_NAMES
from DeepRegAttentionLib.scene.deformation import show_deformation, show_force_arrows
from DeepRegAttentionLib.scene.nodes import LPS_TO_RAS, matrix_array, voxel_to_world
from DeepRegAttentionLib.scene.overlays import show_overlay
from DeepRegAttentionLib.scene.preview import refresh_warped
from DeepRegAttentionLib.scene.results import Wanted, find_results, load_result, load_steps, remove_result
from DeepRegAttentionLib.scene.transforms import interpolate_linearly, ras_to_lps
from DeepRegAttentionLib.terms.maps import offered
from helpers.scene import (
    World,
    add_volume,
    points_inside,
    slicer,
    synthetic_images,
    synthetic_result,
    to_lps,
    voxels,
    vtk,
)


@pytest.fixture(scope="module")
def images():
    return synthetic_images()


@pytest.fixture(scope="module")
def saved(images, tmp_path_factory) -> Path:
    return synthetic_result(*images).save(tmp_path_factory.mktemp("result"), ".nrrd")


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def pair(world, images, tmp_path):
    return tuple(add_volume(world.scene, image, name, tmp_path) for image, name in zip(images, ("fixed", "moving")))


@pytest.fixture
def result(world, pair, saved):
    return load_result(world.scene, saved, *pair)


def moved_by(transform, point_lps) -> np.ndarray:
    return to_lps(transform.TransformPoint(*to_lps(point_lps)))


# The transform


def test_the_transform_resamples_as_simpleitk_does(result, saved, images) -> None:
    expected = sitk.ReadTransform(str(saved / "transform.h5"))
    for point in points_inside(images[0], 50):
        found = moved_by(result.transform.GetTransformFromParent(), point)
        np.testing.assert_allclose(found, expected.TransformPoint(point.tolist()), atol=1e-4)


def test_the_inverse_resamples_as_simpleitk_does(result, saved, images) -> None:
    expected = sitk.ReadTransform(str(saved / "inverse_transform.h5"))
    for point in points_inside(images[1], 50, margin=0.3):
        found = moved_by(result.inverse.GetTransformFromParent(), point)
        np.testing.assert_allclose(found, expected.TransformPoint(point.tolist()), atol=1e-4)


def test_what_is_put_under_the_transform_moves_from_moving_to_fixed(result, saved, images) -> None:
    forward = sitk.ReadTransform(str(saved / "transform.h5"))
    to_world = vtk.vtkGeneralTransform()
    result.transform.GetTransformToWorld(to_world)
    for point in points_inside(images[0], 20, margin=0.25):
        in_moving = np.array(forward.TransformPoint(point.tolist()))
        assert np.linalg.norm(in_moving - point) > 1
        np.testing.assert_allclose(moved_by(to_world, in_moving), point, atol=0.02)


def test_the_wanted_grid_is_the_total_displacement(world, pair, saved, images) -> None:
    result = load_result(world.scene, saved, *pair, Wanted(transform="grid", maps=False, measures=False))
    expected = sitk.ReadTransform(str(saved / "transform.h5"))
    assert result.transform.IsA("vtkMRMLGridTransformNode")
    fixed = images[0]
    for index in ((5, 7, 9), (20, 18, 14), (40, 30, 3), (10.3, 12.7, 8.5)):
        point = np.array(fixed.TransformContinuousIndexToPhysicalPoint(index))
        found = moved_by(result.transform.GetTransformFromParent(), point)
        np.testing.assert_allclose(found, expected.TransformPoint(point.tolist()), atol=1e-4)


def test_slicers_own_resampling_gives_the_warped_image(result) -> None:
    """vtkImageReslice through the node's transform, as the Resample modules and the slice views do it."""
    moving, fixed = result.moving, result.fixed
    chain = vtk.vtkGeneralTransform()
    chain.PostMultiply()
    for node, inverse in ((fixed, False), (None, False), (moving, True)):
        if node is None:
            chain.Concatenate(result.transform.GetTransformFromParent())
            continue
        matrix = vtk.vtkMatrix4x4()
        (node.GetRASToIJKMatrix if inverse else node.GetIJKToRASMatrix)(matrix)
        chain.Concatenate(matrix)
    reslice = vtk.vtkImageReslice()
    reslice.SetInputData(moving.GetImageData())
    reslice.SetResliceTransform(chain)
    reslice.SetOutputExtent(fixed.GetImageData().GetExtent())
    reslice.SetOutputOrigin(0, 0, 0)
    reslice.SetOutputSpacing(1, 1, 1)
    reslice.SetInterpolationModeToLinear()
    reslice.Update()
    found = vtk.util.numpy_support.vtk_to_numpy(reslice.GetOutput().GetPointData().GetScalars())
    expected = voxels(result.warped)
    difference = np.abs(found.reshape(expected.shape) - expected)[4:-4, 4:-4, 4:-4]
    inside = expected[4:-4, 4:-4, 4:-4] > 0
    assert inside.mean() > 0.5
    assert difference[inside].max() < 2e-3 * np.ptp(expected)


def test_the_linear_part_is_known_by_itself(result, saved) -> None:
    chain = sitk.CompositeTransform(sitk.ReadTransform(str(saved / "transform.h5")))
    linear = sitk.AffineTransform(chain.GetNthTransform(0))
    matrix = ras_to_lps(result.linear)
    point = np.array([12.0, -34.0, 56.0])
    np.testing.assert_allclose(matrix[:3, :3] @ point + matrix[:3, 3], linear.TransformPoint(point.tolist()), atol=1e-6)


def test_the_transform_says_what_it_registers(result) -> None:
    for node, ends in ((result.transform, ("fixed", "moving")), (result.inverse, ("moving", "fixed"))):
        roles = node.GetFixedNodeReferenceRole(), node.GetMovingNodeReferenceRole()
        assert tuple(node.GetNodeReference(role).GetName() for role in roles) == ends


# Volumes and names


def test_every_map_lies_on_the_fixed_grid_with_its_values(result, saved) -> None:
    assert set(result.maps) == {path.stem for path in saved.glob("*.nrrd")} & set(MAP_NAMES)
    for name, node in result.maps.items():
        np.testing.assert_allclose(voxel_to_world(node), voxel_to_world(result.fixed), atol=1e-5)
        values = sitk.GetArrayFromImage(sitk.ReadImage(str(saved / f"{name}.nrrd")))
        if name == "driving_force":
            values = values * [-1, -1, 1]
        np.testing.assert_array_equal(voxels(node), values.astype(np.float32))


def test_levels_of_the_force_are_vectors_that_no_menu_offers(world, pair, saved, tmp_path) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "levels"))
    for number in (1, 2, 10):
        shutil.copy(folder / "driving_force.nrrd", folder / f"driving_force_{number}.nrrd")
    (folder / "driving_force_notes.txt").touch()
    usual = load_result(world.scene, saved, *pair)
    result = load_result(world.scene, folder, *pair)
    levels = ["driving_force_1", "driving_force_2", "driving_force_10"]
    assert list(result.maps) == [*usual.maps, *levels]
    assert offered(result.maps) == offered(usual.maps)
    for name in levels:
        assert result.maps[name].IsA("vtkMRMLVectorVolumeNode")
        np.testing.assert_array_equal(voxels(result.maps[name]), voxels(usual.maps["driving_force"]))
    assert show_force_arrows(result) is not None
    show_overlay(result.maps, "attention", [])


def test_a_map_on_the_working_grid_lies_where_it_is_and_keeps_its_folds(world, pair, saved, images, tmp_path) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "coarse"))
    grid = working_grid(images[0], 4.0, 4)
    values = np.ones(grid.shape, np.float32)
    values[5, 6, 7] = -0.01
    sitk.WriteImage(grid.place(sitk.GetImageFromArray(values)), str(folder / "jacobian.nrrd"))
    node = load_result(world.scene, folder, *pair, Wanted(maps=("jacobian",), measures=False)).maps["jacobian"]
    np.testing.assert_allclose(voxel_to_world(node), LPS_TO_RAS @ grid.index_to_point, atol=1e-4)
    np.testing.assert_array_equal(voxels(node), values)
    # Between its neighbours, interpolated, no voxel of the finer image would show this one.
    assert not node.GetDisplayNode().GetInterpolate()


def test_a_map_on_the_working_grid_is_smooth_where_nothing_folds(world, pair, saved, tmp_path) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "smooth"))
    values = sitk.ReadImage(str(folder / "jacobian.nrrd"))
    sitk.WriteImage(sitk.Maximum(values, 0.1), str(folder / "jacobian.nrrd"))
    maps = load_result(world.scene, folder, *pair, Wanted(maps=True, measures=False)).maps
    assert all(node.GetDisplayNode().GetInterpolate() for node in maps.values())


def test_names_and_folder(result, world) -> None:
    assert result.warped.GetName() == "moving warped to fixed"
    assert result.transform.GetName() == "moving to fixed transform"
    assert result.maps["jacobian"].GetName() == "moving to fixed Jacobian"
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(world.scene)
    assert hierarchy.GetItemName(result.folder) == "moving to fixed"
    for node in (result.warped, result.transform, *result.maps.values(), *result.tables.values()):
        assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == result.folder


def test_a_second_result_of_the_same_pair_gets_names_of_its_own(result, world, pair, saved) -> None:
    second = load_result(world.scene, saved, *pair, Wanted(maps=()))
    assert second.warped.GetName() != result.warped.GetName()
    assert find_results(world.scene) == [result, second]


def test_nothing_is_read_from_the_folder_later(world, pair, saved, tmp_path) -> None:
    folder = shutil.copytree(saved, tmp_path / "job")
    result = load_result(world.scene, folder, *pair)
    shutil.rmtree(folder)
    for node in (result.warped, result.transform, result.inverse, result.labels, *result.maps.values()):
        assert node.GetStorageNode() is None
    assert voxels(result.warped).any()


def test_only_what_is_wanted_is_made(world, pair, saved) -> None:
    before = world.scene.GetNumberOfNodes()
    wanted = Wanted(warped=False, transform=None, inverse=False, maps=("jacobian",), labels=False, measures=False)
    result = load_result(world.scene, saved, *pair, wanted)
    assert list(result.maps) == ["jacobian"]
    assert (result.warped, result.transform, result.inverse, result.labels) == (None, None, None, None)
    # Its hidden node, the map, the map's display and colours.
    assert world.scene.GetNumberOfNodes() <= before + 5


def test_steps_leave_the_same_and_name_what_comes(world, pair, saved) -> None:
    steps, titles = load_steps(world.scene, saved, *pair), []
    while True:
        try:
            titles.append(next(steps))
        except StopIteration as end:
            result = end.value
            break
    assert titles[:3] == ["result", "warped image", "transform"]
    assert "Jacobian" in titles
    assert find_results(world.scene) == [result]


# What can go wrong


@pytest.mark.parametrize("damage", ["missing", "metrics", "transform", "map", "given up"])
def test_an_incomplete_folder_leaves_nothing_behind(world, pair, saved, tmp_path, damage) -> None:
    folder = tmp_path / "job"
    if damage != "missing":
        shutil.copytree(saved, folder)
    if damage == "metrics":
        (folder / "metrics.json").write_text("[1", encoding="utf-8")
    if damage == "transform":
        (folder / "transform.h5").write_bytes(b"nothing")
    if damage == "map":
        (folder / "attention.nrrd").write_bytes(b"nothing")
    kinds = ["vtkMRMLVolumeNode", "vtkMRMLTransformNode", "vtkMRMLScriptedModuleNode", "vtkMRMLTableNode"]
    before = [world.scene.GetNumberOfNodesByClass(kind) for kind in kinds]
    if damage == "given up":
        steps = load_steps(world.scene, folder, *pair)
        for _ in range(6):
            next(steps)
        steps.close()
    else:
        with pytest.raises(UnreadableFileError):
            load_result(world.scene, folder, *pair)
    assert [world.scene.GetNumberOfNodesByClass(kind) for kind in kinds] == before
    assert find_results(world.scene) == []


def test_a_result_that_the_user_deleted_is_forgotten(result, world) -> None:
    for node in (result.warped, result.transform, result.inverse, result.labels, *result.maps.values()):
        world.scene.RemoveNode(node)
    for node in (*result.tables.values(), *result.plots.values()):
        world.scene.RemoveNode(node)
    assert find_results(world.scene) == []
    assert result.node.GetScene() is None


def test_a_result_with_a_part_deleted_is_still_found(result, world) -> None:
    world.scene.RemoveNode(result.maps["jacobian"])
    world.scene.RemoveNode(result.moving)
    (found,) = find_results(world.scene)
    assert "jacobian" not in found.maps
    assert found.moving is None
    assert found.warped is result.warped


def test_removing_a_result_leaves_the_users_volumes(result, world, pair) -> None:
    show_deformation(result, "grid")
    remove_result(result)
    assert find_results(world.scene) == []
    assert world.scene.GetNumberOfNodesByClass("vtkMRMLTransformNode") == 0
    assert world.scene.GetNumberOfNodesByClass("vtkMRMLPlotSeriesNode") == 0
    assert [node.GetScene() for node in pair] == [world.scene] * 2


# Saved and loaded


@pytest.mark.slow
def test_a_saved_scene_looks_the_same_and_knows_its_result(result, world, saved, images, tmp_path) -> None:
    view = world.slice_view()
    view.look_at(result.fixed)
    show_overlay(result.maps, "jacobian", [view.composite], 0.6)
    show_deformation(result, "grid", 8.0)
    before = view.picture(tmp_path / "before.png")
    assert world.scene.WriteToMRB(str(tmp_path / "scene.mrb"))

    other = World()
    other_view = other.slice_view()
    assert other.scene.ReadFromMRB(str(tmp_path / "scene.mrb"))
    (found,) = find_results(other.scene)
    other_view.look_at(found.fixed)
    after = other_view.picture(tmp_path / "after.png")
    assert np.abs(before.astype(int) - after).mean() < 0.5
    assert (set(found.maps), set(found.tables), set(found.plots)) == (
        set(result.maps),
        set(result.tables),
        set(result.plots),
    )
    assert found.metrics == result.metrics
    assert found.fixed.GetName() == "fixed"
    assert found.folder != 0
    np.testing.assert_array_equal(voxels(found.maps["driving_force"]), voxels(result.maps["driving_force"]))
    expected = sitk.ReadTransform(str(saved / "transform.h5"))
    for point in points_inside(images[0], 10):
        moved = moved_by(found.transform.GetTransformFromParent(), point)
        np.testing.assert_allclose(moved, expected.TransformPoint(point.tolist()), atol=1e-4)


def test_slicer_reads_grids_cubic_unless_told_otherwise(world, saved) -> None:
    """Why a result's transforms are not left as Slicer reads them."""
    storage = slicer.vtkMRMLTransformStorageNode()
    storage.SetFileName(str(saved / "transform.h5"))
    node = world.scene.AddNewNodeByClass("vtkMRMLTransformNode")
    assert storage.ReadData(node)
    point = (-30.0, 55.0, 111.0)
    cubic = np.array(node.GetTransformFromParent().TransformPoint(point))
    interpolate_linearly(node)
    linear = np.array(node.GetTransformFromParent().TransformPoint(point))
    assert 0 < np.linalg.norm(cubic - linear) < 0.5


# Watching


def test_a_renewed_image_replaces_voxels_and_grid(world, pair, images, tmp_path) -> None:
    path = tmp_path / "warped.nrrd"
    sitk.WriteImage(images[0], str(path))
    node = refresh_warped(world.scene, None, path, like=pair[1])
    window = node.GetDisplayNode().GetWindow()
    assert window == pair[1].GetDisplayNode().GetWindow()
    sitk.WriteImage(images[1] * 2, str(path))
    assert refresh_warped(world.scene, node, path) is node
    np.testing.assert_array_equal(voxels(node), sitk.GetArrayFromImage(images[1]) * 2)
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    np.testing.assert_allclose(matrix_array(matrix), voxel_to_world(pair[1]), atol=1e-6)
    assert node.GetDisplayNode().GetWindow() == window


def test_an_image_that_is_gone_leaves_the_last_one(world, images, tmp_path) -> None:
    path = tmp_path / "warped.nrrd"
    sitk.WriteImage(images[0], str(path))
    node = refresh_warped(world.scene, None, path)
    path.unlink()
    with pytest.raises(UnreadableFileError):
        refresh_warped(world.scene, node, path)
    np.testing.assert_array_equal(voxels(node), sitk.GetArrayFromImage(images[0]))
