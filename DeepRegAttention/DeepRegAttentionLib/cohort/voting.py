"""Labels of several maps on one grid, made one by a vote at each voxel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import numpy as np

# Voxels that are voted on at once.
_SLAB = 1 << 20
# What the first of equal votes has more than the last: enough to break a tie, too little to turn a majority.
_PRECEDENCE = 1e-3


def vote(ballots: Sequence[np.ndarray], weights: Optional[np.ndarray] = None) -> tuple[np.ndarray, np.ndarray]:
    """The label with the most votes at each voxel, and its share of the votes.

    Parameters
    ----------
    ballots : sequence of ndarray
        N label maps of one shape, of whole numbers. A tie goes to the side of the earliest, not to the lowest number:
        the background would win all ties, and structures would shrink.
    weights : ndarray, optional
        How much each vote counts, ``(N, ...)``, none negative; all the same without it.

    Returns
    -------
    (ndarray, ndarray)
        Of that shape: labels of the ballots' type, and shares, float32, 0..1 (0 where no vote counts).
    """
    shape = ballots[0].shape
    maps = np.stack([ballot.ravel() for ballot in ballots])
    weighed = None if weights is None else weights.reshape(len(maps), -1)
    winner, share = maps[0].copy(), np.ones(maps.shape[1], np.float32)
    disputed = np.flatnonzero((maps != maps[0]).any(axis=0))
    for start in range(0, len(disputed), _SLAB):
        where = disputed[start : start + _SLAB]
        counts = np.ones((len(maps), 1), np.float32) if weighed is None else weighed[:, where]
        winner[where], share[where] = _most(maps[:, where], counts)
    return winner.reshape(shape), share.reshape(shape)


def _most(maps: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The winners ``(V,)`` of maps ``(N, V)``, whose votes count ``(N, V)`` or ``(N, 1)``, and their shares."""
    voters = len(maps)
    order = np.linspace(_PRECEDENCE, 0, voters, dtype=np.float32)[:, None] / voters
    best = np.full(maps.shape[1], -1, np.float32)
    winner, share = maps[0].copy(), np.zeros(maps.shape[1], np.float32)
    total = np.maximum(counts.sum(axis=0), np.finfo(np.float32).tiny)
    for label in np.unique(maps):
        chosen = maps == label
        votes = (chosen * counts).sum(axis=0)
        rank = votes / total + (chosen * order).max(axis=0)
        more = rank > best
        best[more], winner[more], share[more] = rank[more], label, (votes / total)[more]
    return winner, share
