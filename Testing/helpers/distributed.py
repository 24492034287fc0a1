"""One step of training on two pairs, by one process or shared by two: ``torchrun -m helpers.distributed FOLDER 2``."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from DeepRegAttentionLib.training.module import RegistrationTraining
from DeepRegAttentionLib.training.run import Machines, TrainingData, make_trainer
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from .training import tiny

GRADIENTS, METRICS = "gradients.pt", "metrics.pt"


class _Keep(Callback):
    """Keeps the gradients that all processes have agreed on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: object) -> None:
        if trainer.is_global_zero:
            gradients = {name: p.grad for name, p in module.network.named_parameters() if p.grad is not None}
            torch.save(gradients, self.folder / GRADIENTS)


def step(folder: Path, processes: int) -> None:
    """Train one step in the folder that holds the blobs; leave gradients and metrics there."""
    torch.manual_seed(1)
    options = tiny(folder, steps=1, accumulate=2 // processes, data={"cases": "blobs", "validation_pairs": 2})
    module = RegistrationTraining(options)
    machines = Machines(str(processes), strategy="ddp" if processes > 1 else "auto", accelerator="cpu")
    trainer = make_trainer(options, machines, callbacks=[_Keep(folder)], logger=False, enable_checkpointing=False)
    trainer.fit(module, TrainingData(options, module.multiple))
    if trainer.is_global_zero:
        torch.save({name: float(value) for name, value in trainer.callback_metrics.items()}, folder / METRICS)


def taken_from(folder: Path) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The gradients and the metrics that a step has left, which are gone then."""
    gradients, metrics = (torch.load(folder / name, weights_only=True) for name in (GRADIENTS, METRICS))
    for name in (GRADIENTS, METRICS):
        (folder / name).unlink()
    return gradients, metrics


if __name__ == "__main__":
    step(Path(sys.argv[1]), int(sys.argv[2]))
