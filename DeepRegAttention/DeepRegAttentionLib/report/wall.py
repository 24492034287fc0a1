"""All pairs of a cohort on one page: small pictures, what needs looking at first, distributions, outliers.

The page holds its data and asks nobody but the viewer, where that serves it, for anything else than the pictures.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple, Optional

import numpy as np

from ..engine.result_folder import GLANCE_FILE
from ..terms.measures import LESS, MORE, Row, measure_of
from ..terms.palettes import GRADE_COLOURS
from ..terms.verdict import grade_title
from .style import GAP, PANELS, SIDE, STYLE

Cells = Mapping[str, str]
"""A row of ``cohort.csv``."""

MEASURES = (
    "labels_mean_dice_after",
    "landmarks_mean_mm_after",
    "similarity_ncc_after",
    "verdict_similarity",
    "verdict_gain",
    "expected_error_p95_mm",
    "jacobian_fold_percent",
    "jacobian_sd_log",
    "verdict_rotation_deg",
    "verdict_stretch",
    "verdict_moved_percent",
    "seconds_all",
)
"""Columns whose distributions are shown, as far as there are."""

_OUTLYING, _FEWEST = 3.5, 8
_TEXTS = ("name", "group", "state", "verdict", "sentence", "mark", "comment")
_WEB = Path(__file__).with_name("web")


class Spread(NamedTuple):
    """How the values of a measure are spread, so that single ones do not count.

    Attributes
    ----------
    median : float
    deviation : float
        A standard deviation, as far as they are normal; 0 if all are alike or they are few.
    """

    median: float
    deviation: float

    @classmethod
    def of(cls, values: np.ndarray) -> Spread:
        """Of values ``(N,)`` of which some may be NaN; one at least is not."""
        found = values[np.isfinite(values)]
        median = float(np.median(found))
        if len(found) < _FEWEST:
            return cls(median, 0.0)
        aside = np.abs(found - median)
        # Where more than half are alike, as shares of folds are, the mean still tells.
        return cls(median, float(1.4826 * np.median(aside) or 1.2533 * aside.mean()))


def oddness(values: np.ndarray, spread: Spread, measure: Row) -> np.ndarray:
    """How many standard deviations values ``(N,)`` are worse than the median; to either side if none is worse.

    0 where a value is missing, or differs by less than is shown of it.
    """
    aside = values - spread.median
    shown = np.abs(aside) >= 10.0**-measure.decimals
    worse = {MORE: -aside, LESS: aside}.get(measure.better, np.abs(aside))
    if spread.deviation == 0:
        return np.zeros(len(values))
    return np.where(shown & np.isfinite(aside), worse / spread.deviation, 0.0)


def wall_page(study: Path, rows: Sequence[Cells], total: Optional[int] = None) -> str:
    """The page of a study as HTML.

    Parameters
    ----------
    study : Path
        Its folder, in which the page will lie.
    rows : sequence of mapping
        Of its table; what they say may hold any characters.
    total : int, optional
        How many pairs there will be; as many as there are without it.
    """
    where = study.absolute()
    data = wall_data(where, rows, total)
    # Nothing in it can end the element that holds it.
    plain = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    style, script = ((_WEB / name).read_text(encoding="utf-8") for name in ("wall.css", "wall.js"))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(_plain(where.name))}: cohort</title><style>{STYLE}{style}</style></head>\n"
        '<body><div id="page"></div><noscript><p>This page needs JavaScript; the table beside it, cohort.csv, holds '
        "the same numbers.</p></noscript>\n"
        f'<script type="application/json" id="data">{plain}</script>\n<script>{script}</script></body></html>\n'
    )


def wall_data(study: Path, rows: Sequence[Cells], total: Optional[int]) -> dict[str, Any]:
    """What the page's script is given, as plain values."""
    measures, values = _measured(rows)
    spreads = [Spread.of(column) for column in values]
    odd = np.array([oddness(v, spread, m) for v, spread, m in zip(values, spreads, measures)]).reshape(values.shape)
    return {
        "title": _plain(study.name),
        "study": _plain(str(study)),
        "total": max(total or 0, len(rows)),
        "picture": {"file": GLANCE_FILE, "panels": PANELS, "width": len(PANELS) * (SIDE + GAP) - GAP, "height": SIDE},
        "grades": {grade: {"title": grade_title(grade), "colour": code} for grade, code in GRADE_COLOURS.items()},
        "measures": [_about(measure, spread) for measure, spread in zip(measures, spreads)],
        "pairs": [_pair(cells, values[:, n], odd[:, n]) for n, cells in enumerate(rows)],
    }


def _measured(rows: Sequence[Cells]) -> tuple[list[Row], np.ndarray]:
    """The measures that any row has, and their values ``(measures, rows)``, NaN where there is none."""
    found = {column: np.array([_number(cells.get(column)) for cells in rows]) for column in MEASURES}
    known = {column: values for column, values in found.items() if np.isfinite(values).any()}
    return [measure_of(column) for column in known], np.array([*known.values()]).reshape(len(known), len(rows))


def _number(cell: Optional[str]) -> float:
    try:
        return float(cell or "nan")
    except ValueError:
        return math.nan


def _about(measure: Row, spread: Spread) -> dict[str, Any]:
    return {
        "name": measure.name,
        "unit": measure.unit,
        "better": measure.better,
        "decimals": measure.decimals,
        "meaning": measure.meaning,
        "median": spread.median,
    }


def _pair(cells: Cells, values: np.ndarray, odd: np.ndarray) -> dict[str, Any]:
    texts = {column: _plain(cells[column]) for column in _TEXTS if cells.get(column)}
    return {
        **texts,
        "values": [float(f"{value:.6g}") if math.isfinite(value) else None for value in values],
        "odd": round(float(odd.max(initial=0.0)), 2),
        "outlying": [n for n, much in enumerate(odd) if much > _OUTLYING],
    }


def _plain(text: str) -> str:
    """Text that UTF-8 can hold: a file name that was no text on its disk is not, either."""
    return text.encode("utf-8", "replace").decode("utf-8")
