"""What the networks share: their answer, convolution blocks, the feature pyramid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..fields import compose, length, resize, resize_field, warp
from ..similarity import MIND_CHANNELS, mind_descriptor


@dataclass
class NetworkOutput:
    """What every network returns, coarse to fine, pass after pass.

    Attributes
    ----------
    displacements : list of Tensor
        Total displacement after each level, ``(N, 3, k, j, i)`` in voxels of that level.
    velocities : list of Tensor
        Stationary velocity of each level, same shapes and units: what the level adds, or, where a network
        fuses its levels, the fusion up to this level.
    forces : list of Tensor
        Driving force of each level in voxels of that level; empty where a method has none.
    maps : dict of str to Tensor
        What each place contributed to the motion, voxels of the finest level, ``(N, 1, K, J, I)``.
    features : list of Tensor
        Features for additional decoders, one per level of the first pass, ``(N, C_l, k, j, i)``.
    regularization : Tensor, optional
        Relative local strength w(x) of the regularization in (0, 1) on the finest level, ``(N, 1, K, J, I)``:
        lambda(x) is the maximum strength times w(x).
    """

    displacements: list[Tensor]
    velocities: list[Tensor]
    forces: list[Tensor] = field(default_factory=list)
    maps: dict[str, Tensor] = field(default_factory=dict)
    features: list[Tensor] = field(default_factory=list)
    regularization: Optional[Tensor] = None

    @property
    def displacement(self) -> Tensor:
        """The answer: ``(N, 3, K, J, I)``, voxels of the working grid."""
        return self.displacements[-1]

    def to(self, device: str) -> NetworkOutput:
        """A copy on a device, detached from the computation that made it."""

        def moved(tensors: list[Tensor]) -> list[Tensor]:
            return [tensor.detach().to(device) for tensor in tensors]

        return NetworkOutput(
            moved(self.displacements),
            moved(self.velocities),
            moved(self.forces),
            {name: tensor.detach().to(device) for name, tensor in self.maps.items()},
            moved(self.features),
            None if self.regularization is None else self.regularization.detach().to(device),
        )


def continued(begun: NetworkOutput, following: NetworkOutput) -> NetworkOutput:
    """The answer of some passes, and that of one more to the moving image as they have warped it, as one.

    The displacements go on from where the passes before ended, and the new levels follow theirs; maps are the sum
    over all passes, and features those of the first, which saw the whole motion.
    """
    steps, finest = following.displacements, following.displacement.shape[2:]
    finer = finest[0] / begun.displacement.shape[2]
    return NetworkOutput(
        begun.displacements + [compose(resize_field(begun.displacement, step.shape[2:]), step) for step in steps],
        begun.velocities + following.velocities,
        begun.forces + following.forces,
        {name: finer * resize(begun.maps[name], finest) + seen for name, seen in following.maps.items()},
        begun.features,
    )


def _coarser(image: Tensor, factor: int) -> Tensor:
    return image if factor == 1 else F.avg_pool3d(image, factor)


_MUCH_LARGER = 1.5
"""Sides, in those of the volumes that a network learned on."""


class RegistrationNetwork(nn.Module):
    """What every network is: ``(N, 1, K, J, I)`` fixed and moving in 0..1 to a :class:`NetworkOutput`.

    Attributes
    ----------
    multiple : int
        K, J and I must be multiples of it.
    feature_channels : tuple of int
        Channels of the output's features, coarse to fine.
    encoder : Encoder
        What sees each image; the fixed one once for all passes.
    passes : int
        How often the same weights register, each time what is left ("Recursive Cascaded Networks for Unsupervised
        Medical Image Registration", arXiv 1907.12353).
    side : int, optional
        Of the volumes that it learned on, voxels. What is much larger, every pass but the last sees at half the
        resolution: there the motion is as large in voxels as those that it learned.
    """

    multiple: int
    feature_channels: tuple[int, ...]
    passes: int = 1
    side: Optional[int] = None
    encoder: Encoder

    def forward(self, fixed: Tensor, moving: Tensor) -> NetworkOutput:
        """Register; K, J and I must be multiples of ``self.multiple``."""
        output: Optional[NetworkOutput] = None
        seen: dict[int, tuple[list[Tensor], Tensor]] = {}
        for scale in self._scales(fixed.shape[2:]):
            if scale not in seen:
                images = _coarser(fixed, scale), _coarser(moving, scale)
                seen[scale] = self.encoder(images[0])[::-1], self.noise_of(*images)
            left = moving if output is None else warp(moving, resize_field(output.displacement, moving.shape[2:]))
            features, noise = seen[scale]
            following = self.align(features, self.encoder(_coarser(left, scale))[::-1], noise)
            output = following if output is None else continued(output, following)
        assert output is not None
        return output

    def _scales(self, shape: Sequence[int]) -> list[int]:
        """How many times coarser than the images each pass sees them."""
        large = self.side is not None and math.prod(shape) > (_MUCH_LARGER * self.side) ** 3
        return [*[2 if large else 1] * (self.passes - 1), 1]

    def noise_of(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Variance of the noise of both images, ``(N, 1, 1, 1, 1)``; 0 where a network does not ask for it."""
        return fixed.new_zeros(len(fixed), 1, 1, 1, 1)

    def align(self, fixed: Sequence[Tensor], moving: Sequence[Tensor], noise: Tensor) -> NetworkOutput:
        """A single pass over the features of both images, coarse to fine, ``(N, C_l, k, j, i)``.

        ``noise`` is what :meth:`noise_of` says of the images as they came.
        """
        raise NotImplementedError


def contribution(fields: Sequence[Tensor]) -> Tensor:
    """The lengths of the fields of all levels, added up: ``(N, 1, K, J, I)`` in voxels of the finest."""
    shape = fields[-1].shape[2:]
    lengths = [length(resize_field(field, shape)) for field in fields]
    return torch.stack(lengths).sum(dim=0)


def set_to_zero(layer: nn.Module) -> None:
    """Start a layer with zero weights and bias."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


class ConvBlock(nn.Sequential):
    """Convolution, instance normalisation, leaky rectifier."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__(
            nn.Conv3d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
            nn.InstanceNorm3d(outputs, affine=True),
            nn.LeakyReLU(0.1, inplace=True),
        )


_NOISE = 4e-3
"""Variance of intensities in 0..1 below which self-similarity sees no structure: about that of 6 % of noise."""


class Encoder(nn.Module):
    """A feature pyramid: one image ``(N, 1, K, J, I)`` to features from fine to coarse, halving each time.

    Parameters
    ----------
    channels : sequence of int
        Features per level, fine to coarse.
    self_similarity : bool
        Whether it looks at how similar the places around each voxel are to each other (MIND-SSC) and not at the
        intensities: hardly any of that depends on the contrast of the image.
    """

    def __init__(self, channels: Sequence[int], self_similarity: bool = False) -> None:
        super().__init__()
        self.self_similarity = self_similarity
        inputs = MIND_CHANNELS if self_similarity else 1
        self.stem = nn.Sequential(ConvBlock(inputs, channels[0]), ConvBlock(channels[0], channels[0]))
        self.stages = nn.ModuleList(
            nn.Sequential(ConvBlock(a, b, stride=2), ConvBlock(b, b)) for a, b in zip(channels, channels[1:])
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """``(N, 1, K, J, I)`` to one ``(N, C_l, K / 2^l, J / 2^l, I / 2^l)`` per level."""
        features = [self.stem(mind_descriptor(image, noise=_NOISE) if self.self_similarity else image)]
        for stage in self.stages:
            features.append(stage(features[-1]))
        return features


class DecoderBlock(nn.Module):
    """One step up a U-Net: coarser features join those of this level, then two convolutions.

    Parameters
    ----------
    skip : int
        Channels that come from this level.
    coarser : int
        Channels of the coarser level; 0 at the coarsest.
    outputs : int
        Channels of the result.
    """

    def __init__(self, skip: int, coarser: int, outputs: int) -> None:
        super().__init__()
        # Narrowed before it is enlarged: interpolating is what costs on the finest level.
        self.narrow = nn.Conv3d(coarser, outputs, 1) if coarser else None
        inputs = skip + (outputs if coarser else 0)
        self.convolutions = nn.Sequential(ConvBlock(inputs, outputs), ConvBlock(outputs, outputs))

    def forward(self, skip: Tensor, coarser: Optional[Tensor] = None) -> Tensor:
        """``(N, skip, K, J, I)`` and ``(N, coarser, k, j, i)`` to ``(N, outputs, K, J, I)``."""
        if self.narrow is not None and coarser is not None:
            skip = torch.cat([skip, resize(self.narrow(coarser), skip.shape[2:])], dim=1)
        features: Tensor = self.convolutions(skip)
        return features
