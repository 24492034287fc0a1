"""Displacement and velocity fields: warp, compose, exponentiate, invert, Jacobian.

A field is a tensor ``(N, 3, K, J, I)`` in voxels of its own grid, channels in tensor-axis order
(k, j, i). A displacement u takes the point x to x + u(x), in the resampling direction: u(x) says where the
fixed point x is found in the moving image.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any, Callable, Optional

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _sampling_frame(shape: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """The identity in ``grid_sample`` coordinates (1, K, J, I, 3), and the factor from voxels to them."""
    axes = [torch.linspace(-1, 1, n, device=device) if n > 1 else torch.zeros(1, device=device) for n in shape]
    frame = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], dim=-1)[None]
    scale = torch.tensor([2.0 / max(n - 1, 1) for n in reversed(shape)], device=device)
    return frame, scale


def warp(image: Tensor, displacement: Tensor, mode: str = "bilinear") -> Tensor:
    """Resample an image at x + u(x).

    Parameters
    ----------
    image : Tensor
        ``(N, C, K, J, I)``.
    displacement : Tensor
        ``(N, 3, K, J, I)``, voxels.
    mode : {"bilinear", "nearest"}
        Interpolation; outside the image its border value continues.

    Returns
    -------
    Tensor
        ``(N, C, K, J, I)``, of the image's type.
    """
    frame, scale = _sampling_frame(tuple(displacement.shape[2:]), displacement.device)
    where = frame + displacement.float().flip(1).permute(0, 2, 3, 4, 1) * scale
    return sample(image.float(), where, mode).to(image.dtype)


def sample(image: Tensor, where: Tensor, mode: str = "bilinear", padding: str = "border") -> Tensor:
    """``grid_sample`` with aligned corners, on all CPU threads.

    torch samples volumes with one thread per batch item, so a single volume is split into as many items as
    there are threads.
    """
    batch, voxels = where.shape[0], where.shape[1:4].numel()
    parts = _parts(voxels) if batch == 1 and where.device.type == "cpu" else 1
    if parts == 1:
        return F.grid_sample(image, where, mode=mode, padding_mode=padding, align_corners=True)
    split = where.reshape(parts, voxels // parts, 1, 1, 3)
    shared = image.expand(parts, -1, -1, -1, -1)
    sampled = F.grid_sample(shared, split, mode=mode, padding_mode=padding, align_corners=True)
    return sampled.transpose(0, 1).reshape(1, image.shape[1], *where.shape[1:4])


def _parts(voxels: int) -> int:
    return next(n for n in range(torch.get_num_threads(), 0, -1) if voxels % n == 0)


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """The displacement of x -> T_outer(T_inner(x)): ``inner(x) + outer(x + inner(x))``, ``(N, 3, K, J, I)``."""
    return inner + warp(outer, inner)


def exponentiate(velocity: Tensor, steps: int = 6) -> Tensor:
    """Integrate a stationary velocity over unit time by scaling and squaring (Arsigny et al., 2006).

    Parameters
    ----------
    velocity : Tensor
        ``(N, 3, K, J, I)``, voxels per unit time.
    steps : int
        Number of squarings; the first step has the length ``velocity / 2**steps``.
    """
    displacement: Tensor = velocity.float() / 2**steps
    for _ in range(steps):
        displacement = compose(displacement, displacement)
    return displacement


def gradient(field: Tensor) -> Tensor:
    """Central differences (one-sided at the border): ``(N, C, K, J, I)`` to ``(N, C, 3, K, J, I)``, per voxel."""
    slopes: Tensor = _Gradient.apply(field)
    return slopes


class _Gradient(torch.autograd.Function):
    # torch's own gradient of a slice is a volume of zeros, two for each difference: several times the work.

    @staticmethod
    def forward(context: Any, field: Tensor) -> Tensor:
        slopes = torch.empty(*field.shape[:2], 3, *field.shape[2:], dtype=field.dtype, device=field.device)
        for n, axis in enumerate((2, 3, 4)):
            _derive(field, slopes[:, :, n], axis)
        return slopes

    @staticmethod
    @once_differentiable
    def backward(context: Any, change: Tensor) -> Tensor:
        total = torch.zeros_like(change[:, :, 0])
        for n, axis in enumerate((2, 3, 4)):
            _derive_back(change[:, :, n], total, axis)
        return total


def _derive(field: Tensor, slope: Tensor, axis: int) -> None:
    """Write the derivative along an axis to ``slope``."""
    n = field.shape[axis]
    if n == 1:
        slope.zero_()
        return
    torch.sub(field.narrow(axis, 1, 1), field.narrow(axis, 0, 1), out=slope.narrow(axis, 0, 1))
    torch.sub(field.narrow(axis, n - 1, 1), field.narrow(axis, n - 2, 1), out=slope.narrow(axis, n - 1, 1))
    inner = slope.narrow(axis, 1, n - 2)
    torch.sub(field.narrow(axis, 2, n - 2), field.narrow(axis, 0, n - 2), out=inner).div_(2)


def _derive_back(slope: Tensor, field: Tensor, axis: int) -> None:
    """The transpose of :func:`_derive`, added to ``field``."""
    n = slope.shape[axis]
    if n == 1:
        return
    for start, count, factor in ((0, 1, 1.0), (n - 1, 1, 1.0), (1, n - 2, 0.5)):
        change = slope.narrow(axis, start, count)
        field.narrow(axis, min(start + 1, n - count), count).add_(change, alpha=factor)
        field.narrow(axis, max(start - 1, 0), count).sub_(change, alpha=factor)


def length(field: Tensor) -> Tensor:
    """Length of the vectors of a field ``(N, C, K, J, I)``: ``(N, 1, K, J, I)``. Without a gradient where it is 0.

    torch's own norm over the channels takes fifteen times as long on a CPU.
    """
    return squared_length(field.float()).sqrt()


def squared_length(field: Tensor) -> Tensor:
    """Squared length of the vectors of a field ``(N, C, K, J, I)``: ``(N, 1, K, J, I)``, with no copy of the field."""
    total = torch.zeros_like(field[:, 0])
    for component in field.unbind(dim=1):
        total = torch.addcmul(total, component, component)
    return total[:, None]


def jacobian_determinant(displacement: Tensor) -> Tensor:
    """Determinant of the gradient of x + u(x): ``(N, 1, K, J, I)``; 1 keeps volume, at most 0 is a fold.

    Voxels may be anisotropic: the determinant does not depend on the unit of each axis.
    """
    rows = gradient(displacement).unbind(dim=1)
    (ak, aj, ai), (bk, bj, bi), (ck, cj, ci) = (row.unbind(dim=1) for row in rows)
    ak, bj, ci = ak + 1, bj + 1, ci + 1
    determinant = ak * (bj * ci - bi * cj) - aj * (bk * ci - bi * ck) + ai * (bk * cj - bj * ck)
    return determinant[:, None]


def invert(
    displacement: Tensor,
    iterations: int = 30,
    tolerance: float = 1e-3,
    progress: Optional[Callable[[float], None]] = None,
) -> Tensor:
    """The displacement w with ``w(x) + u(x + w(x)) = 0``, by fixed-point and then Newton steps.

    Parameters
    ----------
    displacement : Tensor
        ``(N, 3, K, J, I)``, voxels, without folds (where it folds no inverse exists).
    iterations : int
        At most so many steps.
    tolerance : float
        Stops once no residual inside the grid exceeds this, in voxels.
    progress : callable, optional
        Gets roughly the fraction done, before each step; may raise to stop.
    """
    return torch.cat([_inverse_of_one(one[None], iterations, tolerance, progress) for one in displacement])


def _inverse_of_one(
    displacement: Tensor, iterations: int, tolerance: float, progress: Optional[Callable[[float], None]]
) -> Tensor:
    shape = displacement.shape[2:]
    axes = [torch.arange(n, device=displacement.device, dtype=torch.float32) for n in shape]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)
    slope = gradient(displacement.float()).flatten(1, 2)
    inverse = -displacement.float()
    # Enough for most points. Others need steps of Newton's, which cost four times as much, and a few many of them.
    for _ in range(3):
        inverse = -warp(displacement, inverse)
    inverse = inverse[0].flatten(1)
    left = torch.arange(points.shape[1], device=points.device)
    for n in range(iterations):
        if progress is not None:
            progress(1 - 0.8**n)
        where = points[:, left] + inverse[:, left]
        residual = inverse[:, left] + _at_points(displacement, where)
        far = residual.abs().amax(dim=0) >= tolerance
        if not far.any():
            break
        left, residual = left[far], residual[:, far]
        # Where the slope jumps between voxels full steps can swing to and fro for ever.
        share = 1.0 if n < 8 else 0.5
        inverse[:, left] -= share * _newton_step(_at_points(slope, where[:, far]), residual)
    return inverse.reshape(1, 3, *shape)


def _at_points(field: Tensor, points: Tensor) -> Tensor:
    """A field ``(1, C, K, J, I)`` at points ``(3, P)`` in voxels (k, j, i), its border value beyond: ``(C, P)``."""
    scale = torch.tensor([2.0 / max(n - 1, 1) for n in field.shape[2:]], device=field.device)
    # An even number, which two and more threads can share.
    where = F.pad((points * scale[:, None] - 1).flip(0), (0, -points.shape[1] % 8)).T
    return sample(field.float(), where[None, :, None, None])[0].flatten(1)[:, : points.shape[1]]


def _newton_step(slope: Tensor, residual: Tensor) -> Tensor:
    """``(I + slope)^-1 residual`` by Cramer's rule; slopes ``(9, P)`` row by row, residuals ``(3, P)``."""
    a, b, c = (slope[row::3] for row in range(3))
    identity = torch.eye(3, device=slope.device)[..., None]
    a, b, c = a + identity[0], b + identity[1], c + identity[2]
    across = torch.linalg.cross(b, c, dim=0)
    determinant = (a * across).sum(dim=0)
    columns = across, torch.linalg.cross(c, a, dim=0), torch.linalg.cross(a, b, dim=0)
    solved = torch.stack([(residual * column).sum(dim=0) for column in columns])
    # Folds have no inverse: a plain step keeps the iteration finite there.
    return torch.where(determinant > 0.05, solved / determinant.clamp(min=0.05), residual)


def resize(image: Tensor, shape: Sequence[int]) -> Tensor:
    """Trilinear change of resolution over the same extent (voxel edges stay in place), of the image's type."""
    if tuple(image.shape[2:]) == tuple(shape):
        return image
    full = image.to(torch.promote_types(image.dtype, torch.float32))
    weights = [_resizing_matrix(old, new, image.device).to(full.dtype) for old, new in zip(image.shape[2:], shape)]
    return filter_axes(full, weights).to(image.dtype)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _resizing_matrix(old: int, new: int, device: torch.device) -> Tensor:
    """Linear interpolation along an axis as ``(new, old)`` weights; beyond the outermost centres their values go on."""
    where = ((torch.arange(new, device=device) + 0.5) * (old / new) - 0.5).clamp(0, old - 1)
    distance = (where[:, None] - torch.arange(old, device=device)).abs()
    return (1 - distance).clamp_min(0)


def resize_field(field: Tensor, shape: Sequence[int]) -> Tensor:
    """As :func:`resize`, and scaled so that the vectors are in voxels of the new grid."""
    if tuple(field.shape[2:]) == tuple(shape):
        return field
    factors = [new / old for new, old in zip(shape, field.shape[2:])]
    scale = torch.tensor(factors, device=field.device, dtype=field.dtype).reshape(1, 3, 1, 1, 1)
    return resize(field, shape) * scale


def smooth(image: Tensor, sigma: float) -> Tensor:
    """Gaussian smoothing, sigma in voxels, of any ``(N, C, K, J, I)``; the kernel is clipped at the border."""
    return filter_axes(image, [_gaussian_matrix(n, sigma, image.device) for n in image.shape[2:]])


@lru_cache(maxsize=32)
@torch.inference_mode(False)
def _gaussian_matrix(n: int, sigma: float, device: torch.device) -> Tensor:
    position = torch.arange(n, device=device)
    distance = (position[:, None] - position).abs() / sigma
    kernel = torch.exp(-0.5 * distance**2) * (distance <= 3)
    return kernel / kernel.sum(dim=1, keepdim=True)


def filter_axes(image: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Apply a separable linear filter: one ``(new, old)`` matrix for each of the three axes.

    On volumes of medical size a matrix product per axis is several times faster than a convolution, a pooling layer
    or an interpolation, forward and backward, and each row can hold its own border rule.
    """
    with full_precision(image.device):
        image = weights[1] @ (image @ weights[2].T)
        return (weights[0] @ image.flatten(3)).reshape(*image.shape[:2], -1, *image.shape[3:])


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Suspend autocast: local variances and fields are differences that 8 bits of mantissa cannot hold."""
    return torch.autocast(device.type, enabled=False) if device.type in ("cpu", "cuda") else nullcontext()
