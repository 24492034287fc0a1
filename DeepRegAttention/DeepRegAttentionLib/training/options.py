"""What a training configuration (YAML) may say, validated."""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple

import yaml

from ..engine.errors import OptionError
from ..engine.intensity import IntensityRecipe
from ..engine.regularization import HYPERPRIORS
from ..engine.similarity import SIMILARITY_LOSSES


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms of the objective; the similarity has weight 1.

    Attributes
    ----------
    diffusion : float
        Of the squared gradient of the displacement: the strength, or, where a network lets it vary, its maximum.
    folding : float
        Of the depth of folds.
    force : float
        Of the agreement between driving force and remaining motion.
    hyperprior : float
        Against a vanishing local strength: a - 1 of the Beta, 1 / (2 s^2) of the Gaussian hyperprior.
    strength : float
        Of the squared gradient of the local strength.
    landmarks : float
        Per mm of landmark distance.
    labels : float
        Of one minus the soft Dice.
    """

    diffusion: float = 1.0
    folding: float = 10.0
    force: float = 0.05
    hyperprior: float = 0.05
    strength: float = 0.1
    landmarks: float = 0.02
    labels: float = 0.0


@dataclass(frozen=True)
class SearchRange:
    """Which values tuning may give a setting: ``low`` to ``high`` (evenly in the logarithm with ``log``), or choices.

    Raises OptionError unless there are either two ascending bounds, above 0 with ``log``, or two choices or more.
    """

    low: Optional[float] = None
    high: Optional[float] = None
    log: bool = False
    choices: Tuple[str, ...] = ()

    def __post_init__(self) -> None:
        bounds = [bound for bound in (self.low, self.high) if bound is not None]
        if self.choices:
            if bounds or self.log or len(self.choices) < 2:
                raise OptionError("Choices to tune are a list of at least two, without bounds.")
            return
        numbers = all(isinstance(bound, (int, float)) and not isinstance(bound, bool) for bound in bounds)
        if len(bounds) != 2 or not numbers or not bounds[0] < bounds[1] or bounds[0] < 0:
            raise OptionError("A range to tune needs two numbers, 0 <= low < high.")
        if self.log and bounds[0] <= 0:
            raise OptionError("A logarithmic range to tune needs low above 0.")


@dataclass(frozen=True)
class TrainingOptions:
    """One training run.

    Attributes
    ----------
    name : str
        Name of the model file.
    network, configuration
        Which network, and the arguments of its constructor.
    data : str
        Folder with ``images/`` and, optionally, with the same file names, ``labels/`` and, with the same names but
        the ending ``.txt``, ``.csv``, ``.fcsv`` or ``.mrk.json``, ``landmarks/`` (LPS mm, a point a row, the same
        points in every case).
    validation, test : list of str
        File names (without ending) that are not trained on: the first choose, the second report.
    spacing : float
        Of the working grid, mm.
    start_spacing : float, optional
        A coarser grid for the first ``start_steps`` steps.
    steps : int
        Steps of one pair each.
    similarity, hyperprior : str
        Keys of ``SIMILARITY_LOSSES`` and, for a network with spatially varying regularization, ``HYPERPRIORS``.
    regularization : float
        Weight of the smoothness in the refinement that the model file recommends.
    tune : dict
        The settings that ``tune`` searches, by name (``weights.diffusion``), and their ranges; see ``TUNABLE``.
    metadata : dict
        Description, modality, anatomy, training data, licence, citation: into the model file.
    """

    name: str
    network: str
    data: str
    metadata: Dict[str, Any]
    configuration: Dict[str, Any] = field(default_factory=dict)
    intensity: IntensityRecipe = field(default_factory=IntensityRecipe)
    validation: Tuple[str, ...] = ()
    test: Tuple[str, ...] = ()
    ignore_labels: Tuple[int, ...] = ()
    spacing: float = 2.0
    start_spacing: Optional[float] = None
    start_steps: int = 0
    steps: int = 1000
    learning_rate: float = 1e-3
    similarity: str = "lncc"
    hyperprior: str = "beta"
    weights: LossWeights = field(default_factory=LossWeights)
    regularization: float = 1.0
    seed: int = 1
    tune: Dict[str, SearchRange] = field(default_factory=dict)

    def with_values(self, values: Mapping[str, Any]) -> TrainingOptions:
        """These options with some settings changed; names as under ``tune``."""
        weights = {name.partition(".")[2]: value for name, value in values.items() if name.startswith("weights.")}
        own = {name: value for name, value in values.items() if not name.startswith("weights.")}
        return replace(self, weights=replace(self.weights, **weights), **own)


TUNABLE: Dict[str, Tuple[str, ...]] = {
    **{f"weights.{entry.name}": () for entry in fields(LossWeights)},
    "learning_rate": (),
    "regularization": (),
    "similarity": tuple(SIMILARITY_LOSSES),
    "hyperprior": tuple(HYPERPRIORS),
}
"""The settings that can be tuned, with their choices; those without are numbers."""


def read_training_options(path: Path, preset: Optional[Mapping[str, Any]] = None) -> TrainingOptions:
    """Read a YAML file.

    Parameters
    ----------
    path : Path
        Keys: the attributes of :class:`TrainingOptions`.
    preset : mapping, optional
        What ``tune`` found: its section ``train`` holds settings that win over those of the file.

    Raises
    ------
    OptionError
        A key is unknown (with a suggestion) or missing, or the preset has no section ``train``.
    """
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise OptionError(f"{path} holds no settings.")
    _apply_preset(values, preset)
    for name, kind in (("weights", LossWeights), ("intensity", IntensityRecipe)):
        if name in values:
            values[name] = _build(kind, values[name], f"{name}.")
    for name in ("validation", "test", "ignore_labels"):
        values[name] = tuple(values.get(name, ()))
    values["tune"] = _read_search(values.get("tune", {}))
    options: TrainingOptions = _build(TrainingOptions, values, "")
    return options


def _apply_preset(values: Dict[str, Any], preset: Optional[Mapping[str, Any]]) -> None:
    if preset is None:
        return
    if not isinstance(preset.get("train"), dict):
        raise OptionError("The preset has no section “train”; one that “tune” wrote does.")
    for name, value in preset["train"].items():
        values[name] = {**values.get(name, {}), **value} if isinstance(value, dict) else value


def _read_search(entries: Any) -> Dict[str, SearchRange]:
    if not isinstance(entries, dict):
        raise OptionError("“tune” must hold settings and their ranges.")
    return {name: _read_range(name, entry) for name, entry in entries.items()}


def _read_range(name: str, entry: Any) -> SearchRange:
    """Bounds or choices; choices may also be given as a plain list."""
    if name not in TUNABLE:
        close = difflib.get_close_matches(str(name), TUNABLE, n=1)
        hint = f" Did you mean “{close[0]}”?" if close else f" The settings are {', '.join(TUNABLE)}."
        raise OptionError(f"“{name}” cannot be tuned.{hint}")
    entry = {"choices": entry} if isinstance(entry, list) else entry
    if not isinstance(entry, dict):
        raise OptionError(f"“tune.{name}” must hold low and high, or choices.")
    if "choices" in entry:
        entry = {**entry, "choices": tuple(entry["choices"])}
    found: SearchRange = _build(SearchRange, entry, f"tune.{name}.")
    known = TUNABLE[name]
    unknown = [choice for choice in found.choices if choice not in known]
    if unknown or bool(known) != bool(found.choices):
        kind = f"choices among {', '.join(known)}" if known else "low and high"
        raise OptionError(f"“tune.{name}” must hold {kind}.")
    return found


def _build(kind: Any, values: Mapping[str, Any], prefix: str) -> Any:
    known: List[str] = [entry.name for entry in fields(kind)]
    for key in values:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f" Did you mean “{prefix}{close[0]}”?" if close else ""
            raise OptionError(f"There is no setting “{prefix}{key}”.{hint}")
    try:
        return kind(**values)
    except TypeError as error:
        raise OptionError(f"The configuration is incomplete: {error}.") from error


def options_to_dict(options: TrainingOptions) -> Dict[str, Any]:
    """The options as plain values."""
    return asdict(options)
