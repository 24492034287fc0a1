"""The mean of transforms: where a template must lie to be in the middle of its subjects.

A registration of a subject to a template finds T = A ∘ φ, from template to subject points, with A linear and
φ(x) = x + u(x). The mean of several is B ∘ Ū: B is the mean of the A in their group (Arsigny et al., 2006), in which
turns to the left and to the right are no shrinking together, and Ū(x) = x + mean u(x). The template moves to where the
mean takes it, and each transform becomes T ∘ Ū⁻¹ ∘ B⁻¹: then the linear parts have the mean 1, and the displacements
the mean 0 mm at every point (Guimond et al., 2000). What all registrations have in common, whatever the reason, goes
with it: where the first template lay, and a habit of the method.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from ..engine.fields import invert
from ..engine.geometry import (
    Grid,
    affine_matrix,
    displacement_transform,
    mm_to_voxels,
    simple_transforms,
    to_tensor,
    voxels_to_mm,
)

# The inverse of the mean leads back this exactly, in voxels.
_INVERSE_VOXELS = 5e-3


@dataclass(frozen=True)
class Parts:
    """A transform T = A ∘ φ from template to subject points.

    Attributes
    ----------
    linear : ndarray
        A as a ``(4, 4)`` matrix, LPS mm.
    deformation : sitk.Transform
        φ: all that acts before A.
    """

    linear: np.ndarray
    deformation: sitk.Transform

    @classmethod
    def of(cls, transform: sitk.Transform) -> Parts:
        """The linear transforms that act last, and the rest."""
        parts = simple_transforms(transform)
        linear = np.eye(4)
        while parts and parts[0].IsLinear():
            linear = linear @ affine_matrix(parts.pop(0))
        return cls(linear, sitk.CompositeTransform(parts) if parts else sitk.Transform(3, sitk.sitkIdentity))

    def field_grid(self) -> Optional[Grid]:
        """The grid of the displacement field, if φ is one."""
        chain = sitk.CompositeTransform(self.deformation)
        if chain.GetNumberOfTransforms() != 1 or chain.GetNthTransform(0).GetName() != "DisplacementFieldTransform":
            return None
        return Grid.of(sitk.DisplacementFieldTransform(chain.GetNthTransform(0)).GetDisplacementField())


@dataclass(frozen=True)
class MeanShape:
    """The mean B ∘ Ū of transforms from a template to its subjects.

    Attributes
    ----------
    linear : ndarray
        B as a ``(4, 4)`` matrix, LPS mm.
    displacement : Tensor
        The mean displacement at the nodes of the grid, ``(1, 3, K, J, I)``, LPS mm.
    grid : Grid
        Its nodes.
    """

    linear: np.ndarray
    displacement: Tensor
    grid: Grid

    @classmethod
    def of(cls, transforms: Iterable[sitk.Transform], grid: Grid) -> MeanShape:
        """The mean of transforms, read one after the other, on the nodes of a grid in the template's space."""
        total = torch.zeros(1, 3, *grid.shape, dtype=torch.float64)
        linear = []
        for transform in transforms:
            parts = Parts.of(transform)
            linear.append(parts.linear)
            total += _tensor(parts.deformation, grid)
        return cls(mean_affine(linear), (total / len(linear)).float(), grid)

    def to_template(self) -> sitk.Transform:
        """Ū⁻¹ ∘ B⁻¹: from points of the mean shape to those of the template that was."""
        back = invert(mm_to_voxels(self.displacement, self.grid), tolerance=_INVERSE_VOXELS)
        field = displacement_transform(voxels_to_mm(back, self.grid), self.grid)
        return sitk.CompositeTransform([field, affine(np.linalg.inv(self.linear))])

    def centre(self, transform: sitk.Transform, to_template: sitk.Transform) -> sitk.Transform:
        """A transform from the template that was as one from the mean shape: one linear part and one field.

        Parameters
        ----------
        transform : sitk.Transform
            T = A ∘ φ, from points of the template that was.
        to_template : sitk.Transform
            What :meth:`to_template` returned.

        Returns
        -------
        sitk.Transform
            (A ∘ B⁻¹) ∘ (B ∘ φ ∘ Ū⁻¹ ∘ B⁻¹), the second as a field on the grid.
        """
        linear = Parts.of(transform).linear @ np.linalg.inv(self.linear)
        moved = sitk.CompositeTransform([transform, to_template])
        return written_out(moved, linear, self.grid)

    def shift_mm(self) -> np.ndarray:
        """How far the mean takes each node: ``(K, J, I)``, mm."""
        mean = sitk.CompositeTransform([affine(self.linear), displacement_transform(self.displacement, self.grid)])
        distance: np.ndarray = np.linalg.norm(displacement(mean, self.grid), axis=-1)
        return distance


def mean_affine(matrices: Sequence[np.ndarray], iterations: int = 20) -> np.ndarray:
    """The matrix B for which the mean of log(A B⁻¹) is 0, over ``(4, 4)`` matrices A with positive determinants."""
    mean = np.eye(4)
    for _ in range(iterations):
        back = np.linalg.inv(mean)
        step = np.mean([logarithm(matrix @ back) for matrix in matrices], axis=0)
        mean = exponential(step) @ mean
        if np.abs(step).max() < 1e-12:
            break
    return mean


def logarithm(matrix: np.ndarray) -> np.ndarray:
    """The principal logarithm of a real ``(n, n)`` matrix, by square roots until it is nearly 1."""
    roots, near = 0, matrix
    identity = np.eye(len(matrix))
    while np.abs(near - identity).max() > 1e-2 and roots < 60:
        near, roots = _square_root(near), roots + 1
    # log(M) = 2 artanh((M - 1)(M + 1)⁻¹)
    part = (near - identity) @ np.linalg.inv(near + identity)
    square = part @ part
    series = identity + square @ (identity / 3 + square @ (identity / 5 + square / 7))
    result: np.ndarray = 2.0 ** (roots + 1) * part @ series
    return result


def exponential(matrix: np.ndarray) -> np.ndarray:
    """The exponential of a real ``(n, n)`` matrix."""
    result: np.ndarray = torch.matrix_exp(torch.from_numpy(matrix)).numpy()
    return result


def _square_root(matrix: np.ndarray) -> np.ndarray:
    """By the iteration of Denman and Beavers (1976), which converges quadratically."""
    root, inverse = matrix, np.eye(len(matrix))
    for _ in range(30):
        following = (root + np.linalg.inv(inverse)) / 2
        inverse = (inverse + np.linalg.inv(root)) / 2
        done = np.abs(following - root).max() <= 1e-14 * np.abs(following).max()
        root = following
        if done:
            break
    return root


def affine(matrix: np.ndarray) -> sitk.AffineTransform:
    """A ``(4, 4)`` matrix, LPS mm, as a transform."""
    return sitk.AffineTransform(matrix[:3, :3].flatten().tolist(), matrix[:3, 3].tolist())


def inverse(transform: sitk.Transform, grid: Grid) -> sitk.Transform:
    """T⁻¹ = φ⁻¹ ∘ A⁻¹ of a transform T = A ∘ φ, with the inverse of φ at the nodes of a grid."""
    parts = Parts.of(transform)
    back = invert(mm_to_voxels(_tensor(parts.deformation, grid), grid), tolerance=_INVERSE_VOXELS)
    field = displacement_transform(voxels_to_mm(back, grid), grid)
    return sitk.CompositeTransform([field, affine(np.linalg.inv(parts.linear))])


def written_out(transform: sitk.Transform, linear: np.ndarray, grid: Grid) -> sitk.Transform:
    """Any transform as a linear part after one displacement field, exact at the nodes of a grid.

    Beyond the grid it is the linear part, which should therefore be much of the transform.
    """
    rest = sitk.CompositeTransform([affine(np.linalg.inv(linear)), transform])
    return sitk.CompositeTransform([affine(linear), sitk.DisplacementFieldTransform(_vectors(rest, grid))])


def displacement(transform: sitk.Transform, grid: Grid) -> np.ndarray:
    """How far a transform takes the nodes of a grid: ``(K, J, I, 3)``, LPS mm."""
    vectors: np.ndarray = sitk.GetArrayFromImage(_vectors(transform, grid))
    return vectors


def _tensor(transform: sitk.Transform, grid: Grid) -> Tensor:
    return to_tensor(_vectors(transform, grid))


def _vectors(transform: sitk.Transform, grid: Grid) -> sitk.Image:
    target = grid.size, grid.origin, grid.spacing, grid.direction
    vectors: sitk.Image = sitk.TransformToDisplacementField(transform, sitk.sitkVectorFloat64, *target)
    return vectors
