"""What a result is measured by when nothing is known of the anatomy: similarity, volume change, consistency."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Optional

import numpy as np
import SimpleITK as sitk
import torch

from .clock import Report
from .geometry import Grid, Lattice, resample
from .intensity import Scale
from .metrics import inverse_consistency, jacobian_statistics, similarity
from .resampling import sample_image
from .result import RegistrationResult

# Similarity is measured at about so many voxels, and if it can be at no fewer of a mask.
_MEASURED_VOXELS, _MASK_VOXELS = 1_000_000, 20_000


@dataclass(frozen=True)
class MeasuredPair:
    """A pair that is measured at every so many-th voxel of the fixed image, on a mask or everywhere."""

    fixed: sitk.Image
    moving: sitk.Image
    scales: tuple[Scale, Scale]
    mask: Optional[sitk.Image]

    @cached_property
    def lattice(self) -> Lattice:
        """The voxels: all of a small image; so many that a small mask is not missed."""
        voxels = _MEASURED_VOXELS
        grid = Grid.of(self.fixed)
        while True:
            lattice = Lattice.of(grid, voxels)
            if self.mask is None or max(lattice.steps) == 1 or lattice.of_image(self.mask).sum() > _MASK_VOXELS:
                return lattice
            voxels *= 4

    def similarity(self, transform: Optional[sitk.Transform]) -> dict[str, float]:
        """How alike the images are when the moving one is seen through a transform."""
        fixed = self.scales[0](self.lattice.of_image(self.fixed))
        moved = self.scales[1](sample_image(self.moving, self.lattice.grid, transform))
        mask = None if self.mask is None else self._image(self.lattice.of_image(self.mask))
        return similarity(self._image(fixed), self._image(moved), mask)

    def _image(self, values: np.ndarray) -> sitk.Image:
        return self.lattice.grid.place(sitk.GetImageFromArray(np.ascontiguousarray(values)))

    def mask_on(self, grid: Grid) -> Optional[sitk.Image]:
        """The mask on a coarser grid: wherever some of it is."""
        if self.mask is None:
            return None
        some = resample(self.mask, grid) > 0
        return some if sitk.GetArrayViewFromImage(some).any() else None


def measure(
    result: RegistrationResult, pair: MeasuredPair, stages: dict[str, Optional[sitk.Transform]], report: Report
) -> dict[str, Any]:
    """What can be measured without knowing the anatomy, as ``metrics.json`` has it.

    ``stages`` are the transforms, fixed to moving points, after which similarity is measured, by their names.
    """
    alike: dict[str, dict[str, float]] = {}
    for name, transform in stages.items():
        report(len(alike) / 4)
        alike[name] = pair.similarity(transform)
    report(0.75)
    jacobian = result.maps["jacobian"]
    return {
        "similarity": alike,
        "similarity_voxels": {"steps": list(pair.lattice.steps), "size": list(pair.lattice.grid.size)},
        "jacobian": jacobian_statistics(jacobian, pair.mask_on(Grid.of(jacobian))),
        "inverse_consistency_mm": _inverse_consistency(result, pair.fixed),
    }


def _inverse_consistency(result: RegistrationResult, fixed: sitk.Image) -> Optional[dict[str, float]]:
    """Over about a thousand points of the fixed image, without its outermost tenth."""
    if result.inverse_transform is None:
        return None
    size = torch.tensor(fixed.GetSize())
    steps = [torch.linspace(0.1, 0.9, 10) * (int(n) - 1) for n in size]
    index = torch.cartesian_prod(*steps).double().numpy()
    return inverse_consistency(result.transform, result.inverse_transform, Grid.of(fixed).points(index))
