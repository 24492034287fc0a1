"""An image seen through a transform: in blocks, on all threads, without an array of vectors for the whole grid.

A registration's transform is a displacement field on a coarse grid between linear parts. Its field is brought to
the voxels of one block after the other, along the axes where both grids have the same, and the block is sampled; the
values are those of SimpleITK's own resampling, which does the rest of all transforms.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from .fields import full_precision, sample
from .geometry import Grid, affine_matrix, simple_transforms
from .intensity import background_value

Block = tuple[slice, slice, slice]

# Voxels of the image along each side of a block: what a turned block needs of the image is not much more than itself.
_SIDE = 200


def warp_image(
    image: sitk.Image, reference: sitk.Image, transform: sitk.Transform, nearest: bool = False
) -> sitk.Image:
    """An image on the grid of a reference, through a transform from reference to image points.

    Keeps the pixel type; outside the image its background continues (0 with ``nearest``, for label maps).
    """
    outside = 0.0 if nearest else background_value(sitk.GetArrayViewFromImage(image))
    path = _path(transform) if _is_plain(image) and reference.GetDimension() == 3 else None
    if path is None:
        interpolator = sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear
        return sitk.Resample(image, reference, transform, interpolator, outside, image.GetPixelID())
    values = sitk.GetArrayViewFromImage(image)
    grid = Grid.of(reference)
    warped = np.empty(grid.shape, values.dtype)
    for block, where in _coordinates(path, grid, Grid.of(image)):
        if nearest:
            warped[block] = _nearest(values, where, outside)
        else:
            found = _linear(values, where, outside)
            warped[block] = np.rint(found) if np.issubdtype(values.dtype, np.integer) else found
    return grid.place(sitk.GetImageFromArray(warped))


def sample_image(image: sitk.Image, grid: Grid, transform: Optional[sitk.Transform]) -> np.ndarray:
    """A scalar image on any grid through a transform from the grid's points to the image's: float32 ``(K, J, I)``.

    Linear; outside the image its background continues.
    """
    values = sitk.GetArrayViewFromImage(image)
    outside = background_value(values)
    path = _path(transform or sitk.Transform(3, sitk.sitkIdentity))
    if path is None:
        target = grid.size, transform, sitk.sitkLinear, grid.origin, grid.spacing, grid.direction
        return sitk.GetArrayFromImage(sitk.Resample(image, *target, outside, sitk.sitkFloat32))
    found = np.empty(grid.shape, np.float32)
    for block, where in _coordinates(path, grid, Grid.of(image)):
        found[block] = _linear(values, where, outside)
    return found


def _is_plain(image: sitk.Image) -> bool:
    real = not image.GetPixelIDTypeAsString().startswith(("complex", "label", "vector"))
    return real and image.GetDimension() == 3


# The transform


@dataclass(frozen=True)
class _Path:
    """What a transform does to a point x: after(D(before(x))) with D(y) = y + field(y); matrices ``(4, 4)``, LPS mm."""

    before: np.ndarray
    field: Optional[sitk.Image]
    after: np.ndarray


def _path(transform: sitk.Transform) -> Optional[_Path]:
    """The transform as linear parts around at most one displacement field; None if it is something else."""
    matrices: list[np.ndarray] = [np.eye(4)]
    field: Optional[sitk.Image] = None
    for part in reversed(simple_transforms(transform)):
        if part.IsLinear():
            matrices[-1] = affine_matrix(part) @ matrices[-1]
        elif part.GetName() == "DisplacementFieldTransform" and field is None:
            field = sitk.DisplacementFieldTransform(part).GetDisplacementField()
            matrices.append(np.eye(4))
        else:
            return None
    return _Path(matrices[0], field, matrices[-1] if field is not None else np.eye(4))


# Where each voxel lies


def _coordinates(path: _Path, grid: Grid, image: Grid) -> Iterator[tuple[Block, Tensor]]:
    """Block after block of a grid: which it is, and where its voxels lie in the image.

    That is ``(3, k, j, i)`` with channels (i, j, k), in voxels of the image.
    """
    to_voxel = np.linalg.inv(image.index_to_point) @ path.after
    line = to_voxel @ path.before @ grid.index_to_point
    field = None if path.field is None else _FieldOnGrid(path.field, path.before @ grid.index_to_point, to_voxel, grid)
    steps = np.linalg.norm(line[:3, :3], axis=0)[::-1]
    for block in _blocks(grid.shape, [max(8, int(_SIDE / step)) for step in steps]):
        where = _affine(line, block)
        yield block, where if field is None else where.add_(field.at(block))


def _blocks(shape: Sequence[int], sides: Sequence[int]) -> Iterator[Block]:
    """A volume in blocks of nearly the same size, none of which exceeds these sides."""
    cuts = []
    for n, side in zip(shape, sides):
        edges = np.linspace(0, n, -(-n // side) + 1).round().astype(int).tolist()
        cuts.append([slice(start, stop) for start, stop in zip(edges, edges[1:])])
    yield from itertools.product(*cuts)


def _affine(matrix: np.ndarray, block: Block) -> Tensor:
    """The points to which a ``(4, 4)`` matrix takes the indices (i, j, k) of a block, ``(3, k, j, i)``.

    Summed in float32, exact to about 1e-7 of the largest.
    """
    k, j, i = (np.arange(cut.start, cut.stop) for cut in block)
    across = matrix[:3, 2, None] * k + matrix[:3, 3, None]
    parts = [part.astype(np.float32) for part in (across, matrix[:3, 1, None] * j, matrix[:3, 0, None] * i)]
    planes, rows, columns = map(torch.from_numpy, parts)
    return planes[:, :, None, None] + rows[:, None, :, None] + columns[:, None, None, :]


class _FieldOnGrid:
    """A displacement field, brought to the voxels of a grid as ITK does: linearly, and 0 outside its own grid."""

    def __init__(self, field: sitk.Image, to_point: np.ndarray, to_voxel: np.ndarray, grid: Grid) -> None:
        # In voxels of the image from the start: there are fewer nodes than voxels.
        vectors = torch.from_numpy(sitk.GetArrayViewFromImage(field) @ to_voxel[:3, :3].T)
        self._values = vectors.float().permute(3, 0, 1, 2).contiguous()
        own = Grid.of(field)
        self._index = np.linalg.inv(own.index_to_point) @ to_point
        steps = self._index[:3, :3]
        aligned = np.abs(steps - np.diag(steps.diagonal())).max() * max(grid.size) < 1e-4
        self._along = [self._weights(axis, grid.size[axis]) for axis in (2, 1, 0)] if aligned else None

    def at(self, block: Block) -> Tensor:
        """On a block of the grid: ``(3, k, j, i)``."""
        if self._along is None:
            where = _affine(self._index, block)
            inside = _inside(where, self._values.shape[1:])
            return _interpolate(self._values[None], where)[0] * inside
        k, j, i = (weights[cut] for weights, cut in zip(self._along, block))
        with full_precision(self._values.device):
            values = torch.tensordot(k, self._values, dims=([1], [1])).transpose(0, 1)
            sampled: Tensor = j @ values @ i.T
            return sampled

    def _weights(self, axis: int, n: int) -> Tensor:
        """The ``(n, nodes)`` matrix that interpolates along one axis of the grid."""
        nodes = self._values.shape[3 - axis]
        where = self._index[axis, axis] * np.arange(n) + self._index[axis, 3]
        inside = (where >= -0.5) & (where < nodes - 0.5)
        distance = np.abs(where.clip(0, nodes - 1)[:, None] - np.arange(nodes))
        return torch.from_numpy((np.maximum(1 - distance, 0) * inside[:, None]).astype(np.float32))


# What is there


def _linear(values: np.ndarray, where: Tensor, outside: float) -> np.ndarray:
    """The values of an array at ``(3, k, J, I)`` (i, j, k), which is used up; float32, or double where the array is."""
    edges = [at.aminmax() for at in where]
    lowest, highest = [float(edge.min) for edge in edges], [float(edge.max) for edge in edges]
    sides = values.shape[::-1]
    if any(high < -0.5 or low >= n - 0.5 for low, high, n in zip(lowest, highest, sides)):
        return np.full(where.shape[1:], outside, values.dtype)
    first = [int(np.clip(np.floor(low), 0, n - 1)) for low, n in zip(lowest, sides)]
    last = [int(np.clip(np.ceil(high), 0, n - 1)) for high, n in zip(highest, sides)]
    box = tuple(slice(a, b + 1) for a, b in zip(first[::-1], last[::-1]))
    # Subtracted before the rounding to float32: a large offset must not eat the contrast.
    part = np.subtract(values[box], outside, dtype=np.result_type(values.dtype, np.float32))
    part = part.astype(np.float32, copy=False)
    beyond = any(low < -0.5 or high >= n - 0.5 for low, high, n in zip(lowest, highest, sides))
    inside = _inside(where, values.shape) if beyond else None
    where -= torch.tensor(first, dtype=torch.float32).reshape(3, 1, 1, 1)
    found = _interpolate(torch.from_numpy(part)[None, None], where)[0, 0]
    if inside is not None:
        found *= inside
    filled: np.ndarray = found.numpy() + np.asarray(outside, np.result_type(values.dtype, np.float32))
    return filled


def _interpolate(values: Tensor, where: Tensor) -> Tensor:
    """``(1, C, K, J, I)`` at ``(3, k, j, i)`` (i, j, k), which is used up: ``(1, C, k, j, i)``.

    Linear; beyond the border its value continues.
    """
    where *= torch.tensor([2 / max(n - 1, 1) for n in reversed(values.shape[2:])]).reshape(3, 1, 1, 1)
    where -= 1
    return sample(values, torch.stack(tuple(where), dim=-1)[None])


def _inside(where: Tensor, shape: Sequence[int]) -> Tensor:
    """Which points lie in the volume, half a voxel around its outermost ones included: ``(k, J, I)``."""
    i, j, k = ((at >= -0.5) & (at < n - 0.5) for at, n in zip(where, reversed(shape)))
    inside: Tensor = i & j & k
    return inside


def _nearest(values: np.ndarray, where: Tensor, outside: float) -> np.ndarray:
    index = where.add(0.5).floor_().long()
    inside = _inside(where, values.shape)
    i, j, k = (at.clamp_(0, n - 1) for at, n in zip(index, reversed(values.shape)))
    flat = (k * values.shape[1] + j) * values.shape[2] + i
    filled: np.ndarray = np.where(inside.numpy(), values.ravel().take(flat.numpy()), values.dtype.type(outside))
    return filled
