"""``deepreg-attention tune``: find good hyperparameters by Bayesian optimisation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from .console import ReadableErrors, results, say
from .train import Configuration, DataRoot

Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for best.json, trials.csv and the plots.")]
Trials = Annotated[int, typer.Option(min=1, help="Trials of the study in all, with those of earlier runs.")]
Jobs = Annotated[int, typer.Option(min=1, help="Processes on this computer; any number of others may join in.")]
Storage = Annotated[
    Optional[str],
    typer.Option(
        help="Where the study is kept: a file, or the URL of a database such as sqlite:///study.db.",
        show_default="study.journal in the output folder",
    ),
]
Sampler = Annotated[str, typer.Option(help="gp (Gaussian process) or tpe (tree of Parzen estimators).")]
Refine = Annotated[
    int, typer.Option(min=1, help="Steps of refinement of each validation pair; only if “regularization” is tuned.")
]


@ReadableErrors()
def tune(
    config: Configuration,
    output: Output,
    data_root: DataRoot = None,
    trials: Trials = 30,
    jobs: Jobs = 1,
    storage: Storage = None,
    sampler: Sampler = "gp",
    refine: Refine = 10,
) -> None:
    """Search the settings under “tune” of a training configuration (needs the extra “train”).

    Each trial is a short training run followed by validation. Started again with the same storage, or on several
    computers at once, it goes on with the same study. The best values end up in best.json, which “register” and
    “train” take as --preset.
    """
    from ..engine.result import require_writable
    from .train import read_configuration, training_packages

    with training_packages():
        from ..training.tuning import TuningOptions
        from ..training.tuning import tune as run

        options = read_configuration(config, data_root)
    require_writable(output)
    best = run(options, TuningOptions(trials, jobs, storage, sampler, refine), output)
    say("best", str(best.resolve()), "bold", results)
