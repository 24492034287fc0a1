"""A cohort with known transforms: one object, moved and deformed, seen on awkward grids."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from .images import blob_image, rotation

CENTRE = (31.0, -57.0, 112.0)
GRIDS = (
    {},
    {"size": (40, 40, 30), "spacing": (1.3, 1.5, 2.2), "degrees": (5.0, 10.0, -9.0)},
    {"size": (48, 30, 34), "spacing": (1.0, 2.1, 1.9), "degrees": (-14.0, 3.0, 20.0)},
    {"size": (38, 44, 32), "spacing": (1.5, 1.2, 2.4), "degrees": (0.0, -8.0, 12.0)},
)


def linear(
    degrees: tuple[float, float, float], scale: float, shift: tuple[float, float, float]
) -> sitk.AffineTransform:
    """A turn and a stretch about the object, then a shift in mm."""
    transform = sitk.AffineTransform(3)
    transform.SetCenter(CENTRE)
    transform.SetMatrix((rotation(degrees) * scale).flatten().tolist())
    transform.SetTranslation(shift)
    return transform


def waves(amplitude: float, seed: int) -> sitk.DisplacementFieldTransform:
    """A smooth displacement of some mm over the object and around it, without folds."""
    rng = np.random.default_rng(seed)
    grid = blob_image(size=(26, 26, 26), spacing=(4.0, 4.0, 4.0), degrees=(7.0, -3.0, 5.0))
    axes = np.meshgrid(*[np.linspace(0, 2 * np.pi, n) for n in reversed(grid.GetSize())], indexing="ij")
    phases = rng.uniform(0, 2 * np.pi, (3, 3))
    parts = [sum(np.sin(axis + phase) for axis, phase in zip(axes, row)) for row in phases]
    field = sitk.GetImageFromArray(amplitude / 3 * np.stack(parts, axis=-1), isVector=True)
    field.CopyInformation(grid)
    return sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))


def points(count: int = 60, spread: float = 14.0) -> np.ndarray:
    """Points of the object ``(count, 3)``, LPS mm."""
    return np.random.default_rng(5).uniform(-spread, spread, (count, 3)) + CENTRE


def moved(transform: sitk.Transform, where: np.ndarray) -> np.ndarray:
    """Where SimpleITK takes points."""
    return np.array([transform.TransformPoint(point) for point in where.tolist()])
