"""The verdict on a pair in words: its grade and colour, one sentence that says why and where, and a reason each.

Plain Python: everything is made of the content of ``metrics.json``, so that panel, browser, report and command line say
the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Optional

from .measures import EVIDENCE
from .palettes import GRADE_COLOURS
from .translation import translator

_ = translator(__name__)

# A place that lies nearer to the middle than this share of the way to the edge is not said to lie to that side.
_ASIDE = 0.3
Names = Mapping[int, str]
_NO_NAMES: Names = {}


@dataclass(frozen=True)
class Verdict:
    """What is shown of a verdict.

    Attributes
    ----------
    grade : {"pass", "review", "fail"}
        For programs.
    title : str
        For people, such as ``"Review"``.
    colour : str
        Such as ``"#1a7f37"``: readable on white and on black.
    sentence : str
        Why, and where.
    reasons : tuple of str
        A sentence for each reason, the worst first; empty if it passed.
    """

    grade: str
    title: str
    colour: str
    sentence: str
    reasons: tuple[str, ...]


def grade_title(grade: str) -> str:
    """What a grade is called."""
    return {"pass": _("Pass"), "review": _("Review"), "fail": _("Fail")}[grade]


def verdict_of(metrics: Mapping[str, Any], names: Names = _NO_NAMES) -> Optional[Verdict]:
    """The verdict of a result; None if nobody judged it.

    Parameters
    ----------
    metrics : mapping
        Of ``RegistrationResult.metrics`` or ``metrics.json``.
    names : mapping of int to str, optional
        Of the structures in the fixed label map; places outside of those are told by their direction.
    """
    found = metrics.get("verdict")
    if not found:
        return None
    grade, reasons = found["grade"], tuple(reason_text(reason) for reason in found["reasons"])
    sentence = " ".join([*reasons[:1], _whereabouts(metrics, names)])
    return Verdict(grade, grade_title(grade), GRADE_COLOURS[grade], sentence, reasons)


def _whereabouts(metrics: Mapping[str, Any], names: Names) -> str:
    """Where it may be off most, and whether it folds."""
    percent = (metrics.get("jacobian") or {}).get("fold_percent", 0.0)
    folds = _("folds: none") if percent == 0 else _("folds: {percent} %").format(percent=f"{percent:.2g}")
    places = worst_places(metrics, names)
    if not places:
        return folds[0].upper() + folds[1:] + "."
    return f"{places[0].text}; {folds}."


# Places


class Place(NamedTuple):
    """A place where the error is expected to be large.

    Attributes
    ----------
    point_lps_mm : sequence of float
        Where it is.
    expected_mm, bound_mm : float
        The error that is expected there, and its bound.
    where : str
        In words, such as ``"right anterior part"`` or the name of a structure.
    text : str
        The sentence without its full stop, such as ``"The right anterior part may be off by 6 mm"``.
    bounded : str
        The bound, such as ``"bound 11 mm at 90 %"``.
    """

    point_lps_mm: Sequence[float]
    expected_mm: float
    bound_mm: float
    where: str
    text: str
    bounded: str


def worst_places(metrics: Mapping[str, Any], names: Names = _NO_NAMES) -> list[Place]:
    """The places of largest expected error in words, the worst first."""
    frame = (metrics.get("verdict") or {}).get("object")
    error = metrics.get("expected_error") or {}
    return [_place(found, frame, names, error["confidence"]) for found in error.get("worst", ())]


def _place(found: Mapping[str, Any], frame: Optional[Mapping[str, Any]], names: Names, confidence: float) -> Place:
    structure, point = names.get(found.get("label", 0)), found["point_lps_mm"]
    if structure:
        where = structure
    else:
        where = direction_text(point, frame["centre_lps_mm"], frame["half_extent_mm"]) if frame else _("worst place")
    expected, bound = float(found["expected_mm"]), float(found["bound_mm"])
    said = _("{where} may be off by {expected} mm") if structure else _("The {where} may be off by {expected} mm")
    text = said.format(where=where, expected=_length(expected))
    bounded = _("bound {bound} mm at {percent} %").format(bound=_length(bound), percent=f"{100 * confidence:.0f}")
    return Place(point, expected, bound, where, text, bounded)


def most_moved(point_lps_mm: Sequence[float], mm: float) -> Place:
    """A place that is worth a look because much moved there, where no error was predicted."""
    return Place(point_lps_mm, math.nan, math.nan, "", _("Moved by {mm} mm").format(mm=_length(mm)), "")


def _length(mm: float) -> str:
    """As exact as an expectation is."""
    return f"{mm:.0f}" if mm >= 3 else f"{mm:.1f}"


def direction_text(point: Sequence[float], centre: Sequence[float], half: Sequence[float]) -> str:
    """Where in an object a point lies, such as ``"right anterior part"``; all in LPS mm."""
    sides = (_("left"), _("right")), (_("posterior"), _("anterior")), (_("superior"), _("inferior"))
    shares = [(p - c) / max(h, 1e-6) for p, c, h in zip(point, centre, half)]
    words = [side[share < 0] for side, share in zip(sides, shares) if abs(share) > _ASIDE]
    return _("{sides} part").format(sides=" ".join(words)) if words else _("middle")


# Reasons


_DECIMALS = {row.key: row.decimals for row in EVIDENCE}


def reason_text(reason: Mapping[str, Any]) -> str:
    """Why a pair does not pass, in one sentence with the numbers."""
    key = reason["key"]
    numbers = {name: f"{reason[name]:.{_DECIMALS[key]}f}" for name in ("value", "usual", "limit")}
    return _sentences()[key].format(**numbers)


def _sentences() -> dict[str, str]:
    return {
        "expected_voxels": _("The expected error is larger than on good pairs: {value} voxels, usually {usual}."),
        "similarity": _("The images agree less than good pairs do: local correlation {value}, usually {usual}."),
        "gain": _("Deforming made the images less alike: {value} in local correlation, usually {usual}."),
        "contrast": _("Bright and dark do not go together in the two images: {value} of 1, usually {usual}."),
        "overlap": _("The two objects do not cover each other: overlap {value}, usually {usual}."),
        "seen": _("Much of one object lies outside the other image: only {value} of it is seen."),
        "rotation_deg": _("The images were turned by {value}° to each other, usually {usual}°."),
        "stretch": _("The linear alignment stretched by a factor of {value}, usually {usual}."),
        "handedness": _(
            "Left and right may be exchanged: the moving image fits better as it is than mirrored by {value} in local "
            "correlation, usually by {usual}."
        ),
        "moved_percent": _("Parts had to move by {value} % of the object’s size, usually by {usual} %."),
        "size": _("The model was made for objects of another size: {value} times along one axis, usually {usual}."),
        "folds_percent": _("The deformation folds at {value} % of the places."),
        "shrinking": _("Parts shrink to {value} of their volume, usually to {usual} at most."),
        "growing": _("Parts grow to {value} times their volume, usually to {usual} at most."),
    }
