"""Spatially varying regularization: the prior and its hyperpriors, the decoder, and no trivial solution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from DeepRegAttentionLib.engine.errors import ModelError
from DeepRegAttentionLib.engine.fields import exponentiate, smooth, warp
from DeepRegAttentionLib.engine.networks import build_network
from DeepRegAttentionLib.engine.networks.adaptive import SpatiallyVarying
from DeepRegAttentionLib.engine.regularization import (
    HYPERPRIORS,
    beta_hyperprior,
    diffusion,
    edge_mean,
    gaussian_hyperprior,
    log_determinant,
    strength_smoothness,
)
from DeepRegAttentionLib.engine.similarity import mse
from DeepRegAttentionLib.training.objective import objective
from DeepRegAttentionLib.training.options import LossWeights
from helpers.images import texture
from helpers.networks import SMALL, small_network, train


def laplacian(strength: np.ndarray) -> np.ndarray:
    """The dense weighted graph Laplacian of a grid, edge by edge."""
    index = np.arange(strength.size).reshape(strength.shape)
    matrix = np.zeros((strength.size, strength.size))
    for axis in range(3):
        first, second = (index.take(range(s, strength.shape[axis] - 1 + s), axis).ravel() for s in (0, 1))
        for p, q in zip(first, second):
            weight = (strength.flat[p] + strength.flat[q]) / 2
            matrix[[p, q, p, q], [p, q, q, p]] += np.array([1, 1, -1, -1]) * weight
    return matrix


def random_strength(seed: int) -> torch.Tensor:
    return torch.rand(1, 1, 4, 4, 4, generator=torch.Generator().manual_seed(seed)) * 0.9 + 0.05


def test_the_weighted_diffusion_is_the_quadratic_form_of_the_weighted_graph_laplacian():
    field, strength = torch.randn(1, 3, 4, 4, 4), random_strength(1)
    matrix = laplacian(strength[0, 0].double().numpy())
    direct = sum(u.ravel() @ matrix @ u.ravel() for u in field[0].double().numpy())
    edges_of_each_axis = 3 * 4 * 4
    assert float(diffusion(field, strength)) * edges_of_each_axis == pytest.approx(direct, rel=1e-5)


def test_constant_strength_is_a_factor():
    field = torch.randn(2, 3, 5, 4, 6)
    weighted = diffusion(field, torch.full((2, 1, 5, 4, 6), 0.3))
    torch.testing.assert_close(weighted, 0.3 * diffusion(field))


def test_the_determinant_surrogate_scales_with_the_strength_and_bounds_the_true_one():
    uniform = torch.ones(1, 1, 4, 4, 4)
    assert float(log_determinant(uniform)) == pytest.approx(0, abs=1e-6)
    assert float(log_determinant(0.2 * uniform)) == pytest.approx(-np.log(0.2), rel=1e-5)
    for seed in range(4):
        matrix = laplacian(random_strength(seed)[0, 0].double().numpy())
        # One voxel is held, as a graph Laplacian alone is singular.
        true = np.linalg.slogdet(matrix[1:, 1:])[1]
        assert true <= np.log(np.diag(matrix)[1:]).sum()
        degrees = np.diag(laplacian(np.ones((4, 4, 4))))
        expected = -np.log(np.diag(matrix) / degrees).mean()
        assert float(log_determinant(random_strength(seed))) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", list(HYPERPRIORS))
def test_every_hyperprior_wants_the_full_strength(name):
    values = [float(HYPERPRIORS[name](torch.full((1, 1, 3, 3, 3), w))) for w in (1e-3, 0.1, 0.5, 0.9, 0.999)]
    assert values == sorted(values, reverse=True)
    assert values[-1] == pytest.approx(0, abs=2e-3)


def test_hyperpriors_by_their_formulas():
    w = torch.tensor([0.2, 0.8]).reshape(1, 1, 1, 1, 2)
    assert float(beta_hyperprior(w, a=3)) == pytest.approx(-2 * (np.log(0.2) + np.log(0.8)) / 2, rel=1e-5)
    assert float(gaussian_hyperprior(w, deviation=0.4)) == pytest.approx((0.64 + 0.04) / 2 / (2 * 0.16), rel=1e-5)


def test_smoothness_of_the_strength():
    ramp = torch.arange(5.0).reshape(1, 1, 1, 1, 5).expand(1, 1, 3, 3, 5) * 0.1
    assert float(strength_smoothness(ramp)) == pytest.approx(0.01, rel=1e-5)


def uneven_pair() -> tuple[torch.Tensor, torch.Tensor]:
    """One half of the moving image is the fixed one stretched to and fro, the other half is the same."""
    fixed = texture(16, 16, 32, sigma=1.2)
    velocity = torch.zeros(1, 3, 16, 16, 32)
    k, i = torch.arange(16.0)[:, None, None], torch.arange(32.0)
    velocity[:, 0] = 4 * torch.sin(2 * np.pi * i / 16) * torch.sin(np.pi * k / 15) ** 2 * (i < 16)
    return warp(fixed, exponentiate(velocity)), fixed


def halves(strength: torch.Tensor) -> tuple[float, float]:
    """Mean w where the pair deforms and where it does not."""
    return float(strength[:, :, 3:-3, 3:-3, 2:14].mean()), float(strength[:, :, 3:-3, 3:-3, 19:30].mean())


@pytest.mark.parametrize("hyperprior", ["beta", "determinant"])
def test_the_strength_yields_where_the_image_deforms_and_there_alone(hyperprior):
    fixed, moving = uneven_pair()
    velocity = torch.zeros(1, 3, 8, 8, 16, requires_grad=True)
    logit = torch.zeros(1, 1, 8, 8, 16, requires_grad=True)
    optimiser = torch.optim.Adam([velocity, logit], lr=0.15)
    resize = torch.nn.functional.interpolate
    for _ in range(50):
        displacement = exponentiate(resize(smooth(velocity, 0.7), scale_factor=2, mode="trilinear"), steps=4)
        strength = resize(logit.sigmoid(), scale_factor=2, mode="trilinear")
        loss = 100 * mse(fixed, warp(moving, displacement)) + 0.5 * diffusion(displacement, strength)
        loss = loss + 0.02 * HYPERPRIORS[hyperprior](strength) + 0.2 * strength_smoothness(strength)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    strength = strength.detach()
    deforms, rests = halves(strength)
    assert 0.02 < deforms < rests - 0.3
    assert rests > 0.8
    free = (0.02 / (0.5 * edge_free_energy(displacement.detach()))).clamp(max=1)
    assert float(torch.corrcoef(torch.stack([free.flatten(), strength.flatten()]))[0, 1]) > 0.5


def edge_free_energy(field: torch.Tensor) -> torch.Tensor:
    """|grad u|^2 at each voxel: the mean over the two edges of each axis, summed over the axes."""
    total = torch.zeros_like(field[:, :1])
    for axis in (2, 3, 4):
        squared = field.diff(dim=axis).square().sum(dim=1, keepdim=True)
        first, last = squared.narrow(axis, 0, 1), squared.narrow(axis, -1, 1)
        total = total + edge_mean(torch.cat([first, squared, last], dim=axis), axis)
    return total


@pytest.mark.slow
@pytest.mark.parametrize("name", ["drivenmorph", "adregnet"])
def test_a_network_learns_where_to_yield(name):
    fixed, moving = uneven_pair()
    network = small_network(name, spatially_varying=True)
    weights = LossWeights(diffusion=0.5, hyperprior=0.05, strength=0.2)
    train(network, {"fixed": fixed, "moving": moving}, weights, steps=25, rate=1e-2)
    with torch.no_grad():
        strength = network(fixed, moving).regularization
    deforms, rests = halves(strength)
    assert 0.02 < deforms < rests - 0.1
    assert rests > 0.6


@pytest.mark.parametrize("name", ["drivenmorph", "adregnet"])
def test_one_setting_adds_the_local_strength_to_any_network(name):
    network = small_network(name, spatially_varying=True)
    fixed, moving = texture(16, 16, 24, seed=1), texture(16, 16, 24, seed=2)
    output = network(fixed, moving)
    assert isinstance(network, SpatiallyVarying)
    assert network.multiple == small_network(name).multiple
    assert output.regularization.shape == (1, 1, 16, 16, 24)
    assert 0 < float(output.regularization.min()) < float(output.regularization.max()) < 1
    plain = build_network(name, {"channels": SMALL[name], "spatially_varying": False})
    plain.load_state_dict(network.network.state_dict())
    torch.testing.assert_close(plain(fixed, moving).displacement, output.displacement)
    assert plain(fixed, moving).regularization is None


@pytest.mark.parametrize("name", ["drivenmorph", "adregnet"])
def test_gradients_reach_every_parameter_of_the_decoder(name):
    network = small_network(name, spatially_varying=True)
    batch = {"fixed": texture(16, 16, 16, seed=1), "moving": texture(16, 16, 16, seed=2)}
    objective(network(batch["fixed"], batch["moving"]), batch, LossWeights())["total"].backward()
    silent = [n for n, p in network.strength.named_parameters() if p.grad is None or not p.grad.abs().any()]
    assert silent == []


def test_the_setting_is_true_or_false():
    with pytest.raises(ModelError, match="true or false"):
        build_network("adregnet", {"spatially_varying": "yes"})
