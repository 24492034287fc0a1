"""The parts of the networks that an experiment takes out: what each answers instead, with the very same weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Callable

import torch
from DeepRegAttentionLib.engine.fields import resize_field
from DeepRegAttentionLib.engine.networks.adregnet import FieldFusion
from DeepRegAttentionLib.engine.networks.attention import (
    BidirectionalCrossAttention,
    LocalMatch,
    Matches,
    RegionalAttention,
)
from DeepRegAttentionLib.engine.networks.drivenmorph import DifferenceModel, NeuralDemons
from torch import Tensor, nn


@contextmanager
def changed_parts(network: nn.Module, kind: type, change: Callable[..., Any]) -> Iterator[None]:
    """What all parts of a kind answer is changed."""
    with ExitStack() as hooks:
        for part in (part for part in network.modules() if isinstance(part, kind)):
            hooks.callback(part.register_forward_hook(change).remove)
        yield


def _unmatched(part: nn.Module, given: tuple[Tensor, Tensor], said: Any) -> Any:
    """DrivenMorph: each place is found where it is, without certainty."""
    return tuple(torch.zeros_like(values) for values in said)


def _even(part: nn.Module, given: tuple[Tensor, Tensor], said: Any) -> Any:
    """DrivenMorph: every channel weighs everywhere what it weighs in the mean."""
    return said._replace(weight=said.weight.mean(dim=(2, 3, 4), keepdim=True).expand_as(said.weight))


def _no_force(part: nn.Module, given: tuple[Tensor, Any], said: Tensor) -> Tensor:
    """DrivenMorph: what the layer answers to no force."""
    assert isinstance(part, NeuralDemons)
    return part.forward(torch.zeros_like(given[0]), given[1])


def _alone(part: nn.Module, given: tuple[Tensor, Tensor], said: Any) -> Any:
    """AD-RegNet: each image sees itself alone, and no match is found."""

    def none(match: Matches) -> Matches:
        return Matches(*(torch.zeros_like(values) for values in match))

    return (*given, *(none(match) for match in said[2:]))


def _flat(part: nn.Module, given: tuple[Tensor], said: Tensor) -> Tensor:
    """AD-RegNet: every channel is gated everywhere as it is in the mean."""
    sizes = [values.abs().mean(dim=(2, 3, 4), keepdim=True) for values in (given[0], said)]
    return given[0] * (sizes[1] / sizes[0].clamp_min(1e-6))


def _added(part: nn.Module, given: tuple[Tensor, Tensor, Tensor], said: Tensor) -> Tensor:
    """AD-RegNet: the velocities of all levels count alike."""
    return resize_field(given[1], given[2].shape[2:]) + given[2]


PARTS: dict[str, tuple[type, Callable[..., Any]]] = {
    "without the driving force": (NeuralDemons, _no_force),
    "without matches (local cross-attention)": (LocalMatch, _unmatched),
    "attention the same everywhere": (DifferenceModel, _even),
    "without cross-attention": (BidirectionalCrossAttention, _alone),
    "regional gate the same everywhere": (RegionalAttention, _flat),
    "fusion even": (FieldFusion, _added),
}
