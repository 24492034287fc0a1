"""The maps that explain a result: those of the working grid stay on it, as they are no finer than it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Optional

import numpy as np
import SimpleITK as sitk
import torch.nn.functional as F
from torch import Tensor

from .fields import jacobian_determinant, length
from .geometry import Grid, Lattice, mm_to_voxels, to_image, to_tensor, voxels_to_mm
from .intensity import Scale
from .networks.blocks import NetworkOutput
from .networks.drivenmorph import added_up, force_agreement, on_finest
from .refine import Structures
from .resampling import sample_image
from .result_folder import level_map

# Around what the images show, so many voxels of the working grid belong to it.
_BESIDE = 2
# Voxels of a difference image: all of most images, every second or third of a large one.
_DIFFERENCES = 8_000_000


def map_image(tensor: Tensor, own: Grid, fixed: Grid) -> sitk.Image:
    """A tensor ``(1, C, K, J, I)`` of the working grid as an image, as far as the fixed image reaches."""
    where = own.covering(fixed)
    k, j, i = where
    return to_image(tensor[..., k, j, i], own.part(where))


def jacobian_map(deformation: sitk.DisplacementFieldTransform, grid: Grid) -> sitk.Image:
    """Determinant of the gradient of x + d(x) on every voxel of a grid, by central differences there."""
    identity = sitk.Transform(3, sitk.sitkIdentity)
    target = grid.size, identity, sitk.sitkLinear, grid.origin, grid.spacing, grid.direction
    field = sitk.Resample(deformation.GetDisplacementField(), *target, 0.0, sitk.sitkVectorFloat32)
    return to_image(jacobian_determinant(mm_to_voxels(to_tensor(field), grid)), grid)


def driving_force(output: Optional[NetworkOutput]) -> Optional[Tensor]:
    """All that moved the image: what the levels and passes added to the motion, ``(1, 3, K, J, I)`` in voxels.

    The levels' own, ``output.velocities``, compose to the motion exactly. None where a method has no force.
    """
    return added_up(output.velocities) if output is not None and output.forces else None


def level_maps(output: Optional[NetworkOutput], own: Grid) -> dict[str, Tensor]:
    """What each level and pass added to :func:`driving_force`, in the order in which they moved the image.

    By the names of their maps, ``(1, 3, K, J, I)`` on the working grid, LPS mm; they add up to it. Empty where a
    method has no force.
    """
    forces = on_finest(output.velocities) if output is not None and output.forces else []
    return {level_map(number): voxels_to_mm(force, own) for number, force in enumerate(forces, start=1)}


def explanation_maps(
    output: Optional[NetworkOutput],
    force: Optional[Tensor],
    own: Grid,
    there: Tensor,
    structures: Optional[Structures] = None,
) -> dict[str, Tensor]:
    """What the network can say for itself, ``(1, C, K, J, I)`` on its working grid.

    Parameters
    ----------
    output : NetworkOutput, optional
        What it said, if there is one.
    force : Tensor, optional
        As :func:`driving_force` gives it.
    own : Grid
        The working grid.
    there : Tensor
        ``(1, 1, K, J, I)``, bool: where the images show something. The local strength is relative to its mean there.
    structures : Structures, optional
        What was recognised, and aligned from where the network had left it.

    Returns
    -------
    dict
        Keys of ``result.MAP_NAMES``; only those that this network has.
    """
    if output is None:
        return {}
    tensors = {name: own.spacing[0] * voxels for name, voxels in output.maps.items()}
    if force is not None:
        tensors["driving_force"] = voxels_to_mm(force, own)
        tensors["driving_force_magnitude"] = length(tensors["driving_force"])
    if output.regularization is not None:
        strength = output.regularization
        tensors["regularization"] = strength / (strength[there] if there.any() else strength).mean()
    if structures is not None:
        tensors["structures"] = structures.differing(output.displacement.float())
    return tensors


def beside(there: Tensor) -> Tensor:
    """Where there is something, and a little around it, ``(1, 1, K, J, I)``, bool: what pulls an edge is beside it."""
    near = there.float()
    for axis in range(3):
        window = [2 * _BESIDE + 1 if n == axis else 1 for n in range(3)]
        near = F.max_pool3d(near, window, 1, [n // 2 for n in window])
    return near > 0


def images_where(there: Tensor, tensors: Mapping[str, Tensor], own: Grid, fixed: Grid) -> dict[str, sitk.Image]:
    """Maps as images that are 0 where neither image shows anything: what they say there explains nothing.

    Parameters
    ----------
    there : Tensor
        ``(1, 1, K, J, I)``, bool: where there is something.
    tensors : mapping
        ``(1, C, K, J, I)`` by their keys.
    own, fixed : Grid
        The working grid, and that of the fixed image, as far as which the maps reach.
    """
    return {name: map_image(tensor * there.to(tensor), own, fixed) for name, tensor in tensors.items()}


def difference_map(
    fixed: sitk.Image, moving: sitk.Image, scales: tuple[Scale, Scale], transform: Optional[sitk.Transform]
) -> sitk.Image:
    """Fixed minus moving image, seen through a transform (None: it is there already), each scaled to 0..1.

    On the fixed grid, or on every second, third, ... of its voxels where they are many.
    """
    lattice = Lattice.of(Grid.of(fixed), _DIFFERENCES)
    there = lattice.of_image(moving) if transform is None else sample_image(moving, lattice.grid, transform)
    difference = scales[0](lattice.of_image(fixed)) - scales[1](there)
    return lattice.grid.place(sitk.GetImageFromArray(np.ascontiguousarray(difference)))


def driving_force_statistics(output: Optional[NetworkOutput], displacement: Tensor) -> Optional[dict[str, float]]:
    """How the pull of attention goes with the deformation in the end: cosine and correlation of magnitudes.

    The pull is the force before the network smooths it; the displacement, ``(1, 3, K, J, I)`` in voxels, is that of
    the result, refined or not.
    """
    if output is None or not output.forces:
        return None
    # Every second node along each axis tells as much.
    some = (..., slice(None, None, 2), slice(None, None, 2), slice(None, None, 2))
    agreement = force_agreement(added_up(output.forces)[some], displacement[some])
    return {name: float(value) for name, value in agreement.items()}
