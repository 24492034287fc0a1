"""What the error of a registration is predicted from: signs that an answer shows, on the working grid.

Lengths are in voxels of the working grid, all others are shares, contrasts or logarithms of a volume. They are taken on
a grid a few times as coarse, as errors are smooth.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..fields import gradient, jacobian_determinant, length, resize, warp
from ..intensity import DARK
from ..similarity import FLAT, box_mean
from ..working_pair import WorkingPair

_SCALES = (1, 2, 4)
_ALIGNMENT = ("pull", "spread", "unlike")
PLAIN = (
    *(f"{name} {scale}" for scale in _SCALES for name in _ALIGNMENT),
    "motion", "strain", "volume", "difference", "slope", "contrast", "brightness", "edge",
)  # fmt: skip
"""Names of the signs that every answer has, in the order of their channels."""

ASKED = ("forth", "back", "round")
"""Names of those that follow from asking the network again."""

_WINDOW = 7
# Signs are taken at about so many places at most.
_PLACES = 60_000
# How far a place may be off before anything is seen of it, voxels.
_PRIOR = 2.0
_LEAST_VOLUME = 0.01
# A network sees nothing on a grid with fewer voxels along a side.
_LEAST_SIDE = 12


class Signs(NamedTuple):
    """Signs ``(1, S, k, j, i)`` and where there is anything ``(1, 1, k, j, i)``, 0 to 1, on a coarser grid."""

    values: Tensor
    there: Tensor


def find_signs(pair: WorkingPair, displacement: Tensor, network: Optional[nn.Module] = None) -> Signs:
    """Look for signs of error.

    Parameters
    ----------
    pair : WorkingPair
        What was registered, on the CPU.
    displacement : Tensor
        The answer, ``(1, 3, K, J, I)`` in voxels.
    network : Module, optional
        What gave it; it is asked again where it is given, on its own device.
    """
    warped = warp(pair.moving, displacement)
    factor = coarseness(pair.fixed.shape[2:])
    size = [n // factor for n in pair.fixed.shape[2:]]
    found = [*_of_alignment(pair, warped, size), *_of_deformation(displacement), *_of_image(pair.fixed, warped)]
    if network is not None:
        found += _of_network(network, pair.fixed, warped)
    return Signs(torch.cat([_coarse(sign, size) for sign in found], dim=1), _coarse(_anything(pair, warped), size))


def _anything(pair: WorkingPair, warped: Tensor) -> Tensor:
    """Where there is anything in one of the images, in the fixed one's field of view, 0 to 1."""
    there = ((pair.fixed > DARK) | (warped > DARK)).float()
    return there if pair.fixed_view is None else there * pair.fixed_view


def coarseness(shape: Sequence[int]) -> int:
    """How many times as coarse the grid of the signs is: 1, 2, 4 or 8."""
    whole = [n for n in (1, 2, 4, 8) if all(side % n == 0 for side in shape)]
    return next((n for n in whole if math.prod(shape) / n**3 <= _PLACES), whole[-1])


def _coarse(sign: Tensor, size: Sequence[int]) -> Tensor:
    """The mean of a sign in each place of a grid of this size, or its value there if it is coarser."""
    factor = sign.shape[2] // size[0]
    return F.avg_pool3d(sign, factor) if factor > 1 else resize(sign, size)


def _of_alignment(pair: WorkingPair, warped: Tensor, size: Sequence[int]) -> Iterator[Tensor]:
    """How far the warped image would move locally, how uncertain that is and how unlike it is, on several scales."""
    seen = None if pair.mask is None else _coarse(pair.mask, size)
    images = torch.cat([pair.fixed, warped], dim=1)
    for scale in _SCALES:
        # On a grid that cannot be halved again the coarser scales are as the finest that there is.
        if scale > 1 and all(n % 2 == 0 and n >= 2 * _WINDOW for n in images.shape[2:]):
            images = F.avg_pool3d(images, 2)
        voxel = pair.fixed.shape[2] / images.shape[2]
        pull, spread, unlike = _local_alignment(images[:, :1], images[:, 1:], size)
        if seen is not None:
            unlike = seen * unlike + (1 - seen)
            spread = seen * spread + (1 - seen) * 2 * _PRIOR
        yield from (voxel * pull, voxel * spread, unlike)


def _of_deformation(displacement: Tensor) -> Iterator[Tensor]:
    """How far a place was moved, how unevenly, and how much it shrank or grew."""
    yield length(displacement)
    yield length(gradient(displacement).flatten(1, 2))
    yield jacobian_determinant(displacement).clamp_min(_LEAST_VOLUME).log().abs()


def _of_image(fixed: Tensor, warped: Tensor) -> Iterator[Tensor]:
    """How the images differ, what there is to be seen, and how far the edge of the grid is."""
    yield (fixed - warped).abs()
    yield length(gradient(fixed)[:, 0])
    mean, square = box_mean(torch.cat([fixed, fixed.square()], dim=1), _WINDOW).split(1, dim=1)
    yield (square - mean.square()).clamp_min(0).sqrt()
    yield fixed
    ends = [torch.minimum(torch.arange(n), torch.arange(n).flip(0)) for n in fixed.shape[2:]]
    yield torch.stack(torch.meshgrid(*ends, indexing="ij")).amin(dim=0).to(fixed)[None, None]


def _of_network(network: nn.Module, fixed: Tensor, warped: Tensor) -> Iterator[Tensor]:
    """How far the network would go on, how far back if the images were exchanged, and how far both are from meeting.

    Half the resolution does, at a sixth of the time.
    """
    device = next(network.parameters()).device
    halves = all(n % 2 == 0 and n >= 2 * _LEAST_SIDE for n in fixed.shape[2:])
    scale = 2 if halves else 1
    one, other = (F.avg_pool3d(image, scale).to(device) for image in (fixed, warped))
    with torch.inference_mode():
        forth, back = (network(*images).displacement.float().cpu() for images in ((one, other), (other, one)))
        lengths = [scale * length(u) for u in (forth, back, forth + warp(back, forth))]
    yield from (found.clone() for found in lengths)


def _local_alignment(fixed: Tensor, warped: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """How far the warped image would still move locally, how uncertain that is (voxels), and how unlike it is."""
    f, w = _standardised(fixed), _standardised(warped)
    agreement = box_mean(f * w, _WINDOW)
    slope = agreement * gradient(w)[:, 0]
    left = f - agreement * w
    products = [slope[:, a : a + 1] * slope[:, b : b + 1] for a, b in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))]
    moments = _coarse(box_mean(torch.cat([*products, slope * left, left.square()], dim=1), _WINDOW), size)
    tensor, force, noise = moments.split([6, 3, 1], dim=1)
    noise = noise + 0.02
    covariance = _inverse_symmetric(tensor / noise, 1 / _PRIOR**2)
    step = _times(covariance, force / noise)
    spread = covariance[:, [0, 3, 5]].sum(dim=1, keepdim=True).sqrt()
    return length(step), spread, _coarse((1 - agreement).clamp(0, 2), size)


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
