"""Label fusion: the atlas that looks like the target is believed, and what is sure is told from what is not."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from DeepRegAttentionLib.cohort import fusion
from DeepRegAttentionLib.cohort.fusion import METHODS, FusionOptions, fuse
from DeepRegAttentionLib.engine.errors import ImageError, LabelError, OptionError
from DeepRegAttentionLib.engine.geometry import Grid
from DeepRegAttentionLib.engine.metrics import dice, mean_over_labels
from helpers.images import blob_image

TARGET = blob_image()


def labels_of(image: sitk.Image) -> sitk.Image:
    return sitk.Cast(sitk.BinaryThreshold(image, 0.25, 0.6, 1, 0) + 2 * (image > 0.6), sitk.sitkUInt8)


def atlas(shift: tuple[float, float, float]) -> sitk.Image:
    """The object elsewhere, as after a registration that failed there; brighter, as of another scanner."""
    return blob_image(shift=shift) * 300 + 50


TRUTH = labels_of(TARGET)
SHIFTS = ((0.0, 0.0, 0.0), (6.0, 0.0, 0.0), (6.0, 1.0, 1.0), (5.0, -1.0, 0.0), (7.0, 0.0, 2.0))
IMAGES = [atlas(shift) for shift in SHIFTS]
LABELS = [labels_of(blob_image(shift=shift)) for shift in SHIFTS]


def overlap(labels: sitk.Image) -> float:
    return mean_over_labels(dice(TRUTH, labels))


@pytest.mark.parametrize("method", METHODS)
def test_identical_atlases_are_fused_exactly(method):
    found = fuse(TARGET, [TARGET] * 4, [TRUTH] * 4, FusionOptions(method))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found.labels), sitk.GetArrayFromImage(TRUTH))
    assert found.labels.GetPixelID() == TRUTH.GetPixelID()
    assert sitk.GetArrayFromImage(found.confidence).min() == 1
    assert Grid.of(found.labels) == Grid.of(found.confidence) == Grid.of(TARGET)


def test_a_majority_that_errs_alike_is_outweighed_by_the_one_that_looks_like_the_target():
    # Without noise an atlas may be believed as far as it looks like the target.
    majority, local, joint = (
        overlap(fuse(TARGET, IMAGES, LABELS, FusionOptions(m, alpha=1e-3)).labels) for m in METHODS
    )
    assert majority < 0.75
    assert local > 0.85
    assert joint > 0.97


def test_the_shares_say_which_atlas_was_believed():
    shares = fuse(TARGET, IMAGES, LABELS, FusionOptions("joint", alpha=1e-3)).shares
    assert sum(shares) == pytest.approx(1, abs=1e-3)
    assert shares[0] > 0.6
    assert fuse(TARGET, IMAGES, LABELS, FusionOptions("majority")).shares == pytest.approx((0.2,) * 5)
    assert np.isnan(fuse(TARGET, IMAGES[:1], LABELS[:1]).shares).all()


def test_intensities_of_other_scanners_change_nothing():
    scaled = [image * 0.01 - 4 for image in IMAGES]
    a, b = (sitk.GetArrayFromImage(fuse(TARGET, images, LABELS).labels) for images in (IMAGES, scaled))
    assert (a == b).mean() > 0.9995


@pytest.mark.parametrize("method", METHODS)
def test_confidence_is_higher_where_the_labels_are_right(method):
    noisy = [sitk.AdditiveGaussianNoise(image, 25.0, 0.0, seed) for seed, image in enumerate(IMAGES[:4], start=1)]
    found = fuse(TARGET, noisy, LABELS[:4], FusionOptions(method))
    confidence = sitk.GetArrayFromImage(found.confidence)
    right = sitk.GetArrayFromImage(found.labels) == sitk.GetArrayFromImage(TRUTH)
    assert 0 < confidence.min() <= confidence.max() == 1
    assert confidence[right].mean() > confidence[~right].mean() + 0.1


def test_neighbourhoods_are_as_wide_in_mm_along_all_axes_and_parts_add_up(monkeypatch):
    assert fusion._reach((1.0, 1.0, 10.0), 2) == (0, 2, 2)
    assert fusion._reach((1.1, 1.7, 2.6), 2) == (1, 1, 2)
    whole = fuse(TARGET, IMAGES, LABELS)
    monkeypatch.setattr(fusion, "_HELD", 2000)
    parts = fuse(TARGET, IMAGES, LABELS)
    for name in ("labels", "confidence"):
        arrays = (sitk.GetArrayFromImage(getattr(one, name)) for one in (whole, parts))
        np.testing.assert_allclose(*arrays, atol=1e-5)


def test_what_does_not_fit_is_refused_with_a_sentence():
    with pytest.raises(ImageError, match="at least one atlas"):
        fuse(TARGET, [], [])
    with pytest.raises(ImageError, match="a label map for each"):
        fuse(TARGET, IMAGES, LABELS[:2])
    with pytest.raises(ImageError, match="The atlas has 40 × 36 × 28 voxels"):
        fuse(TARGET, [IMAGES[0][:40]], LABELS[:1])
    with pytest.raises(LabelError, match="label map has"):
        fuse(TARGET, IMAGES[:1], [LABELS[0][:40]])
    with pytest.raises(OptionError, match="none of them"):
        FusionOptions("staple")
    with pytest.raises(OptionError, match="between 1 and 10"):
        FusionOptions(radius=0)
