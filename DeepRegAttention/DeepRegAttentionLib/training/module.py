"""The training step, as Lightning wants it."""

from __future__ import annotations

from typing import Any, Dict

import lightning
import torch
from torch import Tensor

from ..engine.networks import build_network
from .objective import objective
from .options import TrainingOptions
from .validation import measure


class RegistrationTraining(lightning.LightningModule):
    """Trains a registration network on pairs, without supervision unless labels or landmarks have a weight."""

    def __init__(self, options: TrainingOptions) -> None:
        super().__init__()
        self.options = options
        self.network = build_network(options.network, options.configuration)

    @property
    def multiple(self) -> int:
        """Each side of the working grid is a multiple of so many voxels."""
        return self.network.multiple

    def training_step(self, batch: Dict[str, Tensor], index: int) -> Tensor:
        """One pair: the weighted sum of the objective's terms."""
        output = self.network(batch["fixed"], batch["moving"])
        options = self.options
        terms = objective(output, batch, options.weights, options.similarity, options.hyperprior)
        self.log_dict({f"train/{name}": value.detach() for name, value in terms.items()}, prog_bar=True)
        return terms["total"]

    def validation_step(self, batch: Dict[str, Tensor], index: int) -> None:
        """Every measure of the pair, as ``val/…``; the epoch's is the mean over the pairs."""
        displacement = self.network(batch["fixed"], batch["moving"]).displacement
        for name, value in measure(displacement, batch, self.options.ignore_labels).items():
            self.log(f"val/{name}", value, on_epoch=True, prog_bar=name == "score", batch_size=1)

    def configure_optimizers(self) -> Any:
        """AdamW, its rate raised over the first steps and then lowered along a cosine."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.options.learning_rate, weight_decay=1e-4)
        total = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.options.learning_rate, total_steps=total + 1, pct_start=0.05, final_div_factor=20
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
