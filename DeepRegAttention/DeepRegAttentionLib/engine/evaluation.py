"""Judging a result by what a user knows of the images: label maps and landmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Optional

import numpy as np
import SimpleITK as sitk

from .clock import Report, share
from .landmarks import Landmarks
from .metrics import dice, hd95, mean_over_labels, require_labels, summary, tre
from .resampling import warp_image
from .result import RegistrationResult

_NEAR_MM = 5.0


def evaluate_labels(
    result: RegistrationResult,
    moving: sitk.Image,
    moving_labels: sitk.Image,
    fixed_labels: Optional[sitk.Image] = None,
    progress: Optional[Report] = None,
    before: Optional[Mapping[str, Any]] = None,
) -> None:
    """Warp a label map and, with one of the fixed image, measure the overlap before and after.

    Sets ``result.warped_labels`` and ``result.metrics["labels"]``. `progress` gets the fraction done and may
    raise to stop. The overlap `before` is measured unless it is given.

    Raises
    ------
    LabelError
        A label map does not lie on its image's grid.
    """
    report = progress or (lambda fraction: None)
    report(0.0)
    require_labels(moving_labels, moving)
    result.warped_labels = warp_image(moving_labels, result.warped, result.transform, nearest=True)
    if fixed_labels is None:
        return
    require_labels(fixed_labels, result.warped)
    _name_places(result, fixed_labels)
    if before is None:
        unmoved = warp_image(moving_labels, result.warped, sitk.Transform(3, sitk.sitkIdentity), nearest=True)
        before = _overlap(fixed_labels, unmoved, share(report, 0.1, 0.55))
    after = _overlap(fixed_labels, result.warped_labels, share(report, 0.55, 1.0))
    result.metrics["labels"] = {"before": before, "after": after}


def _name_places(result: RegistrationResult, labels: sitk.Image) -> None:
    """Have each of the worst places say in which structure of the fixed image it lies, or which is next to it."""
    for place in result.metrics.get("expected_error", {}).get("worst", ()):
        place["label"] = _label_near(labels, place["point_lps_mm"])


def _label_near(labels: sitk.Image, point: Sequence[float]) -> int:
    """The label at a point (LPS mm), or the nearest within 5 mm; 0 if there is none."""
    middle = np.rint(labels.TransformPhysicalPointToContinuousIndex(point)).astype(int)
    reach = np.ceil(_NEAR_MM / np.array(labels.GetSpacing())).astype(int)
    low = (middle - reach).clip(0)
    size = np.minimum(middle + reach + 1, labels.GetSize()) - low
    if (size <= 0).any():
        return 0
    around = sitk.GetArrayViewFromImage(labels)[tuple(slice(a, a + n) for a, n in zip(low[::-1], size[::-1]))]
    found = np.argwhere(around)
    distances = np.linalg.norm((found[:, ::-1] + low - middle) * labels.GetSpacing(), axis=1)
    if not (distances <= _NEAR_MM).any():
        return 0
    return int(around[tuple(found[distances.argmin()])])


def _overlap(fixed: sitk.Image, warped: sitk.Image, report: Report) -> dict[str, Any]:
    report(0.0)
    overlap, distance = dice(fixed, warped), hd95(fixed, warped, progress=report)
    return {
        "mean_dice": mean_over_labels(overlap),
        "mean_hd95_mm": mean_over_labels(distance),
        "dice": overlap,
        "hd95_mm": distance,
    }


def evaluate_landmarks(result: RegistrationResult, fixed: Landmarks, moving: Landmarks) -> None:
    """Measure the target registration error in mm; sets ``result.metrics["landmarks"]``.

    Raises
    ------
    LandmarkError
        The landmarks do not pair up.
    """
    before = tre(fixed, moving, sitk.Transform(3, sitk.sitkIdentity))
    after = tre(fixed, moving, result.transform)
    result.metrics["landmarks"] = {
        "before_mm": summary(before),
        "after_mm": summary(after),
        "each_after_mm": after.tolist(),
    }
