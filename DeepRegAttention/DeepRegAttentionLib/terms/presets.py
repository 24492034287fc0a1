"""Presets: the shipped ones and those that tuning writes; read, recognised, and what each is called."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..engine.errors import OptionError, suggestion
from ..engine.options import RegistrationOptions, registration_values
from ..engine.resources import resource_folder
from .choices import Choice
from .settings import Settings, settings_from
from .translation import translator

_ = translator(__name__)

CUSTOM = "custom"
"""The preset of settings that match no shipped preset."""

SHIPPED = ("fast", "balanced", "accurate")
DECIDED = ("refine", "precision")
"""The settings on which the shipped presets differ."""


def read_preset(name_or_file: str) -> dict[str, Any]:
    """What a preset holds: the name of a shipped one, or a ``.json`` file with an object of options.

    Raises
    ------
    OptionError
        There is none of that name, with a suggestion; or the file is missing or damaged.
    """
    path = Path(name_or_file) if name_or_file.endswith(".json") else _shipped(name_or_file)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"The preset {path} cannot be read: {(error.strerror or '').lower()}.") from error
    except ValueError as error:
        raise OptionError(f"The preset {path} is not valid JSON: {error}.") from error
    if not isinstance(values, dict):
        raise OptionError(f"The preset {path} must hold one object of options.")
    return values


def _shipped(name: str) -> Path:
    if name not in SHIPPED:
        known = ", ".join(SHIPPED)
        raise OptionError(
            f"There is no preset “{name}”{suggestion(name, SHIPPED)}; choose {known}, or give a .json file."
        )
    return resource_folder("Presets") / f"{name}.json"


def shipped_presets() -> dict[str, dict[str, Any]]:
    """What each shipped preset sets, by its name, from the quickest to the slowest."""
    return {name: read_preset(name) for name in SHIPPED}


def preset_values(preset: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting that any shipped preset decides, so that one leaves nothing of another behind."""
    defaults = asdict(Settings())
    return {**{name: defaults[name] for name in DECIDED}, **registration_values(preset)}


def preset_settings(name_or_file: str, changes: Mapping[str, Any]) -> Settings:
    """The settings of a preset with some of them changed; for scripts.

    Raises
    ------
    OptionError
        There is no such preset, a setting is unknown, or its value is not possible.
    """
    settings = settings_from({**preset_values(read_preset(name_or_file)), **changes})
    RegistrationOptions.from_mapping(settings.options())
    return settings


def preset_of(settings: Settings, presets: Mapping[str, Mapping[str, Any]]) -> str:
    """The preset that these settings are, or ``"custom"``: no preset claims settings that were changed."""
    values = asdict(settings)
    for name, preset in presets.items():
        if all(values[key] == value for key, value in preset_values(preset).items()):
            return name
    return CUSTOM


def preset_choices() -> list[Choice]:
    """The shipped presets, and settings that are none of them."""
    texts = {
        "fast": (_("Fast"), _("The network alone; where no model fits, refinement on coarse grids alone.")),
        "balanced": (_("Balanced"), _("The network, then as much refinement of this pair as its model recommends.")),
        "accurate": (
            _("Accurate"),
            _("A long refinement, in full precision; models trained with labels do better with Balanced."),
        ),
        CUSTOM: (_("Custom"), _("As set under Advanced.")),
    }
    return [Choice(name, *texts[name]) for name in (*SHIPPED, CUSTOM)]
