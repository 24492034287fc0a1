"""A cohort in words: how images form pairs, what is missing before it can start, how its pairs went.

A pair is the row of it in ``cohort.csv``: texts by the names of the columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Optional

from .choices import Choice
from .palettes import GRADE_COLOURS
from .translation import translator
from .verdict import grade_title
from .wording import time_left

_ = translator(__name__)

TO_ATLAS, WITHIN_SUBJECT, ALL_PAIRS = "to-atlas", "within-subject", "all-pairs"
PAIRINGS = (TO_ATLAS, WITHIN_SUBJECT, ALL_PAIRS)
"""How images form pairs; a table of pairs says it itself."""

_WORST_FIRST = ("fail", "review", "pass")
_ORDER = ("pass", "review", "fail", "done", "kept", "failed", "set aside")

Row = Mapping[str, str]


def pairing_choices() -> list[Choice]:
    """The ways of :data:`PAIRINGS`."""
    return [
        Choice(TO_ATLAS, _("To an atlas"), _("Every image is moved onto one of them, or onto another file.")),
        Choice(WITHIN_SUBJECT, _("Within each subject"), _("Later images of a subject onto its earlier ones.")),
        Choice(ALL_PAIRS, _("Each with each"), _("Every image is moved onto those before it.")),
    ]


def missing_of_cohort(source: str, needs_pairing: bool, pairing: str, atlas: str, study: str) -> Optional[str]:
    """The first thing that has to be done before a cohort can start; None if it can."""
    if not source:
        return _("Choose a table or a folder")
    if needs_pairing and pairing == TO_ATLAS and not atlas:
        return _("Choose an atlas")
    if not study:
        return _("Choose a folder for the study")
    return None


def outcome_of(row: Row) -> str:
    """How a pair went: its verdict, or its state where nobody judged it."""
    return row.get("verdict") or row.get("state", "")


def outcome_title(row: Row) -> str:
    """The same for people."""
    outcome = outcome_of(row)
    if outcome in GRADE_COLOURS:
        return grade_title(outcome)
    return _("Done") if row.get("folder") else _("No result")


def place_in_list(row: Row) -> tuple[int, str]:
    """What pairs are sorted by: those without a result first, then the worst."""
    outcome = outcome_of(row)
    grade = _WORST_FIRST.index(outcome) if outcome in _WORST_FIRST else len(_WORST_FIRST)
    return (grade if row.get("folder") else -1), row["name"]


def counts_text(seen: Mapping[str, int]) -> str:
    """How many pairs went how, such as ``12 pass, 3 review, 1 without a result``."""
    called = {"failed": _("without a result"), "set aside": _("set aside")}
    return ", ".join(f"{seen[name]} {called.get(name, name)}" for name in _ORDER if seen.get(name))


def cohort_progress_text(done: int, count: int, eta_s: Optional[float]) -> str:
    """How far a cohort is, and the time left."""
    said = _("{done} of {count} pairs").format(done=done, count=count)
    left = time_left(eta_s, done / count if count else 1.0)
    return " · ".join(part for part in (said, left) if part)
