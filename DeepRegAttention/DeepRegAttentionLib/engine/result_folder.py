"""What a result folder says of itself: read without any library, so that everybody can ask."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional, Union

from .errors import UnreadableFileError

METRICS_FILE = "metrics.json"
"""Every number, option, model hash and version of a result; a folder without it holds none."""

GLANCE_FILE = "glance.jpg"
"""A small picture of it, which those of a cohort have."""


_LEVEL = re.compile(r"driving_force_([1-9][0-9]*)")


def level_map(number: int) -> str:
    """How the map is called of what one level added to the driving force: coarse to fine, pass after pass, from 1."""
    return f"driving_force_{number}"


def level_number(name: str) -> Optional[int]:
    """Of which level a map of this name is, as :func:`level_map` counts; None of any other map."""
    found = _LEVEL.fullmatch(name)
    return None if found is None else int(found[1])


def read_metrics(folder: Union[str, Path]) -> dict[str, Any]:
    """The metrics that were written with a result.

    Raises
    ------
    UnreadableFileError
        The file is missing or damaged.
    """
    try:
        metrics = json.loads((Path(folder) / METRICS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnreadableFileError(f"{folder} holds no result: its {METRICS_FILE} is missing or damaged.") from error
    if not isinstance(metrics, dict):
        raise UnreadableFileError(f"{folder} holds no result: its {METRICS_FILE} is damaged.")
    return metrics


def recorded_inputs(metrics: Mapping[str, Any], roles: Sequence[str] = ("fixed", "moving")) -> dict[str, Path]:
    """Where inputs lay that a result was made of, such as the two images; absent if it does not say."""
    inputs = metrics.get("inputs")
    if not isinstance(inputs, dict):
        return {}
    return {role: Path(inputs[role]) for role in roles if isinstance(inputs.get(role), str)}
