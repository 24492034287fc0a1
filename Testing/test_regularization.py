"""What is regular, what is not, and by how much."""

from __future__ import annotations

import pytest
import torch
from DeepRegAttentionLib.engine.fields import jacobian_determinant
from DeepRegAttentionLib.engine.regularization import diffusion, edge_mean, folding, forward_differences
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

few = settings(max_examples=20, deadline=None)
SEEDS = st.integers(0, 10_000)
SHAPE = (5, 6, 7)
NUMBERS = st.lists(st.floats(-3, 3), min_size=3, max_size=3)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def linear(matrix: Tensor) -> Tensor:
    """The field ``matrix @ x``, ``(1, 3, K, J, I)``."""
    x = torch.stack(torch.meshgrid(*[torch.arange(float(n)) for n in SHAPE], indexing="ij"))
    return torch.einsum("ab,bkji->akji", matrix, x)[None]


@few
@given(NUMBERS)
def test_a_translation_costs_nothing(values: list[float]) -> None:
    field = torch.tensor(values).reshape(1, 3, 1, 1, 1).expand(1, 3, *SHAPE)
    assert float(diffusion(field)) == 0
    assert float(diffusion(field, random(1, 1, *SHAPE))) == 0
    assert float(folding(field)) == 0


@few
@given(SEEDS)
def test_a_linear_field_costs_its_squared_slopes(seed: int) -> None:
    matrix = random(3, 3, seed=seed) - 0.5
    field = linear(matrix)
    assert float(diffusion(field)) == pytest.approx(float(matrix.square().sum()), rel=1e-4)


def test_diffusion_of_one_moved_voxel_by_hand() -> None:
    field = torch.zeros(1, 3, 3, 3, 3)
    field[0, 1, 1, 1, 1] = 2.0
    # Along each axis two of the 2 x 3 x 3 edges differ by 2: 3 axes x 2 x 4 / 18.
    assert float(diffusion(field)) == pytest.approx(24 / 18)


@few
@given(SEEDS, st.floats(0.1, 5.0))
def test_a_uniform_strength_is_a_factor(seed: int, strength: float) -> None:
    field = random(2, 3, *SHAPE, seed=seed)
    weighted = diffusion(field, torch.full((2, 1, *SHAPE), strength))
    assert float(weighted) == pytest.approx(strength * float(diffusion(field)), rel=1e-5)


def test_weighted_diffusion_is_the_weighted_graph_laplacian() -> None:
    """u^T L u with L = D - W assembled edge by edge."""
    shape = (3, 4, 5)
    strength, field = random(1, 1, *shape, seed=1) + 0.1, random(1, 3, *shape, seed=2)
    index = torch.arange(strength.numel()).reshape(shape)
    total = 0.0
    for axis in range(3):
        n = shape[axis] - 1
        a, b = index.narrow(axis, 0, n).flatten(), index.narrow(axis, 1, n).flatten()
        weight = (strength.flatten()[a] + strength.flatten()[b]) / 2
        laplacian = torch.zeros(index.numel(), index.numel())
        laplacian.index_put_((a, a), weight, accumulate=True)
        laplacian.index_put_((b, b), weight, accumulate=True)
        laplacian.index_put_((a, b), -weight, accumulate=True)
        laplacian.index_put_((b, a), -weight, accumulate=True)
        u = field[0].flatten(1)
        total += float(torch.einsum("cx,xy,cy->", u, laplacian, u)) / len(a)
    assert float(diffusion(field, strength)) == pytest.approx(total, rel=1e-4)


def test_strength_counts_where_it_is() -> None:
    field, strength = torch.zeros(1, 3, *SHAPE), torch.zeros(1, 1, *SHAPE)
    field[0, 0, 1, 1, 1] = 1.0
    strength[..., 3:] = 1.0
    assert float(diffusion(field, strength)) == 0
    strength[..., :3] = 1.0
    assert float(diffusion(field, strength)) > 0


def test_edge_mean_lies_between_its_ends() -> None:
    values = torch.tensor([1.0, 3.0, 7.0]).reshape(1, 1, 1, 1, 3)
    assert edge_mean(values, 4).flatten().tolist() == [2.0, 5.0]


def test_only_folds_cost_folding() -> None:
    gentle = linear(torch.diag(torch.tensor([-0.9, 0.0, 0.3])))
    assert float(folding(gentle)) == 0
    mirrored = linear(torch.diag(torch.tensor([-2.0, 0.0, 0.0])))
    assert jacobian_determinant(mirrored).max() < 0
    assert float(folding(mirrored)) == pytest.approx(1.05, rel=1e-4)


@pytest.mark.parametrize("scale", [0.2, 2.0])
def test_folding_and_its_gradient_are_those_of_the_formula(scale: float) -> None:
    field = (scale * (random(1, 3, *SHAPE, seed=4) - 0.5)).requires_grad_()
    plain, mine = torch.relu(0.05 - jacobian_determinant(field)).mean(), folding(field)
    torch.testing.assert_close(mine, plain)
    assert bool(plain > 0) == mine.requires_grad == (scale == 2.0)
    (slope,) = torch.autograd.grad(plain, field)
    if mine.requires_grad:
        torch.testing.assert_close(torch.autograd.grad(mine, field)[0], slope)
    else:
        assert not slope.any()


@few
@given(st.tuples(*[st.integers(2, 4)] * 3))
def test_differences_have_their_numerical_gradient(shape: tuple[int, int, int]) -> None:
    field = random(1, 2, *shape).double().requires_grad_()
    for axis, difference in zip((2, 3, 4), forward_differences(field)):
        torch.testing.assert_close(difference, field.diff(dim=axis))
    assert torch.autograd.gradcheck(lambda x: tuple(forward_differences(x)), field, fast_mode=True)


def test_folding_is_reduced_by_its_gradient() -> None:
    field = (6 * (random(1, 3, *SHAPE, seed=4) - 0.5)).requires_grad_()
    before = folding(field)
    (slope,) = torch.autograd.grad(before, field)
    with torch.no_grad():
        after = folding(field - 0.5 * slope / slope.abs().max())
    assert 0 < float(after) < float(before.detach())
