"""How good a network is on pairs that it was not trained on: the one number that training and tuning maximise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Optional

import numpy as np
import torch
from torch import Tensor

from ..engine.fields import jacobian_determinant, warp
from ..engine.similarity import lncc
from .objective import landmark_error

FOLD_PENALTY = 0.1
"""Taken off the score for each percent of folded voxels: as much as 0.1 Dice, 0.1 mm or 0.1 of the similarity."""


def measure(
    displacement: Tensor, batch: Mapping[str, Tensor], structures: Optional[Mapping[str, int]] = None
) -> dict[str, float]:
    """Judge a displacement of one pair.

    Parameters
    ----------
    displacement : Tensor
        ``(1, 3, K, J, I)``, voxels.
    batch : mapping
        As :func:`~DeepRegAttentionLib.training.objective.objective` takes it.
    structures : mapping, optional
        Names of labels whose Dice is given one by one, as ``dice_NAME``.

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
        warped = warp(batch["moving_labels"].float(), displacement, mode="nearest").int()
        overlap = dice_by_label(batch["fixed_labels"], warped)
        measures["dice"] = goal = sum(overlap.values()) / len(overlap) if overlap else 0.0
        named = {f"dice_{name}": overlap.get(label) for name, label in (structures or {}).items()}
        measures.update({name: value for name, value in named.items() if value is not None})
    measures["score"] = goal - FOLD_PENALTY * measures["folds_percent"]
    return measures


def mean_measures(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of every measure over the pairs that have it."""
    names = sorted({name for measures in found for name in measures})
    return {name: float(np.mean([measures[name] for measures in found if name in measures])) for name in names}


def dice_by_label(fixed: Tensor, warped: Tensor) -> dict[int, float]:
    """Dice of every label without 0 that one of two integer maps of the same shape has."""
    size = int(max(fixed.max(), warped.max())) + 1
    a, b = (torch.bincount(x.flatten().int(), minlength=size).float() for x in (fixed, warped))
    both = torch.bincount(fixed[fixed == warped].flatten().int(), minlength=size).float()
    present = torch.nonzero(a + b).flatten().tolist()
    return {label: float(2 * both[label] / (a + b)[label]) for label in present if label != 0}
