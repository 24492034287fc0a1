"""DrivenMorph: the force formula and its direction, equal images, shapes, gradients, a shift, and a real pair."""

from __future__ import annotations

import pytest
import torch
from DeepRegAttentionLib.engine.fields import smooth, warp
from DeepRegAttentionLib.engine.networks import build_network
from DeepRegAttentionLib.engine.networks.attention import LocalMatch
from DeepRegAttentionLib.engine.networks.drivenmorph import (
    FeatureComparison,
    NeuralDemons,
    added_up,
    force_agreement,
)
from DeepRegAttentionLib.training.objective import objective
from DeepRegAttentionLib.training.options import LossWeights
from helpers.images import texture
from helpers.networks import check_learning, shift_error, small_network, train

NOISE, SEEN = 1000.0, torch.full((1, 1, 1, 1, 1), 4e-4)
FLOOR = 0.2 + 0.4


def comparison_of(
    fixed: torch.Tensor, moving: torch.Tensor, weight: torch.Tensor, offset: float = 0.0
) -> FeatureComparison:
    mean = weight.mean(dim=1, keepdim=True)
    return FeatureComparison(fixed - moving, weight, offset * mean.expand(-1, 3, -1, -1, -1), mean, fixed)


def blob(centre: float) -> torch.Tensor:
    k, j, i = torch.meshgrid(*[torch.arange(16.0)] * 3, indexing="ij")
    return torch.exp(-((k - 7.5) ** 2 + (j - 7.5) ** 2 + (i - centre) ** 2) / 18)[None, None]


def test_the_force_is_the_formula_at_every_voxel():
    fixed, moving = texture(5, 6, 7, seed=1).repeat(1, 3, 1, 1, 1), texture(5, 6, 7, seed=2).repeat(1, 3, 1, 1, 1)
    fixed = fixed * torch.tensor([1.0, 2.0, 0.5]).reshape(1, 3, 1, 1, 1)
    weight = texture(5, 6, 7, seed=3).repeat(1, 3, 1, 1, 1) * torch.tensor([0.3, 0.6, 0.9]).reshape(1, 3, 1, 1, 1)
    demons = NeuralDemons(NOISE)
    comparison = comparison_of(fixed, moving, weight, offset=-0.7)
    force = demons.force(fixed, moving, comparison, SEEN)
    k, j, i = 2, 3, 4
    above, below = torch.zeros(3), 1e-2
    for c in range(3):
        mean = ((fixed + moving) / 2)[0, c]
        slope = torch.stack(
            [
                (mean[k + 1, j, i] - mean[k - 1, j, i]) / 2,
                (mean[k, j + 1, i] - mean[k, j - 1, i]) / 2,
                (mean[k, j, i + 1] - mean[k, j, i - 1]) / 2,
            ]
        )
        d, w = (fixed - moving)[0, c, k, j, i], weight[0, c, k, j, i]
        above = above + w * d * slope
        below = below + w * (slope**2).sum() + demons.log_stabiliser.exp() ** 2 * w * d**2
    found = demons.log_reach.exp() * weight[0, :, k, j, i].mean() * comparison.offset[0, :, k, j, i]
    energy = smooth((weight * (fixed - moving) ** 2).sum(dim=1, keepdim=True), 1.0)[0, 0, k, j, i]
    torch.testing.assert_close(force[0, :, k, j, i], energy / (energy + FLOOR) * (above / below + found))


def test_differences_as_small_as_noise_hardly_pull():
    fixed, moving = 5 * blob(7.5), 5 * blob(8.5)
    demons, weight = NeuralDemons(NOISE), torch.full_like(fixed, 0.5)
    large = demons.force(fixed, moving, comparison_of(fixed, moving, weight), SEEN).norm()
    little = fixed + 0.01 * (moving - fixed)
    small = demons.force(fixed, little, comparison_of(fixed, little, weight), SEEN).norm()
    assert float(small.detach()) < 1e-2 * float(large.detach())


def test_the_noisier_the_images_the_larger_a_difference_must_be():
    fixed, moving = blob(7.5), blob(8.5)
    comparison = comparison_of(fixed, moving, torch.full_like(fixed, 0.5))
    forces = [NeuralDemons(NOISE).force(fixed, moving, comparison, level * SEEN).norm() for level in (0, 1, 10)]
    assert forces[0] > 1.5 * forces[1] > 3 * forces[2]
    blind = [NeuralDemons(0.0).force(fixed, moving, comparison, level * SEEN) for level in (0, 10)]
    torch.testing.assert_close(*blind)


@pytest.mark.parametrize("shift", [-2.0, 2.0])
def test_the_force_points_to_where_the_fixed_content_lies_in_the_moving_image(shift):
    fixed, moving = 5 * blob(7.5), 5 * blob(7.5 + shift)
    demons = NeuralDemons(NOISE)
    force = demons.force(fixed, moving, comparison_of(fixed, moving, torch.ones_like(fixed)), SEEN)
    mean = force.mean(dim=(0, 2, 3, 4)) * shift
    assert float(mean[2]) > 100 * float(mean[:2].abs().max())
    assert float((force[:, 2] * shift)[(fixed + moving)[:, 0] > 1].min()) > -0.05
    velocity = demons(force, comparison_of(fixed, moving, torch.ones_like(fixed)))
    assert float((warp(moving, velocity) - fixed).square().mean()) < 0.6 * float((moving - fixed).square().mean())


def test_agreement_of_a_field_with_itself_and_its_opposite():
    field = torch.randn(1, 3, 4, 4, 4)
    assert float(force_agreement(field, 3 * field)["cosine"]) == pytest.approx(1, abs=1e-5)
    opposite = force_agreement(field, -field)
    assert float(opposite["cosine"]) == pytest.approx(-1, abs=1e-5)
    assert float(opposite["magnitude"]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("configuration", [{}, {"self_similarity": True, "passes": 2}])
def test_equal_images_stay_where_they_are_whatever_was_learned(configuration):
    network = small_network("drivenmorph", **configuration)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    image, other = texture(16, 16, 24), texture(16, 16, 24, seed=1)
    with torch.no_grad():
        output, moved = network(image, image), network(image, other)
    # A pass sees the image that the one before has warped by next to nothing, and self-similarity sees that.
    assert float(output.displacement.abs().max()) < 0.01 * float(moved.displacement.abs().max())
    assert not output.forces[0].any()
    assert not output.displacements[0].any()
    assert float(output.maps["attention"].max()) < 0.01 * float(moved.maps["attention"].max())


def test_without_any_difference_that_a_slope_sees_the_match_still_pulls():
    fixed, moving = torch.ones(1, 4, 4, 4, 4), torch.zeros(1, 4, 4, 4, 4)
    comparison = comparison_of(fixed, moving, torch.full_like(fixed, 0.5), offset=2.0)
    demons = NeuralDemons(NOISE)
    force = demons.force(fixed, moving, comparison, SEEN)
    torch.testing.assert_close(force, (2 / (2 + FLOOR) * demons.log_reach.exp() * 0.5).expand_as(force))


def test_what_each_level_matched_is_part_of_its_force():
    network = small_network("drivenmorph")
    fixed, moving = texture(16, 16, 24, seed=1), texture(16, 16, 24, seed=2)
    with torch.no_grad():
        whole = network(fixed, moving)
        for part in (part for part in network.modules() if isinstance(part, LocalMatch)):
            part.register_forward_hook(lambda module, given, said: tuple(torch.zeros_like(values) for values in said))
        without = network(fixed, moving)
    for one, other in zip(whole.forces, without.forces):
        assert float((one - other).abs().max()) > 0.01


def test_shapes_coarse_to_fine():
    fixed, moving = texture(16, 24, 32, seed=1), texture(16, 24, 32, seed=2)
    network = build_network("drivenmorph", {})
    output = network(fixed.repeat(2, 1, 1, 1, 1), moving.repeat(2, 1, 1, 1, 1))
    sizes = [(2, 3, 4), (4, 6, 8), (8, 12, 16), (16, 24, 32)]
    assert network.multiple == 8
    for vectors in (output.displacements, output.velocities, output.forces):
        assert [tuple(v.shape) for v in vectors] == [(2, 3, *size) for size in sizes]
    channels = [tuple(f.shape) for f in output.features]
    assert channels == [(2, c, *size) for c, size in zip(network.feature_channels, sizes)]
    assert added_up(output.forces).shape == (2, 3, 16, 24, 32)
    assert set(output.maps) == {"attention"}
    assert output.maps["attention"].shape == (2, 1, 16, 24, 32)
    assert 0 <= float(output.maps["attention"].min()) < float(output.maps["attention"].max())


def test_gradients_reach_every_parameter():
    network = small_network("drivenmorph")
    batch = {"fixed": texture(16, 16, 16, seed=1), "moving": texture(16, 16, 16, seed=2)}
    train(network, batch, LossWeights(), steps=1)
    network.zero_grad()
    objective(network(batch["fixed"], batch["moving"]), batch, LossWeights())["total"].backward()
    silent = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().any()]
    assert silent == []


def test_shifted_images_give_the_shifted_field():
    assert shift_error(small_network("drivenmorph"), shift=small_network("drivenmorph").multiple) < 1e-3


@pytest.mark.slow
def test_learns_a_real_pair_without_folds():
    check_learning(small_network("drivenmorph"), steps=20)
