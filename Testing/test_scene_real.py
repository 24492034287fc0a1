"""A real registration of the sample pair, shown: the same transform, image and folds inside the scene as outside."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from DeepRegAttentionLib.engine.options import RegistrationOptions
from DeepRegAttentionLib.engine.registration import register
from DeepRegAttentionLib.scene.deformation import show_deformation
from DeepRegAttentionLib.scene.overlays import show_overlay
from DeepRegAttentionLib.scene.results import load_result
from DeepRegAttentionLib.terms.maps import offered
from helpers.places import MODULE
from helpers.scene import World, add_volume, points_inside, to_lps, voxels

SAMPLES = MODULE / "Resources" / "Samples"


def coarse(name: str) -> sitk.Image:
    """A sample at 4 mm, so that the test is quick."""
    image = sitk.Cast(sitk.ReadImage(str(SAMPLES / name)), sitk.sitkFloat32)
    return sitk.Shrink(sitk.DiscreteGaussian(image, 4.0), (4, 4, 4))


@pytest.mark.slow
def test_a_real_registration_is_shown_as_it_is(tmp_path) -> None:
    fixed, moving = coarse("icbm152-t1.nii.gz"), coarse("colin27-t1.nii.gz")
    registered = register(fixed, moving, RegistrationOptions(refine=0, spacing=4.0))
    registered.save(tmp_path / "result", ".nrrd")
    world = World()
    pair = [add_volume(world.scene, image, name, tmp_path) for image, name in ((fixed, "icbm"), (moving, "colin"))]
    result = load_result(world.scene, tmp_path / "result", *pair)

    transform = result.transform.GetTransformFromParent()
    for point in points_inside(fixed, 40):
        expected = registered.transform.TransformPoint(point.tolist())
        np.testing.assert_allclose(to_lps(transform.TransformPoint(*to_lps(point))), expected, atol=1e-3)
    np.testing.assert_array_equal(voxels(result.warped), sitk.GetArrayFromImage(registered.warped))

    view = world.slice_view("Coronal", size=240)
    view.look_at(result.fixed)
    plain = view.picture()
    for overlay in offered(result.maps):
        show_overlay(result.maps, overlay.key, [view.composite])
        assert (view.picture() != plain).any(axis=-1).mean() > 0.05, overlay.key
    show_overlay(result.maps, None, [view.composite])
    show_deformation(result, "grid")
    assert (view.picture() != plain).any(axis=-1).mean() > 0.05
