"""``index.html`` of a study: all pairs on one page, in step with its table and its marks."""

from __future__ import annotations

import csv
import time
from contextlib import suppress
from pathlib import Path
from typing import Optional

from ..engine.errors import OutputError
from ..report.wall import wall_page
from .ledger import mark_table, marked
from .lock import Lock, StudyInUseError
from .marks import read_marks
from .study import TABLE, WALL

_SHARE = 0.02


class Wall:
    """Writes the page of a study that is under way, now and then.

    Parameters
    ----------
    study : Path
        Its folder.
    total : int
        How many pairs there will be.
    """

    def __init__(self, study: Path, total: int) -> None:
        self._study, self._total = study, total
        self._next = 0.0

    def keep_up(self) -> None:
        """Write it if the last time is long enough ago for it to take a fiftieth of the time."""
        if time.monotonic() >= self._next:
            self.write()

    def write(self) -> None:
        """Write it now; OutputError if that cannot be."""
        begun = time.monotonic()
        write_wall(self._study, self._total)
        ended = time.monotonic()
        self._next = ended + (ended - begun) / _SHARE


def write_wall(study: Path, total: Optional[int] = None) -> None:
    """Write the page of a study in one step; nothing without a table.

    Parameters
    ----------
    study : Path
        Its folder.
    total : int, optional
        How many pairs there will be; as many as there are without it.

    Raises
    ------
    OutputError
        It cannot be written.
    UnreadableFileError
        The marks cannot be read.
    """
    marks = read_marks(study)
    new = study / f".{WALL}.new"
    try:
        with (study / TABLE).open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = list(marked(csv.DictReader(file), marks))
        new.write_text(wall_page(study, rows, total), encoding="utf-8")
        new.replace(study / WALL)
    except FileNotFoundError:
        return
    except OSError as error:
        new.unlink(missing_ok=True)
        raise OutputError(
            f"The page cannot be written to {study}: {(error.strerror or str(error)).lower()}."
        ) from error


def settle_marks(study: Path) -> None:
    """Bring table and page in step with the marks; a command that works on the study does so itself.

    Raises
    ------
    OutputError
        They cannot be written.
    UnreadableFileError
        The marks cannot be read.
    """
    with suppress(StudyInUseError), Lock(study):
        mark_table(study / TABLE, read_marks(study))
        write_wall(study)
