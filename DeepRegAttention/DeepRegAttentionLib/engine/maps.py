"""From the working grid to images on the fixed grid: the Jacobian and the maps that explain a result."""

from __future__ import annotations

from typing import Dict, Optional

import SimpleITK as sitk

from .clock import Report
from .fields import jacobian_determinant
from .geometry import Grid, mm_to_voxels, resample, to_image, to_tensor, voxels_to_mm
from .networks.blocks import NetworkOutput
from .networks.drivenmorph import force_agreement, total_force


def jacobian_map(deformation: sitk.DisplacementFieldTransform, grid: Grid) -> sitk.Image:
    """Determinant of the gradient of x + d(x) on every voxel of a grid, by central differences there."""
    local = resample_vectors(deformation.GetDisplacementField(), grid)
    return to_image(jacobian_determinant(mm_to_voxels(to_tensor(local), grid)), grid)


def resample_vectors(field: sitk.Image, grid: Grid) -> sitk.Image:
    """A vector image on another grid, linearly; the vectors keep their unit. 0 outside."""
    identity = sitk.Transform(3, sitk.sitkIdentity)
    target = grid.size, identity, sitk.sitkLinear, grid.origin, grid.spacing, grid.direction
    return sitk.Resample(field, *target, 0.0, sitk.sitkVectorFloat32)


def explanation_maps(output: Optional[NetworkOutput], own: Grid, fixed: Grid, report: Report) -> Dict[str, sitk.Image]:
    """What the network can say for itself, resampled from the working grid to the fixed one.

    Returns
    -------
    dict
        Keys of ``result.MAP_MEANINGS``; only those that this network has.
    """
    if output is None:
        return {}
    maps = {}
    for n, (name, tensor) in enumerate(output.maps.items()):
        report(n / (len(output.maps) + 1))
        maps[name] = resample(to_image(tensor, own), fixed)
    report(len(output.maps) / (len(output.maps) + 1))
    if output.forces:
        force = to_image(voxels_to_mm(total_force(output.forces), own), own)
        maps["driving_force"] = resample_vectors(force, fixed)
        maps["driving_force_magnitude"] = sitk.VectorMagnitude(maps["driving_force"])
    if output.regularization is not None:
        maps["regularization"] = resample(to_image(output.regularization, own), fixed)
    return maps


def difference_maps(fixed: sitk.Image, before: sitk.Image, after: sitk.Image) -> Dict[str, sitk.Image]:
    """Fixed minus moving image before and after the deformation, all on the fixed grid in 0..1."""
    return {"difference_before": fixed - before, "difference_after": fixed - after}


def driving_force_statistics(output: Optional[NetworkOutput]) -> Optional[Dict[str, float]]:
    """How the driving force goes with the deformation that it made: cosine and correlation of magnitudes."""
    if output is None or not output.forces:
        return None
    agreement = force_agreement(total_force(output.forces), output.displacement)
    return {name: float(value) for name, value in agreement.items()}
