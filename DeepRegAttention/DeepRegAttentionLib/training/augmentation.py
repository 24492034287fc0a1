"""Random changes of a pair before it is trained on: pose and shape, by one resampling, and intensities, by MONAI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Callable, NamedTuple, Optional

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from ..engine.errors import OptionError
from ..engine.fields import exponentiate, resize, smooth
from ..engine.geometry import Grid, displacement_transform, voxels_to_mm

Range = tuple[float, float]


@dataclass(frozen=True)
class Affine:
    """Each image of the pair is turned, scaled and shifted about the middle of the grid, by chance.

    Attributes
    ----------
    probability : float
        That it happens to an image.
    degrees : float
        Each of the three angles lies between plus and minus this.
    scale : float
        The logarithm of the factor along each axis lies between plus and minus this.
    shift_mm : float
        Each component of the shift lies between plus and minus this.
    """

    probability: float = 0.5
    degrees: float = 10.0
    scale: float = 0.1
    shift_mm: float = 4.0

    def __post_init__(self) -> None:
        require_probability("augmentation.affine.probability", self.probability)
        for entry in fields(self):
            if getattr(self, entry.name) < 0:
                raise OptionError(f"“augmentation.affine.{entry.name}” must be at least 0.")


@dataclass(frozen=True)
class Elastic:
    """Each image of the pair is deformed smoothly and without folds, by chance: new anatomies out of few.

    Attributes
    ----------
    probability : float
        That it happens to an image.
    deformation_mm : float
        Largest standard deviation of the velocity; each image draws its own between 0 and this.
    smoothness_mm : float
        The scale over which the velocity varies.
    """

    probability: float = 0.5
    deformation_mm: float = 2.0
    smoothness_mm: float = 12.0

    def __post_init__(self) -> None:
        require_probability("augmentation.elastic.probability", self.probability)
        if self.deformation_mm < 0 or self.smoothness_mm <= 0:
            raise OptionError("“augmentation.elastic” needs a deformation of at least 0 and a smoothness above 0 mm.")


@dataclass(frozen=True)
class Flip:
    """Both images are mirrored between left and right, by chance.

    Attributes
    ----------
    probability : float
        That it happens to a pair.
    swap_labels : list of pairs of int, optional
        Labels of structures that exist on both sides, such as ``[[21, 22], [23, 24]]``: mirrored, each takes the
        other's place. Needed, be it empty, where labels are trained with.
    """

    probability: float = 0.5
    swap_labels: Optional[tuple[tuple[int, int], ...]] = None

    def __post_init__(self) -> None:
        require_probability("augmentation.flip.probability", self.probability)


@dataclass(frozen=True)
class Chance:
    """A change of intensity whose size lies in a range, by chance, for each image on its own."""

    probability: float
    range: Range

    def __post_init__(self) -> None:
        require_probability("The probability of an augmentation", self.probability)
        if not self.range[0] <= self.range[1]:
            raise OptionError(f"The range of an augmentation must ascend; {list(self.range)} does not.")


@dataclass(frozen=True)
class Augmentation:
    """What is changed by chance; what is absent is not.

    Attributes
    ----------
    affine : Affine, optional
        Pose of each image.
    elastic : Elastic, optional
        Shape of each image.
    flip : Flip, optional
        Sides of both.
    gamma : Chance, optional
        Exponent of the intensities, such as 0.7 to 1.5.
    contrast : Chance, optional
        Factor on the distance of each intensity to the mean, such as 0.8 to 1.2.
    bias : Chance, optional
        Coefficients of the smooth field (a polynomial of degree 3) whose exponential multiplies the image.
    noise : Chance, optional
        Standard deviation, for intensities in 0..1; the range starts at 0.
    blur : Chance, optional
        Standard deviation of the Gaussian, voxels.
    """

    affine: Optional[Affine] = None
    elastic: Optional[Elastic] = None
    flip: Optional[Flip] = None
    gamma: Optional[Chance] = None
    contrast: Optional[Chance] = None
    bias: Optional[Chance] = None
    noise: Optional[Chance] = None
    blur: Optional[Chance] = None


def require_probability(name: str, value: float) -> None:
    """OptionError unless a value lies between 0 and 1."""
    if not 0 <= value <= 1:
        raise OptionError(f"{name} must lie between 0 and 1; {value:g} does not.")


def random_pose(grid: Grid, affine: Optional[Affine], random: np.random.Generator) -> sitk.Transform:
    """A random affine about the middle of the grid, from new to old points (LPS mm); else the identity."""
    pose = sitk.AffineTransform(3)
    if affine is None or random.random() >= affine.probability:
        return pose
    turn = sitk.Euler3DTransform()
    turn.SetRotation(*np.deg2rad(random.uniform(-affine.degrees, affine.degrees, 3)).tolist())
    scales = np.exp(random.uniform(-affine.scale, affine.scale, 3))
    pose.SetCenter(grid.centre.tolist())
    pose.SetMatrix((np.array(turn.GetMatrix()).reshape(3, 3) * scales).flatten().tolist())
    pose.SetTranslation(random.uniform(-affine.shift_mm, affine.shift_mm, 3).tolist())
    return pose


class Motion(NamedTuple):
    """A transform of points (LPS mm) and its inverse, which composite transforms cannot tell of every part."""

    there: sitk.Transform
    back: sitk.Transform


def linear(transform: sitk.Transform) -> Motion:
    """A linear transform with its inverse."""
    return Motion(transform, transform.GetInverse())


def chained(motions: Sequence[Motion]) -> Motion:
    """Several as one; the last is the first to be applied."""
    there = sitk.CompositeTransform([motion.there for motion in motions])
    return Motion(there, sitk.CompositeTransform([motion.back for motion in motions[::-1]]))


def random_deformation(grid: Grid, elastic: Optional[Elastic], random: np.random.Generator) -> Motion:
    """A random diffeomorphism of the grid, from new to old points; else the identity."""
    if elastic is None or random.random() >= elastic.probability:
        return linear(sitk.Transform(3, sitk.sitkIdentity))
    spacing = float(grid.spacing[0])
    size = random.uniform(0, elastic.deformation_mm) / spacing
    generator = torch.Generator().manual_seed(int(random.integers(2**31)))
    velocity = size * smooth_noise(3, grid.size[::-1], elastic.smoothness_mm / spacing, generator)
    displacements = (exponentiate(sign * velocity) for sign in (1, -1))
    return Motion(*(displacement_transform(voxels_to_mm(each, grid), grid) for each in displacements))


def smooth_noise(channels: int, shape: Sequence[int], scale: float, random: torch.Generator) -> Tensor:
    """Gaussian noise ``(1, channels, K, J, I)`` of unit variance that varies over so many voxels."""
    coarse = [max(4, round(n / scale) + 2) for n in shape]
    noise = resize(torch.randn(1, channels, *coarse, generator=random), shape)
    # The corners of the linear interpolation are rounded.
    noise = smooth(noise, scale / 3)
    return noise / noise.std().clamp_min(1e-6)


def mirror(grid: Grid) -> sitk.Transform:
    """The reflection of the grid onto itself along its axis that is closest to left and right."""
    directions = np.array(grid.direction).reshape(3, 3)
    normal = directions[:, np.abs(directions[0]).argmax()]
    reflection = sitk.AffineTransform(3)
    reflection.SetCenter(grid.centre.tolist())
    reflection.SetMatrix((np.eye(3) - 2 * np.outer(normal, normal)).flatten().tolist())
    return reflection


def swapped(labels: Tensor, pairs: tuple[tuple[int, int], ...]) -> Tensor:
    """Integer labels with the two of each pair exchanged."""
    result = labels.clone()
    for left, right in pairs:
        result[labels == left] = right
        result[labels == right] = left
    return result


def intensity_changes(augmentation: Augmentation) -> Callable[[Tensor, int], Tensor]:
    """A function that changes an image ``(1, K, J, I)`` in 0..1; the seed decides how."""
    chances = {name: getattr(augmentation, name) for name in ("gamma", "contrast", "bias", "blur", "noise")}
    return _Changes({name: chance for name, chance in chances.items() if chance is not None})


class _Changes:
    """A class and no closure: loader processes are sent a copy of it."""

    def __init__(self, chances: dict[str, Chance]) -> None:
        self.compose = _monai_steps(chances) if chances else None

    def __call__(self, image: Tensor, seed: int) -> Tensor:
        if self.compose is None:
            return image
        self.compose.set_random_state(seed)
        changed: Tensor = self.compose(image).as_tensor()
        return changed.float().clamp(0, 1)


def _monai_steps(chances: Mapping[str, Chance]) -> Any:
    # Imported where it is needed: MONAI takes seconds.
    from monai import transforms

    make: dict[str, Callable[[float, Range], Any]] = {
        "gamma": transforms.RandAdjustContrast,
        "contrast": lambda p, r: transforms.RandScaleIntensityFixedMean(p, (r[0] - 1, r[1] - 1)),
        "bias": lambda p, r: transforms.RandBiasField(3, r, prob=p),
        "blur": lambda p, r: transforms.RandGaussianSmooth(r, r, r, p),
        "noise": lambda p, r: transforms.RandGaussianNoise(p, std=r[1]),
    }
    return transforms.Compose([make[name](chance.probability, chance.range) for name, chance in chances.items()])
