"""Pairs out of nothing, for any contrast: random shapes or real label maps, deformed and painted at random.

After SynthMorph (Hoffmann et al. 2022, arXiv 2004.10282): a network that has only ever seen such images, and been
judged by the overlap of their labels, learns what the contrasts have in common.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Optional

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from ..engine.errors import OptionError
from ..engine.fields import exponentiate, warp
from .augmentation import Augmentation, Chance, intensity_changes, require_probability, smooth_noise

Item = dict[str, Tensor]


@dataclass(frozen=True)
class SyntheticOptions:
    """How synthetic pairs are made.

    Attributes
    ----------
    shape : list of int
        Voxels (k, j, i) of the working grid, where the shapes are random.
    shapes : int
        Labels of a random map without a background.
    scale : list of two float
        From which to which scale the shapes of a map vary, voxels.
    from_labels : bool
        Take the label maps of the training cases instead of random shapes.
    alike : float
        Share of the pairs whose images have the same contrast: what matching is, is learned from these first.
    deformation : float
        Largest standard deviation of the velocities that deform each image, voxels.
    smoothness : list of two float
        From which to which scale they are smooth, voxels.
    blur, bias, noise : float
        Largest standard deviation of the blur in voxels, largest coefficient of the bias field, largest standard
        deviation of the noise for intensities in 0..1.
    thick : float
        Thickness of the thickest slices, voxels; above 1 every other image has slices thicker than its voxels.
    missing : float
        Largest share of a side of the grid that an image does not show, at one end; every fourth image misses some. Its
        labels are all there, so that the network learns to carry motion on into what it does not see.
    """

    shape: tuple[int, int, int] = (64, 64, 64)
    shapes: int = 16
    scale: tuple[float, float] = (5.0, 16.0)
    from_labels: bool = False
    alike: float = 0.3
    deformation: float = 3.0
    smoothness: tuple[float, float] = (8.0, 16.0)
    blur: float = 1.0
    bias: float = 0.3
    noise: float = 0.05
    thick: float = 1.0
    missing: float = 0.0

    def __post_init__(self) -> None:
        if min(self.shape) < 16 or not 2 <= self.shapes <= 255:
            raise OptionError("“data.synthetic” needs sides of at least 16 voxels and 2 to 255 shapes.")
        for name in ("scale", "smoothness"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise OptionError(f"“data.synthetic.{name}” must be two ascending scales above 0.")
        require_probability("data.synthetic.alike", self.alike)
        if min(self.deformation, self.blur, self.bias, self.noise) < 0:
            raise OptionError("“data.synthetic” must not hold negative sizes.")
        if not 1 <= self.thick <= min(self.shape):
            raise OptionError("“data.synthetic.thick” must be at least 1 voxel and at most the smallest side.")
        if not 0 <= self.missing < 1:
            raise OptionError("“data.synthetic.missing” must be at least 0 and below 1.")


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
        # Half of the pairs show a body in the dark, as images do whose background is air or was removed.
        dark, alike = _uniform(random) < 0.5, _uniform(random) < self.options.alike
        labels = self._map(n, dark, random)
        colours = [random_colours(int(labels.max()) + 1, dark, random) for _ in range(2)]
        item: Item = {}
        for name, own in zip(("fixed", "moving"), colours[:1] * 2 if alike else colours):
            deformed = self._deformed(labels, random)
            image = paint(deformed, own, random)
            item[f"{name}_labels"] = deformed
            item[name] = self._acquired(image, random)
        return item

    def _acquired(self, image: Tensor, random: torch.Generator) -> Tensor:
        """As a scanner would show it."""
        if self.options.thick > 1 and _uniform(random) < 0.5:
            image = thick_slices(image, _axis(random), _uniform(random, 1.0, self.options.thick))
        image = self.changes(image, int(torch.randint(2**31, (), generator=random)))
        if self.options.missing and _uniform(random) < 0.25:
            image = cut_off(image, _axis(random), _uniform(random, 0.0, self.options.missing), _uniform(random) < 0.5)
        return image

    def _map(self, n: int, dark: bool, random: torch.Generator) -> Tensor:
        if self.maps is not None:
            return self.maps[n]["fixed_labels"]
        options = self.options
        shapes = random_shapes(options.shape, options.shapes, _uniform(random, *options.scale), random)
        return torch.where(random_body(options.shape, random), shapes + 1, 0) if dark else shapes

    def _deformed(self, labels: Tensor, random: torch.Generator) -> Tensor:
        size = _uniform(random, 0.0, self.options.deformation)
        scale = _uniform(random, *self.options.smoothness)
        velocity = size * smooth_noise(3, labels.shape[1:], scale, random)
        moved = warp(labels[None].float(), exponentiate(velocity), mode="nearest")
        return moved[0].to(labels.dtype)


def _uniform(random: torch.Generator, low: float = 0.0, high: float = 1.0) -> float:
    return low + (high - low) * float(torch.rand((), generator=random))


def _axis(random: torch.Generator) -> int:
    return int(torch.randint(1, 4, (), generator=random))


def thick_slices(image: Tensor, axis: int, thickness: float) -> Tensor:
    """An image ``(1, K, J, I)`` as slices of ``thickness`` voxels across ``axis`` show it, on its own grid."""
    slices = max(round(image.shape[axis] / thickness), 1)
    k, j, i = (slices if n == axis else image.shape[n] for n in range(1, 4))
    thick = F.adaptive_avg_pool3d(image[None], (k, j, i))
    return F.interpolate(thick, image.shape[1:], mode="trilinear", align_corners=False)[0]


def cut_off(image: Tensor, axis: int, share: float, upper: bool) -> Tensor:
    """An image ``(1, K, J, I)`` without a ``share`` of its side, at the lower or upper end of ``axis``.

    It goes on as it ends, as images do beyond their field of view on the working grid.
    """
    side = image.shape[axis]
    missing = round(share * side)
    last = side - missing - 1 if upper else missing
    beyond = image.narrow(axis, last, 1).repeat_interleave(missing, axis)
    shown = image.narrow(axis, 0 if upper else missing, side - missing)
    return torch.cat([shown, beyond] if upper else [beyond, shown], axis)


def random_shapes(shape: Sequence[int], count: int, scale: float, random: torch.Generator) -> Tensor:
    """A label map ``(1, K, J, I)`` of ``count`` labels: in each voxel the largest of as many smooth noises.

    ``scale`` says over how many voxels they vary.
    """
    return smooth_noise(count, shape, scale, random).argmax(dim=1).to(torch.int32)


def random_body(shape: Sequence[int], random: torch.Generator) -> Tensor:
    """Where ``(1, K, J, I)`` a body is: an uneven ellipsoid that takes a good part of the volume."""
    squared = torch.zeros(())
    for axis, n in enumerate(shape):
        along = torch.linspace(-1, 1, n) / _uniform(random, 0.7, 1.0)
        squared = squared + along.square().reshape([n if other == axis else 1 for other in range(3)])
    return squared.sqrt() + 0.1 * smooth_noise(1, shape, min(shape) / 4, random)[0] < 1


class Colours(NamedTuple):
    """How each label of a map is painted; both ``(labels,)``, for intensities in 0..1."""

    means: Tensor
    deviations: Tensor
    """Of the noise that is its texture."""


def random_colours(count: int, dark: bool, random: torch.Generator) -> Colours:
    """Random ones; with ``dark`` label 0 is black."""
    colours = Colours(torch.rand(count, generator=random), 0.05 * torch.rand(count, generator=random))
    if dark:
        colours.means[0] = colours.deviations[0] = 0
    return colours


def paint(labels: Tensor, colours: Colours, random: torch.Generator) -> Tensor:
    """An image ``(1, K, J, I)`` in 0..1 of a label map."""
    noise = torch.randn(labels.shape, generator=random)
    index = labels.long()
    return (colours.means[index] + colours.deviations[index] * noise).clamp(0, 1)
