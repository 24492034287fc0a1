"""DeepRegAttention in 3D Slicer: the module, its widget and its logic; all the rest is in DeepRegAttentionLib."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin


class DeepRegAttention(ScriptedLoadableModule):
    """What 3D Slicer shows of the module before it is opened."""

    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = "DeepRegAttention"
        parent.categories = [translate("qSlicerAbstractCoreModule", "Registration")]
        parent.contributors = ["DeepRegAttention developers"]
        parent.helpText = _(
            "Deformable registration with attention-driven networks that show why they moved what they moved. "
            "Choose a fixed and a moving volume and press Register; then look at the deformation, its Jacobian, "
            "the driving force and the attention under Inspect, and at the measures under Judge. "
            "The sample pair is in the module Sample Data."
        )
        parent.acknowledgementText = _(
            "The methods are described in arXiv 2606.30183 (DrivenMorph), 2602.07088 (AD-RegNet) and 2412.17982 "
            "(spatially varying regularization). This is research software and no medical device."
        )
        slicer.app.connect("startupCompleted()", self._register_sample_data)

    def _register_sample_data(self) -> None:
        from DeepRegAttentionLib.panel.sample import register_sample_data

        register_sample_data(Path(self.resourcePath("")))


class DeepRegAttentionWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel, kept in step with the scene."""

    def __init__(self, parent: Any = None) -> None:
        VTKObservationMixin.__init__(self)
        ScriptedLoadableModuleWidget.__init__(self, parent)

    def setup(self) -> None:
        """Build the panel; called once, when the module is first opened."""
        from DeepRegAttentionLib.panel.panel import Panel
        from DeepRegAttentionLib.panel.scripting import shared_batch

        ScriptedLoadableModuleWidget.setup(self)
        widget = slicer.util.loadUI(self.resourcePath("UI/DeepRegAttention.ui"))
        self.layout.addWidget(widget)
        widget.setMRMLScene(slicer.mrmlScene)
        self.logic = DeepRegAttentionLogic()
        self.panel = Panel(widget, self.logic.registrations, shared_batch())
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self._on_scene_closes)
        for event in (slicer.mrmlScene.EndCloseEvent, slicer.mrmlScene.EndImportEvent):
            self.addObserver(slicer.mrmlScene, event, self._on_scene_changed)
        self._on_scene_changed()

    def enter(self) -> None:
        """The module was opened."""
        if self.panel.parameters is not self.logic.getParameterNode():
            self._on_scene_changed()
        self.panel.enter()

    def exit(self) -> None:
        """The module was left."""
        self.panel.exit()

    def cleanup(self) -> None:
        """The module is unloaded, or the application ends."""
        self.removeObservers()
        self.panel.end()

    def onReload(self) -> None:  # noqa: N802 - the name is 3D Slicer's
        """Load the library anew, too, which 3D Slicer does not do; the worker starts with the new one."""
        from DeepRegAttentionLib.panel.scripting import end_shared

        end_shared()
        # The wrapper of 3D Slicer 5.8 leaves an observer on the node: collected with it, it would crash when called.
        slicer.modules.DeepRegAttentionParameterNode = self.logic.getParameterNode().parameterNode
        for name in [name for name in sys.modules if name.split(".")[0] == "DeepRegAttentionLib"]:
            del sys.modules[name]
        super().onReload()

    def _on_scene_closes(self, *caller_and_event: Any) -> None:
        self.panel.use(None)

    def _on_scene_changed(self, *caller_and_event: Any) -> None:
        self.panel.use(self.logic.getParameterNode())


class DeepRegAttentionLogic(ScriptedLoadableModuleLogic):
    """For scripts: ``DeepRegAttentionLogic().register(fixedNode, movingNode)``."""

    _parameters: Any = None

    @property
    def registrations(self) -> Any:
        """What is under way; one for the whole application."""
        from DeepRegAttentionLib.panel.scripting import shared_registrations

        return shared_registrations()

    def getParameterNode(self) -> Any:  # noqa: N802 - the name is 3D Slicer's
        """The parameters of the panel, typed; the same object as long as the node is the same."""
        from DeepRegAttentionLib.panel.parameters import Parameters

        node = super().getParameterNode()
        if self._parameters is None or self._parameters.parameterNode is not node:
            self._parameters = Parameters(node)
        return self._parameters

    def register(self, fixedNode: Any, movingNode: Any, **how: Any) -> Any:
        """Register two volume nodes: see :func:`DeepRegAttentionLib.panel.scripting.register`."""
        from DeepRegAttentionLib.panel.scripting import register

        return register(self.registrations, fixedNode, movingNode, **how)

    def correct(self, result: Any, corrections: Any) -> Any:
        """Put a result right by pairs of points: see :func:`DeepRegAttentionLib.panel.scripting.correct`."""
        from DeepRegAttentionLib.panel.scripting import correct

        return correct(self.registrations, result, corrections)


class DeepRegAttentionTest(ScriptedLoadableModuleTest):
    """What “Reload and Test” runs, also where the module is installed; the full self-tests are in Testing/Python."""

    def setUp(self) -> None:  # noqa: D102
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:  # noqa: D102, N802 - the name is 3D Slicer's
        self.setUp()
        self.test_sample_pair()

    def test_sample_pair(self) -> None:
        """The sample pair is registered, and agrees better than before."""
        from DeepRegAttentionLib.panel.sample import load_pair

        fixed, moving = load_pair(Path(__file__).parent / "Resources")
        result = DeepRegAttentionLogic().register(fixed, moving, preset="fast")
        similarity = result.metrics["similarity"]
        self.assertGreater(similarity["after"]["ncc"], similarity["before"]["ncc"])  # noqa: PT009
        self.assertEqual(result.metrics["jacobian"]["fold_percent"], 0)  # noqa: PT009
