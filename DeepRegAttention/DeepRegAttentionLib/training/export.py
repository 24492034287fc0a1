"""The model file of a training run: the best network so far, with what was measured of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from ..engine.errors import OptionError, suggestion
from ..engine.models.files import save_model
from ..engine.models.info import ModelInfo
from .module import RegistrationTraining
from .options import TrainingOptions

_NO_METADATA = (
    "name",
    "network",
    "configuration",
    "intensity",
    "spacing",
    "shape_multiple",
    "regularization",
    "refine",
    "structures_share",
    "steps",
    "accuracy",
)


class BestModel(Callback):
    """Writes the model file whenever the validation score is the best so far, or without validation at the end.

    So a run that is stopped leaves a model, too.

    Parameters
    ----------
    path : Path
        Of the model file.
    validated : bool
        Whether there are pairs to validate with.
    """

    def __init__(self, path: Path, validated: bool) -> None:
        self.path = path
        self.validated = validated
        self.best = -float("inf")

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From the checkpoint."""
        self.best = state["best"]

    def on_validation_end(self, trainer: lightning.Trainer, module: Any) -> None:
        """Write the model if it is the best."""
        measured = validation_means(trainer.callback_metrics)
        if measured["score"] > self.best:
            self.best = measured["score"]
            self._write(trainer, module, measured)

    def on_train_end(self, trainer: lightning.Trainer, module: Any) -> None:
        """Write the model that nothing judges."""
        if not self.validated:
            self._write(trainer, module, {})

    def _write(self, trainer: lightning.Trainer, module: RegistrationTraining, measured: Mapping[str, float]) -> None:
        if trainer.is_global_zero:
            steps = int(module.earlier_steps) + trainer.global_step
            info = model_info(module.options, module.multiple, steps, measured)
            save_model(module.network, info, self.path)


def validation_means(metrics: Mapping[str, Any]) -> dict[str, float]:
    """What was logged as ``val/…``, without the prefix."""
    return {name[len("val/") :]: float(value) for name, value in metrics.items() if name.startswith("val/")}


def model_info(options: TrainingOptions, multiple: int, steps: int, measured: Mapping[str, float]) -> ModelInfo:
    """What the model file says of itself.

    Parameters
    ----------
    options : TrainingOptions
        Of the run.
    multiple : int
        Each side of the working grid is a multiple of so many voxels.
    steps : int
        Training steps behind the weights.
    measured : mapping
        Means over the validation pairs; empty without validation.

    Raises
    ------
    OptionError
        The metadata lack an entry or hold an unknown one.
    """
    _require_metadata(options.metadata)
    accuracy: dict[str, Any] = {}
    if measured:
        accuracy["data"] = "the pairs that chose the weights"
        accuracy["cases"] = list(options.validation)
        accuracy["validation"] = {name: round(value, 4) for name, value in measured.items() if name != "score"}
    return ModelInfo(
        name=options.name,
        network=options.network,
        configuration=options.configuration,
        intensity=options.intensity,
        spacing=options.spacing,
        shape_multiple=multiple,
        regularization=options.regularization,
        refine=options.refine,
        structures_share=options.structures_share,
        steps=steps,
        accuracy=accuracy,
        **options.metadata,
    )


_METADATA = {entry.name: entry for entry in fields(ModelInfo) if entry.name not in _NO_METADATA}


def _require_metadata(metadata: Mapping[str, Any]) -> None:
    for name in metadata:
        if name not in _METADATA:
            raise OptionError(f"There is no setting “metadata.{name}”{suggestion(name, _METADATA)}.")
    for name, entry in _METADATA.items():
        if entry.default is MISSING and name not in metadata:
            raise OptionError(f"The setting “metadata.{name}” is missing; the model file needs it.")
