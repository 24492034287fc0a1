"""Instance optimisation: improve one pair's displacement by gradient descent, from a network's answer or from zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Callable, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from .clock import Report, share
from .fields import compose, exponentiate, resize, resize_field, smooth, warp
from .regularization import diffusion, folding
from .similarity import similarity_to, soft_dice

Watch = Callable[[Tensor], None]
"""Called with the displacement so far, ``(1, 3, k, j, i)`` in voxels of a grid that may still be a coarser one."""


@dataclass(frozen=True)
class Structures:
    """What was recognised in both images.

    Attributes
    ----------
    fixed, moving : Tensor
        The share of each voxel that each structure fills, ``(1, S, k, j, i)`` in 0..1, on a grid that may be coarser
        than that of the images.
    share : float
        Of the structures in what is to become alike, 0..1; the rest is that of the images.
    mask : Tensor, optional
        ``(1, 1, k, j, i)``: where they count.
    """

    fixed: Tensor
    moving: Tensor
    share: float = 1.0
    mask: Optional[Tensor] = None

    @property
    def count(self) -> int:
        """How many there are."""
        return self.fixed.shape[1]

    def unlike(self, displacement: Tensor) -> Tensor:
        """One minus the overlap under a displacement ``(1, 3, K, J, I)``."""
        return soft_dice(self._counted(self.fixed), self._warped(displacement))

    def differing(self, displacement: Tensor) -> Tensor:
        """Of each voxel the share in which the two differ under a displacement, ``(1, 1, K, J, I)`` in 0..1."""
        difference = self._counted(self.fixed) - self._warped(displacement)
        # What is none of the structures counts as one more.
        total = difference.abs().sum(dim=1, keepdim=True) + difference.sum(dim=1, keepdim=True).abs()
        return resize(total / 2, displacement.shape[2:])

    def _warped(self, displacement: Tensor) -> Tensor:
        return self._counted(warp(self.moving, resize_field(displacement, self.fixed.shape[2:])))

    def _counted(self, shares: Tensor) -> Tensor:
        return shares if self.mask is None else shares * self.mask

    def cpu(self) -> Structures:
        """A copy on the CPU."""
        mask = None if self.mask is None else self.mask.cpu()
        return replace(self, fixed=self.fixed.cpu(), moving=self.moving.cpu(), mask=mask)

    def coarser(self, factor: int) -> Structures:
        """The same on a grid ``factor`` times as coarse."""
        fixed, moving = F.avg_pool3d(self.fixed, factor), F.avg_pool3d(self.moving, factor)
        return replace(self, fixed=fixed, moving=moving, mask=_pool(self.mask, factor))


@dataclass(frozen=True)
class Objective:
    """What the refinement minimises on the working grid.

    Attributes
    ----------
    fixed, moving : Tensor
        ``(1, 1, K, J, I)`` in 0..1.
    similarity : str
        Key of ``SIMILARITY_LOSSES``.
    weight : float
        Of the diffusion term.
    mask : Tensor, optional
        ``(1, 1, K, J, I)``: where the similarity counts.
    strength : Tensor, optional
        ``(1, 1, K, J, I)``, mean about 1: local factor on the diffusion term.
    landmarks : (Tensor, Tensor), optional
        Fixed and moving points ``(P, 3)`` in voxels (k, j, i).
    landmark_weight : float
        Of the mean squared landmark distance, per squared voxel.
    structures : Structures, optional
        What was recognised in both images.
    """

    fixed: Tensor
    moving: Tensor
    similarity: str = "lncc"
    weight: float = 1.0
    mask: Optional[Tensor] = None
    strength: Optional[Tensor] = None
    landmarks: Optional[tuple[Tensor, Tensor]] = None
    landmark_weight: float = 0.02
    structures: Optional[Structures] = None

    def __call__(self, displacement: Tensor) -> Tensor:
        """The loss of a displacement ``(1, 3, K, J, I)``."""
        loss = self._unlike_images_and_structures(displacement)
        loss = loss + self.weight * diffusion(displacement, self.strength) + 10 * folding(displacement)
        if self.landmarks is not None:
            loss = loss + self.landmark_weight * landmark_distance(displacement, *self.landmarks).square().mean()
        return loss

    def _unlike_images_and_structures(self, displacement: Tensor) -> Tensor:
        share = 0.0 if self.structures is None else self.structures.share
        unlike = displacement.new_zeros(())
        if share < 1:
            unlike = unlike + (1 - share) * self._unlike(warp(self.moving, displacement))
        if self.structures is not None and share > 0:
            unlike = unlike + share * self.structures.unlike(displacement)
        return unlike

    @cached_property
    def _unlike(self) -> Callable[[Tensor], Tensor]:
        return similarity_to(self.similarity, self.fixed, self.mask)

    def coarser(self, factor: int) -> Objective:
        """The same on a grid ``factor`` times as coarse."""
        if factor == 1:
            return self
        return replace(
            self,
            fixed=F.avg_pool3d(self.fixed, factor),
            moving=F.avg_pool3d(self.moving, factor),
            mask=_pool(self.mask, factor),
            strength=_pool(self.strength, factor),
            structures=None if self.structures is None else self.structures.coarser(factor),
            landmarks=_coarser_points(self.landmarks, factor),
        )


def recognised(
    see: Callable[[Tensor], Tensor], fixed: Tensor, moving: Tensor, share: float, mask: Optional[Tensor] = None
) -> Optional[Structures]:
    """What is recognised in both images, of the structures that are there; None if none is.

    Parameters
    ----------
    see : callable
        As :class:`~.networks.structures.StructureNetwork`.
    fixed, moving : Tensor
        ``(1, 1, K, J, I)`` in 0..1.
    share : float
        See :class:`Structures`.
    mask : Tensor, optional
        ``(1, 1, K, J, I)``: where they count.
    """
    with torch.no_grad():
        one, other = see(fixed)[:, 1:], see(moving)[:, 1:]
    there = one.amax(dim=(0, 2, 3, 4)) > 0.5
    if not there.any():
        return None
    counts = None if mask is None else resize(mask, one.shape[2:])
    return Structures(one[:, there], other[:, there], share, counts)


def _coarser_points(pair: Optional[tuple[Tensor, Tensor]], factor: int) -> Optional[tuple[Tensor, Tensor]]:
    if pair is None:
        return None
    fixed, moving = ((points - (factor - 1) / 2) / factor for points in pair)
    return fixed, moving


def _pool(image: Optional[Tensor], factor: int) -> Optional[Tensor]:
    return None if image is None else F.avg_pool3d(image, factor)


def landmark_distance(displacement: Tensor, fixed: Tensor, moving: Tensor) -> Tensor:
    """Distance in voxels between warped fixed landmarks and moving landmarks: ``(P, 3)`` twice to ``(P,)``."""
    size = torch.tensor(displacement.shape[2:], device=fixed.device)
    where = (2 * fixed / (size - 1).clamp_min(1) - 1).flip(1)[None, :, None, None]
    motion = F.grid_sample(displacement, where.to(displacement), padding_mode="border", align_corners=True)
    distances: Tensor = (fixed + motion[0, :, :, 0, 0].T - moving).norm(dim=1)
    return distances


def refine(
    objective: Objective,
    start: Optional[Tensor],
    steps: int,
    progress: Optional[Report] = None,
    watch: Optional[Watch] = None,
) -> Tensor:
    """Optimise a stationary velocity v so that u o exp(v) minimises the objective.

    Parameters
    ----------
    objective : Objective
        On the working grid.
    start : Tensor, optional
        u, a network's answer ``(1, 3, K, J, I)``, voxels. Without one the optimisation starts from
        zero on a grid four times as coarse.
    steps : int
        At most so many on the working grid (as many again on each coarser one when from zero); ends
        earlier once the loss no longer falls.
    progress : callable, optional
        Gets the fraction done, twice a step; may raise to stop.
    watch : callable, optional
        Gets the displacement so far at each step.

    Returns
    -------
    Tensor
        ``(1, 3, K, J, I)``, voxels: diffeomorphic if the start is.
    """
    shape = objective.fixed.shape[2:]
    coarser = [f for f in (4, 2) if min(shape) // f >= 8 and not _odd(shape, f)]
    factors = [1] if start is not None else [*coarser, 1]
    if start is not None and start.is_inference():
        start = start.clone()  # what an inference made takes part in no gradient
    report = progress or (lambda fraction: None)
    for factor, (begin, end) in zip(factors, _shares(factors)):
        level = objective.coarser(factor)
        size = level.fixed.shape[2:]
        here = torch.zeros(1, 3, *size).to(level.fixed) if start is None else resize_field(start, size)
        start = _descend(level, here, steps, share(report, begin, end), watch or (lambda displacement: None))
    assert start is not None
    return start


def _shares(factors: Sequence[int]) -> list[tuple[float, float]]:
    """Where in the whole each level begins and ends: a step costs as much as its grid has voxels."""
    costs = [factor**-3 for factor in factors]
    ends = [sum(costs[: n + 1]) / sum(costs) for n in range(len(costs))]
    return list(zip([0.0, *ends], ends))


def _odd(shape: tuple[int, ...], factor: int) -> bool:
    return any(n % factor for n in shape)


def _descend(objective: Objective, start: Tensor, steps: int, progress: Report, watch: Watch) -> Tensor:
    """Adam on velocity nodes every two voxels, smoothed: coarse enough to be smooth, fine enough to fit."""
    nodes = [max(2, n // 2) for n in start.shape[2:]]
    velocity = torch.zeros(1, 3, *nodes, device=start.device, requires_grad=True)
    optimiser = torch.optim.Adam([velocity], lr=LEARNING_RATE)
    losses: list[float] = []
    best, best_loss = start, float("inf")
    for n in range(steps):
        # Integrated where its nodes are, on an eighth of the voxels: it is no finer than they.
        step = exponentiate(smooth(velocity, 1.0))
        displacement = compose(start, resize_field(step, start.shape[2:]))
        loss = objective(displacement)
        losses.append(float(loss.detach()))
        if losses[-1] < best_loss:
            best, best_loss = displacement.detach(), losses[-1]
        watch(displacement.detach())
        if _converged(losses):
            break
        progress((n + 0.5) / steps)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        progress((n + 1) / steps)
    return best


LEARNING_RATE = 0.1
"""Of the refinement, voxels of the velocity nodes a step."""


def _converged(losses: list[float], window: int = 10, tolerance: float = 1e-4) -> bool:
    """Whether the last steps improved the loss by less than a tolerance relative to it, per step."""
    if len(losses) <= 2 * window:
        return False
    before, now = min(losses[:-window]), min(losses[-window:])
    return before - now < tolerance * window * abs(before) / 4
