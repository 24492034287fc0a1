"""Spatially varying regularization: any network also predicts how strongly each place is to be regularized.

"Unsupervised learning of spatially varying regularization for diffeomorphic image registration" (arXiv
2412.17982); see :mod:`DeepRegAttentionLib.engine.regularization` for the model behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from torch import Tensor, nn

from ..fields import resize
from .blocks import DecoderBlock, NetworkOutput, RegistrationNetwork


class StrengthDecoder(nn.Module):
    """Features of a network to the relative strength w(x) in (0, 1), at half the finest resolution.

    Parameters
    ----------
    feature_channels : sequence of int
        Channels of the network's features, coarse to fine; the finest level is not used.
    width : int
        Channels of the decoder.
    """

    def __init__(self, feature_channels: Sequence[int], width: int = 12) -> None:
        super().__init__()
        used = list(feature_channels)[:-1]
        coarser = [0, *[width] * (len(used) - 1)]
        self.steps = nn.ModuleList(DecoderBlock(c, below, width) for c, below in zip(used, coarser))
        self.strength = nn.Conv3d(width, 1, 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Features ``(N, C_l, k, j, i)``, coarse to fine, to w ``(N, 1, K, J, I)`` on the finest level."""
        decoded: Optional[Tensor] = None
        for step, level in zip(self.steps, features):
            decoded = step(level, decoded)
        return resize(self.strength(decoded).float().sigmoid(), features[-1].shape[2:])


class SpatiallyVarying(RegistrationNetwork):
    """A network and a light decoder of its features, whose answer also holds the local strength.

    Parameters
    ----------
    network : RegistrationNetwork
        With at least two levels.
    """

    def __init__(self, network: RegistrationNetwork) -> None:
        super().__init__()
        self.network = network
        self.multiple = network.multiple
        self.feature_channels = network.feature_channels
        self.strength = StrengthDecoder(network.feature_channels)

    def forward(self, fixed: Tensor, moving: Tensor) -> NetworkOutput:
        """As the network, with ``regularization`` = w(x): lambda(x) is the maximum strength times w(x)."""
        output: NetworkOutput = self.network(fixed, moving)
        output.regularization = self.strength(output.features)
        return output
