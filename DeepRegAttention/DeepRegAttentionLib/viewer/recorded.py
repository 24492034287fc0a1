"""What a result folder says of itself; plain files, so that the front process can ask."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, Mapping, Union

from ..engine.errors import UnreadableFileError


def read_metrics(folder: Union[str, Path]) -> Dict[str, Any]:
    """What ``metrics.json`` of a result folder says.

    Raises
    ------
    UnreadableFileError
        The file is missing or damaged.
    """
    try:
        metrics = json.loads((Path(folder) / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnreadableFileError(f"{folder} holds no result: its metrics.json is missing or damaged.") from error
    if not isinstance(metrics, dict):
        raise UnreadableFileError(f"{folder} holds no result: its metrics.json is damaged.")
    return metrics


def recorded_inputs(metrics: Mapping[str, Any]) -> Dict[str, Path]:
    """Where the fixed and the moving image lay that a result was made of; absent if it does not say."""
    inputs = metrics.get("inputs")
    if not isinstance(inputs, dict):
        return {}
    return {role: Path(inputs[role]) for role in ("fixed", "moving") if isinstance(inputs.get(role), str)}
