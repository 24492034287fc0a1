"""Which model suits two images."""

from __future__ import annotations

from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import SimpleITK as sitk

from ..errors import LicenceError
from ..intensity import background_value
from .info import ModelInfo
from .listing import ModelFile

EXTENT_FACTOR = 1.6
"""A model suits images whose extent differs from its own by at most this factor along each axis."""

# Fat and air lie below this in Hounsfield units; hardly any voxel of another modality does.
_HOUNSFIELD_SIGN = -100.0


class ModelChoice(NamedTuple):
    """The model that suits two images, if one does, and why, in one sentence or two."""

    model: Optional[ModelFile]
    reason: str


class Consent(NamedTuple):
    """What a user has said about models whose licence is restricted, by their names.

    Attributes
    ----------
    accepted : tuple of str
        Those that may be chosen.
    undecided : tuple of str
        Those about which the user is to be asked; any others are passed over.
    """

    accepted: Tuple[str, ...] = ()
    undecided: Tuple[str, ...] = ()

    def covers(self, info: ModelInfo) -> bool:
        """Whether a model may be chosen."""
        return not info.restriction or info.name in self.accepted


_NO_CONSENT = Consent()


def choose_model(
    fixed: sitk.Image, moving: sitk.Image, models: Sequence[ModelFile], consent: Consent = _NO_CONSENT
) -> ModelChoice:
    """The model that suits two images, by two facts that the images themselves tell.

    1. Values: images in Hounsfield units (one voxel in a hundred below -100) get models of CT, others get
       the rest. The contrast of MR sequences is not told apart.
    2. Size: the :func:`foreground_extent` of both images differs from the model's by at most a factor 1.6
       along each axis. Among several, the one with the smallest largest factor; among equals, the first.

    So it recognises organs by their size alone, and an image of the whole head suits no model of
    skull-stripped brains. A model with a restricted licence is chosen only with the user's consent; without it
    the next best is, and the reason says so.

    Raises
    ------
    LicenceError
        The best model is one about which the user is to be asked.
    """
    if _is_hounsfield(fixed) != _is_hounsfield(moving):
        reason = "One image is in Hounsfield units and the other is not; there is no model for such pairs."
        return ModelChoice(None, reason)
    kind = "CT" if _is_hounsfield(fixed) else "other than CT"
    candidates = [model for model in _of_a_size(models) if _is_ct(model[0].info) == _is_hounsfield(fixed)]
    if not candidates:
        return ModelChoice(None, f"There is no model for images {kind}.")
    extents = (foreground_extent(fixed), foreground_extent(moving))
    best = _nearest(candidates, extents)
    if best.model is None or consent.covers(best.model.info):
        return best
    info = best.model.info
    if info.name in consent.undecided:
        sentence = f"The model {info.name} suits these images, but asks for consent first. {info.restriction}"
        raise LicenceError(info.name, sentence)
    second = _nearest([one for one in candidates if consent.covers(one[0].info)], extents)
    hint = f"{info.name} would fit better, but asks for consent first: name it, or accept its licence."
    return ModelChoice(second.model, f"{second.reason} {hint} {info.restriction}")


def _nearest(
    candidates: Sequence[Tuple[ModelFile, Tuple[float, float, float]]], extents: Sequence[Tuple[float, float, float]]
) -> ModelChoice:
    """The candidate whose size is nearest to that of both images, if it is near enough."""
    spans = f"the objects span {_lengths(extents[0])} and {_lengths(extents[1])} (fixed, moving)"
    if not candidates:
        return ModelChoice(None, f"No model fits: {spans}.")
    factors = [max(_extent_factor(extent, expected) for extent in extents) for _, expected in candidates]
    best = factors.index(min(factors))
    (nearest, expected), factor = candidates[best], factors[best]
    wanted = f"was trained on {_lengths(expected)}"
    if factor > EXTENT_FACTOR:
        return ModelChoice(None, f"No model fits: {spans}; the nearest, {nearest.info.name}, {wanted}.")
    return ModelChoice(nearest, f"{nearest.info.name} fits best: {spans}; it {wanted}.")


def nearest_in_size(extent: Sequence[float], models: Sequence[ModelFile]) -> Optional[ModelFile]:
    """The model for objects of about this size (mm, in any order of the axes); None if no model is made for a size."""
    sized = sorted(_of_a_size(models), key=lambda one: _extent_factor(sorted(extent), sorted(one[1])))
    return sized[0][0] if sized else None


def _of_a_size(models: Sequence[ModelFile]) -> List[Tuple[ModelFile, Tuple[float, float, float]]]:
    """The models that are made for objects of a certain size, with that size in mm."""
    return [(model, model.info.extent_mm) for model in models if model.info.extent_mm is not None]


def foreground_extent(image: sitk.Image) -> Tuple[float, float, float]:
    """Size in mm of the box around what differs from the background: left-right, front-back, head-foot.

    The box is aligned with the voxel axes; each counts as the patient axis that it is closest to.
    """
    array = sitk.GetArrayViewFromImage(image)
    foreground = array != background_value(array)
    letters = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())
    extent = [0.0, 0.0, 0.0]
    for axis, (letter, spacing) in enumerate(zip(letters, image.GetSpacing())):
        others = tuple(other for other in range(3) if other != 2 - axis)
        occupied = np.flatnonzero(foreground.any(axis=others))
        voxels = int(np.ptp(occupied)) + 1 if occupied.size else array.shape[2 - axis]
        extent["RLAPIS".index(letter) // 2] = voxels * spacing
    return extent[0], extent[1], extent[2]


def _is_hounsfield(image: sitk.Image) -> bool:
    array = sitk.GetArrayViewFromImage(image)
    return bool(np.percentile(array.ravel()[:: max(1, array.size // 100_000)], 1) < _HOUNSFIELD_SIGN)


def _is_ct(info: ModelInfo) -> bool:
    return info.modality.upper().startswith("CT")


def _extent_factor(extent: Sequence[float], expected: Sequence[float]) -> float:
    """By how much two sizes differ, along the axis on which they differ most; at least 1."""
    return max(max(a / b, b / a) for a, b in zip(extent, expected))


def _lengths(extent: Sequence[float]) -> str:
    return " x ".join(f"{length:.0f}" for length in extent) + " mm"
