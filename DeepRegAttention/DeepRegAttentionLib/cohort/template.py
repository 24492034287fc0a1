"""The unbiased template of a cohort: the mean of its images in the mean of their shapes, turn by turn.

The images are aligned linearly to one of them, which leaves no trace: the mean of the linear maps is taken out, and the
mean of the images is the first template. In each turn every image is registered to the template, the template is moved
to the mean of the shapes (:mod:`.mean_shape`), and the images are averaged there, each seen through one transform, so
that it is interpolated once.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Callable, Optional, TypeVar

import numpy as np
import SimpleITK as sitk

from ..engine.errors import ImageError, OptionError, RegistrationError, RegistrationWarning
from ..engine.geometry import Grid
from ..engine.guidance import Guidance
from ..engine.intensity import IntensityRecipe, Scale
from ..engine.options import RegistrationOptions
from ..engine.prealign import prealign
from ..engine.registration import register
from ..engine.resampling import sample_image, warp_image
from .mean_shape import MeanShape, Parts, affine, displacement, mean_affine
from .sharpness import foreground
from .voting import vote

FEWEST = 3
"""Of fewer images there is no mean to speak of."""

T = TypeVar("T")

Transforms = Sequence[Optional[sitk.Transform]]
"""From template to subject points, LPS mm, in the order of the images; None for a subject that was left out. It may
read each from a file whenever it is asked for it."""

RegisterAll = Callable[[sitk.Image, Transforms, bool], Transforms]
"""Registers every subject to a template: given it, where each linear alignment starts (None: anywhere), and whether
nothing but the linear alignment is wanted."""

_LINEAR_TURNS = 2
# So many voxels beyond its edges an image goes on with its border values, but counts for next to nothing.
_MARGIN, _FAINT = 16, 1e-6


@dataclass(frozen=True)
class TemplateOptions:
    """How a template is made.

    Attributes
    ----------
    registration : RegistrationOptions
        How each subject is registered to the template.
    turns : int
        Deformable turns, at most.
    tolerance : float
        No further turn once the subjects' points moved less than this in the last one, in voxels of the template.
    sharpening : float
        Share of the sharpened mean in the template, 0..1.
    spacing : float, optional
        Of the template's voxels, in mm; None takes the median of the finest spacing of each image.
    """

    registration: RegistrationOptions = field(default_factory=RegistrationOptions)
    turns: int = 4
    tolerance: float = 0.2
    sharpening: float = 0.25
    spacing: Optional[float] = None

    def __post_init__(self) -> None:
        for name, low, high in (("turns", 1, 100), ("tolerance", 0, 10), ("sharpening", 0, 1)):
            if not low <= getattr(self, name) <= high:
                raise OptionError(f"{name} must lie between {low} and {high}; “{getattr(self, name)}” does not.")
        if self.spacing is not None and not 0.05 <= self.spacing <= 50:
            raise OptionError(f"The spacing of a template must lie between 0.05 and 50 mm; {self.spacing:g} does not.")


@dataclass(frozen=True)
class Turn:
    """A template, and how its subjects lie to it.

    Attributes
    ----------
    number : int
        0 is the linear average; then the deformable turns.
    average : sitk.Image
        Mean of the images, each scaled to 0..1, in the mean of their shapes; float32.
    transforms : Transforms
        Of each subject.
    moved_mm : float, optional
        How far the subjects' points moved since the last turn: root of the mean square over the template's
        foreground and all subjects. None where there was no turn before.
    shift_mm : float, optional
        How far the mean shape lay from the template that the subjects were registered to; likewise.
    """

    number: int
    average: sitk.Image
    transforms: Transforms
    moved_mm: Optional[float] = None
    shift_mm: Optional[float] = None


def build_template(
    images: Sequence[sitk.Image],
    options: Optional[TemplateOptions] = None,
    register_all: Optional[RegisterAll] = None,
    *,
    last: Optional[Turn] = None,
    start: Optional[sitk.Image] = None,
    keep: Callable[[Iterable[Optional[sitk.Transform]]], Transforms] = list,
) -> Iterator[Turn]:
    """Make a template, turn by turn; the last that comes is the result.

    Parameters
    ----------
    images : sequence of sitk.Image
        At least three scalar volumes on any grids; read several times, one after the other.
    options : TemplateOptions, optional
        How.
    register_all : callable, optional
        Registers the subjects to a template; without it one after the other, in this process.
    last : Turn, optional
        A turn that came from an earlier call with the same images and options, to go on from there.
    start : sitk.Image, optional
        Where the first linear alignment starts, and along whose axes the template's voxels lie; without it the image
        of median extent. Its own place and shape leave no trace in the template.
    keep : callable, optional
        Puts the transforms of a turn, which come one after the other, where they can be read several times.

    Yields
    ------
    Turn
        The linear average first, if there is no `last`.

    Raises
    ------
    ImageError
        There are fewer than three images, or fewer than three could be registered.
    """
    options = options or TemplateOptions()
    register_all = register_all or one_by_one(images, options.registration)
    if len(images) < FEWEST:
        raise ImageError(f"A template needs at least {FEWEST} images; there are {len(images)}.")
    if last is None:
        last = _linear_average(images, options, register_all, start)
        yield last
    while not finished(last, options):
        last = _next(images, options, register_all, last, keep)
        yield last


def finished(turn: Turn, options: TemplateOptions) -> bool:
    """Whether no further turn is to come: as many as were wanted, or hardly anything moved in the last."""
    still = turn.moved_mm is not None and turn.moved_mm < options.tolerance * min(turn.average.GetSpacing())
    return turn.number >= options.turns or still


def one_by_one(images: Sequence[sitk.Image], options: Optional[RegistrationOptions] = None) -> RegisterAll:
    """What registers the images to a template in this process; one that fails is left out with a warning."""
    options = replace(options or RegistrationOptions(), maps=False)

    def transform(
        template: sitk.Image, image: sitk.Image, start: Optional[sitk.Transform], linear: bool
    ) -> sitk.Transform:
        if linear:
            return prealign(template, image, options.prealign, initial=start)
        return register(template, image, options, Guidance(initial_transform=start)).transform

    def register_all(template: sitk.Image, starts: Transforms, linear: bool) -> Transforms:
        found: list[Optional[sitk.Transform]] = []
        for image, start in zip(images, starts):
            try:
                found.append(transform(template, image, start, linear))
            except RegistrationError as error:
                warnings.warn(f"Image {len(found) + 1} is left out: {error}", RegistrationWarning, stacklevel=2)
                found.append(None)
        return found

    return register_all


# One turn


def _linear_average(
    images: Sequence[sitk.Image], options: TemplateOptions, register_all: RegisterAll, start: Optional[sitk.Image]
) -> Turn:
    """Aligned linearly to one of the images, moved to the mean, averaged; and once more to that average."""
    target = images[median_extent(images)] if start is None else start
    starts: Transforms = [None] * len(images)
    grid = None
    for _ in range(_LINEAR_TURNS):
        linear = [None if one is None else Parts.of(one).linear for one in register_all(target, starts, True)]
        mean = mean_affine(_enough(linear))
        starts = [None if one is None else affine(one @ np.linalg.inv(mean)) for one in linear]
        grid = grid or _template_grid(Grid.of(target), mean, images, starts, options.spacing)
        average = average_image(images, starts, grid)
        target = sharpened(average, options.sharpening)
    return Turn(0, average, starts)


def _next(
    images: Sequence[sitk.Image],
    options: TemplateOptions,
    register_all: RegisterAll,
    last: Turn,
    keep: Callable[[Iterable[Optional[sitk.Transform]]], Transforms],
) -> Turn:
    """Register to the last template, move it to the mean of the shapes, and average there."""
    starts = [None if one is None else affine(Parts.of(one).linear) for one in last.transforms]
    found = register_all(sharpened(last.average, options.sharpening), starts, False)
    grid = _field_grid(found) or Grid.of(last.average)
    mean = MeanShape.of((one for one in found if one is not None), grid)
    back = mean.to_template()
    transforms = keep(None if one is None else mean.centre(one, back) for one in found)
    average = average_image(images, transforms, Grid.of(last.average))
    inside = foreground(sample_image(average, grid, None))
    shift = float(np.sqrt(np.mean(np.square(mean.shift_mm()[inside]))))
    return Turn(last.number + 1, average, transforms, _moved_mm(last.transforms, transforms, grid, inside), shift)


def _enough(found: Sequence[Optional[T]]) -> list[T]:
    present = [one for one in found if one is not None]
    if len(present) < FEWEST:
        raise ImageError(f"A template needs at least {FEWEST} images; only {len(present)} could be registered.")
    return present


def _field_grid(transforms: Transforms) -> Optional[Grid]:
    """The finest grid of their displacement fields, if they have any."""
    grids = [Parts.of(one).field_grid() for one in _enough(transforms)]
    return max((grid for grid in grids if grid is not None), key=lambda grid: math.prod(grid.size), default=None)


def _moved_mm(before: Transforms, after: Transforms, grid: Grid, inside: np.ndarray) -> float:
    """Root of the mean square distance between where two transforms take the nodes of a grid that count."""
    means = []
    for one, other in zip(before, after):
        if one is not None and other is not None:
            difference = (displacement(other, grid) - displacement(one, grid))[inside]
            means.append(float(np.mean(np.sum(np.square(difference), axis=-1))))
    return float(np.sqrt(np.mean(means))) if means else float("inf")


# Where the template lies


def median_extent(images: Sequence[sitk.Image]) -> int:
    """The number of the image whose volume in mm³ is the median."""
    volumes = [float(np.prod(np.multiply(image.GetSize(), image.GetSpacing()))) for image in images]
    return int(np.argsort(volumes, kind="stable")[len(volumes) // 2])


def _template_grid(
    reference: Grid, mean: np.ndarray, images: Sequence[sitk.Image], transforms: Transforms, spacing: Optional[float]
) -> Grid:
    """Isotropic voxels along the mean of the subjects' axes; along each axis as far as the median of the images.

    `mean` is the mean of the linear maps from the reference; `transforms` are linear, from the template.
    """
    left, _, right = np.linalg.svd(mean[:3, :3])
    axes = left @ right @ np.reshape(reference.direction, (3, 3))
    edges, finest = [], []
    for image, transform in zip(images, transforms):
        if transform is not None:
            edges.append(_extent(Grid.of(image), np.linalg.inv(Parts.of(transform).linear), axes))
            finest.append(min(image.GetSpacing()))
    step = spacing or float(np.median(finest))
    low, high = np.median(edges, axis=0)
    size = np.maximum(np.ceil((high - low) / step - 1e-3), 4).astype(int)
    origin = axes @ ((low + high) / 2 - (size - 1) / 2 * step)
    i, j, k = size.tolist()
    return Grid((i, j, k), (step,) * 3, tuple(origin.tolist()), tuple(axes.flatten().tolist()))


def _extent(grid: Grid, to_template: np.ndarray, axes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and the highest coordinates of an image's edges along the axes of the template, mm."""
    corners = np.array(list(np.ndindex(2, 2, 2))) * grid.size - 0.5
    to_point = to_template @ grid.index_to_point
    along = (corners @ to_point[:3, :3].T + to_point[:3, 3]) @ axes
    return along.min(axis=0), along.max(axis=0)


# The mean of the images, and of what is drawn on them


def average_image(images: Sequence[sitk.Image], transforms: Transforms, grid: Grid) -> sitk.Image:
    """The mean of images seen through their transforms, each scaled to 0..1 by the percentiles of its foreground.

    Parameters
    ----------
    images, transforms : sequence
        Scalar volumes, and the transforms from template to subject points; those that are None count for nothing.
    grid : Grid
        The voxels of the template.

    Returns
    -------
    sitk.Image
        float32. At each voxel the mean of those images that reach it; where none does, their border values go on.
    """
    total, weight = np.zeros(grid.shape), np.full(grid.shape, np.finfo(float).tiny)
    for image, transform in zip(images, transforms):
        if transform is not None:
            scale = Scale.of(sitk.GetArrayViewFromImage(image), IntensityRecipe())
            padded = sitk.ZeroFluxNeumannPad(image, [_MARGIN] * 3, [_MARGIN] * 3)
            counts = reached(image, transform, grid) + _FAINT * reached(padded, transform, grid)
            total += counts * scale(sample_image(padded, grid, transform))
            weight += counts
    return grid.place(sitk.GetImageFromArray((total / weight).astype(np.float32)))


def reached(image: sitk.Image, transform: sitk.Transform, grid: Grid) -> np.ndarray:
    """Where the voxels of a grid lie in an image: 1, elsewhere 0; ``(K, J, I)``."""
    ones = Grid.of(image).place(sitk.GetImageFromArray(np.ones(Grid.of(image).shape, np.uint8)))
    reached: np.ndarray = sitk.GetArrayFromImage(warp_image(ones, blank(grid), transform, nearest=True))
    return reached


def sharpened(average: sitk.Image, share: float) -> sitk.Image:
    """A mean with a share of itself sharpened by its Laplacian (as in ANTs), which stands out against the blur."""
    if share == 0:
        return average
    edges = sitk.Cast(sitk.LaplacianSharpening(average), sitk.sitkFloat32)
    mixed: sitk.Image = average * (1 - share) + edges * share
    return mixed


def vote_labels(
    labels: Sequence[Optional[sitk.Image]], transforms: Transforms, grid: Grid
) -> tuple[sitk.Image, sitk.Image]:
    """The label that most subjects have at each voxel of a template, and the share of them that have it.

    Parameters
    ----------
    labels, transforms : sequence
        Label maps on the grids of their images, and the transforms from template to subject points; a subject that
        lacks one of them has no vote.
    grid : Grid
        The voxels of the template.

    Returns
    -------
    (sitk.Image, sitk.Image)
        Labels of the first map's type, and shares, float32, 0..1.

    Raises
    ------
    ImageError
        No subject has both.
    """
    reference = blank(grid)
    pairs = [(one, through) for one, through in zip(labels, transforms) if one is not None and through is not None]
    if not pairs:
        raise ImageError("No subject has a label map, so the template has no atlas.")
    ballots = [sitk.GetArrayFromImage(warp_image(one, reference, through, nearest=True)) for one, through in pairs]
    winner, share = (grid.place(sitk.GetImageFromArray(array)) for array in vote(ballots))
    return winner, share


def blank(grid: Grid) -> sitk.Image:
    """An image of zeros, for those who ask for the grid of an image."""
    return grid.place(sitk.Image(grid.size, sitk.sitkUInt8))
