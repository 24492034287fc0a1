"""The cases of a data set, from a folder or a table, and which pairs they form."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Optional

from .engine.errors import OptionError, UnreadableFileError, suggestion

LANDMARK_ENDINGS = (".mrk.json", ".fcsv", ".txt", ".csv")
PAIRINGS = ("all", "within-group", "to-atlas")


@dataclass(frozen=True)
class ImageFiles:
    """One image and, where there are, its label map, its landmarks, its mask and the group that it belongs to.

    A group is what is registered with itself alone, such as the frames of one patient.
    """

    name: str
    image: Path
    labels: Optional[Path] = None
    landmarks: Optional[Path] = None
    mask: Optional[Path] = None
    group: str = ""


Pair = tuple[ImageFiles, ImageFiles]
COLUMNS = tuple(entry.name for entry in fields(ImageFiles))


def read_cases(where: Path, root: Optional[Path] = None) -> list[ImageFiles]:
    """The cases of a folder (:func:`find_cases`) or of a table.

    Parameters
    ----------
    where : Path
        A folder, or a ``.csv`` file with the columns ``name`` and ``image`` and, as far as there are,
        ``labels``, ``landmarks``, ``mask`` and ``group``; an empty cell means that there is none.
    root : Path, optional
        What relative paths in the table start from; the folder of the table without it.

    Raises
    ------
    UnreadableFileError
        The folder or the table is missing or holds no cases, or a file that the table names is missing.
    OptionError
        The table has an unknown column, lacks one, or has two cases of one name.
    """
    if where.suffix.lower() != ".csv":
        return find_cases(where)
    try:
        with where.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            rows, columns = list(reader), list(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UnreadableFileError(f"The table {where} cannot be read: {error}.") from error
    _require_columns(columns, where)
    cases = [
        _case_of(row, where.parent if root is None else root, f"row {n + 2} of {where}") for n, row in enumerate(rows)
    ]
    if not cases:
        raise UnreadableFileError(f"The table {where} holds no cases.")
    _require_unique([case.name for case in cases], where)
    return cases


def _require_columns(columns: Sequence[str], where: Path) -> None:
    for column in columns:
        if column not in COLUMNS:
            hint = suggestion(column, COLUMNS)
            raise OptionError(f"The table {where} has the unknown column “{column}”{hint}.")
    missing = [column for column in ("name", "image") if column not in columns]
    if missing:
        raise OptionError(f"The table {where} lacks the column “{missing[0]}”.")


def _case_of(row: Mapping[str, Optional[str]], root: Path, place: str) -> ImageFiles:
    values: dict[str, str] = {column: (row.get(column) or "").strip() for column in COLUMNS}
    if not values["name"] or not values["image"]:
        raise OptionError(f"A name and an image are needed in {place}.")
    files = {column: root / values[column] for column in ("image", "labels", "landmarks", "mask") if values[column]}
    for path in files.values():
        if not path.exists():
            raise UnreadableFileError(f"{path} does not exist; {place} names it.")
    return ImageFiles(values["name"], group=values["group"], **files)


def find_cases(folder: Path) -> list[ImageFiles]:
    """The cases of a folder with ``images/`` and optionally ``labels/``, ``masks/`` and ``landmarks/``, by name.

    Label maps and masks have the name of their image, landmarks the same without its ending; hidden files do not
    count. Raises UnreadableFileError if there are no images, OptionError if two have one name.
    """
    images = sorted(path for path in (folder / "images").glob("*") if not path.name.startswith("."))
    if not images:
        raise UnreadableFileError(f"{folder / 'images'} holds no images.")
    _require_unique([_name(image) for image in images], folder / "images")
    return [_case_in(folder, image) for image in images]


def _name(image: Path) -> str:
    return image.name.split(".")[0]


def _case_in(folder: Path, image: Path) -> ImageFiles:
    def there(path: Path) -> Optional[Path]:
        return path if path.exists() else None

    marks = [folder / "landmarks" / f"{_name(image)}{ending}" for ending in LANDMARK_ENDINGS]
    found = next((path for path in marks if path.exists()), None)
    return ImageFiles(
        _name(image), image, there(folder / "labels" / image.name), found, there(folder / "masks" / image.name)
    )


def _require_unique(names: Sequence[str], where: Path) -> None:
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise OptionError(f"{where} holds more than one case “{twice[0]}”.")


def all_pairs(cases: Sequence[ImageFiles]) -> list[Pair]:
    """Every ordered pair of different cases."""
    return [(fixed, moving) for fixed in cases for moving in cases if fixed is not moving]


def choose_pairs(cases: Sequence[ImageFiles], pairing: str = "all", atlas: Optional[ImageFiles] = None) -> list[Pair]:
    """The ordered pairs (fixed, moving) in which the cases of one part of a data set are registered.

    Parameters
    ----------
    cases : sequence of ImageFiles
        Of that part.
    pairing : {"all", "within-group", "to-atlas"}
        Every pair, those of one group, or every case to the atlas.
    atlas : ImageFiles, optional
        Fixed in every pair of the last kind; it need not be among the cases.
    """
    if pairing == "to-atlas" and atlas is not None:
        return [(atlas, moving) for moving in cases if moving is not atlas]
    if pairing == "within-group":
        return [(fixed, moving) for fixed, moving in all_pairs(cases) if fixed.group == moving.group]
    return all_pairs(cases)


def select(cases: Sequence[ImageFiles], names: Sequence[str]) -> list[ImageFiles]:
    """The cases that are named, by themselves or by their group.

    Raises OptionError if a name fits none.
    """
    known = {case.name for case in cases} | {case.group for case in cases if case.group}
    for name in names:
        if name not in known:
            raise OptionError(f"No case or group of the data is called “{name}”{suggestion(name, known)}.")
    return [case for case in cases if case.name in names or case.group in names]
