"""register(): two images in, a transform and its explanation out. The one path behind every way in."""

from __future__ import annotations

import warnings
from typing import Any, Optional

import SimpleITK as sitk

from .. import __version__
from .clock import Clock, Progress, Report, share
from .deform import Deformation, deform
from .errors import RegistrationWarning
from .fields import invert, jacobian_determinant
from .geometry import Grid, displacement_transform, voxels_to_mm
from .guidance import Guidance, check_guidance
from .hardware import limited_threads
from .images import check_image, check_pair
from .intensity import Scale
from .maps import (
    beside,
    difference_map,
    driving_force,
    driving_force_statistics,
    explanation_maps,
    images_where,
    level_maps,
    map_image,
)
from .measuring import MeasuredPair, measure
from .method import Doubt, Method, choose_method
from .options import RegistrationOptions
from .prealign import prealign
from .preview import Preview, Show
from .resampling import warp_image
from .result import Maps, RegistrationResult
from .result_folder import level_map
from .trust.evidence import Answer, object_volume
from .trust.expected_error import error_statistics, expect_error
from .trust.verdict import verdict
from .working_pair import WorkingPair, working_pair

# The inverse leads back this exactly at the nodes of the working grid; between them it is tens of times worse.
INVERSE_VOXELS = 5e-3


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
    def prepare(method: Method) -> tuple[tuple[Scale, Scale], WorkingPair, Optional[Preview]]:
        scales = _scale(fixed, method), _scale(moving, method)
        pair = working_pair(fixed, moving, scales, linear, guidance, method.grid)
        return scales, pair, None if watch is None else Preview(moving, linear, method.grid, watch)

    with clock.stage("prealign") as report:
        check_image(fixed, "fixed image")
        check_image(moving, "moving image")
        check_pair(fixed, moving)
        guidance = check_guidance(guidance, fixed, moving)
        report(0.02)
        method = choose_method(fixed, moving, options)
        linear = prealign(
            fixed,
            moving,
            options.prealign,
            initial=guidance.initial_transform,
            fixed_mask=guidance.fixed_mask,
            moving_mask=guidance.moving_mask,
            progress=share(report, 0.04, 0.8),
        )
        scales, pair, preview = prepare(method)

    while isinstance(found := deform(pair, method, options, clock, preview), Doubt):
        method = method.instead(found)
        scales, pair, preview = prepare(method)
    _warn_of_no_refinement(method, options, guidance)

    with clock.stage("warp") as report:
        field = displacement_transform(voxels_to_mm(found.displacement, method.grid), method.grid)
        transform = chain(linear, field)
        report(0.1)
        warped = warp_image(moving, fixed, transform)

    with clock.stage("trust"):
        error = expect_error(pair, found.displacement, method.grid.spacing[0], method.model, found.device)

    with clock.stage("maps") as report:
        inverse = _inverse(linear, found, method.grid, share(report, 0.0, 0.4))
        maps = Maps()
        maps["jacobian"] = map_image(jacobian_determinant(found.displacement), method.grid, Grid.of(fixed))
        force = driving_force(found.output)
        if options.maps:
            grids = method.grid, Grid.of(fixed)
            maps.update(images_where(error.there, error.maps(), *grids))
            said = explanation_maps(found.output, force, method.grid, error.there, found.structures)
            if options.levels:
                said.update(level_maps(found.output, method.grid))
            maps.update(images_where(beside(error.there), said, *grids))
            _add_differences(maps, fixed, moving, warped, scales, linear, options.threads)
        _warn_of_no_levels(options, maps)
        result = RegistrationResult(warped, transform, inverse, maps)
        report(0.5)
        stages = {"before": guidance.initial_transform, "linear": linear, "after": transform}
        measures = measure(
            result, MeasuredPair(fixed, moving, scales, guidance.fixed_mask), stages, share(report, 0.5, 1)
        )
        result.metrics.update(measures, driving_force=driving_force_statistics(found.output, found.displacement))
        result.metrics["expected_error"] = error_statistics(error, method.grid)
        turned = None if guidance.initial_transform is not None else linear
        volume, expected = object_volume(moving, scales[1]), result.metrics["expected_error"]
        made_for = None if method.model is None else method.model.info
        answer = Answer(pair, found.displacement, method.grid, turned, volume, expected, made_for)
        result.metrics["verdict"] = verdict(answer, method.model)

    result.metrics.update(_provenance(options, method, found), seconds=dict(clock.seconds))
    return result


def _scale(image: sitk.Image, method: Method) -> Scale:
    return Scale.of(sitk.GetArrayViewFromImage(image), method.recipe)


def _add_differences(
    maps: Maps,
    fixed: sitk.Image,
    moving: sitk.Image,
    warped: sitk.Image,
    scales: tuple[Scale, Scale],
    linear: sitk.Transform,
    threads: Optional[int],
) -> None:
    """The difference images, for when they are asked for."""

    def difference(image: sitk.Image, through: Optional[sitk.Transform]) -> sitk.Image:
        with limited_threads(threads):
            return difference_map(fixed, image, scales, through)

    maps.later("difference_before", lambda: difference(moving, linear))
    maps.later("difference_after", lambda: difference(warped, None))


def _warn_of_no_refinement(method: Method, options: RegistrationOptions, guidance: Guidance) -> None:
    """Who leaves the steps to the model cannot know that what was given beside the images has no effect."""
    pull = options.landmark_weight and guidance.fixed_landmarks is not None
    unused = pull or guidance.regularization_map is not None
    if unused and options.refine is None and method.model is not None and not method.steps:
        message = "The model recommends no refinement, in which alone landmarks pull and a regularization map acts."
        warnings.warn(message, RegistrationWarning, stacklevel=2)


def _warn_of_no_levels(options: RegistrationOptions, maps: Maps) -> None:
    if options.levels and level_map(1) not in maps:
        reason = "this method has no driving force" if options.maps else "no maps are wanted"
        message = f"There are no maps of what each level added to the driving force: {reason}."
        warnings.warn(message, RegistrationWarning, stacklevel=2)


def chain(linear: sitk.Transform, field: sitk.Transform) -> sitk.CompositeTransform:
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
    field = displacement_transform(
        voxels_to_mm(invert(found.displacement, tolerance=INVERSE_VOXELS, progress=report), grid), grid
    )
    return chain(field, back)


def _aligned_structures(found: Deformation) -> Optional[dict[str, Any]]:
    """How many structures were recognised and aligned, and how much that counted beside the images."""
    if found.structures is None:
        return None
    return {"recognised": found.structures.count, "share": found.structures.share}


def _provenance(options: RegistrationOptions, method: Method, found: Deformation) -> dict[str, Any]:
    """What made the result, so that it can be made again."""
    model = method.model
    return {
        "version": __version__,
        "options": options.to_dict(),
        "model": model and {"name": model.info.name, "network": model.info.network, "sha256": model.sha256},
        "model_choice": method.reason,
        "regularization": method.regularization,
        "refinement_steps": method.steps,
        "structures": _aligned_structures(found),
        "working_grid": {"size": list(method.grid.size), "spacing_mm": method.grid.spacing[0]},
        "device": found.device,
        "precision": found.precision,
    }
