"""correct(): what a person saw that a registration has wrong, put right by a few points and where they truly belong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from ..clock import Report
from ..errors import CorrectionError
from ..geometry import Grid
from ..guidance import Guidance
from ..hardware import limited_threads
from ..landmarks import transform_points
from ..resampling import warp_image
from ..result import RegistrationResult
from .basis import Basis
from .pull import NoSmoothMotionError, Pull
from .renewal import Renewal

Point = tuple[float, float, float]

# A pull is felt so many times as far away as it is long, at most over this share of the image's longest side, and at
# least so many voxels of the working grid: at other places it would make worse what was right.
_REACH, _FARTHEST, _LEAST_VOXELS = 5.0, 0.35, 5.0
# Longer than this share of that side, it is no correction.
_LONGEST = 0.25
_EXACT_MM, _ROUNDS = 1e-3, 30


@dataclass(frozen=True)
class Correction:
    """A place that a person put right.

    Attributes
    ----------
    fixed_point : (float, float, float)
        A point of the fixed image, LPS mm.
    moving_point : (float, float, float)
        Where the same anatomy lies in the moving image, LPS mm.
    """

    fixed_point: Point
    moving_point: Point

    def __post_init__(self) -> None:
        for name in ("fixed_point", "moving_point"):
            object.__setattr__(self, name, _point(getattr(self, name)))


def _point(given: object) -> Point:
    try:
        x, y, z = (float(value) for value in given)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        x = y = z = float("nan")
    if not np.isfinite((x, y, z)).all():
        raise CorrectionError(f"A point of a correction is three finite numbers in mm; {given} is not.")
    return x, y, z


def correct(
    result: RegistrationResult,
    fixed: sitk.Image,
    moving: sitk.Image,
    corrections: Sequence[Correction],
    guidance: Optional[Guidance] = None,
) -> RegistrationResult:
    """A result with all of these corrections, and no others, applied to what the registration had found.

    Parameters
    ----------
    result : RegistrationResult
        Corrected before or not.
    fixed, moving : sitk.Image
        The two images that it is of.
    corrections : sequence of Correction
        All that there are: to take one back, give the others; with none it is the result as it was found.
    guidance : Guidance, optional
        What it was registered with; its masks count.

    Returns
    -------
    RegistrationResult
        Each corrected point meets its goal to 0.01 mm, and beyond five times the length of a correction, or a third
        of the image, nothing moves. What was found before any is its ``uncorrected``. Label maps and landmarks are not
        measured again.

    Raises
    ------
    CorrectionError
        A point lies outside its image, two corrections contradict each other, one is too long, or the result is of
        other images.
    """
    return Corrector(result, fixed, moving, guidance).correct(corrections)


def made_anew(
    transform: sitk.Transform,
    metrics: dict[str, Any],
    fixed: sitk.Image,
    moving: sitk.Image,
    guidance: Optional[Guidance] = None,
) -> RegistrationResult:
    """A result of which no more is left than its transform and its metrics.

    What only the network could tell, such as the driving force, is not in it; errors are those of :func:`correct`.
    """
    with limited_threads((metrics.get("options") or {}).get("threads")), torch.no_grad():
        known = RegistrationResult(warp_image(moving, fixed, transform), transform, None, metrics=metrics)
        return Renewal(Basis(known, fixed, moving, guidance)).result(lambda fraction: None)


class Corrector:
    """Corrects one result again and again: what that takes of the images is made once, and kept.

    Arguments and errors are those of :func:`correct`.
    """

    def __init__(
        self, result: RegistrationResult, fixed: sitk.Image, moving: sitk.Image, guidance: Optional[Guidance] = None
    ) -> None:
        self.basis = Basis(result, fixed, moving, guidance)

    def correct(self, corrections: Sequence[Correction], report: Report = lambda fraction: None) -> RegistrationResult:
        """The result with all of these corrections; `report` gets the fraction done, and may raise to stop."""
        given = list(dict.fromkeys(corrections))
        if not given:
            return self.basis.found
        with limited_threads(self.basis.options.get("threads")), torch.no_grad():
            report(0.0)
            pull = self._pull(given)
            renewed = Renewal(self.basis, pull).result(report)
        renewed.metrics["corrections"] = [
            _told(correction, self.basis.found.transform, renewed.transform, float(reach))
            for correction, reach in zip(given, pull.reach)
        ]
        return renewed

    def _pull(self, corrections: Sequence[Correction]) -> Pull:
        """The motion with which the transform, linear as it is between its nodes, meets every goal."""
        fixed = np.array([correction.fixed_point for correction in corrections])
        moving = np.array([correction.moving_point for correction in corrections])
        _require_inside(fixed, self.basis.fixed, "fixed")
        _require_inside(moving, self.basis.moving, "moving")
        goals = torch.from_numpy(transform_points(moving, self.basis.back))
        nodes, weights = _corners(fixed, self.basis.grid)
        corners = self.basis.positions[nodes.flatten()]
        starts = _between(corners, weights)
        reach = _reach((goals - starts).norm(dim=1), self.basis)
        aims = goals
        try:
            for _ in range(_ROUNDS):
                pull = Pull(starts, aims, reach)
                missed = goals - _between(pull(corners), weights)
                if float(missed.norm(dim=1).max()) < _EXACT_MM:
                    return pull
                aims = aims + missed
            raise NoSmoothMotionError(pull.worst_pair())
        except NoSmoothMotionError as error:
            raise _contradiction(corrections, error.pair) from error


def _reach(lengths: Tensor, basis: Basis) -> Tensor:
    """How far each pull is felt, mm; CorrectionError if one is too long."""
    side = max(n * mm for n, mm in zip(basis.fixed.GetSize(), basis.fixed.GetSpacing()))
    longest = _LONGEST * side
    if float(lengths.max()) > longest:
        number = int(lengths.argmax()) + 1
        raise CorrectionError(
            f"Correction {number} moves its point by {float(lengths.max()):.0f} mm, more than the {longest:.0f} mm "
            "that can be corrected in this image; register again with a better alignment."
        )
    return (_REACH * lengths).clamp_max(_FARTHEST * side).clamp_min(_LEAST_VOXELS * max(basis.grid.spacing))


def _require_inside(points: np.ndarray, image: sitk.Image, role: str) -> None:
    size = np.array(image.GetSize())
    for number, point in enumerate(points.tolist(), 1):
        index = np.array(image.TransformPhysicalPointToContinuousIndex(point))
        if (index < -0.5).any() or (index > size - 0.5).any():
            where = ", ".join(f"{value:.1f}" for value in point)
            raise CorrectionError(f"The {role} point of correction {number} ({where}) lies outside the {role} image.")


def _contradiction(corrections: Sequence[Correction], pair: tuple[int, int]) -> CorrectionError:
    one, other = (corrections[n] for n in pair)
    if one == other:
        return CorrectionError("The correction cannot be met on the grid of the deformation.")
    apart = float(np.linalg.norm(np.subtract(one.fixed_point, other.fixed_point)))
    return CorrectionError(
        f"Corrections {pair[0] + 1} and {pair[1] + 1} contradict each other: their points are {apart:.1f} mm apart in "
        "the fixed image, and no deformation without folds meets both; take one back."
    )


def _told(correction: Correction, before: sitk.Transform, after: sitk.Transform, reach: float) -> dict[str, object]:
    """As ``metrics.json`` has it."""
    errors = [
        float(np.linalg.norm(np.subtract(transform.TransformPoint(correction.fixed_point), correction.moving_point)))
        for transform in (before, after)
    ]
    return {
        "fixed_lps_mm": list(correction.fixed_point),
        "moving_lps_mm": list(correction.moving_point),
        "error_before_mm": errors[0],
        "error_after_mm": errors[1],
        "reach_mm": reach,
    }


def _corners(points: np.ndarray, grid: Grid) -> tuple[Tensor, Tensor]:
    """The eight nodes around each point, ``(C, 8)`` as flat indices, and their weights in a linear interpolation."""
    size = np.array(grid.size)
    index = grid.index(points).clip(0, size - 1)
    first = np.minimum(np.floor(index).astype(int), size - 2)
    share = index - first
    corners = np.array([(i, j, k) for k in (0, 1) for j in (0, 1) for i in (0, 1)])
    weights = np.where(corners, share[:, None], 1 - share[:, None]).prod(axis=2)
    flat = (first[:, None] + corners) @ np.array([1, size[0], size[0] * size[1]])
    return torch.from_numpy(flat), torch.from_numpy(weights)


def _between(corners: Tensor, weights: Tensor) -> Tensor:
    """Points ``(C, 3)`` between corners ``(8 C, 3)`` with weights ``(C, 8)``."""
    return (weights[..., None] * corners.reshape(*weights.shape, 3)).sum(dim=1)
