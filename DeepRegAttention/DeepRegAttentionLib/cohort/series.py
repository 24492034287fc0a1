"""Frames of one subject brought together: to one of them, along the chain of neighbours, or to their template.

Every transform goes from the points of the common space (a frame, or the template) to those of a frame. Neighbours are
registered around the ring: N(t) takes points of frame t to frame t + 1, the last to the first. Where that leads back to
is how consistent the registrations are, without knowing the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, Callable, Optional

import numpy as np
import SimpleITK as sitk

from ..engine.errors import ImageError, OptionError, RegistrationError
from ..engine.geometry import Grid, Lattice
from ..engine.intensity import IntensityRecipe, Scale
from ..engine.landmarks import transform_points
from ..engine.metrics import ncc
from ..engine.options import RegistrationOptions
from ..engine.registration import register
from ..engine.resampling import sample_image, warp_image
from ..engine.result import RegistrationResult
from .mean_shape import Parts, inverse, written_out
from .sharpness import foreground
from .template import Turn, build_template, reached

WAYS = ("reference", "neighbour", "template")
"""To what the frames are brought."""

# Consistency is measured at about so many points, likeness at so many voxels.
_POINTS, _VOXELS = 2000, 1_000_000


@dataclass(frozen=True)
class Link:
    """The registration of one frame to another: from the points of the fixed to those of the moving, and back."""

    forth: sitk.Transform
    back: sitk.Transform

    @classmethod
    def of(cls, result: RegistrationResult) -> Link:
        """The two transforms of a result; RegistrationError if there is no way back."""
        if result.inverse_transform is None:
            raise RegistrationError("A registration of the series has no inverse.")
        return cls(result.transform, result.inverse_transform)


_STAYS = Link(sitk.Transform(3, sitk.sitkIdentity), sitk.Transform(3, sitk.sitkIdentity))


RegisterPairs = Callable[[Sequence[tuple[int, int]]], Sequence[Link]]
"""Registers frames, given as pairs (fixed, moving) of their numbers."""


@dataclass(frozen=True)
class SeriesOptions:
    """How the frames of a series are brought together.

    Attributes
    ----------
    to : {"reference", "neighbour", "template"}
        Each to the reference, each to its neighbour and composed from the reference on, or to their template.
    reference : int
        Number of the frame, from 0, whose space is the common one; the template needs none.
    cycle : bool
        Whether neighbours are registered around the ring to measure consistency where they need not be.
    """

    to: str = "reference"
    reference: int = 0
    cycle: bool = True

    def __post_init__(self) -> None:
        if self.to not in WAYS:
            raise OptionError(f"A series is brought to {', '.join(WAYS)}; “{self.to}” is none of them.")


@dataclass(frozen=True)
class Alignment:
    """Frames in one space.

    Attributes
    ----------
    common : sitk.Image
        The reference frame, or the template.
    links : tuple of Link
        Between the common space and each frame: from its points to those of the frame, and back.
    warped : tuple of sitk.Image
        The frames on the grid of the common image, in their own intensities.
    measures : tuple of dict
        For each frame ``ncc_before`` and ``ncc_after``, its correlation with the common image; ``inverse_mm``, how far
        there and back ends from where it began; and where neighbours were registered ``cycle_mm``: around the ring
        from this frame to itself, or from the common space by this frame and the next back to it. Distances as
        ``mean``, ``p95`` and ``max`` over points of the foreground.
    """

    common: sitk.Image
    links: tuple[Link, ...]
    warped: tuple[sitk.Image, ...]
    measures: tuple[dict[str, Any], ...]


def align_series(
    frames: Sequence[sitk.Image],
    options: Optional[SeriesOptions] = None,
    register_pairs: Optional[RegisterPairs] = None,
    template: Optional[Turn] = None,
) -> Alignment:
    """Bring the frames of one subject into one space.

    Parameters
    ----------
    frames : sequence of sitk.Image
        At least two scalar volumes in their order, on any grids.
    options : SeriesOptions, optional
        How.
    register_pairs : callable, optional
        Registers frames; without it one pair after the other, in this process.
    template : Turn, optional
        The template of the frames, if it is what they are brought to; made here without it.

    Raises
    ------
    OptionError
        There is no such reference frame.
    RegistrationError
        A registration failed.
    """
    options = options or SeriesOptions()
    _require_reference(len(frames), options)
    register_pairs = register_pairs or one_by_one(frames)
    ring = register_pairs(neighbours(len(frames))) if options.cycle or options.to == "neighbour" else ()
    common = frames[options.reference]
    if options.to == "reference":
        links = _to_reference(register_pairs, len(frames), options.reference)
    elif options.to == "neighbour":
        links = [chained(ring, options.reference, number) for number in range(len(frames))]
    else:
        template = template or list(build_template(frames))[-1]
        common, links = template.average, _to_template(template)
    warped = tuple(warp_image(frame, common, link.forth) for frame, link in zip(frames, links))
    measures = tuple(_measures(common, frames, links, ring, number) for number in range(len(frames)))
    if options.to == "neighbour":
        for number, measure in enumerate(measures):
            measure["cycle_mm"] = _around(frames[number], ring, number)
    return Alignment(common, tuple(links), warped, measures)


def one_by_one(frames: Sequence[sitk.Image], options: Optional[RegistrationOptions] = None) -> RegisterPairs:
    """What registers frames in this process."""
    how = replace(options or RegistrationOptions(), maps=False)

    def register_pairs(pairs: Sequence[tuple[int, int]]) -> list[Link]:
        return [Link.of(register(frames[fixed], frames[moving], how)) for fixed, moving in pairs]

    return register_pairs


def planned(count: int, options: SeriesOptions) -> list[tuple[int, int]]:
    """Which frames :func:`align_series` wants registered, each pair (fixed, moving) once.

    Raises OptionError if there is no such reference frame.
    """
    _require_reference(count, options)
    ring = neighbours(count) if options.cycle or options.to == "neighbour" else []
    others = [(options.reference, number) for number in range(count) if number != options.reference]
    return list(dict.fromkeys([*ring, *(others if options.to == "reference" else ())]))


def _require_reference(count: int, options: SeriesOptions) -> None:
    if not 0 <= options.reference < count:
        raise OptionError(f"There is no frame {options.reference}: the series has the frames 0 to {count - 1}.")


def neighbours(count: int) -> list[tuple[int, int]]:
    """Each frame and the one that follows it, the first after the last: (fixed, moving)."""
    return [(number, (number + 1) % count) for number in range(count)]


# Into one space


def _to_reference(register_pairs: RegisterPairs, count: int, reference: int) -> list[Link]:
    others = [number for number in range(count) if number != reference]
    links = list(register_pairs([(reference, number) for number in others]))
    links.insert(reference, _STAYS)
    return links


def _to_template(template: Turn) -> list[Link]:
    links = []
    for number, transform in enumerate(template.transforms):
        if transform is None:
            raise ImageError(f"Frame {number} could not be registered to the template of the series.")
        grid = Parts.of(transform).field_grid() or Grid.of(template.average)
        links.append(Link(transform, inverse(transform, grid)))
    return links


def chained(ring: Sequence[Link], reference: int, number: int) -> Link:
    """From the reference to a frame by all frames between them, as one linear part and one field.

    Parameters
    ----------
    ring : sequence of Link
        Of each frame to the one that follows it.
    reference, number : int
        Of frames.
    """
    if number == reference:
        return _STAYS
    if number > reference:
        steps = [link.forth for link in ring[reference:number]]
        linear = [Parts.of(step).linear for step in steps]
    else:
        steps = [link.back for link in reversed(ring[number:reference])]
        linear = [np.linalg.inv(Parts.of(link.forth).linear) for link in reversed(ring[number:reference])]
    grid = Parts.of(ring[reference].forth).field_grid()
    assert grid is not None, "a registration leaves a field"
    # The last to be applied stands first, among transforms as among matrices.
    chain = written_out(sitk.CompositeTransform(steps[::-1]), reduce(np.matmul, linear[::-1]), grid)
    return Link(chain, inverse(chain, grid))


# Consistency


def _measures(
    common: sitk.Image, frames: Sequence[sitk.Image], links: Sequence[Link], ring: Sequence[Link], number: int
) -> dict[str, Any]:
    """What can be said of one frame in the common space."""
    lattice, link, following = Lattice.of(Grid.of(common), _VOXELS), links[number], (number + 1) % len(frames)
    fixed = lattice.of_image(common).astype(np.float32)
    points = _points(common)
    there = transform_points(points, link.forth)
    measures: dict[str, Any] = {
        "ncc_before": _likeness(fixed, frames[number], sitk.Transform(3, sitk.sitkIdentity), lattice.grid),
        "ncc_after": _likeness(fixed, frames[number], link.forth, lattice.grid),
        "inverse_mm": _distances(points, transform_points(there, link.back)),
    }
    if ring:
        on = transform_points(there, ring[number].forth)
        measures["cycle_mm"] = _distances(points, transform_points(on, links[following].back))
    return measures


def _likeness(fixed: np.ndarray, frame: sitk.Image, through: sitk.Transform, grid: Grid) -> float:
    """The correlation of a frame with the voxels of a grid where it reaches them."""
    inside = reached(frame, through, grid) != 0
    return ncc(fixed[inside], sample_image(frame, grid, through)[inside]) if inside.any() else 0.0


def _around(frame: sitk.Image, ring: Sequence[Link], number: int) -> dict[str, float]:
    """How far a way around the ring, from a frame to itself, ends from where it began."""
    start = points = _points(frame)
    for link in (*ring[number:], *ring[:number]):
        points = transform_points(points, link.forth)
    return _distances(start, points)


def _points(image: sitk.Image) -> np.ndarray:
    """Points of the foreground of an image, ``(P, 3)``, LPS mm."""
    grid = Lattice.of(Grid.of(image), _POINTS).grid
    scaled = Scale.of(sitk.GetArrayViewFromImage(image), IntensityRecipe())(sample_image(image, grid, None))
    index = np.argwhere(foreground(scaled))[:, ::-1]
    return grid.points(index)


def _distances(points: np.ndarray, others: np.ndarray) -> dict[str, float]:
    distances = np.linalg.norm(others - points, axis=1)
    return {
        "mean": float(distances.mean()),
        "p95": float(np.percentile(distances, 95)),
        "max": float(distances.max()),
    }
