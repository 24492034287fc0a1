"""What a person should know of the models, and of using none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..engine.models.info import ModelInfo
from .choices import Choice
from .settings import AUTO, FILE, NONE
from .translation import translator

_ = translator(__name__)


def model_choices(models: Sequence[ModelInfo], files: bool = True) -> list[Choice]:
    """The models, with choosing by itself first; `files`: whether any model file can be given."""
    return [
        Choice(AUTO, _("Choose for me, by modality and size")),
        *(Choice(model.name, model.name, model.description) for model in models),
        Choice(NONE, _("No network: refinement alone, for any images")),
        *([Choice(FILE, _("A model file …"))] if files else []),
    ]


def model_text(name: str, models: Sequence[ModelInfo]) -> str:
    """What a person should know of a choice of model: what it is for, trained on, licence, accuracy."""
    found = [model for model in models if model.name == name]
    if not found:
        return _text_of_no_model(name)
    model = found[0]
    lines = [
        model.description,
        _("Trained on: {data}").format(data=model.training_data),
        _("Licence: {licence}").format(licence=model.licence),
        _accuracy_text(model.accuracy),
    ]
    return "\n".join(line for line in lines if line)


def _text_of_no_model(name: str) -> str:
    texts = {
        AUTO: _(
            "The model whose modality and size match both volumes, if its answer explains them; otherwise "
            "refinement alone. The result says which, and why."
        ),
        NONE: _("Finds the deformation of this pair from nothing: slower, but for any organ and, with MIND or MI, "
                "any contrast."),
        FILE: _("Weights in safetensors, as “deepreg-attention train” writes them; opening one runs no code."),
    }  # fmt: skip
    return texts.get(name, "")


def _accuracy_text(accuracy: Mapping[str, Any]) -> str:
    measured = {name: value["dice"] for name, value in accuracy.items() if isinstance(value, dict) and "dice" in value}
    if not measured:
        return ""
    dice = ", ".join(f"{mean:.2f} {name.replace('_', ' ')}" for name, mean in measured.items())
    return _("Accuracy: Dice {dice} ({data})").format(dice=dice, data=accuracy.get("data", ""))
