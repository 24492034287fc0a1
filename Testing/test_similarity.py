"""Similarities against their definitions, their invariances, and what they do with nothing to compare."""

from __future__ import annotations

from typing import Optional

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from DeepRegAttentionLib.engine.similarity import (
    SIMILARITY_LOSSES,
    box_mean,
    lncc,
    masked_mean,
    mind_descriptor,
    mind_ssc,
    mse,
    mutual_information,
)
from helpers.images import texture
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

few = settings(max_examples=15, deadline=None, derandomize=True)
SEEDS = st.integers(0, 10_000)
SHAPES = st.tuples(*[st.integers(2, 8)] * 3)
LOSSES = pytest.mark.parametrize("loss", SIMILARITY_LOSSES.values(), ids=SIMILARITY_LOSSES)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def half_mask(image: Tensor) -> Tensor:
    mask = torch.zeros_like(image)
    mask[..., : image.shape[-1] // 2] = 1
    return mask


def windows(image: np.ndarray, at: tuple[int, ...], reach: int) -> np.ndarray:
    return image[tuple(slice(max(0, n - reach), n + reach + 1) for n in at)].ravel()


# Means


@few
@given(SHAPES, SEEDS, st.sampled_from([1, 3, 5, 7]))
def test_box_mean_is_the_mean_of_the_cube_inside_the_image(shape: tuple[int, int, int], seed: int, width: int) -> None:
    image = random(2, 3, *shape, seed=seed)
    cube = torch.ones(3, 1, width, width, width)
    total, count = (F.conv3d(x, cube, padding=width // 2, groups=3) for x in (image, torch.ones_like(image)))
    torch.testing.assert_close(box_mean(image, width), total / count, atol=1e-5, rtol=1e-5)


def test_masked_mean_counts_the_masked_voxels_of_every_channel() -> None:
    values, mask = random(1, 4, 3, 4, 5), (random(1, 1, 3, 4, 5, seed=1) > 0.5).float()
    expected = values[:, :, mask[0, 0] > 0].mean()
    torch.testing.assert_close(masked_mean(values, mask), expected)
    torch.testing.assert_close(masked_mean(values, None), values.mean())


# Local correlation


@few
@given(SEEDS, st.sampled_from([3, 5]))
def test_lncc_is_its_definition(seed: int, width: int) -> None:
    fixed, warped = random(1, 1, 5, 6, 7, seed=seed), random(1, 1, 5, 6, 7, seed=seed + 1)
    f, w = fixed[0, 0].double().numpy(), warped[0, 0].double().numpy()
    squares = []
    for at in np.ndindex(*f.shape):
        a, b = windows(f, at, width // 2), windows(w, at, width // 2)
        squares.append(np.mean((a - a.mean()) * (b - b.mean())) ** 2 / (a.var() * b.var()))
    assert float(lncc(fixed, warped, width=width)) == pytest.approx(1 - np.mean(squares), abs=1e-3)


def test_lncc_ignores_brightness_and_contrast_that_vary_slowly() -> None:
    fixed = texture(24, 24, 24)
    ramp = torch.linspace(0, 1, 24).reshape(24, 1, 1)
    warped = fixed * (0.4 + 0.5 * ramp) + 0.1 * (1 - ramp)
    other = texture(24, 24, 24, seed=5)
    assert float(lncc(fixed, fixed)) == pytest.approx(0, abs=0.01)
    assert float(lncc(fixed, warped)) < 0.1
    assert float(lncc(fixed, other)) > 0.7


def test_masked_lncc_is_that_of_the_masked_part_alone() -> None:
    """Clipping the cubes at the mask is clipping them at the border of the part."""
    fixed, warped = texture(), texture(seed=1)
    mask = half_mask(fixed)
    part = (..., slice(0, fixed.shape[-1] // 2))
    expected = lncc(fixed[part], warped[part])
    torch.testing.assert_close(lncc(fixed, warped, mask), expected, atol=1e-4, rtol=1e-4)
    assert abs(float(lncc(fixed, warped)) - float(expected)) > 1e-3


def test_what_the_mask_hides_does_not_count_in_lncc() -> None:
    fixed, warped = texture(), texture(seed=1)
    mask = half_mask(fixed)
    spoilt = torch.where(mask > 0, warped, random(*warped.shape, seed=2))
    torch.testing.assert_close(lncc(fixed, spoilt, mask), lncc(fixed, warped, mask), atol=1e-5, rtol=1e-5)


def plain_lncc(fixed: Tensor, warped: Tensor, mask: Optional[Tensor]) -> Tensor:
    """The formula in cubes of seven voxels, with torch's own gradients."""
    mask = torch.ones_like(fixed) if mask is None else mask
    weight = box_mean(mask, 7).clamp_min(1e-3)

    def mean(image: Tensor) -> Tensor:
        return box_mean(image * mask, 7) / weight

    covariance = mean(fixed * warped) - mean(fixed) * mean(warped)
    variances = [(mean(image * image) - mean(image) ** 2).clamp_min(0) for image in (fixed, warped)]
    squared = covariance**2 / ((variances[0] + 1e-6) * (variances[1] + 1e-5))
    informative = mask * variances[0] / (variances[0] + 1e-4)
    return 1 - (informative * squared).sum() / informative.sum().clamp_min(1e-6)


@few
@given(SEEDS, st.tuples(*[st.integers(2, 12)] * 3), st.booleans())
def test_lncc_and_its_gradient_are_those_of_the_plain_formula(
    seed: int, shape: tuple[int, int, int], masked: bool
) -> None:
    fixed, warped = random(2, 1, *shape, seed=seed), random(2, 1, *shape, seed=seed + 1).requires_grad_()
    mask = (random(2, 1, *shape, seed=seed + 2) > 0.3).float() if masked else None
    mine, plain = lncc(fixed, warped, mask), plain_lncc(fixed, warped, mask)
    torch.testing.assert_close(mine, plain, atol=1e-5, rtol=1e-4)
    slopes = [torch.autograd.grad(3 * loss, warped)[0] for loss in (mine, plain)]
    torch.testing.assert_close(slopes[0], slopes[1], atol=1e-3 * float(slopes[1].abs().max()) + 1e-9, rtol=1e-3)


# Self-similarity


def test_mind_descriptor_has_twelve_channels_in_0_to_1() -> None:
    descriptor = mind_descriptor(texture())
    assert descriptor.shape == (1, 12, 20, 22, 24)
    assert descriptor.min() >= 0
    assert descriptor.max() == 1
    # The best of the twelve distances is subtracted from all.
    torch.testing.assert_close(descriptor.amax(dim=1), torch.ones(1, 20, 22, 24))


def test_mind_sees_through_inverted_contrast_where_mse_does_not() -> None:
    fixed = texture(24, 24, 24)
    inverted, moved = (1 - fixed) ** 1.5, fixed.roll((2, 2), dims=(3, 4))
    assert float(mind_ssc(fixed, inverted)) < 0.3 * float(mind_ssc(fixed, moved))
    assert float(mse(fixed, inverted)) > float(mse(fixed, moved))
    assert float(mind_ssc(fixed, 1 - fixed)) == pytest.approx(0, abs=1e-4)


# Mutual information


@few
@given(SEEDS)
def test_mutual_information_lies_in_its_range_and_is_best_for_the_same_image(seed: int) -> None:
    fixed, other = texture(seed=seed), texture(seed=seed + 1)
    same, different = float(mutual_information(fixed, fixed)), float(mutual_information(fixed, other))
    assert -2 <= same < different - 0.1
    assert different <= -1 + 1e-5


def test_mutual_information_of_independent_images_is_minus_one() -> None:
    assert float(mutual_information(random(1, 1, 40, 40, 40), random(1, 1, 40, 40, 40, seed=1))) == pytest.approx(
        -1, abs=0.01
    )


def test_mutual_information_ignores_how_intensities_are_named() -> None:
    fixed, warped = texture(), texture().roll(1, dims=4)
    torch.testing.assert_close(
        mutual_information(fixed, 1 - warped), mutual_information(fixed, warped), atol=1e-4, rtol=0
    )
    renamed = float(mutual_information(fixed, (1 - warped) ** 2))
    assert renamed < float(mutual_information(fixed, texture(seed=4))) - 0.1


def test_mutual_information_is_symmetric() -> None:
    a, b = texture(), texture().roll(2, dims=4)
    torch.testing.assert_close(mutual_information(a, b), mutual_information(b, a))


def test_a_subset_of_the_voxels_stands_for_the_whole_image() -> None:
    """Also where a regular step would meet the same column of every row."""
    fixed = texture(48, 80, 32, seed=2)
    fixed[..., 0] = 0
    warped = fixed.roll(1, dims=3)
    whole = float(mutual_information(fixed, warped, samples=fixed.numel()))
    for samples in (3840, 7680, 50_000):
        assert float(mutual_information(fixed, warped, samples=samples)) == pytest.approx(whole, abs=0.08)


def test_masked_mutual_information_is_that_of_the_masked_part_alone() -> None:
    fixed, warped = texture(), texture().roll(1, dims=4)
    part = (..., slice(0, fixed.shape[-1] // 2))
    masked = mutual_information(fixed, warped, half_mask(fixed))
    torch.testing.assert_close(masked, mutual_information(fixed[part], warped[part]), atol=1e-4, rtol=0)


# Every loss


@LOSSES
def test_a_loss_is_lowest_where_images_match(loss: object) -> None:
    fixed = texture()
    values = [float(loss(fixed, fixed.roll(shift, dims=4), None)) for shift in (0, 1, 2)]
    assert values == sorted(values)
    assert values[0] < values[1]


@LOSSES
def test_a_full_mask_changes_nothing(loss: object) -> None:
    fixed, warped = texture(), texture(seed=1)
    full = loss(fixed, warped, torch.ones_like(fixed))
    torch.testing.assert_close(full, loss(fixed, warped, None), atol=1e-5, rtol=1e-4)


@LOSSES
def test_the_mask_decides_what_counts(loss: object) -> None:
    """Right half wrong: masked out, the images match."""
    fixed = texture()
    mask = half_mask(fixed)
    warped = torch.where(mask > 0, fixed, texture(seed=3))
    reach = torch.zeros_like(mask)
    reach[..., :6] = 1  # beyond the reach of every window
    best = float(loss(fixed, fixed, reach))
    assert float(loss(fixed, warped, reach)) == pytest.approx(best, abs=0.002)
    assert float(loss(fixed, warped, None)) > best + 0.005


CASES = {
    "textures": (texture(), texture(seed=1), None),
    "the same": (texture(), texture(), None),
    "constant": (torch.full((1, 1, 8, 8, 8), 0.5), torch.full((1, 1, 8, 8, 8), 0.5), None),
    "black": (torch.zeros(1, 1, 8, 8, 8), torch.zeros(1, 1, 8, 8, 8), None),
    "one constant": (texture(8, 8, 8), torch.zeros(1, 1, 8, 8, 8), None),
    "one voxel": (torch.eye(512)[0].reshape(1, 1, 8, 8, 8), texture(8, 8, 8), None),
    "empty mask": (texture(), texture(seed=1), torch.zeros(1, 1, 20, 22, 24)),
    "mask of one voxel": (
        texture(8, 8, 8),
        texture(8, 8, 8, seed=1),
        torch.eye(512)[9].reshape(1, 1, 8, 8, 8),
    ),
    "out of range": (3 * texture() - 1, 5 * texture(seed=1), None),
}


@LOSSES
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_finite(loss: object, case: str) -> None:
    fixed, warped, mask = CASES[case]
    warped = warped.clone().requires_grad_()
    value = loss(fixed, warped, mask)
    value.backward()
    assert value.shape == ()
    assert value.isfinite()
    assert warped.grad is not None
    assert warped.grad.isfinite().all()


@LOSSES
def test_a_step_along_the_gradient_improves(loss: object) -> None:
    fixed, warped = texture(), texture(seed=1).requires_grad_()
    before = loss(fixed, warped, None)
    (slope,) = torch.autograd.grad(before, warped)
    after = loss(fixed, (warped - 0.01 * slope / slope.abs().max()).detach(), None)
    assert float(after) < float(before.detach())


@LOSSES
def test_reduced_precision_is_accepted(loss: object) -> None:
    fixed, warped = texture(), texture(seed=1)
    mask: Optional[Tensor] = half_mask(fixed).bool()
    exact, rounded = (loss(f, w, mask) for f, w in ((fixed, warped), (fixed.bfloat16(), warped.bfloat16())))
    assert float(rounded) == pytest.approx(float(exact), abs=0.05)
