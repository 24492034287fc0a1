"""What a training configuration (YAML) may say, validated."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Optional

import yaml

from ..dataset import PAIRINGS
from ..engine.errors import OptionError, UnreadableFileError, suggestion
from ..engine.intensity import IntensityRecipe
from ..engine.networks import NETWORKS, SPATIALLY_VARYING, STRUCTURES
from ..engine.options import PRECISIONS
from ..engine.regularization import HYPERPRIORS
from ..engine.similarity import SIMILARITY_LOSSES
from .augmentation import Augmentation, require_probability
from .synthetic import SyntheticOptions
from .typed_values import build


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms of the objective; none is negative.

    Attributes
    ----------
    similarity : float
        Of the dissimilarity of fixed and warped image.
    diffusion : float
        Of the squared gradient of the displacement: the strength, or, where a network lets it vary, its maximum.
    folding : float
        Of the depth of folds.
    force : float
        Of the agreement between driving force and remaining motion.
    hyperprior : float
        Against a vanishing local strength: a - 1 of the Beta, 1 / (2 s^2) of the Gaussian hyperprior, for each pass.
    strength : float
        Of the squared gradient of the local strength.
    landmarks : float
        Per mm of landmark distance.
    labels : float
        Of one minus the soft Dice.
    """

    similarity: float = 1.0
    diffusion: float = 1.0
    folding: float = 10.0
    force: float = 0.05
    hyperprior: float = 0.05
    strength: float = 0.1
    landmarks: float = 0.02
    labels: float = 0.0

    def __post_init__(self) -> None:
        for entry in fields(self):
            _require(getattr(self, entry.name) >= 0, f"weights.{entry.name}", "at least 0", getattr(self, entry.name))


@dataclass(frozen=True)
class SearchRange:
    """Which values tuning may give a setting: ``low`` to ``high`` (evenly in the logarithm with ``log``), or choices.

    Raises OptionError unless there are either two ascending bounds, above 0 with ``log``, or two choices or more.
    """

    low: Optional[float] = None
    high: Optional[float] = None
    log: bool = False
    choices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        bounds = [bound for bound in (self.low, self.high) if bound is not None]
        if self.choices:
            if bounds or self.log or len(self.choices) < 2:
                raise OptionError("Choices to tune are a list of at least two, without bounds.")
            return
        if len(bounds) != 2 or not 0 <= bounds[0] < bounds[1]:
            raise OptionError("A range to tune needs two numbers, 0 <= low < high.")
        if self.log and bounds[0] <= 0:
            raise OptionError("A logarithmic range to tune needs low above 0.")


@dataclass(frozen=True)
class DataOptions:
    """What is registered with what.

    Attributes
    ----------
    cases : str, optional
        A folder with ``images/`` and, with the same file names, ``labels/`` and ``masks/``, and, with the same names
        but the ending ``.txt``, ``.csv``, ``.fcsv`` or ``.mrk.json``, ``landmarks/`` (LPS mm, a point a row, the same
        points in every case); or a table, see :func:`~.cases.read_cases`, that may also lie beside the configuration.
    root : str
        What relative paths start from, those in the table, too.
    pairs : {"all", "within-group", "to-atlas"}
        Which pairs of cases.
    atlas : str, optional
        Name of the case that is fixed in every pair, with ``to-atlas``.
    validation_pairs : int, optional
        At most so many of the validation cases' pairs are judged, always the same ones.
    equal : float
        Share of the draws in which a case is registered to itself, so that noise and contrast alone differ: what the
        network learns to leave where it is.
    centroids : bool
        Whether landmarks are the centroids of the labels that both cases have, and not those of files.
    alignment : {"middles", "affine"}
        How the images of a pair lie at first: with the middles of their grids on each other, or aligned as a
        registration aligns them.
    labelled : float, optional
        Share of the draws from pairs whose cases both have a label map; the others are drawn from all other pairs and
        train without labels and landmarks. Without it every case needs a label map as soon as labels have a weight.
    synthetic : SyntheticOptions, optional
        Train on synthetic pairs instead; without cases under ``validation`` such pairs judge, too.
    """

    cases: Optional[str] = None
    root: str = "."
    pairs: str = "all"
    atlas: Optional[str] = None
    validation_pairs: Optional[int] = None
    equal: float = 0.0
    centroids: bool = False
    alignment: str = "middles"
    labelled: Optional[float] = None
    synthetic: Optional[SyntheticOptions] = None

    def __post_init__(self) -> None:
        if self.cases is None and (self.synthetic is None or self.synthetic.from_labels):
            raise OptionError("“data.cases” is missing: a folder or a table of images.")
        _require_choice("data.pairs", self.pairs, PAIRINGS)
        _require((self.atlas is not None) == (self.pairs == "to-atlas"), "data.atlas", _ATLAS, self.atlas)
        _require_count("data.validation_pairs", self.validation_pairs, 1)
        _require_choice("data.alignment", self.alignment, ("middles", "affine"))
        require_probability("data.equal", self.equal)
        if self.labelled is not None:
            require_probability("data.labelled", self.labelled)
            _require(self.synthetic is None, "data.labelled", "absent with “data.synthetic”", self.labelled)


_ATLAS = "the name of a case with “pairs: to-atlas”, and absent without it"


@dataclass(frozen=True)
class TrainingOptions:
    """One training run.

    Attributes
    ----------
    name : str
        Name of the model file.
    network, configuration
        Which network, and the arguments of its constructor.
    data : DataOptions
        The cases and their pairs; a text stands for ``cases`` alone.
    validation, test : list of str
        Cases, or groups of them, that are not trained on: the first choose, the second report.
    structures : dict
        Names of the labels that count, such as ``anterior: 1``; without it every label counts.
    ignore_labels : list of int
        Labels that do not count.
    labels_a_step : int, optional
        So many labels of each pair, chosen by chance, count at a step; all without it. Each takes memory and time.
    augmentation : Augmentation
        Random changes of the pairs that are trained on.
    spacing : float, optional
        Of the working grid, mm. None, without cases: random shapes have no size, and the model will work on a grid
        as fine as the images allow.
    start_spacing : float, optional
        A coarser grid for the first ``start_steps`` steps.
    steps : int
        Steps that follow those.
    accumulate : int
        Pairs a step, on each device.
    validate_every : int, optional
        Steps between two validations; a twentieth of all, and at least 50, without it.
    patience : int, optional
        Training ends when so many validations in a row were no better than the best before.
    similarity, hyperprior : str
        Keys of ``SIMILARITY_LOSSES`` and, for a network with spatially varying regularization, ``HYPERPRIORS``.
    regularization : float
        Weight of the smoothness in the refinement that the model file recommends.
    refine : int
        Steps of refinement that it recommends; 0 suits what was trained with labels, of which refinement knows nothing
        unless structures are recognised.
    learn : {"registration", "structures"}
        Which network is trained: the one that registers, or, with ``configuration.structures``, the one beside it that
        recognises structures; the other one stays as it is.
    keep : list of str
        Parts of the network that stay as they are, by what the names of their weights in the model file begin with,
        such as ``encoder``: of a network that goes on learning from another one's weights.
    structures_share : float
        Of the recognised structures in what the refinement makes alike, 0..1.
    precision : {"auto", "float32", "bfloat16"}
        Arithmetic of the convolutions; ``"auto"`` takes bfloat16 where it is fast.
    workers : int
        Processes that prepare pairs on each device; 0 prepares them between the steps.
    tune : dict
        The settings that ``tune`` searches, by name (``weights.diffusion``), and their ranges; see ``TUNABLE``.
    metadata : dict
        Description, modality, anatomy, training data, licence, citation: into the model file.
    """

    name: str
    network: str
    data: DataOptions
    metadata: dict[str, Any]
    configuration: dict[str, Any] = field(default_factory=dict)
    intensity: IntensityRecipe = field(default_factory=IntensityRecipe)
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    structures: dict[str, int] = field(default_factory=dict)
    ignore_labels: tuple[int, ...] = ()
    labels_a_step: Optional[int] = None
    augmentation: Augmentation = field(default_factory=Augmentation)
    spacing: Optional[float] = 2.0
    start_spacing: Optional[float] = None
    start_steps: int = 0
    steps: int = 1000
    accumulate: int = 1
    validate_every: Optional[int] = None
    patience: Optional[int] = None
    learning_rate: float = 1e-3
    similarity: str = "lncc"
    hyperprior: str = "beta"
    weights: LossWeights = field(default_factory=LossWeights)
    learn: str = "registration"
    keep: tuple[str, ...] = ()
    regularization: float = 1.0
    refine: int = 30
    structures_share: float = 0.0
    precision: str = "auto"
    workers: int = 0
    seed: int = 1
    tune: dict[str, SearchRange] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require_choice("network", self.network, NETWORKS)
        _require_choice("similarity", self.similarity, SIMILARITY_LOSSES)
        _require_choice("hyperprior", self.hyperprior, HYPERPRIORS)
        _require_choice("precision", self.precision, PRECISIONS)
        _require_choice("learn", self.learn, ("registration", "structures"))
        self._require_structures()
        for name in ("steps", "accumulate", "validate_every", "patience", "labels_a_step"):
            _require_count(name, getattr(self, name), 1)
        for name in ("start_steps", "refine", "workers", "seed"):
            _require_count(name, getattr(self, name), 0)
        for name in ("spacing", "start_spacing", "learning_rate"):
            value = getattr(self, name)
            _require(value is None or value > 0, name, "above 0", value)
        if self.spacing is None and self.data.cases is not None:
            raise OptionError("“spacing”, the working grid in mm, is missing; only random shapes have none.")
        if self.start_steps and self.start_spacing is None:
            raise OptionError("“start_steps” needs “start_spacing”, the grid of these steps in mm.")
        if self.configuration.get(SPATIALLY_VARYING) is True and not self.weights.hyperprior:
            raise OptionError(
                "“spatially_varying” needs “weights.hyperprior” above 0: no strength at all would be best."
            )
        flip = self.augmentation.flip
        if flip is not None and flip.swap_labels is None and self.uses_labels:
            raise OptionError(
                "“augmentation.flip” needs “swap_labels” where labels are trained with; [] if none has sides."
            )
        elastic = self.augmentation.elastic
        spacing = max(self.spacing or 0.0, (self.start_spacing or 0.0) if self.start_steps else 0.0)
        if elastic is not None and elastic.smoothness_mm < spacing:
            raise OptionError(f"“augmentation.elastic.smoothness_mm” must be at least the spacing, {spacing:g} mm.")
        both = set(self.validation) & set(self.test)
        if both:
            raise OptionError(f"“{min(both)}” is both in “validation” and in “test”; one chooses, the other reports.")

    def _require_structures(self) -> None:
        recognises = STRUCTURES in self.configuration
        if self.learns_structures and not recognises:
            raise OptionError(f"“learn: {self.learn}” needs “configuration.{STRUCTURES}”, the labels to recognise.")
        share, wanted = self.structures_share, f"from 0 to 1, and 0 without “configuration.{STRUCTURES}”"
        _require(0 <= share <= 1 and (recognises or not share), "structures_share", wanted, share)

    @property
    def uses_labels(self) -> bool:
        """Whether label maps are learned from."""
        return self.weights.labels > 0 or self.learns_structures

    @property
    def learns_structures(self) -> bool:
        """Whether structures are learned to be recognised, and nothing else."""
        return self.learn == "structures"

    @property
    def epochs(self) -> int:
        """An epoch is what lies between two validations."""
        total = self.start_steps + self.steps
        return math.ceil(total / min(total, self.validate_every or max(50, total // 20)))

    @property
    def epoch_steps(self) -> int:
        """Steps of an epoch: all of the same length, so that the whole run may be a few steps longer than asked for."""
        return math.ceil((self.start_steps + self.steps) / self.epochs)

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.epochs * self.epoch_steps

    def with_values(self, values: Mapping[str, Any]) -> TrainingOptions:
        """These options with some settings changed; names as under ``tune``."""
        weights = {name.partition(".")[2]: value for name, value in values.items() if name.startswith("weights.")}
        own = {name: value for name, value in values.items() if not name.startswith("weights.")}
        return replace(self, weights=replace(self.weights, **weights), **own)


TUNABLE: dict[str, tuple[str, ...]] = {
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
    UnreadableFileError
        The file cannot be read.
    OptionError
        It is not valid YAML; a key is unknown (with a suggestion) or missing, a value is of the wrong kind or out
        of range; or the preset has no section ``train``.
    """
    values = _read_yaml(path)
    _apply_preset(values, preset)
    if isinstance(values.get("data"), str):
        values["data"] = {"cases": values["data"]}
    values["tune"] = _read_search(values.get("tune", {}))
    options = build(TrainingOptions, values)
    beside = path.parent / (options.data.cases or "")
    if beside.suffix == ".csv" and beside.is_file():
        return replace(options, data=replace(options.data, cases=str(beside.resolve())))
    return options


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UnreadableFileError(f"{path} cannot be read: {(error.strerror or '').lower()}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise OptionError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(values, dict):
        raise OptionError(f"{path} holds no settings.")
    return values


def _apply_preset(values: dict[str, Any], preset: Optional[Mapping[str, Any]]) -> None:
    if preset is None:
        return
    if not isinstance(preset.get("train"), dict):
        raise OptionError("The preset has no section “train”; one that “tune” wrote does.")
    for name, value in preset["train"].items():
        values[name] = {**values.get(name, {}), **value} if isinstance(value, dict) else value


def _read_search(entries: Any) -> dict[str, SearchRange]:
    if not isinstance(entries, dict):
        raise OptionError("“tune” must hold settings and their ranges.")
    return {name: _read_range(name, entry) for name, entry in entries.items()}


def _read_range(name: str, entry: Any) -> SearchRange:
    """Bounds or choices; choices may also be given as a plain list."""
    if name not in TUNABLE:
        hint = suggestion(str(name), TUNABLE) or f"; the settings are {', '.join(TUNABLE)}"
        raise OptionError(f"“{name}” cannot be tuned{hint}.")
    entry = {"choices": entry} if isinstance(entry, list) else entry
    if not isinstance(entry, dict):
        raise OptionError(f"“tune.{name}” must hold low and high, or choices.")
    found = build(SearchRange, entry, f"tune.{name}.")
    known = TUNABLE[name]
    unknown = [choice for choice in found.choices if choice not in known]
    if unknown or bool(known) != bool(found.choices):
        kind = f"choices among {', '.join(known)}" if known else "low and high"
        raise OptionError(f"“tune.{name}” must hold {kind}.")
    return found


def options_to_dict(options: TrainingOptions) -> dict[str, Any]:
    """The options as plain values."""
    return asdict(options)


def _require(fulfilled: bool, name: str, wanted: str, value: Any) -> None:
    if not fulfilled:
        raise OptionError(f"“{name}” must be {wanted}; “{value}” is not.")


def _require_choice(name: str, value: str, choices: Iterable[str]) -> None:
    known = list(choices)
    if value not in known:
        hint = suggestion(value, known)
        raise OptionError(f"“{name}” must be one of {', '.join(known)}; “{value}” is not{hint}.")


def _require_count(name: str, value: Optional[int], low: int) -> None:
    _require(value is None or value >= low, name, f"at least {low}", value)
