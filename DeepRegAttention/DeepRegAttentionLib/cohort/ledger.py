"""``cohort.csv``: a row for each pair that has ended, with every measure; true at every moment."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Callable, Optional, TextIO, Union

from ..engine.errors import OutputError, UnreadableFileError
from .marks import COLUMNS, NO_MARK, Mark
from .study import TABLE

Cell = Union[str, float]
Row = dict[str, str]
Order = Callable[[Iterable[Row]], Iterable[Row]]

ABOUT = ("name", "group", "state", "verdict", "sentence", *COLUMNS, "fixed", "moving", "folder", "model")
"""The first columns; measures follow."""


def read_rows(folder: Path) -> list[Row]:
    """The rows of a study's table; none if there is no table yet.

    Raises UnreadableFileError if it cannot be read, or is no such table.
    """
    table = folder / TABLE
    try:
        with table.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            reader = csv.DictReader(file, restval="")
            columns, rows = set(reader.fieldnames or ()), list(reader)
    except FileNotFoundError:
        return []
    except (OSError, csv.Error) as error:
        raise UnreadableFileError(f"The table {table} cannot be read: {error}.") from error
    if not set(ABOUT) <= columns:
        raise UnreadableFileError(f"{table} is not the table of a study.")
    return rows


class Ledger:
    """Writes the table row by row: a row is one write at its end, so none is ever there in part.

    Until :meth:`publish` an earlier table stays as it is. A row with a measure that none before had makes the table
    be written anew with that column; whatever is written anew replaces the file in one step. No row is kept in memory
    before :meth:`finish`.

    Parameters
    ----------
    path : Path
        Of the table.
    partial : Path
        A folder on the same disk for what is not finished.

    Raises
    ------
    OutputError
        It cannot be written, here or by any method.
    """

    def __init__(self, path: Path, partial: Path) -> None:
        self._path, self._draft = path, partial / path.name
        self._columns = list(ABOUT)
        self._at = self._draft
        self._file: Optional[TextIO] = None
        with self._writable():
            self._file = self._draft.open("w", newline="", encoding="utf-8", errors="surrogateescape")
            csv.writer(self._file).writerow(self._columns)
            self._file.flush()

    def append(self, row: Mapping[str, Cell]) -> None:
        """Add the row of a pair."""
        new = [column for column in row if column not in self._columns]
        if new:
            self._columns += new
            self._rewrite()
        assert self._file is not None
        before = os.fstat(self._file.fileno()).st_size
        try:
            csv.writer(self._file).writerow([_text(row.get(column, "")) for column in self._columns])
            self._file.flush()
        except OSError as error:
            # What is left of it in the buffer must not be written later.
            self._reopen(before)
            raise self._cannot_be_written(error) from error

    def publish(self) -> None:
        """Put the table in place of an earlier one; rows that follow are added to it there."""
        with self._writable():
            self._draft.replace(self._path)
        self._at = self._path

    def finish(self, names: Sequence[str], marks: Mapping[str, Mark]) -> None:
        """Put the rows into the order of these names, with what people said of the pairs by now."""
        place = {name: number for number, name in enumerate(names)}
        self._rewrite(lambda rows: sorted(marked(rows, marks), key=lambda row: place.get(row["name"], len(place))))
        self.close()

    def close(self) -> None:
        """Nothing is added any more."""
        if self._file is not None:
            self._file.close()

    def _rewrite(self, order: Order = lambda rows: rows) -> None:
        """All rows again, with the columns that there are now."""
        self.close()
        new = self._draft.with_suffix(".new")
        with self._writable():
            with self._at.open(newline="", encoding="utf-8", errors="surrogateescape") as old:
                _copy(csv.DictReader(old), new, self._columns, order)
            new.replace(self._at)
            self._file = self._at.open("a", newline="", encoding="utf-8", errors="surrogateescape")

    def _reopen(self, size: int) -> None:
        with suppress(OSError):
            self.close()
        os.truncate(self._at, size)
        self._file = self._at.open("a", newline="", encoding="utf-8", errors="surrogateescape")

    def _writable(self) -> _Writable:
        return _Writable(self)

    def _cannot_be_written(self, error: OSError) -> OutputError:
        return OutputError(f"The table {self._path} cannot be written: {(error.strerror or str(error)).lower()}.")


class _Writable:
    """Turns what the system says in a block into the ledger's error."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: Optional[BaseException], trace: object) -> None:
        if isinstance(error, OSError):
            raise self._ledger._cannot_be_written(error) from error


def mark_table(path: Path, marks: Mapping[str, Mark]) -> None:
    """Have a table, to which nobody is adding, say what people said of the pairs; it is replaced in one step.

    Raises OutputError if it cannot be written.
    """
    new = path.with_name(f".{path.name}.new")
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as old:
            reader = csv.DictReader(old)
            columns = dict.fromkeys([*(reader.fieldnames or ABOUT), *COLUMNS])
            _copy(reader, new, list(columns), lambda rows: marked(rows, marks))
        new.replace(path)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise OutputError(f"The table {path} cannot be written: {(error.strerror or str(error)).lower()}.") from error


def marked(rows: Iterable[Row], marks: Mapping[str, Mark]) -> Iterator[Row]:
    """Rows of the table with what people said of their pairs."""
    return ({**row, **marks.get(row["name"], NO_MARK).cells} for row in rows)


def _copy(rows: Iterable[Row], path: Path, columns: Sequence[str], order: Order) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(order(rows))


def _text(cell: Cell) -> str:
    return f"{cell:.6g}" if isinstance(cell, float) else str(cell)
