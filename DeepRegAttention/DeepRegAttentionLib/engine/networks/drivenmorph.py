"""DrivenMorph: attention computes a driving force, a neural Demons layer turns it into motion.

"Bridging Attention Mechanism and Variational Image Registration via Difference Modeling" (arXiv 2606.30183).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..fields import compose, exponentiate, gradient, length, resize, resize_field, smooth, warp
from ..noise import noise_variance
from .attention import GlobalSelfAttention, LocalAttention, LocalMatch
from .blocks import ConvBlock, Encoder, NetworkOutput, RegistrationNetwork, contribution, set_to_zero

# e: so much of the squared difference of the features is taken for noise in images that have none.
_LEAST_NOISE = 0.2


class FeatureComparison(NamedTuple):
    """What difference modelling says of one level; all ``(N, ., k, j, i)``."""

    difference: Tensor
    """d_c = F_c - M_c, ``C`` channels."""
    weight: Tensor
    """w_c in (0, 1), ``C`` channels."""
    offset: Tensor
    """o, the vector to where each voxel is found in the moving features, three channels (k, j, i), voxels."""
    certainty: Tensor
    """Of that match in 0..1, one channel."""
    features: Tensor
    """The coherent comparison itself, ``C`` channels."""

    @property
    def reliability(self) -> Tensor:
        """w, the mean of the weights, one channel."""
        return self.weight.mean(dim=1, keepdim=True)


class DifferenceModel(nn.Module):
    """The discrepancy of two feature maps: their difference, how much each channel of it weighs, where each voxel went.

    Self-attention makes what weighs the difference coherent; local cross-attention finds the match.
    """

    def __init__(self, channels: int, radius: int, coarsest: bool) -> None:
        super().__init__()
        self.match = LocalMatch(channels, max(4, channels // 2), radius)
        self.compare = ConvBlock(3 * channels, channels)
        self.coherence = GlobalSelfAttention(channels) if coarsest else LocalSelfAttention(channels, radius)
        self.weight = nn.Conv3d(channels, channels, 1)

    def forward(self, fixed: Tensor, moving: Tensor) -> FeatureComparison:
        """Compare the fixed features with the warped moving features, both ``(N, C, k, j, i)``."""
        difference = fixed - moving
        features = self.coherence(self.compare(torch.cat([fixed, moving, difference], dim=1)))
        weight = self.weight(features).float().sigmoid()
        offset, certainty = self.match(fixed, moving)
        return FeatureComparison(difference.float(), weight, offset, certainty, features)


class LocalSelfAttention(nn.Module):
    """A feature map attends to its own neighbourhood, at half the resolution; added to its input.

    Coherence is a property of regions: half the resolution doubles the reach at an eighth of the cost.
    """

    def __init__(self, channels: int, radius: int) -> None:
        super().__init__()
        self.attention = LocalAttention(channels, radius)
        self.output = nn.Conv3d(channels, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """``(N, C, k, j, i)``, even sizes, to the same shape."""
        gathered = self.output(self.attention(F.avg_pool3d(features, 2)))
        return features + resize(gathered, features.shape[2:])


class NeuralDemons(nn.Module):
    """Difference and attention to force, force to velocity.

    force = r (sum_c w_c d_c g_c / (sum_c w_c |g_c|^2 + a^2 sum_c w_c d_c^2 + eps) + b w o), with
    g_c = (grad F_c + grad M_c) / 2: the symmetric Demons force carried to latent channels, which reaches as far as a
    slope does, and the offset o of the match, which reaches as far as attention does, times the mean weight w. a and b
    are learned and positive. r = E / (E + e + n (s_F^2 + s_M^2)), E the mean of sum_c w_c d_c^2 around the voxel and
    s^2 the variance of the noise of an image, is the Wiener filter's answer to how much of the difference is one: what
    is no more than noise hardly pulls.
    """

    def __init__(self, noise: float, width: int = 16, sigma: float = 1.0) -> None:
        super().__init__()
        self.noise, self.sigma = noise, sigma
        self.log_stabiliser = nn.Parameter(torch.tensor(-0.7))
        self.log_reach = nn.Parameter(torch.tensor(0.7))
        self.gain = nn.Parameter(torch.tensor(1.0))
        self.smoothing = nn.Sequential(
            nn.Conv3d(5, width, 3, padding=1),
            nn.LeakyReLU(0.1, inplace=True),
            nn.Conv3d(width, width, 3, padding=2, dilation=2),
            nn.LeakyReLU(0.1, inplace=True),
            # Without a bias, which no force and some force would have alike.
            nn.Conv3d(width, 3, 3, padding=1, bias=False),
        )
        # Training starts from classic Demons: a smoothed force and nothing else.
        set_to_zero(self.smoothing[-1])

    def force(self, fixed: Tensor, moving: Tensor, comparison: FeatureComparison, noise: Tensor) -> Tensor:
        """The driving force ``(N, 3, k, j, i)`` in voxels of this level.

        ``noise`` is the variance of the noise of both images, ``(N, 1, 1, 1, 1)``.
        """
        difference, weight = comparison.difference, comparison.weight
        slope = gradient((fixed + moving).float() / 2)
        weighted = weight * difference
        energy = (weighted * difference).sum(dim=1, keepdim=True)
        pull = (weighted[:, :, None] * slope).sum(dim=1)
        steepness = (weight * slope.square().sum(dim=2)).sum(dim=1, keepdim=True)
        stabiliser = (2 * self.log_stabiliser).exp() * energy
        found = self.log_reach.exp() * comparison.reliability * comparison.offset
        around = smooth(energy, 1.0)
        reliable = around / (around + _LEAST_NOISE + self.noise * noise)
        return reliable * (pull / (steepness + stabiliser + 1e-2) + found)

    def forward(self, force: Tensor, comparison: FeatureComparison) -> Tensor:
        """Force and its reliability to a smooth velocity ``(N, 3, k, j, i)``: without force there is no motion."""
        known = torch.cat([comparison.reliability, comparison.certainty], dim=1)
        # What the layers answer to no force has nothing to do with any difference of the images.
        moved, unmoved = (
            self.smoothing(torch.cat([f, known], dim=1)).float() for f in (force, torch.zeros_like(force))
        )
        return smooth(self.gain * force + moved - unmoved, self.sigma)


class DrivenMorph(RegistrationNetwork):
    """The network: ``(N, 1, K, J, I)`` fixed and moving in 0..1 to a :class:`NetworkOutput`.

    Parameters
    ----------
    channels : sequence of int
        Features per level, fine to coarse; each level halves the resolution.
    radius : int
        Half the neighbourhood of the local attentions.
    self_similarity : bool
        Whether the encoder sees self-similarity and not intensities, for images of different contrast.
    noise : float
        n: how much of E, the squared difference of the features, a variance of the images' noise is taken for.
    """

    def __init__(
        self,
        channels: Sequence[int] = (8, 16, 32, 48),
        radius: int = 1,
        self_similarity: bool = False,
        noise: float = 500.0,
    ) -> None:
        super().__init__()
        if noise < 0:
            raise ValueError("noise is at least 0")
        self.multiple = 2 ** (len(channels) - 1)
        self.encoder = Encoder(channels, self_similarity)
        self.feature_channels = tuple(channels)[::-1]
        self.comparisons = nn.ModuleList(
            DifferenceModel(c, radius, coarsest=n == 0) for n, c in enumerate(self.feature_channels)
        )
        self.demons = nn.ModuleList(NeuralDemons(noise) for _ in self.feature_channels)

    def noise_of(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Variance of the noise of both images, ``(N, 1, 1, 1, 1)``."""
        return noise_variance(fixed) + noise_variance(moving)

    def align(self, fixed: Sequence[Tensor], moving: Sequence[Tensor], noise: Tensor) -> NetworkOutput:
        """A single pass over the features of both images, coarse to fine, ``(N, C_l, k, j, i)``."""
        output = NetworkOutput([], [])
        displacement: Optional[Tensor] = None
        for f, m, compare, demons in zip(fixed, moving, self.comparisons, self.demons):
            if displacement is not None:
                displacement = resize_field(displacement, f.shape[2:])
                m = warp(m, displacement)
            assert isinstance(demons, NeuralDemons)
            comparison = compare(f, m)
            force = demons.force(f, m, comparison, noise)
            velocity = demons(force, comparison)
            step = exponentiate(velocity)
            displacement = step if displacement is None else compose(displacement, step)
            output.displacements.append(displacement)
            output.velocities.append(velocity)
            output.forces.append(force)
            output.features.append(comparison.features)
        output.maps = {"attention": contribution(output.forces)}
        return output


def on_finest(fields: list[Tensor]) -> list[Tensor]:
    """The field of each level on the finest one: ``(N, 3, K, J, I)``, voxels of that level."""
    shape = fields[-1].shape[2:]
    return [resize_field(field, shape) for field in fields]


def added_up(fields: list[Tensor]) -> Tensor:
    """The fields of all levels added up on the finest one: ``(N, 3, K, J, I)``, voxels of that level."""
    return torch.stack(on_finest(fields)).sum(dim=0)


def force_agreement(force: Tensor, displacement: Tensor) -> dict[str, Tensor]:
    """How force and deformation, both ``(N, 3, K, J, I)``, go together over the volume.

    Returns
    -------
    dict
        ``cosine``: cosine between the two fields taken as one long vector each; ``magnitude``: Pearson
        correlation of their lengths.
    """
    lengths = torch.stack([length(force).flatten(), length(displacement).flatten()])
    return {"cosine": cosine_between(force, displacement), "magnitude": torch.corrcoef(lengths)[0, 1]}


def cosine_between(one: Tensor, other: Tensor) -> Tensor:
    """Cosine between two fields taken as one long vector each; 0 where one of them is 0."""
    cosine: Tensor = (one * other).sum() / (one.norm() * other.norm()).clamp_min(1e-6)
    return cosine
