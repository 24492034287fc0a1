"""Whether what a model shows is what moves the image: experiments on its network alone, on pairs that it never saw.

    python Testing/benchmarks/causes.py equal ../shared/data
    python Testing/benchmarks/causes.py deletion ../shared/data --task hippocampus
    python Testing/benchmarks/causes.py knockout ../shared/data --task hippocampus
    python Testing/benchmarks/causes.py force ../shared/data --task heart

``equal`` gives an image twice, as it is and with noise of 2 % in one: how far it moves. ``deletion`` takes the
difference of the images away where a map is highest, by showing the moving image there in both, and at as many random
places inside: how much more the motion changes there. A map that is a cause changes it more than chance, and at best as
much as the motion itself, taken as a map, would. ``knockout`` takes a part of the network out and says what that costs.
``force`` asks whether each level's driving force points to where the image still had to go, and whether the force of
classic Demons, made of the intensities in the very same state, would have done as well.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Callable, NamedTuple

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from accuracy import TASKS, models_for, read_pair, reporting_pairs
from DeepRegAttentionLib.engine.fields import gradient, resize_field, warp
from DeepRegAttentionLib.engine.geometry import Grid, displacement_transform, voxels_to_mm
from DeepRegAttentionLib.engine.guidance import Guidance
from DeepRegAttentionLib.engine.intensity import Scale
from DeepRegAttentionLib.engine.maps import driving_force
from DeepRegAttentionLib.engine.method import choose_method
from DeepRegAttentionLib.engine.metrics import dice, mean_over_labels
from DeepRegAttentionLib.engine.models.files import find_model, load_model
from DeepRegAttentionLib.engine.networks.attention import BidirectionalCrossAttention, Matches, RegionalAttention
from DeepRegAttentionLib.engine.networks.blocks import NetworkOutput
from DeepRegAttentionLib.engine.networks.drivenmorph import DifferenceModel, NeuralDemons
from DeepRegAttentionLib.engine.options import RegistrationOptions
from DeepRegAttentionLib.engine.refine import Objective, refine
from DeepRegAttentionLib.engine.resampling import warp_image
from DeepRegAttentionLib.engine.working_pair import working_pair
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

SHARES = (0.02, 0.05, 0.1, 0.2)
REFINEMENT_STEPS = 40
BLOCK_MM, RANDOM_DRAWS, NOISE, DARK = 8.0, 2, 0.02, 0.02
Row = dict[str, float]


class Seen(NamedTuple):
    """Two images as a network sees them, ``(1, 1, K, J, I)`` in 0..1, and the grid of that."""

    fixed: Tensor
    moving: Tensor
    grid: Grid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=list(EXPERIMENTS))
    parser.add_argument("data", type=Path, help="folder in which the data sets lie")
    parser.add_argument("--task", choices=list(TASKS), nargs="+", default=list(TASKS))
    parser.add_argument("--models", nargs="+", help="all that suit the task, if not given")
    parser.add_argument("--pairs", type=int, default=6, help="at most so many for each task")
    arguments = parser.parse_args()
    for task in arguments.task:
        options, pairs = reporting_pairs(TASKS[task], arguments.data, arguments.pairs)
        ignored = set(options.ignore_labels)
        for model in (name for name in models_for(task) if name in (arguments.models or models_for(task))):
            rows = [EXPERIMENTS[arguments.experiment](model, *read_pair(pair), ignored) for pair in pairs]
            if rows[0]:
                show(f"{arguments.experiment}: {task}, {model}, {len(rows)} pairs", rows)


def show(title: str, rows: Sequence[dict[str, Row]]) -> None:
    """The mean over the pairs, and its range."""
    columns = list(next(iter(rows[0].values())))
    table = Table("", *columns, title=title)
    for name in rows[0]:
        values = np.array([[row[name][column] for column in columns] for row in rows])
        cells = zip(values.mean(axis=0), values.min(axis=0), values.max(axis=0))
        table.add_row(name, *(f"{mean:.3f} ({low:.3f} to {high:.3f})" for mean, low, high in cells))
    Console().print(table)


def seen(model: str, fixed: sitk.Image, moving: sitk.Image) -> Seen:
    """What the network of a model would be given, without linear alignment."""
    method = choose_method(fixed, moving, RegistrationOptions(model=model))
    scales = [Scale.of(sitk.GetArrayViewFromImage(image), method.recipe) for image in (fixed, moving)]
    stays = sitk.Transform(3, sitk.sitkIdentity)
    pair = working_pair(fixed, moving, (scales[0], scales[1]), stays, Guidance(), method.grid)
    return Seen(pair.fixed, pair.moving, method.grid)


def answer(network: nn.Module, fixed: Tensor, moving: Tensor) -> NetworkOutput:
    with torch.inference_mode():
        output: NetworkOutput = network(fixed, moving)
    return output


def network_of(model: str) -> nn.Module:
    return load_model(find_model(model), torch.device("cpu"))


# An image given twice


def equal(
    model: str, fixed: sitk.Image, moving: sitk.Image, labels: sitk.Image, others: sitk.Image, ignored: set[int]
) -> dict[str, Row]:
    """How far an image is moved to itself, in mm, where it shows something."""
    network, pair = network_of(model), seen(model, fixed, moving)
    noise = NOISE * torch.randn(pair.fixed.shape, generator=torch.Generator().manual_seed(0))
    there = pair.fixed > DARK
    rows = {}
    for name, other in (("as it is", pair.fixed), ("2 % of noise in it", pair.fixed + noise * there)):
        moved = answer(network, pair.fixed, other).displacement.norm(dim=1, keepdim=True)[there] * pair.grid.spacing[0]
        rows[name] = {"mean mm": float(moved.mean()), "99th percentile mm": float(moved.quantile(0.99))}
    return rows


# The difference taken away where a map is highest


def deletion(
    model: str, fixed: sitk.Image, moving: sitk.Image, labels: sitk.Image, others: sitk.Image, ignored: set[int]
) -> dict[str, Row]:
    """For each map, by how many times more than at random places the motion changes, for each share of the places."""
    network, pair = network_of(model), seen(model, fixed, moving)
    output = answer(network, pair.fixed, pair.moving)
    block = max(1, round(BLOCK_MM / pair.grid.spacing[0]))
    inside = torch.nonzero(_blocks((pair.fixed > DARK).float(), block).flatten() > 0.5)[:, 0]
    generator = torch.Generator().manual_seed(0)

    def changed(count: int, order: Tensor) -> float:
        where = _mask(inside[order[:count]], pair.fixed, block)
        # No step at the border of what is taken away: it would be a difference of its own.
        part = F.avg_pool3d(where.float(), 3, 1, 1)
        again = answer(network, torch.lerp(pair.fixed, pair.moving, part), pair.moving)
        change = (again.displacement - output.displacement).norm(dim=1, keepdim=True)
        return float(change[where].mean()) * pair.grid.spacing[0]

    counts = {f"{share:.0%}": max(1, round(share * len(inside))) for share in SHARES}
    chance = {
        share: np.mean([changed(count, torch.randperm(len(inside), generator=generator)) for _ in range(RANDOM_DRAWS)])
        for share, count in counts.items()
    }
    rows = {}
    for name, values in _maps(output, pair).items():
        order = _blocks(values, block).flatten()[inside].argsort(descending=True)
        row = {share: changed(count, order) / max(chance[share], 1e-6) for share, count in counts.items()}
        rows[name] = {**row, "mean": float(np.mean(list(row.values())))}
    return rows


def _maps(output: NetworkOutput, pair: Seen) -> dict[str, Tensor]:
    """What a result exports, ``(1, 1, K, J, I)``, and what it is to be compared with."""
    force = driving_force(output)
    maps = dict(output.maps)
    if force is not None:
        maps["driving_force_magnitude"] = force.norm(dim=1, keepdim=True)
    difference = (pair.fixed - pair.moving).abs()
    return {**maps, "for comparison: the difference": difference, "for comparison: the motion": _length(output)}


def _length(output: NetworkOutput) -> Tensor:
    return output.displacement.norm(dim=1, keepdim=True)


def _blocks(values: Tensor, block: int) -> Tensor:
    return F.avg_pool3d(values, block, ceil_mode=True)


def _mask(chosen: Tensor, like: Tensor, block: int) -> Tensor:
    """Voxels of the chosen blocks, bool like the image."""
    blocks = torch.zeros_like(_blocks(like, block))
    blocks.view(-1)[chosen] = 1.0
    for axis in (2, 3, 4):
        blocks = blocks.repeat_interleave(block, dim=axis)
    k, j, i = like.shape[2:]
    return blocks[..., :k, :j, :i] > 0


# A part taken out


def knockout(
    model: str, fixed: sitk.Image, moving: sitk.Image, labels: sitk.Image, others: sitk.Image, ignored: set[int]
) -> dict[str, Row]:
    """Dice of the network whole, and what each part that is taken out costs of it."""
    network, pair = network_of(model), seen(model, fixed, moving)

    def overlap() -> float:
        displacement = answer(network, pair.fixed, pair.moving).displacement
        transform = displacement_transform(voxels_to_mm(displacement, pair.grid), pair.grid)
        found = dice(labels, warp_image(others, fixed, transform, nearest=True))
        return mean_over_labels({label: value for label, value in found.items() if label not in ignored})

    whole = overlap()
    rows = {"whole": {"Dice": whole, "lost": 0.0}}
    for name, (kind, change) in PARTS.items():
        if any(isinstance(part, kind) for part in network.modules()):
            with changed_parts(network, kind, change):
                without = overlap()
            rows[name] = {"Dice": without, "lost": whole - without}
    return rows


@contextmanager
def changed_parts(network: nn.Module, kind: type, change: Callable[..., Any]) -> Iterator[None]:
    """What all parts of a kind answer is changed."""
    with ExitStack() as hooks:
        for part in (part for part in network.modules() if isinstance(part, kind)):
            hooks.callback(part.register_forward_hook(change).remove)
        yield


def _unmatched(part: nn.Module, given: tuple[Tensor, Tensor], said: Any) -> Any:
    """DrivenMorph: the comparison as it is where each place of the moving image is its own match."""
    fixed, moving = given
    assert isinstance(part, DifferenceModel)
    features = part.coherence(part.compare(torch.cat([fixed, moving, fixed - moving], dim=1)))
    return said._replace(features=features, weight=part.weight(features).float().sigmoid())


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


# The force beside that of the intensities


def force(
    model: str, fixed: sitk.Image, moving: sitk.Image, labels: sitk.Image, others: sitk.Image, ignored: set[int]
) -> dict[str, Row]:
    """Cosine of the forces with the motion that was left, where there is anything, level by level of each pass.

    Left is what the network went on to do, and, as that was trained for, what a refinement that knows of no force did.
    """
    network, pair = network_of(model), seen(model, fixed, moving)
    output = answer(network, pair.fixed, pair.moving)
    refined = refine(Objective(pair.fixed, pair.moving), output.displacement, REFINEMENT_STEPS)
    rows, before = {}, torch.zeros_like(output.displacements[0])
    for own, displacement in zip(output.forces, output.displacements):
        shape = own.shape[2:]
        state, factor = resize_field(before, shape), pair.fixed.shape[2] // shape[0]
        images = [F.avg_pool3d(image, factor) for image in (pair.fixed, pair.moving)]
        there = (images[0] > DARK).expand_as(own)
        # Not in mm: the grids of two pairs may differ.
        name = f"pass {len(rows) // len(output.features) + 1}, 1/{factor}"
        rows[name] = {
            f"{title}, {goal}": _cosine(field[there], (resize_field(end, shape) - state)[there])
            for title, field in (("force", own), ("classic", classic_demons(images[0], warp(images[1], state))))
            for goal, end in (("network", output.displacement), ("refined", refined))
        }
        before = displacement
    return rows


def classic_demons(fixed: Tensor, moving: Tensor) -> Tensor:
    """The symmetric force of the intensities (Thirion 1998), ``(1, 3, k, j, i)`` in voxels."""
    difference, slope = fixed - moving, gradient((fixed + moving) / 2)[:, 0]
    return difference * slope / (slope.square().sum(dim=1, keepdim=True) + difference.square() + 1e-6)


def _cosine(one: Tensor, other: Tensor) -> float:
    return float((one * other).sum() / (one.norm() * other.norm()).clamp_min(1e-6))


PARTS: dict[str, tuple[type, Callable[..., Any]]] = {
    "without the driving force": (NeuralDemons, _no_force),
    "without matches (local cross-attention)": (DifferenceModel, _unmatched),
    "attention the same everywhere": (DifferenceModel, _even),
    "without cross-attention": (BidirectionalCrossAttention, _alone),
    "regional gate the same everywhere": (RegionalAttention, _flat),
}
EXPERIMENTS = {"equal": equal, "deletion": deletion, "knockout": knockout, "force": force}


if __name__ == "__main__":
    main()
