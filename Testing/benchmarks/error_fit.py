"""What is learned of registrations with a known error: how their signs become that error, and its bound.

A predictor is fitted to known deformations and to the borders of structures, on the anatomy that a method is made for
and on some that it is not. The distance between two surfaces is the error across them and the hand of who drew them:
those have a level of their own, and only say where an error is larger than elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from DeepRegAttentionLib.engine.deform import loaded_network
from DeepRegAttentionLib.engine.similarity import box_mean
from DeepRegAttentionLib.engine.trust.predictor import ANY, CONFIDENCE, Predictor, surroundings
from DeepRegAttentionLib.engine.trust.signs import Signs, coarseness, find_signs
from torch import Tensor, nn
from truths import BORDER, ROLES, WRONG, Known, Trial, keep, known, model_of, refined_trials, trials

_PLACES = 3000
_UNITS, _STEPS, _BATCH = 24, 1200, 1024
_RATE, _DECAY, _NOISE = 5e-3, 0.1, 0.2
# What a pair with structures, and an answer that is wrong on purpose, count beside one with a known deformation.
_WEIGHTS = {BORDER: 1.0, WRONG: 0.3}
# An error is not told from none below this, voxels.
_SMALLEST = 0.05


class Places(NamedTuple):
    """Some places of one registration: surroundings ``(N, C)``, and true errors ``(N,)`` in voxels."""

    trial: Trial
    values: Tensor
    errors: Tensor
    spacing_mm: float

    @property
    def logarithms(self) -> Tensor:
        return self.errors.clamp_min(_SMALLEST).log()


# What is known


def places_of(method: str, data: Path, folder: Path) -> dict[str, list[Places]]:
    """For each purpose the places of all its registrations, and of those that are refined."""
    wanted = {role: trials(data, method, role) for role in ROLES} | {"refined": refined_trials(data, method)}
    return {purpose: [observe(trial, folder) for trial in some] for purpose, some in wanted.items()}


def observe(trial: Trial, folder: Path) -> Places:
    """Some places where the error is known and there is anything."""
    signs, error, spacing_mm = seen(trial, folder)
    values, errors = surroundings(signs)[0], error[0, 0] / spacing_mm
    if trial.kind == BORDER:
        errors = mean_of_patches(errors)
    where = torch.nonzero(errors.isfinite() & (signs.there[0, 0] > 0.5))
    where = where[torch.randperm(len(where), generator=torch.Generator().manual_seed(0))[:_PLACES]]
    k, j, i = where.T
    return Places(trial, values[:, k, j, i].T, errors[k, j, i], spacing_mm)


def seen(trial: Trial, folder: Path) -> tuple[Signs, Tensor, float]:
    """The signs of a registration, its error where they are (mm), and the spacing; kept beside the registration."""
    path = folder / "signs" / trial.method / f"{trial.key}.npz"
    if not path.exists():
        result, model = known(trial, folder), model_of(trial.method)
        network = None if model is None else loaded_network(model, torch.device("cpu"))
        with torch.no_grad():
            found = find_signs(result.pair, result.displacement, network)
        spacing = torch.tensor(result.spacing_mm)
        keep(path, values=found.values, there=found.there, error=coarse_error(result), spacing=spacing)
    with np.load(path) as file:
        values, there, error = (torch.from_numpy(file[name]).float() for name in ("values", "there", "error"))
        return Signs(values, there), error, float(file["spacing"])


def mean_of_patches(errors: Tensor) -> Tensor:
    """Where an error is known ``(k, j, i)``, the mean of those in three places along each axis, as hands differ."""
    there = errors.isfinite()
    total, share = (box_mean(part[None, None], 3)[0, 0] for part in (errors.nan_to_num(), there.float()))
    return torch.where(there, total / share, torch.nan)


def coarse_error(result: Known) -> Tensor:
    """The mean true error ``(1, 1, k, j, i)`` in each place of the grid of the signs, mm; NaN where none is known."""
    factor, there = coarseness(result.error.shape[2:]), result.error.isfinite().float()
    share = F.avg_pool3d(there, factor)
    return F.avg_pool3d(result.error.nan_to_num(), factor) / share.where(share > 0, torch.nan)


# Fitting


def fitted(found: dict[str, dict[str, list[Places]]]) -> dict[str, Predictor]:
    """A predictor for each method, and one for models of which nothing is known, from all that have a network."""
    predictors = {
        method: conformed(fit(parts["fit"]).predictor(method), parts["conform"]) for method, parts in found.items()
    }
    with_network = [parts for method, parts in found.items() if model_of(method) is not None]
    common = fit([part for parts in with_network for part in parts["fit"]]).predictor(ANY)
    anyone = [conformed(common, parts["conform"]) for parts in with_network]
    return {**predictors, ANY: max(anyone, key=lambda predictor: float(predictor.margin))}


@dataclass(frozen=True)
class Learned:
    """Layers for values that are standardised by ``mean`` and ``spread``, and how far borders are above the rest."""

    layers: nn.ModuleList
    level: nn.Parameter
    mean: Tensor
    spread: Tensor

    @classmethod
    def nothing(cls, values: Tensor) -> Learned:
        """Nothing yet: random layers, and what standardises these values."""
        sizes = (values.shape[1], _UNITS), (_UNITS, _UNITS), (_UNITS, 2)
        layers = nn.ModuleList(nn.Linear(*size) for size in sizes)
        return cls(layers, nn.Parameter(torch.zeros(2)), values.mean(dim=0), values.std(dim=0) + 0.01)

    def predictor(self, method: str) -> Predictor:
        """For values as they are, at the precision at which it is kept."""
        (weight, bias), *others = [(layer.weight.detach(), layer.bias.detach()) for layer in self.layers]
        first = weight / self.spread, bias - (weight / self.spread) @ self.mean
        layers = tuple((weight.half().float(), bias.half().float()) for weight, bias in (first, *others))
        return Predictor(method, layers, torch.zeros(()))


def fit(parts: Sequence[Places]) -> Learned:
    """The median of the logarithm of the error, and the quantile that is to bound it, by gradient descent."""
    torch.manual_seed(0)
    values, errors = torch.cat([part.values for part in parts]), torch.cat([part.logarithms for part in parts])
    border = torch.cat([torch.full_like(part.errors, part.trial.kind == BORDER) for part in parts])
    shares = [_WEIGHTS.get(part.trial.kind, 1.0) / len(part.errors) for part in parts]
    weight = torch.cat([torch.full_like(part.errors, share) for part, share in zip(parts, shares)])
    learned = Learned.nothing(values)
    descent = torch.optim.AdamW([*learned.layers.parameters(), learned.level], _RATE, weight_decay=_DECAY)
    rate = torch.optim.lr_scheduler.OneCycleLR(descent, _RATE, total_steps=_STEPS)
    share = torch.tensor([0.5, CONFIDENCE])
    for _ in range(_STEPS):
        rows = torch.multinomial(weight, _BATCH, replacement=True)
        seen = (values[rows] - learned.mean) / learned.spread
        layers = tuple((layer.weight, layer.bias) for layer in learned.layers)
        said = Predictor("", layers, torch.zeros(())).logarithms(seen + _NOISE * torch.randn_like(seen))
        missed = errors[rows, None] - said - border[rows, None] * learned.level
        loss = torch.maximum(share * missed, (share - 1) * missed).mean()
        descent.zero_grad()
        loss.backward()
        descent.step()
        rate.step()
    return learned


def conformed(predictor: Predictor, parts: Sequence[Places]) -> Predictor:
    """With the margin that makes the bound hold on cases that did not fit it."""
    left = [part.logarithms - predictor.logarithms(part.values)[:, 1] for part in parts]
    return replace(predictor, margin=torch.cat(left).quantile(CONFIDENCE))


def of_kind(parts: Iterable[Places], kind: str, task: str) -> list[Places]:
    return [part for part in parts if part.trial.kind == kind and part.trial.task == task]


def judged_places(parts: Sequence[Places], predictor: Predictor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Expected errors, bounds and true errors of all places, mm."""
    rows = []
    for part in parts:
        expected, bound = predictor.logarithms(part.values).exp().T
        rows.append(part.spacing_mm * torch.stack([expected, bound, part.errors]))
    expected, bound, errors = torch.cat(rows, dim=1).numpy()
    return expected, bound, errors
