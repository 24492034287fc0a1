"""What was learned from registrations with a known truth: how signs become an error, and what bounds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Optional

import safetensors.torch
import torch
from torch import Tensor

from ..errors import ModelError
from ..models.listing import ModelFile
from ..resources import resource_folder
from ..similarity import box_mean
from .signs import Signs

ALONE, ANY = "none", "any"
"""The names of what is known of refinement without a network, and of models of which nothing is known."""

CONFIDENCE = 0.9
"""The share of places whose error is within the bound."""

FILE = "expected_error.safetensors"
_WIDTHS = (3, 7)
_SMALLEST = 0.01
Weights = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Predictor:
    """Two layers of a few units each, and one for what is wanted: the logarithms of an error and of its bound.

    Attributes
    ----------
    method : str
        The model that it was made for.
    layers : tuple of (Tensor, Tensor)
        Weights and biases of each.
    margin : Tensor
        Added to the logarithm of the bound, so that it holds for as many places as it says (split conformal
        prediction).
    """

    method: str
    layers: tuple[Weights, ...]
    margin: Tensor

    def __call__(self, signs: Signs) -> tuple[Tensor, Tensor]:
        """Expected error and bound, ``(1, 1, k, j, i)`` in voxels of the working grid, where the signs are."""
        values = surroundings(signs)
        expected, bound = self.logarithms(values[0].flatten(1).T).T.reshape(2, 1, 1, *values.shape[2:]).exp()
        return expected, bound

    def logarithms(self, values: Tensor) -> Tensor:
        """Of expected errors and bounds, ``(N, 2)``, from surroundings ``(N, C)``."""
        *hidden, (weight, bias) = self.layers
        for matrix, offset in hidden:
            values = torch.tanh(values @ matrix.T + offset)
        expected, more = (values @ weight.T + bias).split(1, dim=1)
        return torch.cat([expected, expected + (torch.nn.functional.softplus(more) + self.margin).clamp_min(0)], dim=1)


def surroundings(signs: Signs) -> Tensor:
    """Logarithms of the signs ``(1, C, k, j, i)``: here, on the average nearby and farther away, and of the whole.

    Places where there is nothing do not count; how many there are nearby is told, too.
    """
    here, there = signs.values.clamp_min(_SMALLEST).log(), (signs.there > 0.5).float()
    shares = [box_mean(there, width) for width in _WIDTHS]
    near = [box_mean(here * there, width) / share.clamp_min(1e-3) for width, share in zip(_WIDTHS, shares)]
    whole = (here * there).sum(dim=(2, 3, 4), keepdim=True) / there.sum().clamp_min(1)
    return torch.cat([here, *near, whole.expand_as(here), *shares], dim=1)


def predictor_for(model: Optional[ModelFile]) -> Predictor:
    """What is known of a method's errors; of a model that nobody tried, what is known of all others."""
    known = read_predictors(resource_folder("Trust") / FILE)
    return known.get(ALONE if model is None else model.info.name, known[ANY])


@lru_cache(maxsize=2)
def read_predictors(path: Path) -> Mapping[str, Predictor]:
    """All predictors of a file by method; ModelError where it is damaged."""
    try:
        found = safetensors.torch.load_file(path)
        names = dict.fromkeys(name.split("/")[0] for name in found)
        return {name: _predictor(name, found) for name in names}
    except (OSError, KeyError, ValueError, safetensors.SafetensorError) as error:
        raise ModelError(f"The predictor of errors {path} cannot be read: {error}.") from error


def _predictor(name: str, found: Mapping[str, Tensor]) -> Predictor:
    count = sum(key.startswith(f"{name}/weight") for key in found)
    layers = [(found[f"{name}/weight{n}"].float(), found[f"{name}/bias{n}"].float()) for n in range(count)]
    return Predictor(name, tuple(layers), found[f"{name}/margin"].float())


def write_predictors(predictors: Mapping[str, Predictor], path: Path) -> None:
    """As :func:`read_predictors` reads them, in half precision."""
    tensors = {}
    for name, predictor in predictors.items():
        for n, (weight, bias) in enumerate(predictor.layers):
            tensors.update({f"{name}/weight{n}": weight, f"{name}/bias{n}": bias})
        tensors[f"{name}/margin"] = predictor.margin
    safetensors.torch.save_file({name: tensor.detach().half().contiguous() for name, tensor in tensors.items()}, path)
    read_predictors.cache_clear()
