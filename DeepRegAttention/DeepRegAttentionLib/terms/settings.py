"""How a registration is done, as a person decides it: what is missing, and what has an effect.

Plain Python: no Qt, no scene, no torch, so that every decision can be tested by itself. The engine validates all
options again; here is said, before anything runs, what is missing and what would have no effect.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Optional

from ..engine.errors import OptionError, suggestion
from ..engine.options import MODEL_SUFFIX
from .inputs import NO_INPUTS, Inputs
from .translation import translator

_ = translator(__name__)

AUTO, NONE, FILE = "auto", "none", "file"
"""Values of ``Settings.model`` beside the names of the shipped models."""

CONSENT = ("accepted_licences", "undecided_licences")
"""The settings that belong to a person, not to a registration: no preset and no scene has them."""


@dataclass(frozen=True)
class Settings:
    """How one registration is done, as a person chooses it; the fields of ``RegistrationOptions`` mean the same.

    Attributes
    ----------
    model : str
        ``"auto"``, ``"none"``, ``"file"`` or the name of a shipped model.
    model_file : str
        The ``.safetensors`` file if ``model`` is ``"file"``.
    refine : int, optional
        Steps of refinement; None takes the model's own number.
    regularization : float, optional
        Weight of the smoothness in the refinement; None takes the model's own.
    spacing : float, optional
        Spacing of the working grid in mm; None takes the model's own.
    accepted_licences, undecided_licences : tuple of str
        Models with a restricted licence that the user has agreed to, and those about which to ask.
    """

    model: str = AUTO
    model_file: str = ""
    device: str = "auto"
    precision: str = "auto"
    prealign: str = "affine"
    refine: Optional[int] = None
    similarity: str = "lncc"
    regularization: Optional[float] = None
    landmark_weight: float = 0.0
    spacing: Optional[float] = None
    accepted_licences: tuple[str, ...] = ()
    undecided_licences: tuple[str, ...] = ()

    @property
    def may_refine(self) -> bool:
        """Whether there may be a refinement: without a network always; the model's own number is not known here."""
        return self.refine != 0 or self.model == NONE

    def options(self) -> dict[str, Any]:
        """As fields of ``RegistrationOptions``, plain values for JSON."""
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        file = values.pop("model_file")
        return {**values, "model": file} if self.model == FILE else values


def settings_from(values: Mapping[str, Any]) -> Settings:
    """Settings from the names of ``RegistrationOptions``, as a script gives them; None leaves the default.

    Raises OptionError for an unknown name.
    """
    given = {name: value for name, value in values.items() if value is not None}
    known = [item.name for item in fields(Settings)]
    for name in given:
        if name not in known:
            raise OptionError(f"There is no option “{name}”{suggestion(name, known)}.")
    model = str(given.get("model", AUTO))
    if model.endswith(MODEL_SUFFIX):
        given.update(model=FILE, model_file=model)
    return Settings(**given)


@dataclass(frozen=True)
class Outputs:
    """What is wanted back.

    Attributes
    ----------
    warped, inverse, maps, labels, measures : bool
        The warped volume, the inverse transform, the maps that explain it, the warped structures, the table.
    transform : {"full", "grid", "none"}
        Affine and displacement together, the displacement alone, or no transform.
    """

    warped: bool = True
    transform: str = "full"
    inverse: bool = True
    maps: bool = True
    labels: bool = True
    measures: bool = True

    @property
    def any(self) -> bool:
        """Whether anything at all is wanted."""
        return self.transform != NONE or self.warped or self.maps or self.labels or self.measures


ALL_OUTPUTS = Outputs()


# What is missing, what is enabled


def missing(inputs: Inputs, settings: Settings = Settings(), outputs: Outputs = ALL_OUTPUTS) -> Optional[str]:
    """The first thing that has to be done before a registration can start; None if it can."""
    return _missing_image(inputs) or _missing_partner(inputs) or _missing_setting(inputs, settings, outputs)


def _missing_image(inputs: Inputs) -> Optional[str]:
    if not inputs.fixed:
        return _("Choose a fixed volume")
    if not inputs.moving:
        return _("Choose a moving volume")
    if inputs.fixed == inputs.moving:
        return _("Fixed and moving must be two different volumes")
    return None


def _missing_partner(inputs: Inputs) -> Optional[str]:
    if inputs.fixed_landmarks and not inputs.moving_landmarks:
        return _("Choose the landmarks of the moving volume, too")
    if inputs.moving_landmarks and not inputs.fixed_landmarks:
        return _("Choose the landmarks of the fixed volume, too")
    if inputs.fixed_landmarks and inputs.fixed_landmarks == inputs.moving_landmarks:
        return _("Fixed and moving landmarks must be two different lists")
    if inputs.fixed_labels and not inputs.labels:
        return _("Choose the structures of the moving volume, too")
    return None


def missing_model(settings: Settings) -> Optional[str]:
    """What has to be chosen before there is a model; None if there is one."""
    if settings.model == FILE and not settings.model_file.endswith(MODEL_SUFFIX):
        return _("Choose a model file ({suffix})").format(suffix=MODEL_SUFFIX)
    return None


def _missing_setting(inputs: Inputs, settings: Settings, outputs: Outputs) -> Optional[str]:
    if lacking := missing_model(settings):
        return lacking
    if settings.landmark_weight and not inputs.fixed_landmarks:
        return _("Choose landmarks, or set their weight to 0")
    if not outputs.any:
        return _("Choose at least one output")
    return None


def enabled(settings: Settings, inputs: Inputs = NO_INPUTS) -> dict[str, bool]:
    """Whether each setting has an effect now; the others are greyed out rather than silently ignored."""
    refines = settings.may_refine
    return {
        "model_file": settings.model == FILE,
        "similarity": refines,
        "regularization": refines,
        "regularization_map": refines,
        "landmark_weight": refines and bool(inputs.fixed_landmarks and inputs.moving_landmarks),
    }


def without_effect(settings: Settings, inputs: Inputs = NO_INPUTS) -> list[str]:
    """One sentence for each choice that will have no effect as the settings are."""
    if enabled(settings)["similarity"]:
        return []
    notes = []
    if inputs.regularization_map:
        notes.append(_("The regularization map acts in the refinement only; give it some steps."))
    if settings.landmark_weight:
        notes.append(_("Landmarks pull in the refinement only; give it some steps."))
    return notes
