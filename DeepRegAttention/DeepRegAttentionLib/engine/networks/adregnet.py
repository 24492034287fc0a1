"""AD-RegNet: two images attend to each other, and a field per resolution is fused by learned weights.

"Attention-Driven Framework for Non-Rigid Medical Image Registration" (arXiv 2602.07088).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Optional

import torch
from torch import Tensor, nn

from ..fields import exponentiate, resize_field, smooth, warp
from .attention import BidirectionalCrossAttention, RegionalAttention
from .blocks import DecoderBlock, Encoder, NetworkOutput, RegistrationNetwork, contribution, set_to_zero


class LevelResult(NamedTuple):
    """What one level contributes, of N pairs fixed to moving and then of the same moving to fixed."""

    features: Tensor
    """Decoded and gated, ``(2 N, C, k, j, i)``."""
    velocity: Tensor
    """Fused with the coarser levels, ``(2 N, 3, k, j, i)``, voxels of this level."""
    pull: Tensor
    """What the gated features of each place want, before it is smoothed and fused, ``(2 N, 3, k, j, i)``."""


class Level(nn.Module):
    """One resolution of the decoder: attend, decode, gate, move, fuse.

    Parameters
    ----------
    channels : int
        Of the encoder's features and of the result.
    coarser : int
        Channels of the coarser level's result; 0 at the coarsest.
    attention : BidirectionalCrossAttention, optional
        How the two images attend to each other here.
    negligible : float
        See :class:`ADRegNet`.
    """

    def __init__(
        self, channels: int, coarser: int, attention: Optional[BidirectionalCrossAttention], negligible: float
    ) -> None:
        super().__init__()
        self.attention = attention
        self.negligible = negligible
        skip = 3 * channels + (8 if attention is not None else 0)
        self.decoder = DecoderBlock(skip, coarser, channels)
        self.regions = RegionalAttention(channels)
        self.velocity = nn.Conv3d(channels, 3, 3, padding=1)
        # Training starts close to the identity, but not at it: there no gradient would reach the features.
        set_to_zero(self.velocity)
        nn.init.normal_(self.velocity.weight, std=0.01)
        self.fusion = FieldFusion(channels) if coarser else None

    def forward(self, fixed: Tensor, moving: Tensor, coarser: Optional[LevelResult]) -> LevelResult:
        """Fixed and warped moving features ``(N, C, k, j, i)``, and the coarser level's result."""
        differ = self._differ(fixed, moving) if self.negligible else None
        there, back = [], []
        if self.attention is not None:
            fixed, moving, *matches = self.attention(fixed, moving)
            there, back = ([match.offset, match.certainty] for match in matches)
        pair = torch.cat([fixed, moving, fixed - moving, *there, *back], dim=1)
        exchanged = torch.cat([moving, fixed, moving - fixed, *back, *there], dim=1)
        skip = torch.cat([pair, exchanged])
        decoded = self.decoder(skip, None if coarser is None else coarser.features)
        features = self.regions(decoded)
        pull = self.velocity(features).float()
        pull = pull if differ is None else pull * torch.cat([differ, differ])
        velocity = smooth(pull, 1.0)
        if self.fusion is not None and coarser is not None:
            velocity = self.fusion(features, coarser.velocity, velocity)
        return LevelResult(features, velocity, pull)

    def _differ(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """E / (E + negligible), E the mean squared difference of the features around a place: ``(N, 1, k, j, i)``."""
        energy = smooth((fixed - moving).float().square().mean(dim=1, keepdim=True), 1.0)
        return energy / (energy + self.negligible)


class FieldFusion(nn.Module):
    """Two velocities become one: ``a(x)`` times the coarser plus ``b(x)`` times the finer.

    The learned weights are positive and add up to two, so that equal trust in both adds them.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weights = nn.Conv3d(channels, 2, 1)
        set_to_zero(self.weights)

    def forward(self, features: Tensor, coarser: Tensor, finer: Tensor) -> Tensor:
        """Features ``(N, C, K, J, I)`` weigh velocities ``(N, 3, k, j, i)`` and ``(N, 3, K, J, I)``."""
        a, b = (2 * smooth(self.weights(features).float(), 1.0).softmax(dim=1)).split(1, dim=1)
        fused: Tensor = a * resize_field(coarser, finer.shape[2:]) + b * finer
        return fused


class ADRegNet(RegistrationNetwork):
    """The network: ``(N, 1, K, J, I)`` fixed and moving in 0..1 to a :class:`NetworkOutput`.

    A shared U-Net encoder sees both images. From coarse to fine, the moving features are warped by the field so
    far and both attend to each other: every voxel to every voxel on the coarsest level, within windows
    above, not at all on the finest. Every level decodes the pair and the pair exchanged, v(F, M) and v(M, F), with the
    same weights and in one batch; its velocity is (v(F, M) - v(M, F)) / 2, so exchanging what it sees reverses it and
    equal images do not move. It is fused with those before and integrated, so that each displacement is the exponential
    of the velocity beside it.

    Its map ``attention`` is what each place contributed to the motion: the lengths of what its gated features want,
    over all levels.

    Parameters
    ----------
    channels : sequence of int
        Features per level, fine to coarse; each level halves the resolution.
    window : int
        Width of the windows of attention, voxels of their level.
    self_similarity : bool
        Whether the encoder sees self-similarity and not intensities, for images of different contrast.
    negligible : float
        Mean squared difference of the features, whose variance is about 1, at which a place pulls half as much; where
        nothing differs nothing pulls. With 0 all differences pull as they are.
    """

    def __init__(
        self,
        channels: Sequence[int] = (8, 16, 32, 64),
        window: int = 4,
        self_similarity: bool = False,
        negligible: float = 0.0,
    ) -> None:
        super().__init__()
        if len(channels) < 2 or window < 2:
            raise ValueError("it needs at least two levels and windows of at least two voxels")
        if negligible < 0:
            raise ValueError("negligible must be at least 0")
        self.multiple = 2 ** (len(channels) - 1)
        self.feature_channels = tuple(channels)[::-1]
        self.encoder = Encoder(channels, self_similarity)
        windows: list[Optional[int]] = [None, *[window] * (len(channels) - 2)]
        attentions = [BidirectionalCrossAttention(c, w) for c, w in zip(self.feature_channels, windows)]
        self.levels = nn.ModuleList(
            Level(c, coarser, attention, negligible)
            for c, coarser, attention in zip(self.feature_channels, (0, *self.feature_channels), [*attentions, None])
        )

    def align(self, fixed: Sequence[Tensor], moving: Sequence[Tensor], noise: Tensor) -> NetworkOutput:
        """A single pass over the features of both images, coarse to fine, ``(N, C_l, k, j, i)``."""
        output = NetworkOutput([], [])
        result: Optional[LevelResult] = None
        pulls: list[Tensor] = []
        for f, m, level in zip(fixed, moving, self.levels):
            if output.displacements:
                m = warp(m, resize_field(output.displacement, f.shape[2:]))
            result = level(f, m, result)
            pulls.append(half_difference(result.pull))
            output.velocities.append(half_difference(result.velocity))
            output.displacements.append(exponentiate(output.velocities[-1]))
            output.features.append(result.features[: len(f)])
        output.maps = {"attention": contribution(pulls)}
        return output


def half_difference(fields: Tensor) -> Tensor:
    """What changes sign with the exchange, of fields ``(2 N, 3, k, j, i)`` of N pairs and of the same exchanged."""
    there, back = fields.chunk(2)
    return (there - back) / 2
