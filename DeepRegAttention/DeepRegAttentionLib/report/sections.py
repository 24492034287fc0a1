"""Where the pictures of a report are taken: anatomical planes through the object, on a grid along LPS in mm.

So oblique and anisotropic images appear upright and undistorted, as radiologists look at them: the patient's right on
the left of the picture. Whatever grid an image or a map has, its values are found by where they lie in the patient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Optional

import numpy as np
import SimpleITK as sitk

from ..engine.geometry import Grid
from ..engine.intensity import background_value


@dataclass(frozen=True)
class Plane:
    """An anatomical plane: which LPS axes run along it, and how it is looked at."""

    name: str
    horizontal: int
    vertical: int
    letters: str
    """At the left, right, top and bottom of the picture."""

    @property
    def normal(self) -> int:
        """The LPS axis across the plane."""
        return 3 - self.horizontal - self.vertical

    @property
    def downwards(self) -> bool:
        """Whether the vertical axis is drawn downwards (posterior below anterior)."""
        return self.vertical == 1


PLANES = (Plane("Axial", 0, 1, "RLAP"), Plane("Coronal", 0, 2, "RLSI"), Plane("Sagittal", 1, 2, "APSI"))


@dataclass(frozen=True)
class Section:
    """One plane through a point, within a box, in pixels of a size; LPS mm."""

    plane: Plane
    low: np.ndarray
    high: np.ndarray
    point: np.ndarray
    pixel: float

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in mm."""
        width, height = (self.high - self.low)[[self.plane.horizontal, self.plane.vertical]]
        return float(width), float(height)

    @property
    def title(self) -> str:
        """The plane and where it lies, such as ``Axial, S 12 mm``."""
        where = float(self.point[self.plane.normal])
        letter = ("LR", "PA", "SI")[self.plane.normal][where < 0]
        return f"{self.plane.name}, {letter} {abs(where):.0f} mm"

    def grid(self, step: float) -> Grid:
        """The section as a volume one voxel thick with this spacing in mm."""
        size, origin = [1, 1, 1], self.point.astype(float).copy()
        for axis in (self.plane.horizontal, self.plane.vertical):
            size[axis] = max(2, math.ceil((self.high[axis] - self.low[axis]) / step - 1e-6))
            origin[axis] = self.low[axis] + step / 2
        axes = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
        return Grid((size[0], size[1], size[2]), (step,) * 3, (origin[0], origin[1], origin[2]), axes)

    def coordinates(self, step: float) -> tuple[np.ndarray, np.ndarray]:
        """Horizontal and vertical LPS mm of each point of the grid, ``(V, H)``."""
        grid = self.grid(step)
        h, v = (
            grid.origin[axis] + step * np.arange(grid.size[axis])
            for axis in (self.plane.horizontal, self.plane.vertical)
        )
        horizontal, vertical = np.meshgrid(h, v)
        return horizontal, vertical

    def sample(
        self,
        image: sitk.Image,
        transform: Optional[sitk.Transform] = None,
        nearest: bool = False,
        step: Optional[float] = None,
    ) -> np.ndarray:
        """The image in each pixel, or every ``step`` mm: ``(V, H)`` or ``(V, H, 3)``; NaN outside of it."""
        grid = self.grid(step or self.pixel)
        vector = image.GetNumberOfComponentsPerPixel() > 1
        values = sitk.Resample(
            image,
            grid.size,
            transform or sitk.Transform(3, sitk.sitkIdentity),
            sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear,
            grid.origin,
            grid.spacing,
            grid.direction,
            math.nan,
            sitk.sitkVectorFloat32 if vector else sitk.sitkFloat32,
        )
        return self._flat(values)

    def displacement(self, transform: sitk.Transform, step: float) -> np.ndarray:
        """How far a transform moves each point of the grid, ``(V, H, 3)`` in LPS mm."""
        grid = self.grid(step)
        target = grid.size, grid.origin, grid.spacing, grid.direction
        return self._flat(sitk.TransformToDisplacementField(transform, sitk.sitkVectorFloat32, *target))

    def _flat(self, volume: sitk.Image) -> np.ndarray:
        flat: np.ndarray = np.take(sitk.GetArrayFromImage(volume), 0, axis=2 - self.plane.normal)
        return flat


def foreground_points(image: sitk.Image) -> np.ndarray:
    """LPS points ``(P, 3)`` of voxels that differ from the background, from about 64 along each axis."""
    strides = [max(1, size // 64) for size in image.GetSize()]
    values = sitk.GetArrayViewFromImage(image)
    contrast = np.abs(values[tuple(slice(None, None, s) for s in strides[::-1])] - background_value(values))
    inside = contrast > 0.1 * np.percentile(contrast, 99.5)
    index = np.argwhere(inside if inside.any() else np.ones_like(inside))[:, ::-1] * strides
    matrix = Grid.of(image).index_to_point
    points: np.ndarray = index @ matrix[:3, :3].T + matrix[:3, 3]
    return points


def view_box(points: np.ndarray, image: sitk.Image) -> tuple[np.ndarray, np.ndarray]:
    """The LPS box around the foreground with a margin, within the box around the whole image."""
    matrix, size = Grid.of(image).index_to_point, np.array(image.GetSize())
    corners = np.array(list(np.ndindex(2, 2, 2))) * size - 0.5
    corners = corners @ matrix[:3, :3].T + matrix[:3, 3]
    margin = 0.06 * np.ptp(points, axis=0).max() + max(image.GetSpacing())
    low = np.maximum(points.min(axis=0) - margin, corners.min(axis=0))
    return low, np.minimum(points.max(axis=0) + margin, corners.max(axis=0))


def window(image: sitk.Image) -> tuple[float, float]:
    """The intensities between which an image is shown: the robust range of what is not background."""
    values = sitk.GetArrayViewFromImage(image)
    background = background_value(values)
    sample = values[tuple(slice(None, None, max(1, n // 96)) for n in values.shape)]
    foreground = sample[sample != background]
    low, high = np.percentile(foreground, (0.5, 99.7)) if foreground.size else (background, background)
    return float(min(low, background)), float(max(high, background))
