"""Pairs of images for training, seen exactly as a registration would see them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from ..dataset import ImageFiles, Pair, choose_pairs, read_cases, select
from ..engine.errors import OptionError
from ..engine.geometry import Grid, points_to_voxels, resample, to_tensor, working_grid
from ..engine.images import check_image, read_image
from ..engine.intensity import IntensityRecipe, normalise
from ..engine.landmarks import read_landmarks, require_pairs, transform_landmarks
from ..engine.prealign import prealign
from .augmentation import (
    Augmentation,
    Motion,
    chained,
    intensity_changes,
    linear,
    mirror,
    random_deformation,
    random_pose,
    swapped,
)
from .options import TrainingOptions
from .synthetic import SyntheticPairs

Item = dict[str, Tensor]
CACHE_BYTES = 4 * 2**30
"""How much memory the images that have been read may take, in each process."""


class ImageCache:
    """Images by what made them, the latest used first; a copy for another process begins empty.

    Parameters
    ----------
    limit : int
        Bytes that the images may take.
    """

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self.limit = limit
        self._images: OrderedDict[tuple[str, Path], sitk.Image] = OrderedDict()
        self._bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        return {"limit": self.limit, "_images": OrderedDict(), "_bytes": 0}

    def get(self, kind: str, path: Path, read: Callable[[Path], sitk.Image]) -> sitk.Image:
        """The image of that kind that a file holds, read if it is not here."""
        key = (kind, path)
        if key not in self._images:
            self._images[key] = read(path)
            self._bytes += _bytes(self._images[key])
            while self._bytes > self.limit and len(self._images) > 1:
                self._bytes -= _bytes(self._images.popitem(last=False)[1])
        self._images.move_to_end(key)
        return self._images[key]


def _bytes(image: sitk.Image) -> int:
    size: int = image.GetNumberOfPixels() * image.GetNumberOfComponentsPerPixel() * image.GetSizeOfPixelComponent()
    return size


class PlacedCase(NamedTuple):
    """One case of a pair, and where it is put on the working grid."""

    role: str
    """``fixed`` or ``moving``."""
    case: ImageFiles
    motion: Motion
    """From the grid's points to the image's."""


class Change:
    """One draw of the augmentation.

    Parameters
    ----------
    augmentation : Augmentation
        What may change.
    intensities : callable
        As :func:`~.augmentation.intensity_changes` returns it.
    random : numpy.random.Generator
        Decides what does.
    still : bool
        Whether both images change their pose and shape alike, so that nothing moves between them.
    """

    def __init__(
        self,
        augmentation: Augmentation,
        intensities: Callable[[Tensor, int], Tensor],
        random: np.random.Generator,
        still: bool = False,
    ) -> None:
        self.augmentation = augmentation
        self.intensities = intensities
        self.random = random
        self.still = still
        flip = augmentation.flip
        self.mirrored = flip is not None and random.random() < flip.probability

    def motions(self, grid: Grid) -> list[Motion]:
        """For each image, from the grid's points to those where it lay before."""
        side = linear(mirror(grid) if self.mirrored else sitk.Transform(3, sitk.sitkIdentity))
        poses = [linear(random_pose(grid, self.augmentation.affine, self.random)) for _ in range(2)]
        shapes = [random_deformation(grid, self.augmentation.elastic, self.random) for _ in range(2)]
        motions = [chained([pose, side, shape]) for pose, shape in zip(poses, shapes)]
        return motions[:1] * 2 if self.still else motions

    def finish(self, item: Item) -> Item:
        """Change the intensities, and the labels' sides if the images are mirrored."""
        swap = self.augmentation.flip.swap_labels if self.augmentation.flip is not None else None
        for name in ("fixed", "moving"):
            item[name] = self.intensities(item[name], int(self.random.integers(2**31)))
            if self.mirrored and swap and f"{name}_labels" in item:
                item[f"{name}_labels"] = swapped(item[f"{name}_labels"], swap)
        return item


class PairReader:
    """Brings a pair of cases to the fixed working grid.

    Parameters
    ----------
    multiple : int
        Each side of the working grid is a multiple of so many voxels.
    recipe : IntensityRecipe
        Intensities to 0..1.
    keep, drop : sequence of int
        Labels that count, if not all do, and labels that do not; the others become 0.
    centroids : bool
        Whether landmarks are the centroids of the labels, and not those of files.
    alignment : str
        ``"affine"`` aligns the images as a registration does, ``"middles"`` puts the middles of their grids on each
        other.
    """

    def __init__(
        self,
        multiple: int,
        recipe: IntensityRecipe,
        keep: Sequence[int] = (),
        drop: Sequence[int] = (),
        centroids: bool = False,
        alignment: str = "middles",
    ) -> None:
        self.multiple = multiple
        self.recipe = recipe
        self.keep = tuple(keep)
        self.drop = tuple(drop)
        self.centroids = centroids
        self.alignment = alignment
        self.cache = ImageCache()
        self._aligned: dict[tuple[Path, Path], sitk.Transform] = {}

    @classmethod
    def of(cls, options: TrainingOptions, multiple: int) -> PairReader:
        """As a configuration wants pairs to be read."""
        data, keep = options.data, tuple(options.structures.values())
        return cls(multiple, options.intensity, keep, options.ignore_labels, data.centroids, data.alignment)

    def read(self, pair: Pair, spacing: float, labels: bool, landmarks: bool, change: Optional[Change] = None) -> Item:
        """Images, fixed mask and, if asked for, labels and landmarks of a pair; see :class:`PairDataset`."""
        grid = working_grid(self._image(pair[0]), spacing, self.multiple, on_voxels=True)
        aligned = linear(self._align(pair, grid))
        still = linear(sitk.Transform(3, sitk.sitkIdentity))
        own, other = (still, still) if change is None else change.motions(grid)
        both = [PlacedCase("fixed", pair[0], own), PlacedCase("moving", pair[1], chained([aligned, other]))]
        item: Item = {}
        for placed in both:
            image = resample(self._image(placed.case), grid, placed.motion.there, extended=True)
            item[placed.role] = to_tensor(image)[0]
            if labels or (landmarks and self.centroids):
                item[f"{placed.role}_labels"] = self._labels(placed, grid)
        if pair[0].mask is not None:
            mask = self.cache.get("mask", pair[0].mask, _read_mask)
            item["fixed_mask"] = to_tensor(resample(mask, grid, own.there, nearest=True))[0]
        if landmarks:
            item.update(centroids(item) if self.centroids else _landmarks(both, grid))
            item["spacing"] = torch.tensor(float(grid.spacing[0]))
        return item if change is None else change.finish(item)

    def _align(self, pair: Pair, grid: Grid) -> sitk.Transform:
        """Points of the fixed image, which is seen on a grid, to moving points, LPS mm."""
        fixed, moving = (self._image(case) for case in pair)
        if self.alignment == "middles" or pair[0] is pair[1]:
            return sitk.TranslationTransform(3, _between_middles(Grid.of(fixed), Grid.of(moving), grid).tolist())
        key = (pair[0].image, pair[1].image)
        if key not in self._aligned:
            self._aligned[key] = prealign(fixed, moving, self.alignment)
        return self._aligned[key]

    def _image(self, case: ImageFiles) -> sitk.Image:
        return self.cache.get("image", case.image, self._read_normalised)

    def _read_normalised(self, path: Path) -> sitk.Image:
        image = read_image(path)
        check_image(image, path.name)
        values = normalise(sitk.GetArrayViewFromImage(image), self.recipe)
        return Grid.of(image).place(sitk.GetImageFromArray(values))

    def _labels(self, placed: PlacedCase, grid: Grid) -> Tensor:
        assert placed.case.labels is not None
        image = resample(
            self.cache.get("labels", placed.case.labels, read_image), grid, placed.motion.there, nearest=True
        )
        labels = torch.from_numpy(sitk.GetArrayFromImage(image).astype(np.int32))[None]
        if self.keep:
            labels = torch.where(torch.isin(labels, torch.tensor(self.keep)), labels, 0)
        return torch.where(torch.isin(labels, torch.tensor(self.drop)), 0, labels) if self.drop else labels


def _between_middles(fixed: Grid, moving: Grid, seen: Grid) -> np.ndarray:
    """From the middle of one grid to that of the other, LPS mm.

    Half a voxel less along an axis on which the moving image would be seen halfway between its voxels, although it
    has the spacing of the grid that both are seen on: there labels are anybody's guess.
    """
    way = moving.centre - fixed.centre
    between = moving.index(np.array(seen.origin) + way) % 1
    same = np.isclose(moving.spacing, seen.spacing, rtol=1e-3) & np.allclose(moving.direction, seen.direction)
    halfway = same & np.isclose(between, 0.5, atol=1e-3)
    to_voxels: np.ndarray = way - moving.voxel_to_mm @ np.where(halfway, 0.5, 0.0)
    return to_voxels


def _read_mask(path: Path) -> sitk.Image:
    mask: sitk.Image = sitk.Cast(read_image(path) != 0, sitk.sitkUInt8)
    return mask


def _landmarks(both: Sequence[PlacedCase], grid: Grid) -> Item:
    files = [placed.case.landmarks for placed in both]
    assert files[0] is not None
    assert files[1] is not None
    points = require_pairs(read_landmarks(files[0]), read_landmarks(files[1]))
    item = {}
    for placed, own in zip(both, points):
        # To where the image shows them on the grid.
        shown = transform_landmarks(own, placed.motion.back)
        item[f"{placed.role}_landmarks"] = points_to_voxels(shown.points, grid)
    return item


def centroids(item: Item) -> Item:
    """Of the labels that both maps of an item have: ``fixed_landmarks``, ``moving_landmarks`` ``(P, 3)``, voxels."""
    maps = {role: item[f"{role}_labels"][0] for role in ("fixed", "moving")}
    present = [set(labels.unique().tolist()) - {0} for labels in maps.values()]
    common = sorted(present[0] & present[1])
    return {f"{role}_landmarks": _middles(labels)[common] for role, labels in maps.items()}


def _middles(labels: Tensor) -> Tensor:
    """The mean place (k, j, i) of every number of ``(K, J, I)``: ``(largest + 1, 3)``; NaN where it is absent."""
    numbers = labels.flatten().long()
    axes = torch.meshgrid(*(torch.arange(float(n)) for n in labels.shape), indexing="ij")
    sums = [torch.bincount(numbers, weights=axis.flatten()) for axis in axes]
    return (torch.stack(sums, dim=1) / torch.bincount(numbers)[:, None]).float()


def _all_have(pairs: Sequence[Pair], what: str) -> bool:
    return all(getattr(case, what) is not None for pair in pairs for case in pair)


def _require_labels(pairs: Sequence[Pair], option: str) -> None:
    for case in (case for pair in pairs for case in pair):
        if case.labels is None:
            raise OptionError(f"“{option}” needs a label map of every case; “{case.name}” has none.")


class PairDataset(Dataset[Item]):
    """Fixed and moving image, and label maps and landmarks if all cases have them, on the fixed working grid.

    Each item holds ``fixed`` and ``moving`` ``(1, K, J, I)`` in 0..1; ``fixed_mask`` of 0 and 1 if the fixed case has
    a mask; if asked for, ``fixed_labels`` and ``moving_labels`` (same shape, integers), and ``fixed_landmarks`` and
    ``moving_landmarks`` ``(P, 3)`` in voxels (k, j, i), with ``spacing`` in mm. Images are read when they are first
    needed and kept normalised in memory, as far as :data:`CACHE_BYTES` go.
    """

    def __init__(
        self, pairs: Sequence[Pair], spacing: float, reader: PairReader, labels: bool, landmarks: bool = False
    ) -> None:
        self.pairs = list(pairs)
        self.spacing = spacing
        self.reader = reader
        self.labels = labels and _all_have(pairs, "labels")
        self.landmarks = landmarks and _all_have(pairs, "labels" if reader.centroids else "landmarks")

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> Item:
        """One pair."""
        return self.reader.read(self.pairs[index], self.spacing, self.labels, self.landmarks)


class TrainingDraws(Dataset[Item]):
    """Random pairs for training: item n depends on the seed and on n alone.

    So a run that is resumed, shared by several devices or fed by several processes sees the very same pairs.

    Parameters
    ----------
    pairs : sequence of Pair
        To draw from.
    options : TrainingOptions
        Of the run.
    multiple : int
        Each side of the working grid is a multiple of so many voxels.
    start_draws : int
        So many draws are on the grid of ``options.start_spacing``.

    Raises
    ------
    OptionError
        Labels have a weight and a case has none; or a share of the draws is to be labelled, and all pairs or none are.
    """

    def __init__(self, pairs: Sequence[Pair], options: TrainingOptions, multiple: int, start_draws: int) -> None:
        self.pairs = list(pairs)
        self.options = options
        self.start_draws = start_draws
        self.labels = options.uses_labels
        self.supervised, self.others = _supervised(self.pairs, options.data.labelled)
        if self.labels:
            _require_labels(self.supervised, "learn" if options.learns_structures else "weights.labels")
        centroids = options.data.centroids
        if centroids:
            _require_labels(self.supervised, "data.centroids")
        self.landmarks = options.weights.landmarks > 0 and (centroids or _all_have(self.supervised, "landmarks"))
        self.reader = PairReader.of(options, multiple)
        self.intensities = intensity_changes(options.augmentation)

    def __getitem__(self, n: int) -> Item:
        """The n-th draw."""
        random = np.random.default_rng((self.options.seed, n))
        share = self.options.data.labelled
        supervised = share is None or bool(random.random() < share)
        labels, landmarks = self.labels and supervised, self.landmarks and supervised
        pairs = self.supervised if supervised else self.others
        pair = pairs[random.integers(len(pairs))]
        spacing = self.options.start_spacing if n < self.start_draws else self.options.spacing
        assert spacing is not None  # with cases there is one, see TrainingOptions
        equal = self.options.data.equal
        still = equal > 0 and bool(random.random() < equal)
        if still:
            pair = (pair[0], pair[0])
        change = Change(self.options.augmentation, self.intensities, random, still)
        item = self.reader.read(pair, spacing, labels, landmarks, change)
        count = None if self.options.learns_structures else self.options.labels_a_step
        return item if count is None or not labels else some_labels(item, count, random)


def _supervised(pairs: list[Pair], share: Optional[float]) -> tuple[list[Pair], list[Pair]]:
    """Pairs that are supervised, those of cases with label maps, and the others; without a share all are."""
    if share is None:
        return pairs, []
    supervised = [pair for pair in pairs if _all_have([pair], "labels")]
    others = [pair for pair in pairs if not _all_have([pair], "labels")]
    if not supervised or not others:
        raise OptionError("“data.labelled” needs pairs of cases with label maps and pairs of others.")
    return supervised, others


def some_labels(item: Item, count: int, random: np.random.Generator) -> Item:
    """The item with so many labels of its fixed map, chosen by chance; the others become 0 in both maps."""
    present = [label for label in item["fixed_labels"].unique().tolist() if label != 0]
    chosen = torch.tensor(random.choice(present, min(count, len(present)), replace=False))
    maps = {name: item[name] for name in ("fixed_labels", "moving_labels")}
    return {**item, **{name: torch.where(torch.isin(labels, chosen), labels, 0) for name, labels in maps.items()}}


class EpochSampler(Sampler[int]):
    """The numbers of the draws of one epoch on one of several devices; Lightning says which epoch begins.

    Parameters
    ----------
    length : int
        Draws of an epoch on each device.
    rank, devices : int
        Which device of how many: draw n goes to device n modulo ``devices``.
    """

    def __init__(self, length: int, rank: int = 0, devices: int = 1) -> None:
        self.length, self.rank, self.devices = length, rank, devices
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Begin with the first draw of an epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Draws of an epoch."""
        return self.length

    def __iter__(self) -> Iterator[int]:
        first = self.epoch * self.length
        return iter(n * self.devices + self.rank for n in range(first, first + self.length))


class Split(NamedTuple):
    """What is trained on and what chooses the weights; what is under ``test`` is in neither."""

    training: list[Pair]
    validation: list[Pair]


def split_pairs(options: TrainingOptions) -> Split:
    """The pairs of a configuration.

    Raises
    ------
    OptionError
        Nothing is left to train on, the validation cases make no pair, or a name under ``validation``, ``test`` or
        ``atlas`` is unknown.
    """
    data = options.data
    if data.cases is None:
        return Split([], [])
    cases = read_cases(Path(data.root) / data.cases, Path(data.root))
    validation, test = select(cases, options.validation), select(cases, options.test)
    atlas = None if data.atlas is None else select(cases, [data.atlas])[0]
    rest = [case for case in cases if case not in validation and case not in test]
    training = choose_pairs(rest, data.pairs, atlas)
    judged = choose_pairs(validation, data.pairs, atlas)
    if not training:
        raise OptionError(f"“{data.cases}” has no pairs left to train on.")
    if validation and not judged:
        raise OptionError("The cases under “validation” make no pair.")
    return Split(training, some_pairs(judged, data.validation_pairs))


def some_pairs(pairs: list[Pair], count: Optional[int]) -> list[Pair]:
    """So many of the pairs, at random but always the same ones; all without a count."""
    if count is None or count >= len(pairs):
        return pairs
    chosen = np.random.default_rng(0).choice(len(pairs), count, replace=False)
    return [pairs[n] for n in sorted(chosen.tolist())]


def training_items(options: TrainingOptions, pairs: Sequence[Pair], multiple: int, start_draws: int) -> Dataset[Item]:
    """What is drawn from: pairs of the cases, or synthetic ones.

    Raises OptionError if synthetic pairs want labels that the cases lack.
    """
    drawn = TrainingDraws(pairs, options, multiple, start_draws) if pairs else None
    synthetic = options.data.synthetic
    if synthetic is None:
        assert drawn is not None
        return drawn
    if not synthetic.from_labels:
        return SyntheticPairs(synthetic, options.seed, multiple)
    if drawn is None or not drawn.labels:
        raise OptionError("“data.synthetic.from_labels” needs “weights.labels” above 0.")
    return SyntheticPairs(synthetic, options.seed, multiple, drawn)


def validation_items(options: TrainingOptions, pairs: Sequence[Pair], multiple: int) -> Dataset[Item]:
    """Pairs to judge by whatever they have; synthetic ones, others than those of the training, without cases."""
    synthetic = options.data.synthetic
    if synthetic is not None and not pairs:
        count = options.data.validation_pairs or SYNTHETIC_VALIDATION_PAIRS
        return SyntheticPairs(synthetic, options.seed + 1, multiple, length=count)
    assert options.spacing is not None  # with cases there is one, see TrainingOptions
    return PairDataset(pairs, options.spacing, PairReader.of(options, multiple), labels=True, landmarks=True)


SYNTHETIC_VALIDATION_PAIRS = 8
