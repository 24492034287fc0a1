"""The motion that takes a few points to their goals, smooth, without folds, and nothing but the identity far away.

The points travel along straight lines in unit time, carried by a velocity that interpolates theirs: at each moment a
sum of radial functions around where they are then (Joshi and Miller, 2000), here those of Wendland (1995), which end at
a distance. In time steps as short as this velocity is steep each step is one to one, hence so is the whole.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

# In a step the velocity changes by at most this per mm: below 1 the step cannot fold.
_STEEPEST = 0.5
_MOST_STEPS = 40
# Where the slopes of all functions together are looked at, as shares of each one's reach; one is steepest at 1/4.
_SHELLS = (0.08, 0.25, 0.5)


class NoSmoothMotionError(ValueError):
    """Two goals contradict each other; ``pair`` says which."""

    def __init__(self, pair: tuple[int, int]) -> None:
        super().__init__(f"No smooth motion takes the points {pair[0]} and {pair[1]} to their goals.")
        self.pair = pair


@dataclass(frozen=True, eq=False)
class Pull:
    """A motion of points.

    Attributes
    ----------
    starts, goals : Tensor
        ``(C, 3)``, double: from where to where each of a few points is taken, mm.
    reach : Tensor
        ``(C,)``: how far from its point each pull is felt, mm.
    """

    starts: Tensor
    goals: Tensor
    reach: Tensor

    @cached_property
    def times(self) -> tuple[float, ...]:
        """Where the steps begin and end, from 0 to 1.

        Raises NoSmoothMotionError if it would take too many.
        """
        times = [0.0]
        while times[-1] < 1:
            try:
                steepness = float(self._steepness(times[-1]).max())
            except RuntimeError as error:  # Two points have met.
                raise NoSmoothMotionError(self.worst_pair()) from error
            times.append(min(1.0, times[-1] + _STEEPEST / max(steepness, _STEEPEST)))
            if len(times) > _MOST_STEPS:
                raise NoSmoothMotionError(self.worst_pair())
        return tuple(times)

    def touches(self, points: Tensor) -> Tensor:
        """Which of the points ``(P, 3)`` may move, ``(P,)`` bool: those within reach of the ways of the pulls."""
        near = torch.zeros(len(points), dtype=torch.bool)
        for start, goal, reach in zip(self.starts, self.goals, self.reach):
            way = goal - start
            share = ((points - start) @ way / (way @ way).clamp_min(1e-12)).clamp(0, 1)
            near |= _lengths(points - start - share[:, None] * way) < reach
        return near

    def __call__(self, points: Tensor) -> Tensor:
        """Where the points ``(P, 3)``, double, mm, are taken."""
        moved = points.clone()
        for begin, end in zip(self.times, self.times[1:]):
            velocity = torch.zeros_like(moved)
            for centre, weight, reach in zip(self._at(begin), self._weights(begin), self.reach):
                velocity.addcmul_(_radial(_lengths(moved - centre) / reach)[:, None], weight)
            moved.add_(velocity, alpha=end - begin)
        return moved

    def nearness(self, points: Tensor, reach: float) -> Tensor:
        """How near points ``(P, 3)`` are to a goal, 1 at it, 0 farther away than `reach` (mm): ``(P,)``."""
        return torch.stack([_radial(_lengths(points - goal) / reach) for goal in self.goals]).amax(dim=0)

    def _at(self, time: float) -> Tensor:
        return self.starts + time * (self.goals - self.starts)

    def _weights(self, time: float) -> Tensor:
        """Of the functions, so that the velocity at each travelling point is its own, ``(C, 3)``."""
        distances = torch.cdist(self._at(time), self._at(time), compute_mode="donot_use_mm_for_euclid_dist")
        weights: Tensor = torch.linalg.solve(_radial(distances / self.reach), self.goals - self.starts)
        return weights

    def _steepness(self, time: float) -> Tensor:
        """Bounds on the slope of the velocity around each of the travelling points, per unit of time."""
        centres, directions = self._at(time), _directions()
        shells = torch.tensor(_SHELLS, dtype=torch.float64)[:, None, None] * directions
        probes = (centres[:, None] + self.reach[:, None, None] * shells.reshape(1, -1, 3)).reshape(-1, 3)
        slopes = _radial_slope(torch.cdist(probes, centres) / self.reach) / self.reach
        bounds: Tensor = slopes @ self._weights(time).norm(dim=1)
        return bounds

    def worst_pair(self) -> tuple[int, int]:
        """The two points whose ways differ most for how near they are to each other, at their starts or goals."""
        ways = self.goals - self.starts

        def strain(pair: tuple[int, int]) -> float:
            one, other = pair
            near = min(float((ends[one] - ends[other]).norm()) for ends in (self.starts, self.goals))
            return float((ways[one] - ways[other]).norm()) / max(near, 1e-9)

        pairs = list(itertools.combinations(range(len(ways)), 2))
        return max(pairs, key=strain) if pairs else (0, 0)


def _lengths(vectors: Tensor) -> Tensor:
    """Of ``(P, 3)``; torch's own norm over so short an axis takes several times as long."""
    x, y, z = vectors.unbind(dim=1)
    return (x * x + y * y + z * z).sqrt()


def _radial(r: Tensor) -> Tensor:
    """Wendland's function of smoothness C2: 1 at 0, 0 from 1 on; positive definite in space."""
    return (1 - r).clamp_min(0).pow(4) * (4 * r + 1)


def _radial_slope(r: Tensor) -> Tensor:
    """The size of its derivative."""
    return 20 * r * (1 - r).clamp_min(0).pow(3)


def _directions() -> Tensor:
    """Towards the faces and corners of a cube, ``(14, 3)``."""
    steps = np.array([d for d in itertools.product((-1, 0, 1), repeat=3) if np.abs(d).sum() in (1, 3)], float)
    return torch.from_numpy(steps / np.linalg.norm(steps, axis=1, keepdims=True))
