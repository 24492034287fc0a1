"""What the tests of the networks share: real and synthetic pairs, a short training, the shift test."""

from __future__ import annotations

import torch
from DeepRegAttentionLib.dataset import find_cases
from DeepRegAttentionLib.engine.fields import jacobian_determinant, warp
from DeepRegAttentionLib.engine.intensity import IntensityRecipe
from DeepRegAttentionLib.engine.networks import build_network
from DeepRegAttentionLib.engine.similarity import lncc
from DeepRegAttentionLib.training.data import PairDataset, PairReader
from DeepRegAttentionLib.training.objective import objective
from DeepRegAttentionLib.training.options import LossWeights
from torch import Tensor, nn

from .images import texture
from .places import real_data

SMALL = {"drivenmorph": [4, 8, 12], "adregnet": [8, 16, 16]}


def small_network(name: str, **configuration: object) -> nn.Module:
    torch.manual_seed(0)
    return build_network(name, {"channels": SMALL[name], **configuration})


def hippocampus_pair() -> dict[str, Tensor]:
    """A real pair of different subjects at 2 mm with its labels, as a batch of one."""
    cases = find_cases(real_data("hippocampus"))
    cases = [case for case in cases if case.labels is not None][:2]
    dataset = PairDataset([(cases[0], cases[1])], 2.0, PairReader(8, IntensityRecipe()), labels=True)
    return {name: value[None] for name, value in dataset[0].items()}


def train(network: nn.Module, batch: dict[str, Tensor], weights: LossWeights, steps: int, rate: float = 4e-3) -> None:
    network.to(memory_format=torch.channels_last_3d)
    optimiser = torch.optim.Adam(network.parameters(), lr=rate)
    for _ in range(steps):
        with torch.autocast("cpu", torch.bfloat16):
            terms = objective(network(batch["fixed"], batch["moving"]), batch, weights)
        optimiser.zero_grad()
        terms["total"].backward()
        optimiser.step()


def check_learning(network: nn.Module, steps: int) -> None:
    """So many steps on a real pair make the images alike, without a fold."""
    batch = hippocampus_pair()
    train(network, batch, LossWeights(diffusion=0.2), steps)
    with torch.no_grad():
        output = network(batch["fixed"], batch["moving"])
    before = float(lncc(batch["fixed"], batch["moving"]))
    after = float(lncc(batch["fixed"], warp(batch["moving"], output.displacement)))
    assert after < before - 0.15
    assert float(jacobian_determinant(output.displacement).min()) > 0


def shift_error(network: nn.Module, shift: int) -> float:
    """How far from equivariant: the displacement of shifted images against the shifted displacement.

    The content lies far from both ends of a long volume. Relative to the largest displacement.
    """
    length, width = 96, 16
    start = (length - width - shift) // 2
    fixed, moving = torch.zeros(1, 1, 16, 16, length), torch.zeros(1, 1, 16, 16, length)
    for image, seed in ((fixed, 1), (moving, 2)):
        image[..., start : start + width] = texture(16, 16, width, seed=seed)
    with torch.no_grad():
        here = network(fixed, moving).displacement
        there = network(torch.roll(fixed, shift, 4), torch.roll(moving, shift, 4)).displacement
    inside = slice(start + shift - 8, start + shift + width + 8)
    expected = torch.roll(here, shift, 4)[..., inside]
    return float((there[..., inside] - expected).abs().max() / expected.abs().max())
