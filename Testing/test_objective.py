"""The objective of training: its terms, when they appear, their units."""

from __future__ import annotations

import pytest
import torch
from DeepRegAttentionLib.engine.networks.blocks import NetworkOutput
from DeepRegAttentionLib.engine.regularization import beta_hyperprior, diffusion
from DeepRegAttentionLib.training.objective import driving_force_loss, landmark_error, objective, soft_dice_loss
from DeepRegAttentionLib.training.options import LossWeights
from helpers.images import texture


def translation(*shape: int, by: float, batch: int = 1) -> torch.Tensor:
    """A displacement by so many voxels along the last axis."""
    field = torch.zeros(batch, 3, *shape)
    field[:, 2] = by
    return field


def output_of(*displacements: torch.Tensor, **more: object) -> NetworkOutput:
    return NetworkOutput(list(displacements), list(displacements), **more)


@pytest.fixture
def images():
    return {"fixed": texture(8, 8, 16, seed=1), "moving": texture(8, 8, 16, seed=1)}


def test_the_total_is_the_sum_and_the_terms_are_those_that_apply(images):
    terms = objective(output_of(torch.randn(1, 3, 4, 4, 8), torch.randn(1, 3, 8, 8, 16)), images, LossWeights())
    assert set(terms) == {"similarity", "diffusion", "folding", "total"}
    parts = sum(float(value) for name, value in terms.items() if name != "total")
    assert float(terms["total"]) == pytest.approx(parts, rel=1e-5)


def test_every_level_counts_half_as_much_as_the_next_finer(images):
    coarse, fine = torch.randn(1, 3, 4, 4, 8), torch.randn(1, 3, 8, 8, 16)
    terms = objective(output_of(coarse, fine), images, LossWeights(diffusion=0.3))
    torch.testing.assert_close(terms["diffusion"], 0.3 * (diffusion(fine) + diffusion(coarse) / 2))


def test_the_right_displacement_has_the_best_similarity(images):
    moving = images["moving"].roll(2, 4)
    losses = [
        float(objective(output_of(translation(8, 8, 16, by=by)), {**images, "moving": moving}, LossWeights())["total"])
        for by in (-2.0, 0.0, 1.0, 2.0)
    ]
    assert losses == sorted(losses, reverse=True)


def test_the_local_strength_weighs_the_diffusion_on_every_level_and_has_its_own_terms(images):
    coarse, fine = torch.randn(1, 3, 4, 4, 8), torch.randn(1, 3, 8, 8, 16)
    strength = torch.full((1, 1, 8, 8, 16), 0.25)
    weights = LossWeights(diffusion=2, hyperprior=0.1)
    terms = objective(output_of(coarse, fine, regularization=strength), images, weights)
    torch.testing.assert_close(terms["diffusion"], 0.5 * (diffusion(fine) + diffusion(coarse) / 2))
    torch.testing.assert_close(terms["hyperprior"], 0.1 * beta_hyperprior(strength))
    assert float(terms["strength"]) == 0
    gaussian = objective(output_of(fine, regularization=strength), images, weights, hyperprior="gaussian")
    assert float(gaussian["hyperprior"]) == pytest.approx(0.1 * 0.75**2, rel=1e-5)


def test_the_hyperprior_holds_against_the_smoothness_of_every_pass(images):
    coarse, fine = torch.randn(1, 3, 4, 4, 8), torch.randn(1, 3, 8, 8, 16)
    strength = torch.full((1, 1, 8, 8, 16), 0.25)
    once, twice = (
        objective(output_of(*levels, regularization=strength), images, LossWeights())
        for levels in ([coarse, fine], [coarse, fine, coarse, fine])
    )
    for name in ("diffusion", "hyperprior"):
        torch.testing.assert_close(twice[name], 2 * once[name])


def test_the_force_loss_is_zero_for_forces_along_the_remaining_motion_and_two_against_it():
    coarse, fine = translation(4, 4, 8, by=0.5), translation(8, 8, 16, by=3.0)
    along = [translation(4, 4, 8, by=0.1), translation(8, 8, 16, by=7.0)]
    assert float(driving_force_loss(output_of(coarse, fine, forces=along))) == pytest.approx(0, abs=1e-5)
    against = [-force for force in along]
    assert float(driving_force_loss(output_of(coarse, fine, forces=against))) == pytest.approx(2, abs=1e-5)


def test_landmark_distances_are_in_mm_and_pairs_may_have_different_numbers():
    points = [torch.tensor([[2.0, 3, 4], [5, 1, 9], [1, 1, 1]]), torch.tensor([[4.0, 4, 4]])]
    shifted = [points[0] + torch.tensor([0.0, 0, 2]), points[1] + torch.tensor([0.0, 0, 5])]
    batch = {"fixed_landmarks": points, "moving_landmarks": shifted, "spacing": torch.tensor([1.5, 2.0])}
    error = landmark_error(translation(8, 8, 16, by=2.0, batch=2), batch)
    assert float(error) == pytest.approx((0 * 1.5 + 3 * 2.0) / 2, abs=1e-5)
    without = {**batch, "fixed_landmarks": [points[0], points[1][:0]], "moving_landmarks": [shifted[0], points[1][:0]]}
    error = landmark_error(translation(8, 8, 16, by=0.0, batch=2), without)
    assert float(error) == pytest.approx(2 * 1.5, abs=1e-5)


def test_landmarks_draw_the_displacement_to_them(images):
    field = torch.zeros(1, 3, 8, 8, 16, requires_grad=True)
    points = torch.tensor([[[4.0, 4, 8]]])
    batch = {**images, "fixed_landmarks": points, "moving_landmarks": points + torch.tensor([0.0, 0, 3])}
    batch["spacing"] = torch.tensor([2.0])
    terms = objective(output_of(field), batch, LossWeights(landmarks=0.5))
    assert float(terms["landmarks"]) == pytest.approx(0.5 * 6, rel=1e-5)
    (slope,) = torch.autograd.grad(terms["landmarks"], field)
    assert float(slope[0, 2, 4, 4, 8]) < 0
    assert int(slope.abs().sum(dim=1).count_nonzero()) == 1


def label_batch() -> dict[str, torch.Tensor]:
    fixed = torch.zeros(1, 1, 8, 8, 16, dtype=torch.int16)
    fixed[..., 2:6, 4:8] = 1
    fixed[..., 2:6, 8:10] = 7
    return {"fixed_labels": fixed, "moving_labels": fixed.roll(2, 4)}


def test_soft_dice_is_zero_for_a_perfect_overlap_and_counts_each_label_the_same():
    batch = label_batch()
    assert float(soft_dice_loss(translation(8, 8, 16, by=2.0), batch)) == pytest.approx(0, abs=1e-5)
    assert float(soft_dice_loss(translation(8, 8, 16, by=0.0), batch)) == pytest.approx(1 - (0.5 + 0) / 2, abs=1e-5)


def test_soft_dice_has_a_gradient_towards_the_overlap():
    field = translation(8, 8, 16, by=0.5).requires_grad_()
    (slope,) = torch.autograd.grad(soft_dice_loss(field, label_batch()), field)
    assert float(slope[:, 2].sum()) < 0


def test_the_label_term_needs_labels_and_a_weight(images):
    field = translation(8, 8, 16, by=0.5)
    assert "labels" not in objective(output_of(field), {**images, **label_batch()}, LossWeights())
    assert "labels" not in objective(output_of(field), images, LossWeights(labels=1.0))
    terms = objective(output_of(field), {**images, **label_batch()}, LossWeights(labels=0.5))
    assert float(terms["labels"]) == pytest.approx(0.5 * float(soft_dice_loss(field, label_batch())))


def test_a_background_of_labels_alone_has_no_loss():
    empty = {name: torch.zeros_like(value) for name, value in label_batch().items()}
    assert float(soft_dice_loss(translation(8, 8, 16, by=1.0), empty)) == 0


def test_what_has_no_weight_is_no_term(images):
    field, nothing = translation(8, 8, 16, by=0.5), LossWeights(similarity=0, force=0)
    assert set(objective(output_of(field, forces=[field]), images, nothing)) == {"diffusion", "folding", "total"}
