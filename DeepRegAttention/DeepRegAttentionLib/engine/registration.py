"""register(): two images in, a transform and its explanation out. The one path behind every way in."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any, Dict, Optional

import SimpleITK as sitk
import torch

from .. import __version__
from .clock import Clock, Progress, Report, share
from .deform import Deformation, WorkingPair, deform
from .errors import OverlapError, RegistrationWarning
from .fields import invert
from .geometry import Grid, displacement_transform, points_to_voxels, resample, to_tensor, voxels_to_mm
from .hardware import limited_threads
from .images import check_image, check_map, check_mask, check_pair, warp_image
from .intensity import IntensityRecipe, normalise
from .landmarks import Landmarks, require_pairs, transform_landmarks
from .maps import difference_maps, driving_force_statistics, explanation_maps, jacobian_map
from .method import Method, choose_method
from .metrics import inverse_consistency, jacobian_statistics, similarity
from .options import RegistrationOptions
from .prealign import prealign
from .preview import Preview, Show
from .result import RegistrationResult


@dataclass(frozen=True)
class Guidance:
    """What a user may give besides the two images, all optional.

    Attributes
    ----------
    fixed_mask, moving_mask : sitk.Image
        Non-zero where the similarity counts.
    initial_transform : sitk.Transform
        Fixed to moving points, where the linear alignment starts.
    fixed_landmarks, moving_landmarks : Landmarks
        Pairs that the refinement pulls together, LPS mm.
    regularization_map : sitk.Image
        Local factor on the smoothness of the refinement, on any grid: 1 is the usual strength, not negative.
    """

    fixed_mask: Optional[sitk.Image] = None
    moving_mask: Optional[sitk.Image] = None
    initial_transform: Optional[sitk.Transform] = None
    fixed_landmarks: Optional[Landmarks] = None
    moving_landmarks: Optional[Landmarks] = None
    regularization_map: Optional[sitk.Image] = None


def register(
    fixed: sitk.Image,
    moving: sitk.Image,
    options: Optional[RegistrationOptions] = None,
    guidance: Optional[Guidance] = None,
    progress: Optional[Progress] = None,
    watch: Optional[Show] = None,
) -> RegistrationResult:
    """Register a moving to a fixed image.

    Parameters
    ----------
    fixed, moving : sitk.Image
        Scalar volumes on any grids, LPS mm.
    options : RegistrationOptions, optional
        How; the defaults suit most pairs.
    guidance : Guidance, optional
        Masks, initial transform, landmarks, regularization map.
    progress : callable, optional
        Called with a stage and the fraction done; may raise ``CancelledError``.
    watch : callable, optional
        Called while refining with the moving image as warped so far, at most once a second: its own
        intensities, float32, on the working grid.

    Returns
    -------
    RegistrationResult

    Raises
    ------
    RegistrationError
        One of its kinds, with a sentence that says what is wrong.
    """
    options, guidance = options or RegistrationOptions(), guidance or Guidance()
    with limited_threads(options.threads):
        return _register(fixed, moving, options, guidance, Clock(progress), watch)


def _register(
    fixed: sitk.Image,
    moving: sitk.Image,
    options: RegistrationOptions,
    guidance: Guidance,
    clock: Clock,
    watch: Optional[Show],
) -> RegistrationResult:
    with clock.stage("prealign") as report:
        fixed_checked, moving_checked = check_image(fixed, "fixed image"), check_image(moving, "moving image")
        check_pair(fixed, moving)
        guidance = _checked(guidance, fixed, moving)
        report(0.02)
        method = choose_method(fixed_checked, moving_checked, options)
        _warn_of_no_refinement(method, options, guidance)
        linear = prealign(
            fixed_checked,
            moving_checked,
            options.prealign,
            initial=guidance.initial_transform,
            fixed_mask=guidance.fixed_mask,
            moving_mask=guidance.moving_mask,
            progress=share(report, 0.04, 0.8),
        )
        fixed_normal, moving_normal = (_normalised(i, method.recipe) for i in (fixed_checked, moving_checked))
        report(0.9)
        pair = _working_pair(fixed_normal, moving_normal, linear, guidance, method.grid)

    preview = None if watch is None else Preview(moving_checked, linear, method.grid, watch)
    found = deform(pair, method, options, clock, preview)

    with clock.stage("warp") as report:
        field = displacement_transform(voxels_to_mm(found.displacement, method.grid), method.grid)
        transform = _chain(linear, field)
        report(0.1)
        warped = warp_image(moving, fixed, transform)
        report(0.5)
        jacobian = jacobian_map(field, Grid.of(fixed))

    with clock.stage("maps") as report:
        inverse = _inverse(linear, found, method.grid, share(report, 0.0, 0.4))
        result = RegistrationResult(warped, transform, inverse, _total_displacement(transform, fixed))
        result.maps["jacobian"] = jacobian
        moved: Dict[str, sitk.Image] = {}
        for name, by in (("before", guidance.initial_transform), ("linear", linear), ("after", transform)):
            report(0.5 + 0.05 * len(moved))
            moved[name] = resample(moving_normal, Grid.of(fixed), by)
        if options.maps:
            result.maps.update(explanation_maps(found.output, method.grid, Grid.of(fixed), share(report, 0.6, 0.7)))
            result.maps.update(difference_maps(fixed_normal, moved["linear"], moved["after"]))
        measures = _measures(result, fixed_normal, moved, guidance.fixed_mask, share(report, 0.7, 1.0))
        result.metrics.update(measures, driving_force=driving_force_statistics(found.output))

    result.metrics.update(_provenance(options, method, found), seconds=dict(clock.seconds))
    return result


def _measures(
    result: RegistrationResult,
    fixed: sitk.Image,
    moved: Dict[str, sitk.Image],
    mask: Optional[sitk.Image],
    report: Report,
) -> Dict[str, Any]:
    """What can be measured without knowing the anatomy."""
    alike: Dict[str, Dict[str, float]] = {}
    for name, image in moved.items():
        report(len(alike) / 4)
        alike[name] = similarity(fixed, image, mask)
    report(0.75)
    return {
        "similarity": alike,
        "jacobian": jacobian_statistics(result.maps["jacobian"], mask),
        "inverse_consistency_mm": _inverse_consistency(result, fixed),
    }


def _checked(guidance: Guidance, fixed: sitk.Image, moving: sitk.Image) -> Guidance:
    """Masks as 0 and 1 on their images' grids, landmarks in pairs, the map a valid volume."""
    given: Dict[str, Any] = {}
    for name, image in (("fixed_mask", fixed), ("moving_mask", moving)):
        mask = getattr(guidance, name)
        given[name] = None if mask is None else check_mask(mask, image, name.replace("_", " "))
    if guidance.fixed_landmarks is not None and guidance.moving_landmarks is not None:
        pairs = require_pairs(guidance.fixed_landmarks, guidance.moving_landmarks)
        given["fixed_landmarks"], given["moving_landmarks"] = pairs
    if guidance.regularization_map is not None:
        given["regularization_map"] = check_map(guidance.regularization_map)
    return replace(guidance, **given)


def _warn_of_no_refinement(method: Method, options: RegistrationOptions, guidance: Guidance) -> None:
    """Who leaves the steps to the model cannot know that what was given beside the images has no effect."""
    pull = options.landmark_weight and guidance.fixed_landmarks is not None
    unused = pull or guidance.regularization_map is not None
    if unused and options.refine is None and not method.steps:
        message = "The model recommends no refinement, in which alone landmarks pull and a regularization map acts."
        warnings.warn(message, RegistrationWarning, stacklevel=2)


def _normalised(image: sitk.Image, recipe: IntensityRecipe) -> sitk.Image:
    return Grid.of(image).place(sitk.GetImageFromArray(normalise(sitk.GetArrayViewFromImage(image), recipe)))


def _working_pair(
    fixed: sitk.Image, moving: sitk.Image, linear: sitk.Transform, guidance: Guidance, grid: Grid
) -> WorkingPair:
    """Everything that the network and the refinement see, on the working grid."""
    f, m = to_tensor(resample(fixed, grid)), to_tensor(resample(moving, grid, linear))
    if float(m.amax()) == 0:
        raise OverlapError("The two images do not overlap; align them first or choose a prealignment.")
    landmarks = None
    if guidance.fixed_landmarks is not None and guidance.moving_landmarks is not None:
        # The moving points are carried to where the linear alignment shows them on the working grid.
        goal = transform_landmarks(guidance.moving_landmarks, linear.GetInverse())
        landmarks = points_to_voxels(guidance.fixed_landmarks.points, grid), points_to_voxels(goal.points, grid)
    strength = None
    if guidance.regularization_map is not None:
        strength = to_tensor(resample(guidance.regularization_map, grid))
    return WorkingPair(f, m, _working_mask(fixed, moving, guidance, linear, grid), strength, landmarks)


def _working_mask(
    fixed: sitk.Image, moving: sitk.Image, guidance: Guidance, linear: sitk.Transform, grid: Grid
) -> Optional[torch.Tensor]:
    """Where the similarity counts: inside both images, as the linear alignment shows them, and both masks.

    Without it the edge of a field of view would be matched like an edge of the anatomy.
    """
    fixed_mask = guidance.fixed_mask or _everywhere(fixed)
    moving_mask = guidance.moving_mask or _everywhere(moving)
    inside = to_tensor(resample(fixed_mask, grid)) * to_tensor(resample(moving_mask, grid, linear))
    return None if float(inside.amin()) > 0.99 else inside


def _everywhere(image: sitk.Image) -> sitk.Image:
    return Grid.of(image).place(sitk.Image(image.GetSize(), sitk.sitkUInt8) + 1)


def _chain(linear: sitk.Transform, field: sitk.Transform) -> sitk.CompositeTransform:
    """X -> linear(field(x)), flat, so that every reader of composite files understands it."""
    chain = sitk.CompositeTransform([linear, field])
    chain.FlattenTransform()
    return chain


def _inverse(linear: sitk.Transform, found: Deformation, grid: Grid, report: Report) -> Optional[sitk.Transform]:
    try:
        back = linear.GetInverse()
    except RuntimeError:
        message = "The initial transform has no inverse, so the result has none either."
        warnings.warn(message, RegistrationWarning, stacklevel=2)
        return None
    field = displacement_transform(voxels_to_mm(invert(found.displacement, progress=report), grid), grid)
    return _chain(field, back)


def _total_displacement(transform: sitk.Transform, fixed: sitk.Image) -> sitk.Image:
    grid = Grid.of(fixed)
    target = grid.size, grid.origin, grid.spacing, grid.direction
    return sitk.TransformToDisplacementField(transform, sitk.sitkVectorFloat32, *target)


def _inverse_consistency(result: RegistrationResult, fixed: sitk.Image) -> Optional[Dict[str, float]]:
    """Over about a thousand points of the fixed image, without its outermost tenth."""
    if result.inverse_transform is None:
        return None
    size = torch.tensor(fixed.GetSize())
    steps = [torch.linspace(0.1, 0.9, 10) * (int(n) - 1) for n in size]
    index = torch.cartesian_prod(*steps).double().numpy()
    matrix = Grid.of(fixed).index_to_point
    points = index @ matrix[:3, :3].T + matrix[:3, 3]
    return inverse_consistency(result.transform, result.inverse_transform, points)


def _provenance(options: RegistrationOptions, method: Method, found: Deformation) -> Dict[str, Any]:
    """What made the result, so that it can be made again."""
    model = method.model
    return {
        "version": __version__,
        "options": options.to_dict(),
        "model": model and {"name": model.info.name, "network": model.info.network, "sha256": model.sha256},
        "model_choice": method.reason,
        "regularization": method.regularization,
        "refinement_steps": method.steps,
        "working_grid": {"size": list(method.grid.size), "spacing_mm": method.grid.spacing[0]},
        "device": found.device,
        "precision": found.precision,
    }
