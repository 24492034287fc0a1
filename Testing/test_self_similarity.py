"""Networks that see self-similarity: the contrast of the images hardly changes what they find."""

from __future__ import annotations

import pytest
import torch
from helpers.images import texture
from helpers.networks import small_network


def motion(name: str, moving: torch.Tensor, self_similarity: bool) -> torch.Tensor:
    network = small_network(name, self_similarity=self_similarity).eval()
    with torch.no_grad():
        return network(texture(16, 24, 16, seed=1), moving).displacement


@pytest.mark.parametrize("name", ["drivenmorph", "adregnet"])
def test_an_inverted_image_moves_as_the_image_does(name):
    moving = texture(16, 24, 16, seed=2)
    expected = motion(name, moving, True)
    torch.testing.assert_close(motion(name, 1 - moving, True), expected, atol=1e-4, rtol=1e-3)
    assert float((motion(name, moving**2, True) - expected).norm() / expected.norm()) < 0.5
    seen = motion(name, moving, False)
    assert float((motion(name, 1 - moving, False) - seen).norm() / seen.norm()) > 0.2


@pytest.mark.parametrize("name", ["drivenmorph", "adregnet"])
def test_gradients_reach_the_first_layer(name):
    network = small_network(name, self_similarity=True)
    network(texture(16, 16, 16, seed=1), texture(16, 16, 16, seed=2)).displacement.square().sum().backward()
    assert float(network.encoder.stem[0][0].weight.grad.abs().max()) > 0
