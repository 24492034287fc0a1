"""The limits of the verdict, from pairs that went well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from DeepRegAttentionLib.engine.trust.predictor import ANY
from DeepRegAttentionLib.engine.trust.verdict import Limit

TO_SPARE = 1.0
"""A reason to look is so many spreads beyond the worst of the pairs that went well."""

FAIL_AT = 2.0
"""A reason to refuse is so many times as far from what is usual as one to look."""


class Scale(NamedTuple):
    """How one piece of evidence is spread.

    Attributes
    ----------
    bad : int
        -1 where less is worse, 1 where more is.
    least : float
        No spread is taken for smaller than this: what limits are fitted on is more alike than what users have. 0: the
        limits are the two that follow, whatever the pairs.
    review, fail : float
        No limit is stricter than these; NaN: as strict as the pairs allow.
    logarithmic : bool
        Whether it is spread evenly in its logarithm.
    worst : float
        The worst value that there is; where even that is nothing unusual, the evidence says nothing of the method.
    """

    bad: int
    least: float
    review: float = np.nan
    fail: float = np.nan
    logarithmic: bool = False
    worst: float = np.nan


SCALES: Mapping[str, Scale] = {
    "similarity": Scale(-1, 0.02, worst=0.0),
    # Images that lie on each other already have nothing to gain.
    "gain": Scale(-1, 0.02, -0.02, -0.1),
    "contrast": Scale(-1, 0.04, worst=-1.0),
    "overlap": Scale(-1, 0.015, worst=0.0),
    "seen": Scale(-1, 0.05, worst=0.0),
    "handedness": Scale(-1, 0.004, worst=-0.1),
    "rotation_deg": Scale(1, 6.0, 30.0, 100.0),
    "stretch": Scale(1, 0.06, 1.3, 2.0),
    "moved_percent": Scale(1, 0.1, logarithmic=True),
    "size": Scale(1, 0.0, 1.6, 2.5),
    "folds_percent": Scale(1, 0.0, 0.2, 2.0),
    "shrinking": Scale(-1, 0.2, logarithmic=True),
    "growing": Scale(1, 0.1, logarithmic=True),
    # An error of a voxel more than usual is nothing to be alarmed at.
    "expected_voxels": Scale(1, 0.4),
}
_SMALLEST = 1e-3

Limits = dict[str, Limit]


def fit(evidence: Sequence[Mapping[str, float]]) -> Limits:
    """Limits of one method, for each piece of evidence that says something of it."""
    return {key: found for key in SCALES if (found := _limit(key, evidence)) is not None}


def _limit(key: str, evidence: Sequence[Mapping[str, float]]) -> Limit | None:
    scale = SCALES[key]
    values = np.array([one[key] for one in evidence if key in one])
    if not len(values):
        return None
    if scale.logarithmic:
        values = np.log(values.clip(_SMALLEST))
    usual = float(np.median(values))
    step = scale.bad * _reach(scale.bad * (values - usual), scale.least) if scale.least else 0.0
    found = [usual, usual + step, usual + FAIL_AT * step]
    if scale.logarithmic:
        found = np.exp(found).tolist()
    milder = max if scale.bad > 0 else min
    for n, bound in ((1, scale.review), (2, scale.fail)):
        found[n] = found[n] if np.isnan(bound) else milder(found[n], bound)
    if scale.bad * (found[1] - scale.worst) >= 0:
        return None
    return Limit(*(float(f"{value:.4g}") for value in found))


def _reach(badness: np.ndarray, least: float) -> float:
    """How far from what is usual a reason to look begins, of how far on the bad side good pairs lie."""
    spread = max(float(np.percentile(badness, 95)) / 1.645, least)
    return max(float(badness.max()) + TO_SPARE * spread, 3 * spread)


def loosest(fitted: Mapping[str, Limits]) -> Limits:
    """What every method keeps: for a model that nobody has fitted."""
    limits = {}
    for key, scale in SCALES.items():
        known = [found[key] for found in fitted.values() if key in found]
        milder = max if scale.bad > 0 else min
        if known:
            usual = float(np.median([limit.usual for limit in known]))
            bounds = (milder(getattr(limit, name) for limit in known) for name in ("review", "fail"))
            limits[key] = Limit(usual, *bounds)
    return limits


def document(fitted: Mapping[str, Limits], counts: Mapping[str, int]) -> dict[str, Any]:
    """As the resource file has it."""
    known = {**fitted, ANY: loosest(fitted)}
    return {
        "methods": [
            {"method": method, "pairs": counts.get(method, sum(counts.values())),
             "limits": {key: vars(limit) for key, limit in limits.items()}}
            for method, limits in known.items()
        ]
    }  # fmt: skip
