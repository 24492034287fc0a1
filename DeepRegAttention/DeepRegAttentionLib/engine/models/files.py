"""Model files: found, read, written, and put into the list of the shipped ones.

A model file is a ``.safetensors`` file: weights, and in its header one JSON document, the :class:`ModelInfo`.
Opening one never runs code. This module imports torch only to load and save weights.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Optional, Union

import safetensors

from ..errors import ModelError, OutputError, suggestion
from ..networks import build_network
from ..options import MODEL_SUFFIX
from ..resources import resource_folder
from .info import ModelInfo, require
from .listing import LIST_NAME, SCHEMA, ModelFile, list_models, require_schema

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

MAX_BYTES = 8_000_000

_HEADER_KEY = "deepreg_attention"


def find_model(name_or_path: Union[str, Path], folder: Optional[Path] = None) -> ModelFile:
    """The shipped model of that name, or the model file at that path (it ends with ``.safetensors``).

    Raises ModelError if there is none; for a name it says which there are.
    """
    if str(name_or_path).endswith(MODEL_SUFFIX):
        return _model_file(Path(name_or_path))
    models = {model.info.name: model for model in list_models(folder)}
    name = str(name_or_path)
    if name in models:
        return models[name]
    if not models:
        raise ModelError(
            f"There is no model “{name}”: no models are installed; give the path of a {MODEL_SUFFIX} file."
        )
    raise ModelError(f"There is no model “{name}”{suggestion(name, models)}; the models are {', '.join(models)}.")


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

    require(str(path).endswith(MODEL_SUFFIX), "The path of a model file", f"one that ends with {MODEL_SUFFIX}", path)
    weights = {name: _stored(tensor, half) for name, tensor in network.state_dict().items()}
    _require_fit(build_network(info.network, info.configuration), weights, "The network")
    header = {_HEADER_KEY: json.dumps({"schema": SCHEMA, **info.to_dict()}, ensure_ascii=False)}
    content = safetensors.torch.save(weights, header)
    if len(content) > MAX_BYTES:
        raise ModelError(f"The model {info.name} takes {len(content) / 1e6:.1f} MB; a model file may have 8 MB.")
    _write_atomically(Path(path), content)


def register_model(path: Path, folder: Optional[Path] = None) -> ModelFile:
    """Put a model file into the list of a folder (the shipped models by default), or replace its entry there.

    A file that lies elsewhere is copied into the folder. What the list had added to the model (a restriction, whether
    there is a background) stays where the file itself says nothing of it. Raises ModelError if the model cannot be
    loaded or the list is damaged, OutputError if the folder cannot be written.
    """
    folder = resource_folder("Models") if folder is None else folder
    load_model(path)
    target = folder / Path(path).name
    if target.resolve() != Path(path).resolve():
        _copy(Path(path), target)
    added = _model_file(target)
    models = {model.info.name: model for model in list_models(folder)} if (folder / LIST_NAME).exists() else {}
    known = models.get(added.info.name)
    if known is not None:
        added = replace(added, info=_completed(added.info, known.info))
    models[added.info.name] = added
    entries = [{"file": m.path.name, "sha256": m.sha256, **m.info.to_dict()} for m in models.values()]
    document = json.dumps({"schema": SCHEMA, "models": entries}, indent=2, ensure_ascii=False)
    _write_atomically(folder / LIST_NAME, f"{document}\n".encode())
    return added


def _completed(info: ModelInfo, known: ModelInfo) -> ModelInfo:
    background = known.background if info.background is None else info.background
    return replace(info, restriction=info.restriction or known.restriction, background=background)


def _model_file(path: Path) -> ModelFile:
    content = _read_model_file(path)
    return ModelFile(_header_info(content, path), path, hashlib.sha256(content).hexdigest())


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
    require_schema(document, f"The description in the model file {path}")
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
