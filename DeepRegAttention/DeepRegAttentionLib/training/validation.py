"""How good a network is on pairs that it was not trained on: the one number that training and tuning maximise."""

from __future__ import annotations

from typing import Dict, Mapping

import torch
from torch import Tensor

from ..engine.fields import jacobian_determinant, warp
from ..engine.similarity import lncc
from .objective import landmark_error

FOLD_PENALTY = 0.1
"""Taken off the score for each percent of folded voxels: as much as 0.1 Dice, 0.1 mm or 0.1 of the similarity."""


def measure(displacement: Tensor, batch: Mapping[str, Tensor], ignore_labels: tuple[int, ...] = ()) -> Dict[str, float]:
    """Judge a displacement of one pair.

    Parameters
    ----------
    displacement : Tensor
        ``(1, 3, K, J, I)``, voxels.
    batch : mapping
        As :func:`~DeepRegAttentionLib.training.objective.objective` takes it.
    ignore_labels : tuple of int
        Labels that the Dice leaves out.

    Returns
    -------
    dict
        ``folds_percent``; ``similarity``, minus the LNCC loss whatever was trained with; ``dice`` and ``tre_mm``
        where the batch has labels and landmarks; and ``score``, larger is better: the Dice, without labels
        minus the target registration error, without landmarks the similarity, each minus ``FOLD_PENALTY`` times
        the folds.
    """
    measures = {
        "folds_percent": float((jacobian_determinant(displacement) <= 0).float().mean() * 100),
        "similarity": -float(lncc(batch["fixed"], warp(batch["moving"], displacement))),
    }
    goal = measures["similarity"]
    if "fixed_landmarks" in batch:
        measures["tre_mm"] = float(landmark_error(displacement, batch))
        goal = -measures["tre_mm"]
    if "fixed_labels" in batch:
        warped = warp(batch["moving_labels"].float(), displacement, mode="nearest").short()
        measures["dice"] = goal = mean_dice(batch["fixed_labels"], warped, ignore_labels)
    measures["score"] = goal - FOLD_PENALTY * measures["folds_percent"]
    return measures


def mean_dice(fixed: Tensor, warped: Tensor, ignore: tuple[int, ...] = ()) -> float:
    """Mean Dice over the labels of two integer maps of the same shape, without 0 and the ignored ones."""
    size = int(max(fixed.max(), warped.max())) + 1
    a, b = (torch.bincount(x.flatten().int(), minlength=size).float() for x in (fixed, warped))
    both = torch.bincount(fixed[fixed == warped].flatten().int(), minlength=size).float()
    present = (a + b) > 0
    present[[0, *[label for label in ignore if label < size]]] = False
    return float((2 * both[present] / (a + b)[present]).mean())
