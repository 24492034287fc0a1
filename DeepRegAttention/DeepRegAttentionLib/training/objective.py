"""What training minimises, on every level of the pyramid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..engine.fields import resize, resize_field, warp
from ..engine.networks.blocks import NetworkOutput
from ..engine.networks.drivenmorph import cosine_between
from ..engine.refine import landmark_distance
from ..engine.regularization import HYPERPRIORS, diffusion, folding, strength_smoothness
from ..engine.similarity import SIMILARITY_LOSSES, soft_dice
from .options import LossWeights

Batch = Mapping[str, Tensor]
Terms = dict[str, Tensor]


def objective(
    output: NetworkOutput, batch: Batch, weights: LossWeights, similarity: str = "lncc", hyperprior: str = "beta"
) -> Terms:
    """The weighted terms of the loss and their sum ``total``; what has no weight is not worked out.

    Parameters
    ----------
    output : NetworkOutput
        A network's answer to the batch.
    batch : mapping
        ``fixed`` and ``moving`` images ``(N, 1, K, J, I)``; ``fixed_mask`` of the same shape, if it is there, says
        where the similarity counts. Each of these adds its term if it is there and has a weight:
        ``fixed_labels`` and ``moving_labels``, integers of the same shape; ``fixed_landmarks`` and
        ``moving_landmarks``, for each pair its points ``(P, 3)`` in voxels (k, j, i), P may differ from pair to
        pair, with ``spacing`` ``(N,)``, mm a voxel.
    weights : LossWeights
        Of the terms.
    similarity, hyperprior : str
        Keys of ``SIMILARITY_LOSSES`` and ``HYPERPRIORS``.
    """
    terms = _pyramid_terms(output, batch, weights, similarity)
    terms["folding"] = weights.folding * folding(output.displacement)
    if weights.force and output.forces:
        terms["force"] = weights.force * driving_force_loss(output)
    if output.regularization is not None:
        # The smoothness of every pass pulls at the strength.
        weight = weights.hyperprior * _passes(output)
        terms["hyperprior"] = weight * HYPERPRIORS[hyperprior](output.regularization)
        terms["strength"] = weights.strength * strength_smoothness(output.regularization)
    if weights.landmarks and "fixed_landmarks" in batch:
        terms["landmarks"] = weights.landmarks * landmark_error(output.displacement, batch)
    if weights.labels and "fixed_labels" in batch:
        terms["labels"] = weights.labels * label_loss(output.displacements, batch)
    terms["total"] = sum(terms.values(), output.displacement.new_zeros(()))
    return terms


def _pyramid_terms(output: NetworkOutput, batch: Batch, weights: LossWeights, similarity: str) -> Terms:
    """Similarity and diffusion; each level counts half as much as the next finer one."""
    total: Terms = {}
    for displacement in output.displacements:
        factor = _factor(displacement, batch["fixed"])
        varying = output.regularization
        strength = None if varying is None else resize(varying, displacement.shape[2:])
        terms = {"diffusion": weights.diffusion * diffusion(displacement, strength)}
        if weights.similarity:
            fixed, moving = (F.avg_pool3d(batch[name], factor) for name in ("fixed", "moving"))
            mask = F.avg_pool3d(batch["fixed_mask"], factor) if "fixed_mask" in batch else None
            alike = SIMILARITY_LOSSES[similarity](fixed, warp(moving, displacement), mask)
            terms["similarity"] = weights.similarity * alike
        total = {name: total.get(name, 0) + term / factor for name, term in terms.items()}
    return total


def _passes(output: NetworkOutput) -> int:
    """In how many passes the answer was found: each ends on the finest level."""
    return sum(displacement.shape == output.displacement.shape for displacement in output.displacements)


def _factor(displacement: Tensor, image: Tensor) -> int:
    """How many times coarser a level is than the image."""
    return image.shape[2] // displacement.shape[2]


def driving_force_loss(output: NetworkOutput) -> Tensor:
    """Tie each level's force to the motion that still remained there: one minus their cosine, averaged."""
    final = output.displacement.detach()
    losses: list[Tensor] = []
    for level, force in enumerate(output.forces):
        remaining = resize_field(final, force.shape[2:])
        if level > 0:
            remaining = remaining - resize_field(output.displacements[level - 1].detach(), force.shape[2:])
        losses.append(1 - cosine_between(force, remaining))
    return sum(losses, final.new_zeros(())) / len(losses)


def landmark_error(displacement: Tensor, batch: Batch) -> Tensor:
    """Mean distance of the warped landmarks in mm; every pair that has landmarks counts the same."""
    fixed: Sequence[Tensor] = list(batch["fixed_landmarks"])
    moving: Sequence[Tensor] = list(batch["moving_landmarks"])
    distances = [
        landmark_distance(field[None], a, b).mean() * spacing
        for field, a, b, spacing in zip(displacement, fixed, moving, batch["spacing"])
        if len(a)
    ]
    return torch.stack(distances).mean() if distances else displacement.new_zeros(())


def label_loss(displacements: Sequence[Tensor], batch: Batch) -> Tensor:
    """The soft Dice loss of every level; each counts half as much as the next finer one."""
    losses = [
        soft_dice_loss(displacement, batch) / _factor(displacement, batch["fixed_labels"])
        for displacement in displacements
    ]
    return torch.stack(losses).sum()


def structure_loss(recognised: Tensor, labels: Tensor, structures: Sequence[int]) -> Tensor:
    """How far recognised structures are from a label map: the mean of cross-entropy and soft Dice loss.

    Parameters
    ----------
    recognised : Tensor
        Shares of each voxel, as :class:`~DeepRegAttentionLib.engine.networks.structures.StructureNetwork` gives them.
    labels : Tensor
        Integers ``(N, 1, K, J, I)``.
    structures : sequence of int
        Their labels, in the order of the channels.
    """
    filled = _shares(labels, structures, _factor(recognised, labels))
    true = torch.cat([1 - filled.sum(dim=1, keepdim=True), filled], dim=1)
    entropy = -(true * (recognised + 1e-6).log()).sum(dim=1).mean()
    return (entropy + 1 - _overlap(recognised, filled)) / 2


def structure_overlap(recognised: Tensor, labels: Tensor, structures: Sequence[int]) -> Tensor:
    """The soft Dice of recognised structures with a label map, averaged over those that it has; 1 if it has none."""
    return _overlap(recognised, _shares(labels, structures, _factor(recognised, labels)))


def _overlap(recognised: Tensor, filled: Tensor) -> Tensor:
    there = filled.sum(dim=(0, 2, 3, 4)) > 0
    return 1 - soft_dice(filled[:, there], recognised[:, 1:][:, there]) if there.any() else filled.new_ones(())


def _shares(labels: Tensor, structures: Sequence[int], factor: int) -> Tensor:
    """The share that each structure of a label map fills of each voxel of a grid so many times as coarse."""
    return F.avg_pool3d(torch.cat([labels == label for label in structures], dim=1).float(), factor)


def soft_dice_loss(displacement: Tensor, batch: Batch) -> Tensor:
    """One minus the Dice of warped and fixed labels, averaged over the labels of the fixed map without 0.

    The moving labels are warped one by one with linear interpolation, so that the overlap has a gradient. On a
    coarser level each label counts as the share of a voxel that it fills.
    """
    labels = [label for label in batch["fixed_labels"].unique().tolist() if label != 0]
    if not labels:
        return displacement.new_zeros(())
    factor = _factor(displacement, batch["fixed_labels"])
    fixed, moving = (_shares(batch[name], labels, factor) for name in ("fixed_labels", "moving_labels"))
    return soft_dice(fixed, warp(moving, displacement))
