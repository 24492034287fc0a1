"""The measures against their definitions, against MONAI, and on what they must not accept."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import SimpleITK as sitk
from DeepRegAttentionLib.engine import metrics
from DeepRegAttentionLib.engine.errors import EmptyImageError, ImageError, LabelError, LandmarkError, MaskError
from DeepRegAttentionLib.engine.landmarks import Landmarks, transform_landmarks
from helpers.places import real_data
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

SPACING = (0.8, 1.5, 4.0)
LABELS = hnp.arrays(np.uint8, (3, 5, 4), elements=st.integers(0, 3))


def like(array: np.ndarray, image: sitk.Image) -> sitk.Image:
    result = sitk.GetImageFromArray(array)
    result.CopyInformation(image)
    return result


def oblique(array: np.ndarray, spacing: tuple[float, float, float] = SPACING) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    turn = sitk.Euler3DTransform()
    turn.SetRotation(0.2, -0.4, 0.7)
    image.SetSpacing(spacing)
    image.SetDirection(turn.GetMatrix())
    image.SetOrigin((-70.0, 31.0, 12.0))
    return image


def random_image(shape: tuple[int, int, int], seed: int = 0) -> sitk.Image:
    return oblique(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def box(start: tuple[int, int, int], size: tuple[int, int, int], label: int = 1) -> np.ndarray:
    array = np.zeros((24, 26, 30), np.uint8)
    k, j, i = (slice(a, a + n) for a, n in zip(start, size))
    array[k, j, i] = label
    return array


# Similarity


def test_an_image_is_most_similar_to_itself(make_image) -> None:
    image = make_image()
    values = metrics.similarity(image, image)
    assert values["ncc"] == pytest.approx(1, abs=1e-5)
    assert values["mse"] == 0
    assert values["ssim"] == pytest.approx(1, abs=1e-5)
    assert values["nmi"] == pytest.approx(2, abs=1e-9)
    assert json.loads(json.dumps(values)) == values


def test_every_measure_falls_as_the_object_moves_away(make_image) -> None:
    fixed = make_image()
    near, far = (metrics.similarity(fixed, make_image(shift=(shift, 0, 0))) for shift in (2.0, 6.0))
    for name in ("ncc", "ssim", "nmi"):
        assert near[name] > far[name] + 0.02
    assert near["mse"] < far["mse"]


@given(st.floats(0.01, 100), st.floats(-500, 500))
@settings(max_examples=20, deadline=None)
def test_brightness_and_contrast_of_one_image_do_not_matter(gain: float, offset: float) -> None:
    fixed, warped = random_image((9, 10, 11)), random_image((9, 10, 11), seed=1)
    other = sitk.Cast(sitk.Cast(warped, sitk.sitkFloat64) * gain + offset, sitk.sitkFloat64)
    before, after = metrics.similarity(fixed, warped), metrics.similarity(fixed, other)
    for name in ("ncc", "mse", "ssim"):
        assert after[name] == pytest.approx(before[name], rel=1e-2, abs=2e-3)


def test_only_masked_voxels_count() -> None:
    shape = (14, 15, 16)
    fixed = random_image(shape)
    spoilt = sitk.GetArrayFromImage(fixed)
    spoilt[:, :, :4] = 40.0
    inside = np.zeros(shape, np.uint8)
    inside[:, :, 8:] = 5
    values = metrics.similarity(fixed, like(spoilt, fixed), like(inside, fixed))
    assert values["mse"] == 0
    assert values["ncc"] == pytest.approx(1, abs=1e-5)
    assert values["ssim"] == pytest.approx(1, abs=1e-5)
    assert metrics.similarity(fixed, like(spoilt, fixed))["ncc"] < 0.9


def test_ncc_is_the_correlation_coefficient() -> None:
    a, b = np.random.default_rng(2).normal(size=(2, 500)).astype(np.float32)
    assert metrics.ncc(a + 7, 3 * b + a) == pytest.approx(np.corrcoef(a, 3 * b + a)[0, 1], abs=1e-5)
    assert metrics.ncc(a, -a) == pytest.approx(-1, abs=1e-5)
    assert metrics.ncc(a, np.full_like(a, 0.1)) == 0


@pytest.mark.parametrize("shape", [(7, 7, 7), (23, 11, 18)])
def test_ssim_is_that_of_monai(shape: tuple[int, int, int]) -> None:
    torch, monai = pytest.importorskip("torch"), pytest.importorskip("monai.metrics")
    a, b = np.random.default_rng(3).random((2, *shape), dtype=np.float32)
    b = 0.6 * a + 0.4 * b
    reference = monai.SSIMMetric(spatial_dims=3, data_range=1.0, kernel_type="uniform", win_size=7)
    expected = reference(torch.from_numpy(a)[None, None], torch.from_numpy(b)[None, None])
    assert metrics.ssim(a, b) == pytest.approx(float(expected), abs=2e-5)


@given(st.tuples(*[st.integers(1, 12)] * 3), st.integers(0, 2), st.data())
@settings(deadline=None)
def test_running_sums_are_sums_of_windows(shape: tuple[int, int, int], axis: int, data: st.DataObject) -> None:
    width = data.draw(st.integers(1, shape[axis]))
    values = np.random.default_rng(0).integers(0, 99, shape)
    expected = np.lib.stride_tricks.sliding_window_view(values, width, axis=axis).sum(axis=-1)
    np.testing.assert_array_equal(metrics._running_sum(values, axis, width), expected)


def test_ssim_of_a_thin_stack_uses_thin_boxes() -> None:
    a, b = np.random.default_rng(4).random((2, 3, 20, 20), dtype=np.float32)
    inside = np.zeros(a.shape, bool)
    inside[:, 3:17, 3:17] = True
    assert metrics.ssim(a, b, inside) == pytest.approx(metrics.ssim(a, b), abs=1e-6)
    assert metrics.ssim(a, a) == pytest.approx(1, abs=1e-6)
    corner = np.zeros(a.shape, bool)
    corner[0, 0, 0] = True
    assert math.isnan(metrics.ssim(a, b, corner))


def test_nmi_sees_any_one_to_one_relation_and_no_chance_relation() -> None:
    rng = np.random.default_rng(5)
    a = ((rng.integers(0, 64, 50_000) + 0.5) / 64).astype(np.float32)
    shuffled = (rng.permutation(64)[(a * 64).astype(int)] + np.float32(0.5)) / 64
    assert metrics.nmi(a, shuffled.astype(np.float32)) == pytest.approx(2, abs=1e-6)
    assert metrics.nmi(a, rng.random(a.size, dtype=np.float32)) < 1.02
    assert metrics.nmi(a, a) == pytest.approx(metrics.nmi(a[::-1], a[::-1]))


def test_flat_images_give_numbers() -> None:
    image, flat = random_image((8, 8, 8)), oblique(np.full((8, 8, 8), 3, np.int16))
    values = metrics.similarity(image, flat)
    assert values["ncc"] == 0
    assert values["nmi"] == pytest.approx(1)
    assert all(math.isfinite(value) for value in values.values())
    assert metrics.similarity(flat, flat)["nmi"] == 2


def test_images_and_masks_on_other_grids_are_refused() -> None:
    image = random_image((8, 9, 10))
    with pytest.raises(ImageError, match="warped image has 10 × 9 × 7 voxels, but its counterpart has 10 × 9 × 8"):
        metrics.similarity(image, image[:, :, 1:])
    moved = sitk.Image(image)
    moved.SetOrigin((-70.0, 31.5, 12.0))
    with pytest.raises(ImageError, match=r"warped image lies 0\.5 mm off"):
        metrics.similarity(image, moved)
    with pytest.raises(MaskError, match=r"mask lies 0\.5 mm off"):
        metrics.similarity(image, image, moved)
    with pytest.raises(MaskError, match="mask is empty"):
        metrics.similarity(image, image, image * 0)


# Labels


@given(LABELS, LABELS)
@settings(deadline=None)
def test_dice_is_symmetric_bounded_and_as_defined(a: np.ndarray, b: np.ndarray) -> None:
    values = metrics.dice(oblique(a), oblique(b))
    assert values == metrics.dice(oblique(b), oblique(a))
    assert set(values) == (set(np.unique(a).tolist()) | set(np.unique(b).tolist())) - {0}
    for label, value in values.items():
        expected = 2 * ((a == label) & (b == label)).sum() / ((a == label).sum() + (b == label).sum())
        assert value == pytest.approx(expected)


@given(LABELS)
@settings(deadline=None)
def test_a_label_map_overlaps_itself_wholly(a: np.ndarray) -> None:
    assert set(metrics.dice(oblique(a), oblique(a)).values()) <= {1.0}
    assert set(metrics.hd95(oblique(a), oblique(a)).values()) <= {0.0}


def test_disjoint_missing_and_requested_labels() -> None:
    a, b = (
        oblique(box((2, 2, 2), (5, 5, 5))),
        oblique(box((12, 12, 12), (5, 5, 5)) + box((2, 2, 2), (5, 5, 5), 7)),
    )
    assert metrics.dice(a, b) == {1: 0.0, 7: 0.0}
    distances = metrics.hd95(a, b, labels=(7, 1, 9))
    assert list(distances) == [7, 1, 9]
    assert math.isnan(distances[7])
    assert math.isnan(distances[9])
    assert metrics.mean_over_labels(distances) == distances[1] > 0
    assert math.isnan(metrics.dice(a, b, labels=[9])[9])
    assert math.isnan(metrics.mean_over_labels({9: math.nan}))


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint32, np.int64, np.float32, np.float64])
def test_labels_of_any_type_and_size(kind: type) -> None:
    number = 255 if kind is np.uint8 else 2035 if kind is np.int16 else 70_000
    a, b = (box((4, 4, 4), (6, n, 6)).astype(kind) * kind(number) for n in (6, 3))
    assert metrics.dice(oblique(a), oblique(b)) == {number: pytest.approx(2 / 3)}
    assert metrics.hd95(oblique(a), oblique(b)) == {number: pytest.approx(3 * SPACING[1])}


@given(st.tuples(st.integers(-6, 6), st.integers(-6, 6), st.integers(-6, 6)))
@settings(max_examples=25, deadline=None)
def test_hd95_of_a_shifted_voxel_is_the_shift(shift: tuple[int, int, int]) -> None:
    start = (10, 12, 14)
    one_voxel = metrics.hd95(
        oblique(box(start, (1, 1, 1))), oblique(box(tuple(a + d for a, d in zip(start, shift)), (1, 1, 1)))
    )
    expected = math.hypot(*(d * s for d, s in zip(shift, reversed(SPACING))))
    assert one_voxel == {1: pytest.approx(expected, abs=1e-5)}


@pytest.mark.parametrize(("axis", "step"), [(0, 3), (1, 4), (2, 5)])
def test_hd95_of_a_shifted_box_counts_millimetres_of_that_axis(axis: int, step: int) -> None:
    # A plate, one voxel thick along the shift: every distance is the shift.
    size = [9, 9, 9]
    size[axis] = 1
    there = [8, 8, 8]
    there[axis] += step
    a, b = oblique(box((8, 8, 8), tuple(size))), oblique(box(tuple(there), tuple(size)))
    assert metrics.hd95(a, b)[1] == pytest.approx(step * SPACING[2 - axis], abs=1e-5)


def ragged(seed: int) -> np.ndarray:
    """Blobs, one voxel thin in places, that touch the border of the image."""
    noise = oblique(np.random.default_rng(seed).normal(size=(16, 22, 24)).astype(np.float32))
    return sitk.GetArrayFromImage(sitk.DiscreteGaussian(noise, 1.5, 9, 0.01, False)) > 0.12


def rim(structure: np.ndarray) -> np.ndarray:
    """Positions in mm of the voxels with a face on the outside."""
    indices = {tuple(index) for index in np.argwhere(structure).tolist()}
    steps = [*np.eye(3, dtype=int), *-np.eye(3, dtype=int)]
    open_ones = [i for i in sorted(indices) if any(tuple(np.add(i, step).tolist()) not in indices for step in steps)]
    return np.array(open_ones) * tuple(reversed(SPACING))


@pytest.mark.parametrize("seed", range(3))
def test_hd95_is_that_of_all_pairs_of_surface_voxels(seed: int) -> None:
    a, b = ragged(seed), ragged(seed + 10)
    between = np.linalg.norm(rim(a)[:, None] - rim(b)[None], axis=-1)
    expected = max(np.percentile(between.min(axis=side), 95) for side in (0, 1))
    measured = metrics.hd95(oblique(a.astype(np.uint8)), oblique(b.astype(np.uint8)))
    assert measured[1] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_hd95_is_that_of_monai(seed: int) -> None:
    pytest.importorskip("scipy", reason="MONAI finds surfaces with scipy")
    torch, monai = pytest.importorskip("torch"), pytest.importorskip("monai.metrics")
    a, b = ragged(seed), ragged(seed + 10)
    masks = [torch.from_numpy(x)[None, None].float() for x in (a, b)]
    expected = monai.compute_hausdorff_distance(
        *masks, include_background=True, percentile=95, spacing=tuple(reversed(SPACING))
    )
    measured = metrics.hd95(oblique(a.astype(np.uint8)), oblique(b.astype(np.uint8)))
    assert measured[1] == pytest.approx(float(expected), abs=1e-4)


@given(LABELS, LABELS)
@settings(max_examples=20, deadline=None)
def test_dice_is_that_of_monai(a: np.ndarray, b: np.ndarray) -> None:
    torch, monai = pytest.importorskip("torch"), pytest.importorskip("monai.metrics")
    masks = [torch.from_numpy(np.stack([x == n for n in range(4)]))[None].float() for x in (a, b)]
    expected = monai.compute_dice(*masks, ignore_empty=True)[0].tolist()
    measured = metrics.dice(oblique(a), oblique(b), labels=range(4))
    # Where the second image lacks a label, MONAI gives none.
    for label in set(np.unique(b).tolist()) - {0}:
        assert measured[label] == pytest.approx(expected[label], abs=1e-6)


def test_labels_must_belong_to_their_image() -> None:
    image = random_image((8, 9, 10))
    labels = like(np.ones((8, 9, 10), np.uint8), image)
    nearly = sitk.Image(labels)
    nearly.SetOrigin(np.add(labels.GetOrigin(), 1e-4).tolist())
    metrics.require_labels(nearly, image)
    nearly.SetSpacing((0.82, 1.5, 4.0))
    with pytest.raises(LabelError, match=r"label map lies 0\.18 mm off"):
        metrics.require_labels(nearly, image)
    with pytest.raises(LabelError, match="label map has 9 × 9 × 8 voxels"):
        metrics.require_labels(labels[1:], image)
    with pytest.raises(LabelError, match="as if interpolated"):
        metrics.require_labels(like(np.full((8, 9, 10), 0.5, np.float32), image), image)
    with pytest.raises(LabelError, match="holds vectors"):
        metrics.require_labels(sitk.Compose(labels, labels), image)
    with pytest.raises(LabelError, match="warped label map has"):
        metrics.dice(labels, labels[1:])
    with pytest.raises(LabelError, match="warped label map has"):
        metrics.hd95(labels, labels[1:])


# Landmarks and consistency


@given(hnp.arrays(float, (6, 3), elements=st.floats(-200, 200)), hnp.arrays(float, 3, elements=st.floats(-9, 9)))
@settings(deadline=None)
def test_tre_is_zero_for_the_true_transform_and_the_shift_otherwise(points: np.ndarray, shift: np.ndarray) -> None:
    transform = sitk.Euler3DTransform()
    transform.SetRotation(0.3, -0.1, 0.2)
    transform.SetTranslation((4, 5, -60))
    fixed = Landmarks(points)
    moving = transform_landmarks(fixed, transform)
    np.testing.assert_allclose(metrics.tre(fixed, moving, transform), 0, atol=1e-9)
    off = Landmarks(moving.points + shift)
    np.testing.assert_allclose(metrics.tre(fixed, off, transform), np.linalg.norm(shift), atol=1e-9)


def test_tre_pairs_by_name_and_refuses_other_counts() -> None:
    fixed = Landmarks(np.eye(3), ("a", "b", "c"))
    moving = Landmarks(np.eye(3)[::-1], ("c", "b", "a"))
    assert metrics.tre(fixed, moving, sitk.Transform(3, sitk.sitkIdentity)).tolist() == [0, 0, 0]
    with pytest.raises(LandmarkError, match="fixed image has 3 and the moving 1"):
        metrics.tre(fixed, Landmarks(np.eye(3)[:1]), sitk.Transform(3, sitk.sitkIdentity))


def test_summary_is_plain() -> None:
    values = metrics.summary(np.array([0.0, 1.0, 2.0, 9.0]))
    assert values == {"mean": 3.0, "std": pytest.approx(math.sqrt(12.5)), "median": 1.5, "max": 9.0}
    assert all(type(value) is float for value in values.values())


def test_inverse_consistency_measures_the_gap() -> None:
    transform = sitk.ScaleTransform(3, (1.0, 2.0, 1.0))
    points = np.array([[0.0, 0, 0], [0, 3, 0], [7, -1, 5]])
    exact = metrics.inverse_consistency(transform, transform.GetInverse(), points)
    assert exact == {"mean": pytest.approx(0, abs=1e-12), "max": pytest.approx(0, abs=1e-12)}
    off = metrics.inverse_consistency(transform, sitk.Transform(3, sitk.sitkIdentity), points)
    assert off == {"mean": pytest.approx(4 / 3), "max": pytest.approx(3)}


# Volume change


def test_jacobian_statistics_of_known_values() -> None:
    values = np.ones((4, 5, 10), np.float32)
    values[0], values[1, 0, :] = 2.0, -0.5
    values[1, 1, 0] = 0.0
    measured = metrics.jacobian_statistics(oblique(values))
    logs = np.log(np.clip(values, 1e-9, 1e9).astype(float))
    assert measured["mean"] == pytest.approx(values.mean(), abs=1e-6)
    assert measured["std"] == pytest.approx(values.std(), abs=1e-6)
    assert (measured["min"], measured["max"], measured["p01"], measured["p99"]) == (-0.5, 2.0, -0.5, 2.0)
    assert measured["sd_log"] == pytest.approx(logs.std(), rel=1e-4)
    # As the evaluation of Learn2Reg writes it.
    theirs = np.log((values.astype(float) + 3).clip(0.000000001, 1000000000)).std()
    assert measured["sd_log_learn2reg"] == pytest.approx(theirs, rel=1e-4)
    assert measured["fold_percent"] == pytest.approx(100 * 11 / 200)
    assert measured["fold_volume_cm3"] == pytest.approx(11 * math.prod(SPACING) / 1000)
    assert json.loads(json.dumps(measured)) == measured


def test_jacobian_statistics_of_an_affine_match_itk_inside_a_mask() -> None:
    transform = sitk.AffineTransform(3)
    transform.SetMatrix([1.1, 0.1, 0, 0, 0.9, 0, 0.05, 0, 1.2])
    reference = random_image((10, 11, 12))
    to_field = sitk.TransformToDisplacementFieldFilter()
    to_field.SetReferenceImage(reference)
    # The determinant does not depend on the axes, but ITK's filter is exact only along them.
    reference.SetDirection(np.eye(3).flatten().tolist())
    to_field.SetReferenceImage(reference)
    jacobian = sitk.DisplacementFieldJacobianDeterminant(to_field.Execute(transform))
    inner = np.zeros((10, 11, 12), np.uint8)
    inner[2:-2, 2:-2, 2:-2] = 1
    measured = metrics.jacobian_statistics(jacobian, like(inner, reference))
    assert measured["mean"] == pytest.approx(1.1 * 0.9 * 1.2, abs=1e-4)
    assert measured["sd_log"] == pytest.approx(0, abs=1e-4)
    assert measured["fold_percent"] == 0
    with pytest.raises(MaskError, match="mask is empty"):
        metrics.jacobian_statistics(jacobian, like(inner * 0, reference))
    with pytest.raises(MaskError, match="mask has"):
        metrics.jacobian_statistics(jacobian, like(inner, reference)[1:])


# Tissue


def test_tissue_classes_find_the_three_intensities() -> None:
    rng = np.random.default_rng(6)
    truth = np.zeros((20, 20, 20), np.uint8)
    truth[2:18, 2:18, 2:18] = rng.integers(1, 4, (16, 16, 16))
    levels = np.array([0, 200, 600, 1000])[truth] + np.where(truth > 0, rng.normal(0, 25, truth.shape), 0)
    levels[9, 9, 9] = 30_000  # a bright vessel
    image = oblique(levels.astype(np.float32))
    classes = metrics.tissue_classes(image)
    metrics.require_labels(classes, image)
    found = sitk.GetArrayFromImage(classes)
    truth[9, 9, 9] = 3
    np.testing.assert_array_equal(found, truth)
    two = sitk.GetArrayFromImage(metrics.tissue_classes(image, 2, like((truth > 1).astype(np.uint8), image)))
    np.testing.assert_array_equal(two, np.where(truth > 1, truth - 1, 0))


def test_tissue_of_a_flat_image_is_refused() -> None:
    flat = oblique(np.full((6, 6, 6), 2.0, np.float32))
    with pytest.raises(EmptyImageError, match="no tissue classes"):
        metrics.tissue_classes(flat)
    with pytest.raises(EmptyImageError, match="no tissue classes"):
        metrics.tissue_classes(flat, mask=sitk.Cast(flat, sitk.sitkUInt8))


# Real brains


@pytest.mark.slow
def test_real_brains() -> None:
    folder = real_data("lpba40")
    images, labels = (
        [sitk.ReadImage(str(folder / kind / f"S{n}.nii.gz")) for n in (11, 12)] for kind in ("images", "labels")
    )
    metrics.require_labels(labels[0], images[0])
    values = metrics.similarity(*images)
    assert 0.5 < values["ncc"] < 1
    scored = [n for n in np.unique(sitk.GetArrayViewFromImage(labels[0])).tolist() if n not in (0, 181, 182)]
    assert len(scored) == 54
    assert metrics.mean_over_labels(metrics.dice(*labels, labels=scored)) == pytest.approx(0.54, abs=0.06)
    assert 3 < metrics.mean_over_labels(metrics.hd95(*labels, labels=scored)) < 15
