"""Attention: what it sums to, what it finds, and that windows see what they should."""

from __future__ import annotations

import itertools

import pytest
import torch
from DeepRegAttentionLib.engine.networks.attention import (
    BidirectionalCrossAttention,
    CrossAttention,
    LocalAttention,
    LocalMatch,
    RegionalAttention,
    Windows,
    attend,
    certainty,
    of_length_one,
    rotate_by_position,
)
from hypothesis import given, settings
from hypothesis import strategies as st


def tensor(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


STEPS = list(itertools.product((-1, 0, 1), repeat=3))


def test_local_attention_equals_a_voxelwise_computation():
    attention = LocalAttention(5, dimension=4, radius=1)
    features = tensor(1, 5, 4, 5, 6)
    x = (2, 3, 1)
    query = attention.query(features)[0, :, x[0], x[1], x[2]]
    keys = attention.key(features)[0]
    neighbours = [tuple(a + d for a, d in zip(x, step)) for step in STEPS]
    scores = torch.stack([(query * keys[:, k, j, i]).sum() / 2 for k, j, i in neighbours]).softmax(0)
    expected = sum(w * features[0, :, k, j, i] for w, (k, j, i) in zip(scores, neighbours))
    torch.testing.assert_close(attention(features)[0, :, x[0], x[1], x[2]], expected)


def test_a_local_match_is_the_formula_at_every_voxel():
    match = LocalMatch(5, dimension=4, radius=1)
    fixed, moving = tensor(1, 5, 4, 5, 6), tensor(1, 5, 4, 5, 6, seed=1)
    offset, certain = match(fixed, moving)
    own, other = (torch.nn.functional.normalize(match.embedding(image)[0], dim=0) for image in (fixed, moving))
    sharpness, (k, j, i) = match.log_sharpness.exp(), (2, 3, 1)

    def attention(keys: torch.Tensor) -> torch.Tensor:
        products = [own[:, k, j, i] @ keys[:, k + a, j + b, i + c] for a, b, c in STEPS]
        return (sharpness * torch.stack(products)).softmax(0)

    expected = (attention(other) - attention(own)) @ torch.tensor(STEPS, dtype=torch.float32)
    torch.testing.assert_close(offset[0, :, k, j, i], expected)
    torch.testing.assert_close(certain[0, :, k, j, i], certainty(attention(other)[None, :])[0])


@pytest.mark.parametrize("step", [(1, 0, -1), (0, -2, 0), (2, 1, 0)])
def test_a_sharp_local_match_finds_where_the_content_went(step):
    match = LocalMatch(16, dimension=16, radius=2)
    with torch.no_grad():
        match.log_sharpness.fill_(5.0)
    fixed = tensor(1, 16, 8, 9, 10)
    offset, certain = match(fixed, fixed.roll(step, (2, 3, 4)))
    inside = (..., slice(3, -3), slice(3, -3), slice(3, -3))
    expected = torch.tensor(step, dtype=torch.float32).reshape(1, 3, 1, 1, 1).expand_as(offset[inside])
    torch.testing.assert_close(offset[inside], expected, atol=0.05, rtol=0)
    assert float(certain[inside].min()) > 0.95


@pytest.mark.parametrize("sharpness", [-2.0, 2.0, 5.0])
def test_a_local_match_of_a_map_with_itself_is_exactly_where_it_is(sharpness):
    match = LocalMatch(6, dimension=4, radius=1)
    with torch.no_grad():
        match.log_sharpness.fill_(sharpness)
    features = tensor(2, 6, 4, 5, 6)
    offset, certain = match(features, features.clone())
    assert not offset.any()
    assert offset.shape == (2, 3, 4, 5, 6)
    assert certain.shape == (2, 1, 4, 5, 6)


def test_certainty_is_zero_when_undecided_and_one_for_a_single_match():
    undecided = torch.full((1, 27, 1, 1, 1), 1 / 27)
    single = torch.zeros(1, 27, 1, 1, 1)
    single[:, 4] = 1
    assert float(certainty(undecided)) == pytest.approx(0, abs=1e-5)
    assert float(certainty(single)) == pytest.approx(1, abs=1e-5)


@settings(max_examples=25, deadline=None)
@given(shape=st.tuples(*[st.integers(1, 7)] * 3), width=st.one_of(st.none(), st.integers(1, 8)))
def test_windows_join_what_they_split(shape, width):
    windows = Windows(shape, width)
    volume = tensor(2, 3, *shape)
    tokens = windows.split(volume)
    assert torch.equal(windows.join(tokens), volume)
    assert int(windows.valid(volume.device).sum()) * 2 * 3 == volume.numel()
    assert windows.padded == (not bool(windows.valid(volume.device).all()))


def test_attention_rows_sum_to_one_and_never_reach_padding():
    query, key = tensor(2, 1, 6, 4), tensor(2, 1, 6, 4, seed=1)
    valid = torch.tensor([[True] * 6, [True, True, False, True, False, True]])
    rows = attend(query, key, torch.eye(6).expand(2, 1, 6, 6), valid)
    torch.testing.assert_close(rows.sum(dim=-1), torch.ones(2, 1, 6))
    assert float(rows[1, :, :, [2, 4]].abs().max()) == 0
    expected = (query[0, 0] @ key[0, 0].T).softmax(dim=-1)
    torch.testing.assert_close(rows[0, 0], expected)


def test_rotary_products_depend_on_relative_position_alone():
    query, key = tensor(1, 24), tensor(1, 24, seed=1)
    a, b, shift = torch.tensor([[1.0, -2, 3]]), torch.tensor([[0.0, 2, 5]]), torch.tensor([[4.0, 1, -3]])
    here = rotate_by_position(query, a) @ rotate_by_position(key, b).T
    there = rotate_by_position(query, a + shift) @ rotate_by_position(key, b + shift).T
    nearer = rotate_by_position(query, a) @ rotate_by_position(key, a).T
    torch.testing.assert_close(here, there)
    assert not torch.allclose(here, nearer)


@pytest.mark.parametrize("shape", [(4, 6, 5), (1, 6, 3)])
def test_a_window_that_covers_everything_equals_full_attention(shape):
    full, windowed = CrossAttention(16, None), CrossAttention(16, max(shape))
    windowed.load_state_dict(full.state_dict())
    target, source = tensor(2, 16, *shape), tensor(2, 16, *shape, seed=1)
    for a, b in zip(full(target, source), windowed(target, source)):
        torch.testing.assert_close(a, b)


def test_a_window_sees_itself_alone_even_when_padded():
    attention = CrossAttention(16, 4)
    target, source = tensor(1, 16, 6, 4, 7), tensor(1, 16, 6, 4, 7, seed=1)
    changed = source.clone()
    changed[:, :, 4:, :, 4:] *= tensor(16, 1, 1, 1, seed=2)
    for a, b in zip(attention(target, source), attention(target, changed)):
        torch.testing.assert_close(a[:, :, :4], b[:, :, :4])
        torch.testing.assert_close(a[:, :, :, :, :4], b[:, :, :, :, :4])
        assert not torch.allclose(a[:, :, 4:, :, 4:], b[:, :, 4:, :, 4:])
    alone = attention(target[:, :, 4:, :, 4:], source[:, :, 4:, :, 4:])
    torch.testing.assert_close(attention(target, source).gathered[:, :, 4:, :, 4:], alone.gathered)


def test_sharp_attention_finds_where_the_content_went():
    attention = CrossAttention(32, None)
    with torch.no_grad():
        attention.log_sharpness.fill_(5.0)
    target = tensor(1, 32, 4, 6, 6)
    shifted = target.roll((1, -1), (2, 4))
    match = attention(target, shifted)
    inside = match.offset[:, :, :3, :, 1:]
    expected = torch.tensor([1.0, 0.0, -1.0]).reshape(1, 3, 1, 1, 1).expand_as(inside)
    torch.testing.assert_close(inside, expected, atol=0.05, rtol=0)
    assert float(match.certainty[:, :, :3, :, 1:].min()) > 0.95


def test_undecided_attention_has_no_offset_and_no_certainty():
    attention = CrossAttention(16, 4)
    with torch.no_grad():
        attention.log_sharpness.fill_(-30.0)
    match = attention(tensor(1, 16, 6, 5, 9), tensor(1, 16, 6, 5, 9, seed=1))
    assert float(match.certainty.max()) < 1e-4
    assert float(match.offset.abs().max()) < 1e-3


def test_swapping_the_images_swaps_the_two_directions():
    attention = BidirectionalCrossAttention(16, 4)
    fixed, moving = tensor(1, 16, 4, 8, 6), tensor(1, 16, 4, 8, 6, seed=1)
    one, two = attention(fixed, moving), attention(moving, fixed)
    torch.testing.assert_close(one[0], two[1])
    torch.testing.assert_close(one[2].offset, two[3].offset)
    torch.testing.assert_close(one[3].certainty, two[2].certainty)


@pytest.mark.parametrize("shape", [(1, 5, 6), (8, 6, 7)])
def test_the_regional_gate_is_a_factor_between_zero_and_one(shape):
    regions = RegionalAttention(8)
    features = tensor(2, 8, *shape)
    factor = regions(features) / features
    assert 0 < float(factor.min()) < float(factor.max()) < 1


def test_vectors_of_length_one_keep_their_direction_and_none_has_none_and_a_gradient():
    vectors = torch.randn(2, 5, 3, 4, 6)
    vectors[0, :, 1] = 0
    vectors.requires_grad_()
    found = of_length_one(vectors)
    torch.testing.assert_close(found, torch.nn.functional.normalize(vectors, dim=1))
    (slope,) = torch.autograd.grad(found.square().sum(), vectors)
    assert slope.isfinite().all()
