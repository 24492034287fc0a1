"""The pairs of a source: those of a table, or those that the images of a table or a folder form."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

from ..dataset import ImageFiles, read_cases
from ..engine.errors import OptionError
from . import plan
from .bids import find_bids_images, is_bids
from .pairs import Pair
from .table import is_table_of_pairs, read_pairs


def planned(
    source: Path,
    images: Optional[str],
    atlas: Optional[str],
    of_atlas: tuple[Optional[Path], Optional[Path]],
    within_subject: bool,
    all_pairs: bool,
    both_ways: bool,
) -> list[Pair]:
    """The pairs of a table, or those that the images of a table or folder form.

    Raises
    ------
    OptionError
        It is not said, or said twice, how images form pairs; or there are none.
    ImageError
        The table or folder cannot be read.
    """
    ways = [name for name, wanted in _ways(atlas, within_subject, all_pairs).items() if wanted]
    if says_pairs(source):
        if ways:
            raise OptionError(f"The table {source} says which pairs there are; {ways[0]} is for images alone.")
        return read_pairs(source)
    if len(ways) != 1:
        raise OptionError("Images need one of --to-atlas, --within-subject and --all-pairs to form pairs.")
    found = find_images(source, images)
    if atlas is not None:
        pairs = plan.to_atlas(found, plan.find_atlas(atlas, found, *of_atlas))
    else:
        pairs = (plan.within_groups if within_subject else plan.all_pairs)(found, both_ways)
    if not pairs:
        raise OptionError(f"The {len(found)} images of {source} form no pairs with {ways[0]}.")
    return pairs


def says_pairs(source: Path) -> bool:
    """Whether a source is a table of pairs, which leaves nothing to choose; UnreadableFileError if it is not there."""
    return source.suffix.lower() == ".csv" and is_table_of_pairs(source)


def _ways(atlas: Optional[str], within_subject: bool, all_pairs: bool) -> dict[str, bool]:
    return {"--to-atlas": atlas is not None, "--within-subject": within_subject, "--all-pairs": all_pairs}


def find_images(source: Path, pattern: Optional[str]) -> list[ImageFiles]:
    """The images of a table, a BIDS folder or one with ``images/``.

    Raises
    ------
    ImageError
        There are none, or the table cannot be read.
    OptionError
        The table or the pattern is not valid.
    """
    if source.is_dir() and is_bids(source):
        return find_bids_images(source, pattern)
    if pattern is not None:
        raise OptionError(f"--images chooses files of a BIDS folder; {source} is none.")
    return read_cases(source)
