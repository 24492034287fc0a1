"""How noisy an image is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .intensity import DARK

# Of white noise: what a second difference makes of its spread, and its median amount.
_PER_AXIS, _MEDIAN = 6**0.5, 0.6745


@torch.no_grad()
def noise_variance(images: Tensor) -> Tensor:
    """Variance of the noise of images ``(N, 1, K, J, I)`` in 0..1, no side shorter than 3, ``(N, 1, 1, 1, 1)``.

    Second differences along all three axes leave nothing of an image but its noise and its corners; the median of their
    amounts, within what the image shows, does not see the corners (after Immerkær, "Fast Noise Variance Estimation",
    1996). What was interpolated, along thick slices say, has little of it. 0 of an image that shows nothing.
    """
    left = images.float()
    for axis in (2, 3, 4):
        left = left.diff(n=2, dim=axis)
    shown = -F.max_pool3d(-images.float(), 3, stride=1) > DARK
    amounts = [one[there].abs() for one, there in zip(left, shown)]
    spreads = [one.median() if one.numel() else one.new_zeros(()) for one in amounts]
    return (torch.stack(spreads) / (_MEDIAN * _PER_AXIS**3)).square().reshape(-1, 1, 1, 1, 1)
