"""Every knob of a registration, validated, with its unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Optional

from .errors import OptionError, suggestion

MODEL_SUFFIX = ".safetensors"
"""How the path of a model file ends, by which it is told from the name of a model."""

PREALIGNMENTS: tuple[str, ...] = ("none", "centre", "rigid", "affine")
SIMILARITIES: tuple[str, ...] = ("lncc", "mind", "mi", "mse")
DEVICES: tuple[str, ...] = ("auto", "cpu", "cuda", "mps")
PRECISIONS: tuple[str, ...] = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class RegistrationOptions:
    """How one registration is done.

    Attributes
    ----------
    model : str
        Name of a shipped model, path of a ``.safetensors`` file, ``"auto"`` (chosen for the images) or
        ``"none"`` (refinement alone, from zero).
    prealign : {"none", "centre", "rigid", "affine"}
        Linear alignment before the network.
    refine : int, optional
        Steps of instance optimisation after the network; 0 turns it off, None takes the model's own number.
    similarity : {"lncc", "mind", "mi", "mse"}
        What the refinement maximises.
    regularization : float, optional
        Weight of the smoothness in the refinement; None takes the model's own.
    landmark_weight : float
        Weight of given landmarks in the refinement, per squared voxel; 0 only measures them.
    spacing : float, optional
        Isotropic spacing of the working grid in mm; None takes the model's own.
    device : {"auto", "cpu", "cuda", "mps"}
        Where the network runs.
    precision : {"auto", "float32", "bfloat16"}
        Arithmetic of the convolutions; ``"auto"`` takes bfloat16 where it is fast.
    maps : bool
        Whether the explanatory maps (driving force, attention, ...) are made.
    levels : bool
        Whether, among these maps, is also what each level added to the driving force.
    threads : int, optional
        CPU threads; None takes as many as the process may use.
    accepted_licences : tuple of str
        Names of models with a restricted licence that may be chosen unasked, because the user has agreed to it.
        Who names a model as ``model`` agrees by that.
    undecided_licences : tuple of str
        Names of those about which the user is to be asked: ``LicenceError`` instead of the next best choice.
    """

    model: str = "auto"
    prealign: str = "affine"
    refine: Optional[int] = None
    similarity: str = "lncc"
    regularization: Optional[float] = None
    landmark_weight: float = 0.0
    spacing: Optional[float] = None
    device: str = "auto"
    precision: str = "auto"
    maps: bool = True
    levels: bool = False
    threads: Optional[int] = None
    accepted_licences: tuple[str, ...] = ()
    undecided_licences: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require_choice("prealign", self.prealign, PREALIGNMENTS)
        _require_choice("similarity", self.similarity, SIMILARITIES)
        _require_choice("device", self.device, DEVICES)
        _require_choice("precision", self.precision, PRECISIONS)
        for name in ("maps", "levels"):
            _require_kind(name, getattr(self, name), bool, "true or false")
        if self.refine is not None:
            _require_kind("refine", self.refine, int, "a whole number")
            _require_range("refine", self.refine, 0, 10_000)
        _require_range("landmark_weight", self.landmark_weight, 0.0, 1e4)
        if self.model == "" or not isinstance(self.model, str):
            raise OptionError("model must be the name or the path of a model, auto or none.")
        if self.regularization is not None:
            _require_range("regularization", self.regularization, 0.0, 1e4)
        if self.spacing is not None:
            _require_range("spacing", self.spacing, 0.05, 50.0)
        if self.threads is not None:
            _require_kind("threads", self.threads, int, "a whole number")
            _require_range("threads", self.threads, 1, 1024)
        for name in ("accepted_licences", "undecided_licences"):
            _require_names(name, getattr(self, name))
            # A frozen dataclass: JSON has lists only.
            object.__setattr__(self, name, tuple(getattr(self, name)))

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> RegistrationOptions:
        """Options from a mapping, such as a preset file; an unknown key raises OptionError with a suggestion."""
        values = registration_values(values)
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                raise OptionError(f"There is no option “{key}”{suggestion(key, known)}.")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The options as plain values, for ``metrics.json``."""
        return asdict(self)


def registration_values(preset: Mapping[str, Any]) -> dict[str, Any]:
    """What a preset says of a registration.

    Beside options it may hold the sections ``register`` (options; those beside it win) and ``train`` (for training,
    not read here), as the presets do that tuning writes.
    """
    values = {**preset.get("register", {}), **preset}
    return {key: value for key, value in values.items() if key not in ("register", "train")}


def _require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        hint = suggestion(str(value), choices)
        raise OptionError(f"{name} must be one of {', '.join(choices)}; “{value}” is not{hint}.")


def _require_kind(name: str, value: Any, kind: type, words: str) -> None:
    if type(value) is not kind:
        raise OptionError(f"{name} must be {words}; “{value}” is not.")


def _require_range(name: str, value: float, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise OptionError(f"{name} must lie between {low:g} and {high:g}; “{value}” does not.")


def _require_names(name: str, value: Any) -> None:
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise OptionError(f"{name} must be a list of names of models; “{value}” is not.")
