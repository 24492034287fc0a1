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
from .intensity import DARK, Scale
from .landmarks import transform_landmarks


@dataclass(frozen=True)
class WorkingPair:
    """Both images on the working grid, ``(1, 1, K, J, I)`` in 0..1, and what guides the refinement there.

    Beyond its field of view an image goes on as it ends.

    Attributes
    ----------
    fixed, moving : Tensor
        The images.
    mask, strength : Tensor, optional
        Where the similarity counts and how strongly to regularise, of the images' shape.
    landmarks : (Tensor, Tensor), optional
        ``(P, 3)`` in voxels (k, j, i).
    fixed_view, moving_view : Tensor, optional
        Where each image was acquired, 0 to 1, of the images' shape; None is everywhere.
    """

    fixed: Tensor
    moving: Tensor
    mask: Optional[Tensor] = None
    strength: Optional[Tensor] = None
    landmarks: Optional[tuple[Tensor, Tensor]] = None
    fixed_view: Optional[Tensor] = None
    moving_view: Optional[Tensor] = None

    @property
    def fixed_object(self) -> Tensor:
        """Where the fixed image shows something, ``(1, 1, K, J, I)``, bool."""
        return _shown(self.fixed, self.fixed_view)

    @property
    def moving_object(self) -> Tensor:
        """Where the moving image shows something, ``(1, 1, K, J, I)``, bool."""
        return _shown(self.moving, self.moving_view)

    def to(self, device: torch.device) -> WorkingPair:
        """A copy on a device."""
        optional = (self.mask, self.strength, self.fixed_view, self.moving_view)
        mask, strength, *views = (image if image is None else image.to(device) for image in optional)
        points = self.landmarks and (self.landmarks[0].to(device), self.landmarks[1].to(device))
        return WorkingPair(self.fixed.to(device), self.moving.to(device), mask, strength, points, *views)


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
    views = to_tensor(resample(_everywhere(fixed), grid)), to_tensor(resample(_everywhere(moving), grid, linear))
    if float(m.amax()) == 0 or float(views[1].amax()) == 0:
        raise OverlapError("The two images do not overlap; align them first or choose a prealignment.")
    landmarks = None
    if guidance.fixed_landmarks is not None and guidance.moving_landmarks is not None:
        # The moving points are carried to where the linear alignment shows them on the working grid.
        goal = transform_landmarks(guidance.moving_landmarks, linear.GetInverse())
        landmarks = points_to_voxels(guidance.fixed_landmarks.points, grid), points_to_voxels(goal.points, grid)
    strength = None
    if guidance.regularization_map is not None:
        strength = to_tensor(resample(guidance.regularization_map, grid))
    mask = _where_less(
        _counts(guidance.fixed_mask, views[0], grid) * _counts(guidance.moving_mask, views[1], grid, linear)
    )
    return WorkingPair(f, m, mask, strength, landmarks, _where_less(views[0]), _where_less(views[1]))


def _counts(mask: Optional[sitk.Image], view: Tensor, grid: Grid, linear: Optional[sitk.Transform] = None) -> Tensor:
    """Where the similarity counts: in an image's mask, or where it was acquired.

    Else what an image is taken to be beyond its field of view would be matched like anatomy.
    """
    return view if mask is None else to_tensor(resample(mask, grid, linear))


def _where_less(share: Tensor) -> Optional[Tensor]:
    """None for what is everywhere."""
    return None if float(share.amin()) > 0.99 else share


def _shown(image: Tensor, view: Optional[Tensor]) -> Tensor:
    bright = image > DARK
    return bright if view is None else bright & (view > 0.5)


def _everywhere(image: sitk.Image) -> sitk.Image:
    """A mask of the whole image; a few large voxels do."""
    size, extent = (4, 4, 4), np.array(image.GetSpacing()) * image.GetSize()
    grid = Grid.of(image)
    coarse = Grid(size, tuple((extent / size).tolist()), grid.origin, grid.direction)
    origin = np.array(grid.origin) + grid.centre - coarse.centre
    return replace(coarse, origin=tuple(origin.tolist())).place(sitk.Image(size, sitk.sitkUInt8) + 1)
