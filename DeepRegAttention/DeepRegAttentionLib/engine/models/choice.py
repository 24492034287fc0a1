"""Which model suits two images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Optional

import numpy as np
import SimpleITK as sitk

from ..errors import LicenceError
from ..intensity import background_value, has_background
from .info import ModelInfo
from .listing import ModelFile

EXTENT_FACTOR = 1.6
"""A model suits images whose extent differs from its own by at most this factor along each axis."""

FIELD_FACTOR = 2.5
"""By at most so much a field of view may be larger than the windows that a model of cut-outs was trained on."""

MOST_TRIALS = 2
"""So many models are tried on one pair: each costs a run of its network."""

# Fat and air lie below this in Hounsfield units; hardly any voxel of another modality does.
_HOUNSFIELD_SIGN = -100.0


class ModelChoice(NamedTuple):
    """The model that suits two images, if one does, and why, in one sentence or two."""

    model: Optional[ModelFile]
    reason: str


class Consent(NamedTuple):
    """What a user has said about models whose licence is restricted, by their names.

    Attributes
    ----------
    accepted : tuple of str
        Those that may be chosen.
    undecided : tuple of str
        Those about which the user is to be asked; any others are passed over.
    """

    accepted: tuple[str, ...] = ()
    undecided: tuple[str, ...] = ()

    def covers(self, info: ModelInfo) -> bool:
        """Whether a model may be chosen."""
        return not info.restriction or info.name in self.accepted


class Facts(NamedTuple):
    """What an image tells of itself without being registered.

    Attributes
    ----------
    extent : (float, float, float)
        :func:`foreground_extent`, mm.
    has_background : bool
        Whether it shows something whole, in empty surroundings; otherwise the extent is that of its field of view.
    is_hounsfield : bool
        Whether its values are Hounsfield units.
    """

    extent: tuple[float, float, float]
    has_background: bool
    is_hounsfield: bool

    @classmethod
    def of(cls, image: sitk.Image) -> Facts:
        """Those of an image."""
        array = sitk.GetArrayViewFromImage(image)
        return cls(foreground_extent(image), has_background(array), _is_hounsfield(image))


_NO_CONSENT = Consent()


def choose_models(
    fixed: sitk.Image, moving: sitk.Image, models: Sequence[ModelFile], consent: Consent = _NO_CONSENT
) -> list[ModelChoice]:
    """The models that may suit two images, the likeliest first, by what the images themselves tell.

    1. Values: images in Hounsfield units (one voxel in a hundred below -100) get models of CT, others get
       the rest. The contrast of MR sequences is not told apart.
    2. Surroundings: a model of objects in empty surroundings, such as skull-stripped brains, gets images with a
       background.
    3. Size: the :func:`foreground_extent` of both images differs from the model's by at most a factor 1.6
       along each axis. Without a background that is the field of view, which may be up to 2.5 times as large as
       the windows that a model of cut-outs was trained on: its organ can lie anywhere in it.

    That suffices to try a model and not to trust it: whoever runs the network looks at its answer, and takes the
    next one if it does not explain the images. So there are at most two, each of another anatomy, and after them none.
    A model with a restricted licence is chosen only with the user's consent; without it the next best is, and the
    reason says so.

    Returns
    -------
    list of ModelChoice
        Never empty; the last one has no model.

    Raises
    ------
    LicenceError
        The likeliest model is one about which the user is to be asked.
    """
    facts = Facts.of(fixed), Facts.of(moving)
    if facts[0].is_hounsfield != facts[1].is_hounsfield:
        reason = "One image is in Hounsfield units and the other is not; there is no model for such pairs."
        return [ModelChoice(None, reason)]
    kind = "CT" if facts[0].is_hounsfield else "other than CT"
    candidates = [model for model in _of_a_size(models) if _is_ct(model[0].info) == facts[0].is_hounsfield]
    if not candidates:
        return [ModelChoice(None, f"There is no model for images {kind}.")]
    fitting = [model for model, _ in sorted(candidates, key=lambda one: _worst(one[1], facts)) if _fits(model, facts)]
    hint = _hint(fitting, consent)
    allowed = _one_of_each_anatomy([model for model in fitting if consent.covers(model.info)])[:MOST_TRIALS]
    spans = _spans(facts)
    chosen = [ModelChoice(m, f"{m.info.name} fits: {spans}; it {_trained_on(m.info)}.{hint}") for m in allowed]
    return [*chosen, ModelChoice(None, f"No model fits: {spans}{_nearest_one(candidates, facts)}.{hint}")]


def _hint(fitting: Sequence[ModelFile], consent: Consent) -> str:
    """What is to be said of the likeliest model if it asks for consent first."""
    if not fitting or consent.covers(fitting[0].info):
        return ""
    info = fitting[0].info
    if info.name in consent.undecided:
        sentence = f"The model {info.name} suits these images, but asks for consent first. {info.restriction}"
        raise LicenceError(info.name, sentence)
    hint = f" {info.name} would fit better, but asks for consent first: name it, or accept its licence."
    return f"{hint} {info.restriction}"


def _one_of_each_anatomy(models: Sequence[ModelFile]) -> list[ModelFile]:
    """Where one model does not explain the images, another of the same organ hardly will."""
    first: dict[str, ModelFile] = {}
    for model in models:
        first.setdefault(model.info.anatomy, model)
    return list(first.values())


def _fits(model: ModelFile, facts: Sequence[Facts]) -> bool:
    info = model.info
    assert info.extent_mm is not None
    if info.background and not all(image.has_background for image in facts):
        return False
    for image in facts:
        largest = EXTENT_FACTOR if info.background is not False or image.has_background else FIELD_FACTOR
        if not all(n / EXTENT_FACTOR <= here <= n * largest for here, n in zip(image.extent, info.extent_mm)):
            return False
    return True


def _worst(expected: Sequence[float], facts: Sequence[Facts]) -> float:
    """By how much the sizes of two images differ from what a model is made for."""
    return max(_extent_factor(image.extent, expected) for image in facts)


def _spans(facts: Sequence[Facts]) -> str:
    what = "the objects span" if all(image.has_background for image in facts) else "the images show"
    return f"{what} {_lengths(facts[0].extent)} and {_lengths(facts[1].extent)} (fixed, moving)"


def _trained_on(info: ModelInfo) -> str:
    assert info.extent_mm is not None
    where = {True: " in empty surroundings", False: " cut out of larger images", None: ""}[info.background]
    return f"was trained on {_lengths(info.extent_mm)}{where}"


def _nearest_one(candidates: Sequence[tuple[ModelFile, tuple[float, float, float]]], facts: Sequence[Facts]) -> str:
    nearest, _ = min(candidates, key=lambda one: _worst(one[1], facts))
    return f"; the nearest, {nearest.info.name}, {_trained_on(nearest.info)}"


def models_for_field(extent: Sequence[float], models: Sequence[ModelFile]) -> list[ModelFile]:
    """The models that may be chosen for images of this size (mm, in any order of the axes), before they are known."""
    return [
        model
        for model, expected in _of_a_size(models)
        if all(n / EXTENT_FACTOR <= here <= n * FIELD_FACTOR for here, n in zip(sorted(extent), sorted(expected)))
    ]


def model_for_contrasts(models: Sequence[ModelFile]) -> Optional[ModelFile]:
    """The model for any anatomy that looks at self-similarity, not at intensities; None if there is none."""
    general = (model for model in models if model.info.extent_mm is None)
    return next((model for model in general if model.info.configuration.get("self_similarity")), None)


def _of_a_size(models: Sequence[ModelFile]) -> list[tuple[ModelFile, tuple[float, float, float]]]:
    """The models that are made for objects of a certain size, with that size in mm."""
    return [(model, model.info.extent_mm) for model in models if model.info.extent_mm is not None]


def foreground_extent(image: sitk.Image) -> tuple[float, float, float]:
    """Size in mm of the box around what differs from the background: left-right, front-back, head-foot.

    The box is aligned with the voxel axes; each counts as the patient axis that it is closest to.
    """
    array = sitk.GetArrayViewFromImage(image)
    foreground = array != background_value(array)
    letters = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())
    extent = [0.0, 0.0, 0.0]
    for axis, (letter, spacing) in enumerate(zip(letters, image.GetSpacing())):
        others = tuple(other for other in range(3) if other != 2 - axis)
        occupied = np.flatnonzero(foreground.any(axis=others))
        voxels = int(np.ptp(occupied)) + 1 if occupied.size else array.shape[2 - axis]
        extent["RLAPIS".index(letter) // 2] = voxels * spacing
    return extent[0], extent[1], extent[2]


def _is_hounsfield(image: sitk.Image) -> bool:
    array = sitk.GetArrayViewFromImage(image)
    return bool(np.percentile(array.ravel()[:: max(1, array.size // 100_000)], 1) < _HOUNSFIELD_SIGN)


def _is_ct(info: ModelInfo) -> bool:
    return info.modality.upper().startswith("CT")


def _extent_factor(extent: Sequence[float], expected: Sequence[float]) -> float:
    """By how much two sizes differ, along the axis on which they differ most; at least 1."""
    return max(max(a / b, b / a) for a, b in zip(extent, expected))


def _lengths(extent: Sequence[float]) -> str:
    return " x ".join(f"{length:.0f}" for length in extent) + " mm"
