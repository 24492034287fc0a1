"""``DeepRegAttentionLogic().register`` from Python, on small volumes of awkward geometry."""

from __future__ import annotations

import numpy as np
import slicer
from DeepRegAttentionSelfTesting import JOB_S, blob_volume, files_left, moved, notice_errors, say, wait_until
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleTest

from DeepRegAttention import DeepRegAttentionLogic

SHIFT_MM = 6.0
SHIFT = np.array((SHIFT_MM, 0, 0))
HOW = {"model": "none", "refine": 40, "prealign": "none"}


class DeepRegAttentionScriptingTest(ScriptedLoadableModuleTest):
    """Each test starts with an empty scene and a pair whose moving object lies 6 mm further to the right."""

    def setUp(self) -> None:
        notice_errors(self)
        slicer.mrmlScene.Clear()
        self.fixed, self.moving = blob_volume("Still"), blob_volume("Shifted", SHIFT_MM)
        self.centre = np.zeros(6)
        self.fixed.GetRASBounds(self.centre)
        self.centre = (self.centre[::2] + self.centre[1::2]) / 2

    def test_it_waits_and_returns_the_nodes(self) -> None:
        say("register() waits and returns the nodes")
        stages = []
        result = DeepRegAttentionLogic().register(
            self.fixed, self.moving, progress=lambda event: stages.append(event.stage), **HOW
        )
        self.assertEqual((result.fixed, result.moving), (self.fixed, self.moving))
        self.assertIn("refine", stages)
        self.assertGreater(result.metrics["similarity"]["after"]["ncc"], 0.95)
        say("the transform takes what lies on the moving object to the fixed one")
        right = moved(result.transform, tuple(self.centre + SHIFT))
        np.testing.assert_allclose(right, self.centre, atol=1.5)
        back = moved(result.inverse, tuple(self.centre))
        np.testing.assert_allclose(back, self.centre + SHIFT, atol=1.5)
        say("its files are kept for corrections, until the result is removed")
        self.assertEqual(len(files_left()), 1)
        slicer.mrmlScene.RemoveNode(result.node)
        self.assertEqual(files_left(), [])

    def test_it_corrects(self) -> None:
        say("correct() puts a result right in place, and takes it back")
        logic = DeepRegAttentionLogic()
        result = logic.register(self.fixed, self.moving, **HOW)
        files, warped, uncorrected = files_left(), result.warped, moved(result.inverse, tuple(self.centre))
        fixed, moving = self.centre, self.centre + SHIFT + (2.0, -1.0, 1.0)
        self.assertIs(logic.correct(result, [(fixed, moving)]), result)
        found = result.transform.GetTransformFromParent().TransformPoint(*fixed)
        np.testing.assert_allclose(found, moving, atol=0.01)
        self.assertIs(result.warped, warped)
        self.assertEqual(len(result.metrics["corrections"]), 1)
        with self.assertRaisesRegex(Exception, "lies outside the fixed image"):
            logic.correct(result, [(fixed + 1000, moving)])
        logic.correct(result, [])
        np.testing.assert_allclose(moved(result.inverse, tuple(self.centre)), uncorrected, atol=0.05)
        self.assertNotIn("corrections", result.metrics)
        self.assertEqual(files_left(), files)
        say("the next registration removes them")
        registration = logic.register(self.fixed, self.moving, wait=False, **HOW)
        self.assertEqual(files_left(), [registration.files.folder])
        registration.cancel()
        wait_until(lambda: registration.has_ended, "the registration is cancelled", JOB_S)
        self.assertEqual(files_left(), [])

    def test_it_calls_back(self) -> None:
        say("register(wait=False) returns at once and calls back")
        ended = []
        registration = DeepRegAttentionLogic().register(
            self.fixed, self.moving, wait=False, done=lambda result, error: ended.append((result, error)), **HOW
        )
        self.assertFalse(registration.has_ended)
        wait_until(lambda: ended, "the registration ends", JOB_S)
        (result, error) = ended[0]
        self.assertIsNone(error)
        self.assertEqual(result.warped.GetName(), "Shifted warped to Still")

    def test_the_transform_alone(self) -> None:
        say("only the transform is wanted")
        from DeepRegAttentionLib.terms.settings import Outputs

        outputs = Outputs(warped=False, transform="grid", inverse=False, maps=False, labels=False, measures=False)
        result = DeepRegAttentionLogic().register(self.fixed, self.moving, outputs=outputs, **HOW)
        self.assertIsNone(result.warped)
        self.assertEqual(result.maps, {})
        self.assertTrue(result.transform.IsA("vtkMRMLGridTransformNode"))

    def test_landmarks_and_structures_are_measured(self) -> None:
        say("landmarks and structures")
        points = [self.centre + offset for offset in ((0, 0, 0), (9, 0, 0), (0, 9, 0), (0, 0, 9))]
        lists = []
        for name, shift in (("F", 0 * SHIFT), ("M", SHIFT)):
            node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
            for point in points:
                node.AddControlPoint(*(point + shift))
            lists.append(node)
        labels = [self._structure(volume) for volume in (self.fixed, self.moving)]
        result = DeepRegAttentionLogic().register(
            self.fixed, self.moving, fixed_landmarks=lists[0], moving_landmarks=lists[1],
            fixed_labels=labels[0], labels=labels[1], **HOW,
        )  # fmt: skip
        landmarks, structures = result.metrics["landmarks"], result.metrics["labels"]
        self.assertAlmostEqual(landmarks["before_mm"]["mean"], SHIFT_MM, delta=0.01)
        self.assertLess(landmarks["after_mm"]["mean"], 2.0)
        self.assertGreater(structures["after"]["mean_dice"], structures["before"]["mean_dice"])
        self.assertIn("structures", result.tables)

    def _structure(self, volume) -> slicer.vtkMRMLLabelMapVolumeNode:
        values = slicer.util.arrayFromVolume(volume)
        node = slicer.modules.volumes.logic().CreateAndAddLabelVolume(slicer.mrmlScene, volume, volume.GetName() + " l")
        slicer.util.updateVolumeFromArray(node, (values > 60).astype(np.int16))
        return node

    def test_what_is_wrong_is_said_in_a_sentence(self) -> None:
        say("what is wrong is said")
        from DeepRegAttentionLib.engine.errors import RegistrationError

        color = slicer.util.addVolumeFromArray(np.zeros((8, 8, 8, 3)), nodeClassName="vtkMRMLVectorVolumeNode")
        wrong = (
            (self.fixed, {}),
            (color, {}),
            (self.moving, {"similarty": "mi"}),
            (self.moving, {"preset": "acurate"}),
            (self.moving, {"accept_licences": ("cardiac",)}),
            (self.moving, {"model": "brian"}),
        )
        for moving, how in wrong:
            with self.assertRaises(RegistrationError) as caught:
                DeepRegAttentionLogic().register(self.fixed, moving, **how)
            say(str(caught.exception))
            self.assertTrue(str(caught.exception).endswith("."))
        self.assertEqual(files_left(), [])

    def test_the_pair_is_in_sample_data(self) -> None:
        say("the module Sample Data has the pair, for scripts and behind its thumbnail, which shows it, too")
        import SampleData

        slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
        logic = SampleData.SampleDataLogic()
        source = logic.sourceForSampleName("DeepRegAttentionPair")
        for pair in (logic.downloadFromSource(source), source.customDownloader(source)):
            self.assertEqual([node.GetClassName() for node in pair], ["vtkMRMLScalarVolumeNode"] * 2)
            self.assertTrue(pair[0].GetName().startswith("ICBM152"))
            self.assertTrue(pair[1].GetName().startswith("Colin27"))
        composite = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceCompositeNode()
        shown = [composite.GetBackgroundVolumeID(), composite.GetForegroundVolumeID()]
        self.assertEqual(shown, [node.GetID() for node in pair])
