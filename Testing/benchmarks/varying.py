"""Is a learned local strength of the regularization worth it? Three arms, each tuned alike; labels only report.

    python Testing/benchmarks/varying.py ../shared/data --output varying --record

The arms are one strength everywhere, and a local one with a Beta or a Gaussian hyperprior. Each has its own settings
tuned in as many short trainings (Bayesian optimisation), judged by how well images of the subjects that choose, moved
by a known deformation, are brought back. The best settings of each are trained with three seeds and report the overlap
of structures of other subjects, on the same pairs. What the folder holds is not done again. Needs the extra ``train``.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import optuna
import torch
from accuracy import reporting_pairs
from DeepRegAttentionLib.dataset import Pair
from DeepRegAttentionLib.engine.fields import jacobian_determinant, warp
from DeepRegAttentionLib.engine.hardware import prepare_process
from DeepRegAttentionLib.engine.intensity import DARK
from DeepRegAttentionLib.engine.networks.blocks import RegistrationNetwork
from DeepRegAttentionLib.engine.resources import resource_folder
from DeepRegAttentionLib.training.augmentation import Augmentation
from DeepRegAttentionLib.training.data import Item, PairDataset, PairReader, split_pairs
from DeepRegAttentionLib.training.module import RegistrationTraining
from DeepRegAttentionLib.training.options import SearchRange, TrainingOptions, read_training_options
from DeepRegAttentionLib.training.run import TrainingData, make_trainer
from DeepRegAttentionLib.training.tuning import importances, open_storage
from DeepRegAttentionLib.training.validation import measure
from documents import replace_part
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.trial import TrialState
from rich.console import Console
from rich.markdown import Markdown
from scipy.stats import wilcoxon
from torch import Tensor
from truths import in_view, known_deformation, spread

REPOSITORY = Path(__file__).resolve().parents[2]
RECIPES = {"hippocampus": "hippocampus-mr", "heart": "cardiac-mr"}
SPACING_MM = {"hippocampus": 2.0, "heart": 5.0}
STEPS = {"hippocampus": 100, "heart": 60}
"""Of a trial; in the end a training has twice as many."""
CHANNELS = (8, 16, 32)
_STRENGTH, _HYPERPRIOR = SearchRange(0.02, 5.0, log=True), SearchRange(0.005, 1.0, log=True)
_LOCAL = {"weights.diffusion": _STRENGTH, "weights.hyperprior": _HYPERPRIOR, "weights.strength": _HYPERPRIOR}
ARMS: dict[str, dict[str, SearchRange]] = {
    "uniform": {"weights.diffusion": _STRENGTH}, "beta": _LOCAL, "gaussian": _LOCAL
}  # fmt: skip
"""What each arm tunes; a local strength has a maximum, a hyperprior and a smoothness of its own."""
SEEDS = (1, 2, 3)
MOVED = 10


class Moved(NamedTuple):
    """An image and itself, moved, with the same contrast, as the images of these trainings have."""

    fixed: Tensor
    moving: Tensor
    truth: Tensor
    """The displacement that undoes it, ``(1, 3, K, J, I)`` in voxels."""
    counts: Tensor
    """Where there is anything, and what belongs to it is in view, ``(1, 1, K, J, I)``."""


class Found(NamedTuple):
    """What a field for each reporting pair gives."""

    dice: dict[str, float]
    """By pair, the mean of its structures."""
    sd_log: float
    """Spread of the logarithm of the Jacobian determinant, the mean of the pairs."""


class Arm(NamedTuple):
    """One arm of a task."""

    study: optuna.Study
    found: list[Found]
    """By seed."""

    @property
    def dice(self) -> np.ndarray:
        """``(seeds, pairs)``."""
        return np.array([list(one.dice.values()) for one in self.found])


class Outcome(NamedTuple):
    """One task."""

    unregistered: tuple[float, Found]
    """The known error, mm, and what there is without any motion."""
    arms: dict[str, Arm]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder in which the data sets lie")
    parser.add_argument("--task", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--trials", type=int, default=8, help="of each arm")
    parser.add_argument("--pairs", type=int, default=40, help="at most so many report")
    parser.add_argument("--output", type=Path, default=Path("varying"), help="folder for studies and results")
    parser.add_argument("--record", action="store_true", help="write table and figure into the documentation")
    arguments = parser.parse_args()
    prepare_process()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    outcomes = {task: compared(task, arguments) for task in arguments.task}
    text = table(outcomes)
    Console().print(Markdown(text))
    if arguments.record:
        replace_part(REPOSITORY / "docs" / "accuracy.md", "varying", text)
        write_trials(outcomes, REPOSITORY / "Testing" / "benchmarks" / "varying.csv")
        tuning_figure(outcomes).savefig(REPOSITORY / "Resources" / "varying.png", dpi=80)


def compared(task: str, arguments: argparse.Namespace) -> Outcome:
    """Tunes and trains each arm of a task."""
    folder = arguments.output / task
    folder.mkdir(parents=True, exist_ok=True)
    plain = unsupervised(task, arguments.data)
    _, pairs = reporting_pairs(RECIPES[task], arguments.data, arguments.pairs)
    known, reporting = moved_images(plain), grid_pairs(pairs, plain, labels=True)
    arms = {}
    for arm in ARMS:
        options = with_arm(plain, arm)
        study = tuned(arm, options, known, folder, arguments.trials)
        best = replace(options, steps=2 * plain.steps).with_values(study.best_params)
        files = {seed: folder / f"{arm}-{study.best_trial.number}-{seed}.json" for seed in SEEDS}
        arms[arm] = Arm(study, [judged(replace(best, seed=seed), reporting, file) for seed, file in files.items()])
    still = [torch.zeros_like(one.truth) for one in known]
    unmoved = [item["fixed"].new_zeros(1, 3, *item["fixed"].shape[1:]) for item in items_of(reporting)]
    return Outcome((known_error(still, known, plain), found_by(unmoved, reporting)), arms)


def unsupervised(task: str, data: Path) -> TrainingOptions:
    """The recipe of a task without its labels and random changes, small and on a coarse grid."""
    recipe = read_training_options(resource_folder("Training") / f"{RECIPES[task]}.yaml")
    return replace(
        recipe,
        data=replace(recipe.data, root=str(data)),
        configuration={"channels": CHANNELS},
        weights=replace(recipe.weights, labels=0.0, landmarks=0.0, similarity=1.0),
        augmentation=Augmentation(),
        spacing=SPACING_MM[task],
        start_steps=0,
        steps=STEPS[task],
        learning_rate=2e-3,
        seed=0,
    )


def with_arm(options: TrainingOptions, arm: str) -> TrainingOptions:
    if arm == "uniform":
        return options
    return replace(options, configuration={**options.configuration, "spatially_varying": True}, hyperprior=arm)


def grid_pairs(pairs: Sequence[Pair], options: TrainingOptions, labels: bool) -> PairDataset:
    """Pairs on the grid of the trainings."""
    assert options.spacing is not None
    return PairDataset(pairs, options.spacing, PairReader.of(options, 2 ** (len(CHANNELS) - 1)), labels)


def items_of(pairs: PairDataset) -> Iterator[Item]:
    return (pairs[n] for n in range(len(pairs)))


def moved_images(options: TrainingOptions) -> list[Moved]:
    """Images of the subjects that choose, and themselves, moved by deformations that are known."""
    cases = spread(list(dict.fromkeys(case for pair in split_pairs(options).validation for case in pair)), MOVED)
    twins = [(cases[n % len(cases)],) * 2 for n in range(MOVED)]
    images = []
    for n, item in enumerate(items_of(grid_pairs(twins, options, labels=False))):
        image = item["fixed"][None]
        there, back = known_deformation(image.shape[2:], np.random.default_rng(n))
        images.append(Moved(image, warp(image, there), back, (image > DARK) & in_view(back)))
    return images


# Tuning


def tuned(arm: str, options: TrainingOptions, known: list[Moved], folder: Path, trials: int) -> optuna.Study:
    """The study of one arm; goes on where the folder's ended."""
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    study = optuna.create_study(
        storage=open_storage(str(folder / f"{arm}.journal")),
        study_name=arm,
        sampler=optuna.samplers.GPSampler(seed=0, n_startup_trials=min(4, trials)),
        direction="minimize",
        load_if_exists=True,
    )
    ended = sum(trial.state.is_finished() for trial in study.trials)
    study.optimize(partial(trial_error, arm=arm, options=options, known=known), n_trials=max(0, trials - ended))
    return study


def trial_error(trial: optuna.Trial, arm: str, options: TrainingOptions, known: list[Moved]) -> float:
    """The mean error in mm of what is known, after a training with the trial's values."""
    values = {
        name: trial.suggest_float(name, entry.low, entry.high, log=entry.log) for name, entry in ARMS[arm].items()
    }
    network = trained(options.with_values(values))
    return known_error([displacement(network, one.fixed, one.moving) for one in known], known, options)


def trained(options: TrainingOptions) -> RegistrationNetwork:
    """A network after all its steps: none is chosen by how good it is."""
    torch.manual_seed(options.seed)
    module = RegistrationTraining(options)
    loader = TrainingData(options, module.multiple).train_dataloader()
    trainer = make_trainer(options, logger=False, enable_checkpointing=False, limit_val_batches=0)
    trainer.fit(module, loader)
    return module.network.eval()


@torch.no_grad()
def displacement(network: RegistrationNetwork, fixed: Tensor, moving: Tensor) -> Tensor:
    found: Tensor = network(fixed, moving).displacement
    return found


def known_error(displacements: Sequence[Tensor], known: Sequence[Moved], options: TrainingOptions) -> float:
    """Mean error in mm, every image counting the same."""
    errors = [(found - one.truth).norm(dim=1, keepdim=True)[one.counts] for found, one in zip(displacements, known)]
    return float(options.spacing * np.mean([float(error.mean()) for error in errors]))


# Reporting


def judged(options: TrainingOptions, pairs: PairDataset, path: Path) -> Found:
    """What a network trained with these settings gives; from the file, or put there."""
    if not path.exists():
        network = trained(options)
        fields = [displacement(network, item["fixed"][None], item["moving"][None]) for item in items_of(pairs)]
        path.write_text(json.dumps(found_by(fields, pairs)._asdict()), encoding="utf-8")
    return Found(**json.loads(path.read_text(encoding="utf-8")))


def found_by(fields: Sequence[Tensor], pairs: PairDataset) -> Found:
    """Judge a displacement ``(1, 3, K, J, I)`` of each pair."""
    dice = {}
    for field, pair, item in zip(fields, pairs.pairs, items_of(pairs)):
        batch = {name: value[None] for name, value in item.items()}
        dice[f"{pair[0].name} {pair[1].name}"] = measure(field, batch)["dice"]
    spreads = [float(jacobian_determinant(field).clamp_min(1e-9).log().std()) for field in fields]
    return Found(dice, float(np.mean(spreads)))


def table(outcomes: Mapping[str, Outcome]) -> str:
    """A row for each arm of each task; p is that of the pairs, each the mean of the seeds, beside the uniform arm."""
    lines = ["| task | arm | best settings | known error mm | Dice | SD log J | beside uniform |", "|---" * 7 + "|"]
    for task, (unregistered, arms) in outcomes.items():
        error, found = unregistered
        count = len(found.dice)
        lines.append(
            f"| {task}, {count} pairs | unregistered | | {error:.3f} | {np.mean(list(found.dice.values())):.4f} | | |"
        )
        lines += [f"| {task} | {name} | {_cells(arm, arms['uniform'])} |" for name, arm in arms.items()]
    return "\n".join(lines) + "\n"


def _cells(arm: Arm, uniform: Arm) -> str:
    settings = ", ".join(f"{name.split('.')[1]} {value:.2g}" for name, value in arm.study.best_params.items())
    overlap = f"{arm.dice.mean():.4f} ± {arm.dice.mean(axis=1).std(ddof=1):.4f}"
    spread_of_jacobian = f"{np.mean([one.sd_log for one in arm.found]):.3f}"
    beside = ""
    if arm is not uniform:
        difference = (arm.dice - uniform.dice).mean(axis=0)
        beside = f"{difference.mean():+.4f}, p = {wilcoxon(difference).pvalue:.2g}"
    return " | ".join([settings, f"{arm.study.best_value:.3f}", overlap, spread_of_jacobian, beside])


def write_trials(outcomes: Mapping[str, Outcome], path: Path) -> None:
    """One row a trial: task, arm, number, known error and settings."""
    columns = ["task", "arm", "trial", "known_error_mm", *(name.split(".")[1] for name in _LOCAL)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for task, outcome in outcomes.items():
            for name, arm in outcome.arms.items():
                for trial in completed(arm.study):
                    settings = {key.split(".")[1]: f"{value:.4g}" for key, value in trial.params.items()}
                    error = f"{trial.values[0]:.4f}"
                    writer.writerow({"task": task, "arm": name, "trial": trial.number, columns[3]: error, **settings})


def completed(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def tuning_figure(outcomes: Mapping[str, Outcome]) -> Figure:
    """How the tuning of each task went, and which settings told good trials of a local strength from others."""
    figure = Figure(figsize=(9, 3.2 * len(outcomes)), layout="constrained")
    for (task, outcome), axes in zip(outcomes.items(), figure.subplots(len(outcomes), 2, squeeze=False)):
        _history(axes[0], task, outcome)
        _importances(axes[1], outcome)
    return figure


def _history(axes: Axes, task: str, outcome: Outcome) -> None:
    """The error of each trial, and the best so far."""
    for n, (name, arm) in enumerate(outcome.arms.items()):
        numbers, errors = zip(*[(trial.number, trial.values[0]) for trial in completed(arm.study)])
        axes.plot(numbers, errors, "o", color=f"C{n}", alpha=0.5)
        axes.step(numbers, np.minimum.accumulate(errors), where="post", color=f"C{n}", label=name)
    axes.axhline(outcome.unregistered[0], color="grey", linestyle=":", label="unregistered")
    axes.set(xlabel="trial", ylabel=f"{task}: known error, mm")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()


def _importances(axes: Axes, outcome: Outcome) -> None:
    local = [name for name in outcome.arms if len(ARMS[name]) > 1]
    for n, name in enumerate(local):
        shares = importances(outcome.arms[name].study)
        places = np.arange(len(_LOCAL)) + 0.4 * n
        axes.barh(places, [shares[key] for key in _LOCAL], height=0.4, color=f"C{n + 1}", label=name)
    axes.set_yticks(np.arange(len(_LOCAL)) + 0.2, [key.split(".")[1] for key in _LOCAL])
    axes.set(xlabel="importance (share)")
    axes.legend()


if __name__ == "__main__":
    main()
