"""What goes wrong around a registration in a real 3D Slicer, and what the panel makes of it."""

from __future__ import annotations

import gc
import importlib.machinery
import os
import shutil
import signal
import sys
import tempfile
import types
from pathlib import Path
from unittest import mock

import numpy as np
import slicer
from DeepRegAttentionSelfTesting import (
    JOB_S,
    START_S,
    blob_volume,
    files_left,
    notice_errors,
    open_panel,
    say,
    settle,
    wait_until,
)
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleTest

LONG, SHORT = 5000, 5
"""Steps of a refinement that is still under way when something happens to it, and of one that may end."""


class DeepRegAttentionTroubleTest(ScriptedLoadableModuleTest):
    """Each test starts with a small pair chosen in the panel, and a worker that is ready."""

    def setUp(self) -> None:
        notice_errors(self)
        slicer.mrmlScene.Clear()
        self.use(open_panel())
        self.client.warm_up()
        wait_until(lambda: self.client.state.value == "ready" or self.client.trouble, "the worker is ready", START_S)
        self.assertIsNone(self.client.trouble)
        self.fixed, self.moving = blob_volume("Still"), blob_volume("Shifted", 6.0)
        parameters = self.panel.parameters
        parameters.fixed, parameters.moving, parameters.model, parameters.prealign = (
            self.fixed,
            self.moving,
            "none",
            "none",
        )

    def use(self, panel) -> None:
        self.panel, self.ui, self.client = panel, panel.ui, panel._client

    def tearDown(self) -> None:
        slicer.mrmlScene.Clear()
        self.assertEqual(files_left(), [])

    @property
    def under_way(self) -> bool:
        return self.panel._registrations.current is not None

    def click(self, steps: int) -> None:
        self.panel.parameters.refine = steps
        self.assertEqual(self.ui.registerButton.text, "Register")
        self.ui.registerButton.click()

    def click_and_refine(self) -> None:
        """Start a long registration, and come back in its middle."""
        self.click(LONG)
        wait_until(lambda: self.ui.statusLabel.text.startswith("Refining"), "it refines", START_S)

    def finish(self) -> None:
        wait_until(lambda: not self.under_way, "it ends", JOB_S)

    def register(self) -> None:
        """A short registration has its result."""
        self.click(SHORT)
        self.finish()
        self.assertIsNotNone(self.panel._inspect.result, self.ui.statusLabel.text)
        self.assertIn("correlation", self.ui.statusLabel.text)

    def test_volumes_that_cannot_be_used(self) -> None:
        array = slicer.util.arrayFromVolume(self.fixed)
        hole = array.copy()
        hole[3, 4, 5] = np.nan
        far = blob_volume("Far")
        far.SetOrigin(9000, 9000, 9000)
        volumes = {
            "has no voxels": slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Nothing"),
            "every voxel is 7": slicer.util.addVolumeFromArray(np.full_like(array, 7), name="Grey"),
            "44 x 40 x 1 voxels": slicer.util.addVolumeFromArray(array[:1], name="One slice"),
            "NaN": slicer.util.addVolumeFromArray(hole, name="Hole"),
            "overlap": far,
        }
        nodes = slicer.mrmlScene.GetNumberOfNodes()
        for words, volume in volumes.items():
            with self.subTest(volume.GetName()):
                self._refuses(volume, words)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodes(), nodes)
        self.panel.parameters.moving = self.moving
        self.register()

    def _refuses(self, volume: slicer.vtkMRMLVolumeNode, words: str) -> None:
        self.panel.parameters.moving = volume
        self.click(SHORT)
        self.finish()
        settle(0.1)
        sentence = self.ui.statusLabel.text
        say(f"{volume.GetName()}: {sentence}")
        self.assertIn(words.lower(), sentence.lower())
        self.assertTrue(sentence.endswith("."))
        self.assertIs(self.ui.movingSelector.currentNode(), volume)
        self.assertEqual(files_left(), [])

    def test_the_worker_is_killed_from_outside(self) -> None:
        self.click_and_refine()
        os.kill(self.client._process._process.processId(), getattr(signal, "SIGKILL", signal.SIGTERM))
        wait_until(lambda: not self.under_way, "it is noticed", 20)
        say(self.ui.statusLabel.text)
        self.assertIn("crashed", self.ui.statusLabel.text)
        say("the next one does not wait for a click to start the worker again")
        self.register()

    def test_registering_at_once_after_a_cancel(self) -> None:
        self.click_and_refine()
        self.ui.registerButton.click()
        wait_until(lambda: not self.under_way, "it is cancelled", 20)
        self.assertIn("cancelled", self.ui.statusLabel.text)
        self.register()

    def test_a_volume_is_deleted_meanwhile(self) -> None:
        for name, node in (("moving", self.moving), ("fixed", self.fixed)):
            say(f"the {name} volume is deleted")
            self.click(200)
            wait_until(lambda: self.ui.statusLabel.text.startswith("Refining"), "it refines", START_S)
            slicer.mrmlScene.RemoveNode(node)
            self.finish()
            result = self.panel._inspect.result
            self.assertIsNotNone(result, self.ui.statusLabel.text)
            self.assertEqual(result.name, "Shifted to Still")
            self.moving = self.panel.parameters.moving = blob_volume("Shifted", 6.0)

    def test_the_scene_closes_meanwhile(self) -> None:
        self.click_and_refine()
        slicer.mrmlScene.Clear()
        wait_until(lambda: not self.under_way, "it is dropped", 20)
        settle()
        self.assertEqual(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"), [])
        self.assertEqual(self.ui.registerButton.text, "Choose a fixed volume")

    def test_a_torch_that_is_not_complete_is_installed(self) -> None:
        self.client.shutdown()
        folder = Path(tempfile.mkdtemp(prefix="DeepRegAttentionTest"))
        self.addCleanup(shutil.rmtree, folder)
        (folder / "torch").mkdir()
        (folder / "torch" / "__init__.py").touch()
        with mock.patch.dict(os.environ, PYTHONPATH=f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"):
            self.click(SHORT)
            self.finish()
            say(self.ui.statusLabel.text)
            self.assertIn("torch is missing", self.ui.statusLabel.text)
            self._is_explained_without_the_extension()
            self._is_installed_with_it(folder / "torch")
        self.register()

    def _is_explained_without_the_extension(self) -> None:
        with mock.patch.dict(sys.modules, PyTorchUtils=None):
            self.panel._dependencies.refresh()
            say(self.ui.dependencyLabel.text)
            self.assertTrue(self.ui.dependencySection.visible)
            self.assertIn("Extensions Manager", self.ui.dependencyLabel.text)
            self.assertFalse(self.ui.installButton.enabled)
            self.assertFalse(self.ui.registerButton.enabled)

    def _is_installed_with_it(self, broken: Path) -> None:
        """Nothing is downloaded: the extension's installation makes the other torch visible again."""
        calls = []

        class PyTorchUtilsLogic:
            def installTorch(self, askConfirmation=False, forceComputationBackend=None, torchVersionRequirement=None):
                calls.append((askConfirmation, forceComputationBackend, torchVersionRequirement))
                shutil.rmtree(broken)

            def uninstallTorch(self, askConfirmation=False):
                calls.append("uninstall")

        extension = types.ModuleType("PyTorchUtils")
        extension.__spec__ = importlib.machinery.ModuleSpec("PyTorchUtils", None)
        extension.PyTorchUtilsLogic = PyTorchUtilsLogic
        asked = mock.Mock(side_effect=(False, True))
        parts = {"pip_install": calls.append, "confirmOkCancelDisplay": asked}
        with mock.patch.dict(sys.modules, PyTorchUtils=extension), mock.patch.multiple(slicer.util, **parts):
            self.panel._dependencies.refresh()
            self.assertNotIn("Extensions Manager", self.ui.dependencyLabel.text)
            self.ui.installButton.click()
            self.assertEqual(calls, [], "without a yes, nothing is installed")
            self.ui.installButton.click()
        say(str(calls))
        self.assertIn((False, None, ">=2.0"), calls)
        self.assertLessEqual(set(calls), {(False, None, ">=2.0"), "uninstall", "safetensors>=0.4"})
        wait_until(lambda: self.client.state.value == "ready" or self.client.trouble, "the worker is ready", START_S)
        settle(0.1)
        self.assertFalse(self.ui.dependencySection.visible)

    def test_reloading_loads_the_library_anew(self) -> None:
        self.click_and_refine()
        before, worker = sys.modules["DeepRegAttentionLib.terms.settings"], self.client
        slicer.modules.DeepRegAttentionWidget.onReload()
        say("collecting what is left of the old one")
        gc.collect()
        self.assertIsNot(sys.modules["DeepRegAttentionLib.terms.settings"], before)
        self.assertEqual(worker.state.value, "off")
        self.assertIsNot(slicer.modules.DeepRegAttentionWidget.panel, self.panel)
        self.use(slicer.modules.DeepRegAttentionWidget.panel)
        self.assertIs(self.ui.movingSelector.currentNode(), self.moving)
        self.register()

    def test_a_scene_that_closes_leaves_nothing_to_be_called(self) -> None:
        observer = slicer.mrmlScene.AddObserver(slicer.mrmlScene.EndCloseEvent, lambda *_: gc.collect(), 100.0)
        for steps in (7, 8):
            slicer.mrmlScene.Clear()
            self.panel.parameters.refine = steps
            self.assertEqual(self.ui.refineSpinBox.value, steps)
        slicer.mrmlScene.RemoveObserver(observer)
