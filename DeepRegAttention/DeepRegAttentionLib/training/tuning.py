"""Bayesian optimisation of the hyperparameters, as many processes as there are on one study (Optuna)."""

from __future__ import annotations

import csv
import json
import logging
import math
import multiprocessing
import os
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Optional

import lightning
import numpy as np
import optuna
import torch
from lightning.pytorch.callbacks import Callback
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError
from torch import Tensor

from ..engine.errors import OptionError, OutputError, RegistrationError
from ..engine.hardware import available_threads, choose_device, prepare_process
from ..engine.networks.structures import RecognisingStructures
from ..engine.refine import Objective, recognised, refine
from .data import split_pairs
from .module import RegistrationTraining
from .options import SearchRange, TrainingOptions, options_to_dict
from .run import Loader, TrainingData, make_trainer
from .validation import mean_measures, measure

SAMPLERS = ("gp", "tpe")
VALIDATIONS = 4
"""A trial is judged after each quarter of its steps; from the middle on, one below the median is stopped."""


@dataclass(frozen=True)
class TuningOptions:
    """How the study is done.

    Attributes
    ----------
    trials : int
        The study ends with so many trials, those of earlier and parallel runs included.
    jobs : int
        Processes that this run starts.
    storage : str, optional
        A file (journal) or the URL of a database; None takes ``study.journal`` in the output folder.
    sampler : {"gp", "tpe"}
        Gaussian process or tree of Parzen estimators. Both begin with ten random trials.
    refine : int
        Steps of refinement of each validation pair if ``regularization``, its weight, is tuned.
    """

    trials: int = 30
    jobs: int = 1
    storage: Optional[str] = None
    sampler: str = "gp"
    refine: int = 10

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise OptionError(f"sampler must be one of {', '.join(SAMPLERS)}; “{self.sampler}” is not.")
        if min(self.trials, self.jobs, self.refine) < 1:
            raise OptionError("trials, jobs and refine must be at least 1.")


def tune(options: TrainingOptions, tuning: TuningOptions, output: Path) -> Path:
    """Search the ranges in ``options.tune`` for the best validation score.

    Writes ``best.json`` (a preset for ``register`` and ``train``), ``trials.csv``, ``history.png`` and
    ``importance.png`` to the output folder.

    Returns
    -------
    Path
        Of ``best.json``.

    Raises
    ------
    OptionError
        There is nothing to search or to validate with, or the study in the storage has other settings.
    OutputError
        The study or its results cannot be written.
    """
    _require_search(options)
    where = tuning.storage or str(output / "study.journal")
    with _writing_to(output):
        output.mkdir(parents=True, exist_ok=True)
        study = open_study(where, options, tuning)
    if tuning.jobs == 1:
        work(options, tuning, where)
    else:
        _work_in_processes(options, tuning, where)
    with _writing_to(output):
        return write_results(study, options, tuning, output)


@contextmanager
def _writing_to(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {(error.strerror or str(error)).lower()}.") from error


def _require_search(options: TrainingOptions) -> None:
    if not options.tune:
        raise OptionError("The configuration names nothing to search; add a section “tune”.")
    if not split_pairs(options).validation and options.data.synthetic is None:
        raise OptionError("Tuning needs cases under “validation”.")


def open_study(where: str, options: TrainingOptions, tuning: TuningOptions) -> optuna.Study:
    """The study of this configuration in the storage; made if it is not there yet.

    Raises
    ------
    OptionError
        The study there was made with another configuration.
    OutputError
        The storage cannot be opened.
    """
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=(options.start_steps + options.steps) // 2)
    samplers = {"gp": optuna.samplers.GPSampler, "tpe": optuna.samplers.TPESampler}
    try:
        study = optuna.create_study(
            storage=open_storage(where),
            study_name=options.name,
            sampler=samplers[tuning.sampler](),
            pruner=pruner,
            direction="maximize",
            load_if_exists=True,
        )
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError, ModuleNotFoundError) as error:
        reason = str(error).splitlines()[0]
        raise OutputError(f"The study cannot be kept in {where}: {reason}.") from error
    setup = _setup(options, tuning)
    if study.user_attrs.setdefault("setup", setup) != setup:
        raise OptionError(f"The study in {where} was made with other settings; choose another storage.")
    study.set_user_attr("setup", setup)
    return study


def open_storage(where: str) -> optuna.storages.BaseStorage:
    """Where a study is kept: the file of a journal, or the URL of a database."""
    if "://" in where:
        return optuna.storages.RDBStorage(where)
    # Symbolic links, the usual lock, need privileges on Windows.
    lock = JournalFileOpenLock(where) if os.name == "nt" else None
    return optuna.storages.JournalStorage(JournalFileBackend(where, lock))


def _setup(options: TrainingOptions, tuning: TuningOptions) -> dict[str, Any]:
    """All that makes trials comparable, as JSON gives it back; where the data lies does not matter."""
    values = {key: value for key, value in options_to_dict(options).items() if key not in ("data", "metadata")}
    # The steps that the model file recommends change no trial: the study's own stand in their place.
    setup: dict[str, Any] = json.loads(json.dumps({**values, "refine": tuning.refine}))
    return setup


def _work_in_processes(options: TrainingOptions, tuning: TuningOptions, where: str) -> None:
    # Forking a process whose libraries have threads may hang.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(tuning.jobs, mp_context=spawn) as pool:
        for job in [pool.submit(work, options, tuning, where) for _ in range(tuning.jobs)]:
            job.result()


def work(options: TrainingOptions, tuning: TuningOptions, where: str) -> None:
    """Run trials in this process until the study in the storage has as many as were asked for."""
    prepare_process(max(1, available_threads() // tuning.jobs))
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    study = open_study(where, options, tuning)
    # Trials under way elsewhere count, or parallel processes would each run one too many.
    counted = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
    while len(study.get_trials(deepcopy=False, states=counted)) < tuning.trials:
        study.optimize(lambda trial: run_trial(trial, options, tuning), n_trials=1)


def run_trial(trial: Trial, options: TrainingOptions, tuning: TuningOptions) -> float:
    """Train shortly with the trial's values; returns the mean validation score (larger is better)."""
    chosen = options.with_values({name: _suggest(trial, name, entry) for name, entry in options.tune.items()})
    chosen = replace(chosen, validate_every=math.ceil((chosen.start_steps + chosen.steps) / VALIDATIONS))
    # Every trial starts from the same weights and sees the same pairs, so that only its values tell.
    torch.manual_seed(options.seed)
    module = RegistrationTraining(chosen)
    data = TrainingData(chosen, module.multiple)
    trainer = make_trainer(chosen, callbacks=[_Pruning(trial)], logger=False, enable_checkpointing=False)
    trainer.fit(module, data)
    steps = tuning.refine if "regularization" in options.tune else 0
    measures = _judge(module, chosen, data.val_dataloader()[0], steps)
    for name, value in measures.items():
        trial.set_user_attr(name, value)
    if not np.isfinite(measures["score"]):
        # It diverged; a failed trial would be tried again and again.
        raise optuna.TrialPruned
    return measures["score"]


def _suggest(trial: Trial, name: str, entry: SearchRange) -> Any:
    if entry.choices:
        return trial.suggest_categorical(name, entry.choices)
    assert entry.low is not None
    assert entry.high is not None
    return trial.suggest_float(name, entry.low, entry.high, log=entry.log)


class _Pruning(Callback):
    """Tells the study each validation score and stops a trial that the pruner gives up."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial

    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Called by the trainer."""
        self.trial.report(float(trainer.callback_metrics["val/score"]), trainer.global_step)
        if self.trial.should_prune():
            raise optuna.TrialPruned


def _judge(
    module: RegistrationTraining, options: TrainingOptions, pairs: Loader, refine_steps: int
) -> dict[str, float]:
    """Each measure's mean over the validation pairs, after the refinement if it has steps."""
    device = choose_device("auto")
    module.to(device).eval()
    found: list[Mapping[str, float]] = []
    for batch in pairs:
        batch = {name: value.to(device) for name, value in batch.items()}
        displacement = _register(module, options, batch, refine_steps)
        found.append(measure(displacement, batch))
    return mean_measures(found)


def _register(
    module: RegistrationTraining, options: TrainingOptions, batch: Mapping[str, Tensor], refine_steps: int
) -> Tensor:
    fixed, moving = batch["fixed"], batch["moving"]
    with torch.no_grad():
        output = module.network(fixed, moving)
    displacement: Tensor = output.displacement
    if not refine_steps:
        return displacement
    objective = Objective(fixed, moving, options.similarity, options.regularization, strength=output.regularization)
    if options.structures_share and isinstance(module.network, RecognisingStructures):
        seen = recognised(module.network.structures, fixed, moving, options.structures_share)
        objective = replace(objective, structures=seen)
    return refine(objective, displacement, refine_steps)


def write_results(study: optuna.Study, options: TrainingOptions, tuning: TuningOptions, folder: Path) -> Path:
    """Write the preset, the table and the plots of a study; returns the preset's path.

    Raises
    ------
    RegistrationError
        No trial has been completed.
    """
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not done:
        raise RegistrationError("No trial of the study was completed; run more of them.")
    write_trials(study.get_trials(deepcopy=False), folder / "trials.csv")
    _save(history_plot(study), folder / "history.png")
    if len(done) > 1:
        _save(importance_plot(study), folder / "importance.png")
    best = folder / "best.json"
    preset = make_preset(study.best_trial, options, tuning)
    best.write_text(json.dumps(preset, indent=2) + "\n", encoding="utf-8")
    return best


def make_preset(trial: FrozenTrial, options: TrainingOptions, tuning: TuningOptions) -> dict[str, dict[str, Any]]:
    """The values of a trial as a preset: ``train`` (settings of a training configuration) and ``register``.

    The section ``register`` holds the refinement that was judged; it is empty if the trials did not refine.
    """
    train: dict[str, Any] = {}
    for name, value in trial.params.items():
        section, _, key = name.rpartition(".")
        (train.setdefault(section, {}) if section else train)[key] = value
    chosen = options.with_values(trial.params)
    refined = {"refine": tuning.refine, "similarity": chosen.similarity, "regularization": chosen.regularization}
    return {"register": refined if "regularization" in trial.params else {}, "train": train}


def write_trials(trials: list[FrozenTrial], path: Path) -> None:
    """One row a trial: number, state, seconds, measures (empty if it was stopped) and values."""
    values = sorted({name for trial in trials for name in trial.params})
    measures = sorted({name for trial in trials for name in trial.user_attrs})
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["trial", "state", "seconds", *measures, *values])
        writer.writeheader()
        for trial in trials:
            seconds = None if trial.duration is None else round(trial.duration.total_seconds(), 2)
            row = {"trial": trial.number, "state": trial.state.name.lower(), "seconds": seconds}
            writer.writerow({**row, **trial.user_attrs, **trial.params})


def history_plot(study: optuna.Study) -> Figure:
    """Score of each trial, completed or stopped, and the best so far."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="trial", ylabel="validation score")
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    numbers, scores = [trial.number for trial in done], [trial.values[0] for trial in done]
    axes.plot(numbers, scores, "o", label="completed")
    axes.step(numbers, np.maximum.accumulate(scores), where="post", color="tab:red", label="best so far")
    stopped = [t for t in study.get_trials(deepcopy=False, states=(TrialState.PRUNED,)) if t.intermediate_values]
    if stopped:
        last = [trial.intermediate_values[max(trial.intermediate_values)] for trial in stopped]
        axes.plot([t.number for t in stopped], last, "x", color="grey", label="stopped early (score by then)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    return figure


def importances(study: optuna.Study) -> dict[str, float]:
    """Shares: how much each setting tells the better quarter of the completed trials from the others (PED-ANOVA)."""
    return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(target_quantile=0.25))


def importance_plot(study: optuna.Study) -> Figure:
    """A bar for the importance of each setting."""
    shares = importances(study)
    names = sorted(shares, key=lambda name: shares[name])
    figure = Figure(figsize=(7, 1 + 0.5 * len(names)), layout="constrained")
    axes = figure.add_subplot(xlabel="importance (share)")
    bars = axes.barh(names, [shares[name] for name in names])
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.margins(x=0.1)
    return figure


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=120)
