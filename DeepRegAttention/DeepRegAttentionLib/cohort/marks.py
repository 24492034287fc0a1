"""What people say of pairs when they look at them: good or bad, and a comment; ``marks.csv`` in the study."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..engine.errors import OptionError, OutputError, UnreadableFileError

MARKS = "marks.csv"
GOOD, BAD = "good", "bad"
COLUMNS = ("mark", "comment")
"""What the table of a cohort has of it."""

LONGEST_COMMENT = 2000


@dataclass(frozen=True)
class Mark:
    """What was said of one pair.

    Attributes
    ----------
    mark : {"", "good", "bad"}
        Empty if only a comment was made.
    comment : str
        In any words, ``LONGEST_COMMENT`` characters at most.

    Raises
    ------
    OptionError
        It is none of them, or too long.
    """

    mark: str = ""
    comment: str = ""

    def __post_init__(self) -> None:
        if self.mark not in ("", GOOD, BAD):
            raise OptionError(f"A pair can be marked good or bad; “{self.mark}” is neither.")
        if len(self.comment) > LONGEST_COMMENT:
            raise OptionError(f"A comment can have {LONGEST_COMMENT} characters; this one has {len(self.comment)}.")

    @property
    def cells(self) -> dict[str, str]:
        """By column of the table."""
        return {"mark": self.mark, "comment": self.comment}


NO_MARK = Mark()


def read_marks(study: Path) -> dict[str, Mark]:
    """What was said of the pairs of a study, by name.

    Raises UnreadableFileError if the file is there and cannot be read.
    """
    path = study / MARKS
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return {row["name"]: Mark(row["mark"], row["comment"]) for row in csv.DictReader(file)}
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, TypeError, OptionError) as error:
        raise UnreadableFileError(f"The marks in {path} cannot be read: mend the file or move it away.") from error


def save_mark(study: Path, name: str, mark: Mark) -> None:
    """Say something of a pair, in place of what was said before; nothing at all takes it back.

    The file is replaced in one step.

    Raises
    ------
    UnreadableFileError
        What was said before cannot be read; it stays as it is.
    OutputError
        The file cannot be written.
    """
    marks = read_marks(study)
    marks.pop(name, None)
    if mark != NO_MARK:
        marks[name] = mark
    _write(study / MARKS, marks)


def _write(path: Path, marks: Mapping[str, Mark]) -> None:
    new = path.with_name(f".{path.name}.new")
    try:
        with new.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ("name", *COLUMNS))
            writer.writeheader()
            writer.writerows({"name": name, **mark.cells} for name, mark in sorted(marks.items()))
        new.replace(path)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise OutputError(
            f"The marks cannot be written to {path}: {(error.strerror or str(error)).lower()}."
        ) from error
