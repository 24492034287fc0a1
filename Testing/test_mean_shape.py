"""The mean of transforms: linear parts as a group, displacements to zero, compositions as SimpleITK has them."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from DeepRegAttentionLib.cohort.mean_shape import (
    MeanShape,
    Parts,
    affine,
    displacement,
    exponential,
    inverse,
    logarithm,
    mean_affine,
    written_out,
)
from DeepRegAttentionLib.engine.geometry import Grid, affine_matrix
from helpers.cohort import linear, moved, points, waves
from helpers.images import blob_image

POINTS = points()
LINEAR = (
    linear((8.0, -3.0, 14.0), 1.12, (9.0, -4.0, 3.0)),
    linear((-15.0, 6.0, 2.0), 0.93, (1.0, 7.0, -6.0)),
    linear((4.0, 12.0, -21.0), 1.02, (-3.0, 2.0, 11.0)),
)
CHAINS = [sitk.CompositeTransform([a, waves(2.5, seed)]) for seed, a in enumerate(LINEAR)]


def field_grid() -> Grid:
    return Parts.of(CHAINS[0]).field_grid()


# Linear parts


@pytest.mark.parametrize("size", [0.01, 0.2, 0.7])
def test_the_logarithm_undoes_the_exponential(size):
    matrix = np.zeros((4, 4))
    matrix[:3] = np.random.default_rng(1).normal(0, size, (3, 4))
    matrix[:3, 3] *= 200
    np.testing.assert_allclose(logarithm(exponential(matrix)), matrix, atol=1e-9)


def test_the_mean_of_turns_to_both_sides_is_none_and_does_not_shrink():
    turns = [affine_matrix(linear((0.0, 0.0, angle), 1.0, (0.0, 0.0, 0.0))) for angle in (-40.0, 40.0)]
    np.testing.assert_allclose(mean_affine(turns), np.eye(4), atol=1e-9)


def test_the_mean_of_shifts_is_their_arithmetic_mean_and_that_of_stretches_their_geometric_one():
    matrices = [np.diag((2.0, 1.0, 1.0, 1.0)), np.diag((8.0, 1.0, 1.0, 1.0))]
    assert mean_affine(matrices)[0, 0] == pytest.approx(4)
    shifted = [np.eye(4), np.eye(4)]
    shifted[1][:3, 3] = (4.0, -6.0, 1.0)
    np.testing.assert_allclose(mean_affine(shifted)[:3, 3], (2.0, -3.0, 0.5), atol=1e-9)


def test_the_mean_moves_along_with_the_space_it_is_seen_from():
    frame = affine_matrix(LINEAR[1])
    matrices = [affine_matrix(one) for one in LINEAR]
    seen = [frame @ matrix @ np.linalg.inv(frame) for matrix in matrices]
    np.testing.assert_allclose(mean_affine(seen), frame @ mean_affine(matrices) @ np.linalg.inv(frame), atol=1e-8)


# Whole transforms


def test_the_parts_of_a_transform_make_it_up():
    parts = Parts.of(CHAINS[0])
    whole = sitk.CompositeTransform([affine(parts.linear), parts.deformation])
    np.testing.assert_allclose(moved(whole, POINTS), moved(CHAINS[0], POINTS), atol=1e-9)
    np.testing.assert_allclose(parts.linear, affine_matrix(LINEAR[0]), atol=1e-9)


@pytest.mark.parametrize("transform", [LINEAR[0], waves(2.0, 1), sitk.Transform(3, sitk.sitkIdentity)])
def test_a_transform_may_lack_a_part(transform):
    parts = Parts.of(transform)
    whole = sitk.CompositeTransform([affine(parts.linear), parts.deformation])
    np.testing.assert_allclose(moved(whole, POINTS), moved(transform, POINTS), atol=1e-9)


def test_from_the_mean_shape_linear_parts_and_displacements_have_the_mean_nothing():
    mean = MeanShape.of(CHAINS, field_grid())
    back = mean.to_template()
    centred = [mean.centre(chain, back) for chain in CHAINS]
    logarithms = [logarithm(Parts.of(one).linear) for one in centred]
    np.testing.assert_allclose(np.mean(logarithms, axis=0), 0, atol=1e-9)
    deformed = np.mean([moved(Parts.of(one).deformation, POINTS) for one in centred], axis=0)
    # Between the nodes, 4 mm apart, the fields are interpolated.
    assert np.linalg.norm(deformed - POINTS, axis=1).max() < 0.05
    before = np.mean([moved(Parts.of(one).deformation, POINTS) for one in CHAINS], axis=0)
    assert np.linalg.norm(before - POINTS, axis=1).max() > 1


def test_a_centred_transform_is_the_old_one_after_the_way_back_to_the_template():
    mean = MeanShape.of(CHAINS, field_grid())
    back = mean.to_template()
    for chain in CHAINS:
        expected = moved(sitk.CompositeTransform([chain, back]), POINTS)
        error = np.linalg.norm(moved(mean.centre(chain, back), POINTS) - expected, axis=1)
        assert error.max() < 0.05


def test_where_a_template_lay_leaves_no_trace():
    """Transforms from another template, by a common way more, have the same mean shape."""
    bias = sitk.CompositeTransform([linear((3.0, 5.0, -4.0), 1.05, (4.0, -2.0, 3.0)), waves(1.5, 9)])
    stretches = [linear((0.0, 0.0, 0.0), 1 + d / 100, (d, 2.0, -d)) for d in (6.0, -4.0, -1.0)]
    chains = [sitk.CompositeTransform([one, waves(2.0, seed)]) for seed, one in enumerate(stretches)]
    biased = [
        written_out(
            sitk.CompositeTransform([chain, bias]), Parts.of(chain).linear @ Parts.of(bias).linear, field_grid()
        )
        for chain in chains
    ]
    assert mean_distance(biased) > 4
    for transforms in (chains, biased):
        mean = MeanShape.of(transforms, field_grid())
        back = mean.to_template()
        # What is left is of second order: stretches act on displacements.
        assert mean_distance([mean.centre(one, back) for one in transforms]) < 0.15


def mean_distance(transforms) -> float:
    """Of the object's points from the mean of where transforms take them, mm."""
    return float(np.linalg.norm(np.mean([moved(one, POINTS) for one in transforms], axis=0) - POINTS, axis=1).mean())


def test_the_shift_of_the_mean_is_measured_in_mm():
    mean = MeanShape.of([LINEAR[0], LINEAR[0]], Grid.of(blob_image()))
    expected = np.linalg.norm(displacement(LINEAR[0], mean.grid), axis=-1)
    np.testing.assert_allclose(mean.shift_mm(), expected, atol=1e-6)


def test_the_inverse_leads_back():
    for chain in CHAINS:
        there = moved(chain, POINTS)
        assert np.linalg.norm(moved(inverse(chain, field_grid()), there) - POINTS, axis=1).max() < 0.05
