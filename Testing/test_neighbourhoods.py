"""The products of local attention, against plain loops and against numerical gradients."""

from __future__ import annotations

import itertools

import pytest
import torch
from DeepRegAttentionLib.engine.networks import neighbourhoods
from DeepRegAttentionLib.engine.networks.neighbourhoods import neighbour_products, neighbour_sum


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.double, requires_grad=True)


@pytest.mark.parametrize("radius", [1, 2])
def test_against_a_loop_over_voxels(radius):
    torch.manual_seed(0)
    shape, count = (3, 4, 5), (2 * radius + 1) ** 3
    query, key, weights = random(1, 2, *shape), random(1, 2, *shape), random(1, count, *shape)
    products, total = neighbour_products(query, key, radius), neighbour_sum(weights, key, radius)
    for voxel in itertools.product(*map(range, shape)):
        gathered = torch.zeros(2, dtype=torch.double)
        for n, step in enumerate(itertools.product(range(-radius, radius + 1), repeat=3)):
            k, j, i = (min(max(v + s, 0), n_ - 1) for v, s, n_ in zip(voxel, step, shape))
            neighbour = key[0, :, k, j, i]
            assert torch.allclose(products[0, n][voxel], query[0][:, voxel[0], voxel[1], voxel[2]] @ neighbour)
            gathered = gathered + weights[0, n][voxel] * neighbour
        assert torch.allclose(total[0][:, voxel[0], voxel[1], voxel[2]], gathered)


@pytest.mark.parametrize("radius", [1, 2])
def test_gradients(radius):
    torch.manual_seed(1)
    shape = (3, 2, 4)
    query, key, weights = random(1, 2, *shape), random(1, 2, *shape), random(1, (2 * radius + 1) ** 3, *shape)
    assert torch.autograd.gradcheck(lambda a, b: neighbour_products(a, b, radius), (query, key), fast_mode=True)
    assert torch.autograd.gradcheck(lambda a, b: neighbour_sum(a, b, radius), (weights, key), fast_mode=True)


def test_in_slabs_it_is_the_same(monkeypatch):
    torch.manual_seed(2)
    query, key, weights = random(2, 3, 7, 4, 5), random(2, 3, 7, 4, 5), random(2, 27, 7, 4, 5)
    whole = neighbour_products(query, key, 1), neighbour_sum(weights, key, 1)
    monkeypatch.setattr(neighbourhoods, "_CACHED", 2 * 3 * 4 * 5 * 3)  # three of the seven planes
    for part, expected in zip((neighbour_products(query, key, 1), neighbour_sum(weights, key, 1)), whole):
        assert torch.equal(part, expected)


def test_sums_of_reduced_precision_are_taken_in_full():
    torch.manual_seed(3)
    query, key, weights = (random(1, n, 4, 4, 4).bfloat16() for n in (6, 6, 27))
    with torch.autocast("cpu", torch.bfloat16):
        products, total = neighbour_products(query, key, 1), neighbour_sum(weights, key, 1)
    assert torch.equal(products, neighbour_products(query.float(), key.float(), 1))
    assert total.dtype == torch.bfloat16
    assert torch.equal(total, neighbour_sum(weights.float(), key.float(), 1).bfloat16())
