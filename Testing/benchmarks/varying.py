"""Is a learned local strength of the regularization worth it? Both networks for brains, from scratch, with and without.

    python Testing/benchmarks/varying.py ../shared/data --output varying

The same pairs in the same order, on a coarse grid and without random changes; the pairs that choose the weights judge,
those that report stay unseen. Four runs of 20 minutes on one core; ``--networks`` takes one network alone. Needs the
extra ``train``.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from DeepRegAttentionLib.engine.errors import RegistrationError
from DeepRegAttentionLib.engine.models.files import find_model
from DeepRegAttentionLib.engine.networks import NETWORKS
from DeepRegAttentionLib.engine.resources import resource_folder
from DeepRegAttentionLib.training.augmentation import Augmentation
from DeepRegAttentionLib.training.options import TrainingOptions, read_training_options
from DeepRegAttentionLib.training.run import train
from rich.console import Console
from rich.table import Table

DIFFUSION = {True: 1.0, False: 0.5}
"""With a local strength it is the maximum, half of which is as much as the strength that is the same everywhere."""
MEASURES = ("dice", "folds_percent", "similarity")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder in which the data sets lie")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--spacing", type=float, default=4.0, help="mm of the working grid")
    parser.add_argument("--output", type=Path, default=Path("varying"), help="folder for the runs")
    arguments = parser.parse_args()
    try:
        Console().print(compared(arguments))
    except RegistrationError as error:
        parser.error(str(error))


def compared(arguments: argparse.Namespace) -> Table:
    """Trains each network twice; what each run reached, one a row."""
    table = Table("network", "spatially varying", *MEASURES)
    for network in arguments.networks:
        recipe = read_training_options(resource_folder("Training") / f"brain-t1-{network}.yaml")
        recipe = replace(recipe, data=replace(recipe.data, root=str(arguments.data)))
        for varying in (True, False):
            options = simplified(recipe, varying, arguments.steps, arguments.spacing)
            found = outcome(options, arguments.output / f"{network}-{'varying' if varying else 'uniform'}")
            table.add_row(network, "yes" if varying else "no", *(f"{found[name]:.4f}" for name in MEASURES))
    return table


def simplified(recipe: TrainingOptions, varying: bool, steps: int, spacing: float) -> TrainingOptions:
    """A short training of the recipe's network on its data, the same but for the regularization."""
    weights = replace(recipe.weights, labels=1.0, diffusion=DIFFUSION[varying], hyperprior=0.1, strength=0.1)
    return replace(
        recipe,
        configuration={**recipe.configuration, "passes": 1, "spatially_varying": varying},
        weights=weights,
        augmentation=Augmentation(),
        labels_a_step=None,
        spacing=spacing,
        start_steps=0,
        steps=steps,
        validate_every=max(1, steps // 6),
        learning_rate=1e-3,
        seed=1,
    )


def outcome(options: TrainingOptions, folder: Path) -> dict[str, Any]:
    """What the best weights of the run reached on the pairs that choose."""
    measured: dict[str, Any] = find_model(train(options, folder)).info.accuracy["validation"]
    return measured


if __name__ == "__main__":
    main()
