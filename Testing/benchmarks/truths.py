"""Registrations whose true error is known: images moved by a known deformation, and pairs with structures.

No subject has two of the three purposes: to fit the predictor, to make its bound hold, to report. Models trained on
many of those that fit, on none of the others. What a folder holds of them already is not registered again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Optional

import numpy as np
import SimpleITK as sitk
import torch
from DeepRegAttentionLib.dataset import ImageFiles, read_cases, select
from DeepRegAttentionLib.engine.clock import Clock
from DeepRegAttentionLib.engine.deform import Deformation, deform
from DeepRegAttentionLib.engine.fields import exponentiate, warp
from DeepRegAttentionLib.engine.geometry import Grid, displacement_transform, voxels_to_mm
from DeepRegAttentionLib.engine.guidance import Guidance
from DeepRegAttentionLib.engine.images import read_image
from DeepRegAttentionLib.engine.intensity import DARK, Scale
from DeepRegAttentionLib.engine.method import Method, choose_method
from DeepRegAttentionLib.engine.models.files import find_model
from DeepRegAttentionLib.engine.models.listing import ModelFile
from DeepRegAttentionLib.engine.options import RegistrationOptions
from DeepRegAttentionLib.engine.prealign import prealign
from DeepRegAttentionLib.engine.resampling import warp_image
from DeepRegAttentionLib.engine.resources import resource_folder
from DeepRegAttentionLib.engine.working_pair import WorkingPair, working_pair
from DeepRegAttentionLib.training.augmentation import Augmentation, Chance, intensity_changes, smooth_noise
from DeepRegAttentionLib.training.options import TrainingOptions, read_training_options

METHODS = {
    "brain-t1": ("brain",), "hippocampus-mr": ("hippocampus",), "cardiac-mr": ("heart",),
    "any-contrast": ("hippocampus", "heart", "brain"), "none": ("hippocampus", "heart", "brain"),
}  # fmt: skip
"""Each method, and the anatomies that it is made for."""

ROLES = ("fit", "conform", "report")
MOVED, BORDER, FOREIGN, WRONG = "moved", "border", "foreign", "wrong"
"""A known deformation; structures; a known deformation of anatomy that the method is not made for; an answer that no
registration gave, wrong on purpose by up to some voxels."""

_RECIPES = {"brain": "brain-t1", "hippocampus": "hippocampus-mr", "heart": "cardiac-mr"}
# A deformation varies over so many parts of the longest side; the strongest moves by a third of that, without a fold.
_SCALES, _STRENGTH = (0.25, 0.12, 0.06), 0.33
# From images that hardly moved to what differs between two people.
_AMPLITUDES = (0.1, 1.0)
_CHANGES = Augmentation(
    gamma=Chance(0.8, (0.6, 1.6)), bias=Chance(0.7, (-0.3, 0.3)), noise=Chance(0.8, (0.0, 0.05)),
    blur=Chance(0.3, (0.3, 1.0)),
)  # fmt: skip
# How far wrong answers are off.
_VOXELS_OFF = (0.3, 8.0)
# How many cases of each anatomy have each purpose, and how many pairs with structures: errors at borders are mostly
# chance, and it takes many to see what is not. Where there are fewer subjects each is moved several times.
_CASES = {"brain": (30, 18, 12), "hippocampus": (60, 45, 24), "heart": (60, 40, 20)}
_WRONG = {"fit": 12, "conform": 0, "report": 4}
_PAIRS = {"brain": (40, 0, 8), "hippocampus": (160, 0, 20), "heart": (80, 0, 20)}
_SEEN = ("mask", "fixed_view", "moving_view")
# How many voxels around a structure its warped counterpart is looked for.
_AROUND = 15


@dataclass(frozen=True)
class Trial:
    """One registration whose error will be known: of an image with itself, moved, or of two images.

    ``refined`` says whether with the refinement that the method recommends, or none.
    """

    method: str
    role: str
    kind: str
    task: str
    fixed: ImageFiles
    moving: ImageFiles
    seed: int = 0
    refined: bool = False

    @property
    def key(self) -> str:
        """Tells it from all others; the name of its file."""
        name = f"{self.kind}-{self.role}-{self.task}-{self.fixed.name}-{self.moving.name}-{self.seed}"
        return f"{name}-refined" if self.refined else name


@dataclass(frozen=True)
class Known:
    """A registration and its true error.

    Attributes
    ----------
    pair : WorkingPair
        What was registered.
    displacement : Tensor
        The answer, ``(1, 3, K, J, I)`` in voxels.
    error : Tensor
        How far it is off, ``(1, 1, K, J, I)`` in mm; NaN where that is not known.
    spacing_mm : float
        Of the working grid.
    """

    pair: WorkingPair
    displacement: torch.Tensor
    error: torch.Tensor
    spacing_mm: float


# Which


class Subjects:
    """The cases of each anatomy by their purpose.

    What chose the weights of a model fits, too, with its structures, where there are other images to make bounds hold.
    """

    def __init__(self, data: Path) -> None:
        self._moved: dict[tuple[str, str], list[ImageFiles]] = {}
        self._with_structures: dict[tuple[str, str], list[list[ImageFiles]]] = {}
        bare = {
            "brain": _shares(read_cases(data / "ds002748"), 22, 16),
            "hippocampus": _shares(_images(data / "hippocampus" / "unlabelled"), 50, 40),
            "heart": ([], [], []),
        }
        for task, recipe in _RECIPES.items():
            trained, chose, reports = self._by_model(data, recipe)
            fit, conform, others = bare[task]
            self._moved[task, "fit"] = [*trained, *fit]
            self._moved[task, "conform"] = conform or chose
            self._moved[task, "report"] = [*reports, *others]
            self._with_structures[task, "fit"] = [trained, chose] if conform else [trained]
            self._with_structures[task, "report"] = [reports]

    @staticmethod
    def _by_model(data: Path, recipe: str) -> tuple[list[ImageFiles], list[ImageFiles], list[ImageFiles]]:
        """What the model of a recipe trained on with structures, what chose its weights, and what it reports on."""
        options = _recipe(recipe)
        cases = [case for case in read_cases(data / str(options.data.cases), data) if case.labels is not None]
        chose, reports = select(cases, options.validation), select(cases, options.test)
        return [case for case in cases if case not in chose and case not in reports], chose, reports

    def of(self, task: str, role: str, count: int) -> list[ImageFiles]:
        """At most so many to be moved, evenly spaced among those with structures and those without."""
        cases = self._moved[task, role]
        known, others = ([case for case in cases if (case.labels is None) == bare] for bare in (False, True))
        return [*spread(known, count - min(len(others), count // 2)), *spread(others, count // 2)]

    def pairs(self, task: str, role: str, count: int) -> list[tuple[ImageFiles, ImageFiles]]:
        """Pairs with structures, at most so many: of one patient for the heart, of two people else.

        As many are such that a model trained on as such that it did not, as far as there are.
        """
        sources = self._with_structures.get((task, role), [])
        return [pair for cases in sources for pair in spread(_pairs(cases), count // len(sources))]

    def everyone(self, task: str, role: str) -> list[ImageFiles]:
        """All cases that may serve a purpose."""
        sources = self._with_structures.get((task, role), [])
        return [*self._moved[task, role], *(case for cases in sources for case in cases)]


def _pairs(cases: list[ImageFiles]) -> list[tuple[ImageFiles, ImageFiles]]:
    """Each with the next, each with the one after that, and so on: few are of as many subjects as can be."""
    rings = (zip(cases, [*cases[step:], *cases[:step]]) for step in range(1, len(cases)))
    return [pair for ring in rings for pair in ring if pair[0].group == pair[1].group]


def _shares(cases: list[ImageFiles], first: int, second: int) -> tuple[list[ImageFiles], ...]:
    return cases[:first], cases[first : first + second], cases[first + second :]


def _images(folder: Path) -> list[ImageFiles]:
    return [ImageFiles(path.name.split(".")[0], path) for path in sorted(folder.glob("*.nii.gz"))]


def _recipe(name: str) -> TrainingOptions:
    return read_training_options(resource_folder("Training") / f"{name}.yaml")


def spread(items: Sequence, count: int) -> list:
    """So many items, evenly spaced."""
    return list(items) if len(items) <= count else [items[n * len(items) // count] for n in range(max(0, count))]


def trials(data: Path, method: str, role: str) -> Iterator[Trial]:
    """What is registered by a method for a purpose."""
    subjects, own = Subjects(data), METHODS[method]
    for task in own:
        # A method for any anatomy learns from all of them, but its bound is to hold for each.
        share = len(own) if role == "fit" else min(2, len(own))
        moved, bordered = (-(-counts[task][ROLES.index(role)] // share) for counts in (_CASES, _PAIRS))
        cases = subjects.of(task, role, moved)
        for n in range(moved):
            case = cases[n % len(cases)]
            yield Trial(method, role, MOVED, task, case, case, seed=n // len(cases))
        for n in range(-(-_WRONG[role] // share)):
            yield Trial(method, role, WRONG, task, cases[n % len(cases)], cases[n % len(cases)], seed=n)
        yield from (Trial(method, role, BORDER, task, *pair) for pair in subjects.pairs(task, role, bordered))
    for task in _RECIPES:
        if task not in own and role != "conform":
            for case in subjects.of(task, role, 2):
                yield Trial(method, role, FOREIGN, task, case, case)


def refined_trials(data: Path, method: str) -> Iterator[Trial]:
    """Those that report, without anything foreign or wrong, refined; none if the method recommends no refinement."""
    model = model_of(method)
    if model is None or model.info.refine:
        for trial in trials(data, method, "report"):
            if trial.kind in (MOVED, BORDER):
                yield replace(trial, refined=True)


# What comes of them


def model_of(method: str) -> Optional[ModelFile]:
    return None if method == "none" else find_model(method)


def known(trial: Trial, folder: Path) -> Known:
    """From the folder, or registered and put there."""
    path = folder / trial.method / f"{trial.key}.npz"
    if not path.exists():
        found = registered(trial)
        keep(
            path, fixed=found.pair.fixed, moving=found.pair.moving, error=found.error,
            displacement=found.displacement, spacing=torch.tensor(found.spacing_mm), **views(found.pair),
        )  # fmt: skip
    with np.load(path) as file:
        fields = {name: torch.from_numpy(np.array(file[name])).float() for name in file.files}
    pair = WorkingPair(fields["fixed"], fields["moving"], **{name: fields[name] for name in _SEEN if name in fields})
    return Known(pair, fields["displacement"], fields["error"], float(fields["spacing"]))


def views(pair: WorkingPair) -> dict[str, torch.Tensor]:
    """What is known of where the images of a pair were acquired, by its names there."""
    return {name: getattr(pair, name) for name in _SEEN if getattr(pair, name) is not None}


def keep(path: Path, **tensors: torch.Tensor) -> None:
    """Write tensors in half precision, the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    begun = path.with_suffix(f".{os.getpid()}.npz")
    np.savez_compressed(begun, **{name: tensor.half().numpy() for name, tensor in tensors.items()})
    begun.replace(path)


def registered(trial: Trial) -> Known:
    """Register a trial; without refinement that is the network alone, or on coarse grids where none fits."""
    fixed, moving = (read_image(case.image) for case in (trial.fixed, trial.moving))
    options = RegistrationOptions(model=trial.method, refine=None if trial.refined else 0, spacing=_spacing(trial))
    method = choose_method(fixed, moving, options)
    linear = sitk.Transform(3, sitk.sitkIdentity)
    if trial.kind == BORDER:
        linear = prealign(fixed, moving, options.prealign)
    scales = tuple(Scale.of(sitk.GetArrayViewFromImage(image), method.recipe) for image in (fixed, moving))
    pair = working_pair(fixed, moving, (scales[0], scales[1]), linear, Guidance(), method.grid)
    if trial.kind == BORDER:
        found = _deformed(pair, method, options)
        error = _across_borders(trial, linear, found, method.grid)
    else:
        random = np.random.default_rng([trial.seed, *trial.fixed.name.encode()])
        pair, truth = moved(pair, random, trial.method)
        found = _wrong(truth, random) if trial.kind == WRONG else _deformed(pair, method, options)
        error = method.grid.spacing[0] * (found - truth).norm(dim=1, keepdim=True)
        error[~in_view(truth)] = torch.nan
        if pair.fixed_view is not None:
            error[pair.fixed_view <= 0.5] = torch.nan
    return Known(pair, found, error, method.grid.spacing[0])


def _spacing(trial: Trial) -> Optional[float]:
    """That of the model, but no finer than suits the images, which takes long; without one, that which suits them."""
    model, suits = model_of(trial.method), _recipe(_RECIPES[trial.task]).spacing
    if model is None:
        return suits
    own = model.info.spacing
    return max(own, suits) if trial.kind == FOREIGN and own and suits else own


def _deformed(pair: WorkingPair, method: Method, options: RegistrationOptions) -> torch.Tensor:
    found = deform(pair, method, options, Clock())
    assert isinstance(found, Deformation)
    return found.displacement.float()


def moved(pair: WorkingPair, random: np.random.Generator, method: str) -> tuple[WorkingPair, torch.Tensor]:
    """The fixed image and itself, moved, with another contrast each, and the displacement that undoes it, voxels."""
    there, back = known_deformation(pair.fixed.shape[2:], random)
    change = intensity_changes(_CHANGES)
    images = [
        torch.where(image > DARK, change(image[0], int(random.integers(2**31)))[None], image)
        for image in (pair.fixed, warp(pair.fixed, there))
    ]
    if method == "any-contrast" and random.random() < 0.5:
        images[1] = torch.where(images[1] > DARK, (1.05 - images[1]).clamp(DARK, 1), images[1])
    if pair.fixed_view is None:
        return WorkingPair(images[0], images[1]), back
    view = warp(pair.fixed_view, there)
    return WorkingPair(images[0], images[1], pair.fixed_view * view, fixed_view=pair.fixed_view, moving_view=view), back


def known_deformation(shape: Sequence[int], random: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """A displacement on a grid ``(K, J, I)`` and the one that undoes it, ``(1, 3, K, J, I)``, voxels."""
    generator = torch.Generator().manual_seed(int(random.integers(2**31)))
    velocity, amplitude = torch.zeros(1, 3, *shape), random.uniform(*_AMPLITUDES)
    for part in _SCALES:
        reach = max(2.0, part * max(shape))
        strength = amplitude * random.uniform(0.05, 1.0) * _STRENGTH / 2 * reach
        velocity += strength * smooth_noise(3, shape, reach, generator)
    return exponentiate(velocity), exponentiate(-velocity)


def _wrong(truth: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """A part of the way to the truth, and beside it by up to some voxels, everywhere alike or here and there."""
    reach = max(2.0, _SCALES[0] * max(truth.shape[2:]))
    generator = torch.Generator().manual_seed(int(random.integers(2**31)))
    beside = smooth_noise(3, truth.shape[2:], reach, generator)
    if random.random() < 0.5:
        beside = torch.from_numpy(random.normal(size=(1, 3, 1, 1, 1))).float().expand_as(truth)
    return random.uniform() * truth + min(np.exp(random.uniform(*np.log(_VOXELS_OFF))), reach / 3) * beside


def in_view(truth: torch.Tensor) -> torch.Tensor:
    """Where the place that belongs to it lies on the grid, too: beyond there is nothing to be found."""
    shape = torch.tensor(truth.shape[2:])
    axes = torch.meshgrid(*[torch.arange(n) for n in truth.shape[2:]], indexing="ij")
    there = torch.stack(axes) + truth[0]
    inside = (there >= 0) & (there <= (shape - 1).reshape(3, 1, 1, 1))
    return inside.all(dim=0)[None, None]


def _across_borders(trial: Trial, linear: sitk.Transform, found: torch.Tensor, grid: Grid) -> torch.Tensor:
    """At the surfaces of the fixed structures the distance to the warped ones, mean in each voxel of the grid."""
    assert trial.fixed.labels is not None
    assert trial.moving.labels is not None
    ignored = dict.fromkeys(_recipe(_RECIPES[trial.task]).ignore_labels, 0)
    fixed, moving = (
        sitk.ChangeLabel(sitk.Cast(read_image(path), sitk.sitkUInt8), ignored)
        for path in (trial.fixed.labels, trial.moving.labels)
    )
    field = displacement_transform(voxels_to_mm(found, grid), grid)
    warped = warp_image(moving, fixed, sitk.CompositeTransform([linear, field]), nearest=True)
    total, count = (np.zeros(grid.size[::-1]) for _ in range(2))
    for place, distance in surface_distances(fixed, warped):
        k, j, i = _indices(place, Grid.of(fixed), grid).T
        np.add.at(total, (k, j, i), distance)
        np.add.at(count, (k, j, i), 1)
    error = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return torch.from_numpy(error).float()[None, None]


def surface_distances(fixed: sitk.Image, warped: sitk.Image) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each structure that both have the surface, voxels ``(N, 3)`` (i, j, k), and how far the other is, mm.

    Both surfaces are smoothed by a voxel, so that a distance can be less than one.
    """
    boxes = sitk.LabelShapeStatisticsImageFilter()
    boxes.Execute(fixed)
    both = set(boxes.GetLabels()) & set(np.unique(sitk.GetArrayViewFromImage(warped)).tolist())
    for label in sorted(both - {0}):
        start, size = np.split(np.array(boxes.GetBoundingBox(label)), 2)
        first, last = (start - _AROUND).clip(0), np.minimum(start + size + _AROUND, fixed.GetSize())
        box = [slice(int(one), int(other)) for one, other in zip(first, last)]
        own, other = (image[box[0], box[1], box[2]] == label for image in (fixed, warped))
        place = np.argwhere(sitk.GetArrayFromImage(sitk.LabelContour(own)))
        apart = np.abs(_signed_distance(own) - _signed_distance(other))
        yield place[:, ::-1] + first, apart[tuple(place.T)]


def _signed_distance(structure: sitk.Image) -> np.ndarray:
    """To its surface, mm, negative inside; smoothed."""
    distance = sitk.SignedMaurerDistanceMap(structure, squaredDistance=False, useImageSpacing=True)
    return sitk.GetArrayFromImage(sitk.DiscreteGaussian(distance, min(structure.GetSpacing()) ** 2))


def _indices(place: np.ndarray, own: Grid, grid: Grid) -> np.ndarray:
    """The voxels (k, j, i) of a grid in which voxels (i, j, k) of another lie."""
    matrix = np.linalg.inv(grid.index_to_point) @ own.index_to_point
    index = np.rint(place @ matrix[:3, :3].T + matrix[:3, 3]).astype(int)
    return index.clip(0, np.array(grid.size) - 1)[:, ::-1]
