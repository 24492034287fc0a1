"""Attention over neighbourhoods, within windows and over whole volumes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..fields import resize, squared_length
from .neighbourhoods import neighbour_products, neighbour_sum


class LocalAttention(nn.Module):
    """Each voxel of a feature map attends to the cube of voxels around it.

    Parameters
    ----------
    channels : int
        Channels of the feature map.
    radius : int
        Half the cube: 1 means 3 x 3 x 3 neighbours.
    dimension : int
        Channels of queries and keys.
    """

    def __init__(self, channels: int, radius: int, dimension: int = 8) -> None:
        super().__init__()
        self.radius = radius
        self.scale = 1 / math.sqrt(dimension)
        self.query = nn.Conv3d(channels, dimension, 1)
        self.key = nn.Conv3d(channels, dimension, 1)

    def forward(self, features: Tensor) -> Tensor:
        """The attention-weighted mean of the neighbours of each voxel, ``(N, C, K, J, I)`` to the same shape."""
        query = self.query(features) * self.scale
        weights = neighbour_products(query, self.key(features), self.radius).softmax(dim=1)
        return neighbour_sum(weights, features, self.radius)


class LocalMatch(nn.Module):
    """Local cross-attention as a match: where each voxel of one feature map is found in a cube of voxels of another.

    o(x) = sum_n (p_n - q_n) n over the steps n of the cube, with attention to the other map
    p = softmax_n(s e_F(x) . e_M(x + n)) and to its own q = softmax_n(s e_F(x) . e_F(x + n)). One embedding e of length
    one serves queries and keys, so that attention looks for what is alike; s, its sharpness, is learned. What is found
    in the other map counts from what is found in its own: where both are equal, the offset o is exactly 0.

    Parameters
    ----------
    channels : int
        Channels of both feature maps.
    dimension : int
        Channels of the embedding.
    radius : int
        Half the cube: 1 means 3 x 3 x 3 neighbours.
    """

    steps: Tensor

    def __init__(self, channels: int, dimension: int, radius: int) -> None:
        super().__init__()
        self.radius = radius
        self.embedding = nn.Conv3d(channels, dimension, 1)
        self.log_sharpness = nn.Parameter(torch.tensor(2.0))
        axis = torch.arange(-radius, radius + 1.0)
        steps = torch.cartesian_prod(axis, axis, axis).T[:, :, None, None, None]
        self.register_buffer("steps", steps, persistent=False)

    def forward(self, target: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        """Look in ``source`` (M) for ``target`` (F), both ``(N, C, K, J, I)``.

        Returns
        -------
        offset : Tensor
            ``(N, 3, K, J, I)``, the vector o to where each voxel is found, in voxels (k, j, i).
        certainty : Tensor
            Of attention to the other map, ``(N, 1, K, J, I)`` in 0..1.
        """
        asked, answering = (of_length_one(self.embedding(features).float()) for features in (target, source))
        query = asked * self.log_sharpness.exp()
        other, own = (neighbour_products(query, key, self.radius).softmax(dim=1) for key in (answering, asked))
        with torch.autocast(target.device.type, enabled=False):
            offset = F.conv3d(other - own, self.steps)
        return offset, certainty(other)


def of_length_one(vectors: Tensor) -> Tensor:
    """Vectors along the channels of ``(N, C, K, J, I)``, each scaled to length one; next to none stays next to none.

    torch's own takes eight times as long on a CPU.
    """
    return vectors * (squared_length(vectors) + 1e-12).rsqrt()


def certainty(weights: Tensor) -> Tensor:
    """One minus the normalised entropy of attention ``(N, n, K, J, I)``: 0 is undecided, 1 a single match."""
    entropy = -(weights * (weights + 1e-9).log()).sum(dim=1, keepdim=True)
    return 1 - entropy / math.log(weights.shape[1])


class GlobalSelfAttention(nn.Module):
    """Every voxel attends to every voxel, for the coarsest level; added to its input.

    Parameters
    ----------
    channels : int
        Channels of the feature map, divisible by ``heads``.
    heads : int
        Independent attentions over equal shares of the channels.

    Raises
    ------
    ValueError
        The channels cannot be shared equally.
    """

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels on the coarsest level are no multiple of the {heads} heads")
        self.heads = heads
        self.norm = nn.LayerNorm(channels)
        self.query_key_value = nn.Linear(channels, 3 * channels)
        self.output = nn.Linear(channels, channels)

    def forward(self, features: Tensor) -> Tensor:
        """``(N, C, k, j, i)`` to the same shape; memory grows with the square of the voxels."""
        channels, *shape = features.shape[1:]
        tokens = self.norm(features.flatten(2).transpose(1, 2))
        split = self.query_key_value(tokens).unflatten(2, (3, self.heads, channels // self.heads))
        query, key, value = split.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        fused: Tensor = features + self.output(attended).transpose(1, 2).unflatten(2, shape)
        return fused


class Windows:
    """A volume cut into boxes that do not overlap, each a list of tokens.

    Parameters
    ----------
    shape : sequence of int
        (K, J, I) of the volume; padded at its end where it is no multiple of the width.
    width : int, optional
        Of a box, voxels; without one a single box holds everything.
    """

    def __init__(self, shape: Sequence[int], width: Optional[int] = None) -> None:
        self.shape = tuple(shape)
        self.size = tuple(n if width is None else min(n, width) for n in shape)
        self.counts = tuple(math.ceil(n / w) for n, w in zip(self.shape, self.size))

    def split(self, volume: Tensor) -> Tensor:
        """``(N, C, K, J, I)`` to ``(N * boxes, tokens, C)``; padding is 0."""
        (a, b, c), (k, j, i) = self.counts, self.size
        excess = [n * w - full for n, w, full in zip(self.counts, self.size, self.shape)]
        padded = F.pad(volume, [0, excess[2], 0, excess[1], 0, excess[0]])
        boxes = padded.reshape(*volume.shape[:2], a, k, b, j, c, i).permute(0, 2, 4, 6, 3, 5, 7, 1)
        return boxes.reshape(-1, k * j * i, volume.shape[1])

    def join(self, tokens: Tensor) -> Tensor:
        """The inverse of :meth:`split`; what stood for padding is dropped."""
        (a, b, c), (k, j, i) = self.counts, self.size
        boxes = tokens.reshape(-1, a, b, c, k, j, i, tokens.shape[2]).permute(0, 7, 1, 4, 2, 5, 3, 6)
        volume = boxes.reshape(-1, tokens.shape[2], a * k, b * j, c * i)
        return volume[:, :, : self.shape[0], : self.shape[1], : self.shape[2]]

    def valid(self, device: torch.device) -> Tensor:
        """Which tokens are voxels and not padding: boolean ``(boxes, tokens)``."""
        return self.split(torch.ones(1, 1, *self.shape, device=device))[:, :, 0] > 0

    def positions(self, device: torch.device) -> Tensor:
        """Position of each token in its box, ``(tokens, 3)``, voxels (k, j, i) from the middle of the box."""
        axes = [torch.arange(n, device=device) - (n - 1) / 2 for n in self.size]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)

    @property
    def padded(self) -> bool:
        """Whether some tokens are padding."""
        return any(n * w != full for n, w, full in zip(self.counts, self.size, self.shape))


def rotate_by_position(tokens: Tensor, positions: Tensor) -> Tensor:
    """Rotary position encoding in three dimensions (Su et al., 2021; arXiv 2104.09864).

    Pairs of channels are turned by angles proportional to the position, so that the product of a query and a
    key depends on their contents and on the vector between them alone. About half of the channels are turned;
    the others compare contents wherever they are.

    Parameters
    ----------
    tokens : Tensor
        ``(..., T, D)`` with D at least 6.
    positions : Tensor
        ``(T, 3)``, voxels.
    """
    per_axis = max(1, tokens.shape[-1] // 12)
    # Radians a voxel: the fastest tells neighbours apart without turning full circle within 12 voxels.
    speeds = 0.5 * 0.25 ** torch.arange(per_axis, device=tokens.device)
    angles = (positions[:, :, None] * speeds).flatten(1)
    turned = 2 * angles.shape[1]
    even, odd, rest = tokens[..., 0:turned:2], tokens[..., 1:turned:2], tokens[..., turned:]
    cosine, sine = angles.cos(), angles.sin()
    return torch.cat([even * cosine - odd * sine, even * sine + odd * cosine, rest], dim=-1)


def attend(query: Tensor, key: Tensor, value: Tensor, valid: Optional[Tensor] = None) -> Tensor:
    """Scaled dot-product attention, whose value may have more channels than the query.

    Parameters
    ----------
    query, key : Tensor
        ``(B, heads, T, D)``, the query with its scale applied.
    value : Tensor
        ``(B, heads, T, E)``, E at least D.
    valid : Tensor, optional
        Boolean ``(B, T)``: keys that may be attended to.

    Returns
    -------
    Tensor
        ``(B, heads, T, E)``.
    """
    # Kernels that never hold the T x T weights want equal widths; zeros do not change the products.
    extra = value.shape[-1] - query.shape[-1]
    query, key = F.pad(query * math.sqrt(value.shape[-1]), [0, extra]), F.pad(key, [0, extra])
    mask = None if valid is None else valid[:, None, None]
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


class Matches(NamedTuple):
    """What each voxel of one feature map found in another; all ``(N, ., K, J, I)``."""

    gathered: Tensor
    """The attention-weighted mean of the other's values, ``C`` channels."""
    offset: Tensor
    """Where it was found: the vector to the mean attended position, three channels (k, j, i), in voxels."""
    certainty: Tensor
    """In 0..1: one minus the variance of the attended position relative to that of uniform attention."""


class CrossAttention(nn.Module):
    """Each voxel of one feature map attends to the voxels of another, everywhere or within its window.

    Queries and keys share one embedding of length one, so attention looks for what is alike, and what x sees in
    y is what y sees in x before each normalises over its own candidates. Beside the values, attention averages the
    positions and their squares: the offset and the certainty of the match, with no weights kept in memory.

    Parameters
    ----------
    channels : int
        Channels of both feature maps.
    window : int, optional
        Width of the windows in voxels: memory grows linearly with the voxels. Without one every voxel sees
        every other.
    width : int
        Channels of each head; one head for every ``width`` channels.
    """

    def __init__(self, channels: int, window: Optional[int] = None, width: int = 16) -> None:
        super().__init__()
        self.window = window
        self.heads = max(1, channels // width)
        self.norm = nn.LayerNorm(channels)
        self.embedding = nn.Linear(channels, self.heads * width)
        self.value = nn.Linear(channels, self.heads * width)
        self.output = nn.Linear(self.heads * width, channels)
        self.log_sharpness = nn.Parameter(torch.full((self.heads, 1, 1), 2.0))

    def forward(self, target: Tensor, source: Tensor) -> Matches:
        """What ``target`` finds in ``source``, both ``(N, C, K, J, I)``."""
        windows = Windows(target.shape[2:], self.window)
        positions, valid = windows.positions(target.device), windows.valid(target.device)
        asking, answering = self.norm(windows.split(target)), self.norm(windows.split(source))
        query, key = (rotate_by_position(self._embed(tokens), positions) for tokens in (asking, answering))
        moments = torch.cat([positions, positions.square().sum(dim=1, keepdim=True)], dim=1)
        value = self._heads(self.value(answering))
        value = torch.cat([value, moments.expand(*value.shape[:2], -1, -1)], dim=-1)
        everywhere = valid.repeat(target.shape[0], 1) if windows.padded else None
        # In full precision: a variance of positions is a small difference of large numbers.
        with torch.autocast(target.device.type, enabled=False):
            attended = attend(query * self.log_sharpness.exp(), key, value, everywhere)
        gathered, found = attended.split([value.shape[-1] - 4, 4], dim=-1)
        offset, certain = _read_moments(found, positions, moments, valid)
        gathered = self.output(gathered.transpose(1, 2).flatten(2))
        return Matches(windows.join(gathered), windows.join(offset), windows.join(certain))

    def _embed(self, tokens: Tensor) -> Tensor:
        return F.normalize(self._heads(self.embedding(tokens)), dim=-1)

    def _heads(self, tokens: Tensor) -> Tensor:
        heads: Tensor = tokens.float().unflatten(2, (self.heads, -1)).transpose(1, 2)
        return heads


def _read_moments(found: Tensor, positions: Tensor, moments: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Attended moments ``(B, heads, T, 4)`` to offset ``(B, T, 3)`` and certainty ``(B, T, 1)``, over the heads."""
    share = valid / valid.sum(dim=1, keepdim=True)
    uniform = _variance(share @ moments).repeat(found.shape[0] // valid.shape[0], 1)[:, None, None]
    certain = (1 - _variance(found) / uniform.clamp_min(1e-3)).clamp(0, 1)
    # Uniform attention finds the middle of its window, which says nothing: an offset counts as far as certain.
    offset = certain * (found[..., :3] - positions)
    return offset.mean(dim=1), certain.mean(dim=1)


def _variance(moments: Tensor) -> Tensor:
    mean, square = moments.split([3, 1], dim=-1)
    variance: Tensor = square - mean.square().sum(dim=-1, keepdim=True)
    return variance


class BidirectionalCrossAttention(nn.Module):
    """Two feature maps attend to each other, with the same weights in both directions; added to each.

    Parameters as in :class:`CrossAttention`.
    """

    def __init__(self, channels: int, window: Optional[int] = None) -> None:
        super().__init__()
        self.attention = CrossAttention(channels, window)

    def forward(self, fixed: Tensor, moving: Tensor) -> tuple[Tensor, Tensor, Matches, Matches]:
        """Both ``(N, C, K, J, I)`` enriched, and the matches fixed to moving and moving to fixed."""
        forward, backward = self.attention(fixed, moving), self.attention(moving, fixed)
        return fixed + forward.gathered, moving + backward.gathered, forward, backward


class RegionalAttention(nn.Module):
    """A gate over regions: a factor in 0..1 per channel times one per voxel, seen at several receptive fields.

    Parameters
    ----------
    channels : int
        Channels of the feature map.
    dilations : sequence of int
        Reach of the 3 x 3 x 3 depthwise convolutions, in voxels of half the resolution.
    """

    def __init__(self, channels: int, dilations: Sequence[int] = (1, 2, 4)) -> None:
        super().__init__()
        hidden = max(4, channels // 4)
        self.channel = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))
        self.reduce = nn.Conv3d(channels, hidden, 1)
        self.fields = nn.ModuleList(
            nn.Conv3d(hidden, hidden, 3, padding=d, dilation=d, groups=hidden) for d in dilations
        )
        self.spatial = nn.Conv3d(hidden * len(dilations), 1, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Features times gate, ``(N, C, K, J, I)``; nothing passes beside the gate."""
        channel = self.channel(features.mean(dim=(2, 3, 4))).sigmoid()[:, :, None, None, None]
        # Regions are large: half the resolution doubles the reach at an eighth of the cost.
        halves = [min(2, n) for n in features.shape[2:]]
        regions = self.reduce(F.avg_pool3d(features, halves, ceil_mode=True))
        # In full precision: torch's bfloat16 gradients are wrong on volumes smaller than a kernel (CPU).
        with torch.autocast(features.device.type, enabled=False):
            seen = torch.cat([F.leaky_relu(field(regions.float()), 0.1) for field in self.fields], dim=1)
        spatial = resize(self.spatial(seen), features.shape[2:]).sigmoid()
        gated: Tensor = features * (channel * spatial)
        return gated
