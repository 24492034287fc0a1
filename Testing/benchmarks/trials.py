"""Registrations that go well and registrations that are made to fail, of real images whose structures are known.

A trial is a pair of cases, what is spoiled of which, and the model. Cases belong to one of two parts: to fit limits on,
or to report on; the split is that of the training configurations, so that what reports was never seen.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np
import SimpleITK as sitk
import spoiled
from DeepRegAttentionLib.dataset import ImageFiles, read_cases
from DeepRegAttentionLib.engine.errors import RegistrationError, RegistrationWarning
from DeepRegAttentionLib.engine.images import read_image
from DeepRegAttentionLib.engine.metrics import dice, mean_over_labels
from DeepRegAttentionLib.engine.options import RegistrationOptions
from DeepRegAttentionLib.engine.registration import register
from DeepRegAttentionLib.engine.resampling import warp_image
from DeepRegAttentionLib.engine.resources import resource_folder
from DeepRegAttentionLib.engine.result import RegistrationResult
from DeepRegAttentionLib.training.options import read_training_options
from spoiled import Spoil, Subject

RECIPES = {"brain": "brain-t1", "hippocampus": "hippocampus-mr", "heart": "cardiac-mr"}
"""The training configurations whose cases are registered."""

OTHER_BRAINS = "ds002748"
"""Brains of another scanner, without structures; models were trained on some of those that fit."""

PARTS = ("fit", "report")
GOOD, GOOD_INVERTED = "good", "good, inverted"

SPOILS: dict[str, Spoil] = {
    "mirrored": spoiled.mirrored,
    "half": spoiled.half_seen,
    "left": spoiled.one_side(left=True),
    "right": spoiled.one_side(left=False),
    "lesion": spoiled.with_lesion,
    "bias": spoiled.biased,
    "motion": spoiled.striped_by_motion,
    "turned": spoiled.turned,
    "inverted": spoiled.inverted,
    "empty": spoiled.nearly_empty,
}


@dataclass(frozen=True)
class Kind:
    """One way to fail.

    Attributes
    ----------
    text : str
        What is wrong, for a table.
    gross : bool
        Whether the result is of no use whatever a method does.
    fixed, moving : str
        What is spoiled of the two images; a key of ``SPOILS`` or empty.
    prealign : str
        The linear alignment.
    tasks : tuple of str
        The anatomies with which it is tried.
    """

    text: str
    gross: bool
    fixed: str = ""
    moving: str = ""
    prealign: str = "affine"
    tasks: tuple[str, ...] = tuple(RECIPES)


KINDS: dict[str, Kind] = {
    GOOD: Kind("nothing", False),
    GOOD_INVERTED: Kind("nothing: inverted contrast, and a model for any", False, moving="inverted"),
    "organ": Kind("another organ", True),
    "model": Kind("the model of another anatomy", True),
    "inverted": Kind("inverted contrast, and a model for one contrast", True, moving="inverted"),
    "mirrored": Kind("left and right exchanged", True, moving="mirrored"),
    "header": Kind("front and back exchanged by the header", True, tasks=("brain",)),
    "side": Kind("left half against right half", True, fixed="left", moving="right", tasks=("brain",)),
    "half moving": Kind("half of the moving field of view", True, moving="half"),
    "half fixed": Kind("half of the fixed field of view", True, fixed="half"),
    "turned": Kind("turned by 60 degrees, centres joined alone", True, moving="turned", prealign="centre"),
    "empty": Kind("an image that is nearly empty", True, moving="empty"),
    "turned, aligned": Kind("turned by 60 degrees, affine alignment", False, moving="turned"),
    "patient": Kind("another patient, and a model for one patient", False),
    "motion": Kind("stripes of motion", False, moving="motion"),
    "bias": Kind("strong bias field", False, moving="bias"),
    "lesion": Kind("a lesion in one image", False, moving="lesion"),
}
"""What is done to pairs, by name; the gross ones first."""


@dataclass(frozen=True)
class Trial:
    """One registration: what is wrong with it, by which model, and the cases as (task, name)."""

    kind: str
    model: str
    fixed: tuple[str, str]
    moving: tuple[str, str]

    @property
    def key(self) -> str:
        """Tells it from all others."""
        return hashlib.sha256(repr(asdict(self)).encode()).hexdigest()[:16]


class Cases:
    """Every case by task and name, and the part that it belongs to."""

    def __init__(self, data: Path) -> None:
        self._files: dict[tuple[str, str], ImageFiles] = {}
        self._ignored: dict[str, set[int]] = {}
        self._parts: dict[str, dict[str, list[str]]] = {}
        for task, recipe in RECIPES.items():
            options = read_training_options(resource_folder("Training") / f"{recipe}.yaml")
            cases = [case for case in read_cases(data / str(options.data.cases), data) if case.labels is not None]
            self._files.update({(task, case.name): case for case in cases})
            self._ignored[task] = set(options.ignore_labels)
            held = set(options.validation) | set(options.test)
            trained = [case.name for case in cases if case.name not in held and case.group not in held]
            self._parts[task] = {part: self._members(cases, names) for part, names in
                                 (("fit", options.validation), ("report", options.test))}  # fmt: skip
            self._parts[task]["trained"] = trained
        others = read_cases(data / OTHER_BRAINS)
        self._files.update({(OTHER_BRAINS, case.name): case for case in others})
        half = len(others) // 2
        names = [case.name for case in others]
        self._parts[OTHER_BRAINS] = {"fit": names[:half], "report": names[half:], "trained": []}

    @staticmethod
    def _members(cases: Sequence[ImageFiles], names: Sequence[str]) -> list[str]:
        return [case.name for case in cases if case.name in names or case.group in names]

    def names(self, task: str, part: str) -> list[tuple[str, str]]:
        """The cases of a part: ``"fit"``, ``"report"`` or ``"trained"``."""
        return [(task, name) for name in self._parts[task][part]]

    def files(self, case: tuple[str, str]) -> ImageFiles:
        """Where the image of a case lies, and what belongs to it."""
        return self._files[case]

    def group(self, case: tuple[str, str]) -> str:
        """What a case belongs together with."""
        return self._files[case].group

    def read(self, case: tuple[str, str]) -> Subject:
        """Image and structures, without those that do not count."""
        files = self._files[case]
        image = sitk.Cast(read_image(files.image), sitk.sitkFloat32)
        if files.labels is None:
            return Subject(image)
        labels = sitk.Cast(read_image(files.labels), sitk.sitkUInt8)
        return Subject(image, sitk.ChangeLabel(labels, dict.fromkeys(self._ignored.get(case[0], ()), 0)))


# Which


def good_pairs(cases: Cases, task: str, part: str) -> list[tuple[tuple[str, str], tuple[str, str]]]:
    """Pairs that should go well: of one patient for the heart, of different subjects for the others."""
    own = [*cases.names(task, part), *(cases.names(task, "trained") if part == "fit" else ())]
    if task == "heart":
        return [(one, other) for one in own for other in own if one != other and cases.group(one) == cases.group(other)]
    held = cases.names(task, part)
    pairs = [(one, other) for one in held for other in held if one != other]
    pairs += list(zip(own[len(held) :], own[len(held) + 1 :]))
    if task == "brain":
        others = cases.names(OTHER_BRAINS, part)
        pairs += zip(others, others[1:])
    return pairs


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """So many items, evenly spaced."""
    return list(items) if len(items) <= count else [items[n * len(items) // count] for n in range(count)]


def good_trials(cases: Cases, part: str, count: int) -> Iterator[Trial]:
    """For every model pairs that it is made for; refinement alone and the model for any contrast get some of each."""
    for task, model in TASK_MODELS:
        for fixed, moving in spread(good_pairs(cases, task, part), count if model in MADE_FOR else count // 3):
            yield Trial(GOOD, model, fixed, moving)
    for task in RECIPES:
        for fixed, moving in spread(good_pairs(cases, task, part)[1:], count // 3):
            yield Trial(GOOD_INVERTED, "any-contrast", fixed, moving)


MADE_FOR = {"brain-t1": "brain", "hippocampus-mr": "hippocampus", "cardiac-mr": "heart"}
TASK_MODELS = [(task, model) for model, task in MADE_FOR.items()]
TASK_MODELS += [(task, model) for model in ("any-contrast", "none") for task in RECIPES]


def bad_trials(cases: Cases, part: str, count: int) -> Iterator[Trial]:
    """Every kind of failure, of pairs with structures, by the model that is made for them."""
    for task, model in RECIPES.items():
        pairs = [pair for pair in good_pairs(cases, task, part) if OTHER_BRAINS not in (pair[0][0], pair[1][0])]
        pairs = spread(pairs, count)
        for kind, how in KINDS.items():
            if kind != GOOD_INVERTED and (kind == GOOD or how.fixed or how.moving) and task in how.tasks:
                yield from (Trial(kind, model, *pair) for pair in pairs)
        for other in RECIPES.values():
            if other != model:
                yield from (Trial("model", other, *pair) for pair in pairs[::2])
    yield from (Trial("header", RECIPES["brain"], *pair) for pair in spread(_ill_oriented(cases, part), count))
    yield from (Trial("patient", RECIPES["heart"], *pair) for pair in spread(_strangers(cases, part), count))
    yield from _of_two_organs(cases, part, count)


def _strangers(cases: Cases, part: str) -> list[tuple[tuple[str, str], tuple[str, str]]]:
    """Hearts of two patients."""
    hearts = cases.names("heart", part)
    return [pair for pair in zip(hearts, hearts[3:]) if cases.group(pair[0]) != cases.group(pair[1])]


def _ill_oriented(cases: Cases, part: str) -> list[tuple[tuple[str, str], tuple[str, str]]]:
    """The files of LPBA40 hold front and back the other way round than their headers say; alone that does no harm."""
    return list(zip(cases.names("brain", part) * 9, cases.names(OTHER_BRAINS, part)))


def _of_two_organs(cases: Cases, part: str, count: int) -> Iterator[Trial]:
    """Each organ against each other one, with the model that would be chosen, and with that of one of them."""
    for one in RECIPES:
        for other in RECIPES:
            pairs = list(zip(cases.names(one, part), cases.names(other, part)))
            if one != other:
                for n, pair in enumerate(spread(pairs, max(1, count // 3))):
                    yield Trial("organ", RECIPES[one] if n % 2 else "auto", *pair)


# What comes of them


def run(trial: Trial, cases: Cases) -> dict[str, Any]:
    """Register a trial: its verdict, evidence, and mean Dice where both images have the same structures.

    An image that is refused is told as such: nobody takes that for a result.
    """
    kind, noise = KINDS[trial.kind], np.random.default_rng(int(trial.key, 16))
    fixed, moving = cases.read(trial.fixed), cases.read(trial.moving)
    fixed = SPOILS[kind.fixed](fixed, noise) if kind.fixed else fixed
    moving = SPOILS[kind.moving](moving, noise) if kind.moving else moving
    row = asdict(trial)
    try:
        result = registered(fixed.image, moving.image, trial.model, kind.prealign)
    except RegistrationError as error:
        return {**row, "refused": str(error)}
    judged, model = result.metrics["verdict"], result.metrics["model"]
    row.update(grade=judged["grade"], evidence=judged["evidence"], used=model["name"] if model else "none")
    if trial.fixed[0] == trial.moving[0]:
        row["dice"] = overlap(fixed, moving, result)
    return row


def registered(fixed: sitk.Image, moving: sitk.Image, model: str, prealign: str = "affine") -> RegistrationResult:
    """Without the refinement of this pair: the network alone, or on coarse grids where none fits."""
    options = RegistrationOptions(
        model=model, prealign=prealign, refine=0, maps=False, accepted_licences=("cardiac-mr",)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RegistrationWarning)
        return register(fixed, moving, options)


def overlap(fixed: Subject, moving: Subject, result: RegistrationResult) -> Optional[float]:
    """Mean Dice of the structures; None without."""
    if fixed.labels is None or moving.labels is None:
        return None
    return mean_over_labels(dice(fixed.labels, warp_image(moving.labels, fixed.labels, result.transform, nearest=True)))
