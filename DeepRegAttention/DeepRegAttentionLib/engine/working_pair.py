"""Everything that the network and the refinement see of a pair, on the working grid."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Optional

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from .errors import OverlapError
from .geometry import Grid, points_to_voxels, resample, to_tensor
from .guidance import Guidance
from .intensity import Scale
from .landmarks import transform_landmarks


@dataclass(frozen=True)
class WorkingPair:
    """Both images on the working grid, ``(1, 1, K, J, I)`` in 0..1, and what guides the refinement there.

    Beyond its field of view an image goes on as it ends.
    ``mask`` and ``strength`` have the images' shape, ``landmarks`` are ``(P, 3)`` in voxels (k, j, i).
    """

    fixed: Tensor
    moving: Tensor
    mask: Optional[Tensor] = None
    strength: Optional[Tensor] = None
    landmarks: Optional[tuple[Tensor, Tensor]] = None

    def to(self, device: torch.device) -> WorkingPair:
        """A copy on a device."""
        images = [image if image is None else image.to(device) for image in (self.mask, self.strength)]
        points = self.landmarks and (self.landmarks[0].to(device), self.landmarks[1].to(device))
        return WorkingPair(self.fixed.to(device), self.moving.to(device), images[0], images[1], points)


def working_pair(
    fixed: sitk.Image,
    moving: sitk.Image,
    scales: tuple[Scale, Scale],
    linear: sitk.Transform,
    guidance: Guidance,
    grid: Grid,
) -> WorkingPair:
    """Bring two images and what guides their registration to the working grid.

    Parameters
    ----------
    fixed, moving : sitk.Image
        On their own grids, LPS mm.
    scales : (Scale, Scale)
        Their intensities to 0..1.
    linear : sitk.Transform
        The linear alignment, fixed to moving points.
    guidance : Guidance
        Checked.
    grid : Grid
        The working grid.

    Raises
    ------
    OverlapError
        Nothing of the moving image lies on the grid.
    """
    f = to_tensor(resample(fixed, grid, change=scales[0], extended=True))
    m = to_tensor(resample(moving, grid, linear, change=scales[1], extended=True))
    if float(m.amax()) == 0 or float(to_tensor(resample(_everywhere(moving), grid, linear)).amax()) == 0:
        raise OverlapError("The two images do not overlap; align them first or choose a prealignment.")
    landmarks = None
    if guidance.fixed_landmarks is not None and guidance.moving_landmarks is not None:
        # The moving points are carried to where the linear alignment shows them on the working grid.
        goal = transform_landmarks(guidance.moving_landmarks, linear.GetInverse())
        landmarks = points_to_voxels(guidance.fixed_landmarks.points, grid), points_to_voxels(goal.points, grid)
    strength = None
    if guidance.regularization_map is not None:
        strength = to_tensor(resample(guidance.regularization_map, grid))
    return WorkingPair(f, m, _working_mask(fixed, moving, guidance, linear, grid), strength, landmarks)


def _working_mask(
    fixed: sitk.Image, moving: sitk.Image, guidance: Guidance, linear: sitk.Transform, grid: Grid
) -> Optional[torch.Tensor]:
    """Where the similarity counts: inside both images, as the linear alignment shows them, and both masks.

    Without it the edge of a field of view would be matched like an edge of the anatomy.
    """
    fixed_mask = guidance.fixed_mask or _everywhere(fixed)
    moving_mask = guidance.moving_mask or _everywhere(moving)
    inside = to_tensor(resample(fixed_mask, grid)) * to_tensor(resample(moving_mask, grid, linear))
    return None if float(inside.amin()) > 0.99 else inside


def _everywhere(image: sitk.Image) -> sitk.Image:
    """A mask of the whole image; a few large voxels do."""
    size, extent = (4, 4, 4), np.array(image.GetSpacing()) * image.GetSize()
    grid = Grid.of(image)
    coarse = Grid(size, tuple((extent / size).tolist()), grid.origin, grid.direction)
    origin = np.array(grid.origin) + grid.centre - coarse.centre
    return replace(coarse, origin=tuple(origin.tolist())).place(sitk.Image(size, sitk.sitkUInt8) + 1)
