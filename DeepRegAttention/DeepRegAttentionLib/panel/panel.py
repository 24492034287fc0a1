"""The panel as a whole: builds it from its ``.ui``, binds it to the parameter node, hears what goes on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Callable, Optional

import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.i18n import translate

from ..engine.errors import CancelledError, LicenceError, RegistrationError
from ..engine.resources import resource_folder
from ..jobs.batch import Batch
from ..jobs.client import State
from ..jobs.messages import DeviceQuestion, Event
from ..scene.results import Result
from ..terms.choices import transform_choices
from ..terms.inputs import NO_INPUTS
from ..terms.licences import Consents, refusal_text
from ..terms.settings import AUTO, Settings, missing, without_effect
from ..terms.translation import translate_with
from . import choices, sample
from .batch_section import BatchSection
from .dependency_section import DependencySection, missing_package
from .display import slice_composites
from .inspect_section import InspectSection
from .judge_section import JudgeSection
from .licences import UserSettings, put_question
from .model_section import ModelSection
from .parameters import COMBOS, WIDGETS, Parameters, input_nodes, inputs_of, outputs_of, settings_of
from .registration import Registration, Registrations, Request
from .run_section import RunSection
from .tabs import Tabs


class Panel:
    """All sections, and the parameter node between them.

    Attributes
    ----------
    ui : object
        The widgets of the ``.ui`` by their names.
    parameters : Parameters, optional
        What is bound now; None while the scene closes.
    consents : Consents
        What the user has agreed to, and how that is asked.
    """

    def __init__(self, widget: Any, registrations: Registrations, batch: Batch) -> None:
        translate_with(translate)
        self.ui = slicer.util.childWidgetVariables(widget)
        self._registrations, self._client = registrations, registrations.client
        self.parameters: Optional[Parameters] = None
        self._tag: Any = None
        self._observation = 0
        self._question: Optional[DeviceQuestion] = None
        self._model = ModelSection(self.ui)
        self.consents = Consents(self._model.models, UserSettings(), put_question)
        self._tabs = Tabs(self.ui)
        self._run = RunSection(self.ui, self._client, self._tabs, self.toggle)
        self._judge = JudgeSection(self.ui, self._run.fail)
        self._inspect = InspectSection(self.ui, registrations, self._judge.show)
        self._dependencies = DependencySection(self.ui, self._client)
        self._batch = BatchSection(self.ui, batch, self._dependencies, self._permit, self._show_pair)
        choices.fill(self.ui.transformSelector, transform_choices())
        for name, combo in COMBOS.items():
            getattr(self.ui, combo).connect("currentIndexChanged(int)", lambda index, name=name: self._chosen(name))
        self.ui.sampleButton.connect("clicked()", self.load_sample)
        self._client.changed.connect(self._on_worker)
        registrations.changed.connect(self._refresh_button)
        scene = slicer.mrmlScene
        self._import_observation = scene.AddObserver(scene.EndImportEvent, self._on_import)
        self._judge.show(None)

    # Life

    def use(self, parameters: Optional[Parameters]) -> None:
        """Bind the widgets to a parameter node; None lets go of it."""
        if self.parameters is not None:
            self.parameters.disconnectGui(self._tag)
            self.parameters.RemoveObserver(self._observation)
        self.parameters = parameters
        self._model.use(parameters)
        self._inspect.use(parameters)
        self._batch.use(parameters)
        if parameters is not None:
            widgets = {name: getattr(self.ui, widget) for name, widget in WIDGETS.items()}
            self._tag = parameters.connectParametersToGui(widgets)
            self._observation = parameters.AddObserver(vtk.vtkCommand.ModifiedEvent, self.refresh)
            self._inspect.find()
        self.refresh()

    def enter(self) -> None:
        """The module was opened: have the worker ready by the time that it is needed."""
        self._inspect.activate(True)
        self._client.warm_up()
        if self.parameters is not None:
            self._inspect.find()
            self.refresh()

    def exit(self) -> None:
        """The module was left."""
        self._inspect.activate(False)

    def end(self) -> None:
        """The module is unloaded."""
        self.use(None)
        self._inspect.end()
        self._run.end()
        self._batch.end()
        self._client.changed.disconnect(self._on_worker)
        self._registrations.changed.disconnect(self._refresh_button)
        slicer.mrmlScene.RemoveObserver(self._import_observation)

    # What the person does

    def load_sample(self) -> None:
        """Load the sample pair and choose it; nothing of an earlier result stays drawn over it."""
        parameters = self.parameters
        if parameters is None:
            return
        pair = sample.load_pair(resource_folder("Samples").parent)
        with slicer.util.NodeModify(parameters.parameterNode):
            parameters.fixed, parameters.moving = pair
        self._inspect.show_none()
        sample.show_pair(pair)

    def toggle(self) -> None:
        """Register, or cancel what is under way."""
        parameters = self.parameters
        if self._registrations.current is not None:
            self._registrations.current.cancel()
        elif parameters is not None:
            self._start(parameters)

    def _start(self, parameters: Parameters) -> None:
        settings = settings_of(parameters)
        watched, kept = parameters.watch, parameters.keepFiles
        request = Request(input_nodes(parameters), settings, outputs_of(parameters), watched, kept)
        self.consents.require(settings.model, lambda agreed: self._submit(request, agreed))

    def _submit(self, request: Request, agreed: bool) -> None:
        """Start it with what the person has agreed to; a no to a model that was chosen by name starts nothing."""
        if not agreed and request.settings.model != AUTO:
            self._run.fail(refusal_text(request.settings.model))
            return
        request = replace(request, settings=self.consents.add_to(request.settings))
        try:
            self._registrations.start(request, self._listen)
        except RegistrationError as error:
            self._run.fail(str(error))
        else:
            self._run.started()

    def _permit(self, settings: Settings, then: Callable[[Settings], None]) -> None:
        """Go on with what the person has agreed to, if that includes the model that was chosen by name."""

        def answered(agreed: bool) -> None:
            if agreed:
                then(self.consents.add_to(settings))
            else:
                self._batch.say(refusal_text(settings.model))

        self.consents.require(settings.model, answered)

    def _show_pair(self, result: Result) -> None:
        """Look at a pair of a cohort."""
        if result.fixed is not None and result.warped is not None:
            sample.show_pair([result.fixed, result.warped])
        self._inspect.show_newest(result)
        self._tabs.show_inspect()

    def _chosen(self, name: str) -> None:
        if self.parameters is not None:
            self.parameters.setValue(name, choices.value_of(getattr(self.ui, COMBOS[name])))

    # What goes on

    def refresh(self, *caller_and_event: Any) -> None:
        """Show the parameters everywhere."""
        if self.parameters is not None:
            for name, combo in COMBOS.items():
                widget, value = getattr(self.ui, combo), self.parameters.getValue(name)
                if choices.value_of(widget) != value:
                    was = widget.blockSignals(True)
                    choices.select(widget, value)
                    widget.blockSignals(was)
            self._model.refresh()
            self._inspect.refresh()
            self._batch.refresh()
            self._ask_for_memory()
        self._refresh_button()

    def _refresh_button(self) -> None:
        if self.parameters is None:
            self._run.refresh(missing(NO_INPUTS) or "", False)
            return
        inputs = inputs_of(input_nodes(self.parameters))
        lacking = missing(inputs, settings_of(self.parameters), outputs_of(self.parameters))
        if missing_package(self._client.trouble):
            lacking = _("Something has to be installed first: see above")
        self._run.refresh(lacking or "", self._registrations.current is not None)

    def _listen(self, registration: Registration) -> None:
        registration.progressed.connect(self._run.heard)
        registration.watched.connect(lambda: self._show_preview(registration))
        registration.ended.connect(self._on_ended)
        for note in without_effect(registration.request.settings, inputs_of(registration.request.nodes)):
            self._run.log(note)

    def _show_preview(self, registration: Registration) -> None:
        """The volume that becomes better, over the fixed one."""
        preview = registration.preview
        for composite in slice_composites():
            if preview is not None and composite.GetForegroundVolumeID() != preview.GetID():
                composite.SetBackgroundVolumeID(registration.request.nodes["fixed"].GetID())
                composite.SetForegroundVolumeID(preview.GetID())
                composite.SetForegroundOpacity(1.0)

    def _on_ended(self, registration: Registration) -> None:
        if registration.request.keep_files and registration.files is not None:
            self._run.log(str(registration.files.folder))
        if isinstance(registration.error, LicenceError):
            self._ask_for_consent(registration.request, registration.error.model)
            return
        self._run.ended(registration)
        if registration.result is not None and self.parameters is not None:
            self._inspect.show_newest(registration.result)
            self._tabs.show_inspect()
        elif isinstance(registration.error, CancelledError):
            self._inspect.refresh()

    def _ask_for_consent(self, request: Request, model: str) -> None:
        """Put the question once everyone knows that this registration has ended, and start again with the answer."""
        self._run.say("")
        ask = self.consents.ask
        qt.QTimer.singleShot(0, lambda: ask(model, lambda agreed: self._submit(request, agreed)))

    def _on_import(self, *caller_and_event: Any) -> None:
        """A scene was read: the nodes that its parameters name came after them, and nobody was told."""
        if self.parameters is not None:
            self.parameters.parameterNode.Modified()
            self._inspect.find()
            self.refresh()
            # The selectors have the new nodes only when this is over.
            qt.QTimer.singleShot(0, self._read_again)

    def _read_again(self) -> None:
        if self.parameters is not None:
            self.parameters.parameterNode.Modified()

    def _on_worker(self) -> None:
        """The worker started, ended, or lacks something."""
        self._dependencies.refresh()
        self._refresh_button()
        if self._client.state is State.OFF:
            self._question = None
        self._ask_for_memory()

    def _ask_for_memory(self) -> None:
        """What this computer has, and what these volumes need of it; once for each change of them."""
        if self.parameters is None or self._client.state not in (State.READY, State.RUNNING):
            return
        question = memory_question(self.parameters)
        if question != self._question:
            self._question = question
            self._client.ask(question, self._on_devices)

    def _on_devices(self, event: Event) -> None:
        if event.devices is not None:
            self._model.devices = event.devices
            self._model.refresh()


def memory_question(parameters: Parameters) -> DeviceQuestion:
    """What the worker has to know to say how much memory a registration needs: the fixed grid and the options."""
    fixed = parameters.fixed
    if fixed is None or fixed.GetImageData() is None:
        return DeviceQuestion()
    size, spacing = fixed.GetImageData().GetDimensions(), fixed.GetSpacing()
    options = {**settings_of(parameters).options(), "maps": parameters.wantMaps}
    return DeviceQuestion(tuple(size), tuple(spacing), options)
