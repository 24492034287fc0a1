"""The variance of an image's noise: what was added is found, structure is not taken for it."""

from __future__ import annotations

import pytest
import torch
from DeepRegAttentionLib.engine.fields import resize
from DeepRegAttentionLib.engine.noise import noise_variance
from helpers.images import textured_ball
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

# Large enough for the median to be that of the noise.
SIDE = 56


def anatomy(seed: int) -> Tensor:
    return textured_ball(SIDE, SIDE, SIDE, sigma=3.0, seed=seed)


def noise(seed: int) -> Tensor:
    return torch.randn(1, 1, *[SIDE] * 3, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), spread=st.floats(0.01, 0.1))
def test_what_was_added_is_found(seed: int, spread: float) -> None:
    image = anatomy(seed)
    noisy = image + spread * noise(seed + 1) * (image > 0.02)
    assert float(noise_variance(noisy)) ** 0.5 == pytest.approx(spread, rel=0.1)
    assert float(noise_variance(image)) ** 0.5 < 0.004


def test_what_was_interpolated_has_less_of_it() -> None:
    image = anatomy(0) + 0.03 * noise(1)
    thick = resize(image[:, :, ::4], [SIDE] * 3)
    assert noise_variance(thick) < 0.1 * noise_variance(image)


def test_each_image_has_its_own_and_what_shows_nothing_none() -> None:
    images = torch.cat([anatomy(0), anatomy(0) + 0.05 * noise(1), torch.zeros(1, 1, *[SIDE] * 3)])
    found = noise_variance(images)
    assert found.shape == (3, 1, 1, 1, 1)
    assert found[1] > 100 * found[0]
    assert found[2] == 0
