"""Whether a network's answer explains a pair of images, or another method is to be tried."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Optional

import torch
from torch import Tensor

from .fields import resize_field, warp
from .method import Doubt
from .refine import Objective, refine
from .similarity import contrast_agreement

# So much of what its rival gains a network must gain, give or take the differences of images that lie on each other.
_SHARE, _NOISE = 0.75, 0.001
# How long the rival of a network is refined, and on about so many voxels: a tenth of a network's time.
_RIVAL_STEPS, _RIVAL_VOXELS = 15, 6000
# Of brains, hippocampi and hearts of one modality it is above 0.9, of a brain and its negative below -0.3.
_AGREEMENT = 0.5


def doubt(objective: Objective, displacement: Tensor) -> Optional[Doubt]:
    """Why an answer is not to be taken: it must explain most of what a few steps of refinement from zero explain.

    Both are judged on a coarse grid by the similarity that the refinement maximises, and by folds; not by
    smoothness, since what was learned from labels deforms more than any smoothness prior would have it. Images
    of different contrast are explained by no network that expects one modality: it would make bright what is
    bright, and be praised for that.

    Parameters
    ----------
    objective : Objective
        Of the working grid.
    displacement : Tensor
        The answer, ``(1, 3, K, J, I)`` in voxels of the working grid.

    Returns
    -------
    Doubt, optional
        None if there is none.
    """
    coarse = objective.coarser(_judging_factor(objective.fixed.shape[2:]))
    rival = refine(coarse, None, _RIVAL_STEPS)
    if not _of_one_contrast(objective, rival):
        return Doubt.CONTRAST
    judge = replace(coarse, weight=0.0, landmarks=None)
    with torch.no_grad():
        answer = resize_field(displacement.clone().float(), coarse.fixed.shape[2:])
        alone, found, refined = (float(judge(u)) for u in (torch.zeros_like(answer), answer, rival))
    return None if alone - found >= _SHARE * (alone - refined) - _NOISE else Doubt.POOR


def _of_one_contrast(objective: Objective, rival: Tensor) -> bool:
    """By the alignment that the refinement has found, whose similarity does not care for the sign of a contrast."""
    half = objective.coarser(min(2, _judging_factor(objective.fixed.shape[2:])))
    with torch.no_grad():
        warped = warp(half.moving, resize_field(rival, half.fixed.shape[2:]))
        return contrast_agreement(half.fixed, warped, half.mask) > _AGREEMENT


def _judging_factor(shape: Sequence[int]) -> int:
    """4, or 2 on a small grid; 1 on one that cannot be halved."""
    factor = 4 if math.prod(shape) / 4**3 >= _RIVAL_VOXELS else 2
    return factor if all(n % factor == 0 for n in shape) else 1
