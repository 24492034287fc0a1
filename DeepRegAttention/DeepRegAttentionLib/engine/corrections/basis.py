"""What a result rests on, taken apart so that it can be corrected: its images, its linear part, its displacements."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Optional

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from ..errors import CorrectionError
from ..geometry import Grid, Lattice, mm_to_voxels, simple_transforms
from ..guidance import Guidance, check_guidance
from ..intensity import IntensityRecipe, Scale
from ..models.files import find_model
from ..models.listing import ModelFile
from ..options import MODEL_SUFFIX
from ..resampling import sample_image
from ..result import RegistrationResult
from ..working_pair import WorkingPair, working_pair

# A result is of an image if it shows that at about so many voxels, to within this share of its contrast.
_COMPARED, _UNLIKE = 4000, 0.1


class Basis:
    """A result as it was found before any correction, with its two images.

    Attributes
    ----------
    found : RegistrationResult
    fixed, moving : sitk.Image
    guidance : Guidance
        Checked.
    linear, back : sitk.Transform
        The linear alignment, fixed to moving points, and its inverse.
    grid : Grid
        The working grid.
    field : Tensor
        The displacement there, ``(K, J, I, 3)``, double, LPS mm.
    """

    def __init__(
        self, result: RegistrationResult, fixed: sitk.Image, moving: sitk.Image, guidance: Optional[Guidance] = None
    ) -> None:
        self.found = result.uncorrected or result
        self.fixed, self.moving = fixed, moving
        self.guidance = check_guidance(guidance or Guidance(), fixed, moving)
        self.linear, field = _parts(self.found.transform)
        self.grid = Grid.of(field)
        self.field = vectors(field)
        _require_its_images(self.found, fixed, moving)
        try:
            self.back = self.linear.GetInverse()
        except RuntimeError as error:
            message = "The initial transform has no inverse, so the result cannot be corrected."
            raise CorrectionError(message) from error

    @cached_property
    def nodes(self) -> Tensor:
        """Where the nodes of the working grid lie, ``(P, 3)``, double, LPS mm."""
        matrix = torch.from_numpy(self.grid.index_to_point)
        k, j, i = (torch.arange(n).double() for n in self.grid.shape)
        points = k[:, None, None, None] * matrix[:3, 2] + j[:, None, None] * matrix[:3, 1] + i[:, None] * matrix[:3, 0]
        return (points + matrix[:3, 3]).reshape(-1, 3)

    @cached_property
    def positions(self) -> Tensor:
        """Where the nodes are found in the moving image as it was aligned linearly, ``(P, 3)``, double, LPS mm."""
        return self.nodes + self.field.reshape(-1, 3)

    @property
    def options(self) -> dict[str, Any]:
        """Of the registration."""
        options: dict[str, Any] = self.found.metrics.get("options") or {}
        return options

    @cached_property
    def model(self) -> Optional[ModelFile]:
        """What found the result; ModelError if it is not there any more."""
        named = self.found.metrics.get("model")
        if not named:
            return None
        asked = str(self.options.get("model"))
        return find_model(asked if asked.endswith(MODEL_SUFFIX) else named["name"])

    @cached_property
    def scales(self) -> tuple[Scale, Scale]:
        """Intensities of both images to 0..1."""
        recipe = IntensityRecipe() if self.model is None else self.model.info.intensity
        fixed, moving = (Scale.of(sitk.GetArrayViewFromImage(image), recipe) for image in (self.fixed, self.moving))
        return fixed, moving

    @cached_property
    def pair(self) -> WorkingPair:
        """Both images on the working grid."""
        images = Guidance(fixed_mask=self.guidance.fixed_mask, moving_mask=self.guidance.moving_mask)
        return working_pair(self.fixed, self.moving, self.scales, self.linear, images, self.grid)

    def in_voxels(self, field: Tensor) -> Tensor:
        """Displacements ``(K, J, I, 3)`` in LPS mm as ``(1, 3, K, J, I)`` float32 in voxels of the working grid."""
        return mm_to_voxels(field.permute(3, 0, 1, 2)[None], self.grid).float()


def vectors(field: sitk.Image) -> Tensor:
    """The vectors of an image of displacements, ``(K, J, I, 3)``, double."""
    return torch.from_numpy(sitk.GetArrayFromImage(field)).double()


def first_field(transform: sitk.Transform) -> sitk.Image:
    """The displacements of a result's inverse transform, which come after its linear part."""
    first = simple_transforms(transform)[0]
    field: sitk.Image = sitk.DisplacementFieldTransform(first).GetDisplacementField()
    return field


def _parts(transform: sitk.Transform) -> tuple[sitk.Transform, sitk.Image]:
    """The linear part and the displacements before it that a result's transform consists of."""
    parts = simple_transforms(transform)
    if parts[-1].GetName() != "DisplacementFieldTransform":
        raise CorrectionError("The transform of the result holds no displacement on a grid, so it cannot be corrected.")
    linear = sitk.CompositeTransform(parts[:-1] or [sitk.Transform(3, sitk.sitkIdentity)])
    return linear, sitk.DisplacementFieldTransform(parts[-1]).GetDisplacementField()


def _require_its_images(result: RegistrationResult, fixed: sitk.Image, moving: sitk.Image) -> None:
    """Raise CorrectionError if a result is not of these images."""
    own, given = Grid.of(result.warped), Grid.of(fixed)
    if own.size != given.size or not np.allclose(own.index_to_point, given.index_to_point, atol=1e-3):
        raise CorrectionError("The result is of another fixed image: it lies on another grid than this one.")
    lattice = Lattice.of(given, _COMPARED)
    shown, there = lattice.of_image(result.warped), sample_image(moving, lattice.grid, result.transform)
    contrast = float(np.subtract(*np.percentile(there, (99, 1))))
    if float(np.abs(shown - there).mean()) > _UNLIKE * max(contrast, 1e-9):
        raise CorrectionError("The result is of another moving image: warped, this one looks different.")
