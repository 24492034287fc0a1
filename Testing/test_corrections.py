"""Corrections: every point meets its goal, nothing folds, nothing else moves, and all of it can be taken back."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from DeepRegAttentionLib.case import Case, CaseCorrector, read_result
from DeepRegAttentionLib.engine.corrections import Correction, Corrector, correct
from DeepRegAttentionLib.engine.corrections.basis import Basis
from DeepRegAttentionLib.engine.corrections.pull import NoSmoothMotionError, Pull
from DeepRegAttentionLib.engine.corrections.renewal import Renewal
from DeepRegAttentionLib.engine.errors import CorrectionError, OutputError, UnreadableFileError
from DeepRegAttentionLib.engine.fields import jacobian_determinant
from DeepRegAttentionLib.engine.geometry import Grid
from DeepRegAttentionLib.engine.guidance import Guidance
from DeepRegAttentionLib.engine.intensity import background_value
from DeepRegAttentionLib.engine.landmarks import Landmarks
from DeepRegAttentionLib.engine.options import RegistrationOptions
from DeepRegAttentionLib.engine.registration import register
from DeepRegAttentionLib.engine.result import RegistrationResult
from DeepRegAttentionLib.engine.result_folder import read_metrics
from DeepRegAttentionLib.engine.trust.expected_error import expect_error
from helpers.images import blob_image
from hypothesis import assume, given, settings
from hypothesis import strategies as st

MIDDLE = np.array([31.0, -57.0, 112.0])
RENEWED = {"warped", "jacobian", "expected_error", "error_bound", "correction", "difference_after"}
Pair = tuple[sitk.Image, sitk.Image]


@pytest.fixture(scope="module")
def pair() -> Pair:
    return blob_image(), blob_image(size=(40, 40, 30), degrees=(5, 10, -9), shift=(4, -1, 2))


@pytest.fixture(scope="module")
def found(pair: Pair) -> RegistrationResult:
    return register(*pair, RegistrationOptions(model="none", prealign="rigid", refine=2, spacing=2.5, threads=1))


@pytest.fixture(scope="module")
def corrector(pair: Pair, found: RegistrationResult) -> Corrector:
    return Corrector(found, *pair)


def dragged(result: RegistrationResult, point: np.ndarray, by: tuple[float, float, float]) -> Correction:
    """A correction that moves where a point is found by some millimetres."""
    return Correction(tuple(point), tuple(np.add(result.transform.TransformPoint(point.tolist()), by)))


@pytest.fixture(scope="module")
def two(found: RegistrationResult) -> list[Correction]:
    return [dragged(found, MIDDLE, (3.0, -2.0, 1.0)), dragged(found, np.add(MIDDLE, (9, -6, 5)), (-1.0, -1.5, 2.0))]


@pytest.fixture(scope="module")
def corrected(corrector: Corrector, two: list[Correction]) -> RegistrationResult:
    return corrector.correct(two)


def array(image: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(image)


# The motion


def pull_of(starts: np.ndarray, goals: np.ndarray, reach: Sequence[float]) -> Pull:
    return Pull(*(torch.tensor(values, dtype=torch.float64) for values in (starts, goals, reach)))


coordinates = st.floats(-10, 10, width=16)
ways = st.floats(-6, 6, width=16)
triples = st.tuples(coordinates, coordinates, coordinates)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(triples, st.tuples(ways, ways, ways)), min_size=1, max_size=4))
def test_a_pull_meets_its_goals_and_never_folds(drags: list) -> None:
    starts, lengths = (np.array(part) for part in zip(*drags))
    goals = starts + lengths
    apart = [np.linalg.norm(one - other) for one, other in itertools.combinations(starts, 2)]
    assume(min(apart, default=1.0) > 0.5)
    reach = np.maximum(5 * np.linalg.norm(lengths, axis=1), 4.0)
    pull = pull_of(starts, goals, reach)
    try:
        np.testing.assert_allclose(pull(pull.starts).numpy(), goals, atol=1e-6)
    except NoSmoothMotionError as error:
        # Only points that are too near to each other for how differently they move.
        one, other = error.pair
        near = min(np.linalg.norm(ends[one] - ends[other]) for ends in (starts, goals))
        assert near < 2 * np.linalg.norm(lengths[one] - lengths[other])
        assume(False)
    points = 24 * torch.rand(400, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 12
    assert float(torch.linalg.det(slopes(pull, points)).min()) > 0
    far = torch.cat([points, points + torch.tensor([200.0, 0, 0])])
    still = ~pull.touches(far)
    assert still.any()
    assert torch.equal(pull(far)[still], far[still])


def slopes(pull: Pull, points: torch.Tensor) -> torch.Tensor:
    """The gradient of the motion at points, ``(P, 3, 3)``."""
    steps = 1e-4 * torch.eye(3, dtype=torch.float64)
    return torch.stack([(pull(points + step) - pull(points - step)) / 2e-4 for step in steps], dim=2)


def test_one_pull_takes_a_single_step_and_is_felt_less_the_farther_away() -> None:
    pull = pull_of(np.zeros((1, 3)), np.array([[4.0, 0.0, 0.0]]), np.array([20.0]))
    assert pull.times == (0.0, 1.0)
    away = torch.tensor([[r, 0.0, 0.0] for r in (0.0, 5.0, 10.0, 15.0, 20.0, 30.0)], dtype=torch.float64)
    moved = (pull(away) - away)[:, 0]
    assert moved[0] == 4.0
    assert (moved[1:] < moved[:-1]).tolist() == [True] * 4 + [False]
    assert moved[-2:].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("goals", [[[0, 0, 0], [0, 0, 0]], [[5, 0, 0], [-5, 0, 0]]])
def test_points_that_meet_or_pass_through_each_other_have_no_smooth_motion(goals: list) -> None:
    pull = pull_of(np.array([[-3.0, 0, 0], [3.0, 0, 0]]), np.array(goals, float), np.array([20.0, 20.0]))
    with pytest.raises(NoSmoothMotionError) as raised:
        pull(pull.starts)
    assert raised.value.pair == (0, 1)


# The transform


def test_corrected_points_meet_their_goals_on_an_oblique_anisotropic_pair(
    corrected: RegistrationResult, two: list[Correction]
) -> None:
    for correction in two:
        there = corrected.transform.TransformPoint(correction.fixed_point)
        assert np.linalg.norm(np.subtract(there, correction.moving_point)) < 0.01
        back = corrected.inverse_transform.TransformPoint(correction.moving_point)
        # Between its nodes, 2.5 mm apart, an inverse is linear as the transform is.
        assert np.linalg.norm(np.subtract(back, correction.fixed_point)) < 0.4
    assert corrected.metrics["inverse_consistency_mm"]["mean"] < 0.05
    assert corrected.metrics["jacobian"]["fold_percent"] == 0


def test_the_warped_image_is_what_simpleitk_makes_of_the_transform(
    corrected: RegistrationResult, found: RegistrationResult, pair: Pair
) -> None:
    fixed, moving = pair
    outside = background_value(array(moving))
    expected = sitk.Resample(moving, fixed, corrected.transform, sitk.sitkLinear, outside)
    np.testing.assert_allclose(array(corrected.warped), array(expected), atol=2e-4)
    assert np.abs(array(corrected.warped) - array(found.warped)).max() > 0.05


def test_a_long_drag_is_felt_over_a_third_of_the_image_at_most(
    corrector: Corrector, found: RegistrationResult, pair: Pair
) -> None:
    result = corrector.correct([dragged(found, MIDDLE, (0.0, 7.0, 0.0))])
    longest = max(n * mm for n, mm in zip(pair[0].GetSize(), pair[0].GetSpacing()))
    assert result.metrics["corrections"][0]["reach_mm"] == pytest.approx(0.35 * longest)


def test_nothing_changes_beyond_five_times_the_drag(
    corrector: Corrector, found: RegistrationResult, pair: Pair
) -> None:
    correction = dragged(found, np.add(MIDDLE, (12, 0, 0)), (2.6, 0.0, 0.0))
    result = corrector.correct([correction])
    reach = result.metrics["corrections"][0]["reach_mm"]
    assert reach == pytest.approx(13.0, abs=0.1)
    parts = [Basis(one, *pair) for one in (found, RegistrationResult(result.warped, result.transform, None))]
    far = (parts[0].positions - corrector.basis.positions.new_tensor(_aligned(parts[0], correction))).norm(dim=1)
    changed = (parts[0].field != parts[1].field).any(dim=-1).flatten()
    # The way of the pull is 2.6 mm long, and it is felt around all of it.
    assert not changed[far > reach + 2.7].any()
    assert changed[far < 0.5 * reach].all()
    grid = Grid.of(result.warped)
    points = np.indices(grid.shape).reshape(3, -1).T[:, ::-1] @ grid.voxel_to_mm.T + grid.origin
    away = np.linalg.norm(points - correction.fixed_point, axis=1) > reach + 12
    assert away.any()
    # Block by block, the same values are added up in another order.
    np.testing.assert_allclose(array(result.warped).ravel()[away], array(found.warped).ravel()[away], atol=1e-5)


def _aligned(basis: Basis, correction: Correction) -> tuple[float, ...]:
    return basis.back.TransformPoint(correction.moving_point)


def test_the_maps_are_those_that_the_whole_would_give(
    corrected: RegistrationResult, two: list[Correction], found: RegistrationResult, pair: Pair
) -> None:
    basis = Basis(RegistrationResult(corrected.warped, corrected.transform, None, metrics=found.metrics), *pair)
    displacement = basis.in_voxels(basis.field)
    where = basis.grid.covering(Grid.of(pair[0]))
    jacobian = jacobian_determinant(displacement)[(slice(None), slice(None), *where)]
    np.testing.assert_allclose(array(corrected.maps["jacobian"]), jacobian[0, 0], atol=1e-4)
    error = expect_error(basis.pair, displacement, basis.grid.spacing[0], None)
    whole = (error.expected * error.there)[(slice(None), slice(None), *where)][0, 0].numpy()
    said = array(corrected.maps["expected_error"])
    far = array(corrected.maps["correction"]) == 0
    np.testing.assert_allclose(said[far], whole[far], atol=1e-4)
    # Near a correction a person knows better.
    assert (said <= whole + 1e-4).all()
    expected, voxel = corrected.maps["expected_error"], max(pair[0].GetSpacing() + pair[1].GetSpacing())
    assert all(expected[expected.TransformPhysicalPointToIndex(one.fixed_point)] <= voxel for one in two)


def test_the_correction_is_seen_as_a_map_and_told_with_the_landmarks_own_error(
    corrected: RegistrationResult, two: list[Correction], found: RegistrationResult
) -> None:
    told = corrected.metrics["corrections"]
    assert [item["error_before_mm"] for item in told] == pytest.approx([14**0.5, 7.25**0.5])
    assert max(item["error_after_mm"] for item in told) < 0.01
    assert [item["fixed_lps_mm"] for item in told] == [list(correction.fixed_point) for correction in two]
    image = corrected.maps["correction"]
    assert image[image.TransformPhysicalPointToIndex(two[0].fixed_point)] == pytest.approx(14**0.5, rel=0.25)
    assert array(image).min() == 0
    assert set(corrected.maps) == {*found.maps, "correction"}
    assert "corrections" not in found.metrics
    assert corrected.metrics["similarity"]["before"] == found.metrics["similarity"]["before"]
    assert corrected.metrics["similarity"]["after"] != found.metrics["similarity"]["after"]


# Adding up, and taking back


def test_what_is_left_after_taking_one_back_is_what_it_alone_would_have_been(
    corrector: Corrector, corrected: RegistrationResult, two: list[Correction], pair: Pair, found: RegistrationResult
) -> None:
    alone = corrector.correct(two[1:])
    again = correct(corrected, *pair, two[1:])
    assert np.array_equal(array(alone.warped), array(again.warped))
    assert alone.metrics == again.metrics
    for name in alone.maps:
        assert np.array_equal(array(alone.maps[name]), array(again.maps[name])), name
    assert correct(corrected, *pair, []) is found


def test_the_order_and_a_repetition_of_corrections_do_not_matter(
    corrector: Corrector, corrected: RegistrationResult, two: list[Correction]
) -> None:
    other = corrector.correct([two[1], two[0], two[1]])
    assert len(other.metrics["corrections"]) == 2
    np.testing.assert_allclose(array(other.warped), array(corrected.warped), atol=1e-5)


# The folder


def test_a_folder_is_corrected_and_comes_back_to_the_byte(
    tmp_path: Path, corrector: Corrector, found: RegistrationResult, two: list[Correction], pair: Pair
) -> None:
    found.save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for chosen in (two[:1], two):
        corrector.correct(chosen).renew(tmp_path)
        read = RegistrationResult.read(tmp_path)
        assert len(read.metrics["corrections"]) == len(chosen)
        assert read.uncorrected is not None
        assert read.transform.TransformPoint(two[0].fixed_point) == pytest.approx(two[0].moving_point, abs=0.01)
        kept = {path.name: path.read_bytes() for path in (tmp_path / "uncorrected").iterdir()}
        assert kept == {name: content for name, content in before.items() if name in kept}
        assert {name.partition(".")[0] for name in kept} == RENEWED - {"correction"} | {
            "transform", "inverse_transform", "metrics"
        }  # fmt: skip
    again = correct(read, *pair, two[1:])
    np.testing.assert_allclose(array(again.warped), array(corrector.correct(two[1:]).warped), atol=1e-5)
    correct(read, *pair, []).renew(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_corrected_result_is_saved_anywhere_and_corrected_again(
    tmp_path: Path, corrected: RegistrationResult, found: RegistrationResult, two: list[Correction], pair: Pair
) -> None:
    corrected.save(tmp_path, ".nrrd")
    read = RegistrationResult.read(tmp_path)
    again = correct(read, *pair, two[:1])
    again.renew(tmp_path, ".nrrd", compress=False)
    assert len(read_metrics(tmp_path)["corrections"]) == 1
    plain = correct(RegistrationResult.read(tmp_path), *pair, [])
    np.testing.assert_array_equal(array(plain.warped), array(found.warped))
    found.save(tmp_path, ".nrrd")
    assert not (tmp_path / "uncorrected").exists()


def test_images_of_another_format_replace_the_old_ones_and_are_replaced_by_them(
    tmp_path: Path, corrector: Corrector, found: RegistrationResult, two: list[Correction]
) -> None:
    found.save(tmp_path)
    corrector.correct(two).renew(tmp_path, ".nrrd", compress=False)
    assert (tmp_path / "warped.nrrd").is_file()
    assert not (tmp_path / "warped.nii.gz").exists()
    found.renew(tmp_path)
    assert (tmp_path / "warped.nii.gz").is_file()
    assert not list(tmp_path.glob("*.nrrd"))


def test_a_folder_that_cannot_be_written_stays_as_it_was(
    tmp_path: Path, corrector: Corrector, found: RegistrationResult, two: list[Correction], monkeypatch
) -> None:
    found.save(tmp_path)
    before = sorted(path.name for path in tmp_path.rglob("*"))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("DeepRegAttentionLib.engine.result._write_image", full)
    with pytest.raises(OutputError, match="no space left"):
        corrector.correct(two).renew(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_the_transform_and_the_metrics_alone_are_enough_to_go_on(
    tmp_path: Path, corrector: Corrector, found: RegistrationResult, two: list[Correction], pair: Pair
) -> None:
    found.save(tmp_path)
    for path in tmp_path.iterdir():
        if path.name not in ("transform.h5", "metrics.json"):
            path.unlink()
    case = Case(*pair)
    result = CaseCorrector(case, read_result(tmp_path, case)).correct(two)
    expected = corrector.correct(two)
    np.testing.assert_allclose(array(result.warped), array(expected.warped), atol=1e-5)
    for name in ("jacobian", "expected_error", "error_bound", "difference_after"):
        np.testing.assert_allclose(array(result.maps[name]), array(expected.maps[name]), atol=2e-3, err_msg=name)
    whole = RegistrationResult.read(tmp_path)
    np.testing.assert_allclose(array(whole.maps["jacobian"]), array(found.maps["jacobian"]), atol=1e-4)


def test_label_maps_and_landmarks_are_measured_again(
    found: RegistrationResult, two: list[Correction], pair: Pair
) -> None:
    fixed, moving = pair
    points = [Landmarks(np.array([getattr(c, name) for c in two])) for name in ("fixed_point", "moving_point")]
    labels = sitk.Cast(moving > 0.5, sitk.sitkUInt8)
    case = Case(*pair, labels=labels, fixed_labels=sitk.Cast(fixed > 0.5, sitk.sitkUInt8),
                fixed_landmarks=points[0], moving_landmarks=points[1])  # fmt: skip
    result = CaseCorrector(case, found).correct(two)
    assert result.metrics["landmarks"]["after_mm"]["max"] < 0.01
    expected = sitk.Resample(labels, fixed, result.transform, sitk.sitkNearestNeighbor)
    assert (array(result.warped_labels) != array(expected)).mean() < 1e-3
    assert set(result.metrics["labels"]) == {"before", "after"}
    assert result.metrics["verdict"]["sentence"]


# What is refused


@pytest.mark.parametrize("bad", [(np.nan, 0, 0), (1, 2), "here", None, (np.inf, 1, 2), (1, 2, "x")])
def test_a_point_is_three_finite_numbers(bad: object) -> None:
    for points in ((bad, (0, 0, 0)), ((0, 0, 0), bad)):
        with pytest.raises(CorrectionError, match="three finite numbers"):
            Correction(*points)


def test_what_cannot_be_corrected_is_said_in_a_sentence(
    corrector: Corrector, found: RegistrationResult, two: list[Correction]
) -> None:
    there = two[0].moving_point
    for wrong, sentence in {
        Correction((1e4, 0, 0), there): "fixed point of correction 2 .* outside the fixed image",
        Correction(tuple(MIDDLE), (0, 0, -1e4)): "moving point of correction 2 .* outside the moving image",
        dragged(found, MIDDLE, (0, 19, 0)): "Correction 2 moves its point by 19 mm, more than the 18 mm",
        dragged(found, MIDDLE, (-3, 2, 1)): "Corrections 1 and 2 contradict each other: their points are 0.0 mm apart",
        dragged(found, np.add(MIDDLE, (0.5, 0, 0)), (-3, 2, 1)): "Corrections 1 and 2 contradict each other: .* 0.5 mm",
    }.items():
        with pytest.raises(CorrectionError, match=sentence) as raised:
            corrector.correct([two[0], wrong])
        assert str(raised.value).endswith(".")


def test_a_pull_too_steep_for_the_grid_is_refused(corrector: Corrector) -> None:
    near = MIDDLE + np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.25], [0.0, 0.0, 3.75]])
    steep = pull_of(near, near + np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 3.75], [0.0, 1.25, 0.0]]), [5.0, 18.75, 6.25])
    with pytest.raises(CorrectionError, match=r"would fold the deformation at \(.*\) mm; take one near to it back"):
        Renewal(corrector.basis, steep).result(lambda fraction: None)


def test_a_result_of_other_images_is_refused(found: RegistrationResult, two: list[Correction], pair: Pair) -> None:
    fixed, moving = pair
    with pytest.raises(CorrectionError, match="another fixed image"):
        correct(found, moving, moving, two)
    with pytest.raises(CorrectionError, match="another moving image"):
        correct(found, fixed, blob_image(shift=(20, 0, 0), seed=9), two)


def test_a_folder_without_a_result_is_refused(tmp_path: Path, pair: Pair) -> None:
    with pytest.raises(UnreadableFileError, match="holds no result"):
        read_result(tmp_path, Case(*pair))
    with pytest.raises(UnreadableFileError, match="holds no result"):
        RegistrationResult.read(tmp_path)


def test_masks_and_an_initial_transform_count(pair: Pair) -> None:
    fixed, moving = pair
    mask = sitk.Cast(fixed > 0.2, sitk.sitkUInt8)
    start = sitk.TranslationTransform(3, (4.0, -1.0, 2.0))
    guidance = Guidance(fixed_mask=mask, initial_transform=start)
    options = RegistrationOptions(model="none", prealign="none", refine=1, spacing=4.0, maps=False)
    result = register(fixed, moving, options, guidance)
    one = dragged(result, MIDDLE, (2.0, 1.0, -2.0))
    again = correct(result, fixed, moving, [one], guidance)
    assert np.linalg.norm(np.subtract(again.transform.TransformPoint(one.fixed_point), one.moving_point)) < 0.01
    assert set(again.maps) == {"jacobian", "correction"}
    assert "rotation_deg" not in again.metrics["verdict"]["evidence"]
    assert again.metrics["expected_error"]["mean_mm"] > 0
