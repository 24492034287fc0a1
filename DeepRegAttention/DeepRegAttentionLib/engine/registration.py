"""register(): two images in, a transform and its explanation out. The one path behind every way in."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Dict, Optional, Tuple

import numpy as np
import SimpleITK as sitk
import torch

from .. import __version__
from .clock import Clock, Progress, Report, share
from .deform import Deformation, WorkingPair, deform
from .errors import OverlapError, RegistrationWarning
from .fields import invert, jacobian_determinant
from .geometry import Grid, Lattice, displacement_transform, points_to_voxels, resample, to_tensor, voxels_to_mm
from .hardware import limited_threads
from .images import check_image, check_map, check_mask, check_pair
from .intensity import Scale
from .landmarks import Landmarks, require_pairs, transform_landmarks
from .maps import difference_map, driving_force_statistics, explanation_maps, map_image
from .method import Method, choose_method
from .metrics import inverse_consistency, jacobian_statistics, similarity
from .options import RegistrationOptions
from .prealign import prealign
from .preview import Preview, Show
from .resampling import sample_image, warp_image
from .result import Maps, RegistrationResult

# Similarity is measured at about so many voxels, and if it can be at no fewer of a mask.
_MEASURED_VOXELS, _MASK_VOXELS = 1_000_000, 20_000
# The inverse leads back this exactly at the nodes of the working grid; between them it is tens of times worse.
_INVERSE_VOXELS = 5e-3


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
    def prepare(method: Method) -> Tuple[Tuple[Scale, Scale], WorkingPair, Optional[Preview]]:
        scales = _scale(fixed, method), _scale(moving, method)
        pair = _working_pair(fixed, moving, scales, linear, guidance, method.grid)
        return scales, pair, None if watch is None else Preview(moving, linear, method.grid, watch)

    with clock.stage("prealign") as report:
        check_image(fixed, "fixed image")
        check_image(moving, "moving image")
        check_pair(fixed, moving)
        guidance = _checked(guidance, fixed, moving)
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

    while (found := deform(pair, method, options, clock, preview)) is None:
        assert method.otherwise is not None
        method = method.otherwise
        scales, pair, preview = prepare(method)
    _warn_of_no_refinement(method, options, guidance)

    with clock.stage("warp") as report:
        field = displacement_transform(voxels_to_mm(found.displacement, method.grid), method.grid)
        transform = _chain(linear, field)
        report(0.1)
        warped = warp_image(moving, fixed, transform)

    with clock.stage("maps") as report:
        inverse = _inverse(linear, found, method.grid, share(report, 0.0, 0.4))
        maps = Maps()
        maps["jacobian"] = map_image(jacobian_determinant(found.displacement), method.grid, Grid.of(fixed))
        if options.maps:
            maps.update(explanation_maps(found.output, method.grid, Grid.of(fixed)))
            _add_differences(maps, fixed, moving, warped, scales, linear, options.threads)
        result = RegistrationResult(warped, transform, inverse, maps)
        report(0.5)
        stages = {"before": guidance.initial_transform, "linear": linear, "after": transform}
        measures = _measures(
            result, Measured(fixed, moving, scales, guidance.fixed_mask), stages, share(report, 0.5, 1)
        )
        result.metrics.update(measures, driving_force=driving_force_statistics(found.output))

    result.metrics.update(_provenance(options, method, found), seconds=dict(clock.seconds))
    return result


def _scale(image: sitk.Image, method: Method) -> Scale:
    return Scale.of(sitk.GetArrayViewFromImage(image), method.recipe)


def _add_differences(
    maps: Maps,
    fixed: sitk.Image,
    moving: sitk.Image,
    warped: sitk.Image,
    scales: Tuple[Scale, Scale],
    linear: sitk.Transform,
    threads: Optional[int],
) -> None:
    """The difference images, for when they are asked for."""

    def difference(image: sitk.Image, through: Optional[sitk.Transform]) -> sitk.Image:
        with limited_threads(threads):
            return difference_map(fixed, image, scales, through)

    maps.later("difference_before", lambda: difference(moving, linear))
    maps.later("difference_after", lambda: difference(warped, None))


@dataclass(frozen=True)
class Measured:
    """A pair that is measured at every so many-th voxel of the fixed image, on a mask or everywhere."""

    fixed: sitk.Image
    moving: sitk.Image
    scales: Tuple[Scale, Scale]
    mask: Optional[sitk.Image]

    @cached_property
    def lattice(self) -> Lattice:
        """The voxels: all of a small image; so many that a small mask is not missed."""
        voxels = _MEASURED_VOXELS
        grid = Grid.of(self.fixed)
        while True:
            lattice = Lattice.of(grid, voxels)
            if self.mask is None or max(lattice.steps) == 1 or lattice.of_image(self.mask).sum() > _MASK_VOXELS:
                return lattice
            voxels *= 4

    def similarity(self, transform: Optional[sitk.Transform]) -> Dict[str, float]:
        """How alike the images are when the moving one is seen through a transform."""
        fixed = self.scales[0](self.lattice.of_image(self.fixed))
        moved = self.scales[1](sample_image(self.moving, self.lattice.grid, transform))
        mask = None if self.mask is None else self._image(self.lattice.of_image(self.mask))
        return similarity(self._image(fixed), self._image(moved), mask)

    def _image(self, values: np.ndarray) -> sitk.Image:
        return self.lattice.grid.place(sitk.GetImageFromArray(np.ascontiguousarray(values)))

    def mask_on(self, grid: Grid) -> Optional[sitk.Image]:
        """The mask on a coarser grid: wherever some of it is."""
        if self.mask is None:
            return None
        some = resample(self.mask, grid) > 0
        return some if sitk.GetArrayViewFromImage(some).any() else None


def _measures(
    result: RegistrationResult, pair: Measured, stages: Dict[str, Optional[sitk.Transform]], report: Report
) -> Dict[str, Any]:
    """What can be measured without knowing the anatomy."""
    alike: Dict[str, Dict[str, float]] = {}
    for name, transform in stages.items():
        report(len(alike) / 4)
        alike[name] = pair.similarity(transform)
    report(0.75)
    jacobian = result.maps["jacobian"]
    return {
        "similarity": alike,
        "similarity_voxels": {"steps": list(pair.lattice.steps), "size": list(pair.lattice.grid.size)},
        "jacobian": jacobian_statistics(jacobian, pair.mask_on(Grid.of(jacobian))),
        "inverse_consistency_mm": _inverse_consistency(result, pair.fixed),
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
    if unused and options.refine is None and method.model is not None and not method.steps:
        message = "The model recommends no refinement, in which alone landmarks pull and a regularization map acts."
        warnings.warn(message, RegistrationWarning, stacklevel=2)


def _working_pair(
    fixed: sitk.Image,
    moving: sitk.Image,
    scales: Tuple[Scale, Scale],
    linear: sitk.Transform,
    guidance: Guidance,
    grid: Grid,
) -> WorkingPair:
    """Everything that the network and the refinement see, on the working grid."""
    f = to_tensor(resample(fixed, grid, change=scales[0]))
    m = to_tensor(resample(moving, grid, linear, change=scales[1]))
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
    """A mask of the whole image; a few large voxels do."""
    size, extent = (4, 4, 4), np.array(image.GetSpacing()) * image.GetSize()
    grid = Grid.of(image)
    coarse = Grid(size, tuple((extent / size).tolist()), grid.origin, grid.direction)
    origin = np.array(grid.origin) + grid.centre - coarse.centre
    return replace(coarse, origin=tuple(origin.tolist())).place(sitk.Image(size, sitk.sitkUInt8) + 1)


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
    field = displacement_transform(
        voxels_to_mm(invert(found.displacement, tolerance=_INVERSE_VOXELS, progress=report), grid), grid
    )
    return _chain(field, back)


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
