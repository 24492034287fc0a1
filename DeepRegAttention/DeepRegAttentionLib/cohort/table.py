"""The table of a cohort: a row a pair, a column an input."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Optional

from ..engine.errors import OptionError, UnreadableFileError, suggestion
from ..terms.inputs import INPUTS, REQUIRED, Inputs
from .pairs import Pair, folder_name, repeated_name, with_unique_names

COLUMNS = ("name", "group", *INPUTS)
"""What a table of pairs can have; only the two images are needed."""

Row = Mapping[str, Optional[str]]


def is_table_of_pairs(table: Path) -> bool:
    """Whether a table has a column for fixed and one for moving images, and is not one of single images."""
    return set(REQUIRED) <= set(_read(table)[0])


def read_pairs(table: Path) -> list[Pair]:
    """The pairs of a table.

    Parameters
    ----------
    table : Path
        A ``.csv`` file with the columns ``fixed`` and ``moving`` and, as far as there are, the other inputs by the
        names that the options of ``register`` have, ``group`` and ``name``; an empty cell means that there is none.
        Relative paths start from its folder. Without a name, a pair is called by its files.

    Raises
    ------
    UnreadableFileError
        The table cannot be read or holds no pairs, or the images of its first row are missing: then it is the paths
        that are wrong. Files that are missing in other rows are found when their turn comes.
    OptionError
        The table has an unknown column, lacks one, or has two pairs of one name.
    """
    columns, rows = _read(table)
    _require_columns(columns, table)
    if not rows:
        raise UnreadableFileError(f"The table {table} holds no pairs.")
    root = table.absolute().parent
    pairs = [_pair(row, root, f"row {number} of {table}") for number, row in enumerate(rows, start=2)]
    _require_first(pairs[0], table)
    if "name" not in columns:
        pairs = with_unique_names(pairs)
    if twice := repeated_name(pairs):
        raise OptionError(f"The table {table} holds more than one pair “{twice}”.")
    return pairs


def _read(table: Path) -> tuple[list[str], list[Row]]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            rows: list[Row] = list(reader)
            return [column.strip() for column in reader.fieldnames or ()], rows
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UnreadableFileError(f"The table {table} cannot be read: {error}.") from error


def _require_columns(columns: Sequence[str], table: Path) -> None:
    for column in columns:
        if column not in COLUMNS:
            hint = suggestion(column, COLUMNS)
            raise OptionError(f"The table {table} has the unknown column “{column}”{hint}.")
    for column in REQUIRED:
        if column not in columns:
            raise OptionError(f"The table {table} lacks the column “{column}”.")


def _pair(row: Row, root: Path, place: str) -> Pair:
    cells = {column: (row.get(column) or "").strip() for column in COLUMNS}
    files = {name: str(root / cells[name]) for name in INPUTS if cells[name]}
    for name in REQUIRED:
        if name not in files:
            raise OptionError(f"The {name} image is missing in {place}.")
    stems = (Path(files[role]).name.split(".")[0] for role in ("moving", "fixed"))
    return Pair(folder_name(cells["name"] or "_to_".join(stems)), Inputs(**files), cells["group"])


def _require_first(pair: Pair, table: Path) -> None:
    for path in (pair.inputs.fixed, pair.inputs.moving):
        if path is not None and not Path(path).exists():
            raise UnreadableFileError(f"{path} does not exist; row 2 of {table} names it.")
