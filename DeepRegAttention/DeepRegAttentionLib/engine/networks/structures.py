"""Structures recognised in each image: what a network trained with labels also tells the refinement."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from .blocks import DecoderBlock, Encoder, NetworkOutput, RegistrationNetwork


class StructureNetwork(nn.Module):
    """A U-Net from one image to the share of each voxel that each structure fills.

    Parameters
    ----------
    channels : sequence of int
        Features per level, fine to coarse; each level halves the resolution.
    structures : int
        How many are told apart, beside what is none of them.
    level : int
        Where it ends: 0 on the image's own grid, 1 at half the resolution, at an eighth of the memory.

    Raises
    ------
    ValueError
        There is no such level above the coarsest one.
    """

    def __init__(self, channels: Sequence[int], structures: int, level: int = 0) -> None:
        super().__init__()
        if not 0 <= level < len(channels) - 1:
            raise ValueError(f"structures end on a level from 0 to {len(channels) - 2}")
        self.encoder = Encoder(channels)
        upwards = list(channels)[level:][::-1]
        self.steps = nn.ModuleList(DecoderBlock(c, below, c) for below, c in zip(upwards, upwards[1:]))
        self.classes = nn.Conv3d(channels[level], structures + 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        """``(N, 1, K, J, I)`` in 0..1 to shares ``(N, 1 + S, k, j, i)`` that add up to 1; the first is that of none."""
        decoded, *finer = self.encoder(image)[::-1]
        for step, level in zip(self.steps, finer):
            decoded = step(level, decoded)
        shares: Tensor = self.classes(decoded).float().softmax(dim=1)
        return shares


class RecognisingStructures(RegistrationNetwork):
    """A network, and a second one beside it that recognises labelled structures in each image by itself.

    Registration is the first one's alone; the refinement then aligns what the second one sees.

    Parameters
    ----------
    network : RegistrationNetwork
        With at least two levels.
    labels : sequence of int
        Of the structures, as in the label maps of the training.
    level : int
        See :class:`StructureNetwork`.
    """

    def __init__(self, network: RegistrationNetwork, labels: Sequence[int], level: int = 0) -> None:
        super().__init__()
        self.network = network
        self.multiple = network.multiple
        self.feature_channels = network.feature_channels
        self.labels = tuple(labels)
        self.structures = StructureNetwork(network.feature_channels[::-1], len(self.labels), level)

    def begin(self) -> None:
        """Take over what the registering network has learned to see in an image, where it sees intensities."""
        encoder = next(part for part in self.network.modules() if isinstance(part, Encoder))
        if not encoder.self_similarity:
            self.structures.encoder.load_state_dict(encoder.state_dict())

    def forward(self, fixed: Tensor, moving: Tensor) -> NetworkOutput:
        """As the network."""
        output: NetworkOutput = self.network(fixed, moving)
        return output
