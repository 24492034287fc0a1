"""The training step, as Lightning wants it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from ..engine.errors import OptionError
from ..engine.fields import full_precision
from ..engine.networks import build_network
from ..engine.networks.blocks import NetworkOutput
from ..engine.networks.structures import RecognisingStructures
from .objective import objective, structure_loss, structure_overlap
from .options import TrainingOptions, options_to_dict
from .validation import mean_measures, measure

_ROLES = ("fixed", "moving")


class RegistrationTraining(lightning.LightningModule):
    """Trains a registration network on pairs, without supervision unless labels or landmarks have a weight."""

    earlier_steps: Tensor

    def __init__(self, options: TrainingOptions) -> None:
        super().__init__()
        self.options = options
        self.network = build_network(options.network, options.configuration)
        kept = options.keep
        if isinstance(self.network, RecognisingStructures):
            kept = (*kept, "network" if options.learns_structures else "structures")
        _keep(self.network, kept)
        # Behind the weights that the run started from; a buffer, so that the checkpoint keeps it.
        self.register_buffer("earlier_steps", torch.tensor(0))
        self._found: list[dict[str, float]] = []

    @property
    def multiple(self) -> int:
        """Each side of the working grid is a multiple of so many voxels."""
        return self.network.multiple

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        """One pair: the weighted sum of the objective's terms, or how its structures are recognised."""
        terms = self._recognise(batch) if self.options.learns_structures else self._objective(batch)
        self.log_dict({f"train/{name}": value.detach() for name, value in terms.items()}, batch_size=1)
        return terms["total"]

    def _objective(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        options = self.options
        return objective(self._register(batch), batch, options.weights, options.similarity, options.hyperprior)

    def _recognise(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss of the structures in both images."""
        labels = self._recognising.labels
        losses = [structure_loss(self._seen(batch, role), batch[f"{role}_labels"], labels) for role in _ROLES]
        return {"total": torch.stack(losses).mean()}

    @property
    def _recognising(self) -> RecognisingStructures:
        assert isinstance(self.network, RecognisingStructures)
        return self.network

    def _seen(self, batch: dict[str, Tensor], role: str) -> Tensor:
        """The structures recognised in an image of the pair."""
        image = batch[role]
        with self._precision(image):
            shares: Tensor = self._recognising.structures(image)
        return shares

    def _register(self, batch: dict[str, Tensor]) -> NetworkOutput:
        fixed, moving = batch["fixed"], batch["moving"]
        with self._precision(fixed):
            output: NetworkOutput = self.network(fixed, moving)
        return output

    def _precision(self, image: Tensor) -> AbstractContextManager[Any]:
        # torch's bfloat16 gradients are wrong on volumes smaller than a kernel (CPU), as the coarsest level may be.
        small = min(image.shape[2:]) < 3 * self.multiple and image.device.type == "cpu"
        return full_precision(image.device) if small else nullcontext()

    def validation_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        """Every measure of the pair; returns the displacement."""
        displacement = self._register(batch).displacement
        measures = measure(displacement, batch, self.options.structures)
        if self.options.learns_structures:
            overlap = structure_overlap(self._seen(batch, "fixed"), batch["fixed_labels"], self._recognising.labels)
            measures["recognised"] = measures["score"] = float(overlap)
        self._found.append(measures)
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
        learned = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(learned, lr=self.options.learning_rate, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            self.options.learning_rate,
            total_steps=self.options.total_steps + 1,
            pct_start=0.05,
            final_div_factor=20,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _keep(network: nn.Module, parts: Sequence[str]) -> None:
    """Let the weights whose names begin so stay as they are; OptionError if there are none, or none are left."""
    names = [name for name, _ in network.named_parameters()]
    for part in parts:
        if not any(_is_of(name, part) for name in names):
            some = ", ".join(dict.fromkeys(".".join(name.split(".")[:2]) for name in names))
            raise OptionError(f"“keep” names “{part}”, which is no part of the network; its parts are {some}.")
    for name, parameter in network.named_parameters():
        if any(_is_of(name, part) for part in parts):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise OptionError("“keep” names the whole network; nothing is left to learn.")


def _is_of(name: str, part: str) -> bool:
    return f"{name}.".startswith(f"{part}.")


def run_settings(options: TrainingOptions) -> dict[str, Any]:
    """The settings that a run must keep to the end, as JSON gives them back."""
    free = ("data", "metadata", "workers", "tune", "regularization", "refine")
    values = {name: value for name, value in options_to_dict(options).items() if name not in free}
    settings: dict[str, Any] = json.loads(json.dumps(values))
    return settings
