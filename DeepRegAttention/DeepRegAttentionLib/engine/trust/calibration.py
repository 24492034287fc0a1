"""What was learned of a method's errors on pairs with a known truth: how signs become millimetres, and the bound."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Optional

from ..errors import ModelError
from ..models.listing import ModelFile
from ..resources import resource_folder

ALONE = "none"
"""The name of the calibration of refinement without a network."""


@dataclass(frozen=True)
class Calibration:
    """How signs become an error.

    Attributes
    ----------
    method : str
        The model that it was made for.
    weights : tuple of float
        The logarithm of the error in voxels is the sum of so much of the logarithm of each sign.
    offset : float
        Added to that.
    factor : float
        The bound is so many times the expected error.
    confidence : float
        The share of places whose error is within the bound.
    """

    method: str
    weights: tuple[float, ...]
    offset: float
    factor: float
    confidence: float = 0.9

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Calibration:
        """From a JSON object; ModelError where it is not as it must be."""
        try:
            return cls(**{**values, "weights": tuple(values["weights"])})
        except (TypeError, KeyError) as error:
            raise ModelError(f"A calibration of the predicted error is damaged: {error}.") from error


def calibration_for(model: Optional[ModelFile]) -> Calibration:
    """What is known of a method's errors; of a model that nobody calibrated, what is known of all others."""
    known = read_calibrations(resource_folder("Trust") / "calibration.json")
    return known.get(ALONE if model is None else model.info.name, known[ANY])


ANY = "any"
"""The name of the calibration for models that have none of their own."""


@lru_cache(maxsize=2)
def read_calibrations(path: Path) -> Mapping[str, Calibration]:
    """All calibrations of a file by method."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"The calibration {path} cannot be read: {error}.") from error
    return {entry["method"]: Calibration.from_mapping(entry) for entry in document["methods"]}
