"""What a user may give besides the two images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Optional

import SimpleITK as sitk

from .images import check_map, check_mask
from .landmarks import Landmarks, require_pairs


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


def check_guidance(guidance: Guidance, fixed: sitk.Image, moving: sitk.Image) -> Guidance:
    """Masks as 0 and 1 on their images' grids, landmarks in pairs, the map a valid volume.

    Raises
    ------
    ImageError
        One of its kinds: something does not fit its image, or its counterpart.
    """
    given: dict[str, Any] = {}
    for name, image in (("fixed_mask", fixed), ("moving_mask", moving)):
        mask = getattr(guidance, name)
        given[name] = None if mask is None else check_mask(mask, image, name.replace("_", " "))
    if guidance.fixed_landmarks is not None and guidance.moving_landmarks is not None:
        pairs = require_pairs(guidance.fixed_landmarks, guidance.moving_landmarks)
        given["fixed_landmarks"], given["moving_landmarks"] = pairs
    if guidance.regularization_map is not None:
        given["regularization_map"] = check_map(guidance.regularization_map)
    return replace(guidance, **given)
