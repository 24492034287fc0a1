"""Label fusion: what several atlases say of a target, made one by votes that count as they look like it.

The images of the atlases, brought onto the target, show in the neighbourhood of each voxel how far each can be
believed there. The intensities of each are first scaled to mean 0 and norm 1: only the pattern counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Optional

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from ..engine.errors import ImageError, OptionError
from ..engine.geometry import Grid
from ..engine.metrics import require_labels, require_same_grid
from ..engine.resampling import warp_image
from .voting import vote

METHODS = ("majority", "local", "joint")
"""How the votes count: all the same; by the likeness of each atlas (Artaechevarria et al., 2009); by the likeness of
each and by how far others err alike (Wang et al., 2013)."""

# Values of neighbourhoods that are held at once.
_HELD = 1 << 24


@dataclass(frozen=True)
class FusionOptions:
    """How labels are fused.

    Attributes
    ----------
    method : {"local", "joint", "majority"}
        How the votes count.
    radius : int
        Of the neighbourhood that is compared, in voxels along the finest axis; the same in mm along the others.
    power : float
        "local": votes count as (1 - correlation) to the power of minus this.
    beta, alpha : float
        "joint": exponent of the errors, and what is added to their variance to keep all votes in play.
    """

    method: str = "local"
    radius: int = 2
    power: float = 2.0
    beta: float = 2.0
    alpha: float = 0.1

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise OptionError(f"Labels are fused by {', '.join(METHODS)}; “{self.method}” is none of them.")
        if not 1 <= self.radius <= 10:
            raise OptionError(f"The radius of neighbourhoods must lie between 1 and 10; {self.radius} does not.")


@dataclass(frozen=True)
class Fusion:
    """What came of it.

    Attributes
    ----------
    labels : sitk.Image
        The fused label map on the target's grid.
    confidence : sitk.Image
        The share of the votes for it at each voxel, float32, 0..1: 1 where all atlases agree.
    shares : tuple of float
        The mean share of each atlas in the votes, where not all agree; NaN if they do everywhere.
    """

    labels: sitk.Image
    confidence: sitk.Image
    shares: tuple[float, ...]


def fuse(
    target: sitk.Image,
    images: Sequence[sitk.Image],
    labels: Sequence[sitk.Image],
    options: Optional[FusionOptions] = None,
) -> Fusion:
    """Fuse the labels of atlases that have been brought onto a target.

    Parameters
    ----------
    target : sitk.Image
        The scalar volume that gets labels.
    images : sequence of sitk.Image
        Of the atlases, on the target's grid.
    labels : sequence of sitk.Image
        Likewise; several for each atlas, one after the other, share its vote (:func:`carried`).
    options : FusionOptions, optional
        How.

    Raises
    ------
    ImageError
        There is no atlas, or an image lies on another grid.
    LabelError
        A label map lies on another grid or holds no whole numbers.
    """
    options = options or FusionOptions()
    if not images or not labels or len(labels) % len(images):
        raise ImageError("Fusion needs at least one atlas, and a label map for each.")
    for image in images:
        require_same_grid(image, target, "atlas")
    for drawn in labels:
        require_labels(drawn, target)
    ballots = np.stack([sitk.GetArrayViewFromImage(drawn) for drawn in labels])
    disputed = (ballots != ballots[0]).any(axis=0)
    winner, share = ballots[0].copy(), np.ones(disputed.shape, np.float32)
    shares = (float("nan"),) * len(images)
    if disputed.any():
        weights = np.full((len(images), int(disputed.sum())), 1 / len(images), np.float32)
        if options.method != "majority":
            weights = _weights_at(target, images, disputed, options)
        shares = tuple(weights.mean(axis=1).tolist())
        counts = np.repeat(weights, len(labels) // len(images), axis=0)
        winner[disputed], share[disputed] = vote(list(ballots[:, disputed]), counts)
    grid = Grid.of(target)
    fused, confidence = (grid.place(sitk.GetImageFromArray(array)) for array in (winner, share))
    return Fusion(fused, confidence, shares)


def carried(labels: sitk.Image, target: sitk.Image, transform: sitk.Transform) -> list[sitk.Image]:
    """A label map seen from the middles of the eight parts of each voxel of a target.

    Together they say how much of a voxel each structure takes, as one look at its middle does not.

    Parameters
    ----------
    labels : sitk.Image
        On any grid.
    target : sitk.Image
        The volume whose voxels they are.
    transform : sitk.Transform
        From target points to those of the label map, LPS mm.

    Returns
    -------
    list of sitk.Image
        Eight maps on the target's grid, nearest neighbour, 0 outside.
    """
    grid, seen = Grid.of(target), []
    for part in product((-0.25, 0.25), repeat=3):
        moved = replace(grid, origin=tuple(target.TransformContinuousIndexToPhysicalPoint(part)))
        seen.append(grid.place(warp_image(labels, moved.place(sitk.Image(grid.size, sitk.sitkUInt8)), transform, True)))
    return seen


def _weights_at(
    target: sitk.Image, images: Sequence[sitk.Image], chosen: np.ndarray, options: FusionOptions
) -> np.ndarray:
    """How much the vote of each atlas counts at chosen voxels, in the order of a mask: ``(N, V)`` with the sum 1."""
    reach = _reach(target.GetSpacing(), options.radius)
    volumes = torch.stack([_padded(image, reach) for image in (target, *images)])
    around, where = _offsets(reach, volumes.shape[1:]), _index(chosen, reach, volumes.shape[1:])
    part = max(1, _HELD // (len(around) * len(volumes)))
    found = [_weights(_patterns(volumes.flatten(1), some, around), options) for some in where.split(part)]
    return torch.cat(found, dim=1).numpy()


def _reach(spacing: Sequence[float], radius: int) -> tuple[int, int, int]:
    """A radius in voxels of the finest axis along the axes k, j, i."""
    i, j, k = (round(radius * min(spacing) / step) for step in spacing)
    return k, j, i


def _padded(image: sitk.Image, margin: Sequence[int]) -> Tensor:
    values = sitk.GetArrayViewFromImage(image).astype(np.float32)
    return torch.from_numpy(np.pad(values, [(n, n) for n in margin], mode="edge"))


def _offsets(reach: Sequence[int], shape: Sequence[int]) -> Tensor:
    """From a voxel to those of its neighbourhood in a flattened volume."""
    steps = product(*(range(-n, n + 1) for n in reach))
    return torch.tensor([(k * shape[1] + j) * shape[2] + i for k, j, i in steps])


def _index(chosen: np.ndarray, margin: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Where chosen voxels lie in the flattened padded volume."""
    k, j, i = (axis + n for axis, n in zip(np.nonzero(chosen), margin))
    return torch.from_numpy((k * shape[1] + j) * shape[2] + i)


def _patterns(volumes: Tensor, where: Tensor, around: Tensor) -> Tensor:
    """The neighbourhoods of V voxels in flattened volumes ``(N, ...)``, each with mean 0 and norm 1: ``(N, V, P)``."""
    values = volumes[:, where[:, None] + around]
    values = values - values.mean(dim=-1, keepdim=True)
    patterns: Tensor = values / values.norm(dim=-1, keepdim=True).clamp_min(1e-6)
    return patterns


def _weights(patterns: Tensor, options: FusionOptions) -> Tensor:
    """How much each vote counts, from the patterns ``(1 + N, V, P)`` of target and atlases: ``(N, V)``, sum 1."""
    of_target, of_atlases = patterns[:1], patterns[1:]
    if options.method == "local":
        likeness = (of_atlases * of_target).sum(dim=-1)
        weights = (1 - likeness).clamp_min(1e-3) ** -options.power
    else:
        weights = _joint((of_atlases - of_target).abs(), options)
    shares: Tensor = weights / weights.sum(dim=0, keepdim=True).clamp_min(1e-12)
    return shares


def _joint(errors: Tensor, options: FusionOptions) -> Tensor:
    """The weights ``(N, V)`` with the least expected error, (M + alpha)⁻¹ 1; negative ones count for nothing.

    M is how far two atlases err together: the sum of |A - T| |B - T| over the neighbourhood, to the power of beta;
    ``errors`` are the |A - T|, ``(N, V, P)``.
    """
    each = errors.transpose(0, 1)
    together = (each @ each.transpose(1, 2)) ** options.beta + options.alpha * torch.eye(len(errors))
    weights: Tensor = torch.linalg.solve(together, torch.ones(*each.shape[:2], 1))[..., 0].T
    return weights.clamp_min(0)
