"""What is seen of a result: overlays, legend, deformation, comparison, layout, tables and plots, by their pixels."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import SimpleITK as sitk
from DeepRegAttentionLib.engine.errors import ImageError, OutputError
from DeepRegAttentionLib.scene.colors import jacobian_colors
from DeepRegAttentionLib.scene.compare import AXES, Comparison, aligned_volume
from DeepRegAttentionLib.scene.deformation import (
    STYLES,
    default_spacing,
    deformation_grid,
    show_deformation,
    show_force_arrows,
)
from DeepRegAttentionLib.scene.judge import export_csv, make_tables
from DeepRegAttentionLib.scene.layouts import (
    COMPARISON_LAYOUT,
    VIEWS,
    fill_layout,
    layout_xml,
    register_layout,
    view_composites,
)
from DeepRegAttentionLib.scene.nodes import (
    add_node,
    array_image,
    matrix_array,
    remove_node,
    set_grid,
    voxel_to_world,
)
from DeepRegAttentionLib.scene.overlays import forget_legends, show_overlay, style_map, value_range
from DeepRegAttentionLib.scene.places import go_to, leave, places_of, point_of
from DeepRegAttentionLib.scene.results import load_result
from DeepRegAttentionLib.scene.surfaces import SURFACES, remove_surfaces, show_surfaces, surface_steps
from DeepRegAttentionLib.terms.choices import deformation_choices
from DeepRegAttentionLib.terms.maps import ColourScale, offered
from helpers.scene import (
    World,
    add_volume,
    slicer,
    synthetic_images,
    synthetic_result,
    to_lps,
    voxels,
    vtk,
    vtk_to_numpy,
)
from hypothesis import given
from hypothesis import strategies as st

YELLOW = np.array([255, 213, 0])


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A result in a scene with an axial view on it: rendering is slow, so all tests look at the same."""
    folder = tmp_path_factory.mktemp("result")
    fixed, moving = synthetic_images()
    synthetic_result(fixed, moving).save(folder / "result", ".nrrd")
    world = World()
    pair = [add_volume(world.scene, image, name, folder) for image, name in ((fixed, "fixed"), (moving, "moving"))]
    result = load_result(world.scene, folder / "result", *pair, label_names={1: "thalamus"})
    view = world.slice_view(size=300)
    view.look_at(result.fixed)
    return world, result, view


@pytest.fixture(autouse=True)
def clean(shown):
    yield
    _, result, view = shown
    show_overlay(result.maps, None, [view.composite])
    show_deformation(result, "none")
    show_force_arrows(result, False)
    view.look_at(result.fixed)


def world_of(result, index) -> np.ndarray:
    return (voxel_to_world(result.fixed) @ [*index, 1.0])[:3]


def pixel(view, picture, point) -> np.ndarray:
    row, column = view.pixel_of(point)
    return picture[row, column].astype(int)


# Overlays


def test_the_menu_offers_what_the_result_has(shown) -> None:
    names = [entry.key for entry in offered(shown[1].maps)]
    assert names == ["jacobian", "driving_force_magnitude", "attention", "difference_after"]


def test_folds_are_yellow_and_nothing_else_is(shown) -> None:
    _, result, view = shown
    for index in ((4, 4, 14), (30, 20, 14)):
        point = world_of(result, index)
        view.look_at(result.fixed, point)
        show_overlay(result.maps, "jacobian", [view.composite], 1.0, legend=False)
        picture = view.picture()
        folded = voxels(result.maps["jacobian"])[14, index[1], index[0]] <= 0
        assert (np.abs(pixel(view, picture, point) - YELLOW).max() < 3) == folded


def test_shrinking_is_blue_growing_red_and_no_change_shows_the_anatomy(shown) -> None:
    _, result, view = shown
    values = voxels(result.maps["jacobian"])[14, 30]
    anatomy = view.picture()
    show_overlay(result.maps, "jacobian", [view.composite], 1.0, legend=False)
    indices = {
        name: int(np.argmin(np.abs(values - value))) for name, value in (("blue", 0.5), ("red", 1.9), ("same", 1))
    }
    colours = {}
    for name, i in indices.items():
        point = world_of(result, (i, 30, 14))
        view.look_at(result.fixed, point)
        colours[name] = pixel(view, view.picture(), point)
    assert colours["blue"][2] > colours["blue"][0] + 40
    assert colours["red"][0] > colours["red"][2] + 40
    assert np.ptp(colours["same"]) == 0
    assert anatomy.any()


_SCENE = slicer.vtkMRMLScene()
_SCALES = {n: ColourScale("jacobian", 1 / n, n, logarithmic=True) for n in (1.25, 1.5, 2.0, 3.0, 4.0, 8.0)}
_TABLES = {factor: jacobian_colors(_SCENE, seen) for factor, seen in _SCALES.items()}


@given(factor=st.sampled_from(sorted(_TABLES)), value=st.floats(-2, 10, width=32))
def test_the_jacobians_table_marks_exactly_the_folds(factor, value) -> None:
    """The same arithmetic as in the display of a volume: window and level to 0..255, then the table."""
    table, (low, high) = _TABLES[factor]
    part = int(np.clip((value - low) * 255 / (high - low), 0, 255))
    colour = [0.0] * 4
    table.GetColor(part, colour)
    is_fold_colour = np.allclose(np.array(colour[:3]) * 255, YELLOW, atol=1)
    if not 0 < value < 1e-4:
        assert is_fold_colour == (value <= 0)


def test_the_legend_is_drawn_and_taken_away(shown) -> None:
    _, result, view = shown
    show_overlay(result.maps, "attention", [view.composite], 0.0, legend=False)
    without = view.picture()
    show_overlay(result.maps, "attention", [view.composite], 0.0, legend=True)
    with_legend = view.picture()
    changed = np.argwhere((with_legend != without).any(axis=-1))
    assert len(changed) > 500
    assert changed[:, 1].min() > 150
    # From the dark end of magma to its light end.
    bar = with_legend[:, changed[:, 1].max() - 3].astype(int)
    assert (bar.sum(axis=1) > 600).any()
    show_overlay(result.maps, "attention", [view.composite], 0.0, legend=False)
    assert np.array_equal(view.picture(), without)


@pytest.mark.parametrize("rounding", [2e-7, -2e-7])
def test_a_legend_starts_at_zero_and_not_below_by_rounding(shown, rounding: float, tmp_path: Path) -> None:
    values = np.full((8, 8, 8), rounding, np.float32)
    values[4:] = 0.5
    node = add_volume(shown[0].scene, sitk.GetImageFromArray(values), "map", tmp_path)
    style_map(node, "attention")
    assert f"{node.GetDisplayNode().GetWindowLevelMin():.2f}" == "0.00"
    remove_node(shown[0].scene, node)


def test_only_one_legend_is_shown(shown) -> None:
    world, result, view = shown
    for name in ("jacobian", "attention"):
        show_overlay(result.maps, name, [view.composite])
    kind = "vtkMRMLColorLegendDisplayNode"
    legends = [world.scene.GetNthNodeByClass(n, kind) for n in range(world.scene.GetNumberOfNodesByClass(kind))]
    assert [node.GetDisplayableNode() for node in legends if node.GetVisibility()] == [result.maps["attention"]]


def test_a_legend_is_made_anew_for_views_that_are_newer(shown) -> None:
    world, result, view = shown
    kind = "vtkMRMLColorLegendDisplayNode"
    show_overlay(result.maps, "attention", [view.composite])
    before = world.scene.GetNumberOfNodesByClass(kind)
    with_legend = view.picture()
    forget_legends(result.maps.values())
    assert world.scene.GetNumberOfNodesByClass(kind) == 0 < before
    assert result.maps["attention"].GetNumberOfDisplayNodes() == 1
    show_overlay(result.maps, "attention", [view.composite])
    assert np.array_equal(view.picture(), with_legend)


def test_a_threshold_hides_what_is_outside(shown) -> None:
    _, result, view = shown
    point = world_of(result, (8, 30, 14))
    view.look_at(result.fixed, point)
    anatomy = pixel(view, view.picture(), point)
    value = voxels(result.maps["attention"])[14, 30, 8]
    for limits, hidden in (((0.0, 1.0), False), ((value + 0.1, 1.0), True), (None, False)):
        show_overlay(result.maps, "attention", [view.composite], 1.0, limits, legend=False)
        seen = pixel(view, view.picture(), point)
        assert (np.abs(seen - anatomy).max() <= 1) == hidden
    assert value_range(result.maps["attention"]) == (0.0, 1.0)


def test_where_a_map_is_0_there_is_nothing_to_see(shown) -> None:
    _, result, view = shown
    node = result.maps["driving_force_magnitude"]
    values = voxels(node)
    kept = values.copy()
    values[:, :, :8] = 0
    node.GetImageData().GetPointData().GetScalars().Modified()
    try:
        inside, outside = world_of(result, (30, 30, 14)), world_of(result, (3, 30, 14))
        anatomy = view.picture()
        for threshold in (None, (0.0, 5.0)):
            show_overlay(result.maps, "driving_force_magnitude", [view.composite], 1.0, threshold, legend=False)
            seen = view.picture()
            assert (pixel(view, seen, outside) == pixel(view, anatomy, outside)).all()
            assert (pixel(view, seen, inside) != pixel(view, anatomy, inside)).any()
    finally:
        values[:] = kept
        node.GetImageData().GetPointData().GetScalars().Modified()


def test_a_grid_does_not_cross_the_numbers_of_a_legend(shown) -> None:
    _, result, view = shown
    show_overlay(result.maps, "attention", [view.composite], 0.0, legend=True)
    legend = view.picture()
    show_deformation(result, "grid", 4.0)
    both = view.picture()
    # A number: white on black, left of the bar.
    written = np.argwhere((legend > 200).all(axis=-1) & (np.arange(300) > 220)[None, :])
    top, left = written.min(axis=0)
    rows = slice(top, top + 8)
    assert (legend[rows, left:280] == both[rows, left:280]).mean() > 0.97


# Deformation


def test_every_way_to_draw_has_a_name() -> None:
    assert [choice.value for choice in deformation_choices()] == list(STYLES)


@pytest.mark.parametrize("style", STYLES)
def test_each_style_draws_something_else(shown, style) -> None:
    _, result, view = shown
    plain = view.picture()
    show_deformation(result, style, 6.0)
    changed = (view.picture() != plain).any(axis=-1).mean()
    assert changed == 0 if style == "none" else changed > 0.005
    show_deformation(result, "none")
    assert np.array_equal(view.picture(), plain)


def test_grid_lines_are_where_the_registration_takes_them(shown) -> None:
    """Crossings of a regular grid on the aligned moving image, taken to the fixed one, without Slicer's display."""
    _, result, view = shown
    display = show_deformation(result, "grid", 6.0)
    drawn = vtk.vtkPolyData()
    slicer.vtkSlicerTransformLogic.GetVisualization2d(drawn, display, view.node)
    points = vtk_to_numpy(drawn.GetPoints().GetData())
    forward = result.extra("deformation").GetTransformFromParent()
    to_slice = matrix_array(view.node.GetSliceToRAS())
    # Slicer centres as many whole squares as the view has room for.
    corner = [view.node.GetXYZOrigin()[n] - view.node.GetFieldOfView()[n] // 6.0 * 3.0 for n in range(2)]
    moved, gaps = [], []
    for i, j in np.ndindex(8, 8):
        start = (to_slice @ [corner[0] + 6.0 * (i + 3), corner[1] + 6.0 * (j + 3), 0.0, 1.0])[:3]
        end = start.copy()
        for _ in range(60):
            end += start - np.array(forward.TransformPoint(*end))
        # Drawn without what leaves the plane of the slice.
        normal = to_slice[:3, 2]
        flat = end - normal * ((end - start) @ normal)
        moved.append(np.linalg.norm(flat - start))
        gaps.append(np.linalg.norm(points - flat, axis=1).min())
    assert max(moved) > 2
    assert max(gaps) < 0.03


def test_the_linear_part_is_left_out_of_the_drawing(shown, tmp_path) -> None:
    _, result, _ = shown
    show_deformation(result, "grid")
    node = result.extra("deformation")
    far = world_of(result, (1, 1, 1))
    moved = np.array(node.GetTransformFromParent().TransformPoint(*far))
    assert np.linalg.norm(moved - far) < 0.5
    total = np.array(result.transform.GetTransformFromParent().TransformPoint(*far))
    assert np.linalg.norm(total - far) > 3
    linear = result.linear
    np.testing.assert_allclose(linear[:3, :3] @ moved + linear[:3, 3], total, atol=2e-3)


def drawn_points(result, view, display) -> np.ndarray:
    """Where lines and arrows are, as voxels (i, j, k) of the fixed image."""
    drawn = vtk.vtkPolyData()
    slicer.vtkSlicerTransformLogic.GetVisualization2d(drawn, display, view.node)
    points = vtk_to_numpy(drawn.GetPoints().GetData())
    to_index = np.linalg.inv(voxel_to_world(result.fixed))
    return points @ to_index[:3, :3].T + to_index[:3, 3]


def test_nothing_moves_outside_the_fixed_image(shown) -> None:
    _, result, _ = shown
    show_deformation(result, "grid")
    transform = result.extra("deformation").GetTransformFromParent()
    far = world_of(result, (-8, 20, 14))
    np.testing.assert_allclose(transform.TransformPoint(*far), far, atol=1e-4)


def test_arrows_stand_where_the_images_show_something_alone(shown) -> None:
    _, result, view = shown
    values = voxels(result.maps["attention"])
    kept = values.copy()
    values[:, :, :20] = 0
    others = {name: result.maps.pop(name) for name in ("driving_force_magnitude",)}
    remove_node(result.scene, result.extra("arrows"))
    try:
        display = show_deformation(result, "arrows", 2.0)
        where = drawn_points(result, view, display)
        inside = result.fixed.GetImageData().GetDimensions()
        assert len(where) > 50
        assert where[:, 0].min() > 15
        assert (where < np.array(inside) + 4).all()
    finally:
        values[:] = kept
        result.maps.update(others)
        remove_node(result.scene, result.extra("arrows"))


def test_an_arrow_ends_where_the_registration_takes_its_start(shown) -> None:
    _, result, _ = shown
    show_deformation(result, "arrows")
    forward = result.extra("arrows").GetTransformToParent()
    show_deformation(result, "grid")
    back = result.extra("deformation").GetTransformFromParent()
    for index in ((20, 18, 14), (28, 25, 11)):
        start = world_of(result, index)
        end = forward.TransformPoint(*start)
        assert np.linalg.norm(end - start) > 0.5
        np.testing.assert_allclose(back.TransformPoint(*end), start, atol=0.05)


def test_the_spacing_reads_well(shown) -> None:
    _, result, _ = shown
    assert default_spacing(result) in (1, 2, 5, 10, 20, 50)
    assert default_spacing(result, "arrows") < default_spacing(result, "grid", threed=True)


def test_force_arrows_point_against_the_force_that_is_stored(shown) -> None:
    """A force is stored as fixed to moving, like every vector; what is drawn is the motion, moving to fixed."""
    _, result, view = shown
    plain = view.picture()
    assert show_force_arrows(result, True, 6.0) is not None
    assert (view.picture() != plain).any(axis=-1).mean() > 0.002
    index = (30, 18, 14)
    point = world_of(result, index)
    stored = voxels(result.maps["driving_force"])[index[::-1]]
    to_parent = result.extra("force_arrows").GetTransformToParent()
    np.testing.assert_allclose(np.array(to_parent.TransformPoint(*point)) - point, -stored, atol=0.1)
    np.testing.assert_allclose(to_lps(stored), [3 * 30 / 43, 0, 1], atol=2e-3)


# Places


def test_without_a_predicted_error_the_places_are_where_most_moves(shown) -> None:
    _, result, _ = shown
    places = places_of(result, {})
    transform = deformation_grid(result)
    moved = [np.linalg.norm(transform.TransformPoint(*point_of(place)) - point_of(place)) for place in places]
    assert 2 <= len(places) <= 5
    assert moved == sorted(moved, reverse=True)
    k, j, i = np.meshgrid(*[np.arange(2, n - 2, 3) for n in voxels(result.fixed).shape], indexing="ij")
    everywhere = [world_of(result, index) for index in np.stack([i, j, k], -1).reshape(-1, 3)]
    assert moved[0] >= max(np.linalg.norm(np.array(transform.TransformPoint(*p)) - p) for p in everywhere)
    assert f"{moved[0]:.0f} mm" in places[0].text


def test_a_predicted_error_names_the_places(shown) -> None:
    _, result, _ = shown
    point = world_of(result, (12, 30, 9))
    worst = {"point_lps_mm": to_lps(point).tolist(), "expected_mm": 6.2, "bound_mm": 11.0}
    result.metrics["expected_error"] = {"worst": [worst], "confidence": 0.9}
    try:
        (place,) = places_of(result, {})
    finally:
        del result.metrics["expected_error"]
    np.testing.assert_allclose(point_of(place), point)
    assert "6 mm" in place.text


def test_views_go_to_a_place_and_come_near(shown) -> None:
    world, result, view = shown
    place = places_of(result, {})[1]
    before = view.node.GetFieldOfView()
    go_to([view.node], place, result)
    corner, size = np.array(view.pixel_of(point_of(place))), np.array(view.node.GetDimensions()[:2])
    assert abs((np.linalg.inv(matrix_array(view.node.GetSliceToRAS())) @ [*point_of(place), 1])[2]) < 1e-3
    assert view.node.GetFieldOfView() == before
    go_to([view.node], place, result, near=True)
    assert max(view.node.GetFieldOfView()[:2]) < 0.6 * max(before[:2])
    np.testing.assert_allclose(view.pixel_of(point_of(place)), size / 2, atol=2)
    assert (corner != size / 2).any()
    crosshair = world.scene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    np.testing.assert_allclose(crosshair.GetCrosshairRAS(), point_of(place))
    assert crosshair.GetCrosshairMode() != crosshair.NoCrosshair
    leave(result.scene)
    assert crosshair.GetCrosshairMode() == crosshair.NoCrosshair


# Surfaces


@pytest.fixture
def surfaces(shown):
    """Of a ball as warped, and another one as fixed structure."""
    world, result, _ = shown
    values, ball = voxels(result.labels), [np.zeros(0)] * 2
    kept = values.copy()
    k, j, i = np.indices(values.shape)
    spacing = result.fixed.GetSpacing()
    for n, centre in enumerate(((14, 26, 22), (14, 24, 24))):
        offsets = [(axis - c) * mm for axis, c, mm in zip((k, j, i), centre, spacing[::-1])]
        ball[n] = sum(offset**2 for offset in offsets) < 12**2
    values[:] = np.where(ball[0], 1, 0) + np.where(k > 24, 2, 0)
    fixed = add_node(world.scene, "vtkMRMLLabelMapVolumeNode", "structures")
    fixed.SetAndObserveImageData(array_image(ball[1].astype(np.uint8)))
    set_grid(fixed, result.fixed)
    result.fixed_labels = fixed
    yield result, list(surface_steps(result))
    remove_surfaces(result)
    result.fixed_labels = None
    remove_node(world.scene, fixed)
    values[:] = kept


def points_of(result, name: str) -> np.ndarray:
    return vtk_to_numpy(result.extra(f"surface_{name}").GetPolyData().GetPoints().GetData())


def test_surfaces_are_made_structure_by_structure_and_hidden_at_first(surfaces) -> None:
    result, steps = surfaces
    assert [step for step in steps if step[-1].isdigit()] == ["structure 1", "structure 2", "fixed structure 1"]
    assert list(surface_steps(result)) == []
    nodes = [result.extra(f"surface_{name}") for name in SURFACES]
    assert not any(node.GetDisplayNode().GetVisibility() for node in nodes)
    for state, seen in (("before", [1, 0, 1]), ("after", [0, 1, 1]), (None, [0, 0, 0])):
        show_surfaces(result, state)
        assert [node.GetDisplayNode().GetVisibility() for node in nodes] == seen
    assert not any(node.GetSaveWithScene() for node in nodes)


def test_a_surface_lies_around_its_structure(surfaces) -> None:
    result, _ = surfaces
    for name, centre in (("fixed", (24, 24, 14)), ("after", (22, 26, 14))):
        points = points_of(result, name)
        radii = np.linalg.norm(points - world_of(result, centre), axis=1)
        ball = radii[radii < 16]
        assert len(ball) > 300
        assert np.abs(ball - 12).mean() < 0.8


def test_before_is_where_the_deformation_comes_from(surfaces) -> None:
    result, _ = surfaces
    after, before = points_of(result, "after"), points_of(result, "before")
    transform = deformation_grid(result)
    assert np.linalg.norm(after - before, axis=1).max() > 2
    for n in range(0, len(after), len(after) // 20):
        np.testing.assert_allclose(transform.TransformPoint(*after[n].tolist()), before[n], atol=1e-3)


@pytest.mark.slow
def test_surfaces_are_seen_in_3d(shown, surfaces) -> None:
    world = shown[0]
    result, _ = surfaces
    view = world.threed_view(size=200)
    empty = view.picture()
    show_surfaces(result, "after")
    view.view.reset_camera()
    after = view.picture()
    show_surfaces(result, "before")
    before = view.picture()
    for one, other in ((empty, after), (after, before)):
        assert (one != other).any(axis=-1).mean() > 0.02


# Comparison


@pytest.fixture
def comparison(shown):
    _, result, view = shown
    made = Comparison(result, [view.composite])
    yield made
    made.end()


def mixed_values(shown) -> np.ndarray:
    world, _, view = shown
    return voxels(world.scene.GetNodeByID(view.composite.GetBackgroundVolumeID()))


def greys(node) -> np.ndarray:
    display = node.GetDisplayNode()
    low, high = display.GetWindowLevelMin(), display.GetWindowLevelMax()
    return np.clip((voxels(node) - low) / (high - low) * 255, 0, 255)


@pytest.mark.parametrize("axis", AXES)
def test_a_swipe_shows_the_fixed_image_on_one_side(shown, comparison, axis) -> None:
    _, result, _ = shown
    comparison.swipe(0.4, axis)
    mixed = mixed_values(shown).astype(float)
    cosines = voxel_to_world(result.fixed)[AXES.index(axis), :3] / result.fixed.GetSpacing()
    nearest = int(np.argmax(np.abs(cosines)))
    size = mixed.shape[2 - nearest]
    # Counted from the patient's right, front or head, where the fixed image begins.
    rank = np.arange(size)[:: -1 if cosines[nearest] > 0 else 1]
    first = np.moveaxis(
        np.broadcast_to(rank < round(0.4 * size), (*np.delete(mixed.shape, 2 - nearest), size)), -1, 2 - nearest
    )
    assert np.abs(mixed - greys(result.fixed))[first].max() <= 1
    assert np.abs(mixed - greys(result.warped))[~first].max() <= 1
    assert np.abs(mixed - greys(result.fixed))[~first].max() > 20


@pytest.mark.parametrize(("fraction", "which"), [(0.0, "warped"), (1.0, "fixed")])
def test_the_ends_of_a_swipe_are_one_image(shown, comparison, fraction, which) -> None:
    comparison.swipe(fraction)
    assert np.abs(mixed_values(shown) - greys(getattr(shown[1], which))).max() <= 1


def test_a_checkerboard_alternates_in_cubes_of_equal_millimetres(shown, comparison) -> None:
    _, result, _ = shown
    comparison.checkerboard(4)
    mixed = mixed_values(shown).astype(float)
    sizes = np.array(mixed.shape) * result.fixed.GetSpacing()[::-1]
    edge = sizes.max() / 4
    k, j, i = (
        np.floor((np.arange(n) + 0.5) * mm / edge) for n, mm in zip(mixed.shape, result.fixed.GetSpacing()[::-1])
    )
    even = (k[:, None, None] + j[:, None] + i) % 2 == 0
    for where, node in ((even, result.fixed), (~even, result.warped)):
        assert np.mean(np.abs(mixed - greys(node))[where] <= 1) > 0.95


def test_a_swipe_is_seen_in_the_view(shown, comparison) -> None:
    _, _, view = shown
    comparison.swipe(1.0)
    fixed = view.picture()
    comparison.swipe(0.0)
    other = view.picture()
    comparison.swipe(0.5)
    both = view.picture()
    for part in (fixed, other):
        assert (both != part).any()
    assert ((both == fixed) | (both == other)).all(axis=-1).mean() > 0.95


def test_before_is_the_moving_image_aligned_linearly(shown, comparison) -> None:
    _, result, view = shown
    comparison.flick(after=False)
    node = aligned_volume(result)
    assert view.composite.GetForegroundVolumeID() == node.GetID()
    assert aligned_volume(result) is node
    matrix = np.linalg.inv(voxel_to_world(result.moving)) @ result.linear
    for index in ((20, 18, 14), (25, 15, 12)):
        at = (matrix @ [*world_of(result, index), 1.0])[:3]
        floor = np.floor(at).astype(int)
        corners = voxels(result.moving)[floor[2] : floor[2] + 2, floor[1] : floor[1] + 2, floor[0] : floor[0] + 2]
        x, y, z = at - floor
        weights = np.einsum("k,j,i->kji", [1 - z, z], [1 - y, y], [1 - x, x])
        assert voxels(node)[index[::-1]] == pytest.approx((corners * weights).sum(), abs=1e-4)
    comparison.flick(after=True)
    assert view.composite.GetForegroundVolumeID() == result.warped.GetID()
    assert view.composite.GetForegroundOpacity() == 1.0


def test_a_blend_is_the_mean_of_both(shown, comparison) -> None:
    _, _, view = shown
    pictures = []
    for opacity in (0.0, 0.5, 1.0):
        comparison.blend(opacity)
        pictures.append(view.picture().astype(int))
    assert np.abs(pictures[1] - (pictures[0] + pictures[2]) / 2).max() <= 2
    assert (pictures[0] != pictures[2]).any()


def test_under_an_overlay_everything_is_in_the_background(shown, comparison) -> None:
    _, result, view = shown
    show_overlay(result.maps, "attention", [view.composite], 0.4)
    comparison.foreground_is_free = False
    grey = {node: greys(node) for node in (result.fixed, result.warped)}
    for opacity in (0.25, 0.5):
        comparison.blend(opacity)
        wanted = (1 - opacity) * grey[result.fixed] + opacity * grey[result.warped]
        assert np.abs(mixed_values(shown) - wanted).max() <= 2
    for opacity, node in ((0.0, result.fixed), (1.0, result.warped)):
        comparison.blend(opacity)
        assert view.composite.GetBackgroundVolumeID() == node.GetID()
    comparison.flick(after=False)
    assert view.composite.GetBackgroundVolumeID() == aligned_volume(result).GetID()
    for show in (comparison.swipe, comparison.checkerboard, comparison.end):
        show()
        assert view.composite.GetForegroundVolumeID() == result.maps["attention"].GetID()
        assert view.composite.GetForegroundOpacity() == 0.4
    comparison.foreground_is_free = True


def test_the_end_of_a_comparison_leaves_the_scene_as_it_was(shown) -> None:
    world, result, view = shown
    aligned_volume(result)
    before = world.scene.GetNumberOfNodes()
    made = Comparison(result, [view.composite])
    made.swipe()
    made.checkerboard()
    made.end()
    assert world.scene.GetNumberOfNodes() == before
    assert view.composite.GetBackgroundVolumeID() == result.fixed.GetID()


def test_without_the_users_volumes_a_comparison_says_so(tmp_path) -> None:
    fixed, moving = synthetic_images()
    world = World()
    result = load_result(world.scene, synthetic_result(fixed, moving).save(tmp_path / "r", ".nrrd"))
    with pytest.raises(ImageError, match="fixed volume"):
        Comparison(result, [])
    result.fixed = result.warped
    with pytest.raises(ImageError, match="moving volume"):
        Comparison(result, []).flick(after=False)


# Layout


def test_the_layout_is_known_by_its_number() -> None:
    node = slicer.vtkMRMLLayoutNode()
    for _ in range(2):
        assert register_layout(node) == COMPARISON_LAYOUT
    assert node.GetLayoutDescription(COMPARISON_LAYOUT) == layout_xml()
    tags = [view.get("singletontag") for view in ElementTree.fromstring(layout_xml()).iter("view")]
    assert tags == ["DeepRegFixed", "DeepRegWarped", "DeepRegMoving", "DeepRegOverlay"]
    assert set(tags) == {tag for tag, _ in VIEWS}


@pytest.mark.slow
def test_the_layout_shows_each_image_in_its_view(shown) -> None:
    world, result, _ = shown
    views = {tag: world.slice_view(tag=tag, size=150) for tag, _ in (VIEWS[1], VIEWS[3])}
    fill_layout(result, world.scene)
    composites = view_composites(world.scene)
    assert set(composites) == set(views)
    expected = {"DeepRegMoving": result.moving, "DeepRegOverlay": result.fixed}
    for tag, composite in composites.items():
        assert composite.GetBackgroundVolumeID() == expected[tag].GetID()
        assert composite.GetLinkedControl()
        assert views[tag].picture().any()
    assert composites["DeepRegOverlay"].GetForegroundVolumeID() == result.maps["jacobian"].GetID()
    assert composites["DeepRegMoving"].GetForegroundVolumeID() is None
    fill_layout(result, world.scene, "attention")
    assert composites["DeepRegOverlay"].GetForegroundVolumeID() == result.maps["attention"].GetID()


# Tables and plots


def test_tables_hold_what_was_measured(shown) -> None:
    _, result, _ = shown
    assert set(result.tables) == {"similarity", "deformation", "time", "structures", "histogram"}
    similarity = result.tables["similarity"].GetTable()
    assert [similarity.GetColumnName(n) for n in range(4)] == ["Measure", "Before", "Linear", "After"]
    assert [similarity.GetValue(0, n).ToDouble() for n in (1, 2, 3)] == [0.4, 0.6, 0.9]
    structures = result.tables["structures"].GetTable()
    rows = [[structures.GetValue(row, n).ToString() for n in range(5)] for row in range(2)]
    # The worst first; one without a name, one without a distance.
    assert [row[0] for row in rows] == ["Structure 2", "thalamus"]
    assert [float(value) for value in rows[1][1:]] == [0.6, 0.9, 3.0, 1.0]
    assert math.isnan(structures.GetValue(0, 4).ToDouble())


def test_the_histogram_counts_folds_by_themselves(shown) -> None:
    _, result, _ = shown
    table = result.tables["histogram"].GetTable()
    values = voxels(result.maps["jacobian"])
    at = {round(table.GetValue(n, 0).ToDouble(), 3): table.GetValue(n, 1).ToDouble() for n in range(61)}
    assert at[0.0] == pytest.approx(100 * (values <= 0).mean())
    assert sum(at.values()) == pytest.approx(100)
    near = (values >= 1.475) & (values < 1.525)
    assert at[1.5] == pytest.approx(100 * near.mean(), abs=0.1)


def test_plots_draw_these_tables(shown) -> None:
    _, result, _ = shown
    assert set(result.plots) == {"histogram", "dice"}
    dice = result.plots["dice"]
    series = [dice.GetNthPlotSeriesNode(n) for n in range(dice.GetNumberOfPlotSeriesNodes())]
    assert [node.GetYColumnName() for node in series] == ["Dice before", "Dice after"]
    assert {node.GetTableNode() for node in series} == {result.tables["structures"]}
    assert [node.GetPlotType() for node in series] == [node.PlotTypeBar for node in series]
    columns = {result.tables["structures"].GetTable().GetColumnName(n) for n in range(5)}
    assert {node.GetLabelColumnName() for node in series} <= columns
    histogram = result.plots["histogram"].GetNthPlotSeriesNode(0)
    assert (histogram.GetXColumnName(), histogram.GetYColumnName()) == ("Jacobian", "% of voxels")


def test_the_histogram_begins_and_ends_where_values_occur(shown) -> None:
    _, result, _ = shown
    low, high = (result.plots["histogram"].GetXAxisRange()[n] for n in range(2))
    values = voxels(result.maps["jacobian"])
    assert low == 0
    assert values[values < 2.9].max() <= high < min(values[values < 2.9].max() + 0.6, 3.1)


def test_metrics_of_a_file_have_null_and_text_keys(shown) -> None:
    """As ``metrics.json`` has them: null for NaN, text for the numbers of structures."""
    world, result, _ = shown
    metrics = json.loads(json.dumps(result.metrics))
    tables = make_tables(world.scene, metrics)
    assert tables["structures"].GetNumberOfRows() == 2
    assert make_tables(world.scene, {}) == {}


def test_a_table_is_exported_as_csv(shown, tmp_path) -> None:
    _, result, _ = shown
    export_csv(result.tables["structures"], tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows[1]["Structure"] == "thalamus"
    assert float(rows[1]["Dice after"]) == 0.9
    with pytest.raises(OutputError, match="cannot be written"):
        export_csv(result.tables["structures"], tmp_path / "nowhere" / "t.csv")
