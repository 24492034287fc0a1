"""The section Model: which network, how fast, where, and what of it has an effect."""

from __future__ import annotations

from typing import Any, Optional

from ..engine.models.listing import list_models
from ..terms.choices import device_choices, prealign_choices, precision_choices, similarity_choices
from ..terms.inputs import Inputs
from ..terms.models import model_choices, model_text
from ..terms.presets import preset_choices, preset_of, preset_values, shipped_presets
from ..terms.settings import FILE, Settings, enabled
from ..terms.wording import device_text, device_trouble
from . import choices
from .parameters import Parameters, input_nodes, inputs_of, set_setting, settings_of

_WIDGETS = {
    "model_file": ("modelFileEdit",),
    "similarity": ("similaritySelector", "similarityLabel"),
    "regularization": ("regularizationSpinBox", "regularizationLabel"),
    "regularization_map": ("regularizationMapSelector", "regularizationMapLabel"),
    "landmark_weight": ("landmarkWeightSpinBox", "landmarkWeightLabel"),
}


class ModelSection:
    """Shows the settings and lets presets set them.

    Attributes
    ----------
    models : list of ModelInfo
        The shipped models.
    devices : dict, optional
        What the worker says of this computer.
    """

    def __init__(self, ui: Any) -> None:
        self._ui = ui
        self._parameters: Optional[Parameters] = None
        self.models = [model.info for model in list_models()]
        self._presets = shipped_presets()
        self.devices: Optional[dict[str, Any]] = None
        self._device_tip = ui.deviceSelector.toolTip
        choices.fill(ui.modelSelector, model_choices(self.models))
        choices.fill(ui.presetSelector, preset_choices())
        choices.fill(ui.deviceSelector, device_choices())
        choices.fill(ui.precisionSelector, precision_choices())
        choices.fill(ui.prealignSelector, prealign_choices())
        choices.fill(ui.similaritySelector, similarity_choices())
        ui.presetSelector.connect("activated(int)", self._choose_preset)
        ui.modelFileEdit.connect("currentPathChanged(QString)", self._choose_file)

    def use(self, parameters: Optional[Parameters]) -> None:
        """Work on these parameters from now on."""
        self._parameters = parameters

    def refresh(self) -> None:
        """Show the parameters."""
        parameters = self._parameters
        if parameters is None:
            return
        settings = settings_of(parameters)
        ui = self._ui
        ui.modelText.text = model_text(settings.model, self.models)
        ui.modelFileEdit.visible = settings.model == FILE
        self._show_file(settings.model_file)
        choices.select(ui.presetSelector, preset_of(settings, self._presets))
        ui.deviceSelector.toolTip = device_text(self.devices, settings.device) or self._device_tip
        ui.deviceText.text = device_trouble(self.devices, settings.device)
        ui.deviceText.visible = bool(ui.deviceText.text)
        self._enable(settings, inputs_of(input_nodes(parameters)))

    def _enable(self, settings: Settings, inputs: Inputs) -> None:
        for name, on in enabled(settings, inputs).items():
            for widget in _WIDGETS[name]:
                getattr(self._ui, widget).enabled = on

    def _show_file(self, path: str) -> None:
        edit = self._ui.modelFileEdit
        if edit.currentPath != path:
            was = edit.blockSignals(True)
            edit.currentPath = path
            edit.blockSignals(was)

    def _choose_file(self, path: str) -> None:
        if self._parameters is not None:
            self._parameters.modelFile = path

    def _choose_preset(self, index: int) -> None:
        name = choices.value_of(self._ui.presetSelector)
        if self._parameters is None or name not in self._presets:
            self._ui.advancedSection.collapsed = False
            return
        self.apply_preset(name)

    def apply_preset(self, name: str) -> None:
        """Set everything that presets decide."""
        if self._parameters is not None:
            for setting, value in preset_values(self._presets[name]).items():
                set_setting(self._parameters, setting, value)
