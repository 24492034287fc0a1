"""Linear alignment before the network: centre, rigid or affine, by SimpleITK.

Every transform here maps fixed points to moving points (the resampling direction), LPS mm. Lengths of the
search are fractions of the object's own size, so a mouse aligns like a man.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Callable, Optional, Union

import numpy as np
import SimpleITK as sitk

from .clock import Report
from .errors import EmptyImageError, MaskError, OptionError, OverlapError, RegistrationWarning
from .options import PREALIGNMENTS

_Linear = Union[sitk.Euler3DTransform, sitk.AffineTransform]

# Grid spacings of the three levels, as parts of the object's size: about 8, 4 and 2.5 mm for a brain.
_COARSE, _MEDIUM, _FINE = 1 / 14, 1 / 28, 1 / 48
_SAMPLES = {_COARSE: 4_000, _MEDIUM: 5_000, _FINE: 16_000}
_ITERATIONS = {_COARSE: 30, _MEDIUM: 25, _FINE: 25}
_TRIES = 3
_START_DEGREES = 24.0
# An affine between two anatomies that stretches more than this has lost its way.
_LARGEST_STRETCH = 2.0
# A transform that gains less than so much is none: a brain that lies 0.15 mm off gains twice as much.
_NO_BETTER = 0.995


def prealign(
    fixed: sitk.Image,
    moving: sitk.Image,
    method: str,
    *,
    initial: Optional[sitk.Transform] = None,
    fixed_mask: Optional[sitk.Image] = None,
    moving_mask: Optional[sitk.Image] = None,
    progress: Optional[Report] = None,
) -> sitk.Transform:
    """Align two images linearly; the same input gives the same result, whatever the number of threads.

    Parameters
    ----------
    fixed, moving : SimpleITK.Image
        Scalar volumes on any grids.
    method : {"none", "centre", "rigid", "affine"}
        ``"centre"`` joins the centres of the two objects (of the masks where given); ``"rigid"`` and
        ``"affine"`` maximise Mattes mutual information. None of them ever mirrors.
    initial : SimpleITK.Transform, optional
        Any fixed-to-moving transform, also a non-linear one, from which the alignment starts.
    fixed_mask, moving_mask : SimpleITK.Image, optional
        Non-zero where the image counts; on any grid.
    progress : callable, optional
        Receives fractions from 0 to 1; whatever it raises stops the alignment and reaches the caller.

    Returns
    -------
    SimpleITK.Transform
        Fixed points to moving points, LPS mm: ``x -> initial(A(x))``. An ``AffineTransform``, or a
        ``CompositeTransform`` where `initial` is not linear; for ``"none"`` `initial` itself.

    Raises
    ------
    OptionError
        There is no such method.
    EmptyImageError, MaskError
        An image shows nothing but background, or a mask is empty.
    OverlapError
        The images (within their masks) share no point, before the optimisation or after it.

    Warns
    -----
    RegistrationWarning
        The affine alignment failed, and the rigid one is returned.
    """
    if method not in PREALIGNMENTS:
        raise OptionError(f"prealign must be one of {', '.join(PREALIGNMENTS)}; “{method}” is not.")
    report = progress or (lambda fraction: None)
    report(0.0)
    result = sitk.AffineTransform(3) if initial is None else initial
    masks = _binary(fixed_mask, "fixed"), _binary(moving_mask, "moving")
    if method != "none":
        sides = []
        for side in ((fixed, masks[0], "fixed"), (moving, masks[1], "moving")):
            sides.append(_Side.of(*side))
            report(0.0)
        pair = _Pair(sides[0], sides[1], initial)
        result = _chain(initial, _align(pair, method, report))
    _require_overlap(fixed, moving, masks, result)
    report(1.0)
    return result


@dataclass(frozen=True)
class _Side:
    """One of the two images and where its object lies."""

    image: sitk.Image
    mask: Optional[sitk.Image]
    foreground: sitk.Image

    @classmethod
    def of(cls, image: sitk.Image, mask: Optional[sitk.Image], name: str) -> _Side:
        image = sitk.Cast(image, sitk.sitkFloat32)
        return cls(image, mask, _foreground(image, name))

    @property
    def region(self) -> sitk.Image:
        return self.foreground if self.mask is None else self.mask

    @property
    def middle(self) -> np.ndarray:
        """Centre of the grid, mm."""
        return np.array(self.image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in self.image.GetSize()]))


@dataclass(frozen=True)
class _Pair:
    """What is aligned with what, starting where."""

    fixed: _Side
    moving: _Side
    initial: Optional[sitk.Transform]


def _binary(mask: Optional[sitk.Image], name: str) -> Optional[sitk.Image]:
    if mask is None:
        return None
    binary: sitk.Image = mask != 0
    if not sitk.GetArrayViewFromImage(binary).any():
        raise MaskError(f"The mask of the {name} image is empty.")
    return binary


def _foreground(image: sitk.Image, name: str) -> sitk.Image:
    """Where the image differs from its border, bright on dark or dark on bright: a mask on a coarse grid."""
    coarse = _shrink(image, max(n * s for n, s in zip(image.GetSize(), image.GetSpacing())) / 64)
    values = sitk.GetArrayFromImage(coarse)
    border = np.ones(values.shape, bool)
    border[tuple(slice(1, -1) if n > 2 else slice(None) for n in values.shape)] = False
    contrast = np.abs(values - np.median(values[border] if border.any() else values))
    # A few very bright voxels (metal, vessels, tracer) must not raise the threshold.
    contrast = np.minimum(contrast, np.quantile(contrast, 0.995))
    if not contrast.any():
        raise EmptyImageError(f"The {name} image shows nothing that differs from its background.")
    result = sitk.GetImageFromArray(contrast)
    result.CopyInformation(coarse)
    foreground: sitk.Image = result > _otsu(result) / 2
    return foreground


def _otsu(image: sitk.Image) -> float:
    otsu = sitk.OtsuThresholdImageFilter()
    otsu.Execute(image)
    return float(otsu.GetThreshold())


def _shape(region: sitk.Image) -> tuple[np.ndarray, float]:
    """Centroid (mm) and volume (mm³) of a mask."""
    shape = _statistics(region)
    return np.array(shape.GetCentroid(1)), shape.GetPhysicalSize(1)


def _statistics(region: sitk.Image) -> sitk.LabelShapeStatisticsImageFilter:
    statistics = sitk.LabelShapeStatisticsImageFilter()
    statistics.ComputePerimeterOff()
    statistics.Execute(region)
    return statistics


def _shrink(image: sitk.Image, spacing: float) -> sitk.Image:
    """Average voxels until they are nearly `spacing` mm wide, axis by axis; four voxels remain."""
    factors = [max(1, min(int(spacing / own + 1e-6), n // 4)) for own, n in zip(image.GetSpacing(), image.GetSize())]
    smaller: sitk.Image = sitk.BinShrink(image, factors)
    return smaller


def _align(pair: _Pair, method: str, report: Report) -> sitk.Transform:
    """The linear transform A, x -> initial(A(x)), that aligns the pair."""
    if method == "centre":
        return _centre(pair)
    search = _Search(pair, report, affine=method == "affine")
    rigid = search.best_start()
    rigid = search.optimise(rigid, _MEDIUM)
    found = search.optimise(rigid, _FINE) if method == "rigid" else _affine_or_rigid(search, rigid)
    return found if search.is_worth_it(found) else sitk.AffineTransform(3)


def _affine_or_rigid(search: _Search, rigid: _Linear) -> _Linear:
    start = sitk.AffineTransform(rigid.GetMatrix(), rigid.GetTranslation(), rigid.GetCenter())
    try:
        # Where the rigid alignment is already right, the affine one may come out a hair worse.
        affine = search.optimise(search.optimise(start, _MEDIUM), _FINE)
        if _plausible(affine) and search.cost(affine, _FINE) <= 0.98 * search.cost(rigid, _FINE):
            return affine
    except OverlapError:
        pass  # It drifted off the other image: the rigid alignment had not.
    warnings.warn("The affine alignment failed; the rigid one is used.", RegistrationWarning, stacklevel=5)
    return rigid


def _plausible(affine: _Linear) -> bool:
    matrix = np.reshape(affine.GetMatrix(), (3, 3))
    stretch = np.linalg.svd(matrix, compute_uv=False)
    return bool(np.linalg.det(matrix) > 0 and stretch[-1] > 1 / _LARGEST_STRETCH and stretch[0] < _LARGEST_STRETCH)


def _centre(pair: _Pair) -> sitk.Transform:
    """The translation that takes, before `initial`, one object's centre to the other's."""
    start, goal = _shape(pair.fixed.region)[0], _shape(pair.moving.region)[0]
    result = sitk.TranslationTransform(3)
    result.SetOffset((_preimage(pair.initial, start, goal) - start).tolist())
    return result


def _preimage(initial: Optional[sitk.Transform], start: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """The point that `initial` takes to `goal`, by Newton steps from `start`; mm."""
    if initial is None:
        return goal
    point = start
    for _ in range(20):
        here = np.array(initial.TransformPoint(point.tolist()))
        jacobian = np.stack([np.subtract(initial.TransformPoint((point + e).tolist()), here) for e in np.eye(3)], 1)
        point = point + np.linalg.lstsq(jacobian, goal - here, rcond=1e-3)[0]
    return point


class _Search:
    """Mutual information of one pair at several resolutions, and its optimisation."""

    def __init__(self, pair: _Pair, report: Report, affine: bool) -> None:
        self.pair = pair
        self.report = report
        self.tries = _TRIES if pair.initial is None else 1
        self.runs = self.tries + (3 if affine else 2)
        self.run = 0
        self.centre, volume = _shape(pair.fixed.region)
        self.length = volume ** (1 / 3)
        self.samples_in = _sampling_region(pair.fixed, 0.1 * self.length)
        self.volume = _shape(self.samples_in)[1]
        self.levels = {level: self._images(level) for level in (_COARSE, _MEDIUM, _FINE)}
        self.probe = _probe(self.samples_in, 24)
        self.target = _marked(pair.moving.mask, self.levels[_COARSE][1])

    def _images(self, level: float) -> tuple[sitk.Image, sitk.Image]:
        self.report(0.0)
        spacing = level * self.length
        fixed, moving = (_shrink(side.image, spacing) for side in (self.pair.fixed, self.pair.moving))
        return _blur(fixed, spacing / 2), _blur(moving, spacing / 2)

    def best_start(self) -> _Linear:
        """The best of the rigid alignments reached from the most promising starts, at the coarse level."""
        starts = self._starts()
        if len(starts) > 1:
            starts = sorted(starts, key=self._penalty)[: self.tries]
        ends = [self.optimise(start, _COARSE) for start in starts]
        return min(ends, key=self._penalty)

    def _starts(self) -> Sequence[_Linear]:
        if self.pair.initial is not None:
            return [_rigid(self.centre, np.zeros(3), np.zeros(3))]
        fixed, moving = self.pair.fixed, self.pair.moving
        joined = _shape(moving.region)[0] - self.centre
        others = [
            _shape(moving.foreground)[0] - _shape(fixed.foreground)[0],
            moving.middle - fixed.middle,
            np.zeros(3),
        ]
        turned = [_rigid(self.centre, joined, angles) for angles in _start_rotations()]
        return turned + [_rigid(self.centre, shift, np.zeros(3)) for shift in others]

    def _penalty(self, transform: sitk.Transform) -> float:
        """Negative mutual information, weighted by the overlap lest a small overlap look good."""
        self._report(0.0)
        overlap = _hits(self.probe, self.target, transform)
        return overlap * self.cost(transform, _COARSE) if overlap > 0 else np.inf

    def cost(self, transform: sitk.Transform, level: float) -> float:
        """Negative mutual information over all samples of a level."""
        method = self._method()
        method.SetInitialTransform(transform, inPlace=False)
        fixed, moving = self.levels[level]
        return _overlapping(lambda: method.MetricEvaluate(fixed, moving))

    def is_worth_it(self, transform: _Linear) -> bool:
        """Whether it makes the images more alike than they are: those that lie on each other stay."""
        try:
            before = self.cost(sitk.AffineTransform(3), _FINE)
        except OverlapError:
            return True
        # Costs are negative, and the smoothing of interpolation alone may gain a little.
        return before > _NO_BETTER * self.cost(transform, _FINE)

    def optimise(self, start: _Linear, level: float) -> _Linear:
        """A better transform of the same kind as `start`, which stays as it is."""
        result = type(start)(start)
        method = self._method()
        method.SetInitialTransform(result, inPlace=True)
        self._set_sampling(method, level)
        _set_optimiser(method, level, level * self.length)
        guard = _Guard(method, lambda iteration: self._report(iteration / _ITERATIONS[level]))
        fixed, moving = self.levels[level]
        guard.run(lambda: _overlapping(lambda: method.Execute(fixed, moving)))
        self.run += 1
        return result

    def _report(self, part: float) -> None:
        self.report(min(1.0, (self.run + part) / self.runs))

    def _method(self) -> sitk.ImageRegistrationMethod:
        method = sitk.ImageRegistrationMethod()
        method.SetMetricAsMattesMutualInformation(32)
        method.SetMetricFixedMask(self.samples_in)
        if self.pair.moving.mask is not None:
            method.SetMetricMovingMask(self.pair.moving.mask)
        if self.pair.initial is not None:
            method.SetMovingInitialTransform(self.pair.initial)
        method.SetInterpolator(sitk.sitkLinear)
        method.MetricUseFixedImageGradientFilterOff()
        method.MetricUseMovingImageGradientFilterOff()
        # Threads would add up their shares in any order: with one, the result is the same to the last bit.
        method.SetNumberOfWorkUnits(1)
        return method

    def _set_sampling(self, method: sitk.ImageRegistrationMethod, level: float) -> None:
        voxels = self.volume / np.prod(self.levels[level][0].GetSpacing())
        method.SetMetricSamplingStrategy(method.REGULAR)
        method.SetMetricSamplingPercentage(float(min(1.0, _SAMPLES[level] / voxels)), seed=1)


def _set_optimiser(method: sitk.ImageRegistrationMethod, level: float, step: float) -> None:
    """Steps of at most `step` mm: rotations, stretches and shifts have no other unit in common."""
    method.SetOptimizerScalesFromPhysicalShift()
    common: dict[str, Any] = {
        "learningRate": 1.0,
        "numberOfIterations": _ITERATIONS[level],
        "estimateLearningRate": method.EachIteration,
        "maximumStepSizeInPhysicalUnits": step,
    }
    if level == _COARSE:
        method.SetOptimizerAsRegularStepGradientDescent(
            **common, minStep=1e-5, relaxationFactor=0.6, gradientMagnitudeTolerance=1e-9
        )
        return
    # Smooth or masked objects have long flat valleys, in which steepest descent would stop too early.
    method.SetOptimizerAsConjugateGradientLineSearch(
        **common,
        convergenceMinimumValue=1e-6,
        convergenceWindowSize=8,
        lineSearchUpperLimit=2,
        lineSearchEpsilon=0.2,
        lineSearchMaximumIterations=4,
    )


class _Guard:
    """Carries what a callback raises through SimpleITK, which would replace it by a RuntimeError."""

    def __init__(self, method: sitk.ImageRegistrationMethod, callback: Callable[[int], None]) -> None:
        self.method = method
        self.callback = callback
        self.raised: Optional[BaseException] = None
        method.AddCommand(sitk.sitkIterationEvent, self._on_iteration)

    def _on_iteration(self) -> None:
        if self.raised is not None:
            return
        try:
            self.callback(self.method.GetOptimizerIteration())
        except BaseException as error:  # noqa: BLE001 (raised again as soon as SimpleITK has stopped)
            self.raised = error
            self.method.StopRegistration()

    def run(self, execute: Callable[[], object]) -> None:
        execute()
        if self.raised is not None:
            raise self.raised


def _sampling_region(side: _Side, margin: float) -> sitk.Image:
    """The mask, or the object with a margin (mm) of background, which shows where it ends."""
    if side.mask is not None:
        return side.mask
    radius = [int(np.ceil(margin / spacing)) for spacing in side.foreground.GetSpacing()]
    region: sitk.Image = sitk.BinaryDilate(side.foreground, radius, sitk.sitkBall)
    return region


def _blur(image: sitk.Image, sigma: float) -> sitk.Image:
    return sitk.DiscreteGaussian(image, variance=[sigma**2] * 3, maximumError=0.05, useImageSpacing=True)


def _start_rotations() -> list[np.ndarray]:
    """No rotation and one about each of the 26 axes to a cube's corners, edges and faces; radians."""
    axes = [np.array(axis, float) for axis in itertools.product((-1, 0, 1), repeat=3)]
    return [np.deg2rad(_START_DEGREES) * axis / max(float(np.linalg.norm(axis)), 1.0) for axis in axes]


def _rigid(centre: np.ndarray, shift: np.ndarray, rotation: np.ndarray) -> sitk.Euler3DTransform:
    """A rotation vector (radians) about `centre`, then a shift (mm)."""
    angle = float(np.linalg.norm(rotation))
    axis = rotation / angle if angle else np.array((0.0, 0.0, 1.0))
    result = sitk.Euler3DTransform()
    result.SetCenter(centre.tolist())
    result.SetMatrix(sitk.VersorTransform(axis.tolist(), angle).GetMatrix())
    result.SetTranslation(shift.tolist())
    return result


def _overlapping(execute: Callable[[], float]) -> float:
    try:
        return execute()
    except RuntimeError as error:
        if "map outside moving image" in str(error):
            raise OverlapError(_NO_OVERLAP) from error
        raise


_NO_OVERLAP = "The two images (or their masks) do not overlap; check the masks and the initial transform."


def _require_overlap(
    fixed: sitk.Image,
    moving: sitk.Image,
    masks: Sequence[Optional[sitk.Image]],
    transform: sitk.Transform,
) -> None:
    probe = _probe(_marked(masks[0], fixed), 48)
    if _hits(probe, _marked(masks[1], moving), transform) == 0:
        raise OverlapError(_NO_OVERLAP)


def _marked(mask: Optional[sitk.Image], image: sitk.Image) -> sitk.Image:
    """The mask, or a mask of the whole image."""
    if mask is not None:
        return mask
    ones: sitk.Image = sitk.Image(image.GetSize(), sitk.sitkUInt8) + 1
    ones.CopyInformation(image)
    return ones


def _probe(region: sitk.Image, size: int) -> sitk.Image:
    """A mask cropped to what it marks, on a grid of at most `size` voxels a side; no mark is lost."""
    box = _statistics(region).GetBoundingBox(1)
    cropped = sitk.RegionOfInterest(region, box[3:], box[:3])
    factors = [-(-n // size) for n in cropped.GetSize()]
    probe: sitk.Image = sitk.BinShrink(sitk.Cast(cropped, sitk.sitkFloat32), factors) > 0
    return probe


def _hits(probe: sitk.Image, target: sitk.Image, transform: sitk.Transform) -> float:
    """The part, 0 to 1, of the marked fixed points that falls on a marked moving voxel."""
    hit = sitk.Resample(target, probe, transform, sitk.sitkNearestNeighbor, 0, sitk.sitkUInt8)
    marked = sitk.GetArrayViewFromImage(probe) != 0
    return float((sitk.GetArrayViewFromImage(hit)[marked] != 0).mean()) if marked.any() else 0.0


def _chain(initial: Optional[sitk.Transform], aligned: sitk.Transform) -> sitk.Transform:
    """The transform x -> initial(aligned(x))."""
    if initial is None:
        return _affine(aligned)
    if initial.IsLinear():
        return _affine(sitk.CompositeTransform([initial, aligned]))
    return sitk.CompositeTransform([initial, _affine(aligned)])


def _affine(linear: sitk.Transform) -> sitk.AffineTransform:
    """Any linear transform as an affine about the origin."""
    offset = np.array(linear.TransformPoint((0.0, 0.0, 0.0)))
    columns = [np.subtract(linear.TransformPoint(axis.tolist()), offset) for axis in np.eye(3)]
    return sitk.AffineTransform(np.stack(columns, axis=1).flatten().tolist(), offset.tolist())
