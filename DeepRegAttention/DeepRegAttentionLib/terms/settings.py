"""What a person decides for one registration, and what follows from it: shared by the Slicer panel and the viewer.

Plain Python: no Qt, no scene, no torch, so that every decision can be tested by itself. The engine validates all
options again; here is said, before anything runs, what is missing and what would have no effect.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional

from ..engine.errors import OptionError, suggestion
from ..jobs.messages import Inputs, Job

AUTO, NONE, FILE = "auto", "none", "file"
"""Values of ``Settings.model`` beside the names of the shipped models."""

MODELS_OWN = -1
"""Value of ``Settings.refine``, for spin boxes, which have no None: as many steps as the model recommends."""

CUSTOM = "custom"
"""The preset of settings that match no shipped preset."""

PRESETS = ("fast", "balanced", "accurate")
SUFFIX = ".safetensors"

_translator: List[Callable[[str], str]] = []


def translate_with(function: Callable[[str], str]) -> None:
    """Have every text of this module translated; inside 3D Slicer that is ``slicer.i18n.tr``."""
    _translator[:] = [function]


def _(text: str) -> str:
    return _translator[0](text) if _translator else text


# Settings


@dataclass(frozen=True)
class Settings:
    """How one registration is done, as a person chooses it; the fields of ``RegistrationOptions`` mean the same.

    Attributes
    ----------
    model : str
        ``"auto"``, ``"none"``, ``"file"`` or the name of a shipped model.
    model_file : str
        The ``.safetensors`` file if ``model`` is ``"file"``.
    refine : int
        Steps of refinement; ``MODELS_OWN`` takes the model's own number.
    regularization : float
        Weight of the smoothness in the refinement; 0 takes the model's own.
    spacing : float
        Spacing of the working grid in mm; 0 takes the model's own.
    """

    model: str = AUTO
    model_file: str = ""
    device: str = "auto"
    precision: str = "auto"
    prealign: str = "affine"
    refine: int = MODELS_OWN
    similarity: str = "lncc"
    regularization: float = 0.0
    landmark_weight: float = 0.0
    spacing: float = 0.0

    @property
    def may_refine(self) -> bool:
        """Whether there may be a refinement: without a network always; the model's own number is not known here."""
        return self.refine != 0 or self.model == NONE

    def options(self) -> Dict[str, Any]:
        """As fields of ``RegistrationOptions``."""
        return {
            "model": self.model_file if self.model == FILE else self.model,
            "device": self.device,
            "precision": self.precision,
            "prealign": self.prealign,
            "refine": None if self.refine == MODELS_OWN else int(self.refine),
            "similarity": self.similarity,
            "regularization": self.regularization or None,
            "landmark_weight": float(self.landmark_weight),
            "spacing": self.spacing or None,
        }


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
    if model.endswith(SUFFIX):
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


@dataclass(frozen=True)
class Selection:
    """What was chosen for each input: an identifier (a node's, or a path), None where nothing was."""

    fixed: Optional[str] = None
    moving: Optional[str] = None
    fixed_mask: Optional[str] = None
    moving_mask: Optional[str] = None
    initial_transform: Optional[str] = None
    regularization_map: Optional[str] = None
    fixed_landmarks: Optional[str] = None
    moving_landmarks: Optional[str] = None
    labels: Optional[str] = None
    fixed_labels: Optional[str] = None


def make_job(
    name: str, inputs: Inputs, folder: str, settings: Settings, outputs: Outputs = Outputs(), watch: bool = False
) -> Job:
    """The job that the worker is asked to do; no refinement, nothing to watch."""
    options = {**settings.options(), "maps": outputs.maps}
    return Job(name, inputs, folder, options, watch and settings.may_refine)


# What is missing, what is enabled


def missing(selection: Selection, settings: Settings = Settings(), outputs: Outputs = Outputs()) -> Optional[str]:
    """The first thing that has to be done before a registration can start; None if it can."""
    return _missing_image(selection) or _missing_partner(selection) or _missing_setting(selection, settings, outputs)


def _missing_image(selection: Selection) -> Optional[str]:
    if not selection.fixed:
        return _("Choose a fixed volume")
    if not selection.moving:
        return _("Choose a moving volume")
    if selection.fixed == selection.moving:
        return _("Fixed and moving must be two different volumes")
    return None


def _missing_partner(selection: Selection) -> Optional[str]:
    if selection.fixed_landmarks and not selection.moving_landmarks:
        return _("Choose the landmarks of the moving volume, too")
    if selection.moving_landmarks and not selection.fixed_landmarks:
        return _("Choose the landmarks of the fixed volume, too")
    if selection.fixed_landmarks and selection.fixed_landmarks == selection.moving_landmarks:
        return _("Fixed and moving landmarks must be two different lists")
    if selection.fixed_labels and not selection.labels:
        return _("Choose the structures of the moving volume, too")
    return None


def _missing_setting(selection: Selection, settings: Settings, outputs: Outputs) -> Optional[str]:
    if settings.model == FILE and not settings.model_file.endswith(SUFFIX):
        return _("Choose a model file ({suffix})").format(suffix=SUFFIX)
    if settings.landmark_weight and not selection.fixed_landmarks:
        return _("Choose landmarks, or set their weight to 0")
    if not outputs.any:
        return _("Choose at least one output")
    return None


def enabled(settings: Settings, selection: Selection = Selection()) -> Dict[str, bool]:
    """Whether each setting has an effect now; the others are greyed out rather than silently ignored."""
    refines = settings.may_refine
    return {
        "model_file": settings.model == FILE,
        "similarity": refines,
        "regularization": refines,
        "regularization_map": refines,
        "landmark_weight": refines and bool(selection.fixed_landmarks and selection.moving_landmarks),
    }


def without_effect(settings: Settings, selection: Selection = Selection()) -> List[str]:
    """One sentence for each choice that will have no effect as the settings are."""
    if enabled(settings)["similarity"]:
        return []
    notes = []
    if selection.regularization_map:
        notes.append(_("The regularization map acts in the refinement only; give it some steps."))
    if settings.landmark_weight:
        notes.append(_("Landmarks pull in the refinement only; give it some steps."))
    return notes


# Presets


def read_presets(folder: Path) -> Dict[str, Dict[str, Any]]:
    """What each shipped preset sets, by its name: fast, balanced, accurate, then any others."""
    presets = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
    order = sorted(presets, key=lambda name: (PRESETS.index(name) if name in PRESETS else len(PRESETS), name))
    return {name: {**presets[name].get("register", presets[name])} for name in order}


def preset_values(preset: Mapping[str, Any]) -> Dict[str, Any]:
    """Every setting that any preset decides, so that one preset leaves nothing of another behind; null: the default."""
    defaults = Settings()
    decided = {"refine": defaults.refine, "precision": defaults.precision}
    known = {item.name for item in fields(Settings)}
    return {**decided, **{name: value for name, value in preset.items() if name in known and value is not None}}


def preset_of(settings: Settings, presets: Mapping[str, Mapping[str, Any]]) -> str:
    """The preset that these settings are, or ``"custom"``: no preset claims settings that were changed."""
    values = asdict(settings)
    for name, preset in presets.items():
        if all(values[key] == value for key, value in preset_values(preset).items()):
            return name
    return CUSTOM


def preset_text(name: str) -> str:
    """A preset in the list of choices."""
    texts = {"fast": _("Fast"), "balanced": _("Balanced"), "accurate": _("Accurate"), CUSTOM: _("Custom")}
    return texts.get(name, name)


def preset_tip(name: str) -> str:
    """What a preset does, in one line."""
    texts = {
        "fast": _("The network alone."),
        "balanced": _("The network, then as much refinement of this pair as its model recommends."),
        "accurate": _("A long refinement, in full precision; models trained with labels do better with Balanced."),
        CUSTOM: _("As set under Advanced."),
    }
    return texts.get(name, "")


# Models


@dataclass(frozen=True)
class Model:
    """What the list of models says of one, for people."""

    name: str
    description: str = ""
    network: str = ""
    modality: str = ""
    anatomy: str = ""
    training_data: str = ""
    licence: str = ""
    citation: str = ""
    spacing: float = 0.0
    accuracy: Dict[str, Any] = field(default_factory=dict)


def read_models(path: Path) -> List[Model]:
    """The shipped models, from ``models.json``; needs neither torch nor safetensors."""
    entries = json.loads(path.read_text(encoding="utf-8"))["models"]
    known = {item.name for item in fields(Model)}
    return [Model(**{key: value for key, value in entry.items() if key in known}) for entry in entries]


def model_label(name: str) -> str:
    """A model in the list of choices."""
    texts = {
        AUTO: _("Choose for me, by modality and size"),
        NONE: _("No network: refinement alone, for any images"),
        FILE: _("A model file …"),
    }
    return texts.get(name, name)


def model_text(name: str, models: List[Model]) -> str:
    """What a person should know of a choice of model: what it is for, trained on, licence, accuracy."""
    found = [model for model in models if model.name == name]
    if not found:
        return _choice_text(name)
    model = found[0]
    lines = [
        model.description,
        _("Trained on: {data}").format(data=model.training_data),
        _("Licence: {licence}").format(licence=model.licence),
        _accuracy_text(model.accuracy),
    ]
    return "\n".join(line for line in lines if line)


def _choice_text(name: str) -> str:
    texts = {
        AUTO: _(
            "The model whose modality and size match both volumes; if none does, refinement alone. "
            "The result says which, and why."
        ),
        NONE: _("Finds the deformation of this pair from nothing: slower, but for any organ and, with MIND or MI, "
                "any contrast."),
        FILE: _("Weights in safetensors, as “deepreg-attention train” writes them; opening one runs no code."),
    }  # fmt: skip
    return texts.get(name, "")


def _accuracy_text(accuracy: Mapping[str, Any]) -> str:
    measured = {name: value["dice"] for name, value in accuracy.items() if isinstance(value, dict) and "dice" in value}
    if not measured:
        return ""
    dice = ", ".join(f"{mean:.2f} {name.replace('_', ' ')}" for name, mean in measured.items())
    return _("Accuracy: Dice {dice} ({data})").format(dice=dice, data=accuracy.get("data", ""))


# Device


def device_text(devices: Optional[Mapping[str, Mapping[str, Any]]], choice: str) -> str:
    """The name and memory of the device that a choice means, as the worker told them; empty while unknown."""
    if not devices:
        return ""
    best = next((name for name in ("cuda", "mps", "cpu") if name in devices), "cpu")
    device = devices.get(best if choice == "auto" else choice)
    if device is None:
        return _("This computer has no {device} device that torch can use.").format(device=choice.upper())
    return _memory_text(str(device.get("name", choice)), device) + _need_text(devices.get("cpu", {}))


def _memory_text(name: str, device: Mapping[str, Any]) -> str:
    free, total = device.get("free_gib"), device.get("total_gib")
    if free is None or total is None:
        return name
    return _("{name}: {free} of {total} GiB free").format(name=name, free=f"{free:.1f}", total=f"{total:.1f}")


def _need_text(cpu: Mapping[str, Any]) -> str:
    """What this registration needs, of the computer's memory, and whether it is there."""
    needed, free = cpu.get("needed_gib"), cpu.get("free_gib")
    if needed is None:
        return ""
    text = "\n" + _("This registration needs about {needed} GiB of the computer’s memory.").format(
        needed=f"{needed:.1f}"
    )
    if free is not None and needed > free:
        text += " " + _("That is more than is free: choose a coarser working spacing under Advanced.")
    return text


# Progress


def stage_text(stage: Optional[str]) -> str:
    """What a stage does, for people."""
    texts = {
        "start": _("Starting"),
        "read": _("Reading the volumes"),
        "prealign": _("Aligning linearly"),
        "network": _("Network"),
        "refine": _("Refining"),
        "warp": _("Warping"),
        "maps": _("Making the maps"),
        "measure": _("Measuring"),
        "write": _("Writing the result"),
        "load": _("Loading the result"),
    }
    return texts.get(stage or "start", stage or "")


def time_left(seconds: Optional[float]) -> str:
    """A remaining time, as exact as it can be known."""
    if seconds is None:
        return ""
    if seconds < 3:
        return _("almost done")
    if seconds < 90:
        step = 1 if seconds < 10 else 5
        return _("about {seconds} s left").format(seconds=step * round(seconds / step))
    return _("about {minutes} min left").format(minutes=round(seconds / 60))


def progress_text(stage: Optional[str], fraction: Optional[float] = None, eta_s: Optional[float] = None) -> str:
    """Stage, percent and time left in one line."""
    percent = "" if fraction is None else f"{100 * min(max(fraction, 0.0), 1.0):.0f} %"
    return " · ".join(part for part in (stage_text(stage), percent, time_left(eta_s)) if part)


def button_text(lacking: Optional[str], running: bool, cancelling: bool = False) -> str:
    """What the one button says: what it does, or what is missing before it can."""
    if cancelling:
        return _("Cancelling …")
    if running:
        return _("Cancel")
    return lacking or _("Register")
