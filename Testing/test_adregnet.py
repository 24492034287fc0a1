"""AD-RegNet: shapes, both ways of a pair, gradients, fusion, a shift, and learning a real pair."""

from __future__ import annotations

import pytest
import torch
from DeepRegAttentionLib.engine.errors import ModelError
from DeepRegAttentionLib.engine.fields import exponentiate, resize_field
from DeepRegAttentionLib.engine.networks import build_network
from DeepRegAttentionLib.engine.networks.adregnet import ADRegNet, FieldFusion, half_difference
from DeepRegAttentionLib.training.objective import objective
from DeepRegAttentionLib.training.options import LossWeights
from helpers.images import texture
from helpers.networks import check_learning, shift_error, small_network


def test_shapes_coarse_to_fine():
    fixed, moving = texture(16, 24, 40, seed=1), texture(16, 24, 40, seed=2)
    network = build_network("adregnet", {})
    output = network(fixed.repeat(2, 1, 1, 1, 1), moving.repeat(2, 1, 1, 1, 1))
    sizes = [(2, 3, 5), (4, 6, 10), (8, 12, 20), (16, 24, 40)]
    assert network.multiple == 8
    for vectors in (output.displacements, output.velocities):
        assert [tuple(v.shape) for v in vectors] == [(2, 3, *size) for size in sizes]
    channels = [tuple(f.shape) for f in output.features]
    assert channels == [(2, c, *size) for c, size in zip(network.feature_channels, sizes)]
    assert set(output.maps) == {"attention"}
    assert output.maps["attention"].shape == (2, 1, 16, 24, 40)
    assert 0 <= float(output.maps["attention"].min()) < float(output.maps["attention"].max())


def test_its_attention_is_what_each_place_wants_before_that_is_smoothed_and_fused():
    network = small_network("adregnet")
    pulls = []
    for level in network.levels:
        level.velocity.register_forward_hook(lambda layer, given, pull: pulls.append(half_difference(pull)))
    with torch.no_grad():
        output = network(texture(16, 16, 24, seed=1), texture(16, 16, 24, seed=2))
    wanted = sum(resize_field(pull, (16, 16, 24)).norm(dim=1, keepdim=True) for pull in pulls)
    torch.testing.assert_close(output.maps["attention"], wanted)


def test_where_next_to_nothing_differs_next_to_nothing_pulls():
    """The left half is the same but for little noise, the right half is another image."""
    fixed = texture(16, 16, 32, seed=1)
    moving = fixed + 0.002 * torch.randn(fixed.shape, generator=torch.Generator().manual_seed(0))
    moving[..., 16:] = texture(16, 16, 32, seed=2)[..., 16:]
    pulls = {}
    for negligible in (0.0, 0.05):
        network = small_network("adregnet", negligible=negligible)
        with torch.no_grad():
            pulls[negligible] = network(fixed, moving).maps["attention"]
    left, right = (float((pulls[0.05] / pulls[0.0])[..., half].mean()) for half in (slice(3), slice(-3, None)))
    assert left < 0.4 * right
    assert 0.5 < right < 1


def learned(**configuration: object) -> ADRegNet:
    """With every parameter at random: what starts at zero is not."""
    network = small_network("adregnet", **configuration)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network


@pytest.mark.parametrize("configuration", [{}, {"passes": 2}, {"spatially_varying": True}, {"negligible": 0.1}])
def test_equal_images_stay_where_they_are_whatever_was_learned(configuration):
    image, other = texture(16, 16, 24), texture(16, 16, 24, seed=1)
    network = learned(**configuration)
    with torch.no_grad():
        output, moved = network(image, image), network(image, other)
    assert not output.displacements[0].any()
    # A warp by nothing changes the features of the finer levels by its rounding.
    assert float(output.displacement.abs().max()) < 1e-4 * float(moved.displacement.abs().max())
    assert float(output.maps["attention"].max()) < 1e-4 * float(moved.maps["attention"].max())


def test_exchanging_the_images_reverses_the_velocity_of_the_coarsest_level():
    network = learned()
    fixed, moving = texture(16, 16, 24, seed=1), texture(16, 16, 24, seed=2)
    with torch.no_grad():
        there, back = network(fixed, moving), network(moving, fixed)
    torch.testing.assert_close(there.velocities[0], -back.velocities[0])
    assert float(there.velocities[0].abs().max()) > 0.01


def test_every_level_reverses_what_it_says_when_what_it_sees_is_exchanged():
    network = learned()
    pyramids = [network.encoder(texture(16, 16, 24, seed=seed))[::-1] for seed in (1, 2)]
    with torch.no_grad():
        results = []
        for fixed, moving in (pyramids, pyramids[::-1]):
            coarsest = network.levels[0](fixed[0], moving[0], None)
            results.append(network.levels[1](fixed[1], moving[1], coarsest))
    torch.testing.assert_close(half_difference(results[0].velocity), -half_difference(results[1].velocity))
    torch.testing.assert_close(results[0].features, results[1].features.roll(1, 0))


def test_a_batch_is_its_pairs_one_by_one():
    network = learned().eval()
    fixed, moving = (torch.cat([texture(16, 16, 24, seed=seed) for seed in seeds]) for seeds in ((1, 2), (3, 4)))
    with torch.no_grad():
        both = network(fixed, moving)
        for n in range(2):
            alone = network(fixed[n : n + 1], moving[n : n + 1])
            torch.testing.assert_close(both.displacement[n : n + 1], alone.displacement)
            torch.testing.assert_close(both.features[-1][n : n + 1], alone.features[-1])


def test_its_size():
    count = sum(p.numel() for p in build_network("adregnet", {}).parameters())
    assert 500_000 < count < 1_500_000


@pytest.mark.parametrize("configuration", [{"channels": [8]}, {"window": 1}, {"windows": 4}])
def test_a_configuration_that_cannot_be_built(configuration):
    with pytest.raises(ModelError, match="adregnet"):
        build_network("adregnet", configuration)


def test_each_displacement_is_the_exponential_of_its_velocity():
    output = small_network("adregnet")(texture(16, 16, 16, seed=1), texture(16, 16, 16, seed=2))
    for displacement, velocity in zip(output.displacements, output.velocities):
        torch.testing.assert_close(displacement, exponentiate(velocity))


def test_fusion_adds_at_first_and_then_weighs_by_place():
    fusion, features = FieldFusion(4), torch.zeros(1, 4, 8, 8, 8)
    features[:, :, :, :, 4:] = 1
    coarser, finer = torch.randn(1, 3, 4, 4, 4), torch.randn(1, 3, 8, 8, 8)
    torch.testing.assert_close(fusion(features, coarser, finer), resize_field(coarser, (8, 8, 8)) + finer)
    with torch.no_grad():
        fusion.weights.weight.copy_(torch.tensor([-20.0, 20.0]).reshape(2, 1, 1, 1, 1).expand(2, 4, 1, 1, 1))
    fused = fusion(features, coarser, finer)
    torch.testing.assert_close(fused[..., 7], 2 * finer[..., 7])
    torch.testing.assert_close(fused[..., 0], resize_field(coarser, (8, 8, 8))[..., 0] + finer[..., 0])


def test_gradients_reach_every_parameter():
    network = small_network("adregnet")
    batch = {"fixed": texture(16, 16, 16, seed=1), "moving": texture(16, 16, 16, seed=2)}
    objective(network(batch["fixed"], batch["moving"]), batch, LossWeights())["total"].backward()
    silent = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().any()]
    # What is added to both v(F, M) and v(M, F) cancels: only rounding reaches these.
    assert [name for name in silent if not name.endswith("velocity.bias")] == []


def test_swapping_the_images_swaps_what_each_sees_on_the_coarsest_level():
    network = small_network("adregnet")
    pyramids = [network.encoder(texture(16, 16, 24, seed=seed))[-1] for seed in (1, 2)]
    attention = network.levels[0].attention
    _, _, forward, backward = attention(*pyramids)
    _, _, other_forward, other_backward = attention(*pyramids[::-1])
    torch.testing.assert_close(forward.offset, other_backward.offset)
    torch.testing.assert_close(backward.certainty, other_forward.certainty)


def test_shifted_images_give_the_shifted_field():
    # Windows of 4 voxels on the middle of three levels: 8 voxels of the image. The attention to everything is
    # what does not shift exactly: some of what it sees falls out of the image.
    assert shift_error(small_network("adregnet"), shift=8) < 0.1


@pytest.mark.slow
def test_learns_a_real_pair_without_folds():
    check_learning(small_network("adregnet"), steps=25)
