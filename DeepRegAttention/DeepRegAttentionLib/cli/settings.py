"""From presets and command line options to RegistrationOptions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Optional

import typer

from ..engine.errors import OptionError
from ..engine.options import RegistrationOptions, registration_values
from ..engine.result import EXTENSIONS
from ..terms.presets import read_preset


def options_of(context: typer.Context, usual: Optional[Mapping[str, Any]] = None) -> RegistrationOptions:
    """What a command was called with; ``usual`` and errors as for :func:`read_options`."""
    given = {field.name: context.params.get(field.name) for field in fields(RegistrationOptions)}
    return read_options(context.params["preset"], given, usual)


def read_options(
    preset: Optional[str], given: Mapping[str, Any], usual: Optional[Mapping[str, Any]] = None
) -> RegistrationOptions:
    """The options of a preset, overridden by those given (None: not given), over those that are usual for a command.

    Raises
    ------
    OptionError
        The preset is missing or damaged, or an option is unknown or out of range.
    """
    values = {**(usual or {}), **({} if preset is None else registration_values(read_preset(preset)))}
    values.update({name: value for name, value in given.items() if value is not None})
    return RegistrationOptions.from_mapping(values)


def file_extension(name: str) -> str:
    """``nii.gz`` or ``nrrd`` as a file ending; anything else raises OptionError."""
    if f".{name}" not in EXTENSIONS:
        known = " or ".join(extension[1:] for extension in EXTENSIONS)
        raise OptionError(f"format must be {known}; “{name}” is not.")
    return f".{name}"
