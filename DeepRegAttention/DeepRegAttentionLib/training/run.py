"""From a configuration to a model file."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler

from ..engine.errors import OptionError
from ..engine.hardware import choose_device, choose_precision, keep_freed_memory
from ..engine.models import ModelInfo, save_model
from .data import PairDataset, all_pairs, find_cases
from .module import RegistrationTraining
from .options import TrainingOptions

Loader = DataLoader[Dict[str, Tensor]]


def train(options: TrainingOptions, output: Path) -> Path:
    """Train and write ``output/NAME.safetensors``; returns its path.

    The network of the best validation score is kept (see :func:`~.validation.measure`). The cases named in
    ``test`` are never looked at.
    """
    keep_freed_memory()
    torch.manual_seed(options.seed)
    module = RegistrationTraining(options)
    if options.start_spacing and options.start_steps:
        _fit(module, dataclasses.replace(options, spacing=options.start_spacing), options.start_steps, output / "start")
    best = _fit(module, options, options.steps, output / "main")
    if best is not None:
        module.load_state_dict(torch.load(best, weights_only=True)["state_dict"])
    path = output / f"{options.name}.safetensors"
    save_model(module.network, model_info(options, module.multiple), path)
    return path


def _fit(module: RegistrationTraining, options: TrainingOptions, steps: int, output: Path) -> Optional[str]:
    """Run so many steps; returns the checkpoint of the best validation, if there was one."""
    training, validation = make_loaders(options, module.multiple, steps)
    keep = ModelCheckpoint(output, "best", monitor="val/score", mode="max", save_weights_only=True)
    trainer = make_trainer(
        steps,
        validate_every=min(steps, max(50, steps // 20)),
        callbacks=[keep] if validation else [],
        logger=CSVLogger(output, name="log"),
        log_every_n_steps=10,
        enable_checkpointing=validation is not None,
    )
    trainer.fit(module, training, validation)
    return keep.best_model_path or None


def make_loaders(options: TrainingOptions, multiple: int, steps: int) -> Tuple[Loader, Optional[Loader]]:
    """Random pairs for so many steps of training, and all pairs of the validation cases if there are any.

    Raises
    ------
    OptionError
        Fewer than two cases are left for training.
    """
    cases = find_cases(Path(options.data))
    held_out = set(options.validation) | set(options.test)
    training = all_pairs([case for case in cases if case.name not in held_out])
    validation = all_pairs([case for case in cases if case.name in options.validation])
    if not training:
        raise OptionError(f"{options.data} has fewer than two cases left to train on.")
    grid = (options.spacing, multiple, options.intensity)
    uses_labels, uses_landmarks = options.weights.labels > 0, options.weights.landmarks > 0
    sampler = RandomSampler(training, replacement=True, num_samples=steps)
    pairs = DataLoader(PairDataset(training, *grid, uses_labels, uses_landmarks), sampler=sampler)
    judged = DataLoader(PairDataset(validation, *grid, labels=True, landmarks=True)) if validation else None
    return pairs, judged


def make_trainer(steps: int, validate_every: int, **more: Any) -> lightning.Trainer:
    """A trainer for so many steps; ``more`` goes to it as it is."""
    return lightning.Trainer(
        max_steps=steps,
        precision="bf16-mixed" if _use_bfloat16() else "32-true",
        val_check_interval=validate_every,
        num_sanity_val_steps=0,
        gradient_clip_val=1.0,
        enable_model_summary=False,
        **more,
    )


def _use_bfloat16() -> bool:
    return choose_precision("auto", choose_device("auto")) is torch.bfloat16


def model_info(options: TrainingOptions, multiple: int) -> ModelInfo:
    """What the model file says of itself."""
    return ModelInfo(
        name=options.name,
        network=options.network,
        configuration=options.configuration,
        intensity=options.intensity,
        spacing=options.spacing,
        shape_multiple=multiple,
        regularization=options.regularization,
        steps=options.start_steps + options.steps,
        **options.metadata,
    )
