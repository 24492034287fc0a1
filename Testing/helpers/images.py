"""Synthetic images: of awkward geometry, and textures."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
import torch
from DeepRegAttentionLib.engine.fields import smooth
from torch import Tensor


def rotation(degrees: tuple[float, float, float]) -> np.ndarray:
    transform = sitk.Euler3DTransform()
    transform.SetRotation(*np.deg2rad(degrees))
    return np.array(transform.GetMatrix()).reshape(3, 3)


def blob_image(
    size: tuple[int, int, int] = (44, 36, 28),
    spacing: tuple[float, float, float] = (1.1, 1.7, 2.6),
    degrees: tuple[float, float, float] = (12.0, -20.0, 31.0),
    centre: tuple[float, float, float] = (31.0, -57.0, 112.0),
    seed: int = 3,
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> sitk.Image:
    """A smooth textured object on an oblique, anisotropic, off-centre grid.

    The texture depends on the physical point alone, so images on different grids show the same object;
    `shift` (mm) moves the object.
    """
    direction = rotation(degrees)
    extent = (np.array(size) - 1) * spacing
    origin = np.array(centre) - direction @ (extent / 2)
    k, j, i = np.meshgrid(*[np.arange(n) for n in reversed(size)], indexing="ij")
    index = np.stack([i, j, k], axis=-1) * spacing
    points = index @ direction.T + origin - np.array((31.0, -57.0, 112.0)) - np.array(shift)
    rng = np.random.default_rng(seed)
    values = np.exp(-((points / (15.0, 18.0, 22.0)) ** 2).sum(-1))
    for _ in range(12):
        where, width = rng.uniform(-14, 14, 3), rng.uniform(4, 8)
        values += rng.uniform(-0.6, 0.6) * np.exp(-(((points - where) / width) ** 2).sum(-1))
    image = sitk.GetImageFromArray(values.astype(np.float32))
    image.SetSpacing(spacing)
    image.SetOrigin(origin.tolist())
    image.SetDirection(direction.flatten().tolist())
    return image


def texture(*shape: int, sigma: float = 1.5, seed: int = 0) -> Tensor:
    """``(1, 1, K, J, I)`` in 0..1, smooth; 20 x 22 x 24 voxels unless told."""
    noise = torch.rand(1, 1, *(shape or (20, 22, 24)), generator=torch.Generator().manual_seed(seed))
    image = smooth(noise, sigma)
    return (image - image.min()) / (image.max() - image.min())


def textured_ball(*shape: int, sigma: float, seed: int = 0) -> Tensor:
    """An object with structures of its own and an edge in darkness, alike to nothing mirrored, ``(1, 1, K, J, I)``."""
    axes = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in shape], indexing="ij")
    inside = (sum(axis**2 for axis in axes) < 0.62).float()
    values = smooth(torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(seed)), sigma)
    return inside * (0.5 + 0.18 * values / values.std()).clamp(0.05, 1)
