"""Image similarities as losses: lower is better, each masked, each differentiable.

Every function takes fixed and warped ``(N, 1, K, J, I)`` and an optional mask of the same shape with
weights in 0..1, and returns a scalar. Gradients are taken with respect to the warped image.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Callable, Optional

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .fields import filter_axes
from .intensity import DARK

FLAT = 1e-4
"""Local variance of intensities in 0..1 (a contrast of 1 %) at which a place counts half."""

SimilarityLoss = Callable[[Tensor, Tensor, Optional[Tensor]], Tensor]


def masked_mean(values: Tensor, mask: Optional[Tensor]) -> Tensor:
    """Mean of ``(N, C, K, J, I)`` over the voxels, weighted by the mask ``(N, 1, K, J, I)`` if there is one."""
    if mask is None:
        return values.mean()
    weight = mask.to(values.dtype)
    return (values * weight).sum() / (weight.sum() * values.shape[1]).clamp_min(1e-6)


def box_mean(image: Tensor, width: int) -> Tensor:
    """Mean over a cube of ``width`` voxels (odd), clipped at the border, of ``(N, C, K, J, I)``."""
    weights = [_box_matrix(n, width, image.device) for n in image.shape[2:]]
    return filter_axes(image, weights)


@lru_cache(maxsize=32)
@torch.inference_mode(False)
def _box_matrix(n: int, width: int, device: torch.device) -> Tensor:
    position = torch.arange(n, device=device)
    inside = (position[:, None] - position).abs() <= width // 2
    return inside.float() / inside.sum(dim=1, keepdim=True)


def lncc(fixed: Tensor, warped: Tensor, mask: Optional[Tensor] = None, width: int = 7) -> Tensor:
    """One minus the squared local normalised cross-correlation in cubes of ``width`` voxels (0 is best).

    Avants et al., 2008, equation 4, averaged over the places where the fixed image has contrast: where it is
    flat a correlation means nothing, and a plain mean would reward stretching the moving image's contrast into
    the background. With a mask, local means count masked voxels only.
    """
    return LocalCorrelation(fixed, mask, width)(warped)


class LocalCorrelation:
    """:func:`lncc` to one fixed image, of which the local moments are taken once.

    Parameters
    ----------
    fixed, mask, width
        As of :func:`lncc`; there is no gradient with respect to them.
    """

    def __init__(self, fixed: Tensor, mask: Optional[Tensor] = None, width: int = 7) -> None:
        self.fixed, self.width = fixed.detach().float(), width
        self.mask = None if mask is None else mask.float()
        self.weight = None if self.mask is None else box_mean(self.mask, width).clamp_min_(1e-3)
        self.mean, square = self.local_mean(torch.cat([self.fixed, self.fixed.square()], dim=1)).chunk(2, dim=1)
        variance = (square - self.mean.square()).clamp_min_(0)
        self.variance = variance + 1e-6
        informative = variance / (variance + FLAT)
        if self.mask is not None:
            informative = informative * self.mask
        self.share = informative / informative.sum().clamp_min(1e-6)

    def __call__(self, warped: Tensor) -> Tensor:
        """The loss of a warped image, of the fixed one's shape."""
        loss: Tensor = _Correlate.apply(warped.float(), self)
        return loss

    def local_mean(self, images: Tensor) -> Tensor:
        """Mean over the cube of those voxels that the mask marks."""
        if self.mask is None or self.weight is None:
            return box_mean(images, self.width)
        return box_mean(images * self.mask, self.width).div_(self.weight)

    def spread(self, slopes: Tensor) -> Tensor:
        """The transpose of :meth:`local_mean`."""
        weights = [_box_matrix(n, self.width, slopes.device).T for n in slopes.shape[2:]]
        if self.mask is None or self.weight is None:
            return filter_axes(slopes, weights)
        return filter_axes(slopes / self.weight, weights).mul_(self.mask)


class _Correlate(torch.autograd.Function):
    # By the chain rule three filtered volumes are the whole gradient; torch's own keeps and filters a dozen.

    @staticmethod
    def forward(context: Any, warped: Tensor, to: LocalCorrelation) -> Tensor:
        moments = to.local_mean(torch.cat([warped, warped.square(), to.fixed * warped], dim=1))
        mean, square, product = moments.chunk(3, dim=1)
        covariance = torch.addcmul(product, to.mean, mean, value=-1)
        variance = torch.addcmul(square, mean, mean, value=-1)
        spread = variance.clamp_min(0).add_(1e-5)
        slope = covariance / spread / to.variance
        share = to.share * slope * covariance
        loss = 1 - share.sum()
        if context.needs_input_grad[0]:
            by_covariance = slope.mul_(to.share).mul_(-2)
            by_variance = share.div_(spread).mul_(variance >= 0)
            by_mean = torch.addcmul(by_covariance * to.mean, by_variance, mean, value=2).neg_()
            context.save_for_backward(warped, torch.cat([by_mean, by_variance, by_covariance], dim=1))
            context.to = to
        return loss

    @staticmethod
    @once_differentiable
    def backward(context: Any, slope: Tensor) -> tuple[Optional[Tensor], ...]:
        warped, slopes = context.saved_tensors
        by_mean, by_square, by_product = context.to.spread(slopes).chunk(3, dim=1)
        by_warped = torch.addcmul(by_mean, by_square, warped, value=2).addcmul_(by_product, context.to.fixed)
        return by_warped.mul_(slope), None


def contrast_agreement(fixed: Tensor, warped: Tensor, mask: Optional[Tensor] = None, width: int = 5) -> float:
    """Whether local contrasts point the same way: 1 for one modality, -1 for an image and its negative.

    The local correlations in cubes of ``width`` voxels, weighted by the contrast of the fixed image: their sum over
    the sum of their amounts. Only cubes inside both objects and the mask count: the edge to a background says nothing.
    """
    there = ((fixed > DARK) & (warped > DARK)).float()
    inside = box_mean(there if mask is None else there * mask, width) > 0.95
    moments = torch.cat([fixed, warped, fixed * fixed, warped * warped, fixed * warped], dim=1).float()
    mean_f, mean_w, square_f, square_w, product = box_mean(moments, width).split(1, dim=1)
    variance_f, variance_w = (square_f - mean_f**2).clamp_min(0), (square_w - mean_w**2).clamp_min(0)
    correlation = (product - mean_f * mean_w) / ((variance_f + 1e-6) * (variance_w + 1e-5)).sqrt()
    weighted = inside * correlation * variance_f / (variance_f + FLAT)
    return float(weighted.sum() / weighted.abs().sum().clamp_min(1e-6))


def mse(fixed: Tensor, warped: Tensor, mask: Optional[Tensor] = None) -> Tensor:
    """Mean squared difference."""
    return masked_mean((fixed.float() - warped.float()) ** 2, mask)


def mutual_information(
    fixed: Tensor, warped: Tensor, mask: Optional[Tensor] = None, bins: int = 32, samples: int = 60_000
) -> Tensor:
    """Negative normalised mutual information of the whole images (Studholme et al., 1999).

    Intensities in 0..1 fall into ``bins`` Parzen windows (Gaussian, half a bin wide). Of larger images an
    evenly spaced subset of ``samples`` voxels is taken, the same at each call. Ranges from -2 (best) to -1.
    """
    # Odd: sides are multiples of two, and a common factor would meet the same columns of every row.
    stride = fixed.numel() // samples | 1
    weight = None if mask is None else mask.float().flatten()[::stride]
    a = _parzen_windows(fixed.float().flatten()[::stride], bins)
    b = _parzen_windows(warped.float().flatten()[::stride], bins)
    joint = a.T @ (b if weight is None else b * weight[:, None])
    joint = joint / joint.sum().clamp_min(1e-6)
    entropies = [_entropy(p) for p in (joint.sum(0), joint.sum(1), joint)]
    return -(entropies[0] + entropies[1]) / entropies[2].clamp_min(1e-6)


def _parzen_windows(values: Tensor, bins: int) -> Tensor:
    centres = torch.linspace(0, 1, bins, device=values.device)
    windows = torch.exp(-0.5 * ((values.clamp(0, 1)[:, None] - centres) * 2 * (bins - 1)) ** 2)
    return windows / windows.sum(dim=1, keepdim=True)


def _entropy(p: Tensor) -> Tensor:
    return -(p * torch.log(p + 1e-10)).sum()


def soft_dice(fixed: Tensor, warped: Tensor) -> Tensor:
    """One minus the overlap of the shares of each voxel that structures fill, ``(N, S, K, J, I)``, averaged over them.

    With squares in the denominator (Milletari et al. 2016) equal shares are best, not shares of 0 or 1.
    """
    around = (0, 2, 3, 4)
    overlap, size = (fixed * warped).sum(around), (fixed.square() + warped.square()).sum(around)
    return 1 - (2 * overlap / size.clamp_min(1e-6)).mean()


def mind_ssc(fixed: Tensor, warped: Tensor, mask: Optional[Tensor] = None, dilation: int = 2) -> Tensor:
    """Mean absolute difference of MIND-SSC descriptors, for images of different contrast."""
    return masked_mean((mind_descriptor(fixed, dilation) - mind_descriptor(warped, dilation)).abs(), mask)


MIND_CHANNELS = 12
"""Pairs of neighbours at right angles."""


def mind_descriptor(image: Tensor, dilation: int = 2, radius: int = 1, noise: float = 0.0) -> Tensor:
    """Self-similarity context (Heinrich et al., 2013): ``(N, 1, K, J, I)`` to ``(N, 12, K, J, I)`` in 0..1.

    Twelve patch distances between those pairs of the six neighbours that lie at right angles,
    normalised by their own mean (the local noise) and the variance `noise`, below which nothing is structure.
    """
    padded = F.pad(image.float(), [dilation] * 6, mode="replicate")
    pairs = _right_angle_pairs(dilation)
    size = image.shape[2:]
    distances = torch.cat([(_crop(padded, p, size) - _crop(padded, q, size)) ** 2 for p, q in pairs], dim=1)
    distances = box_mean(distances, 2 * radius + 1)
    distances = distances - distances.amin(dim=1, keepdim=True)
    variance = distances.mean(dim=1, keepdim=True)
    centre = variance.detach().mean()
    variance = variance.clamp(1e-3 * float(centre) + 1e-8, 1e3 * float(centre) + 1e-6)
    return torch.exp(-distances / (variance + noise))


def _right_angle_pairs(d: int) -> list[tuple[Sequence[int], Sequence[int]]]:
    """Corner positions in the padded image of the twelve pairs of orthogonal neighbours."""
    neighbours = [(0, d, d), (2 * d, d, d), (d, 0, d), (d, 2 * d, d), (d, d, 0), (d, d, 2 * d)]
    return [(p, q) for i, p in enumerate(neighbours) for q in neighbours[i + 1 :] if neighbours.index(q) // 2 != i // 2]


def _crop(image: Tensor, start: Sequence[int], size: Sequence[int]) -> Tensor:
    (k, j, i), (nk, nj, ni) = start, size
    return image[:, :, k : k + nk, j : j + nj, i : i + ni]


SIMILARITY_LOSSES: dict[str, SimilarityLoss] = {
    "lncc": lncc,
    "mind": mind_ssc,
    "mi": mutual_information,
    "mse": mse,
}


def similarity_to(name: str, fixed: Tensor, mask: Optional[Tensor] = None) -> Callable[[Tensor], Tensor]:
    """One of ``SIMILARITY_LOSSES`` as a function of the warped image alone, to be called many times."""
    if name == "lncc":
        return LocalCorrelation(fixed, mask)
    loss = SIMILARITY_LOSSES[name]
    return lambda warped: loss(fixed, warped, mask)
