"""The moving image as it is warped so far, for whoever watches a refinement."""

from __future__ import annotations

import time
from typing import Callable

import numpy as np
import SimpleITK as sitk
from torch import Tensor

from .fields import resize_field, warp
from .geometry import Grid, resample, to_image, to_tensor
from .intensity import background_value

Show = Callable[[sitk.Image], None]
"""Gets the moving image as warped so far: its own intensities, float32, on the working grid."""

INTERVAL_S = 1.0
"""At least so much time lies between two pictures."""


class Preview:
    """Shows the moving image at a displacement, now and then.

    Parameters
    ----------
    moving : sitk.Image
        Scalar volume.
    linear : sitk.Transform
        Fixed to moving points: the linear alignment, on top of which the displacement acts.
    grid : Grid
        The working grid.
    show : callable
        Gets the pictures.
    """

    def __init__(self, moving: sitk.Image, linear: sitk.Transform, grid: Grid, show: Show) -> None:
        # The background becomes 0, which is what lies outside the image for the resampling.
        self._background = background_value(sitk.GetArrayViewFromImage(moving))
        self._moving = to_tensor(resample(moving, grid, linear, change=self._above_background))
        self._grid = grid
        self._show = show
        self._next = 0.0

    def _above_background(self, values: np.ndarray) -> np.ndarray:
        above: np.ndarray = np.subtract(values, self._background, dtype=np.float32)
        return above

    def __call__(self, displacement: Tensor) -> None:
        """Show a displacement ``(1, 3, k, j, i)``, voxels of a grid with the working grid's extent, if it is time."""
        if time.monotonic() < self._next:
            return
        field = resize_field(displacement.cpu(), self._grid.shape)
        self._show(to_image(warp(self._moving, field) + self._background, self._grid))
        self._next = time.monotonic() + INTERVAL_S
