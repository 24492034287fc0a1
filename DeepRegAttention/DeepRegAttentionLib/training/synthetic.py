"""Pairs out of nothing, for any contrast: random shapes or real label maps, deformed and painted at random.

After SynthMorph (Hoffmann et al. 2022, arXiv 2004.10282): a network that has only ever seen such images, and been
judged by the overlap of their labels, learns what the contrasts have in common.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..engine.errors import OptionError
from ..engine.fields import exponentiate, resize, smooth, warp
from .augmentation import Augmentation, Chance, intensity_changes

Item = Dict[str, Tensor]


@dataclass(frozen=True)
class SyntheticOptions:
    """How synthetic pairs are made.

    Attributes
    ----------
    shape : list of int
        Voxels (k, j, i) of the working grid, where the shapes are random.
    shapes : int
        Labels of a random map, the background included.
    from_labels : bool
        Take the label maps of the training cases instead of random shapes.
    deformation : float
        Largest standard deviation of the velocities that deform each image, voxels.
    smoothness : list of two float
        From which to which scale they are smooth, voxels.
    blur, bias, noise : float
        Largest standard deviation of the blur in voxels, largest coefficient of the bias field, largest standard
        deviation of the noise for intensities in 0..1.
    """

    shape: Tuple[int, int, int] = (64, 64, 64)
    shapes: int = 16
    from_labels: bool = False
    deformation: float = 3.0
    smoothness: Tuple[float, float] = (8.0, 16.0)
    blur: float = 1.0
    bias: float = 0.3
    noise: float = 0.05

    def __post_init__(self) -> None:
        if min(self.shape) < 16 or not 2 <= self.shapes <= 255:
            raise OptionError("“data.synthetic” needs sides of at least 16 voxels and 2 to 255 shapes.")
        if not 0 < self.smoothness[0] <= self.smoothness[1]:
            raise OptionError("“data.synthetic.smoothness” must be two ascending scales above 0.")
        if min(self.deformation, self.blur, self.bias, self.noise) < 0:
            raise OptionError("“data.synthetic” must not hold negative sizes.")


class SyntheticPairs(Dataset[Item]):
    """Synthetic pairs; item n depends on the seed and on n alone.

    Each item holds ``fixed`` and ``moving`` ``(1, K, J, I)`` in 0..1, of unrelated contrasts, and ``fixed_labels`` and
    ``moving_labels``, two deformations of one label map.

    Parameters
    ----------
    options : SyntheticOptions
        How they are made.
    seed : int
        Of the whole run.
    multiple : int
        Sides must be multiples of so many voxels.
    maps : Dataset, optional
        Items whose ``fixed_labels`` are deformed instead of random shapes.
    length : int
        Items; more can be drawn.

    Raises
    ------
    OptionError
        The shape does not suit the network.
    """

    def __init__(
        self,
        options: SyntheticOptions,
        seed: int,
        multiple: int,
        maps: Optional[Dataset[Item]] = None,
        length: int = 1,
    ) -> None:
        if any(n % multiple for n in options.shape):
            raise OptionError(f"“data.synthetic.shape” must hold multiples of {multiple}; {options.shape} does not.")
        self.options = options
        self.seed = seed
        self.maps = maps
        self.length = length
        bias = Chance(1.0, (-options.bias, options.bias))
        self.changes = intensity_changes(
            Augmentation(
                gamma=Chance(0.8, (0.7, 1.5)),
                bias=bias if options.bias else None,
                blur=Chance(0.8, (0.0, options.blur)) if options.blur else None,
                noise=Chance(0.8, (0.0, options.noise)) if options.noise else None,
            )
        )

    def __len__(self) -> int:
        """Number of pairs."""
        return self.length

    def __getitem__(self, n: int) -> Item:
        """The n-th pair."""
        random = torch.Generator().manual_seed(int(np.random.default_rng((self.seed, n)).integers(2**62)))
        labels = self._map(n, random)
        item: Item = {}
        for name in ("fixed", "moving"):
            deformed = self._deformed(labels, random)
            item[f"{name}_labels"] = deformed
            item[name] = self.changes(paint(deformed, random), int(torch.randint(2**31, (), generator=random)))
        return item

    def _map(self, n: int, random: torch.Generator) -> Tensor:
        if self.maps is None:
            return random_shapes(self.options.shape, self.options.shapes, random)
        return self.maps[n]["fixed_labels"]

    def _deformed(self, labels: Tensor, random: torch.Generator) -> Tensor:
        size = float(torch.rand((), generator=random)) * self.options.deformation
        low, high = self.options.smoothness
        scale = low + (high - low) * float(torch.rand((), generator=random))
        velocity = size * smooth_noise(3, labels.shape[1:], scale, random)
        moved = warp(labels[None].float(), exponentiate(velocity), mode="nearest")
        return moved[0].to(labels.dtype)


def smooth_noise(channels: int, shape: Sequence[int], scale: float, random: torch.Generator) -> Tensor:
    """Gaussian noise ``(1, channels, K, J, I)`` of unit variance that varies over so many voxels."""
    coarse = [max(4, round(n / scale) + 2) for n in shape]
    noise = resize(torch.randn(1, channels, *coarse, generator=random), shape)
    # The corners of the linear interpolation are rounded.
    noise = smooth(noise, scale / 3)
    return noise / noise.std().clamp_min(1e-6)


def random_shapes(shape: Sequence[int], count: int, random: torch.Generator) -> Tensor:
    """A label map ``(1, K, J, I)`` of ``count`` labels: in each voxel the largest of as many smooth noises."""
    scale = max(4.0, min(shape) / 4)
    return smooth_noise(count, shape, scale, random).argmax(dim=1).to(torch.int32)


def paint(labels: Tensor, random: torch.Generator) -> Tensor:
    """An image ``(1, K, J, I)`` in 0..1: a random intensity and texture for each label of a map."""
    count = int(labels.max()) + 1
    means = torch.rand(count, generator=random)
    deviations = 0.05 * torch.rand(count, generator=random)
    noise = torch.randn(labels.shape, generator=random)
    index = labels.long()
    return (means[index] + deviations[index] * noise).clamp(0, 1)
