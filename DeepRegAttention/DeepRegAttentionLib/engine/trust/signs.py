"""What the error of a registration is predicted from: signs that any method's answer shows, on the working grid.

All are lengths in voxels of the working grid or shares between 0 and 1, on a grid a few times as coarse, as errors are
smooth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from ..fields import gradient, warp
from ..similarity import FLAT, box_mean

SIGNS = ("pull", "spread", "unlike", "motion", "strain")
"""Names of the signs, in the order of their channels."""

_WINDOW = 7
REACH = 2 * (_WINDOW // 2) + 1
"""A sign depends on what lies within so many voxels, and two of its own, coarser ones."""

# Signs are taken at about so many places at most.
_PLACES = 200_000
# How far a place may be off before anything is seen of it, voxels.
_PRIOR = 2.0
_DARK = 0.02


class Signs(NamedTuple):
    """Signs ``(1, S, k, j, i)`` and where there is anything ``(1, 1, k, j, i)``, 0 to 1, on a coarser grid."""

    values: Tensor
    there: Tensor


def find_signs(
    fixed: Tensor, moving: Tensor, displacement: Tensor, mask: Optional[Tensor] = None, factor: Optional[int] = None
) -> Signs:
    """Look for signs of error.

    Parameters
    ----------
    fixed, moving : Tensor
        ``(1, 1, K, J, I)`` in 0..1, on the working grid.
    displacement : Tensor
        The answer, ``(1, 3, K, J, I)`` in voxels.
    mask : Tensor, optional
        Where both images show something, ``(1, 1, K, J, I)`` in 0..1.
    factor : int, optional
        How many times as coarse the signs are; :func:`coarseness` without it. A part of a volume takes that of the
        whole.
    """
    factor = factor or coarseness(fixed.shape[2:])
    warped = warp(moving, displacement)
    pull, spread, unlike = _local_alignment(fixed, warped, factor)
    motion = F.avg_pool3d(displacement.norm(dim=1, keepdim=True), factor)
    strain = F.avg_pool3d(gradient(displacement).flatten(1, 2).norm(dim=1, keepdim=True), factor)
    there = ((fixed > _DARK) | (warped > _DARK)).float()
    if mask is not None:
        seen = F.avg_pool3d(mask, factor)
        unlike, spread = (seen * value + (1 - seen) * most for value, most in ((unlike, 1.0), (spread, 2 * _PRIOR)))
    return Signs(torch.cat([pull, spread, unlike, motion, strain], dim=1), F.avg_pool3d(there, factor))


def coarseness(shape: Sequence[int]) -> int:
    """How many times as coarse the grid of the signs is: 1, 2, 4 or 8."""
    whole = [n for n in (1, 2, 4, 8) if all(side % n == 0 for side in shape)]
    return next((n for n in whole if math.prod(shape) / n**3 <= _PLACES), whole[-1])


def _local_alignment(fixed: Tensor, warped: Tensor, factor: int) -> tuple[Tensor, Tensor, Tensor]:
    """How far the warped image would still move locally, how uncertain that is (voxels), and how unlike it is."""
    f, w = _standardised(fixed), _standardised(warped)
    agreement = box_mean(f * w, _WINDOW)
    slope = agreement * gradient(w)[:, 0]
    left = f - agreement * w
    products = [slope[:, a : a + 1] * slope[:, b : b + 1] for a, b in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))]
    moments = F.avg_pool3d(box_mean(torch.cat([*products, slope * left, left.square()], dim=1), _WINDOW), factor)
    tensor, force, noise = moments.split([6, 3, 1], dim=1)
    noise = noise + 0.02
    covariance = _inverse_symmetric(tensor / noise, 1 / _PRIOR**2)
    step = _times(covariance, force / noise)
    spread = covariance[:, [0, 3, 5]].sum(dim=1, keepdim=True).sqrt()
    return step.norm(dim=1, keepdim=True), spread, F.avg_pool3d((1 - agreement).clamp(0, 2), factor)


def _standardised(image: Tensor) -> Tensor:
    """Local mean 0 and, where there is contrast, local variance 1."""
    mean, square = box_mean(torch.cat([image, image.square()], dim=1), _WINDOW).split(1, dim=1)
    variance = (square - mean.square()).clamp_min(0)
    standardised: Tensor = (image - mean) / (variance + FLAT).sqrt()
    return standardised


def _inverse_symmetric(tensor: Tensor, ridge: float) -> Tensor:
    """Inverse of (T + ridge I), entries kk, kj, ki, jj, ji, ii as channels."""
    a, b, c, d, e, f = tensor.unbind(dim=1)
    a, d, f = a + ridge, d + ridge, f + ridge
    rows = [d * f - e * e, c * e - b * f, b * e - c * d, a * f - c * c, b * c - a * e, a * d - b * b]
    determinant = a * rows[0] + b * rows[1] + c * rows[2]
    return torch.stack(rows, dim=1) / determinant.clamp_min(1e-12)[:, None]


def _times(tensor: Tensor, vector: Tensor) -> Tensor:
    a, b, c, d, e, f = tensor.unbind(dim=1)
    x, y, z = vector.unbind(dim=1)
    return torch.stack([a * x + b * y + c * z, b * x + d * y + e * z, c * x + e * y + f * z], dim=1)
