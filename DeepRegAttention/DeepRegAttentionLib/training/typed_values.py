"""From plain values, as YAML gives them, to checked dataclasses: unknown keys, missing ones, wrong kinds."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from ..engine.errors import OptionError, suggestion

Kind = TypeVar("Kind")

_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def build(kind: type[Kind], values: Any, prefix: str = "") -> Kind:
    """An instance of a dataclass, every value checked against and brought to the kind that its field names.

    Parameters
    ----------
    kind : type
        A dataclass; its fields may be dataclasses, too.
    values : mapping
        Its fields by name.
    prefix : str
        Where the values stand, such as ``"weights."``: how the errors name them.

    Raises
    ------
    OptionError
        A key is unknown (with a suggestion) or missing, or a value is of another kind.
    """
    if not isinstance(values, Mapping):
        what = f"“{prefix[:-1]}”" if prefix else "The configuration"
        raise OptionError(f"{what} must hold settings (name: value); “{values}” does not.")
    known = {entry.name: entry for entry in fields(kind)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            hint = suggestion(str(key), known)
            raise OptionError(f"There is no setting “{prefix}{key}”{hint}.")
    for name, entry in known.items():
        if name not in values and entry.default is MISSING and entry.default_factory is MISSING:
            raise OptionError(f"The setting “{prefix}{name}” is missing.")
    hints = get_type_hints(kind)
    return kind(**{name: convert(hints[name], value, f"{prefix}{name}") for name, value in values.items()})


def convert(hint: Any, value: Any, name: str) -> Any:
    """A value as the kind that a type hint names; OptionError, with the setting's name, if it is of another.

    Numbers may be texts: YAML takes ``1e-3`` for one.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin is Union:
        return _convert_union(arguments, value, name)
    if origin is tuple:
        return _convert_list(arguments, value, name)
    if origin is dict:
        return _convert_mapping(arguments, value, name)
    if is_dataclass(hint):
        return value if isinstance(value, hint) else build(hint, value, f"{name}.")  # type: ignore[arg-type]
    return _convert_plain(hint, value, name)


def _convert_union(arguments: tuple[Any, ...], value: Any, name: str) -> Any:
    """Of the form Optional[kind]."""
    if value is None and type(None) in arguments:
        return None
    return convert(next(kind for kind in arguments if kind is not type(None)), value, name)


def _convert_list(arguments: tuple[Any, ...], value: Any, name: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise OptionError(f"“{name}” must be a list, such as [{value}]; “{value}” is none.")
    kinds: list[Any] = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
    if len(kinds) != len(value):
        raise OptionError(f"“{name}” must be a list of {len(kinds)}; “{list(value)}” is not.")
    return tuple(convert(kind, item, name) for kind, item in zip(kinds, value))


def _convert_mapping(arguments: tuple[Any, ...], value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise OptionError(f"“{name}” must hold settings (name: value); “{value}” does not.")
    return {str(key): convert(arguments[1], item, f"{name}.{key}") for key, item in value.items()}


def _convert_plain(kind: Any, value: Any, name: str) -> Any:
    if kind is float and isinstance(value, str):
        with suppress(ValueError):
            value = float(value)
    if kind is float and type(value) is int:
        value = float(value)
    # Numbers, such as the names of cases, are texts where texts are wanted; a bool is no number.
    if kind is str and type(value) is int:
        value = str(value)
    if type(value) is not kind:
        raise OptionError(f"“{name}” must be {_WORDS[kind]}; “{value}” is not.")
    return value
