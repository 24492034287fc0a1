"""The training step, as Lightning wants it."""

from __future__ import annotations

import json
from contextlib import nullcontext
from typing import Any

import lightning
import torch
from torch import Tensor

from ..engine.errors import OptionError
from ..engine.fields import full_precision
from ..engine.networks import build_network
from ..engine.networks.blocks import NetworkOutput
from .objective import objective
from .options import TrainingOptions, options_to_dict
from .validation import mean_measures, measure


class RegistrationTraining(lightning.LightningModule):
    """Trains a registration network on pairs, without supervision unless labels or landmarks have a weight."""

    earlier_steps: Tensor

    def __init__(self, options: TrainingOptions) -> None:
        super().__init__()
        self.options = options
        self.network = build_network(options.network, options.configuration)
        # Behind the weights that the run started from; a buffer, so that the checkpoint keeps it.
        self.register_buffer("earlier_steps", torch.tensor(0))
        self._found: list[dict[str, float]] = []

    @property
    def multiple(self) -> int:
        """Each side of the working grid is a multiple of so many voxels."""
        return self.network.multiple

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        """One pair: the weighted sum of the objective's terms."""
        output = self._register(batch)
        options = self.options
        terms = objective(output, batch, options.weights, options.similarity, options.hyperprior)
        self.log_dict({f"train/{name}": value.detach() for name, value in terms.items()}, batch_size=1)
        return terms["total"]

    def _register(self, batch: dict[str, Tensor]) -> NetworkOutput:
        fixed, moving = batch["fixed"], batch["moving"]
        # torch's bfloat16 gradients are wrong on volumes smaller than a kernel (CPU), as the coarsest level may be.
        small = min(fixed.shape[2:]) < 3 * self.multiple and fixed.device.type == "cpu"
        with full_precision(fixed.device) if small else nullcontext():
            output: NetworkOutput = self.network(fixed, moving)
        return output

    def validation_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        """Every measure of the pair; returns the displacement."""
        displacement = self._register(batch).displacement
        self._found.append(measure(displacement, batch, self.options.structures))
        return displacement

    def on_validation_epoch_end(self) -> None:
        """The mean of every measure over the pairs of all devices, as ``val/…``."""
        everywhere = [self._found]
        if self.trainer.world_size > 1:
            everywhere = [[] for _ in range(self.trainer.world_size)]
            torch.distributed.all_gather_object(everywhere, self._found)
        found = [measures for device in everywhere for measures in device]
        self._found = []
        # Every device logs the same means, which need no reduction.
        self.log_dict({f"val/{name}": mean for name, mean in mean_measures(found).items()}, batch_size=1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the settings with the weights."""
        checkpoint["options"] = run_settings(self.options)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on with other settings: OptionError names the first that differs."""
        before, now = checkpoint["options"], run_settings(self.options)
        changed = [name for name in now if now[name] != before.get(name)]
        if changed:
            raise OptionError(f"The run was begun with another “{changed[0]}”; start a new one in another folder.")

    def configure_optimizers(self) -> Any:
        """AdamW, its rate raised over the first steps and then lowered along a cosine."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.options.learning_rate, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            self.options.learning_rate,
            total_steps=self.options.total_steps + 1,
            pct_start=0.05,
            final_div_factor=20,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def run_settings(options: TrainingOptions) -> dict[str, Any]:
    """The settings that a run must keep to the end, as JSON gives them back."""
    free = ("data", "metadata", "workers", "tune", "regularization", "refine")
    values = {name: value for name, value in options_to_dict(options).items() if name not in free}
    settings: dict[str, Any] = json.loads(json.dumps(values))
    return settings
