"""From presets and command line options to RegistrationOptions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, Mapping, Optional

from ..engine.errors import OptionError, suggestion
from ..engine.options import RegistrationOptions
from ..engine.resources import resource_folder
from ..engine.result import EXTENSIONS


def read_options(preset: Optional[str], given: Mapping[str, Any]) -> RegistrationOptions:
    """The options of a preset, overridden by those given (None: not given).

    Raises
    ------
    OptionError
        The preset is missing or damaged, or an option is unknown or out of range.
    """
    values = {} if preset is None else read_preset(preset)
    values.update({name: value for name, value in given.items() if value is not None})
    return RegistrationOptions.from_mapping(values)


def read_preset(name_or_file: str) -> Dict[str, Any]:
    """The options in a preset: the name of a shipped one, or a ``.json`` file with an object of options."""
    path = Path(name_or_file) if name_or_file.endswith(".json") else _shipped_preset(name_or_file)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"The preset {path} cannot be read: {(error.strerror or '').lower()}.") from error
    except ValueError as error:
        raise OptionError(f"The preset {path} is not valid JSON: {error}.") from error
    if not isinstance(values, dict):
        raise OptionError(f"The preset {path} must hold one object of options.")
    return values


def _shipped_preset(name: str) -> Path:
    presets = {path.stem: path for path in sorted(resource_folder("Presets").glob("*.json"))}
    if name not in presets:
        known = ", ".join(presets)
        raise OptionError(
            f"There is no preset “{name}”{suggestion(name, presets)}; choose {known}, or give a .json file."
        )
    return presets[name]


def file_extension(name: str) -> str:
    """``nii.gz`` or ``nrrd`` as a file ending; anything else raises OptionError."""
    if f".{name}" not in EXTENSIONS:
        known = " or ".join(extension[1:] for extension in EXTENSIONS)
        raise OptionError(f"format must be {known}; “{name}” is not.")
    return f".{name}"
