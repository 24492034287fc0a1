"""register() from end to end, on oblique, anisotropic, off-centre pairs of different grids."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from DeepRegAttentionLib.engine import deform as deform_module
from DeepRegAttentionLib.engine import errors, geometry, measuring, registration, resampling
from DeepRegAttentionLib.engine import method as method_module
from DeepRegAttentionLib.engine.evaluation import evaluate_labels, evaluate_landmarks
from DeepRegAttentionLib.engine.geometry import Grid
from DeepRegAttentionLib.engine.guidance import Guidance
from DeepRegAttentionLib.engine.intensity import IntensityRecipe
from DeepRegAttentionLib.engine.landmarks import Landmarks, transform_points
from DeepRegAttentionLib.engine.method import STEPS, choose_method, likely_steps
from DeepRegAttentionLib.engine.metrics import similarity
from DeepRegAttentionLib.engine.models import listing as models_module
from DeepRegAttentionLib.engine.models.choice import foreground_extent
from DeepRegAttentionLib.engine.models.files import find_model, load_model, save_model
from DeepRegAttentionLib.engine.models.info import ModelInfo
from DeepRegAttentionLib.engine.models.listing import list_models
from DeepRegAttentionLib.engine.networks import build_network
from DeepRegAttentionLib.engine.options import RegistrationOptions
from DeepRegAttentionLib.engine.registration import register
from DeepRegAttentionLib.engine.result import MAP_NAMES, RegistrationResult
from helpers.images import blob_image
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ALONE = RegistrationOptions(model="none", prealign="none", refine=20, spacing=2.0)
MOVING_GRID = {"size": (40, 44, 36), "spacing": (1.6, 1.3, 1.9), "degrees": (-9.0, 14.0, -22.0)}


def true_displacement(points: np.ndarray) -> np.ndarray:
    """A smooth motion of a few mm around the object's centre, LPS mm."""
    x = (points - (31.0, -57.0, 112.0)) / 20.0
    bump = np.exp(-(x**2).sum(-1, keepdims=True))
    return bump * np.array([3.5, -2.5, 2.0]) + 1.0


@pytest.fixture(scope="module")
def pair() -> tuple[sitk.Image, sitk.Image]:
    """Fixed image, and a moving image made so that the fixed point x is found at x + true_displacement(x)."""
    fixed, source = blob_image(), blob_image(size=(90, 90, 90), spacing=(1.0, 1.0, 1.0), degrees=(0, 0, 0))
    moving = blob_image(**MOVING_GRID)
    points = _points(moving)
    back = points.copy()
    for _ in range(30):
        back = points - true_displacement(back)
    field = sitk.GetImageFromArray((back - points).reshape(*moving.GetSize()[::-1], 3), isVector=True)
    field.CopyInformation(moving)
    return fixed, sitk.Resample(source, moving, sitk.DisplacementFieldTransform(field), sitk.sitkBSpline, 0.0)


@pytest.fixture(scope="module")
def result(pair: tuple[sitk.Image, sitk.Image]) -> RegistrationResult:
    return register(*pair, ALONE)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("models") / "small.safetensors"
    configuration = {"channels": [4, 8], "radius": 1}
    info = ModelInfo(
        name="small",
        network="drivenmorph",
        configuration=configuration,
        intensity=IntensityRecipe(),
        spacing=2.5,
        shape_multiple=2,
        regularization=0.2,
        refine=3,
        modality="MR T1",
        anatomy="brain",
        extent_mm=(50.0, 50.0, 50.0),
        inter_subject=True,
    )
    save_model(build_network("drivenmorph", configuration), info, path)
    return str(path)


def _points(image: sitk.Image) -> np.ndarray:
    index = np.indices(image.GetSize()[::-1]).reshape(3, -1)[::-1].T
    direction = np.array(image.GetDirection()).reshape(3, 3)
    return (index * image.GetSpacing()) @ direction.T + image.GetOrigin()


def _inside(fixed: sitk.Image) -> np.ndarray:
    points = _points(fixed)
    near = np.abs(points - (31.0, -57.0, 112.0)).max(axis=1) < 14
    return points[near]


@pytest.mark.slow
def test_the_true_motion_is_found_in_the_true_direction(pair, result):
    points = _inside(pair[0])
    found = transform_points(points, result.transform) - points
    before = np.linalg.norm(true_displacement(points), axis=1).mean()
    error = np.linalg.norm(found - true_displacement(points), axis=1).mean()
    assert error < 0.25 * before
    assert result.metrics["jacobian"]["fold_percent"] == 0
    assert result.metrics["similarity"]["after"]["ncc"] > 0.99 > result.metrics["similarity"]["linear"]["ncc"]


def test_simpleitk_applies_the_written_transform_as_we_did(pair, result, tmp_path):
    fixed, moving = pair
    result.save(tmp_path, displacement=True)
    transform = sitk.ReadTransform(str(tmp_path / "transform.h5"))
    warped = sitk.Resample(moving, fixed, transform, sitk.sitkLinear, 0.0)
    ours = sitk.ReadImage(str(tmp_path / "warped.nii.gz"))
    # Away from the border of the moving image, beyond which each tool has its own idea of the background.
    inner = sitk.BinaryErode(sitk.Cast(moving * 0 + 1, sitk.sitkUInt8), (2, 2, 2), sitk.sitkBox, 0, 1, False)
    seen = sitk.GetArrayFromImage(sitk.Resample(inner, fixed, transform, sitk.sitkNearestNeighbor, 0)) > 0
    difference = np.abs(sitk.GetArrayFromImage(warped) - sitk.GetArrayFromImage(ours))
    assert seen.mean() > 0.4
    assert difference[seen].max() < 1e-5
    field = sitk.Cast(sitk.ReadImage(str(tmp_path / "displacement.nii.gz")), sitk.sitkVectorFloat64)
    by_field = sitk.Resample(moving, fixed, sitk.DisplacementFieldTransform(field), sitk.sitkLinear, 0.0)
    assert np.abs(sitk.GetArrayFromImage(by_field) - sitk.GetArrayFromImage(ours))[seen].max() < 0.01


def test_the_inverse_leads_back_and_forth(pair, result):
    points = _inside(pair[0])
    forward, backward = result.transform, result.inverse_transform
    for first, second in ((forward, backward), (backward, forward)):
        there_and_back = transform_points(transform_points(points, first), second)
        assert np.linalg.norm(there_and_back - points, axis=1).max() < 0.1


def test_the_jacobian_is_that_of_the_transform_on_its_own_grid(pair, result):
    jacobian = result.maps["jacobian"]
    target = jacobian.GetSize(), jacobian.GetOrigin(), jacobian.GetSpacing(), jacobian.GetDirection()
    field = sitk.TransformToDisplacementField(result.transform, sitk.sitkVectorFloat64, *target)
    # ITK's filter differentiates along the grid's axes and takes the vectors' components to lie along them too.
    direction = np.array(field.GetDirection()).reshape(3, 3)
    along_axes = sitk.GetImageFromArray(sitk.GetArrayFromImage(field) @ direction, isVector=True)
    along_axes.SetSpacing(field.GetSpacing())
    oracle = sitk.DisplacementFieldJacobianDeterminant(along_axes)
    inner = (slice(2, -2),) * 3
    difference = sitk.GetArrayFromImage(oracle) - sitk.GetArrayFromImage(jacobian)
    assert np.abs(difference[inner]).max() < 1e-3


def test_maps_lie_on_the_working_grid_as_far_as_the_fixed_image_reaches(pair, result):
    jacobian, fixed = Grid.of(result.maps["jacobian"]), Grid.of(pair[0])
    assert jacobian.spacing == (2.0, 2.0, 2.0)
    assert np.allclose(jacobian.direction, fixed.direction)
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(fixed.size) - 1)
    points = corners @ fixed.index_to_point[:3, :3].T + fixed.origin
    index = (points - jacobian.origin) @ np.linalg.inv(jacobian.voxel_to_mm).T
    last = np.array(jacobian.size) - 1
    # The outermost voxels lie between its points, or half a voxel outside, and no point lies further away.
    assert index.min() > -0.5
    assert (index - last).max() < 0.5
    assert index.min(axis=0).max() < 1
    assert (last - index.max(axis=0)).max() < 1
    padded = result.metrics["working_grid"]["size"]
    assert all(a <= b for a, b in zip(jacobian.size, padded))
    assert jacobian.size != tuple(padded)


def test_the_differences_are_made_when_they_are_asked_for(pair, monkeypatch):
    made: list[object] = []
    original = registration.difference_map
    monkeypatch.setattr(registration, "difference_map", lambda *what: made.append(what) or original(*what))
    result = register(*pair, dataclasses.replace(ALONE, refine=1))
    assert not made
    assert {"difference_before", "difference_after"} <= set(result.maps)
    assert not made
    for name in ("difference_before", "difference_after", "difference_after"):
        image = result.maps[name]
        assert Grid.of(image) == Grid.of(pair[0])
    assert len(made) == 2


def test_the_differences_become_smaller(result):
    before, after = (np.abs(sitk.GetArrayFromImage(result.maps[f"difference_{when}"])) for when in ("before", "after"))
    assert after.mean() < 0.5 * before.mean()


@pytest.mark.slow
def test_no_field_at_every_voxel_is_made_unless_it_is_asked_for(pair, tmp_path, monkeypatch):
    def refuse(*arguments: object) -> None:
        pytest.fail("a field on the fixed grid was made")

    fixed = sitk.Resample(
        pair[0],
        [4 * n for n in pair[0].GetSize()],
        sitk.Transform(),
        sitk.sitkLinear,
        pair[0].GetOrigin(),
        [s / 4 for s in pair[0].GetSpacing()],
        pair[0].GetDirection(),
    )
    voxels = fixed.GetNumberOfPixels()
    largest: list[int] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            largest.append(max((t.numel() for t in tree_leaves(out) if isinstance(t, torch.Tensor)), default=0))
            return out

    monkeypatch.setattr(sitk, "TransformToDisplacementField", refuse)
    monkeypatch.setattr(resampling, "_SIDE", 16)
    monkeypatch.setattr(geometry, "_SLAB", voxels // 16)
    with Watch():
        result = register(fixed, pair[1], dataclasses.replace(ALONE, refine=1, spacing=4.0))
        result.save(tmp_path)
    assert voxels / 64 < max(largest) < voxels
    assert not list(tmp_path.glob("displacement*"))
    vectors = [name for name, image in result.maps.items() if image.GetNumberOfComponentsPerPixel() > 1]
    assert all(3 * result.maps[name].GetNumberOfPixels() < voxels for name in vectors)


@pytest.mark.slow
def test_prealignment_and_deformation_together(pair):
    fixed, moving = pair
    away = sitk.Euler3DTransform((31.0, -57.0, 112.0), 0.2, -0.1, 0.15, (9.0, -12.0, 7.0))
    moved = sitk.Image(moving)
    matrix = np.array(away.GetMatrix()).reshape(3, 3)
    moved.SetOrigin(away.TransformPoint(moving.GetOrigin()))
    moved.SetDirection((matrix @ np.array(moving.GetDirection()).reshape(3, 3)).flatten().tolist())
    result = register(fixed, moved, dataclasses.replace(ALONE, prealign="rigid"))
    points = _inside(fixed)
    truth = transform_points(points + true_displacement(points), away)
    error = np.linalg.norm(transform_points(points, result.transform) - truth, axis=1)
    assert error.mean() < 1.5
    back = transform_points(transform_points(points, result.transform), result.inverse_transform)
    assert np.linalg.norm(back - points, axis=1).mean() < 0.02


def test_an_initial_transform_is_where_it_starts(pair):
    start = sitk.TranslationTransform(3, (2.0, -1.0, 1.5))
    options = dataclasses.replace(ALONE, refine=1, regularization=1e4)
    result = register(*pair, options, Guidance(initial_transform=start))
    points = _inside(pair[0])
    assert np.allclose(transform_points(points, result.transform) - points, (2.0, -1.0, 1.5), atol=0.5)


def test_a_network_explains_itself_in_millimetres(pair, model_file):
    result = register(*pair, dataclasses.replace(ALONE, model=model_file, refine=0))
    assert {"jacobian", "driving_force", "driving_force_magnitude", "attention"} <= set(result.maps)
    assert set(result.maps) <= set(MAP_NAMES)
    own = {image.GetSize() for name, image in result.maps.items() if not name.startswith("difference")}
    assert own == {result.maps["jacobian"].GetSize()}
    for name, image in result.maps.items():
        assert np.allclose(image.GetDirection(), pair[0].GetDirection()), name
    attention = sitk.GetArrayFromImage(result.maps["attention"])
    assert 0 <= attention.min() < attention.max()
    force, magnitude = (result.maps[name] for name in ("driving_force", "driving_force_magnitude"))
    lengths = np.linalg.norm(sitk.GetArrayFromImage(force), axis=-1)
    assert np.allclose(lengths, sitk.GetArrayFromImage(magnitude), atol=1e-4)
    assert 0.05 < lengths.max() < 50
    assert set(result.metrics["driving_force"]) == {"cosine", "magnitude"}
    assert result.metrics["model"]["name"] == "small"


def test_what_each_level_added_makes_up_the_driving_force(pair, model_file, tmp_path):
    twice = tmp_path / "twice.safetensors"
    info = find_model(model_file).info
    configuration = {**info.configuration, "passes": 2}
    save_model(
        build_network("drivenmorph", configuration), dataclasses.replace(info, configuration=configuration), twice
    )
    options = dataclasses.replace(ALONE, model=str(twice), refine=0, threads=1)
    names = [f"driving_force_{number}" for number in (1, 2, 3, 4)]
    result, usual = register(*pair, dataclasses.replace(options, levels=True)), register(*pair, options)
    assert set(result.maps) - set(usual.maps) == set(names)
    total = sitk.GetArrayFromImage(usual.maps["driving_force"])
    levels = [sitk.GetArrayFromImage(result.maps[name]) for name in names]
    assert min(np.abs(level).max() for level in levels) > 0.01
    assert np.allclose(sum(levels), total, atol=1e-4)

    read = RegistrationResult.read(result.save(tmp_path / "result"))
    assert set(read.maps) == set(result.maps)
    for name, level in zip(names, levels):
        assert read.maps[name].GetDirection() == pytest.approx(result.maps["driving_force"].GetDirection(), abs=1e-6)
        assert np.abs(sitk.GetArrayFromImage(read.maps[name]) - level).max() < 1 / 500
    usual.save(tmp_path / "result")
    assert not list((tmp_path / "result").glob("driving_force_[0-9]*"))


@pytest.mark.parametrize(
    ("maps", "reason"), [(True, "this method has no driving force"), (False, "no maps are wanted")]
)
def test_levels_that_there_are_none_of_are_said(pair, maps, reason):
    with pytest.warns(
        errors.RegistrationWarning, match=f"what each level added to the driving force: {reason}"
    ) as said:
        result = register(*pair, dataclasses.replace(ALONE, refine=1, maps=maps, levels=True))
    assert len(said) == 1
    assert not any(name.startswith("driving_force") for name in result.maps)


def test_maps_of_a_method_that_has_none_are_absent(result, tmp_path):
    assert "driving_force" not in result.maps
    assert "attention" not in result.maps
    result.save(tmp_path, ".nrrd")
    assert not list(tmp_path.glob("attention*"))
    assert (tmp_path / "jacobian.nrrd").exists()


def test_no_maps_means_the_jacobian_alone(pair):
    assert set(register(*pair, dataclasses.replace(ALONE, maps=False, refine=1)).maps) == {"jacobian"}


@pytest.mark.slow
def test_similarity_is_measured_at_some_voxels_of_a_large_image(pair, result, monkeypatch):
    assert result.metrics["similarity_voxels"] == {"steps": [1, 1, 1], "size": list(pair[0].GetSize())}
    monkeypatch.setattr(measuring, "_MEASURED_VOXELS", 9_000)
    some = register(*pair, ALONE)
    assert some.metrics["similarity_voxels"] == {"steps": [3, 2, 1], "size": [15, 18, 28]}
    for stage, measured in some.metrics["similarity"].items():
        whole = result.metrics["similarity"][stage]
        assert measured["ncc"] == pytest.approx(whole["ncc"], abs=0.02)
        assert measured["mse"] == pytest.approx(whole["mse"], rel=0.2, abs=1e-4)


def test_similarity_is_that_of_the_warped_image(pair, result):
    expected = similarity(pair[0], sitk.Clamp(result.warped, sitk.sitkFloat32, 0))
    assert result.metrics["similarity"]["after"]["nmi"] == pytest.approx(expected["nmi"], abs=0.02)


def test_a_small_mask_is_not_missed_between_the_measured_voxels(pair, monkeypatch):
    monkeypatch.setattr(measuring, "_MEASURED_VOXELS", 500)
    mask = sitk.Image(pair[0].GetSize(), sitk.sitkUInt8)
    mask.CopyInformation(pair[0])
    mask[21:23, 17:19, 13:15] = 1
    metrics = register(*pair, dataclasses.replace(ALONE, refine=1, spacing=4.0), Guidance(fixed_mask=mask)).metrics
    assert metrics["similarity_voxels"]["steps"] == [1, 1, 1]
    assert np.isfinite(metrics["jacobian"]["mean"])


def test_warped_keeps_the_pixel_type(pair):
    moving = sitk.Cast(pair[1] * 1000, sitk.sitkInt16)
    assert register(pair[0], moving, dataclasses.replace(ALONE, refine=1)).warped.GetPixelID() == sitk.sitkInt16


@pytest.mark.slow
def test_a_mask_decides_where_similarity_counts(pair, result):
    points = _points(pair[0])
    half = (points[:, 0] > 31.0).reshape(pair[0].GetSize()[::-1])
    mask = sitk.GetImageFromArray(half.astype(np.uint8))
    mask.CopyInformation(pair[0])
    masked = register(*pair, ALONE, Guidance(fixed_mask=mask))
    inner = _inside(pair[0])
    error, masked_error = (
        np.linalg.norm(transform_points(inner, r.transform) - inner - true_displacement(inner), axis=1)
        for r in (result, masked)
    )
    counted, ignored = inner[:, 0] > 33, inner[:, 0] < 24
    assert masked_error[counted].mean() < 1.2 * error[counted].mean() + 0.1
    assert masked_error[ignored].mean() > 1.5 * error[ignored].mean()


@pytest.mark.slow
def test_landmarks_pull_only_when_asked(pair):
    points = np.array([[31.0, -57.0, 112.0], [36.0, -52.0, 108.0], [25.0, -60.0, 118.0]])
    goal = points + np.array([0.0, 6.0, 0.0])
    guidance = Guidance(fixed_landmarks=Landmarks(points), moving_landmarks=Landmarks(goal))
    distances = []
    for weight in (0.0, 5.0):
        result = register(*pair, dataclasses.replace(ALONE, landmark_weight=weight), guidance)
        evaluate_landmarks(result, Landmarks(points), Landmarks(goal))
        distances.append(result.metrics["landmarks"]["after_mm"]["mean"])
    assert distances[1] < 0.7 * distances[0]


@pytest.mark.slow
def test_a_regularization_map_stiffens_where_it_is_high(pair):
    points = _points(pair[0])
    stiff = np.where(points[:, 0] > 31.0, 200.0, 1.0).reshape(pair[0].GetSize()[::-1]).astype(np.float32)
    image = sitk.GetImageFromArray(stiff)
    image.CopyInformation(pair[0])
    result = register(*pair, ALONE, Guidance(regularization_map=image))
    jacobian = result.maps["jacobian"]
    spread, points = np.abs(np.log(sitk.GetArrayFromImage(jacobian).clip(0.05))), _points(jacobian)
    near = np.abs(points - (31.0, -57.0, 112.0)).max(axis=1).reshape(spread.shape) < 14
    x = points[:, 0].reshape(spread.shape)
    assert spread[near & (x > 35)].mean() < 0.5 * spread[near & (x < 27)].mean()


def test_labels_are_carried_and_judged(pair, result):
    fixed_labels, moving_labels = (sitk.Cast(image > 0.5, sitk.sitkUInt8) for image in pair)
    judged = dataclasses.replace(result, metrics=dict(result.metrics))
    evaluate_labels(judged, pair[1], moving_labels, fixed_labels)
    labels = judged.metrics["labels"]
    assert labels["after"]["mean_dice"] > max(0.9, labels["before"]["mean_dice"])
    assert set(np.unique(sitk.GetArrayFromImage(judged.warped_labels))) <= {0, 1}
    with pytest.raises(errors.LabelError):
        evaluate_labels(judged, pair[1], fixed_labels)


def test_stages_are_reported_in_order_and_measured(pair):
    heard: list[tuple[str, float]] = []
    result = register(*pair, dataclasses.replace(ALONE, refine=2), progress=lambda *what: heard.append(what))
    stages = list(dict.fromkeys(stage for stage, _ in heard))
    assert stages == ["prealign", "refine", "warp", "trust", "maps"]
    assert all(0 <= fraction <= 1 for _, fraction in heard)
    assert set(result.metrics["seconds"]) == set(stages)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["prealign", "refine", "warp"])
def test_cancel_reaches_the_caller(pair, stage):
    def cancel(where: str, fraction: float) -> None:
        if where == stage:
            raise errors.CancelledError("Cancelled.")

    with pytest.raises(errors.CancelledError):
        register(*pair, dataclasses.replace(ALONE, prealign="affine"), progress=cancel)


def test_images_that_do_not_meet(pair):
    away = sitk.Image(pair[1])
    away.SetOrigin((900.0, 900.0, 900.0))
    with pytest.raises(errors.OverlapError):
        register(pair[0], away, ALONE)


def test_the_gpu_without_room_hands_over_to_the_cpu(pair, model_file, monkeypatch):
    """A device on which every allocation fails, as torch words it, takes the GPU's place."""
    monkeypatch.setattr(deform_module, "choose_device", lambda name: torch.device("meta"))
    working = deform_module._deform_on

    def without_room(device: torch.device, *rest: object) -> object:
        if device.type != "cpu":
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return working(device, *rest)

    monkeypatch.setattr(deform_module, "_deform_on", without_room)
    with pytest.warns(errors.RegistrationWarning, match="went on on the CPU"):
        result = register(*pair, dataclasses.replace(ALONE, model=model_file, refine=0))
    assert result.metrics["device"] == "cpu"


def test_no_room_at_all_is_one_sentence(pair, monkeypatch):
    def without_room(*arguments: object) -> object:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(deform_module, "_deform_on", without_room)
    with pytest.raises(errors.MemoryLimitError, match="coarser"):
        register(*pair, ALONE)


def test_without_a_model_or_steps_it_refines_on_coarse_grids(pair, monkeypatch):
    images = [sitk.Image(image) for image in pair]
    for image in images:
        image.SetSpacing([0.1 * s for s in image.GetSpacing()])
        image.SetOrigin([0.1 * o for o in image.GetOrigin()])
    sizes = []
    refine = deform_module.refine

    def noted(objective, start, *rest):
        sizes.append((objective.fixed.numel(), start is None))
        return refine(objective, start, *rest)

    monkeypatch.setattr(deform_module, "refine", noted)
    result = register(*images, RegistrationOptions(prealign="none", spacing=0.25, refine=0))
    whole = math.prod(result.metrics["working_grid"]["size"])
    assert sizes == [(whole // 8, True)]
    assert result.metrics["model"] is None
    assert result.metrics["refinement_steps"] == 0
    assert "No model fits" in result.metrics["model_choice"]
    assert result.metrics["similarity"]["after"]["ncc"] > result.metrics["similarity"]["linear"]["ncc"]


@pytest.mark.slow
def test_the_steps_are_the_models_own_unless_they_are_said(pair, model_file):
    for asked, taken in ((None, 3), (0, 0), (5, 5)):
        options = dataclasses.replace(ALONE, model=model_file, refine=asked, maps=False)
        metrics = register(*pair, options).metrics
        assert (metrics["options"]["refine"], metrics["refinement_steps"]) == (asked, taken)


def test_a_regularization_of_zero_is_none_and_not_the_models_own(pair, model_file):
    options = dataclasses.replace(ALONE, model=model_file, refine=4, maps=False)
    free, own = (register(*pair, dataclasses.replace(options, regularization=w)).metrics for w in (0.0, None))
    assert (free["regularization"], own["regularization"]) == (0.0, 0.2)
    assert free["similarity"]["after"]["ncc"] != own["similarity"]["after"]["ncc"]


def test_without_a_model_the_steps_are_those_of_none(pair):
    options = dataclasses.replace(ALONE, refine=None, spacing=5.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert register(*pair, options).metrics["refinement_steps"] == STEPS


def test_a_licence_that_is_accepted_belongs_to_a_model(pair):
    options = RegistrationOptions(prealign="none", accepted_licences=("cardiac-m",))
    with pytest.raises(errors.OptionError, match=r"no model “cardiac-m” to accept .*mean “cardiac-mr”"):
        choose_method(*pair, options)


@pytest.mark.parametrize("agreed", [False, True])
def test_consent_reaches_the_choice(pair, agreed, monkeypatch):
    (heart,) = [model for model in list_models() if model.info.restriction]
    # As large as the objects of the pair.
    fitting = dataclasses.replace(heart, info=dataclasses.replace(heart.info, extent_mm=foreground_extent(pair[0])))
    monkeypatch.setattr(method_module, "list_models", lambda: [fitting])
    accepted = ("cardiac-mr",) if agreed else ()
    method = choose_method(*pair, RegistrationOptions(refine=10, accepted_licences=accepted))
    assert (method.model is fitting) == agreed
    assert ("cardiac-mr would fit better" in method.reason) != agreed
    with pytest.raises(errors.LicenceError):
        choose_method(*pair, RegistrationOptions(undecided_licences=("cardiac-mr",)))


def test_the_likely_steps_are_known_before_the_images(model_file):
    recommended = {model.info.name: model.info.refine for model in list_models()}
    for model, steps in {**recommended, "auto": max(recommended.values()), model_file: 3, "none": STEPS}.items():
        assert likely_steps(RegistrationOptions(model=model, refine=None)) == steps
        assert likely_steps(RegistrationOptions(model=model, refine=7)) == 7
        assert likely_steps(RegistrationOptions(model=model, refine=0)) == 0
    with pytest.raises(errors.ModelError):
        likely_steps(RegistrationOptions(model="absent", refine=None))


def test_a_list_of_models_that_is_damaged_does_not_stop_the_estimate(monkeypatch, tmp_path):
    monkeypatch.setattr(models_module, "resource_folder", lambda name: tmp_path)
    assert likely_steps(RegistrationOptions(refine=None)) == STEPS


@pytest.mark.slow
def test_what_a_model_without_refinement_ignores_is_said(pair, model_file, tmp_path):
    path = tmp_path / "none.safetensors"
    save_model(load_model(model_file), dataclasses.replace(find_model(model_file).info, refine=0), path)
    points = Landmarks(_inside(pair[0])[:3])
    stiff = Guidance(regularization_map=sitk.Cast(pair[0], sitk.sitkFloat32) * 0 + 1)
    guided = Guidance(fixed_landmarks=points, moving_landmarks=points)
    options = dataclasses.replace(ALONE, model=str(path), refine=None, maps=False)
    for asked, guidance in ((options, stiff), (dataclasses.replace(options, landmark_weight=1.0), guided)):
        with pytest.warns(errors.RegistrationWarning, match="recommends no refinement"):
            register(*pair, asked, guidance)
    with warnings.catch_warnings():
        warnings.simplefilter("error", errors.RegistrationWarning)
        register(*pair, options, guided)
        register(*pair, dataclasses.replace(options, refine=1), stiff)


@pytest.mark.slow
def test_the_same_input_gives_the_same_result(pair):
    fields = [sitk.GetArrayFromImage(register(*pair, ALONE).displacement()) for _ in range(2)]
    assert np.abs(fields[0] - fields[1]).max() < 1e-3


def test_metrics_are_strict_json(result, tmp_path):
    result.metrics["labels_without_counterpart"] = {3: float("nan")}
    result.save(tmp_path)
    loaded = json.loads(
        (tmp_path / "metrics.json").read_text(encoding="utf-8"), parse_constant=lambda word: pytest.fail(word)
    )
    assert loaded["labels_without_counterpart"] == {"3": None}
    assert loaded["options"]["refine"] == ALONE.refine


def test_a_new_result_replaces_an_old_one_whole(result, tmp_path):
    (tmp_path / "attention.nii.gz").write_bytes(b"of an older result")
    (tmp_path / "notes.txt").write_text("the user's own", encoding="utf-8")
    result.save(tmp_path)
    assert not (tmp_path / "attention.nii.gz").exists()
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "the user's own"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".writing")]


def test_a_result_that_cannot_be_written_leaves_the_old_one(result, tmp_path, monkeypatch):
    result.save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sitk, "WriteTransform", full)
    with pytest.raises(errors.OutputError, match="no space left"):
        result.save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_file_in_the_place_of_the_folder(result, tmp_path):
    (tmp_path / "taken").write_text("", encoding="utf-8")
    with pytest.raises(errors.OutputError):
        result.save(tmp_path / "taken")


def test_no_warning_in_an_ordinary_run(pair):
    with warnings.catch_warnings():
        warnings.simplefilter("error", errors.RegistrationWarning)
        register(*pair, dataclasses.replace(ALONE, refine=1))
