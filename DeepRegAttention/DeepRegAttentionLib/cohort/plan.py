"""From images to pairs: to an atlas, within each subject, or each with each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations, permutations
from pathlib import Path
from typing import Optional

from ..dataset import ImageFiles
from ..engine.errors import OptionError, suggestion
from ..terms.inputs import Inputs
from .pairs import Pair, folder_name, with_unique_names


def to_atlas(images: Sequence[ImageFiles], atlas: ImageFiles) -> list[Pair]:
    """Every image moved onto the atlas, which may be one of them."""
    return with_unique_names(pair_of(atlas, moving) for moving in images if moving.image != atlas.image)


def within_groups(images: Sequence[ImageFiles], both_ways: bool = False) -> list[Pair]:
    """The images of each group, such as the visits of a subject, moved onto the earlier ones of their group."""
    groups: dict[str, list[ImageFiles]] = {}
    for image in images:
        groups.setdefault(image.group, []).append(image)
    return with_unique_names(pair for members in groups.values() for pair in _each_with_each(members, both_ways))


def all_pairs(images: Sequence[ImageFiles], both_ways: bool = False) -> list[Pair]:
    """Every image moved onto those before it; with `both_ways` also onto those behind it."""
    return with_unique_names(_each_with_each(images, both_ways))


def _each_with_each(images: Sequence[ImageFiles], both_ways: bool) -> Iterator[Pair]:
    chosen: Iterable[tuple[ImageFiles, ImageFiles]] = (permutations if both_ways else combinations)(images, 2)
    return (pair_of(fixed, moving) for fixed, moving in chosen)


def pair_of(fixed: ImageFiles, moving: ImageFiles) -> Pair:
    """The registration of one image to another, with what both have of label maps, masks and landmarks."""
    marks = fixed.landmarks is not None and moving.landmarks is not None
    inputs = Inputs(
        fixed=_path(fixed.image),
        moving=_path(moving.image),
        fixed_mask=_path(fixed.mask),
        moving_mask=_path(moving.mask),
        fixed_landmarks=_path(fixed.landmarks) if marks else None,
        moving_landmarks=_path(moving.landmarks) if marks else None,
        labels=_path(moving.labels),
        fixed_labels=_path(fixed.labels) if moving.labels else None,
    )
    return Pair(folder_name(f"{moving.name}_to_{fixed.name}"), inputs, moving.group)


def _path(path: Optional[Path]) -> Optional[str]:
    return None if path is None else str(path.absolute())


def find_atlas(
    named: str, images: Sequence[ImageFiles], labels: Optional[Path] = None, mask: Optional[Path] = None
) -> ImageFiles:
    """The atlas: one of the images by its name, or a file with its label map and mask.

    Raises
    ------
    OptionError
        It is neither, or a label map or a mask is given for an image that has its own.
    """
    known = {image.name: image for image in images}
    if named in known:
        if labels or mask:
            raise OptionError(f"“{named}” is one of the images and has its own label map and mask.")
        return known[named]
    path = Path(named)
    if not path.exists():
        raise OptionError(f"There is no file and no image “{named}” to register to{suggestion(named, known)}.")
    own = next((image for image in images if image.image.absolute() == path.absolute()), None)
    name = own.name if own else path.name.split(".")[0]
    return replace(
        own or ImageFiles(name, path.absolute()),
        labels=labels or (own.labels if own else None),
        mask=mask or (own.mask if own else None),
    )
