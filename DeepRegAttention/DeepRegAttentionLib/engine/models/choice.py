"""Which model suits two images."""

from __future__ import annotations

from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import SimpleITK as sitk

from ..intensity import background_value
from .files import ModelFile
from .info import ModelInfo

EXTENT_FACTOR = 1.6
"""A model suits images whose extent differs from its own by at most this factor along each axis."""

# Fat and air lie below this in Hounsfield units; hardly any voxel of another modality does.
_HOUNSFIELD_SIGN = -100.0


class Choice(NamedTuple):
    """The model that suits two images, if one does, and why, in one sentence."""

    model: Optional[ModelFile]
    reason: str


def choose_model(fixed: sitk.Image, moving: sitk.Image, models: Sequence[ModelFile]) -> Choice:
    """The model that suits two images, by two facts that the images themselves tell.

    1. Values: images in Hounsfield units (one voxel in a hundred below -100) get models of CT, others get
       the rest. The contrast of MR sequences is not told apart.
    2. Size: the :func:`foreground_extent` of both images differs from the model's by at most a factor 1.6
       along each axis. Among several, the one with the smallest largest factor; among equals, the first.

    So it recognises organs by their size alone, and an image of the whole head suits no model of
    skull-stripped brains.
    """
    if _is_hounsfield(fixed) != _is_hounsfield(moving):
        return Choice(None, "One image is in Hounsfield units and the other is not; there is no model for such pairs.")
    kind = "CT" if _is_hounsfield(fixed) else "other than CT"
    candidates = [model for model in _of_a_size(models) if _is_ct(model[0].info) == _is_hounsfield(fixed)]
    if not candidates:
        return Choice(None, f"There is no model for images {kind}.")
    extents = (foreground_extent(fixed), foreground_extent(moving))
    factors = [max(_extent_factor(extent, expected) for extent in extents) for _, expected in candidates]
    best = factors.index(min(factors))
    (nearest, expected), factor = candidates[best], factors[best]
    spans = f"the objects span {_lengths(extents[0])} and {_lengths(extents[1])} (fixed, moving)"
    wanted = f"was trained on {_lengths(expected)}"
    if factor > EXTENT_FACTOR:
        return Choice(None, f"No model fits: {spans}; the nearest, {nearest.info.name}, {wanted}.")
    return Choice(nearest, f"{nearest.info.name} fits best: {spans}; it {wanted}.")


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
