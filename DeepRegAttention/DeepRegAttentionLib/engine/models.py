"""Model files, the list of the shipped ones, and which of them suits two images.

A model file is a ``.safetensors`` file: weights, and in its header one JSON document, the
:class:`ModelInfo`. Opening one never runs code. This module imports torch only to load and save weights, so
the list of models can be shown without it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import safetensors
import SimpleITK as sitk

from .errors import ModelError, OutputError, suggestion
from .intensity import IntensityRecipe, background_value
from .networks import NETWORKS, build_network
from .resources import resource_folder

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

SUFFIX = ".safetensors"
MAX_BYTES = 8_000_000
LIST_NAME = "models.json"
SCHEMA = 1
# A model suits images whose extent differs from its own by at most this factor along each axis.
EXTENT_FACTOR = 1.6

_HEADER_KEY = "deepreg_attention"
# Fat and air lie below this in Hounsfield units; hardly any voxel of another modality does.
_HOUNSFIELD_SIGN = -100.0
_RESERVED_NAMES = ("auto", "none")
_TEXTS = ("modality", "anatomy", "description", "training_data", "licence", "citation", "version")


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
    modality, anatomy : str
        Such as ``"MR T1"`` and ``"brain"``. A modality that starts with CT promises Hounsfield units.
    extent_mm : (float, float, float), optional
        Typical :func:`foreground_extent` of its images: left-right, front-back, head-foot; None: any, and only who
        asks for the model gets it.
    inter_subject : bool
        Whether it was trained to register different subjects.
    description : str
        One line.
    training_data, licence, citation : str
        What it was trained on, the licence of the weights, what to cite.
    accuracy : dict
        Measured numbers, with the data and the split they were measured on.
    steps : int
        Training steps.
    version : str
        Version of the weights.
    """

    name: str
    network: str
    configuration: Dict[str, Any]
    intensity: IntensityRecipe
    spacing: Optional[float]
    shape_multiple: int
    regularization: float
    refine: int
    modality: str
    anatomy: str
    extent_mm: Optional[Tuple[float, float, float]]
    inter_subject: bool
    description: str = ""
    training_data: str = ""
    licence: str = ""
    citation: str = ""
    accuracy: Dict[str, Any] = field(default_factory=dict)
    steps: int = 0
    version: str = "1"

    def __post_init__(self) -> None:
        _require_name(self.name)
        for text in _TEXTS:
            _require(isinstance(getattr(self, text), str), text, "a text", getattr(self, text))
        _require(self.network in NETWORKS, "network", f"one of {', '.join(NETWORKS)}", self.network)
        _require("\n" not in self.description, "description", "a single line", self.description)
        _require(isinstance(self.intensity, IntensityRecipe), "intensity", "an intensity recipe", self.intensity)
        _require(isinstance(self.inter_subject, bool), "inter_subject", "true or false", self.inter_subject)
        usable = self.spacing is None or _is_number(self.spacing, 0.05, 50)
        _require(usable, "spacing", "from 0.05 to 50 mm", self.spacing)
        _require(_is_number(self.regularization, 0, 1e4), "regularization", "from 0 to 10000", self.regularization)
        _require(_is_count(self.refine, 0, 10_000), "refine", "a whole number from 0 to 10000", self.refine)
        _require(_is_count(self.shape_multiple, 1, 1024), "shape_multiple", "from 1 to 1024", self.shape_multiple)
        _require(_is_count(self.steps, 0, 10**12), "steps", "a whole number", self.steps)
        # A frozen dataclass: these bring tuples and lists to the form that they have after a round trip.
        if self.extent_mm is not None:
            _require(_is_extent(self.extent_mm), "extent_mm", "three lengths in mm", self.extent_mm)
            object.__setattr__(self, "extent_mm", tuple(float(length) for length in self.extent_mm))
        object.__setattr__(self, "configuration", _plain_dict("configuration", self.configuration))
        object.__setattr__(self, "accuracy", _plain_dict("accuracy", self.accuracy))

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> ModelInfo:
        """From a JSON object; a missing, unknown or wrong entry raises ModelError."""
        _require_keys(cls, values, "the description of a model")
        intensity = values["intensity"]
        _require(isinstance(intensity, dict), "intensity", "an object", intensity)
        _require_keys(IntensityRecipe, intensity, "its intensity recipe")
        return cls(**{**values, "intensity": IntensityRecipe(**intensity)})

    def to_dict(self) -> Dict[str, Any]:
        """As plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class ModelFile:
    """A model and where it lies."""

    info: ModelInfo = field(hash=False)
    path: Path
    sha256: str
    """What the list of models promises; of a file that is in no list, what it was when it was found."""

    def to_dict(self) -> Dict[str, Any]:
        """What it says of itself and its file, with the size in bytes, as plain values for JSON."""
        size = self.path.stat().st_size if self.path.is_file() else None
        return {"file": str(self.path), "size": size, "sha256": self.sha256, **self.info.to_dict()}


class Choice(NamedTuple):
    """The model that suits two images, if one does, and why, in one sentence."""

    model: Optional[ModelFile]
    reason: str


def list_models(folder: Optional[Path] = None) -> List[ModelFile]:
    """The models that come with the program, or those of another folder, from its ``models.json``.

    Raises ModelError if that file is missing, not JSON, of another schema, or an entry of it is wrong.
    """
    folder = resource_folder("Models") if folder is None else folder
    path = folder / LIST_NAME
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"The list of models {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ModelError(f"The list of models {path} is not valid JSON: {error}.") from error
    _require_schema(document, f"The list of models {path}")
    entries = document.get("models")
    _require(isinstance(entries, list), "models", f"a list in {path}", entries)
    models = [_listed_model(entry, folder) for entry in entries]
    _require_unique([model.info.name for model in models], path)
    return models


def find_model(name_or_path: Union[str, Path], folder: Optional[Path] = None) -> ModelFile:
    """The shipped model of that name, or the model file at that path (it ends with ``.safetensors``).

    Raises ModelError if there is none; for a name it says which there are.
    """
    if str(name_or_path).endswith(SUFFIX):
        return _model_file(Path(name_or_path))
    models = {model.info.name: model for model in list_models(folder)}
    name = str(name_or_path)
    if name in models:
        return models[name]
    if not models:
        raise ModelError(f"There is no model “{name}”: no models are installed; give the path of a {SUFFIX} file.")
    raise ModelError(f"There is no model “{name}”{suggestion(name, models)}; the models are {', '.join(models)}.")


def read_model_info(path: Path) -> ModelInfo:
    """What a model file says of itself.

    Raises ModelError if the file is missing, damaged, not of safetensors, or no model of this program.
    """
    return _header_info(_read_model_file(path), path)


def load_model(model: Union[ModelFile, str, Path], device: Union[str, torch.device] = "cpu") -> nn.Module:
    """The network with its weights, float32, in evaluation mode.

    Parameters
    ----------
    model : ModelFile or str or Path
        As :func:`list_models` and :func:`find_model` return it, or what :func:`find_model` takes.
    device : str or torch.device
        Where the weights go.

    Raises
    ------
    ModelError
        If the file is missing, damaged, not the one that the list of models promises, made for an unknown
        network, or its weights do not fit the network that it names.
    """
    import safetensors.torch

    model = model if isinstance(model, ModelFile) else find_model(model)
    content = _read_model_file(model.path)
    if hashlib.sha256(content).hexdigest() != model.sha256:
        raise ModelError(f"The model file {model.path} has another SHA-256 than expected; get the original again.")
    info = _header_info(content, model.path)
    network = build_network(info.network, info.configuration)
    weights = safetensors.torch.load(content)
    _require_fit(network, weights, f"The model file {model.path}")
    network.load_state_dict(weights)
    return network.to(device).eval()


def save_model(network: nn.Module, info: ModelInfo, path: Path, half: bool = True) -> None:
    """Write a model file, completely or not at all.

    Parameters
    ----------
    network : nn.Module
        Its weights are those of ``build_network(info.network, info.configuration)``.
    info : ModelInfo
        Goes into the header.
    path : Path
        Ends with ``.safetensors``; replaced if it exists.
    half : bool
        Whether weights are stored in half precision.

    Raises
    ------
    ModelError
        If the weights do not fit ``info``, are not finite (in half precision), or exceed 8 MB.
    OutputError
        If the file cannot be written.
    """
    import safetensors.torch

    _require(str(path).endswith(SUFFIX), "The path of a model file", f"one that ends with {SUFFIX}", path)
    weights = {name: _stored(tensor, half) for name, tensor in network.state_dict().items()}
    _require_fit(build_network(info.network, info.configuration), weights, "The network")
    header = {_HEADER_KEY: json.dumps({"schema": SCHEMA, **info.to_dict()}, ensure_ascii=False)}
    content = safetensors.torch.save(weights, header)
    if len(content) > MAX_BYTES:
        raise ModelError(f"The model {info.name} takes {len(content) / 1e6:.1f} MB; a model file may have 8 MB.")
    _write_atomically(Path(path), content)


def register_model(path: Path, folder: Optional[Path] = None) -> ModelFile:
    """Put a model file into the list of a folder (the shipped models by default), or replace its entry there.

    A file that lies elsewhere is copied into the folder. Raises ModelError if the model cannot be loaded or
    the list is damaged, OutputError if the folder cannot be written.
    """
    folder = resource_folder("Models") if folder is None else folder
    load_model(path)
    target = folder / Path(path).name
    if target.resolve() != Path(path).resolve():
        _copy(Path(path), target)
    added = _model_file(target)
    models = {model.info.name: model for model in list_models(folder)} if (folder / LIST_NAME).exists() else {}
    models[added.info.name] = added
    entries = [{"file": m.path.name, "sha256": m.sha256, **m.info.to_dict()} for m in models.values()]
    document = json.dumps({"schema": SCHEMA, "models": entries}, indent=2, ensure_ascii=False)
    _write_atomically(folder / LIST_NAME, f"{document}\n".encode())
    return added


def choose_model(fixed: sitk.Image, moving: sitk.Image, models: Sequence[ModelFile]) -> Choice:
    """The model that suits two images, by two facts that the images themselves tell.

    1. Values: images in Hounsfield units (one voxel in a hundred below -100) get models of CT, others get
       the rest. The contrast of MR sequences is not told apart.
    2. Size: the :func:`foreground_extent` of both images differs from the model's by at most a factor 1.6
       along each axis. Among several, the one with the smallest largest factor; among equals, the first.

    So it recognises organs by their size alone, and an image of the whole head suits no model of
    skull-stripped brains.
    """
    if _is_hounsfield(fixed) != _is_hounsfield(moving):
        return Choice(None, "One image is in Hounsfield units and the other is not; there is no model for such pairs.")
    kind = "CT" if _is_hounsfield(fixed) else "other than CT"
    candidates = [model for model in _of_a_size(models) if _is_ct(model[0].info) == _is_hounsfield(fixed)]
    if not candidates:
        return Choice(None, f"There is no model for images {kind}.")
    extents = (foreground_extent(fixed), foreground_extent(moving))
    factors = [max(_extent_factor(extent, expected) for extent in extents) for _, expected in candidates]
    best = factors.index(min(factors))
    (nearest, expected), factor = candidates[best], factors[best]
    spans = f"the objects span {_lengths(extents[0])} and {_lengths(extents[1])} (fixed, moving)"
    wanted = f"was trained on {_lengths(expected)}"
    if factor > EXTENT_FACTOR:
        return Choice(None, f"No model fits: {spans}; the nearest, {nearest.info.name}, {wanted}.")
    return Choice(nearest, f"{nearest.info.name} fits best: {spans}; it {wanted}.")


def nearest_in_size(extent: Sequence[float], models: Sequence[ModelFile]) -> Optional[ModelFile]:
    """The model for objects of about this size (mm, in any order of the axes); None if no model is made for a size."""
    sized = sorted(_of_a_size(models), key=lambda one: _extent_factor(sorted(extent), sorted(one[1])))
    return sized[0][0] if sized else None


def _of_a_size(models: Sequence[ModelFile]) -> List[Tuple[ModelFile, Tuple[float, float, float]]]:
    """The models that are made for objects of a certain size, with that size in mm."""
    return [(model, model.info.extent_mm) for model in models if model.info.extent_mm is not None]


def foreground_extent(image: sitk.Image) -> Tuple[float, float, float]:
    """Size in mm of the box around what differs from the background: left-right, front-back, head-foot.

    The box is aligned with the voxel axes; each counts as the patient axis that it is closest to.
    """
    array = sitk.GetArrayViewFromImage(image)
    foreground = array != background_value(array)
    letters = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())
    extent = [0.0, 0.0, 0.0]
    for axis, (letter, spacing) in enumerate(zip(letters, image.GetSpacing())):
        others = tuple(other for other in range(3) if other != 2 - axis)
        occupied = np.flatnonzero(foreground.any(axis=others))
        voxels = int(np.ptp(occupied)) + 1 if occupied.size else array.shape[2 - axis]
        extent["RLAPIS".index(letter) // 2] = voxels * spacing
    return extent[0], extent[1], extent[2]


def _is_hounsfield(image: sitk.Image) -> bool:
    array = sitk.GetArrayViewFromImage(image)
    return bool(np.percentile(array.ravel()[:: max(1, array.size // 100_000)], 1) < _HOUNSFIELD_SIGN)


def _is_ct(info: ModelInfo) -> bool:
    return info.modality.upper().startswith("CT")


def _extent_factor(extent: Sequence[float], expected: Sequence[float]) -> float:
    """By how much two sizes differ, along the axis on which they differ most; at least 1."""
    return max(max(a / b, b / a) for a, b in zip(extent, expected))


def _lengths(extent: Sequence[float]) -> str:
    return " x ".join(f"{length:.0f}" for length in extent) + " mm"


def _model_file(path: Path) -> ModelFile:
    content = _read_model_file(path)
    return ModelFile(_header_info(content, path), path, hashlib.sha256(content).hexdigest())


def _listed_model(entry: Any, folder: Path) -> ModelFile:
    _require(isinstance(entry, dict), "An entry of the list of models", "an object", entry)
    values = dict(entry)
    file, sha256 = str(values.pop("file", "")), str(values.pop("sha256", ""))
    # A plain file name: a list must not point outside its folder.
    plain = file.endswith(SUFFIX) and not re.search(r"[/\\:]", file)
    _require(plain, "file in the list of models", f"the name of a {SUFFIX} file", file)
    is_hash = re.fullmatch("[0-9a-f]{64}", sha256) is not None
    _require(is_hash, f"sha256 of {file}", "64 hexadecimal digits", sha256)
    return ModelFile(ModelInfo.from_mapping(values), folder / file, sha256)


def _read_model_file(path: Path) -> bytes:
    """The bytes of well-formed safetensors: read once, so that what is checked is what is used."""
    try:
        if Path(path).stat().st_size > MAX_BYTES:
            raise ModelError(f"The file {path} is larger than the 8 MB that a model file may have.")
        content = Path(path).read_bytes()
        safetensors.deserialize(content)
    except OSError as error:
        raise ModelError(f"The model file {path} cannot be read: {error.strerror}.") from error
    except safetensors.SafetensorError as error:
        raise ModelError(f"The file {path} is damaged or no safetensors file ({error}).") from error
    return content


def _header_info(content: bytes, path: Path) -> ModelInfo:
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    text = (header.get("__metadata__") or {}).get(_HEADER_KEY)
    if text is None:
        raise ModelError(f"The file {path} holds weights of another program: it does not say which network they fit.")
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ModelError(f"The description in the model file {path} is not valid JSON: {error}.") from error
    _require_schema(document, f"The description in the model file {path}")
    values = {key: value for key, value in document.items() if key != "schema"}
    return ModelInfo.from_mapping(values)


def _stored(tensor: Tensor, half: bool) -> Tensor:
    """A copy on the CPU, since safetensors refuses tensors that share memory."""
    copied = tensor.detach().cpu().clone().contiguous()
    return copied.half() if half and copied.is_floating_point() else copied


def _require_fit(network: nn.Module, weights: Mapping[str, Tensor], what: str) -> None:
    expected = network.state_dict()
    missing = [name for name in expected if name not in weights]
    surplus = [name for name in weights if name not in expected]
    if missing or surplus:
        which = f"lacks the weights “{missing[0]}”" if missing else f"has the unknown weights “{surplus[0]}”"
        raise ModelError(f"{what} does not fit its description: it {which}.")
    for name, tensor in weights.items():
        shape, wanted = list(tensor.shape), list(expected[name].shape)
        if shape != wanted:
            raise ModelError(f"{what} does not fit its description: “{name}” has the shape {shape}, not {wanted}.")
        if not bool(tensor.float().isfinite().all()):
            raise ModelError(f"{what} has weights that are not finite numbers in “{name}”.")


def _write_atomically(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OutputError(f"The file {path} cannot be written: {error.strerror}.") from error


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        raise OutputError(f"The file {target} cannot be written: {error.strerror}.") from error


def _require(fulfilled: bool, what: str, wanted: str, value: Any) -> None:
    if not fulfilled:
        raise ModelError(f"{what} must be {wanted}; “{value}” is not.")


def _require_name(name: Any) -> None:
    valid = isinstance(name, str) and re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name) and name not in _RESERVED_NAMES
    wanted = "lower-case letters, digits, dots, hyphens and underscores, and neither auto nor none"
    _require(bool(valid) and not str(name).endswith(SUFFIX), "The name of a model", wanted, name)


def _require_keys(kind: type, values: Mapping[str, Any], where: str) -> None:
    known = {item.name: item for item in fields(kind)}
    unknown = [key for key in values if key not in known]
    if unknown:
        raise ModelError(f"There is an unknown entry “{unknown[0]}” in {where}.")
    needed = [n for n, item in known.items() if item.default is MISSING and item.default_factory is MISSING]
    missing = [name for name in needed if name not in values]
    if missing:
        raise ModelError(f"The entry “{missing[0]}” is missing in {where}.")


def _require_schema(document: Any, what: str) -> None:
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise ModelError(f"{what} is not of schema {SCHEMA}; it was made by another version of the program.")


def _require_unique(names: List[str], path: Path) -> None:
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ModelError(f"The list of models {path} has the name “{twice[0]}” more than once.")


def _is_number(value: Any, low: float, high: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def _is_count(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and _is_number(value, low, high)


def _is_extent(value: Any) -> bool:
    lengths = value if isinstance(value, (list, tuple)) else []
    return len(lengths) == 3 and all(_is_number(length, 0.1, 1e4) for length in lengths)


def _plain_dict(what: str, value: Any) -> Dict[str, Any]:
    """A copy made of JSON's own types."""
    try:
        copied = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ModelError(f"{what} must hold plain values only: {error}.") from error
    _require(isinstance(copied, dict), what, "an object", value)
    return copied
