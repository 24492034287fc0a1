"""Corrections in a scene: the nodes change in place, and a scene that was loaded can be corrected further."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from DeepRegAttentionLib.case import Case, CaseCorrector, read_result
from DeepRegAttentionLib.engine.corrections import Correction
from DeepRegAttentionLib.engine.errors import CorrectionError
from DeepRegAttentionLib.engine.options import RegistrationOptions
from DeepRegAttentionLib.engine.registration import register
from DeepRegAttentionLib.scene.compare import Comparison
from DeepRegAttentionLib.scene.correction_lines import (
    complete,
    fit_lines,
    is_placed,
    length_mm,
    lines_of,
    new_line,
    pair_of,
    remove_line,
)
from DeepRegAttentionLib.scene.corrections import (
    corrections_of,
    moving_point,
    refresh_result,
    refresh_steps,
    result_state,
    to_lps,
    write_result,
)
from DeepRegAttentionLib.scene.deformation import show_deformation
from DeepRegAttentionLib.scene.nodes import remove_node
from DeepRegAttentionLib.scene.results import (
    Wanted,
    find_results,
    inputs_of_result,
    keep_inputs,
    load_result,
    remove_result,
)
from helpers.images import blob_image
from helpers.scene import World, add_volume, voxels

FIXED_POINT = np.array([-31.0, 57.0, 112.0])
"""RAS mm, in the middle of the fixed image."""
DRAG = np.array([2.0, -3.0, 1.5])


@pytest.fixture(scope="module")
def case() -> Case:
    return Case(blob_image(), blob_image(size=(40, 40, 30), degrees=(5, 10, -9), shift=(3, -1, 2)))


@pytest.fixture(scope="module")
def found(case: Case):
    options = RegistrationOptions(model="none", prealign="rigid", refine=2, spacing=3.0, threads=1)
    return register(case.fixed, case.moving, options)


@pytest.fixture
def folder(found, tmp_path: Path) -> Path:
    return found.save(tmp_path / "result", ".nrrd", compress=False)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def load(world, case, folder, tmp_path):
    images = [add_volume(world.scene, image, name, tmp_path)
              for image, name in ((case.fixed, "fixed"), (case.moving, "moving"))]  # fmt: skip
    return lambda wanted=None: load_result(world.scene, folder, *images, wanted)


def corrected(case: Case, folder: Path, *pairs) -> None:
    """As the worker does it."""
    corrections = [Correction(*pair) for pair in pairs]
    CaseCorrector(case, read_result(folder, case)).correct(corrections).renew(folder, ".nrrd", compress=False)


def dragged(result, by: np.ndarray = DRAG, point: np.ndarray = FIXED_POINT):
    """A pair as the worker takes it: what the warped volume shows beside a point belongs there."""
    return to_lps(point), to_lps(moving_point(result, point + by))


def through(result, point: np.ndarray) -> np.ndarray:
    return np.array(result.transform.GetTransformFromParent().TransformPoint(point))


@pytest.mark.parametrize("kind", ["full", "grid"])
def test_the_nodes_of_a_result_show_its_correction_in_place(load, case, folder, kind) -> None:
    result = load(Wanted(transform=kind))
    drawn = show_deformation(result, "grid")
    nodes = [result.warped, result.transform, result.inverse, *result.maps.values(), *result.tables.values()]
    window = result.warped.GetDisplayNode().GetWindowLevelMin()
    before = voxels(result.warped).copy()
    goal = moving_point(result, FIXED_POINT + DRAG)
    pair = dragged(result)
    corrected(case, folder, pair)
    refresh_result(result, folder)
    np.testing.assert_allclose(through(result, FIXED_POINT), goal, atol=0.01)
    back = np.array(result.inverse.GetTransformFromParent().TransformPoint(goal))
    np.testing.assert_allclose(back, FIXED_POINT, atol=0.5)
    assert np.abs(voxels(result.warped) - before).max() > 0.02
    assert result.warped.GetDisplayNode().GetWindowLevelMin() == window
    maps = [node for name, node in result.maps.items() if name != "correction"]
    assert nodes[: -len(result.tables)] == [result.warped, result.transform, result.inverse, *maps]
    assert list(result.tables.values()) == nodes[-len(result.tables) :]
    assert voxels(result.maps["correction"]).max() == pytest.approx(np.linalg.norm(DRAG), rel=0.2)
    assert drawn.GetDisplayableNode() is result.extra("deformation")
    placed = corrections_of(result)
    np.testing.assert_allclose(placed[0].fixed, FIXED_POINT, atol=1e-9)
    np.testing.assert_allclose(placed[0].moving, goal, atol=1e-9)
    np.testing.assert_allclose(placed[0].pair, pair)
    assert placed[0].before_mm > 2 > 0.01 > placed[0].after_mm
    corrected(case, folder)
    refresh_result(result, folder)
    np.testing.assert_array_equal(voxels(result.warped), before)
    assert "correction" not in result.maps
    assert corrections_of(result) == []
    assert result.extra("uncorrected") is None


def test_what_is_drawn_of_the_deformation_follows(load, case, folder) -> None:
    result = load()
    show_deformation(result, "grid")

    drawn = result.extra("deformation")
    before = np.array(drawn.GetTransformToParent().TransformPoint(FIXED_POINT))
    corrected(case, folder, dragged(result))
    refresh_result(result, folder)
    assert result.extra("deformation") is drawn
    assert np.linalg.norm(drawn.GetTransformToParent().TransformPoint(FIXED_POINT) - before) > 1


def test_a_comparison_shows_the_correction_once_it_is_told(load, case, folder) -> None:
    result = load()
    comparison = Comparison(result, [])
    comparison.checkerboard(8)
    mixed = voxels(comparison._mixed).copy()
    corrected(case, folder, dragged(result))
    refresh_result(result, folder)
    comparison.renew()
    comparison.checkerboard(8)
    assert (voxels(comparison._mixed) != mixed).any()


@pytest.mark.parametrize("kind", ["full", "grid"])
def test_a_loaded_scene_is_corrected_further_and_taken_back(load, case, folder, kind, tmp_path) -> None:
    result = load(Wanted(transform=kind))
    uncorrected = through(result, FIXED_POINT)
    first = dragged(result)
    corrected(case, folder, first)
    refresh_result(result, folder)
    assert result.scene.WriteToMRB(str(tmp_path / "scene.mrb"))
    other = World()
    assert other.scene.ReadFromMRB(str(tmp_path / "scene.mrb"))
    (again,) = find_results(other.scene)
    assert len(corrections_of(again)) == 1
    anew = tmp_path / "anew"
    anew.mkdir()
    write_result(again, anew)
    second = dragged(again, -DRAG, np.add(FIXED_POINT, (14, 10, 0)))
    corrected(case, anew, *(one.pair for one in corrections_of(again)), second)
    refresh_result(again, anew)
    for fixed, moving in (first, second):
        np.testing.assert_allclose(to_lps(through(again, np.array(to_lps(fixed)))), moving, atol=0.01)
    corrected(case, anew)
    refresh_result(again, anew)
    np.testing.assert_allclose(through(again, FIXED_POINT), uncorrected, atol=1e-3)
    assert corrections_of(again) == []


def test_a_corrected_folder_is_loaded_with_what_it_was(load, case, folder, world) -> None:
    plain = load()
    pair = dragged(plain)
    remove_result(plain)
    corrected(case, folder, pair)
    count = world.scene.GetNumberOfNodes()
    result = load()
    assert len(corrections_of(result)) == 1
    assert result.extra("uncorrected").GetHideFromEditors()
    assert {"correction", "expected_error"} <= set(result.maps)
    remove_result(result)
    left = {world.scene.GetNthNode(n).GetClassName() for n in range(count, world.scene.GetNumberOfNodes())}
    assert "vtkMRMLTransformNode" not in left


def test_deleted_nodes_are_not_made_again_and_without_a_transform_nothing_is_corrected(
    load, case, folder, tmp_path
) -> None:
    result = load()
    pair = dragged(result)
    corrected(case, folder, pair)
    remove_node(result.scene, result.warped)
    result.warped = None
    remove_node(result.scene, result.maps.pop("jacobian"))
    steps = list(refresh_steps(result, folder))
    assert steps[0] == "transform"
    assert result.warped is None
    assert "jacobian" not in result.maps
    remove_node(result.scene, result.transform)
    result.transform = None
    with pytest.raises(CorrectionError, match="transform of this result is gone"):
        moving_point(result, FIXED_POINT)


@pytest.mark.parametrize("kind", ["full", "grid"])
def test_a_change_of_the_transform_is_noticed_and_what_is_looked_at_is_none(load, case, folder, kind, tmp_path) -> None:
    result = load(Wanted(transform=kind))
    found = result_state(result)
    show_deformation(result, "grid")
    show_deformation(result, "arrows")
    moving_point(result, FIXED_POINT)
    result.scene.WriteToMRB(str(tmp_path / "scene.mrb"))
    anew = tmp_path / "anew"
    anew.mkdir()
    write_result(result, anew)
    assert result_state(result) == found
    result.transform.Inverse()
    assert result_state(result) != found


def test_what_corrections_begin_with_is_the_transform_as_it_was_found(load, case, folder) -> None:
    result = load()
    found = result_state(result)
    corrected(case, folder, dragged(result))
    refresh_result(result, folder)
    first = result_state(result)
    assert first != found
    corrected(case, folder, dragged(result), dragged(result, -DRAG, np.add(FIXED_POINT, (14, 10, 0))))
    refresh_result(result, folder)
    assert result_state(result) == first


# Lines in the views


def placed_line(result, by: np.ndarray = DRAG, point: np.ndarray = FIXED_POINT):
    """As a person clicks: where something is seen in the warped volume, then where it belongs."""
    line = new_line(result)
    assert not is_placed(line)
    for end in (point + by, point):
        line.AddControlPointWorld(*end)
    assert is_placed(line)
    complete(result, line)
    return line


def follow(case, folder, result) -> None:
    """Correct a result as its lines say."""
    corrected(case, folder, *(tuple(map(to_lps, pair_of(line))) for line in lines_of(result)))
    refresh_result(result, folder)
    fit_lines(result)


def test_a_line_stands_for_a_correction_and_keeps_its_place_in_the_moving_volume(load, case, folder) -> None:
    result = load()
    seen = moving_point(result, FIXED_POINT + DRAG)
    line = placed_line(result)
    assert length_mm(line) == pytest.approx(np.linalg.norm(DRAG))
    follow(case, folder, result)
    assert lines_of(result) == [line]
    fixed, moving = pair_of(line)
    np.testing.assert_allclose(fixed, FIXED_POINT, atol=1e-6)
    np.testing.assert_allclose(moving, seen, atol=1e-6)
    np.testing.assert_allclose(through(result, FIXED_POINT), seen, atol=0.01)
    # Its end is dragged: what belongs there is the same.
    other = np.add(FIXED_POINT, (1, 1, 0))
    line.SetNthControlPointPositionWorld(1, *other)
    follow(case, folder, result)
    np.testing.assert_allclose(through(result, other), seen, atol=0.01)
    remove_line(line)
    follow(case, folder, result)
    assert corrections_of(result) == []


def test_lines_are_saved_with_the_scene_and_go_with_their_result(load, case, folder, tmp_path) -> None:
    result = load()
    lines = [placed_line(result), placed_line(result, -DRAG, np.add(FIXED_POINT, (14, 10, 0)))]
    follow(case, folder, result)
    pairs = [pair_of(line) for line in lines]
    assert result.scene.WriteToMRB(str(tmp_path / "scene.mrb"))
    other = World()
    assert other.scene.ReadFromMRB(str(tmp_path / "scene.mrb"))
    (again,) = find_results(other.scene)
    fit_lines(again)
    np.testing.assert_allclose([pair_of(line) for line in lines_of(again)], pairs, atol=1e-5)
    remove_result(again)
    assert other.scene.GetNumberOfNodesByClass("vtkMRMLMarkupsLineNode") == 0


def test_lines_are_those_of_the_corrections_again_when_nothing_came_of_them(load, case, folder) -> None:
    result = load()
    line = placed_line(result)
    follow(case, folder, result)
    line.SetNthControlPointPositionWorld(1, 0, 0, 0)
    placed_line(result, 2 * DRAG, np.add(FIXED_POINT, (0, 9, 0)))
    unfinished = new_line(result)
    fit_lines(result, but=unfinished)
    assert lines_of(result) == [line]
    np.testing.assert_allclose(pair_of(line)[0], FIXED_POINT, atol=1e-6)
    assert result.scene.IsNodePresent(unfinished)
    fit_lines(result)
    assert not result.scene.IsNodePresent(unfinished)


def test_a_correction_without_a_line_gets_one_from_where_it_was_seen(load, case, folder) -> None:
    result = load()
    corrected(case, folder, dragged(result))
    refresh_result(result, folder)
    fit_lines(result)
    (line,) = lines_of(result)
    np.testing.assert_allclose(pair_of(line)[0], FIXED_POINT, atol=1e-6)
    assert length_mm(line) == pytest.approx(np.linalg.norm(DRAG), abs=0.2)


def test_what_a_result_was_made_of_is_known_and_stays_when_it_goes(load, world) -> None:
    result = load()
    mask = world.scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "mask")
    keep_inputs(result, {"fixed": result.fixed, "moving": result.moving, "fixed_mask": mask})
    assert inputs_of_result(result) == {"fixed": result.fixed, "moving": result.moving, "fixed_mask": mask}
    remove_result(result)
    assert world.scene.IsNodePresent(mask)
