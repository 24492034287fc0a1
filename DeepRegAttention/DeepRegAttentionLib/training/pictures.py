"""Pictures of a validation pair while it is learned: fixed, moving, warped, and the deformation as a grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import numpy as np
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from ..engine.fields import warp

GRID_STEP = 4
"""Voxels between two lines of the deformation grid."""


class Pictures(Callback):
    """Draws the first validation pair at every validation, to TensorBoard and as a PNG file.

    Parameters
    ----------
    folder : Path
        For the files, named after the step.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        module: Any,
        outputs: Any,
        batch: dict[str, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the first pair; the step of the validation returns its displacement."""
        if batch_idx or not trainer.is_global_zero:
            return
        figure = draw_pair(batch["fixed"], batch["moving"], outputs)
        self.folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(self.folder / f"step-{trainer.global_step:06d}.png", dpi=100)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_figure("val/pair", figure, trainer.global_step)


def draw_pair(fixed: Tensor, moving: Tensor, displacement: Tensor) -> Figure:
    """The middle slices along k: images ``(1, 1, K, J, I)`` and displacement ``(1, 3, K, J, I)``, voxels."""
    warped = warp(moving, displacement)
    middle = fixed.shape[2] // 2
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 4)
    for ax, title, image in zip(axes, ("fixed", "moving", "warped", "grid"), (fixed, moving, warped, fixed)):
        ax.imshow(_numbers(image[0, 0, middle]), cmap="gray", vmin=0, vmax=1)
        ax.set_title(title)
        ax.set_axis_off()
    _draw_grid(axes[3], _numbers(displacement[0, 1:, middle]))
    return figure


def _numbers(values: Tensor) -> np.ndarray:
    array: np.ndarray = values.detach().float().cpu().numpy()
    return array


def _draw_grid(ax: Any, field: np.ndarray) -> None:
    """Lines of equal moving coordinate: where straight lines of the moving image end up on the fixed one."""
    for values, index in zip(field, np.indices(field.shape[1:])):
        where = index + values
        levels = np.arange(np.floor(where.min()), where.max(), GRID_STEP)
        ax.contour(where, levels=levels, colors="tab:orange", linewidths=0.7)
