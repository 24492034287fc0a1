"""Shipped models on real images: the sample pair, LPBA40 brains and an ACDC heart that they were not trained on."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from DeepRegAttentionLib.engine.images import read_image
from DeepRegAttentionLib.engine.metrics import dice, mean_over_labels
from DeepRegAttentionLib.engine.options import RegistrationOptions
from DeepRegAttentionLib.engine.registration import register
from DeepRegAttentionLib.engine.resampling import warp_image
from DeepRegAttentionLib.engine.result import RegistrationResult
from helpers.places import MODULE, real_data

pytestmark = pytest.mark.slow
SAMPLES = MODULE / "Resources" / "Samples"


@pytest.fixture(scope="module")
def sample_result() -> RegistrationResult:
    fixed, moving = (read_image(SAMPLES / f"{name}-t1.nii.gz") for name in ("icbm152", "colin27"))
    return register(fixed, moving, RegistrationOptions(refine=3))


def test_the_brain_model_is_chosen_for_brains(sample_result):
    assert sample_result.metrics["model"]["name"] == "brain-t1"


@pytest.mark.parametrize("model", ["brain-t1", "cardiac-mr", "any-contrast"])
def test_an_image_given_twice_stays_where_it_is(model):
    image = sitk.BinShrink(read_image(SAMPLES / "colin27-t1.nii.gz"), [3, 3, 3])
    result = register(image, image, RegistrationOptions(model=model, prealign="none", spacing=3.0, maps=False))
    moved = np.linalg.norm(sitk.GetArrayFromImage(result.displacement()), axis=-1)
    assert moved.mean() <= 0.1
    assert np.percentile(moved, 99) <= 0.3


def test_the_sample_pair_comes_closer_without_folds(sample_result):
    similarity = sample_result.metrics["similarity"]
    assert similarity["before"]["ncc"] < similarity["linear"]["ncc"] < similarity["after"]["ncc"]
    assert sample_result.metrics["jacobian"]["fold_percent"] == 0
    # Between the nodes of a 2 mm grid an inverse can only be interpolated.
    assert sample_result.metrics["inverse_consistency_mm"]["mean"] < 0.1


def test_the_force_goes_with_the_motion():
    """The paper's own check: force and deformation point the same way and are large in the same places."""
    frames = sorted((real_data("acdc") / "patient017").glob("*_frame??.nii.gz"))
    result = register(*(read_image(path) for path in frames), RegistrationOptions(model="cardiac-mr", prealign="none"))
    agreement = result.metrics["driving_force"]
    assert agreement["cosine"] > 0.3
    assert agreement["magnitude"] > 0.3


def test_brains_never_seen_overlap_better():
    def read(kind: str, name: str) -> sitk.Image:
        return read_image(real_data("lpba40") / kind / f"{name}.nii.gz")

    fixed, moving = "S37", "S40"
    options = RegistrationOptions(model="brain-t1", prealign="none", maps=False)
    result = register(read("images", fixed), read("images", moving), options)
    fixed_labels, moving_labels = read("labels", fixed), read("labels", moving)
    warped = warp_image(moving_labels, fixed_labels, result.transform, nearest=True)
    structures = set(dice(fixed_labels, fixed_labels)) - {181, 182}
    before, after = (mean_over_labels(dice(fixed_labels, x, structures)) for x in (moving_labels, warped))
    assert after > before + 0.08
    assert result.metrics["jacobian"]["fold_percent"] < 0.05
