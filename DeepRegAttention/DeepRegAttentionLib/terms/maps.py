"""The maps that explain a result: what they are called, what they mean, and how their values become colours."""

from __future__ import annotations

import math
from collections.abc import Container
from dataclasses import dataclass, replace
from enum import Enum
from typing import Union

import numpy as np

from ..engine.result_folder import level_number
from .palettes import FOLD, colours, rgb


class Rule(Enum):
    """Which values the two ends of a map's colours stand for."""

    DIFFERENCE = "a fixed range around 0, so that before and after are seen by the same measure"
    ERROR = "from 0 to a round number of mm that few values exceed, so that small errors look small in every result"
    LENGTH = "from 0 to what few values exceed"
    ROBUST = "from what few values fall below to what few exceed"
    VOLUME = "a factor and one over it, even in the logarithm"


@dataclass(frozen=True)
class Map:
    """What is said of one map.

    Attributes
    ----------
    key : str
        One of ``engine.result.MAP_NAMES``, or as ``engine.result_folder.level_map`` calls those of levels.
    name : str
        In menus, as a heading, and in the names of nodes.
    legend : str
        Over the bar of its colours: short.
    unit : str
        Of its values; empty for plain numbers.
    palette : str
        One of ``palettes.PALETTES``.
    rule : Rule
        What the ends of the palette stand for.
    meaning : str
        One or two sentences.
    """

    key: str
    name: str
    legend: str
    unit: str
    palette: str
    rule: Rule
    meaning: str

    @property
    def bar(self) -> str:
        """What stands over the bar of its colours, such as ``"Force (mm)"``."""
        return f"{self.legend} ({self.unit})" if self.unit else self.legend


MAPS: dict[str, Map] = {
    entry.key: entry
    for entry in (
        Map(
            "expected_error",
            "Expected error",
            "Expected error",
            "mm",
            "error",
            Rule.ERROR,
            "How far off the registration is expected to be here (mm), predicted from what still pulls, what is unlike "
            "and where there is little to hold on to.",
        ),
        Map(
            "error_bound",
            "Bound of the error",
            "Bound, 90 %",
            "mm",
            "error",
            Rule.ERROR,
            "The error is below this (mm) at nine of ten places on pairs like those that it was calibrated on; large "
            "where the images show little to align.",
        ),
        Map(
            "jacobian",
            "Jacobian",
            "Jacobian",
            "",
            "jacobian",
            Rule.VOLUME,
            "Local change of volume of the deformation (affine part left out): 1 keeps it, below 1 shrinks, above 1 "
            "grows from fixed to moving; 0 or less is a fold, where the deformation is not invertible.",
        ),
        Map(
            "correction",
            "Correction",
            "Correction",
            "mm",
            "inferno",
            Rule.LENGTH,
            "How far corrections that a person made moved each place (mm), beyond what the registration had found.",
        ),
        Map(
            "driving_force",
            "Driving force, vectors",
            "Force",
            "mm",
            "inferno",
            Rule.LENGTH,
            "All that moved the image, where and how far (mm, LPS): what local differences pulled on each level, "
            "smoothed, added up.",
        ),
        Map(
            "driving_force_magnitude",
            "Driving force",
            "Force",
            "mm",
            "inferno",
            Rule.LENGTH,
            "Length of the driving force in mm.",
        ),
        Map(
            "attention",
            "Attention",
            "Attention",
            "mm",
            "magma",
            Rule.ROBUST,
            "How much each place moved the image (mm): what attention let through there, over all levels, before it "
            "was smoothed into motion.",
        ),
        Map(
            "structures",
            "Structures that differed",
            "Differing",
            "",
            "magma",
            Rule.ROBUST,
            "In what share of each place the structures that were recognised in both images still differed where the "
            "network had left them: what the refinement then made alike.",
        ),
        Map(
            "regularization",
            "Strength of the regularization",
            "Strength",
            "",
            "cividis",
            Rule.ROBUST,
            "Local strength of the smoothness, relative to its mean where the images show something: above 1 holds "
            "tissue together, below 1 lets it deform or slide.",
        ),
        Map(
            "difference_before",
            "Difference before",
            "Difference",
            "",
            "difference",
            Rule.DIFFERENCE,
            "Fixed minus moving image after the linear alignment, intensities scaled to 0..1.",
        ),
        Map(
            "difference_after",
            "Difference after",
            "Difference",
            "",
            "difference",
            Rule.DIFFERENCE,
            "Fixed minus warped image, intensities scaled to 0..1.",
        ),
    )
}
"""By key, in the order of a menu."""

VECTORS = "driving_force"
"""The map of vectors; what is seen of it is ``driving_force_magnitude`` and arrows, of its levels nothing."""

SHORTEST_ARROW = 0.08
"""Arrows shorter than this part of the longest are left out: they would be dots."""

_DIFFERENCE = 0.5
_RARE = 0.5
_FACTORS = (1.25, 1.5, 2.0, 3.0, 4.0, 8.0)
_ERRORS = (2.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0)
_RARE_FACTOR = 99.8
_SAMPLES = 64


def described(key: str) -> Map:
    """What is said of a map: one of ``MAPS``, or what a single level added to the driving force."""
    level = level_number(key)
    if level is None:
        return MAPS[key]
    meaning = (
        f"Part {level} of the driving force (mm, LPS): one for each level, coarse to fine, pass after pass, in the "
        "order in which they moved the image."
    )
    return replace(MAPS[VECTORS], key=key, name=f"{MAPS[VECTORS].name}, part {level}", meaning=meaning)


def holds_vectors(key: str) -> bool:
    """Whether a map is one of vectors."""
    return key == VECTORS or level_number(key) is not None


def is_seen_through(key: str) -> bool:
    """Whether 0 means that there is nothing, in none of the images, and is not drawn."""
    return described(key).rule in (Rule.ERROR, Rule.LENGTH, Rule.ROBUST)


def offered(present: Container[str]) -> list[Map]:
    """The maps that can be shown as colours, of those that are present by key, in the order of a menu."""
    return [entry for key, entry in MAPS.items() if key in present and key != VECTORS]


@dataclass(frozen=True)
class ColourScale:
    """How the values of one map become colours.

    Attributes
    ----------
    palette : str
        One of ``palettes.PALETTES``.
    low, high : float
        The values at its ends.
    logarithmic : bool
        For Jacobians: even in the logarithm, and folds in a colour of their own.
    """

    palette: str
    low: float
    high: float
    logarithmic: bool = False

    def places(self, values: np.ndarray) -> np.ndarray:
        """Where values lie between the ends, 0 to 1 and beyond; minus infinity for folds."""
        low, high = self.low, self.high
        values = np.asarray(values, np.float64)
        if self.logarithmic:
            with np.errstate(divide="ignore", invalid="ignore"):
                values = np.where(values <= 0, -np.inf, np.log(values))
            low, high = math.log(low), math.log(high)
        return np.asarray((values - low) / (high - low))

    def colours(self, values: np.ndarray) -> np.ndarray:
        """Red, green, blue ``(N, 3)``, 0 to 1, of values ``(N,)``."""
        where = self.places(values)
        found = colours(self.palette, where)
        if self.logarithmic:
            found[np.isneginf(where)] = rgb(FOLD)
        return found


def scale(key: str, values: np.ndarray) -> ColourScale:
    """The colours of a map, decided by about 64 of its values along each axis, so that all who show it decide alike.

    Parameters
    ----------
    key : str
        Of the map.
    values : ndarray
        Its voxels ``(K, J, I)``; of vectors ``(K, J, I, 3)`` the lengths count.
    """
    entry, sample = described(key), _sample(values)
    if entry.rule is Rule.DIFFERENCE:
        return ColourScale(entry.palette, -_DIFFERENCE, _DIFFERENCE)
    if entry.rule is Rule.VOLUME:
        factor = jacobian_factor(sample)
        return ColourScale(entry.palette, 1 / factor, factor, logarithmic=True)
    something = sample[sample != 0]
    low, high = (float(n) for n in np.percentile(something if something.size else sample, (_RARE, 100 - _RARE)))
    if entry.rule is Rule.ERROR:
        return ColourScale(entry.palette, 0.0, next((end for end in _ERRORS if end >= high), _ERRORS[-1]))
    if entry.rule is Rule.LENGTH:
        low = 0.0
    return ColourScale(entry.palette, low, high if high > low else low + 1.0)


def length_scale(longest: float) -> ColourScale:
    """The colours of displacements and arrows up to the longest, in mm."""
    return ColourScale("length", 0.0, float(f"{max(longest, 0.1):.2g}"))


def jacobian_factor(values: Union[np.ndarray, list[float]]) -> float:
    """The factor of volume change at which the colours of a Jacobian end: one that reads well, above 1."""
    values = np.asarray(values)
    positive = values[values > 0]
    largest = float(np.percentile(np.abs(np.log(positive)), _RARE_FACTOR)) if positive.size else 0.0
    return next((factor for factor in _FACTORS if math.log(factor) >= largest), _FACTORS[-1])


def _sample(values: np.ndarray) -> np.ndarray:
    """Some of the values, evenly spread; lengths of vectors."""
    some = values[tuple(slice(None, None, max(1, n // _SAMPLES)) for n in values.shape[:3])]
    return np.linalg.norm(some, axis=-1) if some.ndim > 3 else some
