"""Between images in space and tensors: the working grid, resampling, millimetres and voxels.

Images are ``SimpleITK.Image`` in LPS and mm; their arrays and our tensors are indexed (k, j, i). This is the
only place where a displacement in voxels becomes one in millimetres, and back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Callable, Optional

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

Vector = tuple[float, float, float]
Change = Callable[[np.ndarray], np.ndarray]

# Voxels that are averaged at once.
_SLAB = 4_000_000


@dataclass(frozen=True)
class Grid:
    """Where the voxels of a volume lie.

    Attributes
    ----------
    size : tuple of int
        Voxels along i, j, k.
    spacing : tuple of float
        mm along i, j, k.
    origin : tuple of float
        Centre of the first voxel, LPS mm.
    direction : tuple of float
        Nine numbers, row by row; column n is the direction of axis n in LPS.
    """

    size: tuple[int, int, int]
    spacing: Vector
    origin: Vector
    direction: tuple[float, ...]

    @classmethod
    def of(cls, image: sitk.Image) -> Grid:
        """The grid of an image."""
        return cls(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())

    @property
    def shape(self) -> tuple[int, int, int]:
        """Size in tensor order (K, J, I)."""
        return self.size[2], self.size[1], self.size[0]

    @property
    def voxel_to_mm(self) -> np.ndarray:
        """The 3 x 3 matrix from (i, j, k) steps to LPS mm."""
        scaled: np.ndarray = np.array(self.direction).reshape(3, 3) * np.array(self.spacing)
        return scaled

    @property
    def index_to_point(self) -> np.ndarray:
        """The 4 x 4 matrix from (i, j, k) to the LPS point in mm."""
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = self.voxel_to_mm, self.origin
        return matrix

    def points(self, index: np.ndarray) -> np.ndarray:
        """Where (i, j, k) lie, whole or between voxels: ``(..., 3)`` to ``(..., 3)``, LPS mm."""
        points: np.ndarray = index @ self.voxel_to_mm.T + np.array(self.origin)
        return points

    def index(self, points: np.ndarray) -> np.ndarray:
        """The inverse of :meth:`points`."""
        to_index = np.linalg.inv(self.index_to_point)
        index: np.ndarray = points @ to_index[:3, :3].T + to_index[:3, 3]
        return index

    @property
    def centre(self) -> np.ndarray:
        """The middle of the volume, LPS mm."""
        return self.points((np.array(self.size) - 1) / 2)

    def part(self, where: tuple[slice, slice, slice]) -> Grid:
        """The grid of the voxels between two indices along each axis, in the order k, j, i of arrays."""
        ends = [(cut.start, cut.stop) for cut in reversed(where)]
        first = self.index_to_point @ np.array([*(start for start, _ in ends), 1])
        size = [stop - start for start, stop in ends]
        return Grid((size[0], size[1], size[2]), self.spacing, tuple(first[:3].tolist()), self.direction)

    def covering(self, other: Grid) -> tuple[slice, slice, slice]:
        """The voxels of this grid that those of another one, with the same axes, lie between: (k, j, i)."""
        first = np.linalg.inv(self.index_to_point) @ other.index_to_point
        ends = first @ np.array([[0, 0, 0, 1], [*(np.array(other.size) - 1), 1]]).T
        low = np.floor(ends[:3, 0] + 1e-3).astype(int).clip(0)
        high = np.minimum(np.ceil(ends[:3, 1] - 1e-3).astype(int), np.array(self.size) - 1)
        cuts = [slice(int(a), int(b) + 1) for a, b in zip(low, high)]
        return cuts[2], cuts[1], cuts[0]

    def place(self, image: sitk.Image) -> sitk.Image:
        """Give an image of this size this grid's geometry, in place."""
        image.SetSpacing(self.spacing)
        image.SetOrigin(self.origin)
        image.SetDirection(self.direction)
        return image


@dataclass(frozen=True)
class Lattice:
    """Every so many-th voxel of a grid along each axis, the first one included.

    Attributes
    ----------
    steps : tuple of int
        Along i, j, k.
    grid : Grid
        Where those voxels lie.
    """

    steps: tuple[int, int, int]
    grid: Grid

    @classmethod
    def of(cls, grid: Grid, voxels: int) -> Lattice:
        """All voxels of a grid, or so few that there are at most `voxels`, about as far apart along each axis."""
        steps, sizes = [1, 1, 1], np.array(grid.size)
        while np.prod(-(-sizes // steps)) > voxels:
            gaps = [step * spacing if step < n else math.inf for step, spacing, n in zip(steps, grid.spacing, sizes)]
            steps[gaps.index(min(gaps))] += 1
        i, j, k = steps
        return cls((i, j, k), _in_steps(grid, steps, grid.origin))

    def of_image(self, image: sitk.Image) -> np.ndarray:
        """The values of an image there, ``(k, j, i)``: a view, valid as long as the image."""
        return sitk.GetArrayViewFromImage(image)[tuple(slice(None, None, step) for step in reversed(self.steps))]


def _in_steps(grid: Grid, steps: Sequence[int], origin: Vector) -> Grid:
    """As many voxels as it takes to go over a grid in steps of several voxels along i, j, k, from an origin."""
    i, j, k = (-(-n // step) for n, step in zip(grid.size, steps))
    x, y, z = (step * spacing for step, spacing in zip(steps, grid.spacing))
    return Grid((i, j, k), (x, y, z), origin, grid.direction)


def working_grid(fixed: sitk.Image, spacing: float, multiple: int, on_voxels: bool = False) -> Grid:
    """The grid on which the network works: the fixed image's axes, isotropic, padded, same centre.

    Parameters
    ----------
    fixed : sitk.Image
        Defines axes and extent.
    spacing : float
        mm.
    multiple : int
        Each side is a multiple of so many voxels.
    on_voxels : bool
        Whether, along an axis on which the image has this very spacing, the grid lies on its voxels, if need be half a
        voxel off the centre: between them labels are anybody's guess, and what is interpolated is blurred.
    """
    grid = Grid.of(fixed)
    extents = np.array(grid.size) * grid.spacing
    size = [max(1, math.ceil(round(e / spacing, 3) / multiple)) * multiple for e in extents]
    steps = np.array(grid.direction).reshape(3, 3) * spacing
    first = (np.array(size) - 1) / 2
    if on_voxels:
        same = np.isclose(grid.spacing, spacing, rtol=1e-3)
        first = first - 0.5 * (same & ((np.array(size) - grid.size) % 2 == 1))
    origin = grid.centre - steps @ first
    return Grid((size[0], size[1], size[2]), (spacing,) * 3, tuple(origin.tolist()), grid.direction)


def resample(
    image: sitk.Image,
    grid: Grid,
    transform: Optional[sitk.Transform] = None,
    nearest: bool = False,
    change: Optional[Change] = None,
    extended: bool = False,
) -> sitk.Image:
    """An image seen on a grid, through a transform from the grid's points to the image's.

    Outside it is 0, or, ``extended``, as the nearest voxel is: an edge of 0 would be taken for one of the anatomy.
    Where the grid is at least twice as coarse, voxels are averaged first, so that nothing aliases. What `change`
    makes of each voxel's intensity is seen instead of it; it gets and returns arrays ``(k, j, i)``.
    """
    source = image if nearest else _average_down(image, grid.spacing, change)
    return sitk.Resample(
        source,
        grid.size,
        transform or sitk.Transform(3, sitk.sitkIdentity),
        sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear,
        grid.origin,
        grid.spacing,
        grid.direction,
        0.0,
        image.GetPixelID() if nearest else sitk.sitkFloat32,
        extended,
    )


def _average_down(image: sitk.Image, spacing: Sequence[float], change: Optional[Change]) -> sitk.Image:
    # The image's axes may point elsewhere: the finest step of the target is safe in every direction.
    factors = [max(1, math.floor(min(spacing) / own + 1e-3)) for own in image.GetSpacing()]
    values = sitk.GetArrayViewFromImage(image)
    if max(factors) == 1:
        if change is None:
            return image
        return Grid.of(image).place(sitk.GetImageFromArray(change(values).astype(np.float32, copy=False)))
    means = _block_means(values, (factors[2], factors[1], factors[0]), change)
    middle = Grid.of(image).index_to_point @ np.append((np.array(factors) - 1) / 2, 1)
    grid = _in_steps(Grid.of(image), factors, tuple(middle[:3].tolist()))
    return grid.place(sitk.GetImageFromArray(means))


def _block_means(values: np.ndarray, blocks: Sequence[int], change: Optional[Change]) -> np.ndarray:
    """Means over blocks of voxels, float32; at the end the last voxels are repeated to fill a block.

    In slabs, so that no second array of the image's size is made.
    """
    rows = -(-values.shape[0] // blocks[0])
    depth = max(1, _SLAB // (blocks[0] * values.shape[1] * values.shape[2]))
    slabs = []
    for start in range(0, rows, depth):
        part = values[start * blocks[0] : (start + depth) * blocks[0]]
        part = (part if change is None else change(part)).astype(np.float32)
        missing = [(0, -n % block) for n, block in zip(part.shape, blocks)]
        mean = torch.from_numpy(np.pad(part, missing, mode="edge") if np.any(missing) else part)
        for axis, block in enumerate(blocks):
            mean = mean.unflatten(axis, (-1, block)).mean(axis + 1)
        slabs.append(mean)
    return torch.cat(slabs).numpy()


def to_tensor(image: sitk.Image, device: Optional[torch.device] = None) -> Tensor:
    """The voxels as ``(1, 1, K, J, I)`` float32; a vector image becomes ``(1, C, K, J, I)``."""
    array = torch.from_numpy(sitk.GetArrayFromImage(image).astype(np.float32, copy=False))
    channels = array[None] if array.ndim == 3 else array.permute(3, 0, 1, 2)
    return channels[None].to(device)


def to_image(tensor: Tensor, grid: Grid) -> sitk.Image:
    """``(1, C, K, J, I)`` to an image on the grid: scalar for one channel, else a vector image as it is."""
    array = tensor.detach()[0].float().cpu()
    if array.shape[0] == 1:
        return grid.place(sitk.GetImageFromArray(array[0].numpy()))
    return grid.place(sitk.GetImageFromArray(array.permute(1, 2, 3, 0).contiguous().numpy(), isVector=True))


def voxels_to_mm(field: Tensor, grid: Grid) -> Tensor:
    """Vectors in voxels of the grid, channels (k, j, i), to LPS mm, channels (x, y, z): ``(N, 3, K, J, I)``."""
    return _transform_vectors(grid.voxel_to_mm[:, ::-1], field)


def mm_to_voxels(field: Tensor, grid: Grid) -> Tensor:
    """The inverse of :func:`voxels_to_mm`."""
    return _transform_vectors(np.linalg.inv(grid.voxel_to_mm)[::-1], field)


def _transform_vectors(matrix: np.ndarray, field: Tensor) -> Tensor:
    weight = torch.from_numpy(np.ascontiguousarray(matrix)).to(field)
    return (weight @ field.flatten(2)).reshape(field.shape)


def points_to_voxels(points: np.ndarray, grid: Grid) -> Tensor:
    """Points ``(P, 3)`` in LPS mm to ``(P, 3)`` in voxels (k, j, i) of the grid."""
    return torch.from_numpy(grid.index(points)[:, ::-1].astype(np.float32))


def displacement_transform(field_mm: Tensor, grid: Grid) -> sitk.DisplacementFieldTransform:
    """A displacement ``(1, 3, K, J, I)`` in LPS mm as a transform; outside the grid it is the identity."""
    image = to_image(field_mm, grid)
    return sitk.DisplacementFieldTransform(sitk.Cast(image, sitk.sitkVectorFloat64))


def simple_transforms(transform: sitk.Transform) -> list[sitk.Transform]:
    """What a transform is composed of, however deep, as SimpleITK holds it: the last acts on a point first."""
    chain = sitk.CompositeTransform(transform)
    chain.FlattenTransform()
    return [chain.GetNthTransform(n) for n in range(chain.GetNumberOfTransforms())]


def affine_matrix(transform: sitk.Transform) -> np.ndarray:
    """The 4 x 4 matrix of a linear transform, LPS mm."""
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    ends = [np.array(transform.TransformPoint(axis)) for axis in np.eye(3).tolist()]
    matrix = np.eye(4)
    matrix[:3, :3] = np.stack([end - origin for end in ends], axis=1)
    matrix[:3, 3] = origin
    return matrix
