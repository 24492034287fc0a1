"""Pairs of images for training, seen exactly as a registration would see them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..engine.errors import UnreadableFileError
from ..engine.geometry import Grid, points_to_voxels, resample, to_tensor, working_grid
from ..engine.images import check_image, read_image
from ..engine.intensity import IntensityRecipe, normalise
from ..engine.landmarks import read_landmarks, require_pairs, transform_landmarks

Pair = Tuple["Case", "Case"]


@dataclass(frozen=True)
class Case:
    """One subject: its image and, where there are, its label map and its landmarks."""

    name: str
    image: Path
    labels: Optional[Path]
    landmarks: Optional[Path] = None


def find_cases(folder: Path) -> List[Case]:
    """The cases of a folder with ``images/`` and optionally ``labels/`` and ``landmarks/``, by name."""
    images = sorted((folder / "images").glob("*"))
    if not images:
        raise UnreadableFileError(f"{folder / 'images'} holds no images.")
    cases = []
    for image in images:
        name, labels = image.name.split(".")[0], folder / "labels" / image.name
        landmarks = [folder / "landmarks" / f"{name}{ending}" for ending in _LANDMARK_ENDINGS]
        found = next((path for path in landmarks if path.exists()), None)
        cases.append(Case(name, image, labels if labels.exists() else None, found))
    return cases


_LANDMARK_ENDINGS = (".mrk.json", ".fcsv", ".txt", ".csv")


def all_pairs(cases: Sequence[Case]) -> List[Pair]:
    """Every ordered pair of different cases."""
    return [(fixed, moving) for fixed in cases for moving in cases if fixed is not moving]


class PairDataset(Dataset[Dict[str, Tensor]]):
    """Fixed and moving image, and label maps and landmarks if all cases have them, on the fixed working grid.

    Each item holds ``fixed`` and ``moving`` ``(1, K, J, I)`` in 0..1; if asked for, ``fixed_labels`` and
    ``moving_labels`` (same shape, integers), and ``fixed_landmarks`` and ``moving_landmarks`` ``(P, 3)`` in voxels
    (k, j, i), with ``spacing`` in mm. Images are read once and kept normalised in memory.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        spacing: float,
        multiple: int,
        recipe: IntensityRecipe,
        labels: bool,
        landmarks: bool = False,
    ) -> None:
        self.pairs = list(pairs)
        self.spacing = spacing
        self.multiple = multiple
        self.labels = labels and all(case.labels for pair in pairs for case in pair)
        self.landmarks = landmarks and all(case.landmarks for pair in pairs for case in pair)
        self._image = lru_cache(maxsize=None)(lambda path: _read_normalised(path, recipe))

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> Dict[str, Tensor]:
        """One pair."""
        fixed, moving = self.pairs[index]
        fixed_image, moving_image = self._image(fixed.image), self._image(moving.image)
        grid = working_grid(fixed_image, self.spacing, self.multiple)
        offset = Grid.of(moving_image).centre - Grid.of(fixed_image).centre
        centre = sitk.TranslationTransform(3, offset.tolist())
        item = {
            "fixed": to_tensor(resample(fixed_image, grid))[0],
            "moving": to_tensor(resample(moving_image, grid, centre))[0],
        }
        if self.labels:
            item["fixed_labels"] = _labels(fixed, grid, None)
            item["moving_labels"] = _labels(moving, grid, centre)
        if self.landmarks:
            item.update(_landmarks(fixed, moving, grid, centre))
        return item


def _read_normalised(path: Path, recipe: IntensityRecipe) -> sitk.Image:
    image = check_image(read_image(path), path.name)
    values = normalise(sitk.GetArrayFromImage(image), recipe)
    return Grid.of(image).place(sitk.GetImageFromArray(values))


def _labels(case: Case, grid: Grid, transform: Optional[sitk.Transform]) -> Tensor:
    assert case.labels is not None
    image = resample(read_image(case.labels), grid, transform, nearest=True)
    return torch.from_numpy(sitk.GetArrayFromImage(image).astype(np.int16))[None]


def _landmarks(fixed: Case, moving: Case, grid: Grid, transform: sitk.Transform) -> Dict[str, Tensor]:
    assert fixed.landmarks is not None
    assert moving.landmarks is not None
    start, goal = require_pairs(read_landmarks(fixed.landmarks), read_landmarks(moving.landmarks))
    # The moving points are carried to where the centred moving image shows them.
    goal = transform_landmarks(goal, transform.GetInverse())
    return {
        "fixed_landmarks": points_to_voxels(start.points, grid),
        "moving_landmarks": points_to_voxels(goal.points, grid),
        "spacing": torch.tensor(float(grid.spacing[0])),
    }
