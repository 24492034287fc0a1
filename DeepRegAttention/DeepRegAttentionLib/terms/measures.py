"""What is measured of a registration, as the rows that report, scene and command line show alike.

Plain Python: a row is made of the content of ``metrics.json``; who shows it decides on nothing but the look.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Optional

from .translation import translator
from .wording import stage_text

_ = translator(__name__)

MORE, LESS = "↑", "↓"
"""Marks of measures that are better the higher, and the lower."""

MOMENTS = ("before", "linear", "after")
"""When a measure of agreement is taken: as the images were given, aligned linearly, and deformed."""

ABSENT = "–"
"""Stands for what was not or cannot be measured."""

SECTIONS = ("similarity", "deformation", "evidence", "time")
"""Groups of rows, in the order in which they are shown."""

STRUCTURE_COLUMNS = ("Structure", "Dice before", "Dice after", "HD95 before (mm)", "HD95 after (mm)")
"""Heads of a table of :class:`Structure`."""

_ONE, _EACH = (math.nan,), (math.nan,) * len(MOMENTS)

DICE_DECIMALS, HD95_DECIMALS, TRE_DECIMALS, FOLD_DECIMALS, TIME_DECIMALS = 3, 2, 2, 4, 1
"""So many are shown of a Dice, of distances in mm, of a share of folds in percent, of seconds."""


@dataclass(frozen=True)
class Row:
    """One measure, and what it came to.

    Attributes
    ----------
    section : str
        One of ``SECTIONS``.
    key : str
        For programs, such as ``"ncc"`` or ``"fold_percent"``.
    name, unit : str
        For people; the unit is empty where there is none.
    better : str
        ``MORE``, ``LESS``, or empty where neither is.
    decimals : int
        So many are shown.
    meaning : str
        What the number says, in a few words.
    values : tuple of float
        One for each of ``MOMENTS``, or a single one; NaN for what was not or cannot be measured.
    group : str
        What is measured, for programs: one key can stand in several groups.
    """

    section: str
    key: str
    name: str
    unit: str
    better: str
    decimals: int
    meaning: str
    values: tuple[float, ...] = ()
    group: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """A name for each value, for tables of many results, such as ``"landmarks_mean_mm_after"``."""
        unit = f"_{self.unit}" if self.unit == "mm" and not self.key.endswith("_mm") else ""
        name = f"{self.group}_{self.key}{unit}"
        return (name,) if len(self.values) == 1 else tuple(f"{name}_{moment}" for moment in MOMENTS)

    @property
    def label(self) -> str:
        """Name, unit and which way is better, such as ``"Inverse consistency, mean error (mm) ↓"``."""
        parts = (self.name, f"({self.unit})" if self.unit else "", self.better)
        return " ".join(part for part in parts if part)

    @property
    def texts(self) -> tuple[str, ...]:
        """The values as they are shown, without the unit."""
        return tuple(number(value, self.decimals) for value in self.values)

    @property
    def change(self) -> float:
        """From the first moment to the last; NaN for a single value."""
        return self.values[-1] - self.values[0] if len(self.values) > 1 else math.nan

    @property
    def improved(self) -> Optional[bool]:
        """Whether the change is for the better; None where there is none, or no way is better."""
        if not self.better or math.isnan(self.change) or not self.change:
            return None
        return (self.change > 0) == (self.better == MORE)


def _agreement(key: str, name: str, unit: str, better: str, decimals: int, meaning: str) -> Row:
    return Row("similarity", key, name, unit, better, decimals, meaning)


def _motion(key: str, name: str, unit: str, better: str, decimals: int, meaning: str) -> Row:
    return Row("deformation", key, name, unit, better, decimals, meaning)


_SIMILARITY = (
    _agreement("ncc", "Cross-correlation (NCC)", "", MORE, 4, "1: intensities rise and fall together; 0: unrelated"),
    _agreement("ssim", "Structural similarity (SSIM)", "", MORE, 4, "1: alike in every small neighbourhood"),
    _agreement("nmi", "Normalised mutual information (NMI)", "", MORE, 4, "1: unrelated; 2: one tells the other"),
    _agreement("mse", "Mean squared difference (MSE)", "", LESS, 5, "of intensities scaled to 0..1"),
)
_OVERLAP = (
    _agreement("mean_dice", "Structures, mean overlap (Dice)", "", MORE, DICE_DECIMALS, "1: the same voxels"),
    _agreement("mean_hd95_mm", "Structures, mean HD95", "mm", LESS, HD95_DECIMALS, "95 % of each surface are nearer"),
)
_TISSUE = _agreement(
    "tissue_dice", "Dice of {} matter", "", MORE, DICE_DECIMALS, "of tissues told apart by their brightness"
)
_LANDMARKS = (
    _agreement(
        "mean", "Landmarks, mean error (TRE)", "mm", LESS, TRE_DECIMALS, "from each landmark to its counterpart"
    ),
    _agreement("std", "Landmarks, SD of the error (TRE)", "mm", LESS, TRE_DECIMALS, "over the landmarks"),
    _agreement("median", "Landmarks, median error (TRE)", "mm", LESS, TRE_DECIMALS, "half of the landmarks are nearer"),
    _agreement("max", "Landmarks, largest error (TRE)", "mm", LESS, TRE_DECIMALS, "of the worst landmark"),
)
_JACOBIAN = (
    _motion("mean", "Jacobian, mean", "", "", 3, "1: volumes are kept"),
    _motion("std", "Jacobian, standard deviation", "", "", 3, "how unevenly volumes change"),
    _motion("min", "Jacobian, least", "", "", 3, "above 0, or the deformation folds"),
    _motion("p01", "Jacobian, 1st percentile", "", "", 3, "1 % of the voxels shrink more"),
    _motion("p99", "Jacobian, 99th percentile", "", "", 3, "1 % of the voxels grow more"),
    _motion("max", "Jacobian, largest", "", "", 3, "the strongest growth"),
    _motion("sd_log", "SD of log J", "", LESS, 4, "standard deviation of the Jacobian’s logarithm"),
    _motion("sd_log_learn2reg", "SD of log (J + 3), as in Learn2Reg", "", LESS, 4, "to compare with published numbers"),
    _motion(
        "fold_percent", "Folds, share of the voxels", "%", LESS, FOLD_DECIMALS, "Jacobian of 0 or less: none is best"
    ),
    _motion("fold_volume_cm3", "Folds, volume", "cm³", LESS, 3, "Jacobian of 0 or less: none is best"),
)
_CONSISTENCY = (
    _motion("mean", "Inverse consistency, mean error", "mm", LESS, 3, "there and back again: near 0"),
    _motion("max", "Inverse consistency, largest error", "mm", LESS, 3, "there and back again: near 0"),
)
_FORCE = (
    _motion("cosine", "Driving force agreement, cosine", "", MORE, 3, "1: motion follows the force"),
    _motion("magnitude", "Driving force agreement, lengths", "", MORE, 3, "correlation; 1: strong where much moves"),
)
_ERROR = (
    _motion("mean_mm", "Expected error, mean", "mm", LESS, TRE_DECIMALS, "predicted, where there is anything"),
    _motion("p95_mm", "Expected error, 95th percentile", "mm", LESS, TRE_DECIMALS, "at one place of twenty it is more"),
    _motion("bound_mean_mm", "Bound of the error, mean", "mm", LESS, TRE_DECIMALS, "kept at nine of ten places"),
)


def _evidence(key: str, name: str, unit: str, better: str, decimals: int, meaning: str) -> Row:
    return Row("evidence", key, name, unit, better, decimals, meaning)


EVIDENCE = (
    _evidence("similarity", "Local correlation", "", MORE, 2, "1: alike in every small neighbourhood"),
    _evidence("gain", "Local correlation, gained by deforming", "", MORE, 2, "what the deformation was good for"),
    _evidence(
        "contrast", "Agreement of contrast, aligned linearly", "", MORE, 2, "1: bright in both; -1: dark is bright"
    ),
    _evidence("overlap", "Overlap of the objects", "", MORE, 2, "1: both images show something at the same places"),
    _evidence("seen", "Seen by the other image", "", MORE, 2, "share of an object within the other’s field of view"),
    _evidence("rotation_deg", "Turned by the linear alignment", "°", LESS, 0, "patients mostly lie alike"),
    _evidence("stretch", "Stretched by the linear alignment", "", LESS, 2, "factor along the axis that changes most"),
    _evidence("handedness", "Local correlation, lost by mirroring", "", MORE, 2, "0: left and right may be exchanged"),
    _evidence("moved_percent", "Moved by the deformation", "%", "", 1, "of the object’s size; 5 % of it moves further"),
    _evidence("size", "Size against the model’s objects", "", LESS, 2, "factor along the axis that differs most"),
    _evidence("folds_percent", "Folds, share of the object", "%", LESS, 2, "Jacobian of 0 or less: none is best"),
    _evidence("shrinking", "Strongest shrinking in the object", "", "", 2, "1 % of it shrinks more"),
    _evidence("growing", "Strongest growth in the object", "", "", 2, "1 % of it grows more"),
    _evidence("expected_voxels", "Expected error, 95th percentile", "voxels", LESS, 2, "of the working grid"),
)
"""What a verdict is made of."""


def rows(metrics: Mapping[str, Any]) -> list[Row]:
    """Everything that was measured of one registration, in the order in which it is shown.

    Parameters
    ----------
    metrics : mapping
        Of ``RegistrationResult.metrics`` or ``metrics.json``, where null stands for NaN; what it does not have is
        left out.
    """
    landmarks = metrics.get("landmarks") or {}
    distances = {moment: landmarks.get(f"{moment}_mm") for moment in MOMENTS} if landmarks else {}
    tissue = metrics.get("tissue_dice")
    return [
        *_at_moments("similarity", _SIMILARITY, metrics.get("similarity")),
        *_at_moments("labels", _OVERLAP, metrics.get("labels")),
        *_at_moments("tissue_dice", _tissues(tissue), tissue),
        *_at_moments("landmarks", _LANDMARKS, distances),
        *_single("expected_error", _ERROR, metrics.get("expected_error")),
        *_single("jacobian", _JACOBIAN, metrics.get("jacobian")),
        *_single("inverse_consistency", _CONSISTENCY, metrics.get("inverse_consistency_mm")),
        *_single("driving_force", _FORCE, metrics.get("driving_force")),
        *_single("verdict", EVIDENCE, (metrics.get("verdict") or {}).get("evidence")),
        *_times(metrics.get("seconds")),
    ]


def measure_of(column: str) -> Row:
    """What is measured in a column of a table of many results; the values are NaN.

    Raises KeyError for tissues, and for the seconds of single stages: which there are differs.
    """
    return _by_column()[column]


def _by_column() -> dict[str, Row]:
    groups: dict[str, tuple[Sequence[Row], tuple[float, ...]]] = {
        "similarity": (_SIMILARITY, _EACH),
        "labels": (_OVERLAP, _EACH),
        "landmarks": (_LANDMARKS, _EACH),
        "expected_error": (_ERROR, _ONE),
        "jacobian": (_JACOBIAN, _ONE),
        "inverse_consistency": (_CONSISTENCY, _ONE),
        "driving_force": (_FORCE, _ONE),
        "verdict": (EVIDENCE, _ONE),
    }
    known = [replace(row, group=group, values=none) for group, (found, none) in groups.items() for row in found]
    time = Row("time", "all", _("Computing time"), "s", LESS, TIME_DECIMALS, _("all stages"), _ONE, "seconds")
    return {column: row for row in (*known, time) for column in row.columns}


def values_by_column(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Every measure under its name in tables of many results; what could not be measured is left out."""
    named = (pair for row in rows(metrics) for pair in zip(row.columns, row.values))
    return {name: value for name, value in named if math.isfinite(value)}


def _at_moments(group: str, measures: Iterable[Row], values: Optional[Mapping[str, Any]]) -> list[Row]:
    """With a value for each moment; a measure that is known at none is left out."""
    moments = [(values or {}).get(moment) or {} for moment in MOMENTS]
    known = [measure for measure in measures if any(measure.key in moment for moment in moments)]
    return [replace(row, values=tuple(_float(moment.get(row.key)) for moment in moments), group=group) for row in known]


def _single(group: str, measures: Iterable[Row], values: Optional[Mapping[str, Any]]) -> list[Row]:
    values = values or {}
    return [replace(row, values=(_float(values[row.key]),), group=group) for row in measures if row.key in values]


def _tissues(values: Optional[Mapping[str, Any]]) -> list[Row]:
    return [replace(_TISSUE, key=name, name=_TISSUE.name.format(name)) for name in (values or {}).get("after", {})]


def _times(seconds: Optional[Mapping[str, float]]) -> list[Row]:
    if not seconds:
        return []
    values = {**seconds, "all": sum(seconds.values())}
    named = {stage: _("All") if stage == "all" else stage_text(stage) for stage in values}
    return [Row("time", key, named[key], "s", "", TIME_DECIMALS, "", (values[key],), "seconds") for key in values]


def _float(value: Optional[float]) -> float:
    """NaN for what could not be measured, which a file of metrics has as null."""
    return math.nan if value is None else float(value)


def number(value: Optional[float], decimals: int) -> str:
    """A number with so many decimals; a dash for what was not or cannot be measured."""
    return ABSENT if value is None or not math.isfinite(value) else f"{value:.{decimals}f}"


def tables(measured: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by their section; a section without any is left out."""
    sections = {name: [row for row in measured if row.section == name] for name in SECTIONS}
    return {name: found for name, found in sections.items() if found}


def columns(section: Sequence[Row]) -> tuple[str, ...]:
    """Heads of a table of rows of one section: the measure, and its value or values."""
    single = len(section[0].values) == 1
    return ("Measure", "Value") if single else ("Measure", *(moment.capitalize() for moment in MOMENTS))


def table_title(name: str) -> str:
    """What a table of measures is called: a section, ``"structures"`` or ``"histogram"``."""
    texts = {
        "similarity": _("Agreement of the images"),
        "deformation": _("Deformation"),
        "evidence": _("What the verdict is made of"),
        "time": _("Computing time"),
        "structures": _("Structures"),
        "histogram": _("Histogram of the volume change"),
    }
    return texts[name]


# Structures


@dataclass(frozen=True)
class Structure:
    """How well one structure of the label maps matches: Dice, and HD95 in mm, before and after; NaN: not measured."""

    name: str
    dice: tuple[float, float]
    hd95: tuple[float, float]

    @property
    def rounded(self) -> tuple[float, ...]:
        """The four numbers of ``STRUCTURE_COLUMNS``, as exact as they are shown."""
        return (*(round(n, DICE_DECIMALS) for n in self.dice), *(round(n, HD95_DECIMALS) for n in self.hd95))

    @property
    def texts(self) -> tuple[str, ...]:
        """The name and the four numbers as they are shown."""
        numbers = ((self.dice, DICE_DECIMALS), (self.hd95, HD95_DECIMALS))
        return (self.name, *(number(value, decimals) for pair, decimals in numbers for value in pair))


def structures(labels: Optional[Mapping[str, Any]], names: Mapping[int, str]) -> list[Structure]:
    """Every structure that was measured, the worst overlap first.

    Parameters
    ----------
    labels : mapping, optional
        ``metrics["labels"]``; without it there is none.
    names : mapping of int to str
        Of the structures; those without one are called by their number.
    """
    if not labels:
        return []
    both = ("before", "after")
    dice, hd95 = ({stage: _by_label(labels[stage].get(key)) for stage in both} for key in ("dice", "hd95_mm"))
    order = sorted(dice["after"], key=lambda n: (_worst_if_absent(dice["after"][n]), n))

    def pair(values: Mapping[str, Mapping[int, float]], n: int) -> tuple[float, float]:
        return values["before"].get(n, math.nan), values["after"].get(n, math.nan)

    return [Structure(structure_name(n, names), pair(dice, n), pair(hd95, n)) for n in order]


def structure_name(label: int, names: Mapping[int, str]) -> str:
    """What a structure is called."""
    return names.get(label) or _("Structure {number}").format(number=label)


def _by_label(values: Optional[Mapping[Any, Optional[float]]]) -> dict[int, float]:
    """With whole numbers for keys, which a file of metrics has as text."""
    return {int(label): _float(value) for label, value in (values or {}).items()}


def _worst_if_absent(dice: float) -> float:
    return dice if math.isfinite(dice) else -1.0


# In one line


def summary_text(metrics: Mapping[str, Any]) -> str:
    """What a finished job was like, in one line: how long, how it agrees, whether it folds."""
    measured = rows(metrics)
    agreement = {row.key: row for row in measured if row.section == "similarity"}
    folds = {row.key: row for row in measured if row.section == "deformation"}
    seconds = [row.values[0] for row in measured if row.section == "time"][-1:]
    parts = [_("{seconds} s").format(seconds=f"{value:.0f}") for value in seconds]
    if "ncc" in agreement:
        before, _linear, after = agreement["ncc"].texts
        parts.append(_("correlation {before} → {after}").format(before=before, after=after))
    if "fold_percent" in folds:
        parts.append(_fold_text(folds["fold_percent"], folds.get("fold_volume_cm3")))
    return " · ".join(parts)


def _fold_text(share: Row, volume: Optional[Row]) -> str:
    if share.values[0] == 0:
        return _("no folds")
    if volume is None:
        return _("folds {percent} %").format(percent=share.texts[0])
    return _("folds {percent} % ({volume} cm³)").format(percent=share.texts[0], volume=volume.texts[0])
