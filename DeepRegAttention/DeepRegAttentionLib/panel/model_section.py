"""The section Model: which network, how fast, where, and what of it has an effect."""

from __future__ import annotations

from typing import Any, Dict, Optional

from ..engine.options import RegistrationOptions
from ..engine.resources import resource_folder
from ..terms import settings as session
from . import choices
from .parameters import Parameters, input_nodes, selection_of, settings_of

_WIDGETS = {
    "model_file": ("modelFileEdit",),
    "similarity": ("similaritySelector", "similarityLabel"),
    "regularization": ("regularizationSpinBox", "regularizationLabel"),
    "regularization_map": ("regularizationMapSelector", "regularizationMapLabel"),
    "landmark_weight": ("landmarkWeightSpinBox", "landmarkWeightLabel"),
}


class ModelSection:
    """Shows the settings and lets presets set them."""

    def __init__(self, ui: Any) -> None:
        self._ui = ui
        self._parameters: Optional[Parameters] = None
        self._models = session.read_models(resource_folder("Models") / "models.json")
        self._presets = session.read_presets(resource_folder("Presets"))
        self.devices: Optional[Dict[str, Any]] = None
        choices.fill(ui.modelSelector, choices.model_choices(self._models))
        choices.fill(ui.presetSelector, choices.preset_choices(self._presets))
        choices.fill(ui.deviceSelector, choices.device_choices())
        choices.fill(ui.precisionSelector, choices.precision_choices())
        choices.fill(ui.prealignSelector, choices.prealign_choices())
        choices.fill(ui.similaritySelector, choices.similarity_choices())
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
        ui.modelText.text = session.model_text(settings.model, self._models)
        ui.modelFileEdit.visible = settings.model == session.FILE
        self._show_file(settings.model_file)
        choices.select(ui.presetSelector, session.preset_of(settings, self._presets))
        ui.deviceText.text = session.device_text(self.devices, settings.device)
        ui.deviceText.visible = bool(ui.deviceText.text)
        self._enable(settings, selection_of(input_nodes(parameters)))

    def _enable(self, settings: session.Settings, selection: session.Selection) -> None:
        for name, on in session.enabled(settings, selection).items():
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
            self._ui.advancedGroup.collapsed = False
            return
        self.apply_preset(name)

    def apply_preset(self, name: str) -> None:
        """Set everything that presets decide."""
        if self._parameters is not None:
            for setting, value in session.preset_values(self._presets[name]).items():
                self._parameters.setValue(setting, value)


def default_settings(preset: str, changes: Dict[str, Any]) -> session.Settings:
    """The settings of a preset with some of them changed; for scripts.

    Raises
    ------
    OptionError
        A setting is unknown, or its value is not possible.
    """
    presets = session.read_presets(resource_folder("Presets"))
    values = session.preset_values(presets[preset]) if preset in presets else {}
    settings = session.settings_from({**values, **changes})
    RegistrationOptions.from_mapping(settings.options())
    return settings
