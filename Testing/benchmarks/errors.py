"""The expected error against the true one, where the truth is known: real images, moved by a known deformation.

Cases that train a model fit how signs become an error, those that choose its weights make the bound hold for nine of
ten places (split conformal prediction), and those that report say how good both are. Both images of a pair get another
contrast, shading, noise and blur each.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from accuracy import TASKS
from DeepRegAttentionLib.dataset import ImageFiles, read_cases, select
from DeepRegAttentionLib.engine.clock import Clock
from DeepRegAttentionLib.engine.deform import Deformation, deform
from DeepRegAttentionLib.engine.fields import exponentiate, warp
from DeepRegAttentionLib.engine.guidance import Guidance
from DeepRegAttentionLib.engine.images import read_image
from DeepRegAttentionLib.engine.intensity import Scale
from DeepRegAttentionLib.engine.method import choose_method
from DeepRegAttentionLib.engine.models.files import find_model
from DeepRegAttentionLib.engine.options import RegistrationOptions
from DeepRegAttentionLib.engine.resources import resource_folder
from DeepRegAttentionLib.engine.trust.calibration import ANY, Calibration
from DeepRegAttentionLib.engine.trust.expected_error import expected_voxels
from DeepRegAttentionLib.engine.trust.signs import Signs, coarseness, find_signs
from DeepRegAttentionLib.engine.working_pair import WorkingPair, working_pair
from DeepRegAttentionLib.training.augmentation import Augmentation, Chance, intensity_changes, smooth_noise
from DeepRegAttentionLib.training.options import TrainingOptions, read_training_options
from rich.console import Console
from rich.table import Table
from scipy.stats import mannwhitneyu, spearmanr

Places = tuple[np.ndarray, np.ndarray]
"""Logarithms of the signs ``(N, S)``, and true errors ``(N,)`` in voxels of the working grid."""

METHODS = {
    "brain-t1-drivenmorph": "brain", "brain-t1-adregnet": "brain", "hippocampus-mr": "hippocampus",
    "cardiac-mr": "heart", "any-contrast": "hippocampus", "none": "hippocampus",
}  # fmt: skip
"""Each method, and the task whose cases it is calibrated on."""
LARGE_MM = 2.0

# A deformation varies over so many parts of the longest side; the strongest moves by a third of that, without a fold.
_SCALES, _STRENGTH = (0.25, 0.12, 0.06), 0.33
_CHANGES = Augmentation(
    gamma=Chance(0.8, (0.6, 1.6)), bias=Chance(0.7, (-0.3, 0.3)), noise=Chance(0.8, (0.0, 0.05)),
    blur=Chance(0.3, (0.3, 1.0)),
)  # fmt: skip
_SMALLEST = 0.01
_PLACES = 4000


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("errors", help="calibrate the expected error and its bound, and say how good they are")
    parser.add_argument("data", type=Path, help="folder in which the data sets lie")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--cases", type=int, default=8, help="at most so many for each of the three purposes")
    parser.add_argument("--record", action="store_true", help="write the calibration into the resources")
    parser.set_defaults(work=work)


def work(arguments: argparse.Namespace) -> None:
    found, table = (
        {},
        Table("method", "rank correlation", "within the bound %", f"area, above {LARGE_MM:g} mm", "pairs"),
    )
    for method in arguments.methods:
        fit, conform, report = (
            [observe(case, method, seed) for seed, case in enumerate(cases)]
            for cases in groups(arguments.data, method, arguments.cases)
        )
        found[method] = calibrated(method, fit, conform)
        table.add_row(method, *judged(found[method], report, spacing(method)), str(len(report)))
    Console().print(table)
    if arguments.record:
        record(found)


def groups(data: Path, method: str, count: int) -> tuple[list[ImageFiles], ...]:
    """Cases that fit, conform and report; none is in two of them."""
    options = read_training_options(resource_folder("Training") / f"{TASKS[METHODS[method]]}.yaml")
    cases = read_cases(data / str(options.data.cases), data)
    held = [select(cases, names) for names in (options.validation, options.test)]
    rest = [case for case in cases if not any(case in group for group in held)]
    return tuple(group[:: max(1, len(group) // count)][:count] for group in (rest[:60], *held))


def spacing(method: str) -> float:
    """Of the working grid, mm."""
    options: TrainingOptions = read_training_options(resource_folder("Training") / f"{TASKS[METHODS[method]]}.yaml")
    own = None if method == "none" else find_model(method).info.spacing
    return own or options.spacing or 1.0


def observe(case: ImageFiles, method: str, seed: int) -> Places:
    """Move the image of a case, register, and look at some places where there is anything."""
    image, random = read_image(case.image), np.random.default_rng(seed)
    options = RegistrationOptions(model=method, prealign="none", spacing=spacing(method))
    chosen = choose_method(image, image, options)
    scale = Scale.of(sitk.GetArrayViewFromImage(image), chosen.recipe)
    identity = sitk.Transform(3, sitk.sitkIdentity)
    pair = working_pair(image, image, (scale, scale), identity, Guidance(), chosen.grid)
    moved, truth = known(pair, random)
    found = deform(moved, chosen, options, Clock())
    assert isinstance(found, Deformation)
    signs = find_signs(moved.fixed, moved.moving, found.displacement.float(), moved.mask)
    return places(signs, (found.displacement.float() - truth).norm(dim=1, keepdim=True), random)


def known(pair: WorkingPair, random: np.random.Generator) -> tuple[WorkingPair, torch.Tensor]:
    """The pair with its moving image moved and both contrasts changed, and the displacement that undoes it, voxels."""
    shape, generator = pair.fixed.shape[2:], torch.Generator().manual_seed(int(random.integers(2**31)))
    velocity = torch.zeros(1, 3, *shape)
    for part in _SCALES:
        reach = max(2.0, part * max(shape))
        velocity += random.uniform(0.05, 1.0) * _STRENGTH / 2 * reach * smooth_noise(3, shape, reach, generator)
    there, back = exponentiate(velocity), exponentiate(-velocity)
    change = intensity_changes(_CHANGES)
    images = [
        torch.where(image > 0.02, change(image[0], int(random.integers(2**31)))[None], image)
        for image in (pair.fixed, warp(pair.fixed, there))
    ]
    return WorkingPair(**{**vars(pair), "fixed": images[0], "moving": images[1]}), back


def places(signs: Signs, error: torch.Tensor, random: np.random.Generator) -> Places:
    coarse = F.avg_pool3d(error, coarseness(error.shape[2:]))[0, 0].numpy()
    where = np.argwhere(signs.there[0, 0].numpy() > 0.5)
    k, j, i = where[random.permutation(len(where))[:_PLACES]].T
    values = signs.values.clamp_min(_SMALLEST).log()[0, :, k, j, i].numpy().T
    return values, coarse[k, j, i]


def calibrated(method: str, fit: Sequence[Places], conform: Sequence[Places]) -> Calibration:
    """Least squares between logarithms, and the factor that holds for nine of ten places of other cases."""
    signs, errors = (np.concatenate(part) for part in zip(*fit))
    known_terms = np.column_stack([signs, np.ones(len(signs))])
    *weights, offset = np.linalg.lstsq(known_terms, np.log(errors.clip(_SMALLEST)), rcond=None)[0]
    bare = Calibration(method, tuple(map(float, weights)), float(offset), 1.0)
    ratios = np.concatenate([errors / predicted(bare, signs) for signs, errors in conform])
    return Calibration(method, bare.weights, bare.offset, float(np.quantile(ratios, bare.confidence)))


def predicted(calibration: Calibration, signs: np.ndarray) -> np.ndarray:
    """By the very function that the product uses."""
    values = torch.from_numpy(np.exp(signs.T)).float()[None, :, None, None]
    return expected_voxels(Signs(values, values), calibration)[0, 0, 0, 0].numpy()


def judged(calibration: Calibration, report: Sequence[Places], mm: float) -> Iterator[str]:
    """Rank correlation, coverage of the bound, and the area under the curve for large errors."""
    signs, errors = (np.concatenate(part) for part in zip(*report))
    expected = predicted(calibration, signs)
    large = errors * mm > LARGE_MM
    yield f"{spearmanr(expected, errors)[0]:.2f}"
    yield f"{100 * np.mean(errors <= calibration.factor * expected):.1f}"
    if large.any() and not large.all():
        area = mannwhitneyu(expected[large], expected[~large]).statistic / (large.sum() * (~large).sum())
        yield f"{area:.2f} ({100 * large.mean():.0f} % are)"
    else:
        yield "none or all are"


def record(found: dict[str, Calibration]) -> None:
    """What is known of each method, and for models that nobody calibrated the largest bound of all."""
    widest = max(found.values(), key=lambda calibration: calibration.factor)
    entries = [asdict(entry) for entry in (*found.values(), Calibration(**{**asdict(widest), "method": ANY}))]
    for entry in entries:
        entry.update(
            weights=[round(weight, 4) for weight in entry["weights"]],
            offset=round(entry["offset"], 4), factor=round(entry["factor"], 3),
        )  # fmt: skip
    path = resource_folder("Trust") / "calibration.json"
    path.write_text(json.dumps({"methods": entries}, indent=2) + "\n", encoding="utf-8")
