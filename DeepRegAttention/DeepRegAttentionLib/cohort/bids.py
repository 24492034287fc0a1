"""The images of a BIDS folder, raw or derived, with their label maps and masks.

https://bids-specification.readthedocs.io: names are entities, such as ``sub-01`` and ``ses-02``, and a suffix.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from ..dataset import ImageFiles
from ..engine.errors import OptionError, UnreadableFileError

ENDINGS = (".nii.gz", ".nii")
DEFAULT_SUFFIX = "T1w"

_LABELS, _MASK = "dseg", "mask"
_NOT_IMAGES = (_LABELS, _MASK, "probseg")
# What a derived file has in its name beside the entities of what it was made of.
_DERIVED = ("desc", "space", "seg", "res", "den", "label", "atlas")


@dataclass(frozen=True)
class BidsFile:
    """One file, and what its name says."""

    path: Path
    entities: Mapping[str, str]
    suffix: str

    @property
    def stem(self) -> str:
        """The name without the ending."""
        return self.path.name.split(".")[0]

    @property
    def origin(self) -> tuple[object, ...]:
        """What it has in common with what it was made of, and in which space it lies."""
        own = tuple(sorted(item for item in self.entities.items() if item[0] not in _DERIVED))
        return (*own, self.entities.get("space"))


def is_bids(folder: Path) -> bool:
    """Whether a folder has subfolders of subjects."""
    return any(path.is_dir() for path in folder.glob("sub-*"))


def find_bids_images(folder: Path, pattern: Optional[str] = None) -> list[ImageFiles]:
    """The images of a BIDS folder, by subject and session.

    Parameters
    ----------
    folder : Path
        Holds ``sub-01/[ses-01/]anat/sub-01_[ses-01_]T1w.nii.gz``, ... Label maps (``dseg``) and masks (``mask``) of
        the same entities and space are taken from the same folders and from ``derivatives``.
    pattern : str, optional
        Which files, of their path below the folder or of their name, such as ``*_desc-preproc_T1w.nii.gz``; by default
        the T1-weighted images in ``anat``, or whatever there is if it is of one kind.

    Raises
    ------
    UnreadableFileError
        There are no images, or none that the pattern fits.
    OptionError
        Without a pattern, there are images of several kinds and none is T1-weighted.
    """
    files = [_parsed(path) for path in _nifti(folder.glob("sub-*/**/*"))]
    images = _matching(files, folder, pattern) if pattern else _anatomical(files, folder)
    derived = [*files, *(_parsed(path) for path in _nifti(folder.glob("derivatives/*/sub-*/**/*")))]
    labels, masks = _by_origin(derived, _LABELS), _by_origin(derived, _MASK)
    return [
        ImageFiles(
            image.stem,
            image.path,
            labels.get(image.origin),
            mask=masks.get(image.origin),
            group=image.entities.get("sub", ""),
        )
        for image in images
    ]


def _nifti(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path in paths if path.name.endswith(ENDINGS) and not path.name.startswith("."))


def _parsed(path: Path) -> BidsFile:
    *entities, suffix = path.name.split(".")[0].split("_")
    pairs = (entity.partition("-") for entity in entities)
    return BidsFile(path, {key: value for key, _, value in pairs}, suffix)


def _matching(files: list[BidsFile], folder: Path, pattern: str) -> list[BidsFile]:
    def fits(path: Path) -> bool:
        return any(fnmatch.fnmatch(name, pattern) for name in (path.name, path.relative_to(folder).as_posix()))

    found = [file for file in files if fits(file.path)]
    if not found:
        raise UnreadableFileError(f"No image in {folder} is called like “{pattern}”.")
    return found


def _anatomical(files: list[BidsFile], folder: Path) -> list[BidsFile]:
    found = [file for file in files if file.path.parent.name == "anat" and file.suffix not in _NOT_IMAGES]
    kinds = sorted({file.suffix for file in found})
    if not found:
        raise UnreadableFileError(f"{folder} holds no images such as sub-01/anat/sub-01_T1w.nii.gz.")
    if DEFAULT_SUFFIX not in kinds and len(kinds) > 1:
        listed = ", ".join(kinds)
        example = f"“--images *_{kinds[0]}*”"
        raise OptionError(f"{folder} holds images of several kinds ({listed}); say which, as in {example}.")
    kind = DEFAULT_SUFFIX if DEFAULT_SUFFIX in kinds else kinds[0]
    return [file for file in found if file.suffix == kind]


def _by_origin(files: list[BidsFile], suffix: str) -> dict[tuple[object, ...], Path]:
    """Files of one suffix by what they belong to; of several for one image, that with the shortest name."""
    found = sorted((file for file in files if file.suffix == suffix), key=lambda file: len(file.path.name))
    return {file.origin: file.path for file in reversed(found)}
