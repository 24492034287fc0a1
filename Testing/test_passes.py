"""More than one pass: the same weights register again what is left."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from DeepRegAttentionLib.engine.errors import ModelError
from DeepRegAttentionLib.engine.fields import compose, resize, resize_field, warp
from DeepRegAttentionLib.engine.networks import build_network
from DeepRegAttentionLib.engine.similarity import lncc
from DeepRegAttentionLib.training.objective import objective
from DeepRegAttentionLib.training.options import LossWeights
from helpers.images import texture
from helpers.networks import hippocampus_pair, small_network, train

NAMES = pytest.mark.parametrize("name", ["drivenmorph", "adregnet"])


@NAMES
@pytest.mark.parametrize("varying", [False, True])
def test_two_passes_are_two_registrations_composed(name, varying):
    # The noise is that of the images as they came; once they are warped it would be another.
    deaf = {"noise": 0.0} if name == "drivenmorph" else {}
    once, twice = (small_network(name, spatially_varying=varying, passes=n, **deaf).eval() for n in (1, 2))
    twice.load_state_dict(once.state_dict())
    fixed, moving = texture(16, 24, 16, seed=1), texture(16, 24, 16, seed=2)
    with torch.no_grad():
        first = once(fixed, moving)
        second = once(fixed, warp(moving, first.displacement))
        output = twice(fixed, moving)
    torch.testing.assert_close(output.displacement, compose(first.displacement, second.displacement))
    assert [d.shape for d in output.displacements] == 2 * [d.shape for d in first.displacements]
    assert len(output.velocities) == 2 * len(first.velocities)
    assert len(output.forces) == 2 * len(first.forces)
    for kind, image in output.maps.items():
        torch.testing.assert_close(image, first.maps[kind] + second.maps[kind])
    if varying:
        torch.testing.assert_close(output.regularization, first.regularization)


@NAMES
def test_what_is_much_larger_than_what_was_learned_is_first_seen_at_half_the_resolution(name):
    once, large, little = (small_network(name, passes=n, side=side).eval() for n, side in ((1, None), (3, 12), (3, 18)))
    for network in (large, little):
        network.load_state_dict(once.state_dict())
    fixed, moving = texture(16, 32, 16, seed=1), texture(16, 32, 16, seed=2)
    with torch.no_grad():
        output, whole = large(fixed, moving), little(fixed, moving)
        expected, seen, contributed = torch.zeros(1, 3, 8, 16, 8), {}, 0
        for scale in (2, 2, 1):
            coarse = F.avg_pool3d(fixed, scale), F.avg_pool3d(moving, scale)
            seen.setdefault(scale, (once.encoder(coarse[0])[::-1], once.noise_of(*coarse)))
            left = warp(moving, resize_field(expected, fixed.shape[2:]))
            found = once.align(seen[scale][0], once.encoder(F.avg_pool3d(left, scale))[::-1], seen[scale][1])
            expected = compose(resize_field(expected, found.displacement.shape[2:]), found.displacement)
            contributed = contributed + scale * resize(found.maps["attention"], fixed.shape[2:])
    torch.testing.assert_close(output.displacement, expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(output.maps["attention"], contributed, rtol=1e-5, atol=1e-4)
    assert [d.shape[2] for d in output.displacements if d.shape[2] > 4] == [8, 8, 8, 16]
    assert len({d.shape for d in whole.displacements}) == len(whole.displacements) // 3
    assert large.multiple == 2 * once.multiple


@pytest.mark.parametrize("more", [{"side": 0}, {"side": True}, {"side": "48"}, {"side": 48, "spatially_varying": True}])
def test_the_side_is_checked(more):
    with pytest.raises(ModelError, match="is a number of voxels, and is not for"):
        build_network("drivenmorph", more)


@NAMES
def test_the_fixed_image_is_encoded_once_for_all_passes(name):
    network = small_network(name, passes=3)
    seen = []
    network.encoder.register_forward_pre_hook(lambda module, images: seen.append(images[0]))
    fixed, moving = texture(16, 16, 16, seed=1), texture(16, 16, 16, seed=2)
    with torch.no_grad():
        network(fixed, moving)
    assert [image is fixed for image in seen] == [True, False, False, False]


@pytest.mark.slow
@NAMES
def test_the_second_pass_learns_to_go_on_where_the_first_ended(name):
    network = small_network(name, passes=2)
    batch = hippocampus_pair()
    train(network, batch, LossWeights(diffusion=0.2), 20)
    with torch.no_grad():
        displacements = network(batch["fixed"], batch["moving"]).displacements
    first, last = displacements[len(displacements) // 2 - 1], displacements[-1]
    assert first.shape == last.shape
    unlike = [float(lncc(batch["fixed"], warp(batch["moving"], d))) for d in (first, last)]
    assert unlike[1] < unlike[0]


@NAMES
def test_all_passes_are_trained_together(name):
    network = small_network(name, passes=3)
    batch = {"fixed": texture(16, 16, 16, seed=1), "moving": texture(16, 16, 16, seed=2)}
    terms = objective(network(batch["fixed"], batch["moving"]), batch, LossWeights())
    terms["total"].backward()
    assert terms["total"].isfinite()
    silent = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert silent == []


@pytest.mark.parametrize("passes", [0, 9, 1.5, True, "2", None])
def test_the_number_of_passes_is_checked(passes):
    with pytest.raises(ModelError, match="from 1 to 8"):
        build_network("drivenmorph", {"passes": passes})
