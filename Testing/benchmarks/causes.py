"""Whether what a model shows is what moves the image: experiments on its network alone, on pairs that it never saw.

    python Testing/benchmarks/causes.py all ../shared/data --output results --record
    python Testing/benchmarks/causes.py deletion ../shared/data --task hippocampus
    python Testing/benchmarks/causes.py force ../shared/data --task heart --models cardiac-mr runs/other.safetensors

``equal`` gives an image twice, as it is and with noise of 2 % in one: how far it moves. ``inside`` says how many times
higher than outside each map is inside of what the fixed image shows. ``knockout`` takes a part of the network out and
says what that costs; ``structures`` refines without what a model recognises, and with one structure taken for another,
and ``differing`` with no difference of structures where that is largest. ``deletion`` takes the difference of the
images away where a map is highest, by showing the moving image there in both, and at as many random places inside: how
much more the motion changes there. A map that is a cause changes it more than chance, and at best as much as the motion
itself, taken as a map, would. ``force`` asks whether each level's driving force points to where the image still had to
go, and whether the force of classic Demons, made of the intensities in the very same state, would have done as well.

What the output folder holds of other experiments, tasks and models stays in its tables, so that they can be made in
several goes; ``--record`` writes them into the documentation. A network that was trained otherwise is scored under the
name of its file.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Callable, NamedTuple, Optional

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from accuracy import TASKS, models_for, read_pair, reporting_pairs
from causes_parts import PARTS, changed_parts
from causes_tables import AREA, DIFFERENCE, MOTION, SHARES, Measured, in_order, measured_before, publish, table, write
from DeepRegAttentionLib.dataset import Pair
from DeepRegAttentionLib.engine.errors import ModelError
from DeepRegAttentionLib.engine.fields import gradient, resize, resize_field, warp
from DeepRegAttentionLib.engine.geometry import Grid, displacement_transform, voxels_to_mm
from DeepRegAttentionLib.engine.guidance import Guidance
from DeepRegAttentionLib.engine.intensity import Scale
from DeepRegAttentionLib.engine.maps import driving_force
from DeepRegAttentionLib.engine.method import choose_method
from DeepRegAttentionLib.engine.metrics import dice, mean_over_labels
from DeepRegAttentionLib.engine.models.files import find_model, load_model
from DeepRegAttentionLib.engine.networks.blocks import NetworkOutput
from DeepRegAttentionLib.engine.networks.structures import RecognisingStructures
from DeepRegAttentionLib.engine.options import MODEL_SUFFIX, RegistrationOptions
from DeepRegAttentionLib.engine.refine import Objective, Structures, recognised, refine
from DeepRegAttentionLib.engine.resampling import warp_image
from DeepRegAttentionLib.engine.working_pair import working_pair
from rich.console import Console
from rich.markdown import Markdown
from scipy import ndimage
from scipy.integrate import trapezoid
from torch import Tensor, nn

REFINEMENT_STEPS = 40
BLOCK_MM, RANDOM_DRAWS, NOISE = 8.0, 2, 0.02
BORDER_MM, LEAST_OUTSIDE = 6.0, 0.05
"""How far from the border of what an image shows its inside and outside begin, and the least share of the latter."""
Row = dict[str, float]


class Seen(NamedTuple):
    """Two images as a network sees them, ``(1, 1, K, J, I)`` in 0..1, and the grid of that.

    ``shown`` is where the fixed image shows something, ``view`` where it was acquired at all, both bool.
    """

    fixed: Tensor
    moving: Tensor
    shown: Tensor
    view: Tensor
    grid: Grid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=[*EXPERIMENTS, "all"])
    parser.add_argument("data", type=Path, help="folder in which the data sets lie")
    parser.add_argument("--task", choices=list(TASKS), nargs="+", default=list(TASKS))
    parser.add_argument("--models", nargs="+", help="names, or files; all that suit the task, if not given")
    parser.add_argument("--pairs", type=int, default=6, help="at most so many for each task")
    parser.add_argument("--output", type=Path, default=Path("causes"), help="folder for tables and figure")
    parser.add_argument("--record", action="store_true", help="write tables and figure into the documentation")
    arguments = parser.parse_args()
    try:
        for model in arguments.models or ():
            find_model(model)
    except ModelError as error:
        parser.error(str(error))
    asked = list(EXPERIMENTS) if arguments.experiment == "all" else [arguments.experiment]
    for task in arguments.task:
        options, pairs = reporting_pairs(TASKS[task], arguments.data, arguments.pairs)
        for model in chosen(task, arguments.models):
            for experiment in asked:
                rows = measure(experiment, task, model, pairs, set(options.ignore_labels))
                write(in_order([*measured_before(arguments.output, rows), *rows]), arguments.output)
                Console().print(Markdown(table(experiment, rows)))
    if arguments.record:
        publish(arguments.output)


def chosen(task: str, asked: Optional[Sequence[str]]) -> list[str]:
    """Of the models that were asked for, those that suit the task and all files; without any, all that suit it."""
    suitable = models_for(task)
    if asked is None:
        return suitable
    return [model for model in asked if model in suitable or model.endswith(MODEL_SUFFIX)]


def measure(experiment: str, task: str, model: str, pairs: Sequence[Pair], ignored: set[int]) -> list[Measured]:
    """One experiment on all pairs."""
    name = Path(model).stem if model.endswith(MODEL_SUFFIX) else model
    return [
        Measured(experiment, task, name, f"{pair[0].name} {pair[1].name}", what, column, value)
        for pair in pairs
        for what, row in EXPERIMENTS[experiment](model, *read_pair(pair), ignored).items()
        for column, value in row.items()
    ]


def seen(model: str, fixed: sitk.Image, moving: sitk.Image) -> Seen:
    """What the network of a model would be given, without linear alignment."""
    method = choose_method(fixed, moving, RegistrationOptions(model=model))
    scales = [Scale.of(sitk.GetArrayViewFromImage(image), method.recipe) for image in (fixed, moving)]
    stays = sitk.Transform(3, sitk.sitkIdentity)
    pair = working_pair(fixed, moving, (scales[0], scales[1]), stays, Guidance(), method.grid)
    view = torch.ones_like(pair.fixed) if pair.fixed_view is None else pair.fixed_view
    return Seen(pair.fixed, pair.moving, pair.fixed_object, view > 0.5, method.grid)


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
    rows = {}
    for name, other in (("as it is", pair.fixed), ("2 % of noise in it", pair.fixed + noise * pair.shown)):
        displacement = answer(network, pair.fixed, other).displacement
        moved = displacement.norm(dim=1, keepdim=True)[pair.shown] * pair.grid.spacing[0]
        rows[name] = {"mean mm": float(moved.mean()), "99th percentile mm": float(moved.quantile(0.99))}
    return rows


# Inside and outside of what the fixed image shows


def inside(
    model: str, fixed: sitk.Image, moving: sitk.Image, labels: sitk.Image, others: sitk.Image, ignored: set[int]
) -> dict[str, Row]:
    """The mean of each exported map inside, over that outside; nothing of an image that shows something all over."""
    network, pair = network_of(model), seen(model, fixed, moving)
    within, without = inside_and_outside(pair.shown, BORDER_MM / pair.grid.spacing[0])
    without = without & pair.view
    if float(without.float().mean()) < LEAST_OUTSIDE:
        return {}
    maps = _exported(answer(network, pair.fixed, pair.moving))
    means = {name: (float(values[within].mean()), float(values[without].mean())) for name, values in maps.items()}
    return {name: {"inside over outside": high / max(low, 1e-6)} for name, (high, low) in means.items()}


def inside_and_outside(shown: Tensor, border: float) -> tuple[Tensor, Tensor]:
    """Bool like what an image shows: more than so many voxels from the border of that, on either side; no holes."""
    head = ndimage.binary_fill_holes(shown[0, 0].numpy())

    def away(side: np.ndarray) -> Tensor:
        return torch.from_numpy(ndimage.distance_transform_edt(side) > border)[None, None]

    return away(head), away(~head)


# The difference taken away where a map is highest


def deletion(
    model: str, fixed: sitk.Image, moving: sitk.Image, labels: sitk.Image, others: sitk.Image, ignored: set[int]
) -> dict[str, Row]:
    """For each map, how many times as much as at random places the motion changes, for each share of the places.

    The area under that curve is relative to its width: the mean height.
    """
    network, pair = network_of(model), seen(model, fixed, moving)
    output = answer(network, pair.fixed, pair.moving)
    block, places = _block_places(pair)
    generator = torch.Generator().manual_seed(0)

    def without(part: Tensor) -> Tensor:
        return answer(network, torch.lerp(pair.fixed, pair.moving, part), pair.moving).displacement

    def changed(count: int, order: Tensor) -> float:
        where = _mask(places[order[:count]], pair.fixed, block)
        return _change(where, without, output.displacement) * pair.grid.spacing[0]

    counts = _counts(places)
    chance = {
        share: np.mean([changed(count, torch.randperm(len(places), generator=generator)) for _ in range(RANDOM_DRAWS)])
        for share, count in counts.items()
    }
    rows = {}
    for name, values in _maps(output, pair).items():
        order = _blocks(values, block).flatten()[places].argsort(descending=True)
        row = {share: changed(count, order) / max(chance[share], 1e-6) for share, count in counts.items()}
        rows[name] = {**row, AREA: _area(row)}
    return rows


def differing(
    model: str, fixed: sitk.Image, moving: sitk.Image, labels: sitk.Image, others: sitk.Image, ignored: set[int]
) -> dict[str, Row]:
    """As :func:`deletion`, of the refinement: what is taken away is that structures differ.

    Nothing of a model that recognises none.
    """
    refining = _refining(model, fixed, moving)
    if refining is None:
        return {}
    pair, start, goal, found, steps = refining
    left = warp(found.moving, resize_field(start, found.fixed.shape[2:]))

    def refined(part: Tensor) -> Tensor:
        alike = torch.lerp(found.fixed, left, resize(part, left.shape[2:]))
        return refine(replace(goal, structures=replace(found, fixed=alike)), start, steps)

    block, places = _block_places(pair)
    highest = _blocks(found.differing(start), block).flatten()[places].argsort(descending=True)
    generator, whole = torch.Generator().manual_seed(0), refined(torch.zeros_like(pair.fixed))

    def changed(count: int, order: Tensor) -> float:
        return _change(_mask(places[order[:count]], pair.fixed, block), refined, whole)

    row = {}
    for share, count in _counts(places).items():
        chance = torch.randperm(len(places), generator=generator)
        row[share] = changed(count, highest) / max(changed(count, chance), 1e-6)
    return {"structures": {**row, AREA: _area(row)}}


def _change(where: Tensor, without: Callable[[Tensor], Tensor], before: Tensor) -> float:
    """How far a motion changes, voxels, in the places where something is taken away.

    The motion ``without`` it follows from how much of it each voxel loses, ``(1, 1, K, J, I)`` in 0..1.
    """
    # No step at the border of what is taken away: it would be a difference of its own.
    change = (without(F.avg_pool3d(where.float(), 3, 1, 1)) - before).norm(dim=1, keepdim=True)
    return float(change[where].mean())


def _area(row: Row) -> float:
    """Under the curve of a row over the shares, over its width."""
    return float(trapezoid(list(row.values()), SHARES)) / (SHARES[-1] - SHARES[0])


class Refining(NamedTuple):
    """The refinement that a model recommends: where it starts, its goal without structures, those, and its steps."""

    pair: Seen
    start: Tensor
    plain: Objective
    found: Structures
    steps: int


def _refining(model: str, fixed: sitk.Image, moving: sitk.Image) -> Optional[Refining]:
    """None of a model that recognises nothing in the images."""
    network, pair, info = network_of(model), seen(model, fixed, moving), find_model(model).info
    if not isinstance(network, RecognisingStructures):
        return None
    found = recognised(network.structures, pair.fixed, pair.moving, info.structures_share)
    if found is None:
        return None
    output = answer(network, pair.fixed, pair.moving)
    strength = None if output.regularization is None else output.regularization.clone()
    plain = Objective(pair.fixed, pair.moving, weight=info.regularization, strength=strength)
    return Refining(pair, output.displacement.clone(), plain, found, info.refine)


def _block_places(pair: Seen) -> tuple[int, Tensor]:
    """Side of a block in voxels, and the numbers of the blocks in which the fixed image shows something."""
    block = max(1, round(BLOCK_MM / pair.grid.spacing[0]))
    return block, torch.nonzero(_blocks(pair.shown.float(), block).flatten() > 0.5)[:, 0]


def _counts(places: Tensor) -> dict[str, int]:
    """How many of the places each share of them is."""
    return {f"{share:.0%}": max(1, round(share * len(places))) for share in SHARES}


def _exported(output: NetworkOutput) -> dict[str, Tensor]:
    """What a result exports of the network, ``(1, 1, K, J, I)``."""
    force = driving_force(output)
    own = {} if force is None else {"driving_force_magnitude": force.norm(dim=1, keepdim=True)}
    return {**output.maps, **own}


def _maps(output: NetworkOutput, pair: Seen) -> dict[str, Tensor]:
    """What a result exports, and what it is to be compared with."""
    difference = (pair.fixed - pair.moving).abs()
    return {**_exported(output), DIFFERENCE: difference, MOTION: output.displacement.norm(dim=1, keepdim=True)}


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
        return _overlap(displacement, pair.grid, labels, others, ignored)

    whole = overlap()
    rows = {"whole": {"Dice": whole, "lost": 0.0}}
    for name, (kind, change) in PARTS.items():
        if any(isinstance(part, kind) for part in network.modules()):
            with changed_parts(network, kind, change):
                without = overlap()
            rows[name] = {"Dice": without, "lost": whole - without}
    return rows


def _overlap(displacement: Tensor, grid: Grid, labels: sitk.Image, others: sitk.Image, ignored: set[int]) -> float:
    transform = displacement_transform(voxels_to_mm(displacement, grid), grid)
    found = dice(labels, warp_image(others, labels, transform, nearest=True))
    return mean_over_labels({label: value for label, value in found.items() if label not in ignored})


# The recognised structures taken out, and exchanged


def structures(
    model: str, fixed: sitk.Image, moving: sitk.Image, labels: sitk.Image, others: sitk.Image, ignored: set[int]
) -> dict[str, Row]:
    """Dice of the refinement with what is recognised, without it, and with each structure taken for another.

    Nothing of a model that recognises none.
    """
    refining = _refining(model, fixed, moving)
    if refining is None:
        return {}
    pair, start, plain, found, steps = refining
    exchanged = replace(found, moving=found.moving.roll(1, dims=1))
    goals = {"with the structures": found, "without": None, "structures exchanged": exchanged}
    displacements = {"network alone": start}
    for name, goal in goals.items():
        displacements[name] = refine(replace(plain, structures=goal), start, steps)
    return {name: {"Dice": _overlap(u, pair.grid, labels, others, ignored)} for name, u in displacements.items()}


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
        there = (F.avg_pool3d(pair.shown.float(), factor) > 0.5).expand_as(own)
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


EXPERIMENTS = {
    "equal": equal,
    "knockout": knockout,
    "structures": structures,
    "differing": differing,
    "inside": inside,
    "deletion": deletion,
    "force": force,
}


if __name__ == "__main__":
    main()
