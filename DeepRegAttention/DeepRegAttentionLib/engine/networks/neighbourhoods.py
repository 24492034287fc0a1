"""The two products of attention over a cube of neighbours, fast and with gradients of their own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from ..fields import full_precision


def neighbour_products(query: Tensor, key: Tensor, radius: int) -> Tensor:
    """Logits of a local attention.

    Parameters
    ----------
    query, key : Tensor
        ``(N, C, K, J, I)``.
    radius : int
        Half the cube of neighbours.

    Returns
    -------
    Tensor
        ``(N, (2 r + 1)^3, K, J, I)``: the dot product of each query with every key of its neighbourhood.
        In float32 at least.
    """
    with full_precision(query.device):
        products: Tensor = _NeighbourProducts.apply(_full(query), _full(key), radius)
    return products


def neighbour_sum(weights: Tensor, source: Tensor, radius: int) -> Tensor:
    """What a local attention gathers: ``(N, (2 r + 1)^3, K, J, I)`` weights of ``(N, C, K, J, I)`` neighbours."""
    with full_precision(source.device):
        total: Tensor = _NeighbourSum.apply(_full(weights), _full(source), radius)
    return total.to(source.dtype)


def _full(image: Tensor) -> Tensor:
    # On processors sums in bfloat16 are slower: each is converted to and fro.
    return image.float() if image.dtype in (torch.bfloat16, torch.float16) else image


def _slabs(shape: Sequence[int]) -> Iterator[slice]:
    """Slices of consecutive planes of ``(N, C, K, J, I)``, small enough for what is added up to stay in cache."""
    planes = max(1, _CACHED // (shape[0] * shape[1] * shape[3] * shape[4]))
    return (slice(k, min(k + planes, shape[2])) for k in range(0, shape[2], planes))


_CACHED = 2**20
"""Numbers of a slab, with a few megabytes."""


def _neighbours(image: Tensor, radius: int) -> Iterator[tuple[slice, int, Tensor]]:
    """Slab by slab, the image shifted to each place of a cube, the border value continued: slab, place, view."""
    j, i = image.shape[3:]
    padded = F.pad(image.contiguous(), [radius] * 6, mode="replicate")
    for slab in _slabs(image.shape):
        for n, (a, b, c) in enumerate(itertools.product(range(2 * radius + 1), repeat=3)):
            yield slab, n, padded[:, :, slab.start + a : slab.stop + a, b : b + j, c : c + i]


def _products(image: Tensor, other: Tensor, radius: int) -> Tensor:
    """``(N, C, ...)`` twice to ``(N, n, ...)``: the dot product of each voxel with each neighbour of the other."""
    products = image.new_empty(image.shape[0], (2 * radius + 1) ** 3, *image.shape[2:])
    for slab, n, shifted in _neighbours(other, radius):
        torch.sum(image[:, :, slab] * shifted, dim=1, out=products[:, n, slab])
    return products


def _weighted_sum(weights: Tensor, image: Tensor, radius: int) -> Tensor:
    """``(N, n, ...)`` and ``(N, C, ...)`` to ``(N, C, ...)``: the weighted sum of each voxel's neighbours."""
    total = torch.zeros_like(image, memory_format=torch.contiguous_format)
    for slab, n, shifted in _neighbours(image, radius):
        total[:, :, slab].addcmul_(weights[:, n : n + 1, slab], shifted)
    return total


def _scatter(weights: Tensor, image: Tensor, radius: int) -> Tensor:
    """The transpose of :func:`_weighted_sum`: each voxel adds its value to its neighbours."""
    size, reach = image.shape[2:], [n + 2 * radius for n in image.shape[2:]]
    total = image.new_zeros(*image.shape[:2], *reach)
    steps = itertools.product(range(2 * radius + 1), repeat=3)
    for n, (a, b, c) in enumerate(steps):
        window = total[:, :, a : a + size[0], b : b + size[1], c : c + size[2]]
        window.addcmul_(weights[:, n : n + 1], image)
    for axis, length in zip((2, 3, 4), size):
        total = _fold_border(total, axis, length, radius)
    return total


def _fold_border(padded: Tensor, axis: int, length: int, radius: int) -> Tensor:
    """The transpose of replicate padding along one axis."""
    inner = padded.narrow(axis, radius, length).clone()
    inner.narrow(axis, 0, 1).add_(padded.narrow(axis, 0, radius).sum(axis, keepdim=True))
    inner.narrow(axis, length - 1, 1).add_(padded.narrow(axis, radius + length, radius).sum(axis, keepdim=True))
    return inner


class _NeighbourProducts(torch.autograd.Function):
    # torch's own gradient of a slice is a volume of zeros, one for each neighbour: several times the work.

    @staticmethod
    def forward(context: Any, query: Tensor, key: Tensor, radius: int) -> Tensor:
        context.save_for_backward(query, key)
        context.radius = radius
        return _products(query, key, radius)

    @staticmethod
    def backward(context: Any, slope: Tensor) -> tuple[Optional[Tensor], ...]:
        query, key = context.saved_tensors
        return _weighted_sum(slope, key, context.radius), _scatter(slope, query, context.radius), None


class _NeighbourSum(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, weights: Tensor, source: Tensor, radius: int) -> Tensor:
        context.save_for_backward(weights, source)
        context.radius = radius
        return _weighted_sum(weights, source, radius)

    @staticmethod
    def backward(context: Any, slope: Tensor) -> tuple[Optional[Tensor], ...]:
        weights, source = context.saved_tensors
        return _products(slope, source, context.radius), _scatter(weights, slope, context.radius), None
