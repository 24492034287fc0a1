"""The networks. Each returns a :class:`~DeepRegAttentionLib.engine.networks.blocks.NetworkOutput`."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Callable

from ..errors import ModelError

if TYPE_CHECKING:
    from .blocks import RegistrationNetwork

# Name to module and class: a network, and torch with it, is imported only when it is asked for.
_CLASSES: dict[str, tuple[str, str]] = {
    "drivenmorph": ("drivenmorph", "DrivenMorph"),
    "adregnet": ("adregnet", "ADRegNet"),
}
NETWORKS: tuple[str, ...] = tuple(_CLASSES)
SPATIALLY_VARYING, PASSES, SIDE, STRUCTURES = "spatially_varying", "passes", "side", "structures"
"""The settings that every network has beside the arguments of its constructor."""
MAX_PASSES = 8


def build_network(name: str, configuration: Mapping[str, Any]) -> RegistrationNetwork:
    """A new network with untrained weights, in float32 on the CPU.

    Parameters
    ----------
    name : {"drivenmorph", "adregnet"}
        Which network.
    configuration : mapping
        Arguments of its constructor; those left out take their defaults. With ``spatially_varying: true`` any
        network also predicts how strongly each place is regularized
        (:class:`~DeepRegAttentionLib.engine.networks.adaptive.SpatiallyVarying`), and with ``passes: 2`` the same
        weights register twice, the second time what the first has left; with ``side: 48`` all passes but the last see
        at half the resolution what is much larger than the volumes of 48 voxels a side that the network learned on;
        with ``structures: {labels: [1, 2]}`` it also recognises the structures of these labels in each image, with
        ``level: 1`` beside them at half the resolution
        (:class:`~DeepRegAttentionLib.engine.networks.structures.RecognisingStructures`).

    Raises
    ------
    ModelError
        If there is no such network, or it cannot be built with this configuration.
    """
    if name not in _CLASSES:
        raise ModelError(f"There is no network “{name}”; the networks are {', '.join(NETWORKS)}.")
    module, class_name = _CLASSES[name]
    constructor = getattr(importlib.import_module(f"{__name__}.{module}"), class_name)
    arguments = dict(configuration)
    varying = arguments.pop(SPATIALLY_VARYING, False)
    if not isinstance(varying, bool):
        raise ModelError(f"“{SPATIALLY_VARYING}” of the network {name} must be true or false, not “{varying}”.")
    passes = arguments.pop(PASSES, 1)
    if not isinstance(passes, int) or isinstance(passes, bool) or not 1 <= passes <= MAX_PASSES:
        raise ModelError(f"“{PASSES}” of the network {name} must be a number from 1 to {MAX_PASSES}, not “{passes}”.")
    side = arguments.pop(SIDE, None)
    if side is not None and (not isinstance(side, int) or isinstance(side, bool) or side < 1 or varying):
        raise ModelError(f"“{SIDE}” of the network {name} is a number of voxels, and is not for “{SPATIALLY_VARYING}”.")
    structures = arguments.pop(STRUCTURES, None)
    if structures is not None and not _are_structures(structures):
        wanted = "labels, a list of different ones above 0, and may hold a level"
        raise ModelError(f"“{STRUCTURES}” of the network {name} must hold {wanted}, not “{structures}”.")
    _require_arguments(name, constructor, arguments)
    try:
        network = constructor(**arguments)
        network.passes, network.side = passes, side
        if side is not None:
            network.multiple *= 2  # so that what is halved is still a multiple
        network = _with_local_strength(network) if varying else network
        return network if structures is None else _recognising(network, structures)
    except (TypeError, ValueError, RuntimeError, IndexError, ArithmeticError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"The network {name} cannot be built with {dict(configuration)}: {reason}.") from error


def _with_local_strength(network: RegistrationNetwork) -> RegistrationNetwork:
    from .adaptive import SpatiallyVarying

    return SpatiallyVarying(network)


def _recognising(network: RegistrationNetwork, structures: Mapping[str, Any]) -> RegistrationNetwork:
    from .structures import RecognisingStructures

    return RecognisingStructures(network, **structures)


def _are_structures(value: Any) -> bool:
    if not isinstance(value, dict) or not {"labels"} <= set(value) <= {"labels", "level"}:
        return False
    labels = value["labels"]
    if not isinstance(labels, list) or not labels or type(value.get("level", 0)) is not int:
        return False
    return all(type(label) is int and label > 0 for label in labels) and len(set(labels)) == len(labels)


def _require_arguments(name: str, constructor: Callable[..., Any], configuration: Mapping[str, Any]) -> None:
    known = [*inspect.signature(constructor).parameters, SPATIALLY_VARYING, PASSES, SIDE, STRUCTURES]
    unknown = [key for key in configuration if key not in known]
    if unknown:
        raise ModelError(f"The network {name} has no setting “{unknown[0]}”; its settings are {', '.join(known)}.")
