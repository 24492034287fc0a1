"""What a model file says of itself, every value checked; needs no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, Optional

from ..errors import ModelError
from ..intensity import IntensityRecipe
from ..networks import NETWORKS, STRUCTURES
from ..options import MODEL_SUFFIX

_RESERVED_NAMES = ("auto", "none")
_TEXTS = ("modality", "anatomy", "description", "training_data", "licence", "restriction", "citation", "version")


@dataclass(frozen=True)
class ModelInfo:
    """What a model file says of itself. Every value is checked; ModelError says what is wrong.

    Attributes
    ----------
    name : str
        Lower-case letters, digits, dots, hyphens and underscores, as given on the command line.
    network : {"drivenmorph", "adregnet"}
        Which network the weights belong to.
    configuration : dict
        Arguments of the network's constructor, plain JSON values.
    intensity : IntensityRecipe
        How images are brought to 0..1.
    spacing : float, optional
        Isotropic spacing of the working grid, mm; None: as fine as the size of the images allows.
    shape_multiple : int
        The working grid is padded to a multiple of this along each axis, voxels.
    regularization : float
        Default weight of the smoothness in the refinement.
    refine : int
        Steps of refinement that made its pairs better; 0: none did.
    structures_share : float
        Of the recognised structures in what the refinement makes alike, 0..1; the rest is that of the images.
    modality, anatomy : str
        Such as ``"MR T1"`` and ``"brain"``. A modality that starts with CT promises Hounsfield units.
    extent_mm : (float, float, float), optional
        Typical :func:`foreground_extent` of its images: left-right, front-back, head-foot; None: any, and only who
        asks for the model gets it.
    background : bool, optional
        Whether its images show something whole in empty surroundings, such as a skull-stripped brain (true), or are
        cut out of larger ones (false); None: either.
    inter_subject : bool
        Whether it was trained to register different subjects.
    description : str
        One line.
    training_data, licence, citation : str
        What it was trained on, the licence of the weights, what to cite.
    restriction : str
        What the licence asks of who uses the weights, as one sentence to agree to; empty if nothing.
    accuracy : dict
        Measured numbers, with the data and the split they were measured on.
    steps : int
        Training steps.
    version : str
        Version of the weights.
    """

    name: str
    network: str
    configuration: dict[str, Any]
    intensity: IntensityRecipe
    spacing: Optional[float]
    shape_multiple: int
    regularization: float
    refine: int
    modality: str
    anatomy: str
    extent_mm: Optional[tuple[float, float, float]]
    inter_subject: bool
    background: Optional[bool] = None
    structures_share: float = 0.0
    description: str = ""
    training_data: str = ""
    licence: str = ""
    restriction: str = ""
    citation: str = ""
    accuracy: dict[str, Any] = field(default_factory=dict)
    steps: int = 0
    version: str = "1"

    def __post_init__(self) -> None:
        _require_name(self.name)
        for text in _TEXTS:
            require(isinstance(getattr(self, text), str), text, "a text", getattr(self, text))
        require(self.network in NETWORKS, "network", f"one of {', '.join(NETWORKS)}", self.network)
        for line in ("description", "restriction"):
            require("\n" not in getattr(self, line), line, "a single line", getattr(self, line))
        require(isinstance(self.intensity, IntensityRecipe), "intensity", "an intensity recipe", self.intensity)
        require(isinstance(self.inter_subject, bool), "inter_subject", "true or false", self.inter_subject)
        require(self.background in (True, False, None), "background", "true, false or null", self.background)
        usable = self.spacing is None or _is_number(self.spacing, 0.05, 50)
        require(usable, "spacing", "from 0.05 to 50 mm", self.spacing)
        require(_is_number(self.regularization, 0, 1e4), "regularization", "from 0 to 10000", self.regularization)
        recognises = self.structures_share == 0 or STRUCTURES in self.configuration
        usable = _is_number(self.structures_share, 0, 1) and recognises
        wanted = f"from 0 to 1, and 0 without “{STRUCTURES}” in the configuration"
        require(usable, "structures_share", wanted, self.structures_share)
        require(_is_count(self.refine, 0, 10_000), "refine", "a whole number from 0 to 10000", self.refine)
        require(_is_count(self.shape_multiple, 1, 1024), "shape_multiple", "from 1 to 1024", self.shape_multiple)
        require(_is_count(self.steps, 0, 10**12), "steps", "a whole number", self.steps)
        # A frozen dataclass: these bring tuples and lists to the form that they have after a round trip.
        if self.extent_mm is not None:
            require(_is_extent(self.extent_mm), "extent_mm", "three lengths in mm", self.extent_mm)
            object.__setattr__(self, "extent_mm", tuple(float(length) for length in self.extent_mm))
        object.__setattr__(self, "configuration", _plain_dict("configuration", self.configuration))
        object.__setattr__(self, "accuracy", _plain_dict("accuracy", self.accuracy))

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> ModelInfo:
        """From a JSON object; a missing, unknown or wrong entry raises ModelError."""
        _require_keys(cls, values, "the description of a model")
        intensity = values["intensity"]
        require(isinstance(intensity, dict), "intensity", "an object", intensity)
        _require_keys(IntensityRecipe, intensity, "its intensity recipe")
        return cls(**{**values, "intensity": IntensityRecipe(**intensity)})

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return asdict(self)


def require(fulfilled: bool, what: str, wanted: str, value: Any) -> None:
    """Raise ModelError unless a value is as it is wanted."""
    if not fulfilled:
        raise ModelError(f"{what} must be {wanted}; “{value}” is not.")


def _require_name(name: Any) -> None:
    valid = isinstance(name, str) and re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name) and name not in _RESERVED_NAMES
    wanted = "lower-case letters, digits, dots, hyphens and underscores, and neither auto nor none"
    require(bool(valid) and not str(name).endswith(MODEL_SUFFIX), "The name of a model", wanted, name)


def _require_keys(kind: type, values: Mapping[str, Any], where: str) -> None:
    known = {item.name: item for item in fields(kind)}
    unknown = [key for key in values if key not in known]
    if unknown:
        raise ModelError(f"There is an unknown entry “{unknown[0]}” in {where}.")
    needed = [n for n, item in known.items() if item.default is MISSING and item.default_factory is MISSING]
    missing = [name for name in needed if name not in values]
    if missing:
        raise ModelError(f"The entry “{missing[0]}” is missing in {where}.")


def _is_number(value: Any, low: float, high: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def _is_count(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and _is_number(value, low, high)


def _is_extent(value: Any) -> bool:
    lengths = value if isinstance(value, (list, tuple)) else []
    return len(lengths) == 3 and all(_is_number(length, 0.1, 1e4) for length in lengths)


def _plain_dict(what: str, value: Any) -> dict[str, Any]:
    """A copy made of JSON's own types."""
    try:
        copied: dict[str, Any] = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ModelError(f"{what} must hold plain values only: {error}.") from error
    require(isinstance(copied, dict), what, "an object", value)
    return copied
