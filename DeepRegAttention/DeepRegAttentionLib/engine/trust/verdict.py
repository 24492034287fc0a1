"""Pass, review or fail: what the evidence on a pair comes to, by limits that good pairs of the same model set.

The rules are plain. Each piece of evidence has a usual value and two limits on its bad side: beyond the first somebody
should look, beyond the second the result is not to be used. One reason to look makes *review*; one reason to refuse,
or several to look, make *fail*.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Optional

from ..errors import ModelError
from ..models.listing import ModelFile
from ..resources import resource_folder
from .evidence import Answer, gather
from .predictor import ALONE, ANY

GRADES = ("pass", "review", "fail")
"""From good to bad."""

MANY = 3
"""So many reasons to look are one to refuse."""

_TOLD = ("key", "grade", "value", "usual", "limit")
Evidence = Mapping[str, float]


@dataclass(frozen=True)
class Limit:
    """What is usual on good pairs, and from where on a value is a reason to look, and one to refuse.

    The limits lie on the bad side: below what is usual where less is worse.
    """

    usual: float
    review: float
    fail: float

    def __post_init__(self) -> None:
        steps = self.review - self.usual, self.fail - self.review
        if not all(math.isfinite(step) for step in steps) or steps[0] * steps[1] <= 0:
            raise ModelError(f"Limits of a verdict must go from usual to review to fail; {self} do not.")

    def badness(self, value: float) -> float:
        """0 where review begins, 1 where fail begins, negative before."""
        return (value - self.review) / (self.fail - self.review)


@dataclass(frozen=True)
class Reason:
    """Why a pair does not pass.

    Attributes
    ----------
    key : str
        Of the evidence.
    grade : {"review", "fail"}
        What it comes to alone.
    value, usual, limit : float
        What was found, what good pairs have, and the limit that was passed.
    badness : float
        From 0, where review begins; 1 where fail begins.
    """

    key: str
    grade: str
    value: float
    usual: float
    limit: float
    badness: float


def judge(evidence: Evidence, limits: Mapping[str, Limit]) -> tuple[str, list[Reason]]:
    """The grade and its reasons, the worst first; more reasons never make a better grade."""
    reasons = [_reason(key, evidence[key], limit) for key, limit in limits.items() if key in evidence]
    found = sorted((reason for reason in reasons if reason is not None), key=lambda reason: -reason.badness)
    return grade_of([reason.grade for reason in found]), found


def _reason(key: str, value: float, limit: Limit) -> Optional[Reason]:
    badness = limit.badness(value)
    if badness <= 0:
        return None
    grade, passed = ("fail", limit.fail) if badness >= 1 else ("review", limit.review)
    return Reason(key, grade, value, limit.usual, passed, badness)


def grade_of(reasons: Sequence[str]) -> str:
    """What reasons of these grades come to."""
    if "fail" in reasons or len(reasons) >= MANY:
        return "fail"
    return "review" if reasons else "pass"


def verdict(answer: Answer, model: Optional[ModelFile]) -> dict[str, Any]:
    """The verdict as ``metrics.json`` has it.

    Parameters
    ----------
    answer : Answer
        What was found.
    model : ModelFile, optional
        What found it; None is refinement alone.

    Returns
    -------
    dict
        ``grade``; ``reasons``, the worst first, each with ``key``, ``grade``, ``value``, ``usual`` and ``limit``; the
        ``evidence`` by its keys; and where the ``object`` lies, by which places are told.
    """
    evidence = gather(answer)
    grade, reasons = judge(evidence, limits_for(model))
    told = [{name: getattr(reason, name) for name in _TOLD} for reason in reasons]
    return {"grade": grade, "reasons": told, "evidence": evidence, "object": answer.frame}


def limits_for(model: Optional[ModelFile]) -> Mapping[str, Limit]:
    """The limits of a method; of a model that nobody calibrated, those that all others keep."""
    known = read_limits(resource_folder("Trust") / "verdict.json")
    return known.get(ALONE if model is None else model.info.name, known[ANY])


@lru_cache(maxsize=2)
def read_limits(path: Path) -> Mapping[str, Mapping[str, Limit]]:
    """All limits of a file, by method and evidence; ModelError where it is damaged."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return {
            entry["method"]: {key: Limit(**values) for key, values in entry["limits"].items()}
            for entry in document["methods"]
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"The limits of the verdict in {path} cannot be read: {error}.") from error
