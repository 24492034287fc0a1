"""The template: in the mean of the shapes, on its own voxels, sharper than a linear average."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from DeepRegAttentionLib.cohort.mean_shape import Parts, logarithm
from DeepRegAttentionLib.cohort.sharpness import sharpness
from DeepRegAttentionLib.cohort.template import (
    TemplateOptions,
    Turn,
    average_image,
    blank,
    build_template,
    finished,
    sharpened,
    vote_labels,
)
from DeepRegAttentionLib.engine.errors import ImageError, OptionError, RegistrationWarning
from DeepRegAttentionLib.engine.geometry import Grid
from DeepRegAttentionLib.engine.intensity import IntensityRecipe, normalise
from DeepRegAttentionLib.engine.options import RegistrationOptions
from helpers.cohort import CENTRE, GRIDS, linear, moved, points, waves
from helpers.images import blob_image

IDENTITY = sitk.Transform(3, sitk.sitkIdentity)
SHIFTS = ((5.0, 1.0, -4.0), (-2.0, 3.0, 2.0), (1.0, -4.0, 3.0), (-4.0, 0.0, -1.0))


def centroid(image: sitk.Image) -> np.ndarray:
    """The centre of what is bright, LPS mm."""
    values = sitk.GetArrayFromImage(image).clip(0.2) - 0.2
    index = np.stack(np.meshgrid(*[np.arange(n) for n in values.shape], indexing="ij"), axis=-1)[..., ::-1]
    mean = (index * values[..., None]).sum((0, 1, 2)) / values.sum()
    return np.array(image.TransformContinuousIndexToPhysicalPoint(mean.tolist()))


def known(transforms):
    """What "registers" by knowing: every turn the same transforms."""
    return lambda template, starts, linear: list(transforms)


# Averages


def test_the_average_of_one_image_on_its_own_grid_is_that_image():
    image = blob_image()
    average = average_image([image] * 3, [IDENTITY] * 3, Grid.of(image))
    expected = normalise(sitk.GetArrayFromImage(image), IntensityRecipe())
    np.testing.assert_allclose(sitk.GetArrayFromImage(average), expected, atol=1e-5)


def test_intensities_of_other_scanners_count_the_same():
    image = blob_image()
    images = [image, image * 900 + 40, image * 0.01 - 3]
    average = average_image(images, [IDENTITY] * 3, Grid.of(image))
    alone = average_image(images[:1], [IDENTITY], Grid.of(image))
    np.testing.assert_allclose(sitk.GetArrayFromImage(average), sitk.GetArrayFromImage(alone), atol=1e-4)


def test_where_an_image_ends_the_others_count_alone():
    image = blob_image()
    half = image[:22]
    average = sitk.GetArrayFromImage(average_image([image, half], [IDENTITY] * 2, Grid.of(image)))
    alone = sitk.GetArrayFromImage(average_image([image], [IDENTITY], Grid.of(image)))
    np.testing.assert_allclose(average[..., 23:], alone[..., 23:], atol=1e-4)


def test_an_image_left_out_counts_for_nothing():
    image, grid = blob_image(), Grid.of(blob_image())
    some = average_image([image, image + 7], [IDENTITY, None], grid)
    alone = average_image([image], [IDENTITY], grid)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(some), sitk.GetArrayFromImage(alone))


def test_sharpening_makes_slopes_steeper_and_moves_nothing():
    average = average_image([blob_image()] * 3, [IDENTITY] * 3, Grid.of(blob_image()))
    sharp = sharpened(average, 0.5)
    inside = np.ones(Grid.of(average).shape, bool)
    assert sharpness(sharp, inside)["gradient_per_mm"] > sharpness(average, inside)["gradient_per_mm"]
    np.testing.assert_allclose(centroid(sharp), centroid(average), atol=0.1)
    assert sharpened(average, 0.0) is average


def test_blur_lowers_sharpness():
    image = average_image([blob_image()] * 3, [IDENTITY] * 3, Grid.of(blob_image()))
    inside = np.ones(Grid.of(image).shape, bool)
    blurred = sharpness(sitk.SmoothingRecursiveGaussian(image, 3.0), inside)
    assert blurred["gradient_per_mm"] < sharpness(image, inside)["gradient_per_mm"]


# Where the template lies


@pytest.mark.parametrize("first", range(4))
def test_the_template_lies_in_the_mean_of_the_places_whichever_image_comes_first(first):
    images = [blob_image(**grid, shift=shift) for grid, shift in zip(GRIDS, SHIFTS)]
    ways = [sitk.TranslationTransform(3, np.subtract(shift, SHIFTS[first]).tolist()) for shift in SHIFTS]
    calls = []

    def register_all(template, starts, linear):
        # At first from the image that came first, then from the template.
        calls.append(linear)
        return list(starts) if len(calls) > 1 else ways

    average = next(
        build_template(images, TemplateOptions(turns=1, spacing=2.0), register_all, start=images[first])
    ).average
    expected = centroid(blob_image(shift=tuple(np.mean(SHIFTS, axis=0))))
    np.testing.assert_allclose(centroid(average), expected, atol=0.15)
    assert calls == [True, True]


def test_the_voxels_lie_along_the_mean_of_the_axes_with_the_median_spacing():
    images = [blob_image(**grid) for grid in GRIDS]
    turn = next(build_template(images, TemplateOptions(), known([IDENTITY] * 4), start=images[2]))
    assert turn.average.GetSpacing() == pytest.approx((np.median([1.1, 1.3, 1.0, 1.2]),) * 3)
    np.testing.assert_allclose(turn.average.GetDirection(), images[2].GetDirection(), atol=1e-9)
    centre = turn.average.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in turn.average.GetSize()])
    np.testing.assert_allclose(centre, CENTRE, atol=1.0)


def test_a_turn_moves_the_template_to_the_mean_of_the_shapes():
    images = [blob_image(**grid) for grid in GRIDS]
    ways = [
        sitk.CompositeTransform([linear((0.0, 0.0, 0.0), 1 + d / 100, (d, 2.0, -d)), waves(2.0, n)])
        for n, d in enumerate((6.0, -4.0, 2.0, -1.0))
    ]
    grid = Grid.of(images[0])
    last = Turn(0, average_image(images, [IDENTITY] * 4, grid), [IDENTITY] * 4)
    turn = next(build_template(images, TemplateOptions(), known(ways), last=last))
    assert turn.number == 1
    assert turn.shift_mm > 1
    assert turn.moved_mm > 1
    logarithms = [logarithm(Parts.of(one).linear) for one in turn.transforms]
    np.testing.assert_allclose(np.mean(logarithms, axis=0), 0, atol=1e-9)
    where = points()
    deformed = np.mean([moved(Parts.of(one).deformation, where) for one in turn.transforms], axis=0)
    assert np.linalg.norm(deformed - where, axis=1).max() < 0.05
    whole = np.mean([moved(one, where) for one in turn.transforms], axis=0)
    assert np.linalg.norm(whole - where, axis=1).mean() < 0.1


@pytest.mark.slow
def test_a_template_of_deformed_objects_is_sharp_and_in_their_middle():
    base = blob_image(size=(60, 60, 60), spacing=(1.6, 1.6, 1.6))
    # From subject points to those of the object: what a registration has to find, the other way round.
    to_object = [
        sitk.CompositeTransform([waves(6.0, n), linear((d, -d, d), 1 + d / 100, (2 * d, -d, d))])
        for n, d in enumerate((3.0, -1.0, -2.0))
    ]
    images = [sitk.Resample(base, blob_image(**grid), way) for way, grid in zip(to_object, GRIDS)]
    how = RegistrationOptions(model="none", prealign="centre", refine=15, similarity="mse", spacing=3.0)
    options = TemplateOptions(how, turns=2, tolerance=0, spacing=2.0)
    turns = list(build_template(images, options))
    assert [turn.number for turn in turns] == [0, 1, 2]
    where = points(spread=10.0)
    whole = np.mean([moved(one, where) for one in turns[2].transforms], axis=0)
    assert np.linalg.norm(whole - where, axis=1).mean() < 0.1
    inside = sitk.GetArrayFromImage(turns[0].average) > 0.1
    assert _sharp(turns[2], inside) > _sharp(turns[0], inside)
    apart = [_apart(turn, to_object, where) for turn in turns]
    assert apart[2] <= apart[1] < 0.6 * apart[0]
    assert turns[2].moved_mm < 0.3 * turns[1].moved_mm


def _sharp(turn, inside):
    return sharpness(turn.average, inside)["gradient_per_mm"]


def _apart(turn, to_object, where):
    """How far apart points of the object lie that a template takes for one: root of the mean square, mm."""
    met = np.array([moved(way, moved(one, where)) for way, one in zip(to_object, turn.transforms)])
    return float(np.sqrt(np.square(met - met.mean(axis=0)).sum(axis=-1).mean()))


# Turns


def test_turns_go_on_from_where_they_ended():
    images = [blob_image(**grid, shift=shift) for grid, shift in zip(GRIDS, SHIFTS)]
    ways = [waves(2.0, n) for n in range(4)]
    options = TemplateOptions(turns=3, tolerance=0, spacing=4.0)
    whole = list(build_template(images, options, known(ways)))
    later = list(build_template(images, options, known(ways), last=whole[1]))
    assert [turn.number for turn in later] == [2, 3]
    arrays = [sitk.GetArrayFromImage(turn.average) for turn in (whole[-1], later[-1])]
    np.testing.assert_array_equal(*arrays)


def test_it_stops_once_hardly_anything_moves():
    turn = Turn(1, blob_image(), [], moved_mm=0.2)
    assert finished(turn, TemplateOptions(turns=9, tolerance=0.2))
    assert not finished(turn, TemplateOptions(turns=9, tolerance=0.1))
    assert finished(replace(turn, moved_mm=9.0), TemplateOptions(turns=1))


def test_transforms_are_kept_where_the_caller_wants_them():
    images = [blob_image(**grid) for grid in GRIDS]
    kept = []

    def keep(transforms):
        kept.append(tuple(transforms))
        return kept[-1]

    turns = list(
        build_template(
            images, TemplateOptions(turns=1, spacing=4.0), known([waves(1.0, n) for n in range(4)]), keep=keep
        )
    )
    assert turns[-1].transforms is kept[-1]


# What cannot be averaged


def test_two_images_are_too_few():
    with pytest.raises(ImageError, match=r"at least 3 images; there are 2\."):
        next(build_template([blob_image()] * 2))


def test_too_few_that_can_be_registered_are_too_few():
    with pytest.raises(ImageError, match="only 2 could be registered"):
        next(build_template([blob_image()] * 3, None, known([IDENTITY, None, IDENTITY])))


def test_a_damaged_image_among_others_is_left_out_with_its_sentence():
    images = [blob_image(**grid) for grid in GRIDS]
    broken = sitk.GetArrayFromImage(images[1])
    broken[3, 3, 3] = np.nan
    damaged = sitk.GetImageFromArray(broken)
    damaged.CopyInformation(images[1])
    images[1] = damaged
    options = TemplateOptions(
        RegistrationOptions(model="none", refine=0, prealign="none", spacing=6.0), turns=1, spacing=4.0
    )
    with pytest.warns(RegistrationWarning, match=r"Image 2 is left out: .*NaN"):
        turns = list(build_template(images, options))
    assert [one is None for one in turns[-1].transforms] == [False, True, False, False]


@pytest.mark.parametrize("wrong", [{"turns": 0}, {"tolerance": -1.0}, {"sharpening": 2.0}, {"spacing": 0.0}])
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(OptionError):
        TemplateOptions(**wrong)


# Labels


def test_identical_label_maps_are_voted_exactly():
    labels = sitk.Cast(blob_image() * 4, sitk.sitkUInt8)
    voted, share = vote_labels([labels] * 3, [IDENTITY] * 3, Grid.of(labels))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(voted), sitk.GetArrayFromImage(labels))
    assert sitk.GetArrayFromImage(share).min() == 1
    assert voted.GetPixelID() == labels.GetPixelID()
    assert Grid.of(voted) == Grid.of(labels)


def test_subjects_without_labels_have_no_vote_and_someone_must_have():
    labels, grid = sitk.Cast(blob_image() * 4, sitk.sitkUInt8), Grid.of(blob_image())
    voted, _ = vote_labels([None, labels, labels], [IDENTITY, IDENTITY, None], grid)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(voted), sitk.GetArrayFromImage(labels))
    with pytest.raises(ImageError, match="no atlas"):
        vote_labels([None, labels], [IDENTITY, None], grid)


def test_a_blank_image_has_the_grid_that_was_asked_for():
    assert Grid.of(blank(Grid.of(blob_image()))) == Grid.of(blob_image())
