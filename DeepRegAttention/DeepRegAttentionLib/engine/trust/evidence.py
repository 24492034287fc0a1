"""What a pair is judged by: numbers that any method's answer has, taken on the working grid.

Each is one that a person could look at, too: how alike the images are, how much of them overlaps, how far they were
turned, where the deformation folds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Callable, Optional

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from torch import Tensor

from ..fields import jacobian_determinant, length, resize_field, warp
from ..geometry import Grid, Lattice
from ..intensity import DARK, Scale
from ..models.choice import EXTENT_FACTOR, FIELD_FACTOR
from ..models.info import ModelInfo
from ..similarity import LocalCorrelation, contrast_agreement
from ..working_pair import WorkingPair

_WINDOW = 7
_MOVING_VOXELS, _FRAME_POINTS = 200_000, 20_000
# The middle of the object is the plane of symmetry to within so many voxels of the grid that is judged.
_SHIFTS = (-2, -1, 0, 1, 2)


@dataclass(frozen=True)
class Answer:
    """One registration, as it is judged.

    Attributes
    ----------
    pair : WorkingPair
        What was registered, on the CPU.
    displacement : Tensor
        What was found, ``(1, 3, K, J, I)`` in voxels.
    grid : Grid
        The working grid.
    linear : sitk.Transform, optional
        The linear alignment that was found, fixed to moving points; None if one was given to start from, which is no
        sign of anything.
    moving_mm3 : float
        :func:`object_volume` of the moving image.
    expected_error : mapping
        Statistics of the predicted error, as in ``metrics.json``.
    made_for : ModelInfo, optional
        What is said of the model that found it.
    """

    pair: WorkingPair
    displacement: Tensor
    grid: Grid
    linear: Optional[sitk.Transform]
    moving_mm3: float
    expected_error: Mapping[str, Any]
    made_for: Optional[ModelInfo] = None

    @cached_property
    def inside(self) -> Tensor:
        """Where the fixed image shows its object and the moving one is seen, ``(1, 1, K, J, I)``."""
        shown = self.pair.fixed_object
        return shown if self.pair.mask is None else shown & (self.pair.mask > 0.5)

    @cached_property
    def frame(self) -> dict[str, list[float]]:
        """Where the fixed image's object lies: its middle and half its extent along each axis, LPS mm."""
        index = torch.nonzero(self.pair.fixed_object[0, 0]).flip(1).numpy().astype(float)
        if not len(index):
            index = np.array([[0.0, 0.0, 0.0], [n - 1.0 for n in self.grid.size]])
        points = self.grid.points(index[:: max(1, len(index) // _FRAME_POINTS)])
        low, high = np.percentile(points, (0.1, 99.9), axis=0)
        return {"centre_lps_mm": ((low + high) / 2).tolist(), "half_extent_mm": ((high - low) / 2).tolist()}


def gather(answer: Answer) -> dict[str, float]:
    """The evidence on one registration: finite numbers by their keys; what cannot be known is left out."""
    with torch.no_grad():
        found = {
            "expected_voxels": answer.expected_error["p95_mm"] / answer.grid.spacing[0],
            **_of_likeness(_Seen.of(answer.pair, answer.displacement.float()), answer.grid),
            **_of_deformation(answer),
            **_of_alignment(answer),
            **_of_size(answer),
        }
    return {name: float(value) for name, value in found.items() if math.isfinite(value)}


def object_volume(image: sitk.Image, scale: Scale) -> float:
    """Volume in mm³ of what is not dark in an image."""
    lattice = Lattice.of(Grid.of(image), _MOVING_VOXELS)
    bright = scale(np.ascontiguousarray(lattice.of_image(image))) > DARK
    return float(bright.sum() * np.prod(lattice.grid.spacing))


@dataclass(frozen=True)
class _Seen:
    """A pair and its answer on half as fine a grid, where what is grossly wrong is as plain, at an eighth the cost.

    ``shown`` is where the fixed image shows something, ``seen`` where the moving one sees that, too.
    """

    fixed: Tensor
    moving: Tensor
    warped: Tensor
    shown: Tensor
    seen: Tensor

    @classmethod
    def of(cls, pair: WorkingPair, displacement: Tensor) -> _Seen:
        factor = 2 if all(n % 2 == 0 and n >= 16 for n in pair.fixed.shape[2:]) else 1
        fixed, moving = F.avg_pool3d(pair.fixed, factor), F.avg_pool3d(pair.moving, factor)
        seen = torch.ones_like(fixed) if pair.mask is None else F.avg_pool3d(pair.mask, factor)
        shown = F.avg_pool3d(pair.fixed_object.float(), factor)
        return cls(fixed, moving, warp(moving, resize_field(displacement, fixed.shape[2:])), shown, seen)

    @cached_property
    def correlate(self) -> Callable[[Tensor], float]:
        """Local correlation of an image with the fixed one, 0 to 1."""
        loss = LocalCorrelation(self.fixed, self.seen, _WINDOW)
        return lambda image: 1 - float(loss(image))


def _of_likeness(pair: _Seen, grid: Grid) -> dict[str, float]:
    after, before = pair.correlate(pair.warped), pair.correlate(pair.moving)
    return {
        "similarity": after,
        "gain": after - before,
        # Before the deformation: a network makes bright what is bright, and would be praised for that.
        "contrast": contrast_agreement(pair.fixed, pair.moving, pair.seen),
        "overlap": _overlap(pair.fixed, pair.warped, pair.seen),
        "handedness": before - max(pair.correlate(image) for image in _mirrored(pair, grid)),
    }


def _overlap(fixed: Tensor, warped: Tensor, seen: Tensor) -> float:
    """Dice of what is not dark, where both images show something."""
    one, other = (fixed > DARK) * seen, (warped > DARK) * seen
    return float(2 * (one * (warped > DARK)).sum() / (one + other).sum().clamp_min(1e-6))


def _mirrored(pair: _Seen, grid: Grid) -> Iterator[Tensor]:
    """The moving image, aligned linearly, with left and right exchanged about planes near the middle of the object."""
    axis = 4 - int(np.abs(np.array(grid.direction).reshape(3, 3)[0]).argmax())
    others = [n for n in range(5) if n != axis]
    weight = pair.shown.sum(others)
    middle = float((weight * torch.arange(len(weight))).sum() / weight.sum().clamp_min(1e-6))
    shift = round(2 * middle - (len(weight) - 1))
    return (pair.moving.flip(axis).roll(shift + more, axis) for more in _SHIFTS)


def _of_deformation(answer: Answer) -> dict[str, float]:
    inside = answer.inside if answer.inside.any() else torch.ones_like(answer.inside)
    displacement = answer.displacement.float()
    volumes = jacobian_determinant(displacement)[inside].numpy()
    lengths = length(displacement)[inside].numpy()
    shrinking, growing = np.percentile(volumes, (1, 99))
    return {
        "folds_percent": 100.0 * float((volumes <= 0).mean()),
        "shrinking": shrinking,
        "growing": growing,
        "moved_percent": 100.0 * float(np.percentile(lengths, 95)) / float(inside.sum()) ** (1 / 3),
    }


def _of_alignment(answer: Answer) -> dict[str, float]:
    """How much of each object the other image sees, and how far they were turned and stretched."""
    pair, shown = answer.pair, answer.pair.fixed_object
    seen = 1.0 if pair.mask is None or not shown.any() else float(pair.mask[shown].mean())
    if answer.linear is None:
        return {"seen": seen}
    matrix = _local_matrix(answer.linear, answer.frame)
    left, stretches, right = np.linalg.svd(matrix)
    there = float(pair.moving_object.sum()) * math.prod(answer.grid.spacing) * float(np.prod(stretches))
    return {
        "seen": min(seen, there / max(answer.moving_mm3, 1e-6)),
        "rotation_deg": math.degrees(math.acos(np.clip((np.trace(left @ right) - 1) / 2, -1, 1))),
        "stretch": max(stretches[0], 1 / max(stretches[-1], 1e-6)),
    }


def _of_size(answer: Answer) -> dict[str, float]:
    """By which factor the object differs most from those that the model was made for, along left, back and head."""
    info = answer.made_for
    if info is None or info.extent_mm is None:
        return {}
    factors = 2 * np.array(answer.frame["half_extent_mm"]) / info.extent_mm
    # A field of view may be larger than the windows that a model of cut-outs was made for.
    larger = factors if info.background else factors * EXTENT_FACTOR / FIELD_FACTOR
    return {"size": float(np.maximum(larger, 1 / factors.clip(1e-6)).max())}


def _local_matrix(transform: sitk.Transform, frame: Mapping[str, Sequence[float]]) -> np.ndarray:
    """The 3 x 3 matrix that comes closest to a transform over an object."""
    columns = []
    for axis, half in enumerate(frame["half_extent_mm"]):
        step = np.eye(3)[axis] * max(half, 1.0)
        ends = [transform.TransformPoint((frame["centre_lps_mm"] + sign * step).tolist()) for sign in (1, -1)]
        columns.append(np.subtract(*ends) / (2 * step[axis]))
    return np.stack(columns, axis=1)
