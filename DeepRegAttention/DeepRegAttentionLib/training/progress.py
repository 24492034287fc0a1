"""How far a training is: a bar with the time left on a terminal, one line after every validation everywhere."""

from __future__ import annotations

import time
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from .export import validation_means


class TrainingProgress(Callback):
    """Shows step, time left and the latest measures on standard error, from the first of several processes alone."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        columns = (
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
        )
        self.bar = Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)
        self.task = self.bar.add_task("", total=None)
        self.began = time.monotonic()
        self.first = 0

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        """Note when and where the run begins."""
        self.began, self.first = time.monotonic(), trainer.global_step
        self.bar.disable = self.bar.disable or not trainer.is_global_zero
        self.bar.start()

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, *_: Any) -> None:
        """Move the bar."""
        total, done = module.options.total_steps, trainer.global_step
        self.bar.update(self.task, total=total, completed=done, description=f"{self._left(total, done)} left")

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: Any) -> None:
        """Print a line."""
        if not trainer.is_global_zero:
            return
        total, done = module.options.total_steps, trainer.global_step
        measures = validation_means(trainer.callback_metrics)
        loss = float(trainer.callback_metrics["train/total"])
        text = ", ".join(f"{name} {value:.4f}" for name, value in {"loss": loss, **measures}.items())
        self.console.print(
            f"step {done} of {total}, {self._seconds(done):.2f} s a step, {self._left(total, done)} left: {text}",
            highlight=False,
            soft_wrap=True,
        )

    def on_train_end(self, trainer: lightning.Trainer, module: Any) -> None:
        """Remove the bar."""
        self.bar.stop()

    def on_exception(self, trainer: lightning.Trainer, module: Any, exception: BaseException) -> None:
        """Remove the bar."""
        self.bar.stop()

    def _seconds(self, done: int) -> float:
        return (time.monotonic() - self.began) / max(1, done - self.first)

    def _left(self, total: int, done: int) -> str:
        return duration(self._seconds(done) * (total - done))


def duration(seconds: float) -> str:
    """Seconds for people: ``3 h 05 min``, ``12 min`` or ``40 s``."""
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min" if minutes else f"{seconds:.0f} s"
