"""The panel, clicked through in a real 3D Slicer: register the sample pair, inspect, judge, save, cancel, close."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import slicer
from DeepRegAttentionSelfTesting import (
    JOB_S,
    START_S,
    blob_volume,
    files_left,
    moved,
    notice_errors,
    open_panel,
    say,
    settle,
    wait_until,
)
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleTest


class DeepRegAttentionPanelTest(ScriptedLoadableModuleTest):
    """Each test starts with an empty scene and the panel open."""

    def setUp(self) -> None:
        notice_errors(self)
        slicer.mrmlScene.Clear()
        self.panel = open_panel()
        self.ui = self.panel.ui
        say("the worker starts, with torch")
        client = self.panel._client
        wait_until(lambda: client.state.value == "ready" or client.trouble, "the worker is ready", START_S)
        self.assertIsNone(client.trouble)

    def start(self, preset: int = 0) -> None:
        """Load the sample pair through its button, choose a preset, click Register."""
        self.ui.sampleButton.click()
        self.ui.presetSelector.setCurrentIndex(preset)
        self.ui.presetSelector.activated(preset)
        self.assertEqual(self.ui.registerButton.text, "Register")
        self.ui.registerButton.click()
        self.assertEqual(self.ui.registerButton.text, "Cancel")

    @property
    def under_way(self) -> bool:
        return self.panel._registrations.current is not None

    def test_what_is_missing_is_said_by_the_button(self) -> None:
        say("an empty scene")
        self.assertFalse(self.ui.registerButton.enabled)
        self.assertEqual(self.ui.registerButton.text, "Choose a fixed volume")
        self.ui.sampleButton.click()
        self.ui.movingSelector.setCurrentNode(self.ui.fixedSelector.currentNode())
        self.assertEqual(self.ui.registerButton.text, "Fixed and moving must be two different volumes")
        self.assertFalse(self.ui.registerButton.enabled)

    def test_the_presets_say_how_many_steps(self) -> None:
        spin = self.ui.refineSpinBox
        shown = []
        for preset in (0, 2, 1):
            self.ui.presetSelector.setCurrentIndex(preset)
            self.ui.presetSelector.activated(preset)
            shown.append((spin.value, spin.text))
        self.assertEqual(shown, [(0, "0"), (150, "150"), (-1, "the model’s own")])
        self.assertTrue(self.ui.similaritySelector.enabled, "the model may recommend a refinement")
        for other in (self.ui.regularizationSpinBox, self.ui.spacingSpinBox):
            self.assertEqual(other.text, "the model’s own")
        say("a number of one’s own is no preset; the least that can be chosen is the model’s own again")
        spin.stepUp()
        self.assertEqual((spin.value, self.ui.presetSelector.currentText), (0, "Fast"))
        spin.value = 7
        self.assertEqual(self.ui.presetSelector.currentText, "Custom")
        spin.value = -5
        self.assertEqual(self.panel.parameters.refine, -1)
        self.assertEqual(self.ui.presetSelector.currentText, "Balanced")

    def test_zero_is_zero_and_the_least_value_is_the_models_own(self) -> None:
        from DeepRegAttentionLib.panel.parameters import settings_of

        for spin, name in (("regularizationSpinBox", "regularization"), ("refineSpinBox", "refine")):
            widget = getattr(self.ui, spin)
            for value, meant in ((0, 0), (widget.minimum, None), (2, 2)):
                widget.value = value
                self.assertEqual(getattr(settings_of(self.panel.parameters), name), meant)

    def test_a_restricted_model_is_used_with_consent_alone(self) -> None:
        from DeepRegAttentionLib.terms.licences import Consents

        asked, agrees = [], [False]

        def put(question, answered):
            asked.append(question)
            answered(agrees[0])

        self.panel.consents = Consents(self.panel._model.models, {}, put)
        self.ui.sampleButton.click()
        self.ui.presetSelector.setCurrentIndex(0)
        self.ui.presetSelector.activated(0)
        self.panel.parameters.model = "cardiac-mr"
        say("a no starts nothing")
        self.ui.registerButton.click()
        self.assertIn("non-commercial", asked[0])
        self.assertFalse(self.under_way)
        self.assertIn("only with your consent", self.ui.statusLabel.text)
        say("a yes does, and is not asked for again")
        agrees[0] = True
        for _ in range(2):
            self.ui.registerButton.click()
            self.assertTrue(self.under_way)
            self.ui.registerButton.click()
            wait_until(lambda: not self.under_way, "the registration is cancelled", JOB_S)
        self.assertEqual(len(asked), 2)

    def test_register_inspect_judge_save_and_load(self) -> None:
        self.start()
        say("it runs; the window answers")
        longest = wait_until(lambda: not self.under_way, "the registration ends", JOB_S)
        say(f"the longest time without an answer: {longest:.2f} s")
        result = self.panel._inspect.result
        self.assertIsNotNone(result, self.ui.logText.plainText)
        self._check_first_look(result)
        self._check_tabs_fit()
        self._check_worst_places(result)
        self._check_nodes(result)
        self._check_direction(result)
        self._check_overlays(result)
        self._check_comparison(result)
        self._check_deformation(result)
        self._check_judge(result)
        self._check_choice(result)
        self._check_saved(result)
        self.assertEqual(files_left(), [])

    def _check_first_look(self, result) -> None:
        from DeepRegAttentionLib.scene.places import places_of, point_of

        say("the tab Inspect is open, at the worst place, with the verdict; the 3D view has the slices")
        self.assertEqual(self.ui.tabs.currentWidget(), self.ui.inspectPage)
        self.assertEqual(self.ui.tabs.tabText(0), "Register")
        title = result.metrics["verdict"]["grade"].capitalize()
        for label in (self.ui.verdictText, self.ui.inspectVerdict, self.ui.judgeVerdict):
            self.assertIn(title, label.text)
        point = point_of(places_of(result, {})[0])
        for name in ("Red", "Green", "Yellow"):
            node = slicer.app.layoutManager().sliceWidget(name).mrmlSliceNode()
            self.assertLess(_distance(node, point), 0.1, name)
            self.assertTrue(node.GetSliceVisible())
        self.assertIn("1 of", self.ui.placeText.text)

    def _check_tabs_fit(self) -> None:
        say("every tab fits a window of 1500x950, whichever section is open, with all that Inspect has to choose")
        window = slicer.util.mainWindow()
        window.resize(1500, 950)
        area = self.ui.tabs
        while area is not None and area.className() != "QScrollArea":
            area = area.parent()
        for selector, value in ((self.ui.overlaySelector, "jacobian"), (self.ui.deformationSelector, "grid")):
            selector.setCurrentIndex(selector.findData(value))
        sections = (self.ui.guidanceSection, self.ui.advancedSection, self.ui.outputsSection, self.ui.logSection)
        for page in range(self.ui.tabs.count):
            self.ui.tabs.setCurrentIndex(page)
            for section in sections if page == 0 else sections[:1]:
                section.collapsed = False
                what = f"tab {page} fits with {section.name}"
                wait_until(lambda: area.verticalScrollBar().maximum == 0, what, 5)
                self.assertEqual([other for other in sections if not other.collapsed], [section])
                section.collapsed = True
        for selector in (self.ui.overlaySelector, self.ui.deformationSelector):
            selector.setCurrentIndex(0)

    def _check_worst_places(self, result) -> None:
        from DeepRegAttentionLib.scene.places import places_of, point_of

        say("fixed and warped volume side by side at the worst place, then at the next, then back")
        before = slicer.app.layoutManager().layout
        points = [point_of(place) for place in places_of(result, {})]
        self.ui.worstButton.click()
        settle()
        self.assertTrue(self.ui.layoutButton.checked)
        for button, number in ((None, 0), (self.ui.nextPlaceButton, 1), (self.ui.previousPlaceButton, 0)):
            if button is not None:
                button.click()
            for name in ("DeepRegFixed", "DeepRegWarped", "DeepRegOverlay"):
                node = slicer.app.layoutManager().sliceWidget(name).mrmlSliceNode()
                self.assertLess(_distance(node, points[number]), 0.1, name)
                self.assertLess(min(node.GetFieldOfView()[:2]), 90, "near")
            self.assertIn(f"{number + 1} of {len(points)}", self.ui.placeText.text)
        self.ui.layoutButton.click()
        settle()
        self.assertEqual(slicer.app.layoutManager().layout, before)

    def _check_nodes(self, result) -> None:
        say("the nodes are there, named after their inputs, in one folder")
        self.assertEqual(result.warped.GetName(), "Colin27 warped to ICBM152")
        self.assertIsNotNone(result.transform)
        self.assertIsNotNone(result.inverse)
        self.assertLessEqual({"jacobian", "attention", "regularization"}, set(result.maps))
        hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
        for node in (result.warped, result.transform, result.maps["jacobian"]):
            self.assertEqual(hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)), result.folder)
        similarity = result.metrics["similarity"]
        self.assertGreater(similarity["after"]["ncc"], similarity["before"]["ncc"] + 0.03)

    def _check_direction(self, result) -> None:
        say("the moving volume, put under the transform, becomes the warped one")
        copy = slicer.modules.volumes.logic().CloneVolume(slicer.mrmlScene, result.moving, "copy")
        copy.SetAndObserveTransformNodeID(result.transform.GetID())
        self.assertTrue(slicer.vtkSlicerTransformLogic.hardenTransform(copy))
        seen, wanted = self._at_same_places(copy, result.warped)
        slicer.mrmlScene.RemoveNode(copy)
        self.assertGreater(_correlation(seen, wanted), 0.99)

    def _at_same_places(self, volume, reference):
        """Values of two volumes at points of the second one."""
        import numpy as np

        step = slice(20, -20, 7)
        grid = np.stack(
            np.meshgrid(*[np.arange(n) for n in slicer.util.arrayFromVolume(reference).shape], indexing="ij")
        )
        index = grid[:, step, step, step].reshape(3, -1)
        to_world = slicer.util.arrayFromVTKMatrix(_matrix(reference, "IJKToRAS"))
        to_voxel = slicer.util.arrayFromVTKMatrix(_matrix(volume, "RASToIJK"))
        world = to_world @ np.vstack([index[::-1], np.ones(index.shape[1])])
        there = np.rint((to_voxel @ world)[2::-1]).astype(int)
        array = slicer.util.arrayFromVolume(volume)
        inside = np.all((there >= 0) & (there < np.array(array.shape)[:, None]), axis=0)
        values = slicer.util.arrayFromVolume(reference)[tuple(index[:, inside])]
        return array[tuple(there[:, inside])], values

    def _check_overlays(self, result) -> None:
        say("each overlay is in the slice views, with its legend")
        composite = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceCompositeNode()
        values = [self.ui.overlaySelector.itemData(n) for n in range(self.ui.overlaySelector.count)]
        self.assertEqual(values[0], "none")
        self.assertGreater(len(values), 4)
        for index, name in enumerate(values[1:], 1):
            self.ui.overlaySelector.setCurrentIndex(index)
            settle(0.1)
            self.assertEqual(composite.GetForegroundVolumeID(), result.maps[name].GetID(), name)
        self.ui.opacitySlider.value = 0.8
        self.assertAlmostEqual(composite.GetForegroundOpacity(), 0.8)
        self.ui.thresholdCheckBox.checked = True
        self.ui.thresholdRange.setValues(0.2, 0.3)
        display = result.maps[values[-1]].GetDisplayNode()
        self.assertTrue(display.GetApplyThreshold())
        self.assertAlmostEqual(display.GetLowerThreshold(), 0.2, delta=0.01)
        self.ui.thresholdCheckBox.checked = False
        self.ui.overlaySelector.setCurrentIndex(0)
        self.assertEqual(composite.GetForegroundVolumeID(), result.warped.GetID())

    def _check_comparison(self, result) -> None:
        say("blend, swipe, checkerboard; before and after; side by side")
        composite = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceCompositeNode()
        pictures = []
        for value in ("swipe", "checkerboard"):
            self.ui.comparisonSelector.setCurrentIndex(self.ui.comparisonSelector.findData(value))
            shown = slicer.mrmlScene.GetNodeByID(composite.GetBackgroundVolumeID())
            self.assertNotIn(shown, (result.fixed, result.moving, result.warped))
            pictures.append(_picture())
        self.ui.beforeButton.click()
        pictures.append(_picture())
        for one, other in zip(pictures, pictures[1:]):
            self.assertGreater(abs(one - other).max(), 20, "each is seen, not only computed")
        self.ui.beforeButton.click()
        self.ui.comparisonSelector.setCurrentIndex(self.ui.comparisonSelector.findData("blend"))
        self.assertEqual(composite.GetBackgroundVolumeID(), result.fixed.GetID())
        self.ui.beforeButton.click()
        self.assertNotEqual(composite.GetForegroundVolumeID(), result.warped.GetID())
        self.ui.beforeButton.click()
        self.assertEqual(composite.GetForegroundVolumeID(), result.warped.GetID())
        self._check_comparison_under_an_overlay(result, composite)
        before, slices = slicer.app.layoutManager().layout, self._slice_offsets()
        self.ui.layoutButton.click()
        settle()
        from DeepRegAttentionLib.scene.layouts import COMPARISON_LAYOUT

        self.assertEqual(slicer.app.layoutManager().layout, COMPARISON_LAYOUT)
        say("in the middle of the fixed volume, and the usual views stay where they are")
        offsets, middle = self._slice_offsets(), slices["Red"]
        for name, offset in offsets.items():
            self.assertAlmostEqual(offset, slices.get(name, middle), delta=2.0, msg=name)
        self._check_layout(result)
        self.ui.layoutButton.click()
        self.assertEqual(slicer.app.layoutManager().layout, before)

    def _check_comparison_under_an_overlay(self, result, composite) -> None:
        say("with an overlay on top, the comparison goes on below it")
        self.ui.overlaySelector.setCurrentIndex(self.ui.overlaySelector.findData("jacobian"))

        def below():
            self.assertEqual(composite.GetForegroundVolumeID(), result.maps["jacobian"].GetID())
            node = slicer.mrmlScene.GetNodeByID(composite.GetBackgroundVolumeID())
            return slicer.util.arrayFromVolume(node)[90, 60:160:9, 60:120:9].astype(float)

        pictures = [below()]
        self.ui.beforeButton.click()
        pictures.append(below())
        self.ui.amountSlider.value = 0.9
        pictures.append(below())
        self.ui.comparisonSelector.setCurrentIndex(self.ui.comparisonSelector.findData("swipe"))
        pictures.append(below())
        for one, other in zip(pictures, pictures[1:]):
            self.assertGreater(abs(one - other).max(), 5)
        self.ui.beforeButton.click()
        self.ui.comparisonSelector.setCurrentIndex(self.ui.comparisonSelector.findData("blend"))
        self.ui.amountSlider.value = 1.0
        self.assertEqual(composite.GetBackgroundVolumeID(), result.warped.GetID())
        self.ui.amountSlider.value = 0.5
        self.ui.overlaySelector.setCurrentIndex(0)
        self.assertEqual(composite.GetForegroundVolumeID(), result.warped.GetID())

    def _slice_offsets(self) -> dict:
        return {node.GetName(): node.GetSliceOffset() for node in slicer.util.getNodesByClass("vtkMRMLSliceNode")}

    def _check_layout(self, result) -> None:
        say("the view of the layout shows the expected error, then the overlay that is chosen")
        composite = slicer.app.layoutManager().sliceWidget("DeepRegOverlay").mrmlSliceCompositeNode()
        self.assertEqual(composite.GetForegroundVolumeID(), result.maps["expected_error"].GetID())
        self.ui.overlaySelector.setCurrentIndex(self.ui.overlaySelector.findData("attention"))
        self.assertEqual(composite.GetForegroundVolumeID(), result.maps["attention"].GetID())
        self.ui.opacitySlider.value = 0.3
        self.assertAlmostEqual(composite.GetForegroundOpacity(), 0.3)
        self.ui.overlaySelector.setCurrentIndex(0)
        self.assertEqual(composite.GetForegroundVolumeID(), result.maps["expected_error"].GetID())

    def _check_deformation(self, result) -> None:
        say("the deformation is drawn as grid, arrows, contours; a force is offered where there is one")
        self.assertNotIn("driving_force", result.maps)
        self.assertEqual(self.ui.deformationSelector.findData("force"), -1)
        for value in ("grid", "arrows", "contours"):
            self.ui.deformationSelector.setCurrentIndex(self.ui.deformationSelector.findData(value))
            settle(0.1)
            self.assertTrue(_is_deformation_drawn(), value)
        self.ui.deformationSelector.setCurrentIndex(0)
        settle(0.1)
        self.assertFalse(_is_deformation_drawn())

    def _check_judge(self, result) -> None:
        say("the tables, a plot, the export")
        self.assertIn("similarity", result.tables)
        self.assertIn("deformation", result.tables)
        self._choose_table("similarity")
        table = self.ui.measuresTable
        self.assertEqual(table.horizontalScrollBar().maximum, 0, "every value is in sight")
        self.assertGreaterEqual(table.rowHeight(0), table.sizeHintForRow(0), "and every name")
        self._check_plot()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "measures.csv"
            self.panel._judge.export(str(path))
            self.assertGreater(len(path.read_text(encoding="utf-8").splitlines()), 3)

    def _check_plot(self) -> None:
        import numpy as np
        import qt

        self.ui.histogramButton.click()
        settle(1.0)
        image = slicer.app.layoutManager().plotWidget(0).plotView().grab().toImage()
        beside = [[qt.QColor(image.pixel(x, y)).lightness() for x in range(40)] for y in range(image.height())]
        self.assertGreater(np.median(beside), 200, "the axis is on a bright ground")
        self.assertLess(np.min(beside), 60, "and has its numbers")

    def _choose_table(self, name: str) -> None:
        self.ui.tableSelector.setCurrentIndex(self.ui.tableSelector.findData(name))
        self.ui.tableSelector.activated(self.ui.tableSelector.currentIndex)
        settle(0.1)

    def _check_choice(self, result) -> None:
        say("nothing of a result is left in the views once none is chosen, and Judge follows")
        self.ui.overlaySelector.setCurrentIndex(self.ui.overlaySelector.findData("jacobian"))
        self.ui.deformationSelector.setCurrentIndex(self.ui.deformationSelector.findData("grid"))

        def drawn():
            settle(0.1)
            composite = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceCompositeNode()
            return composite.GetForegroundVolumeID() == result.maps["jacobian"].GetID(), _is_deformation_drawn()

        self.assertEqual(drawn(), (True, True))
        self._choose("")
        self.assertEqual(drawn(), (False, False))
        self.assertFalse(self.ui.exportButton.enabled)
        self._choose(result.node.GetID())
        self.assertEqual(drawn(), (True, True))
        self.assertTrue(self.ui.exportButton.enabled)
        self.ui.sampleButton.click()
        self.assertEqual(drawn(), (False, False))
        self.assertFalse(self.ui.overlaySelector.enabled)
        for node in (self.panel.parameters.fixed, self.panel.parameters.moving):
            slicer.mrmlScene.RemoveNode(node)
        self.panel.parameters.fixed, self.panel.parameters.moving = result.fixed, result.moving
        self._choose(result.node.GetID())
        self.ui.overlaySelector.setCurrentIndex(0)
        self.ui.deformationSelector.setCurrentIndex(0)

    def _choose(self, node_id: str) -> None:
        selector = self.ui.resultSelector
        selector.setCurrentIndex(selector.findData(node_id))
        selector.activated(selector.currentIndex)

    def _check_saved(self, result) -> None:
        say("saved with the scene, and restored from it")
        overlay = self.ui.overlaySelector.findData("jacobian")
        self.ui.overlaySelector.setCurrentIndex(overlay)
        names = (result.name, sorted(result.maps))
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "scene.mrb")
            self.assertTrue(slicer.util.saveScene(path))
            slicer.mrmlScene.Clear()
            settle()
            self.assertIsNone(self.panel._inspect.result)
            self.assertEqual(self.ui.registerButton.text, "Choose a fixed volume")
            self.assertTrue(slicer.util.loadScene(path))
        settle()
        found = self.panel._inspect.result
        self.assertEqual((found.name, sorted(found.maps)), names)
        self.assertEqual(self.ui.fixedSelector.currentNode().GetName(), "ICBM152")
        self.assertEqual(self.panel.parameters.overlay, "jacobian")
        self.assertEqual(self.ui.overlaySelector.itemData(self.ui.overlaySelector.currentIndex), "jacobian")

    def test_guidance_reaches_the_registration(self) -> None:
        import numpy as np

        say("segmentations as masks and structures, an initial transform, a regularization map")
        shift = 40.0
        fixed, moving = blob_volume("Still"), blob_volume("Far", 6.0)
        far = _translation("Far away", shift)
        moving.SetAndObserveTransformNodeID(far.GetID())
        self.assertTrue(slicer.vtkSlicerTransformLogic.hardenTransform(moving))
        far.Inverse()
        segmentations = [_segmentation(volume) for volume in (fixed, moving)]
        stiffness = slicer.modules.volumes.logic().CloneVolume(slicer.mrmlScene, fixed, "stiffness")
        slicer.util.updateVolumeFromArray(stiffness, np.full_like(slicer.util.arrayFromVolume(fixed), 0.5))
        chosen = {
            "fixed": fixed, "moving": moving, "fixedMask": segmentations[0], "movingMask": segmentations[1],
            "initialTransform": far, "regularizationMap": stiffness,
            "fixedLabels": segmentations[0], "labels": segmentations[1],
        }  # fmt: skip
        for name, node in chosen.items():
            getattr(self.ui, f"{name}Selector").setCurrentNode(node)
        self.ui.modelSelector.setCurrentIndex(self.ui.modelSelector.findData("none"))
        self.ui.prealignSelector.setCurrentIndex(self.ui.prealignSelector.findData("none"))
        self.ui.refineSpinBox.value = 40
        self.ui.keepFilesCheckBox.checked = True
        seen = []
        self.ui.registerButton.click()
        current = self.panel._registrations.current
        self.assertIsNotNone(current, self.ui.statusLabel.text)
        current.watched.connect(lambda: seen.append(current.preview.GetName()))
        wait_until(lambda: not self.under_way, "the registration ends", JOB_S)
        result = self.panel._inspect.result
        self.assertIsNotNone(result, self.ui.logText.plainText)
        self.assertEqual(set(seen), {"Far (being refined)"})
        say("everything was handed over; the files were kept")
        written = {path.name.split(".")[0] for path in current.files.folder.glob("*.*")}
        shutil.rmtree(current.files.folder)
        given = {"fixed_mask", "moving_mask", "initial_transform", "regularization_map", "fixed_labels", "labels"}
        self.assertLessEqual(given, written)
        self._check_guided(result, np.array([shift + 6.0, 0, 0]))

    def _check_guided(self, result, offset) -> None:
        import numpy as np

        say("without the initial transform the objects would not meet")
        bounds = np.zeros(6)
        result.fixed.GetRASBounds(bounds)
        centre = (bounds[::2] + bounds[1::2]) / 2
        np.testing.assert_allclose(moved(result.transform, tuple(centre + offset)), centre, atol=2.0)
        say("the structures have their names, their table and their plot")
        self.assertGreater(result.metrics["labels"]["after"]["mean_dice"], 0.9)
        table = result.tables["structures"]
        self.assertEqual(table.GetTable().GetValue(0, 0).ToString(), "core")
        self._choose_table("structures")
        self.assertIs(self.ui.measuresTable.mrmlTableNode(), table)
        self.assertTrue(self.ui.diceButton.enabled)
        self.ui.diceButton.click()
        shown = slicer.app.layoutManager().plotWidget(0).mrmlPlotViewNode().GetPlotChartNode()
        self.assertIs(shown, result.plots["dice"])
        self._check_surfaces(result)

    def _check_surfaces(self, result) -> None:
        say("the structures are in 3D: warped, before at the press of a button, and those of the fixed volume")
        slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
        wait_until(lambda: result.extra("surface_fixed") is not None, "the surfaces are made")
        settle(0.1)

        def seen():
            nodes = [result.extra(f"surface_{name}") for name in ("before", "after", "fixed")]
            return [bool(node.GetDisplayNode().GetVisibility()) for node in nodes]

        self.assertEqual(seen(), [False, True, True])
        self.ui.beforeButton.click()
        settle(0.1)
        self.assertEqual(seen(), [True, False, True])
        self.ui.surfacesCheckBox.checked = False
        settle(0.1)
        self.assertEqual(seen(), [False, False, False])

    def test_a_place_is_corrected_changed_saved_and_taken_back(self) -> None:
        result = self._registered_blobs()
        found = slicer.util.arrayFromVolume(result.warped).copy()
        self._check_giving_up(result)
        self._check_correcting(result)
        result = self._check_corrections_are_saved(result)
        say("taken back, it is as it was found")
        self.ui.takeBackButton.click()
        self._until_corrected()
        self.assertEqual(self._corrections(), [])
        self.assertLess(abs(slicer.util.arrayFromVolume(result.warped) - found).max(), 1e-3)
        self.assertEqual(len(files_left()), 1)
        slicer.mrmlScene.Clear()
        settle()
        self.assertEqual(files_left(), [])

    def _registered_blobs(self):
        self.ui.fixedSelector.setCurrentNode(blob_volume("Still"))
        self.ui.movingSelector.setCurrentNode(blob_volume("Far", 6.0))
        parameters = self.panel.parameters
        parameters.model, parameters.prealign, parameters.refine = "none", "none", 40
        self.ui.registerButton.click()
        wait_until(lambda: not self.under_way, "the registration ends", JOB_S)
        self.assertTrue(self.ui.correctButton.enabled, self.ui.logText.plainText)
        return self.panel._inspect.result

    def _corrections(self) -> list:
        """The rows of the list, as numbers."""
        table = self.ui.correctionsTable
        return [[float(table.item(n, column).text()) for column in range(3)] for n in range(table.rowCount)]

    def _until_corrected(self) -> list:
        """Wait for what is under way; its stages."""
        corrections, stages = self.panel._inspect._correct._corrections, []
        corrections.progressed.connect(lambda event: stages.append(event.stage))
        longest = wait_until(lambda: not corrections.busy, "the result is corrected", START_S)
        say(f"the longest time without an answer: {longest:.2f} s")
        settle()
        return stages

    def _check_giving_up(self, result) -> None:
        say("a line that is given up is gone")
        self.ui.correctButton.click()
        self.assertTrue(self.ui.correctButton.checked)
        interaction = slicer.mrmlScene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
        self.assertEqual(interaction.GetCurrentInteractionMode(), interaction.Place)
        interaction.SetCurrentInteractionMode(interaction.ViewTransform)
        settle()
        self.assertFalse(self.ui.correctButton.checked)
        self.assertEqual(slicer.util.getNodesByClass("vtkMRMLMarkupsLineNode"), [])

    def _check_correcting(self, result) -> None:
        import numpy as np

        say("two clicks correct: the same nodes change, and the landmark is where it belongs")
        bounds, nodes = np.zeros(6), (result.warped, result.transform, result.maps["jacobian"])
        result.fixed.GetRASBounds(bounds)
        seen = (bounds[::2] + bounds[1::2]) / 2 + (6, 4, 0)
        belongs = np.add(seen, (0, 3, 0))
        found = slicer.util.arrayFromVolume(result.warped).copy()
        files = files_left()
        self.assertEqual(len(files), 1)
        self.ui.correctButton.click()
        line = self.panel._inspect._correct._placing.line
        for point in (seen, belongs):
            line.AddControlPointWorld(*point)
        stages = self._until_corrected()
        self.assertIn("correct", stages)
        self.assertNotIn("read", stages, "all was known from the registration")
        self.assertEqual(files_left(), files)
        ((length, before, after),) = self._corrections()
        self.assertAlmostEqual(length, 3.0, delta=0.1)
        self.assertGreater(before, 1.0)
        self.assertLess(after, 0.1)
        self.assertEqual((result.warped, result.transform, result.maps["jacobian"]), nodes)
        self.assertGreater(abs(slicer.util.arrayFromVolume(result.warped) - found).max(), 2)
        self._check_it_is_there(line, belongs, result)
        say("the end of the line is dragged; the result follows")
        other = np.add(seen, (0, 2, 1))
        line.SetNthControlPointPositionWorld(1, *other)
        line.InvokeEvent(line.PointEndInteractionEvent)
        self.assertNotIn("read", self._until_corrected())
        self.assertEqual(len(self._corrections()), 1)
        self._check_it_is_there(line, other, result)
        self._check_a_changed_volume_is_read_anew(line, result, files)

    def _check_a_changed_volume_is_read_anew(self, line, result, files) -> None:
        say("a volume that was changed meanwhile is written and read anew")
        slicer.util.arrayFromVolume(result.moving)[:] += 5
        slicer.util.arrayFromVolumeModified(result.moving)
        before = slicer.util.arrayFromVolume(result.warped).mean()
        line.InvokeEvent(line.PointEndInteractionEvent)
        self.assertIn("read", self._until_corrected())
        self.assertGreater(slicer.util.arrayFromVolume(result.warped).mean(), before + 3)
        self.assertEqual(len(files_left()), 1)
        self.assertNotEqual(files_left(), files)
        slicer.util.arrayFromVolume(result.moving)[:] -= 5
        slicer.util.arrayFromVolumeModified(result.moving)

    def _check_it_is_there(self, line, belongs, result) -> None:
        """What lay in the moving volume where the line says is brought to its end."""
        import numpy as np
        from DeepRegAttentionLib.scene.correction_lines import pair_of

        np.testing.assert_allclose(moved(result.transform, pair_of(line)[1]), belongs, atol=0.1)

    def _check_corrections_are_saved(self, result):
        say("saved with the scene, and restored from it")
        rows = self._corrections()
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "scene.mrb")
            self.assertTrue(slicer.util.saveScene(path))
            slicer.mrmlScene.Clear()
            settle()
            self.assertEqual(files_left(), [])
            self.assertTrue(slicer.util.loadScene(path))
        settle()
        self.assertEqual(self._corrections(), rows)
        self.assertTrue(self.ui.takeBackButton.enabled)
        return self.panel._inspect.result

    def test_a_batch_is_started_stopped_gone_on_with_and_looked_through(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            self._prepare_batch(Path(folder))
            self._check_batch_stops(Path(folder) / "study")
            self._check_batch_goes_on(Path(folder) / "study")
            self._check_pair_is_loaded()
            self._check_other_study(Path(folder))

    @property
    def batch(self):
        return self.panel._batch._batch

    def _prepare_batch(self, folder: Path) -> None:
        say("three volumes in a folder; the button says what is missing")
        (folder / "images").mkdir()
        for number, shift in enumerate((0.0, 4.0, -3.0)):
            volume = blob_volume(f"blob{number}", shift)
            self.assertTrue(slicer.util.saveNode(volume, str(folder / "images" / f"blob{number}.nrrd")))
            slicer.mrmlScene.RemoveNode(volume)
        self.ui.tabs.setCurrentWidget(self.ui.batchPage)
        settle(0.2)
        self.assertEqual(self.ui.batchButton.text, "Choose a table or a folder")
        self.type(self.ui.batchSourceEdit, str(folder))
        self.assertEqual(self.ui.batchButton.text, "Choose an atlas")
        self.assertTrue(self.ui.batchAtlasEdit.visible)
        self.ui.batchPairingSelector.setCurrentIndex(self.ui.batchPairingSelector.findData("all-pairs"))
        self.assertFalse(self.ui.batchAtlasEdit.visible)
        self.type(self.ui.batchStudyEdit, str(folder / "study"))
        self.assertEqual(self.ui.batchButton.text, "Start")
        self.panel.parameters.model = "none"
        self.panel.parameters.prealign = "none"
        self.panel.parameters.refine = 60
        self.assertIn("Custom", self.ui.batchMethodText.text)

    def type(self, edit, text: str) -> None:
        edit.text = text
        edit.editingFinished()

    def _check_batch_stops(self, study: Path) -> None:
        say("it runs, a single registration could, too; it stops and leaves nothing unfinished")
        self.ui.batchButton.click()
        self.assertEqual(self.ui.batchButton.text, "Stop", self.ui.batchStatusLabel.text)
        longest = wait_until(lambda: self.batch.rows, "the first pair ends", START_S + JOB_S)
        say(f"the longest time without an answer: {longest:.2f} s")
        self.assertIn("of 3 pairs", self.ui.batchStatusLabel.text)
        self.assertFalse(self.panel._client.busy)
        self.ui.batchButton.click()
        self.assertEqual(self.ui.batchButton.text, "Stopping …")
        wait_until(lambda: not self.batch.running, "it stops", 60)
        self.assertEqual({path.name for path in study.iterdir()}, {"cohort.csv", "index.html", "pairs"})

    def _check_batch_goes_on(self, study: Path) -> None:
        say("Start goes on; the pairs are listed, the worst first")
        settle()
        self.assertEqual(self.ui.batchButton.text, "Start")
        self.ui.batchButton.click()
        wait_until(lambda: not self.batch.running, "all pairs end", START_S + JOB_S)
        self.assertIn("Done", self.ui.batchStatusLabel.text)
        table = self.ui.pairsTable
        names = [table.item(n, 1).text() for n in range(table.rowCount)]
        self.assertEqual(sorted(names), ["blob1_to_blob0", "blob2_to_blob0", "blob2_to_blob1"])
        order = ["No result", "Fail", "Review", "Pass"]
        places = [order.index(table.item(n, 0).text()) for n in range(table.rowCount)]
        self.assertEqual(places, sorted(places))
        self.assertTrue(table.item(0, 0).toolTip())
        self.assertEqual(len(list((study / "pairs").iterdir())), 3)

    def _check_pair_is_loaded(self) -> None:
        say("a double click shows the pair under Inspect; another one that shares a volume loads that once")
        table, loaded = self.ui.pairsTable, []
        for number in range(2):
            table.cellDoubleClicked(number, 1)
            name = table.item(number, 1).text()
            wait_until(lambda: not self.panel._batch._loading, "the pair is loaded", 60)
            self.assertEqual(self.ui.tabs.currentWidget(), self.ui.inspectPage, self.ui.batchStatusLabel.text)
            result = self.panel._inspect.result
            self.assertEqual(result.name, name.replace("_to_", " to "))
            self.assertIsNotNone(result.fixed)
            loaded.append(result)
            self.ui.tabs.setCurrentWidget(self.ui.batchPage)
        images = {node.GetID() for result in loaded for node in (result.fixed, result.moving)}
        self.assertEqual(len(images), 3)

    def _check_other_study(self, folder: Path) -> None:
        say("another folder has no pairs; the study of before has them again, without being started")
        self.type(self.ui.batchStudyEdit, str(folder / "other"))
        self.assertEqual(self.ui.pairsTable.rowCount, 0)
        self.type(self.ui.batchStudyEdit, str(folder / "study"))
        self.assertEqual(self.ui.pairsTable.rowCount, 3)
        self.assertFalse((folder / "other").exists())

    def test_cancel(self) -> None:
        self.start(preset=2)
        say("cancel after a second")
        settle(1.0)
        self.ui.registerButton.click()
        wait_until(lambda: not self.under_way, "it is cancelled", 20)
        self.assertIsNone(self.panel._inspect.result)
        self.assertEqual(files_left(), [])
        say("and again, from the worker that is warm or was started again")
        wait_until(lambda: self.ui.registerButton.text == "Register", "it can start again", 20)

    def test_the_scene_closes_meanwhile(self) -> None:
        self.start(preset=2)
        settle(1.0)
        say("the scene closes while it runs")
        slicer.mrmlScene.Clear()
        wait_until(lambda: not self.under_way, "the job is dropped", 20)
        settle()
        self.assertEqual(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"), [])
        self.assertEqual(files_left(), [])
        self.assertEqual(self.ui.registerButton.text, "Choose a fixed volume")

    def test_a_crash_is_said_and_survived(self) -> None:
        self.start(preset=2)
        settle(0.5)
        say("the worker is killed")
        self.panel._client._process.kill()
        wait_until(lambda: not self.under_way, "the crash is noticed", 20)
        self.assertIn("crashed", self.ui.statusLabel.text)
        client = self.panel._client
        wait_until(lambda: client.state.value == "ready", "the worker is started again", START_S)


def _picture():
    """Every ninth pixel of the red view, as it is on the screen."""
    import numpy as np
    import qt

    settle(0.2)
    image = slicer.app.layoutManager().sliceWidget("Red").sliceView().grab().toImage()
    places = [(x, y) for x in range(0, image.width(), 9) for y in range(0, image.height(), 9)]
    return np.array([qt.QColor(image.pixel(x, y)).red() for x, y in places], float)


def _is_deformation_drawn() -> bool:
    nodes = slicer.util.getNodesByClass("vtkMRMLTransformDisplayNode")
    return any(node.GetVisibility() and node.GetVisibility2D() for node in nodes)


def _translation(name: str, right_mm: float) -> slicer.vtkMRMLTransformNode:
    import vtk

    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(0, 3, right_mm)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
    node.SetMatrixTransformToParent(matrix)
    return node


def _segmentation(volume) -> slicer.vtkMRMLSegmentationNode:
    """The bright part of a volume as a segment."""
    import numpy as np

    labels = slicer.modules.volumes.logic().CreateAndAddLabelVolume(slicer.mrmlScene, volume, "labels")
    slicer.util.updateVolumeFromArray(labels, (slicer.util.arrayFromVolume(volume) > 30).astype(np.int16))
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", f"{volume.GetName()} segments")
    slicer.modules.segmentations.logic().ImportLabelmapToSegmentationNode(labels, node)
    node.GetSegmentation().GetNthSegment(0).SetName("core")
    slicer.mrmlScene.RemoveNode(labels)
    return node


def _matrix(volume, which: str):
    import vtk

    matrix = vtk.vtkMatrix4x4()
    getattr(volume, f"Get{which}Matrix")(matrix)
    return matrix


def _distance(node, point) -> float:
    """Of a point, RAS mm, from the plane of a slice view."""
    matrix = slicer.util.arrayFromVTKMatrix(node.GetSliceToRAS())
    return abs(float(matrix[:3, 2] @ (point - matrix[:3, 3])))


def _correlation(a, b) -> float:
    import numpy as np

    return float(np.corrcoef(a.astype(float), b.astype(float))[0, 1])
